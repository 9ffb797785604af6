import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import type { PutOptions } from '../stores/object-store.ts';
import { formatBackupInfo, MAX_BACKUP_INFO_BYTES, parseBackupInfo, type BackupInfo } from './backup-info.ts';
import { concurrently } from './concurrently.ts';
import { readKeeps, type Keep } from './keeps.ts';
import { backupInfoKey, basePrefix, isBackupId, quoted } from './layout.ts';
import type { Repository } from './repository.ts';
import { createSmallObject, readSmallText, utf8 } from './small-object.ts';
import { listTombstones, type ListedTombstone } from './tombstones.ts';

export { inspectBackup, listParts, type BackupPart } from './backup-parts.ts';
export type { Keep } from './keeps.ts';

/** One backup as the catalogue has it: what its record says, or why it can't be read. */
export interface CatalogueEntry {
  readonly backupId: string;
  readonly info?: BackupInfo;
  /** Why there is no `info`; such a backup is not restored from, and nothing is deleted while it is there (D3). */
  readonly problem?: string;
  /** Somebody asked that retention spare it. */
  readonly keep?: Keep;
  /** A sweep of ours has marked it, or is deleting it: then it has no `info`, but a problem. */
  readonly tombstone?: ListedTombstone;
}

const READS_AT_ONCE = 8;
/** A flood of backups is a mistake, or somebody else's folder. */
const MAX_BACKUPS = 100_000;

/**
 * All backups that have a record, by ascending id. A record that can't be read becomes an entry with a problem, and so
 * does a backup that is being deleted: its record is the last that goes. Folders without a record are attempts that
 * run or failed, and are no backups.
 *
 * @throws BackupError when any listing or reading fails: a catalogue is complete or it isn't given
 */
export async function listBackups(r: Repository, signal: AbortSignal): Promise<CatalogueEntry[]> {
  return (await readCatalogue(r, signal)).map(withoutDeleted);
}

function withoutDeleted({ info, ...entry }: CatalogueEntry): CatalogueEntry {
  if (info === undefined) return entry;
  const since = entry.tombstone?.deletingSince;
  if (since === undefined) return { ...entry, info };
  return { ...entry, problem: `it is being deleted, since ${since.toISOString()}` };
}

/** As `listBackups`, with the records of backups that are being deleted: for whoever deletes. @throws as there */
export async function readCatalogue(r: Repository, signal: AbortSignal): Promise<CatalogueEntry[]> {
  const folders = await backupFolders(r, signal);
  const keeps = await readKeeps(r, signal);
  const tombstones = await listTombstones(r, signal);
  const entries = await concurrently(folders, READS_AT_ONCE, (folder) => readEntry(r, folder, signal));
  return entries
    .filter((entry) => entry !== undefined)
    .map((entry) => {
      const keep = keeps.get(entry.backupId);
      const tombstone = tombstones.get(entry.backupId);
      return { ...entry, ...(keep !== undefined && { keep }), ...(tombstone && { tombstone }) };
    });
}

/** The folders in `base/`, whatever they are, in the order of names. */
async function backupFolders(r: Repository, signal: AbortSignal): Promise<string[]> {
  const prefix = basePrefix(r.server);
  const folders: string[] = [];
  for await (const folder of r.store.folders(prefix, { signal })) {
    folders.push(folder.slice(prefix.length, -1));
    if (folders.length > MAX_BACKUPS) {
      throw new BackupError('format-invalid', `${r.url}/base holds more than ${MAX_BACKUPS} folders`);
    }
  }
  return folders.toSorted();
}

async function readEntry(
  r: Repository,
  folder: string,
  signal: AbortSignal,
): Promise<CatalogueEntry | undefined> {
  if (!isBackupId(folder)) return foreignEntry(r, folder, signal);
  try {
    const info = await readBackup(r, folder, signal);
    return info && { backupId: folder, info };
  } catch (error) {
    if (!isBackupError(error, 'format-invalid', 'object-damaged')) throw error;
    return { backupId: folder, problem: messageOf(error) };
  }
}

/** Stock lists a record in any folder, but can't address it there. */
async function foreignEntry(
  r: Repository,
  folder: string,
  signal: AbortSignal,
): Promise<CatalogueEntry | undefined> {
  if (folder === '' || folder === '.' || folder === '..') return undefined;
  const record = await r.store.head(`${basePrefix(r.server)}${folder}/backup.info`, { signal });
  const problem = `it has a backup.info in the folder ${quoted(folder)}, which is not the id of a backup`;
  return record && { backupId: folder, problem };
}

/**
 * The record of one backup.
 *
 * @returns `undefined` when there is none
 * @throws BackupError `format-invalid` | `object-damaged` for a record that can't be read; what the store throws
 */
export async function readBackup(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<BackupInfo | undefined> {
  const options = { maxBytes: MAX_BACKUP_INFO_BYTES, signal };
  const key = backupInfoKey(r.server, backupId);
  const text = await readSmallText(r.store, key, options);
  // Stock reads it as a backup of which nothing is known; nobody ever wrote that into a repository of this kind.
  if (text === '') throw new BackupError('object-damaged', `${key} is empty`);
  return text === undefined ? undefined : parseBackupInfo(backupId, text);
}

/**
 * Writes the record of a backup: the last write, and never changed (B2). Writing the same again succeeds.
 *
 * @throws BackupError `already-exists` when another record is there; `format-invalid` for one that may not be written
 */
export async function writeBackupInfo(
  r: Repository,
  info: BackupInfo,
  signal: AbortSignal,
  options: Pick<PutOptions, 'encryption' | 'tags'> = {},
): Promise<void> {
  const bytes = utf8(formatBackupInfo(info));
  await createSmallObject(r.store, backupInfoKey(r.server, info.backupId), bytes, { ...options, signal });
}
