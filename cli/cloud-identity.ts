import { existsSync } from 'node:fs';
import { open, readdir, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BackupError, isBackupError } from '../core/errors.ts';
import { isSegmentName } from '../core/segment.ts';
import { readControlData } from '../postgres/control-data.ts';
import type { ClusterIdentity } from '../postgres/wal-identity.ts';
import { parseWalHeader, WAL_HEADER_BYTES } from '../postgres/wal-page.ts';

/** Segments of one directory that are looked into until one has a header. */
const SEGMENTS_TRIED = 8;

/**
 * Whose WAL lies in a directory, for files that do not say it themselves: barman-cloud's arguments name no data directory. The
 * directory is the `pg_wal` of a data directory (the one above, the working one, or `$PGDATA`), or else the segments in it tell.
 *
 * @throws BackupError `config-invalid` when nothing tells
 */
export async function identityOfWalDirectory(
  walDirectory: string,
  pgdata: string | undefined,
): Promise<ClusterIdentity> {
  for (const candidate of [dirname(walDirectory), process.cwd(), pgdata]) {
    if (candidate === undefined || !existsSync(join(candidate, 'global/pg_control'))) continue;
    if (await isSame(join(candidate, 'pg_wal'), walDirectory)) return readControlData(candidate);
  }
  const identity = await identityOfSegments(walDirectory);
  if (identity) return identity;
  throw new BackupError('config-invalid', `nothing tells of which cluster the files in ${walDirectory} are`, {
    hint: 'archive_command runs in the data directory and passes %p; by hand, go there first, or set PGDATA',
  });
}

async function identityOfSegments(walDirectory: string): Promise<ClusterIdentity | undefined> {
  const names = (await readdir(walDirectory)).filter(isSegmentName).toSorted();
  for (const name of names.slice(0, SEGMENTS_TRIED)) {
    try {
      return parseWalHeader(await readHead(join(walDirectory, name)));
    } catch (error) {
      if (!isBackupError(error, 'format-invalid')) throw error;
    }
  }
  return undefined;
}

async function readHead(path: string): Promise<Uint8Array> {
  const handle = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await handle.read(new Uint8Array(WAL_HEADER_BYTES), 0, WAL_HEADER_BYTES, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}

async function isSame(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([one, other].map((path) => realpath(path).catch(() => undefined)));
  return a !== undefined && a === b;
}
