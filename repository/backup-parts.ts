import { BackupError } from '../core/errors.ts';
import type { StoredObject } from '../stores/object-store.ts';
import type { Codec } from '../streams/codec.ts';
import {
  backupPrefix,
  basePrefix,
  isBackupId,
  looksLikePart,
  parsePartName,
  partName,
  quoted,
  type PartArea,
} from './layout.ts';
import type { Repository } from './repository.ts';

/** A tar of a base backup, as it is stored. */
export interface BackupPart {
  readonly key: string;
  readonly area: PartArea;
  /** Counts the parts of one area from 0. */
  readonly index: number;
  readonly codec: Codec;
  readonly sizeBytes: number;
}

/** Everything in a backup's folder. */
export interface BackupObjects {
  /** In the order of a restore: data first, then tablespaces by oid, each area by index. */
  readonly parts: readonly BackupPart[];
  /** Keys that are neither parts nor the record nor annotations; nobody restores or deletes them. */
  readonly foreign: readonly string[];
  /** Why the parts can't be trusted to be the backup: one named twice, one missing in the middle, one of a strange name. */
  readonly problems: readonly string[];
  /** A tar that is missing in the middle, where nothing else is wrong. */
  readonly notListed?: string;
}

const MAX_OBJECTS = 1_000_000;

/** Looks at all objects of a backup, whatever their state. @throws what the store throws */
export async function inspectBackup(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<BackupObjects> {
  const prefix = backupPrefix(r.server, backupId);
  const objects: StoredObject[] = [];
  for await (const object of r.store.list(prefix, { signal })) {
    objects.push(object);
    requireFewer(objects.length, r, prefix);
  }
  return objectsOf(objects, prefix.length);
}

/** All that lies in one folder of `base/`, and when. */
export interface BackupFolder extends BackupObjects {
  /** When the store received `backup.info`; absent when there is none. */
  readonly recordedAt?: Date;
  /** When the store received the newest object. */
  readonly touchedAt: Date;
  /** Of the parts. */
  readonly sizeBytes: number;
}

/**
 * All folders of backups and attempts, by id, from one listing of `base/`: for whoever needs them all.
 *
 * @throws what the store throws
 */
export async function inspectBackups(r: Repository, signal: AbortSignal): Promise<Map<string, BackupFolder>> {
  const prefix = basePrefix(r.server);
  const folders = new Map<string, StoredObject[]>();
  let count = 0;
  for await (const object of r.store.list(prefix, { signal })) {
    const id = object.key.slice(prefix.length, prefix.length + 15);
    if (!isBackupId(id) || object.key[prefix.length + 15] !== '/') continue;
    const objects = folders.get(id);
    if (objects) objects.push(object);
    else folders.set(id, [object]);
    requireFewer(++count, r, prefix);
  }
  const inspected = [...folders].map(([id, objects]): [string, BackupFolder] => {
    const found = objectsOf(objects, prefix.length + id.length + 1);
    const record = objects.find(({ key }) => key === `${prefix}${id}/backup.info`);
    return [
      id,
      {
        ...found,
        ...(record && { recordedAt: record.modifiedAt }),
        touchedAt: new Date(
          objects.reduce((newest, { modifiedAt }) => Math.max(newest, modifiedAt.getTime()), 0),
        ),
        sizeBytes: found.parts.reduce((sum, part) => sum + part.sizeBytes, 0),
      },
    ];
  });
  return new Map(inspected);
}

function requireFewer(count: number, r: Repository, prefix: string): void {
  if (count <= MAX_OBJECTS) return;
  throw new BackupError('format-invalid', `${r.store.url}/${prefix} holds more than ${MAX_OBJECTS} objects`);
}

function objectsOf(objects: readonly StoredObject[], prefixLength: number): BackupObjects {
  const parts: BackupPart[] = [];
  const foreign: string[] = [];
  const problems: string[] = [];
  for (const { key, sizeBytes } of objects) {
    const name = key.slice(prefixLength);
    const part = parsePartName(name);
    if (part) parts.push({ key, ...part, sizeBytes });
    else if (looksLikePart(name))
      problems.push(`${quoted(name)} is named like a tar of it, but no version wrote it`);
    else if (name !== 'backup.info' && !name.startsWith('annotations/')) foreign.push(key);
  }
  parts.sort(inOrderOfRestore);
  const sequence = sequenceProblems(parts, prefixLength);
  const all = [...problems, ...sequence.map(({ problem }) => problem)];
  const isOnlyMissing = problems.length === 0 && sequence.every(({ notListed }) => notListed !== undefined);
  const notListed = isOnlyMissing ? sequence[0]?.notListed : undefined;
  return { parts, foreign, problems: all, ...(notListed !== undefined && { notListed }) };
}

/**
 * The tars of a backup, in the order of a restore.
 *
 * @throws BackupError `object-damaged` when one is there twice, missing in the middle, or of a name no version wrote
 */
export async function listParts(r: Repository, backupId: string, signal: AbortSignal): Promise<BackupPart[]> {
  const { parts, problems, notListed } = await inspectBackup(r, backupId, signal);
  if (problems.length > 0) {
    throw new BackupError(
      'object-damaged',
      `backup ${backupId} is not as it was made: ${problems.join('; ')}`,
      {
        notListed,
        hint: 'choose another backup, or put its folder right by hand',
      },
    );
  }
  return [...parts];
}

function inOrderOfRestore(a: BackupPart, b: BackupPart): number {
  const rank = ({ area }: BackupPart) => (area === 'data' ? 0 : Number(area));
  return rank(a) - rank(b) || a.index - b.index || (a.key < b.key ? -1 : 1);
}

interface SequenceProblem {
  readonly problem: string;
  readonly notListed?: string;
}

function sequenceProblems(parts: readonly BackupPart[], prefixLength: number): SequenceProblem[] {
  const problems: SequenceProblem[] = [];
  let previous: BackupPart | undefined;
  for (const part of parts) {
    const name = (of: BackupPart) => quoted(of.key.slice(prefixLength));
    const expected = previous?.area === part.area ? previous.index + 1 : 0;
    if (part.index === expected - 1)
      problems.push({ problem: `${name(previous as BackupPart)} and ${name(part)} are the same part` });
    else if (part.index !== expected)
      problems.push({
        problem: `a part before ${name(part)} is missing`,
        notListed: partName(part.area, expected, part.codec),
      });
    previous = part;
  }
  return problems;
}
