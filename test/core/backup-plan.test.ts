import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  DATA_AREA,
  DEFAULT_MAX_PART_BYTES,
  lastDataIndex,
  planParts,
  SMALLEST_PART_BYTES,
  tarBytes,
  type PlannedArea,
} from '../../core/backup-plan.ts';

const MiB = 1024 * 1024;

const sizes = fc.array(fc.oneof(fc.nat(64 * 1024), fc.nat(1024 * MiB)), { maxLength: 60 });
const someAreas = fc.array(sizes, { minLength: 1, maxLength: 4 }).map((lists) =>
  lists.map((list, at): PlannedArea => ({
    area: at === 0 ? DATA_AREA : String(16384 + at),
    files: list.map((sizeBytes, n) => ({ path: `f${n}`, sizeBytes })),
  })),
);
const someOptions = fc.record({
  jobs: fc.integer({ min: 1, max: 16 }),
  maxPartBytes: fc.integer({ min: 1, max: 4096 * MiB }),
});

describe('planParts', () => {
  it('B4: holds every file once, in the order of the walk', () => {
    fc.assert(
      fc.property(someAreas, someOptions, (areas, options) => {
        const parts = planParts(areas, options);
        for (const { area, files } of areas) {
          const own = parts.filter((part) => part.area === area).toSorted((a, b) => a.index - b.index);
          expect(own.flatMap((part) => part.files)).toEqual(files);
          expect(own.map(({ index }) => index)).toEqual(own.map((_, n) => n));
        }
      }),
    );
  });

  it('has a first part for every area, even an empty one: it carries the directories', () => {
    const parts = planParts(
      [
        { area: DATA_AREA, files: [] },
        { area: '16384', files: [] },
      ],
      { jobs: 2 },
    );
    expect(parts.map(({ area, index }) => `${area}/${index}`)).toEqual(['16384/0', 'data/0']);
  });

  it('never makes a part larger than allowed, unless one file alone is', () => {
    fc.assert(
      fc.property(someAreas, someOptions, (areas, options) => {
        for (const part of planParts(areas, options)) {
          if (part.files.length > 1) expect(part.plannedBytes).toBeLessThanOrEqual(options.maxPartBytes);
          expect(part.plannedBytes).toBe(
            part.files.reduce((sum, { sizeBytes }) => sum + tarBytes(sizeBytes), 0),
          );
        }
      }),
    );
  });

  it('keeps pipelines busy: taken from the front, none works more than a part longer than the others', () => {
    fc.assert(
      fc.property(someAreas, someOptions, (areas, options) => {
        const parts = planParts(areas, options);
        const busy = Array.from({ length: options.jobs }, () => 0);
        for (const { plannedBytes } of parts) busy[busy.indexOf(Math.min(...busy))]! += plannedBytes;
        const spread = Math.max(...busy) - Math.min(...busy);
        expect(spread).toBeLessThanOrEqual(parts[0]?.plannedBytes ?? 0);
      }),
    );
  });

  it.for([
    { why: 'a small database is one part', count: 1000, sizeBytes: 8192, jobs: 4, expected: 1 },
    {
      why: '4 GiB in 64 MiB files for 2 jobs are 8 parts',
      count: 64,
      sizeBytes: 64 * MiB,
      jobs: 2,
      expected: 8,
    },
  ])('$why', ({ count, sizeBytes, jobs, expected }) => {
    const files = Array.from({ length: count }, (_, n) => ({ path: `f${n}`, sizeBytes }));
    expect(planParts([{ area: DATA_AREA, files }], { jobs })).toHaveLength(expected);
  });

  it('has the limits of its documentation', () => {
    expect(SMALLEST_PART_BYTES).toBe(64 * MiB);
    expect(DEFAULT_MAX_PART_BYTES).toBe(100 * 1024 * MiB);
  });

  it('names the part that is written last behind all others of PGDATA', () => {
    const files = Array.from({ length: 5 }, (_, n) => ({ path: `f${n}`, sizeBytes: 1 }));
    const parts = planParts(
      [
        { area: DATA_AREA, files },
        { area: '16384', files },
      ],
      { jobs: 1, maxPartBytes: 1 },
    );
    expect(lastDataIndex(parts)).toBe(5);
  });
});
