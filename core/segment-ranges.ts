import { BackupError } from './errors.ts';
import { segmentNumber, timelineOf, type SegmentName } from './segment.ts';

/** Consecutive segments of one timeline, by number, both ends included. */
export interface SegmentRange {
  readonly first: bigint;
  readonly last: bigint;
}

/** A segment that is not there although a later one is. */
export interface SegmentHole {
  readonly timeline: number;
  /** The first number that is missing. */
  readonly missing: bigint;
  /** The first number after it that is there. */
  readonly next: bigint;
}

/**
 * Which segments an archive holds, as ranges: a few numbers per timeline, however many segments there are.
 * Names are added in any order, those in listing order in constant time.
 */
export class SegmentRanges {
  readonly segmentSize: number;
  readonly #ranges = new Map<number, { first: bigint; last: bigint }[]>();

  constructor(segmentSize: number) {
    this.segmentSize = segmentSize;
  }

  /** @throws BackupError `format-invalid` for a name that no segment of this size has */
  add(name: SegmentName): void {
    this.addNumber(timelineOf(name), segmentNumber(name, this.segmentSize));
  }

  addNumber(timeline: number, number: bigint): void {
    this.addRange(timeline, { first: number, last: number });
  }

  /** @throws BackupError `format-invalid` when the range ends before it begins */
  addRange(timeline: number, added: SegmentRange): void {
    if (added.last < added.first) {
      throw new BackupError(
        'format-invalid',
        `a range of segments ends before it begins: ${added.first} to ${added.last}`,
      );
    }
    const ranges = this.#ranges.get(timeline) ?? [];
    this.#ranges.set(timeline, ranges);
    // The first range that the added one touches, overlaps or precedes.
    const from = lowerBound(ranges, added.first);
    let first = added.first;
    let last = added.last;
    let to = from;
    for (let range = ranges[to]; range !== undefined && range.first <= last + 1n; range = ranges[++to]) {
      if (range.first < first) first = range.first;
      if (range.last > last) last = range.last;
    }
    ranges.splice(from, to - from, { first, last });
  }

  /** Ascending. */
  timelines(): number[] {
    return [...this.#ranges.keys()].toSorted((a, b) => a - b);
  }

  /** Ascending, neither overlapping nor touching. */
  rangesOf(timeline: number): readonly SegmentRange[] {
    return this.#ranges.get(timeline) ?? [];
  }

  has(timeline: number, number: bigint): boolean {
    return this.lastContiguous(timeline, number) !== undefined;
  }

  /** The last segment that can be reached from `number` without a gap; `undefined` when `number` is not there. */
  lastContiguous(timeline: number, number: bigint): bigint | undefined {
    const ranges = this.rangesOf(timeline);
    const range = ranges[lowerBound(ranges, number + 1n)];
    return range !== undefined && range.first <= number && number <= range.last ? range.last : undefined;
  }

  /** The first segment that is there at or after `number`. */
  firstFrom(timeline: number, number: bigint): bigint | undefined {
    const ranges = this.rangesOf(timeline);
    const range = ranges[lowerBound(ranges, number + 1n)];
    if (range === undefined) return undefined;
    return range.first > number ? range.first : number;
  }

  /** The newest segment of a timeline. */
  newest(timeline: number): bigint | undefined {
    return this.rangesOf(timeline).at(-1)?.last;
  }

  /** What is missing between the first and the last segment of each timeline. */
  holes(): SegmentHole[] {
    return this.timelines().flatMap((timeline) => {
      const ranges = this.rangesOf(timeline);
      return ranges.slice(1).map((range, index) => ({
        timeline,
        missing: (ranges[index] as SegmentRange).last + 1n,
        next: range.first,
      }));
    });
  }

  /** How many segments there are. */
  count(): bigint {
    let total = 0n;
    for (const ranges of this.#ranges.values())
      for (const { first, last } of ranges) total += last - first + 1n;
    return total;
  }
}

/** The index of the first range whose end is at or after `number - 1`, that is: which touches or follows `number`. */
function lowerBound(ranges: readonly SegmentRange[], number: bigint): number {
  // Listings come in order: most numbers belong to the last range or behind it.
  const final = ranges.at(-1);
  if (final === undefined || final.last < number - 1n) return ranges.length;
  let low = 0;
  let high = ranges.length - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ranges[middle] as SegmentRange).last >= number - 1n) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The segments of `names`, which may come in any order. */
export function segmentRanges(names: Iterable<SegmentName>, segmentSize: number): SegmentRanges {
  const ranges = new SegmentRanges(segmentSize);
  for (const name of names) ranges.add(name);
  return ranges;
}
