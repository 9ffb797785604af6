/** What retention has to know about one backup, put together from what the repository says of it. */
import type { RetentionBackup } from '../core/retention.ts';
import { DEFAULT_SEGMENT_SIZE } from '../core/segment.ts';
import { inspectBackup, type BackupFolder, type BackupPart } from '../repository/backup-parts.ts';
import type { BackupRecord } from '../repository/backup-record.ts';
import type { CatalogueEntry } from '../repository/catalogue.ts';
import { concurrently } from '../repository/concurrently.ts';
import type { StoredHold } from '../repository/holds.ts';
import type { Repository } from '../repository/repository.ts';

/** What else was read about backups, by id. */
export interface ReadBesides {
  readonly folders: ReadonlyMap<string, BackupFolder>;
  readonly records: ReadonlyMap<string, BackupRecord | 'unreadable' | undefined>;
  readonly proven: ReadonlyMap<string, Date>;
}

/** @param holds those that are not over */
export function retentionBackup(
  entry: CatalogueEntry,
  { folders, records, proven }: ReadBesides,
  holds: readonly StoredHold[],
): RetentionBackup {
  const { backupId, info, problem, keep, tombstone } = entry;
  const folder = folders.get(backupId);
  const held = holds.filter((hold) => hold.backupId === backupId).map(describeHold);
  const damage = info && damageOf(entry, folder, records.get(backupId));
  const provedAt = proven.get(backupId);
  const schedule = info && scheduleOf(info.backupName);
  const tombstonedAt = tombstone?.markedAt ?? tombstone?.deletingSince;
  return {
    ...(info ?? { backupId, status: 'EMPTY', segmentSize: DEFAULT_SEGMENT_SIZE }),
    ...(info === undefined && { problem: problem ?? 'its record can’t be read' }),
    ...(folder?.recordedAt && { storedAt: folder.recordedAt }),
    ...(keep && { keep }),
    ...(held.length > 0 && { hold: held.join('; ') }),
    ...(schedule !== undefined && { schedule }),
    ...(provedAt && { provenAt: provedAt }),
    ...(damage !== undefined && { damage }),
    ...(tombstonedAt && { tombstonedAt }),
    ...(lacksItsData(entry, folder) && { deletionBegan: true }),
  };
}

/**
 * Whether a backup that is said to be deleted has lost what goes first: then, and only then, its deletion can't be taken
 * back any more. With that tar it is a backup, whatever else it lacks. A record that isn't DONE may never have had one:
 * while barman keeps it, nothing of it was deleted.
 */
function lacksItsData({ info, keep, tombstone }: CatalogueEntry, folder: BackupFolder | undefined): boolean {
  // Retention does not cover volume snapshots: they have no tars, and no sweep deletes them.
  if (tombstone?.deletingSince === undefined || info?.snapshots) return false;
  if (hasFirstPart(folder?.parts ?? [])) return false;
  return info?.status === 'DONE' || keep === undefined;
}

/**
 * Backups that one listing showed without their data, and a listing of their own shows with them. Who is half gone loses
 * all that keeps it, so one listing is not believed: one that was cut short without saying so looks the same.
 */
export async function falselyHalfGone(
  r: Repository,
  entries: readonly CatalogueEntry[],
  folders: ReadonlyMap<string, BackupFolder>,
  signal: AbortSignal,
): Promise<string[]> {
  const seeming = entries.filter((entry) => lacksItsData(entry, folders.get(entry.backupId)));
  const checked = await concurrently(seeming, READS_AT_ONCE, async ({ backupId }) =>
    hasFirstPart((await inspectBackup(r, backupId, signal)).parts) ? [backupId] : [],
  );
  return checked.flat();
}

const READS_AT_ONCE = 8;

/** Whether the first tar of the data directory is there. */
function hasFirstPart(parts: readonly BackupPart[]): boolean {
  return parts.some(isFirstPart);
}

/** The first tar of the data directory: without it no tool, ours or stock, begins a restore. */
export function isFirstPart({ area, index }: BackupPart): boolean {
  return area === 'data' && index === 0;
}

/** Why what a completed backup consists of is not all there; `undefined` when it is, as far as names and sizes tell. */
function damageOf(
  { info, backupId }: CatalogueEntry,
  folder: BackupFolder | undefined,
  record: BackupRecord | 'unreadable' | undefined,
): string | undefined {
  if (info?.status !== 'DONE' || info.snapshots) return undefined;
  const parts = folder?.parts ?? [];
  const areas = ['data', ...info.tablespaces.map(({ oid }) => `${oid}`)];
  const missing = areas.find((area) => !parts.some((part) => part.area === area));
  if (missing !== undefined) return `${missing}.tar is missing`;
  if (folder && folder.problems.length > 0) return folder.problems.join('; ');
  if (record === 'unreadable') return "walkeep's own record of it can't be read";
  const stored = new Map(parts.map(({ key, sizeBytes }) => [key.slice(key.lastIndexOf('/') + 1), sizeBytes]));
  for (const { name, storedBytes } of record?.parts ?? []) {
    const size = stored.get(name);
    if (size === undefined) return `${name} is missing`;
    if (size !== storedBytes) return `${name} has ${size} bytes, ${storedBytes} were recorded`;
  }
  return folder === undefined ? `nothing of ${backupId} was listed` : undefined;
}

/** Backups that a schedule took are named after it and their time. */
function scheduleOf(backupName: string | undefined): string | undefined {
  return /^(.+)-\d{14}$/.exec(backupName ?? '')?.[1];
}

/** For people. */
export function describeHold({ kind, reason }: StoredHold): string {
  return kind === 'manual' ? reason : `in use by a ${kind}: ${reason}`;
}
