import { BackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { inspectBackup, type BackupPart } from '../repository/catalogue.ts';
import { isOver, listHolds } from '../repository/holds.ts';
import { readKeep } from '../repository/keeps.ts';
import type { Repository } from '../repository/repository.ts';
import { stopDeletion, readTombstone } from '../repository/tombstones.ts';
import { KEYS_AT_ONCE } from './sweep-wal.ts';

/**
 * Why a backup may not go after all: asked right before its first object goes, of what somebody may have changed in
 * the last moment.
 */
export async function whyNotNow(
  r: Repository,
  backupId: string,
  { storeNow, signal }: { readonly storeNow: Date; readonly signal: AbortSignal },
): Promise<string | undefined> {
  const held = (await listHolds(r, signal)).find(
    (hold) => hold.backupId === backupId && !isOver(hold, storeNow),
  );
  if (held) return `in use by a ${held.kind}: ${held.reason}`;
  const keep = await readKeep(r, backupId, signal);
  if (keep !== undefined) return `somebody put a keep on it (${keep})`;
  if ((await readTombstone(r, backupId, signal)) === undefined) return 'its tombstone was removed';
  return undefined;
}

export interface DeleteDataOptions {
  /** Asked before every batch: throws when nothing more may be deleted. */
  readonly mayGoOn: () => Promise<void>;
  readonly signal: AbortSignal;
}

/**
 * Deletes the tars of a backup. The first of the data directory goes first and alone: without it no tool, ours or
 * stock, begins a restore, whatever the record says. Foreign objects in its folder stay.
 */
export async function deleteData(
  r: Repository,
  backupId: string,
  { mayGoOn, signal }: DeleteDataOptions,
): Promise<void> {
  const { parts } = await inspectBackup(r, backupId, signal);
  const isFirst = ({ area, index }: BackupPart) => area === 'data' && index === 0;
  const first = parts.filter(isFirst).map(({ key }) => key);
  const rest = parts.filter((part) => !isFirst(part)).map(({ key }) => key);
  failpoint('sweep.before-delete-data');
  await mayGoOn();
  if (first.length > 0) {
    try {
      await r.store.delete(first, { signal });
    } catch (error) {
      await sparedIfWhole(r, backupId, parts.length);
      throw error;
    }
    failpoint('sweep.first-part-deleted');
  }
  for (let at = 0; at < rest.length; at += KEYS_AT_ONCE) {
    await mayGoOn();
    await r.store.delete(rest.slice(at, at + KEYS_AT_ONCE), { signal });
  }
  const left = (await inspectBackup(r, backupId, signal)).parts[0];
  if (left) {
    throw new BackupError(
      'store-unavailable',
      `${r.store.url}/${left.key} was deleted, said the store, and is there`,
    );
  }
  failpoint('sweep.data-deleted');
}

/** A key that may not delete, or a lock on the object: then it is a backup as before. */
async function sparedIfWhole(r: Repository, backupId: string, count: number): Promise<void> {
  const signal = AbortSignal.timeout(30_000);
  try {
    const { parts } = await inspectBackup(r, backupId, signal);
    if (parts.length === count) await stopDeletion(r, backupId, signal);
  } catch {
    // The next sweep sees to it.
  }
}
