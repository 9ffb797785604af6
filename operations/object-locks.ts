import { lockInForce, longestLock, type LockInForce } from '../core/object-lock.ts';
import { inspectBackup } from '../repository/backup-parts.ts';
import { concurrently } from '../repository/concurrently.ts';
import { backupInfoKey, ownKey } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import type { StoredObject } from '../stores/object-store.ts';

/** A store answers one in 20 to 30 ms: of this many, about a thousand in a second. */
const QUESTIONS_AT_ONCE = 32;

/** When and how it is asked. */
export interface LockQuestion {
  /** By the clock that is behind, in ms. */
  readonly nowMs: number;
  /** Told why nobody could look at an object, which is treated as free: a whole phrase, the same one for many objects. */
  readonly onUnseen?: (why: string) => void;
  readonly signal: AbortSignal;
}

/** An object, with what a listing told of its lock. */
export type Lockable = Pick<StoredObject, 'key' | 'lock'>;

/** Whether each object has to be asked about: not where the store locks nothing. */
export async function asksForLocks({ store }: Repository, signal: AbortSignal): Promise<boolean> {
  if (store.lockOf === undefined) return false;
  return (await store.hasLocks?.({ signal })) !== false;
}

/**
 * Which of these objects the store itself keeps now (D7). It is asked before anything is deleted: a store with versions
 * hides a locked object behind a delete marker without a word. What a listing told is not asked for.
 *
 * @throws what the store throws
 */
export async function locksOf(
  r: Repository,
  objects: readonly Lockable[],
  { nowMs, onUnseen, signal }: LockQuestion,
): Promise<Map<string, LockInForce>> {
  const locks = new Map<string, LockInForce>();
  if (!(await asksForLocks(r, signal))) return locks;
  await concurrently(objects, QUESTIONS_AT_ONCE, async ({ key, lock: listed }) => {
    const found = listed ?? (await r.store.lockOf?.(key, { signal }));
    if (found === undefined || found === 'none') return;
    if (found.unseen !== undefined) onUnseen?.(found.unseen);
    const lock = lockInForce(found, nowMs);
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
  if (!(await asksForLocks(r, question.signal))) return undefined;
  const { parts } = await inspectBackup(r, backupId, question.signal);
  const keys = [backupInfoKey(r.server, backupId), ...parts.map(({ key }) => key)];
  const own = `${ownKey(r.server, 'backups', backupId)}/`;
  for await (const { key } of r.store.list(own, { signal: question.signal })) keys.push(key);
  const locks = await locksOf(
    r,
    keys.map((key) => ({ key })),
    question,
  );
  return longestLock(locks.values());
}
