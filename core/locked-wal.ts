import { longestLock, type LockInForce } from './object-lock.ts';
import type { PlannedWal } from './retention-facts.ts';

/** A segment that a plan gives up and the store keeps. */
export interface LockedSegment {
  readonly timeline: number;
  /** A running number, as `segmentNumber` gives it. */
  readonly number: bigint;
  readonly lock: LockInForce;
}

/** The ranges as they are once locked segments stay: each run of those is a range of its own, with the longest lock as reason. */
export function withLockedWal(
  ranges: readonly PlannedWal[],
  locked: readonly LockedSegment[],
): readonly PlannedWal[] {
  if (locked.length === 0) return ranges;
  return ranges.flatMap((range) => {
    const within = locked
      .filter(
        ({ timeline, number }) =>
          timeline === range.timeline && number >= range.first && number <= range.last,
      )
      .toSorted((a, b) => (a.number < b.number ? -1 : 1));
    return range.decision === 'delete' && within.length > 0 ? split(range, within) : [range];
  });
}

function split(range: PlannedWal, locked: readonly LockedSegment[]): PlannedWal[] {
  const result: PlannedWal[] = [];
  let next = range.first;
  for (const run of runsOf(locked)) {
    const [first, last] = [run[0]?.number ?? next, run.at(-1)?.number ?? next];
    if (first > next) result.push({ ...range, first: next, last: first - 1n });
    const reason = longestLock(run.map(({ lock }) => lock))?.why ?? range.reason;
    result.push({ ...range, first, last, decision: 'keep', reason });
    next = last + 1n;
  }
  if (next <= range.last) result.push({ ...range, first: next });
  return result;
}

/** @param locked ascending; a segment may be there twice, in two spellings */
function runsOf(locked: readonly LockedSegment[]): LockedSegment[][] {
  const runs: LockedSegment[][] = [];
  for (const one of locked) {
    const run = runs.at(-1);
    const before = run?.at(-1)?.number;
    if (run && before !== undefined && one.number - before <= 1n) run.push(one);
    else runs.push([one]);
  }
  return runs;
}
