import { readOwner, type OwnerIdentity } from '../repository/owner.ts';
import { probeStore } from '../repository/probe-store.ts';
import type { Repository } from '../repository/repository.ts';
import {
  isCurrent,
  readStoreRecord,
  writeStoreRecord,
  type StoreRecord,
} from '../repository/store-record.ts';
import { walkeepVersion } from '../repository/walkeep-version.ts';

/**
 * What is known of the store of a repository, tried anew when that is a month old, of another version, or not there. A
 * repository that is not claimed by this cluster is not written to: its first WAL tries the store.
 *
 * @returns `undefined` when nothing is known, and it was not for us to find out
 */
export async function renewStoreRecord(
  r: Repository,
  { systemId }: Pick<OwnerIdentity, 'systemId'>,
  signal: AbortSignal,
): Promise<StoreRecord | undefined> {
  const known = await readStoreRecord(r, signal);
  if (known) r.remember?.(known);
  if (known && isCurrent(known, new Date()) && known.walkeep === walkeepVersion()) return known;
  const owner = await readOwner(r, signal);
  if (owner?.systemId !== systemId) return known;
  const { record, refused } = await probeStore(r, signal);
  r.remember?.(record);
  if (refused.write === undefined) await writeStoreRecord(r, record, signal);
  return record;
}
