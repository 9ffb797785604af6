/** What a store itself says against the deletion of an object. */
export interface ObjectLock {
  /** The end of its retention, which may be over. */
  readonly until?: Date;
  /** Somebody put a hold on it, which lasts until somebody takes it away. */
  readonly legalHold?: true;
  /** Why it can't be known, as a whole phrase: it is treated as locked. */
  readonly unknown?: string;
  /**
   * Why nobody could look, neither at the object nor at what its bucket does, as a whole phrase: it is treated as free and
   * said. A store that does lock it refuses to delete it, or keeps it as an older version.
   */
  readonly unseen?: string;
}

/** A lock that holds something back now. */
export interface LockInForce {
  /** A whole phrase. */
  readonly why: string;
  /** Its end in ms since 1970; absent where none is known. */
  readonly untilMs?: number;
}

/** @param nowMs by the clock that is behind, where there are two: a lock is not over before both say so */
export function lockInForce(lock: ObjectLock | undefined, nowMs: number): LockInForce | undefined {
  if (lock?.legalHold === true) return { why: 'the store keeps it: locked by a legal hold' };
  if (lock?.unknown !== undefined) return { why: lock.unknown };
  const untilMs = lock?.until?.getTime();
  if (untilMs === undefined) return undefined;
  // not `untilMs <= nowMs`: a time that can't be read is not over
  if (Number.isNaN(untilMs)) return { why: 'the store keeps it: locked until a time that it does not tell' };
  if (untilMs <= nowMs) return undefined;
  return { why: `the store keeps it: locked until ${new Date(untilMs).toISOString()}`, untilMs };
}

/** Of several the one that lasts longest. */
export function longestLock(locks: Iterable<LockInForce>): LockInForce | undefined {
  let longest: LockInForce | undefined;
  for (const lock of locks) {
    if (longest === undefined || (lock.untilMs ?? Infinity) > (longest.untilMs ?? Infinity)) longest = lock;
  }
  return longest;
}
