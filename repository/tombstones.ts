import { z } from 'zod';
import { BackupError } from '../core/errors.ts';
import { formatLsn } from '../core/lsn.ts';
import type { BackupInfo } from './backup-info.ts';
import { isBackupId, ownKey, validateBackupId } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';

/** Why a backup may go, and what it was. It stays, as its gravestone, when the backup is gone. */
export interface Tombstone {
  readonly version: 1;
  readonly backupId: string;
  readonly reasons: readonly string[];
  /** Of the sweep that marked it. */
  readonly epoch: number;
  /** By the clock of the host that swept, for people; what counts is the store's time of the object. ISO 8601. */
  readonly markedAt: string;
  /** The grace period it was placed under, in ms; a backup has at least that long. Absent in those of older versions. */
  readonly graceMs?: number;
  readonly backup: MarkedBackup;
  readonly deletedAt?: string;
}

/** What a backup was, for whoever looks for it later. */
export interface MarkedBackup {
  readonly backupName?: string;
  readonly status?: string;
  readonly beginTime?: string;
  readonly endTime?: string;
  readonly beginWal?: string;
  readonly endWal?: string;
  readonly beginLsn?: string;
  readonly endLsn?: string;
  readonly timeline?: number;
  readonly systemId?: string;
  readonly version?: number;
  readonly sizeBytes?: number;
}

/** A tombstone as a listing shows it: all in the store's own time. */
export interface ListedTombstone {
  readonly backupId: string;
  /** When it was marked; absent for one whose mark somebody removed while it was being deleted. */
  readonly markedAt?: Date;
  /** Since when it is being deleted: from then on it is no backup any more. */
  readonly deletingSince?: Date;
}

const FOLDER = 'tombstones';
const GRAVES = 'deleted';
const MARK = '.json';
/** Its being there is what counts: readers learn from one listing which backups are going. */
const DELETING = '.deleting';
const MAX_TOMBSTONE_BYTES = 256 * 1024;
const MAX_TOMBSTONES = 100_000;

const shortText = z.string().max(255);
const tombstoneSchema: z.ZodType<Tombstone> = z.object({
  version: z.literal(1),
  backupId: z.string().refine(isBackupId, 'not a backup id'),
  reasons: z.array(z.string().max(1000)).max(100),
  epoch: z.number().int().nonnegative(),
  markedAt: z.iso.datetime({ offset: true }),
  graceMs: z.number().int().nonnegative().exactOptional(),
  backup: z.object({
    backupName: shortText.exactOptional(),
    status: shortText.exactOptional(),
    beginTime: shortText.exactOptional(),
    endTime: shortText.exactOptional(),
    beginWal: shortText.exactOptional(),
    endWal: shortText.exactOptional(),
    beginLsn: shortText.exactOptional(),
    endLsn: shortText.exactOptional(),
    timeline: z.number().int().exactOptional(),
    systemId: shortText.exactOptional(),
    version: z.number().int().exactOptional(),
    sizeBytes: z.number().int().nonnegative().exactOptional(),
  }),
  deletedAt: z.iso.datetime({ offset: true }).exactOptional(),
});

/** What is written down of a backup. */
export function markedBackup(info: BackupInfo, sizeBytes?: number): MarkedBackup {
  return {
    status: info.status,
    ...(info.backupName !== undefined && { backupName: info.backupName.slice(0, 255) }),
    ...(info.beginTime && { beginTime: info.beginTime.toISOString() }),
    ...(info.endTime && { endTime: info.endTime.toISOString() }),
    ...(info.beginWal !== undefined && { beginWal: info.beginWal }),
    ...(info.endWal !== undefined && { endWal: info.endWal }),
    ...(info.beginLsn !== undefined && { beginLsn: formatLsn(info.beginLsn) }),
    ...(info.endLsn !== undefined && { endLsn: formatLsn(info.endLsn) }),
    ...(info.timeline !== undefined && { timeline: info.timeline }),
    ...(info.systemId !== undefined && { systemId: info.systemId }),
    ...(info.version !== undefined && { version: info.version }),
    ...(sizeBytes !== undefined && { sizeBytes }),
  };
}

/**
 * Which backups are marked, and which are being deleted, by id: from the names of the objects alone.
 *
 * @throws what the store throws
 */
export async function listTombstones(
  r: Repository,
  signal: AbortSignal,
): Promise<Map<string, ListedTombstone>> {
  const prefix = `${ownKey(r.server, FOLDER)}/`;
  const tombstones = new Map<string, ListedTombstone>();
  for await (const { key, modifiedAt } of r.store.list(prefix, { signal })) {
    const name = key.slice(prefix.length);
    const backupId = name.slice(0, 15);
    const suffix = name.slice(15);
    if (!isBackupId(backupId) || (suffix !== MARK && suffix !== DELETING)) continue;
    const known = tombstones.get(backupId) ?? { backupId };
    const found = suffix === MARK ? { markedAt: modifiedAt } : { deletingSince: modifiedAt };
    tombstones.set(backupId, { ...known, ...found });
    if (tombstones.size > MAX_TOMBSTONES) {
      throw new BackupError(
        'format-invalid',
        `${r.url}/walkeep/tombstones holds more than ${MAX_TOMBSTONES}`,
      );
    }
  }
  return tombstones;
}

