import { readBackupRecord } from '../repository/backup-record.ts';
import { backupPrefix, parsePartName, partKey } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { findWalByName } from '../repository/wal-object.ts';
import { CODECS } from '../streams/codec.ts';

/**
 * Whether what no listing showed is in the store under its own name. What is planned and restored is taken from
 * listings, and a listing may be late, or cut short without saying so.
 *
 * @param notListed of the finding: a WAL file, or a tar of the backup, whatever it is compressed with
 * @returns the key of what is there after all; `undefined` when it is truly missing, or not as large as was recorded
 */
export async function thereAfterAll(
  r: Repository,
  notListed: string,
  backupId: string | undefined,
  signal: AbortSignal,
): Promise<string | undefined> {
  const part = parsePartName(notListed);
  if (part === undefined) return (await findWalByName(r, notListed, signal))[0]?.key;
  if (backupId === undefined) return undefined;
  const keys = CODECS.map((codec) => partKey(r.server, backupId, part.area, part.index, codec));
  const heads = await Promise.all(keys.map((key) => r.store.head(key, { signal })));
  const found = heads.find((head) => head !== undefined);
  const record = await readBackupRecord(r, backupId, signal);
  if (found === undefined || record === undefined) return found?.key;
  const name = found.key.slice(backupPrefix(r.server, backupId).length);
  const recorded = record.parts.find((one) => one.name === name);
  return recorded?.storedBytes === found.sizeBytes ? found.key : undefined;
}
