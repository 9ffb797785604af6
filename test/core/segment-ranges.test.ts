import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { segmentName } from '../../core/segment.ts';
import { segmentRanges, SegmentRanges } from '../../core/segment-ranges.ts';

const SIZE = 16 * 1024 * 1024;
const numbers = fc.array(fc.tuple(fc.integer({ min: 1, max: 3 }), fc.bigInt({ min: 0n, max: 40n })), {
  maxLength: 60,
});
const setOf = (entries: readonly (readonly [number, bigint])[]) => {
  const ranges = new SegmentRanges(SIZE);
  for (const [timeline, number] of entries) ranges.addNumber(timeline, number);
  return ranges;
};

describe('segment ranges', () => {
  it('hold exactly what was added, in any order', () => {
    fc.assert(
      fc.property(numbers, (entries) => {
        const ranges = setOf(entries);
        const model = new Set(entries.map(([timeline, number]) => `${timeline}/${number}`));
        for (let timeline = 1; timeline <= 4; timeline++) {
          for (let number = 0n; number <= 42n; number++) {
            expect(ranges.has(timeline, number)).toBe(model.has(`${timeline}/${number}`));
          }
        }
        expect(ranges.count()).toBe(BigInt(model.size));
      }),
    );
  });

  it('neither overlap nor touch', () => {
    fc.assert(
      fc.property(numbers, (entries) => {
        const ranges = setOf(entries);
        for (const timeline of ranges.timelines()) {
          const list = ranges.rangesOf(timeline);
          for (const [index, range] of list.entries()) {
            expect(range.first <= range.last).toBe(true);
            const before = list[index - 1];
            if (before) expect(range.first > before.last + 1n).toBe(true);
          }
        }
      }),
    );
  });

  it('A6: name the end without a gap, and what comes next, as a walk along the segments does', () => {
    fc.assert(
      fc.property(numbers, fc.bigInt({ min: 0n, max: 41n }), (entries, from) => {
        const ranges = setOf(entries);
        const there = (number: bigint) => entries.some(([timeline, n]) => timeline === 1 && n === number);
        let last: bigint | undefined;
        for (let number = from; there(number); number++) last = number;
        expect(ranges.lastContiguous(1, from)).toBe(last);
        let next: bigint | undefined;
        for (let number = from; number <= 41n && next === undefined; number++)
          if (there(number)) next = number;
        expect(ranges.firstFrom(1, from)).toBe(next);
      }),
    );
  });

  it('A6: every hole between the first and the last segment is named', () => {
    const names = [1n, 2n, 5n, 6n, 9n].map((number) => segmentName(2, number, SIZE));
    expect(segmentRanges(names, SIZE).holes()).toEqual([
      { timeline: 2, missing: 3n, next: 5n },
      { timeline: 2, missing: 7n, next: 9n },
    ]);
    expect(segmentRanges(names, SIZE).newest(2)).toBe(9n);
  });

  it('adds whole ranges that bridge others', () => {
    const ranges = setOf([
      [1, 1n],
      [1, 5n],
      [1, 20n],
    ]);
    ranges.addRange(1, { first: 2n, last: 10n });
    expect(ranges.rangesOf(1)).toEqual([
      { first: 1n, last: 10n },
      { first: 20n, last: 20n },
    ]);
  });

  it('crosses the boundary of a log file without a gap', () => {
    const names = ['0000000100000000000000FF', '000000010000000100000000'] as never[];
    expect(segmentRanges(names, SIZE).rangesOf(1)).toEqual([{ first: 255n, last: 256n }]);
  });
});
