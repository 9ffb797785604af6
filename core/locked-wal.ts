import { longestLock, type LockInForce } from './object-lock.ts';
import type { PlannedWal } from './retention-facts.ts';

/** Consecutive segments that a plan gives up and the store keeps. */
export interface LockedRun {
  readonly timeline: number;
  /** Running numbers, as `segmentNumber` gives them, both included. */
  readonly first: bigint;
  readonly last: bigint;
  /** The longest of theirs. */
  readonly lock: LockInForce;
}

/** More than a report shows. An archive of millions may have every other segment locked. */
const RUNS_KEPT = 1000;

/** The WAL that a plan gives up and the store keeps, as it is come upon: in memory that does not grow with the archive. */
export class LockedWal {
  readonly #runs: LockedRun[] = [];
  #segments = 0;
  #others = 0;
  #unshown = 0;
  #longest: LockInForce | undefined;

  /**
   * @param segment ascending by timeline and number; a segment may come twice, in two spellings. Absent for files beside
   * segments, and for histories
   */
  add(lock: LockInForce, segment?: { readonly timeline: number; readonly number: bigint }): void {
    this.#longest = longestLock([...(this.#longest ? [this.#longest] : []), lock]);
    if (segment === undefined) {
      this.#others += 1;
      return;
    }
    this.#segments += 1;
    const { timeline, number } = segment;
    const run = this.#runs.at(-1);
    if (run && run.timeline === timeline && number >= run.first && number - run.last <= 1n) {
      this.#runs[this.#runs.length - 1] = {
        ...run,
        last: number > run.last ? number : run.last,
        lock: longestLock([run.lock, lock]) ?? lock,
      };
    } else if (this.#runs.length < RUNS_KEPT)
      this.#runs.push({ timeline, first: number, last: number, lock });
    else this.#unshown += 1;
  }

  get count(): number {
    return this.#segments + this.#others;
  }

  /** In the order in which they came. */
  get runs(): readonly LockedRun[] {
    return this.#runs;
  }

  /** Whole phrases. */
  get warnings(): readonly string[] {
    if (this.#longest === undefined) return [];
    const what = [
      ...(this.#segments > 0 ? [`${this.#segments} segments`] : []),
      ...(this.#others > 0 ? [`${this.#others} files beside them`] : []),
    ].join(' and ');
    const unshown =
      this.#unshown > 0 ? ` (${this.#unshown} of them are in no range: they lie too scattered)` : '';
    return [
      `of the WAL that nobody needs, ${what} stay${unshown}, and timeline histories with them; the longest: ${this.#longest.why}`,
    ];
  }
}

/** The ranges as they are once locked segments stay: each run of those is a range of its own, with the longest lock as reason. */
export function withLockedWal(
  ranges: readonly PlannedWal[],
  locked: readonly LockedRun[],
): readonly PlannedWal[] {
  if (locked.length === 0) return ranges;
  return ranges.flatMap((range) => {
    if (range.decision !== 'delete') return [range];
    const within = locked
      .filter(
        ({ timeline, first, last }) =>
          timeline === range.timeline && last >= range.first && first <= range.last,
      )
      .toSorted((a, b) => (a.first < b.first ? -1 : 1));
    return split(range, within);
  });
}

/** @param locked ascending; none reaches into another */
function split(range: PlannedWal, locked: readonly LockedRun[]): PlannedWal[] {
  const result: PlannedWal[] = [];
  let next = range.first;
  for (const { lock, ...run } of locked) {
    const first = run.first > next ? run.first : next;
    const last = run.last < range.last ? run.last : range.last;
    if (first > next) result.push({ ...range, first: next, last: first - 1n });
    if (last >= first) result.push({ ...range, first, last, decision: 'keep', reason: lock.why });
    if (last >= next) next = last + 1n;
  }
  if (next <= range.last) result.push({ ...range, first: next });
  return result;
}
