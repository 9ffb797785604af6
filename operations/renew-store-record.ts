import { readOwner, type OwnerIdentity } from '../repository/owner.ts';
import { probeStore } from '../repository/probe-store.ts';
import type { Repository } from '../repository/repository.ts';
import {
  isCurrent,
  newestKnown,
  readStoreRecord,
  writeStoreRecord,
  type StoreRecord,
} from '../repository/store-record.ts';

/**
 * What is known of the store of a repository, tried anew when that is a month old, tells no more than a creation needed to
 * know, or is not there. A repository that is not claimed by this cluster is not written to: its first WAL tries the store.
 * What was known stays in force where nothing new could be found out (S6).
 *
 * @returns `undefined` when nothing is known, and it was not for us to find out
 */
export async function renewStoreRecord(
  r: Repository,
  { systemId }: Pick<OwnerIdentity, 'systemId'>,
  signal: AbortSignal,
): Promise<StoreRecord | undefined> {
  const now = new Date();
  const isEnough = (record: StoreRecord | undefined): record is StoreRecord =>
    record !== undefined && isCurrent(record, now) && record.onlyCreation !== true;
  // A key that may write its WAL and nothing else can't store what was found out: this process remembers it.
  const remembered = r.known?.();
  const known = (await readStoreRecord(r, signal)) ?? remembered;
  if (isEnough(known) && known.ifAbsent !== 'unknown') {
    r.remember?.(known);
    return known;
  }
  if (isEnough(remembered)) return remembered;
  const owner = await readOwner(r, signal);
  if (owner?.systemId !== systemId) return known;
  const { record: found } = await probeStore(r, signal);
  const record = newestKnown(known, found);
  r.remember?.(record);
  if (record !== known && record.ifAbsent !== 'unknown') await writeStoreRecord(r, record, signal);
  return record;
}
