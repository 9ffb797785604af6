import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';
import { parseWalFileName, type WalFile } from '../core/segment.ts';

/** What PostgreSQL waits to have archived, as `pg_wal/archive_status` shows it. */
export interface ArchiveStatus {
  /** Files with a `.ready` mark, in the order in which PostgreSQL archives them. */
  readonly ready: readonly WalFile[];
  /** How many of them are whole segments: the lag of the archive in segments. */
  readonly readySegments: number;
}

/**
 * Reads the marks; they belong to PostgreSQL, nothing is written here (A8).
 *
 * @param pgWalDirectory `pg_wal` of the data directory
 * @throws BackupError `config-invalid` when there is no such directory
 */
export async function readArchiveStatus(pgWalDirectory: string): Promise<ArchiveStatus> {
  const directory = join(pgWalDirectory, 'archive_status');
  let entries: string[];
  try {
    entries = await readdir(directory);
  } catch (error) {
    throw new BackupError('config-invalid', `cannot read ${directory}: ${messageOf(error)}`, {
      cause: error,
      hint: 'give the data directory of the running PostgreSQL, and run walkeep as its owner',
    });
  }
  const ready = entries
    .filter((entry) => entry.endsWith('.ready'))
    .map((entry) => parseWalFileName(entry.slice(0, -'.ready'.length)))
    .filter((file) => file !== undefined)
    .toSorted(inArchiveOrder);
  return { ready, readySegments: ready.filter(({ kind }) => kind === 'segment').length };
}

/**
 * Histories before everything else (A7), then by name: oldest first, and timeline by timeline.
 *
 * @see PostgreSQL `src/backend/postmaster/pgarch.c`, `ready_file_comparator`
 */
export function inArchiveOrder(a: WalFile, b: WalFile): number {
  const history = Number(b.kind === 'history') - Number(a.kind === 'history');
  if (history !== 0) return history;
  return a.name < b.name ? -1 : Number(a.name > b.name);
}
