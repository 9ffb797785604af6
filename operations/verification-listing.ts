import { isSegmentName } from '../core/segment.ts';
import type { VerificationCheck } from '../core/verification.ts';
import { readBackupRecord } from '../repository/backup-record.ts';
import { backupPrefix, partKey } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { findWalByName } from '../repository/wal-object.ts';
import { CODECS } from '../streams/codec.ts';

/**
 * Whether what a check found missing is in the store under its own name. What is planned and restored is taken from
 * listings, and a listing may be late, or cut short without saying so.
 *
 * @returns what is there after all; `undefined` when it is truly missing, or the check is about something else
 */
export async function thereAfterAll(
  r: Repository,
  { detail = '', object = '' }: VerificationCheck,
  backupId: string | undefined,
  signal: AbortSignal,
): Promise<string | undefined> {
  if (!/\bmissing\b/.test(detail)) return undefined;
  if (isSegmentName(object)) return (await findWalByName(r, object, signal))[0]?.key;
  if (backupId === undefined) return undefined;
  const record = await readBackupRecord(r, backupId, signal);
  if (record === undefined) {
    const keys = CODECS.map((codec) => partKey(r.server, backupId, 'data', 0, codec));
    const found = await Promise.all(keys.map((key) => r.store.head(key, { signal })));
    return object.includes('data.tar') ? found.find((one) => one !== undefined)?.key : undefined;
  }
  const prefix = backupPrefix(r.server, backupId);
  for (const { name, storedBytes } of record.parts) {
    const part = await r.store.head(prefix + name, { signal });
    if (part?.sizeBytes !== storedBytes) return undefined;
  }
  return `a part of backup ${backupId}`;
}
