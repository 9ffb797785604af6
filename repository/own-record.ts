import type { z } from 'zod';
import { BackupError, isBackupError } from '../core/errors.ts';
import { quoted } from './layout.ts';
import type { Repository } from './repository.ts';
import { readSmallText, utf8 } from './small-object.ts';

/**
 * A JSON record of ours. What a newer version added to it is passed over.
 *
 * @returns `undefined` when there is none
 * @throws BackupError `format-invalid` naming the field that no version of walkeep would write
 */
export async function readOwnRecord<T>(
  r: Repository,
  key: string,
  options: { schema: z.ZodType<T>; maxBytes: number; signal: AbortSignal },
): Promise<T | undefined> {
  const text = await readSmallText(r.store, key, options);
  if (text === undefined) return undefined;
  const parsed = options.schema.safeParse(parseJson(key, text));
  if (!parsed.success) throw unreadable(key, firstIssue(parsed.error));
  return parsed.data;
}

/** The bytes of a record of ours, checked as a reader would. @throws BackupError `format-invalid` */
export function ownRecordBytes<T>(key: string, record: T, schema: z.ZodType<T>): Uint8Array {
  const parsed = schema.safeParse(record);
  if (!parsed.success) {
    throw new BackupError('format-invalid', `${key} can not be written: ${firstIssue(parsed.error)}`);
  }
  return utf8(`${JSON.stringify(parsed.data, undefined, 1)}\n`);
}

/** Far more than any version wrote. What is deeper could be read, and would break whoever passes it on as JSON. */
const MAX_DEPTH = 100;

function parseJson(key: string, text: string): unknown {
  if (isDeep(text)) throw unreadable(key, `its values lie in each other more than ${MAX_DEPTH} deep`);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw unreadable(key, 'it is not JSON', cause);
  }
}

function isDeep(text: string): boolean {
  let depth = 0;
  let isInText = false;
  for (let at = 0; at < text.length; at += 1) {
    const mark = text[at];
    if (isInText) {
      if (mark === '\\') at += 1;
      else if (mark === '"') isInText = false;
    } else if (mark === '"') isInText = true;
    else if (mark === '[' || mark === '{') depth += 1;
    else if (mark === ']' || mark === '}') depth -= 1;
    if (depth > MAX_DEPTH) return true;
  }
  return false;
}

function unreadable(key: string, why: string, cause?: unknown): BackupError {
  return new BackupError('format-invalid', `${key} is not a record of walkeep: ${why}`, { cause });
}

function firstIssue({ issues }: z.ZodError): string {
  const [issue] = issues;
  return issue ? `${quoted(issue.path.join('.'))}: ${issue.message}` : 'it is of another shape';
}

/** What a record says, or `otherwise` where it is there and nobody can read it. What the store throws is thrown. */
export async function unlessUnreadable<Value, Other>(
  reading: Promise<Value>,
  otherwise: Other,
): Promise<Value | Other> {
  try {
    return await reading;
  } catch (error) {
    if (isBackupError(error, 'format-invalid', 'object-damaged')) return otherwise;
    throw error;
  }
}
