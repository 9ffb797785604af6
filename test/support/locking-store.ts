import { BackupError } from '../../core/errors.ts';
import type { ObjectLock } from '../../core/object-lock.ts';
import type { ObjectStore } from '../../stores/object-store.ts';

export interface LockingStore extends ObjectStore {
  /** By a part of the key. */
  readonly locks: Map<string, ObjectLock>;
  /** Keys whose locks were asked for. */
  readonly asked: string[];
  /** Locked keys that somebody asked to delete. */
  readonly attacked: string[];
}

/**
 * A store that locks objects. It refuses to delete one, as MinIO and versitygw do; with `hides` it takes it out of sight
 * without a word, as AWS does with versions by a delete marker.
 */
export function lockingStore(inner: ObjectStore, { hides = false } = {}): LockingStore {
  const locks = new Map<string, ObjectLock>();
  const asked: string[] = [];
  const attacked: string[] = [];
  const lockOf = (key: string) => [...locks].find(([part]) => key.includes(part))?.[1];
  const isLocked = (key: string) => {
    const lock = lockOf(key);
    return lock?.legalHold === true || (lock?.until?.getTime() ?? 0) > Date.now();
  };
  return {
    ...inner,
    locks,
    asked,
    attacked,
    async lockOf(key) {
      asked.push(key);
      return lockOf(key);
    },
    async delete(keys, options) {
      const locked = keys.filter(isLocked);
      attacked.push(...locked);
      if (locked.length > 0 && !hides)
        throw new BackupError('access-denied', `delete ${locked[0]} failed: AccessDenied, status 403`);
      await inner.delete(keys, options);
    },
  };
}
