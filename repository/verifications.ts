import { z } from 'zod';
import { BackupError } from '../core/errors.ts';
import type { Verification } from '../core/verification.ts';
import { concurrently } from './concurrently.ts';
import { ownKey, quoted } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';
import { createSmallObject } from './small-object.ts';

const FOLDER = 'verifications';
const MAX_BYTES = 256 * 1024;
const MAX_VERIFICATIONS = 100_000;
const READS_AT_ONCE = 8;
/** A time first, so that the order of names is that of time. */
const ID = /^\d{8}T\d{6}(-[0-9A-Za-z]{1,16})?$/;

const amount = z.number().nonnegative();
const time = z.iso.datetime({ offset: true });
const text = z.string().max(4000);
const name = z.string().min(1).max(255);

const checkSchema = z.object({
  name: z.string().min(1).max(1000),
  result: z.enum(['passed', 'failed', 'skipped']),
  object: text.exactOptional(),
  detail: text.exactOptional(),
  seconds: amount.exactOptional(),
});

const verificationSchema: z.ZodType<Verification> = z.object({
  version: z.literal(1),
  id: z.string().regex(ID),
  name: name.exactOptional(),
  namespace: name,
  cluster: name,
  result: z.enum(['verified', 'damaged', 'not-tried']),
  startedAt: time,
  endedAt: time,
  host: z.string().max(255),
  instance: z.string().max(255),
  backupId: name.exactOptional(),
  backupName: name.exactOptional(),
  target: z.object({ kind: name, value: text.exactOptional() }),
  reachedLsn: name.exactOptional(),
  reachedTime: time.exactOptional(),
  timeline: z.number().int().positive().exactOptional(),
  rtoSeconds: amount.exactOptional(),
  fetchSeconds: amount.exactOptional(),
  replaySeconds: amount.exactOptional(),
  startSeconds: amount.exactOptional(),
  rpoSeconds: amount.exactOptional(),
  contentBytes: amount.exactOptional(),
  storedBytes: amount.exactOptional(),
  walSegments: amount.exactOptional(),
  postgresVersion: name.exactOptional(),
  walkeepVersion: z.string().max(255),
  checks: z.array(checkSchema).max(1000),
  error: text.exactOptional(),
  warnings: z.array(text).max(1000),
});

/** Whether `id` can name a verification. */
export function isVerificationId(id: string): boolean {
  return ID.test(id);
}

function verificationKey(r: Repository, id: string): string {
  if (!ID.test(id)) throw new BackupError('format-invalid', `not the id of a verification: ${quoted(id)}`);
  return ownKey(r.server, FOLDER, `${id}.json`);
}

/**
 * Writes evidence. It never changes: writing the same again succeeds.
 *
 * @throws BackupError `already-exists` when other evidence has this id; `format-invalid` for what could not be read again
 */
export async function writeVerification(
  r: Repository,
  verification: Verification,
  signal: AbortSignal,
): Promise<void> {
  const key = verificationKey(r, verification.id);
  const bytes = ownRecordBytes(key, verification, verificationSchema);
  if (bytes.length > MAX_BYTES) {
    throw new BackupError(
      'format-invalid',
      `${key} would have ${bytes.length} bytes, more than ${MAX_BYTES}`,
    );
  }
  await createSmallObject(r.store, key, bytes, { signal });
}

/** @returns `undefined` when there is none of this id @throws BackupError `format-invalid` | `object-damaged` */
export function readVerification(
  r: Repository,
  id: string,
  signal: AbortSignal,
): Promise<Verification | undefined> {
  const key = verificationKey(r, id);
  return readOwnRecord(r, key, { schema: verificationSchema, maxBytes: MAX_BYTES, signal });
}

export interface ListVerificationsOptions {
  /** Only the newest so many. */
  readonly limit?: number;
  /** Only those that began at or after it. */
  readonly since?: Date;
  /** Told of evidence that can't be read, which is then left out; without it that is thrown. */
  readonly onProblem?: (id: string, error: unknown) => void;
}

/** Evidence, newest first. @throws BackupError as `readVerification`; what the store throws */
export async function listVerifications(
  r: Repository,
  signal: AbortSignal,
  { limit, since, onProblem }: ListVerificationsOptions = {},
): Promise<Verification[]> {
  const prefix = `${ownKey(r.server, FOLDER)}/`;
  const ids: string[] = [];
  for await (const { key } of r.store.list(prefix, { signal })) {
    const id = key.slice(prefix.length, -'.json'.length);
    if (key.endsWith('.json') && ID.test(id)) ids.push(id);
    if (ids.length > MAX_VERIFICATIONS) {
      throw new BackupError(
        'format-invalid',
        `${r.url}/walkeep/${FOLDER} holds more than ${MAX_VERIFICATIONS}`,
      );
    }
  }
  const first = since?.toISOString().replaceAll(/[-:]/g, '').slice(0, 15);
  const wanted = ids
    .filter((id) => first === undefined || id >= first)
    .toSorted()
    .toReversed()
    .slice(0, limit ?? ids.length);
  const found = await concurrently(wanted, READS_AT_ONCE, async (id) => {
    try {
      return await readVerification(r, id, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!onProblem || !isUnreadable(error)) throw error;
      onProblem(id, error);
      return undefined;
    }
  });
  return found.filter((verification) => verification !== undefined);
}

function isUnreadable(error: unknown): boolean {
  return error instanceof BackupError && ['format-invalid', 'object-damaged'].includes(error.code);
}

/** When each backup was last proved by a restore, by its id. */
export function provenAt(verifications: readonly Verification[]): Map<string, Date> {
  const proven = new Map<string, Date>();
  for (const { result, backupId, endedAt } of verifications) {
    if (result !== 'verified' || backupId === undefined) continue;
    const at = new Date(endedAt);
    const before = proven.get(backupId);
    if (before === undefined || before < at) proven.set(backupId, at);
  }
  return proven;
}

/** The verification that succeeded last. */
export function newestVerified(verifications: readonly Verification[]): Verification | undefined {
  return verifications
    .filter(({ result }) => result === 'verified')
    .toSorted((a, b) => Date.parse(a.endedAt) - Date.parse(b.endedAt))
    .at(-1);
}