/** Marks a backup. A mark that is there stays as it is: its grace period began with it. */
export async function placeTombstone(
  r: Repository,
  tombstone: Tombstone,
  signal: AbortSignal,
): Promise<void> {
  const key = markKey(r, tombstone.backupId);
  if ((await r.store.head(key, { signal })) !== undefined) return;
  const bytes = ownRecordBytes(key, tombstone, tombstoneSchema);
  await r.store.put(key, bytes, { signal, sizeBytes: bytes.length });
}

/** @returns `undefined` when the backup has no mark @throws BackupError `format-invalid` */
export function readTombstone(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<Tombstone | undefined> {
  return readOne(r, markKey(r, backupId), signal);
}

/**
 * When a backup was marked, by the store's time, and under which grace period, in ms; 0 in marks of older versions.
 *
 * @returns `undefined` when it has no mark @throws BackupError `format-invalid`
 */
export async function readMark(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<{ readonly markedAt: Date; readonly graceMs: number } | undefined> {
  const tombstone = await readTombstone(r, backupId, signal);
  const stored = tombstone && (await r.store.head(markKey(r, backupId), { signal }));
  return stored && { markedAt: stored.modifiedAt, graceMs: tombstone.graceMs ?? 0 };
}

/** The gravestone of a backup that was deleted. @returns `undefined` when walkeep never deleted it */
export function readGrave(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<Tombstone | undefined> {
  return readOne(r, graveKey(r, backupId), signal);
}

/** Says that a backup is being deleted: from here on nobody plans a restore from it. Saying it again succeeds. */
export async function beginDeletion(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  const key = deletingKey(r, backupId);
  if ((await r.store.head(key, { signal })) !== undefined) return;
  const bytes = Buffer.from(`${new Date().toISOString()}\n`);
  await r.store.put(key, bytes, { signal, sizeBytes: bytes.length });
}

/** Whether a sweep has said that it is deleting a backup. */
export async function isBeingDeleted(r: Repository, backupId: string, signal: AbortSignal): Promise<boolean> {
  return (await r.store.head(deletingKey(r, backupId), { signal })) !== undefined;
}

/** Takes back what `beginDeletion` said: nothing of the backup was deleted yet. Its mark stays. */
export async function stopDeletion(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  await r.store.delete([deletingKey(r, backupId)], { signal });
}

/** Takes a mark back: something keeps the backup again. Taking back what is not there succeeds. */
export async function takeBackTombstone(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  // In this order: one that is being deleted without having been marked would be a riddle.
  await stopDeletion(r, backupId, signal);
  await r.store.delete([markKey(r, backupId)], { signal });
}

/** The last step of a deletion: the mark becomes a gravestone. Doing it again succeeds. */
export async function concludeDeletion(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  const tombstone = await readTombstone(r, backupId, signal);
  if (tombstone) {
    const key = graveKey(r, backupId);
    const grave = { ...tombstone, deletedAt: new Date().toISOString() };
    const bytes = ownRecordBytes(key, grave, tombstoneSchema);
    await r.store.put(key, bytes, { signal, sizeBytes: bytes.length });
  }
  await r.store.delete([deletingKey(r, backupId)], { signal });
  await r.store.delete([markKey(r, backupId)], { signal });
}

/** The ids of all backups that walkeep deleted. */
export async function listGraves(r: Repository, signal: AbortSignal): Promise<Set<string>> {
  const prefix = `${ownKey(r.server, GRAVES)}/`;
  const ids = new Set<string>();
  for await (const { key } of r.store.list(prefix, { signal })) {
    const id = key.slice(prefix.length, -MARK.length);
    if (key.endsWith(MARK) && isBackupId(id)) ids.add(id);
  }
  return ids;
}

async function readOne(r: Repository, key: string, signal: AbortSignal): Promise<Tombstone | undefined> {
  return readOwnRecord(r, key, { schema: tombstoneSchema, maxBytes: MAX_TOMBSTONE_BYTES, signal });
}

function markKey(r: Repository, backupId: string): string {
  return ownKey(r.server, FOLDER, `${validateBackupId(backupId)}${MARK}`);
}

function deletingKey(r: Repository, backupId: string): string {
  return ownKey(r.server, FOLDER, `${validateBackupId(backupId)}${DELETING}`);
}

function graveKey(r: Repository, backupId: string): string {
  return ownKey(r.server, GRAVES, `${validateBackupId(backupId)}${MARK}`);
}
