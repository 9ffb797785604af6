import { lockInForce, longestLock, type LockInForce } from '../core/object-lock.ts';
import { inspectBackup } from '../repository/backup-parts.ts';
import { concurrently } from '../repository/concurrently.ts';
import { backupInfoKey, ownKey } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';

const QUESTIONS_AT_ONCE = 8;

/** When and how it is asked. */
export interface LockQuestion {
  /** By the clock that is behind, in ms. */
  readonly nowMs: number;
  readonly signal: AbortSignal;
}

/**
 * Which of these objects the store itself keeps now (D7). It is asked before anything is deleted: a store with versions
 * hides a locked object behind a delete marker without a word.
 *
 * @throws what the store throws
 */
export async function locksOf(
  { store }: Repository,
  keys: readonly string[],
  { nowMs, signal }: LockQuestion,
): Promise<Map<string, LockInForce>> {
  const locks = new Map<string, LockInForce>();
  if (store.lockOf === undefined) return locks;
  await concurrently(keys, QUESTIONS_AT_ONCE, async (key) => {
    const lock = lockInForce(await store.lockOf?.(key, { signal }), nowMs);
    if (lock) locks.set(key, lock);
  });
  return locks;
}

/**
 * What of the store keeps a backup from being deleted as a whole: the longest lock on any object that would go, its
 * tars, its record and walkeep's own.
 */
export async function lockOfBackup(
  r: Repository,
  backupId: string,
  question: LockQuestion,
): Promise<LockInForce | undefined> {
  if (r.store.lockOf === undefined) return undefined;
  const { parts } = await inspectBackup(r, backupId, question.signal);
  const keys = [backupInfoKey(r.server, backupId), ...parts.map(({ key }) => key)];
  const own = `${ownKey(r.server, 'backups', backupId)}/`;
  for await (const { key } of r.store.list(own, { signal: question.signal })) keys.push(key);
  return longestLock((await locksOf(r, keys, question)).values());
}
