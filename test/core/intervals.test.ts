import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import {
  beginOf,
  completeBackups,
  distinctStretches,
  lostHistories,
  missingWal,
  needsBaseBackup,
  recoverableStretches,
  withoutSegments,
  type WindowFacts,
} from '../../core/intervals.ts';
import { formatLsn, toLsn } from '../../core/lsn.ts';
import { offPath, pathTo } from '../../core/recovery-path.ts';
import { planRecovery, type RecoveryBackup } from '../../core/recovery.ts';
import { SegmentRanges } from '../../core/segment-ranges.ts';
import { segmentName } from '../../core/segment.ts';
import type { TimelineSwitch } from '../../core/timeline.ts';

const MiB = 1024 * 1024;
/** Positions are counted in quarters of a segment. */
const QUARTERS = 4;
const at = (quarter: number) => toLsn((BigInt(quarter) * BigInt(MiB)) / BigInt(QUARTERS));
const LAST = 14;

function archive(...ranges: [timeline: number, first: number, last: number][]): SegmentRanges {
  const segments = new SegmentRanges(MiB);
  for (const [timeline, first, last] of ranges)
    segments.addRange(timeline, { first: BigInt(first), last: BigInt(last) });
  return segments;
}

function backup(
  backupId: string,
  timeline: number,
  begin: number,
  end: number,
  more: Partial<RecoveryBackup> = {},
): RecoveryBackup {
  return {
    backupId,
    status: 'DONE',
    timeline,
    beginLsn: at(begin),
    endLsn: at(end),
    endTime: new Date(Date.UTC(2026, 10, 22, 0, end)),
    segmentSize: MiB,
    systemId: '7711125222447432971',
    ...more,
  };
}

// ---- random archives ---------------------------------------------------------------------------------------------------

const spoilt: fc.Arbitrary<Partial<RecoveryBackup>> = fc.oneof(
  { weight: 6, arbitrary: fc.constant({}) },
  fc.constantFrom<Partial<RecoveryBackup>>(
    { status: 'FAILED' },
    { status: 'STARTED', endTime: undefined },
    { problem: 'its record can not be read' },
    { snapshots: true },
    { parentBackupId: 'b0' },
    { systemId: '1' },
    { segmentSize: 16 * MiB },
    { endLsn: undefined },
  ),
);

/** Up to four timelines in any tree, any segments of them, partial segments, and backups that may lie about all. */
const someArchive: fc.Arbitrary<WindowFacts> = fc
  .record({
    branches: fc.array(fc.record({ parent: fc.nat(3), begin: fc.nat(LAST * QUARTERS) }), { maxLength: 3 }),
    lost: fc.subarray([2, 3, 4], { maxLength: 1 }),
    segments: fc.array(
      fc.record({ timeline: fc.integer({ min: 1, max: 4 }), first: fc.nat(LAST), more: fc.nat(5) }),
      {
        maxLength: 7,
      },
    ),
    partials: fc.array(fc.record({ timeline: fc.integer({ min: 1, max: 4 }), number: fc.nat(LAST) }), {
      maxLength: 2,
    }),
    backups: fc.array(
      fc.record({
        timeline: fc.integer({ min: 1, max: 4 }),
        begin: fc.nat(LAST * QUARTERS),
        length: fc.integer({ min: 0, max: 6 }),
        spoilt,
      }),
      { maxLength: 4 },
    ),
  })
  .map(({ branches, lost, segments, partials, backups }) => {
    const histories = new Map<number, TimelineSwitch[]>();
    for (const [index, { parent, begin }] of branches.entries()) {
      const timeline = index + 2;
      const from = 1 + (parent % (timeline - 1));
      const before = histories.get(from) ?? [];
      const switchedAt =
        at(begin) > (before.at(-1)?.switchedAt ?? 0n) ? at(begin) : (before.at(-1)?.switchedAt ?? at(0));
      histories.set(timeline, [...before, { timeline: from, switchedAt }]);
    }
    for (const timeline of lost) histories.delete(timeline);
    const known = branches.length + 1;
    const present = new SegmentRanges(MiB);
    for (const { timeline, first, more } of segments) {
      if (timeline > known) continue;
      present.addRange(timeline, { first: BigInt(first), last: BigInt(Math.min(LAST, first + more)) });
    }
    return {
      histories,
      segments: present,
      partials: partials
        .filter(({ timeline }) => timeline <= known)
        .map(({ timeline, number }) => segmentName(timeline, BigInt(number), MiB)),
      backups: backups
        .filter(({ timeline }) => timeline <= known)
        .map(({ timeline, begin, length, spoilt: more }, index) =>
          backup(`b${index}`, timeline, begin, begin + length, more),
        ),
      systemId: '7711125222447432971',
    };
  });

const TIMELINES = [1, 2, 3, 4];
const POSITIONS = Array.from({ length: (LAST + 3) * QUARTERS }, (_, quarter) => at(quarter));

function reaches(facts: WindowFacts, timeline: number, lsn?: bigint): boolean {
  try {
    const targetLSN = lsn === undefined ? undefined : formatLsn(toLsn(lsn));
    planRecovery({ ...facts, now: 0, target: { targetTLI: String(timeline), targetLSN } });
    return true;
  } catch (error) {
    if (error instanceof BackupError) return false;
    throw error;
  }
}

/** The segment of a number that PostgreSQL asks for on the way to a timeline. */
function asked(facts: WindowFacts, timeline: number, number: number): number {
  const { steps } = pathTo(timeline, facts);
  return steps.findLast(({ beginsAt }) => beginsAt / BigInt(MiB) <= BigInt(number))?.timeline ?? timeline;
}

describe('recoverable intervals', () => {
  it('A6: an interval has exactly the moments that planRecovery reaches without acceptEnd', () => {
    fc.assert(
      fc.property(someArchive, (facts) => {
        const stretches = recoverableStretches(facts);
        for (const timeline of TIMELINES) {
          const inside = POSITIONS.map((lsn) =>
            stretches.some((one) => one.timeline === timeline && beginOf(one) <= lsn && lsn < one.reach.end),
          );
          expect(inside).toEqual(POSITIONS.map((lsn) => reaches(facts, timeline, lsn)));
        }
      }),
      { numRuns: 1500 },
    );
  });

  it('A6: what people are shown leaves out no moment, and has none twice over', () => {
    fc.assert(
      fc.property(someArchive, (facts) => {
        const all = recoverableStretches(facts);
        const shown = distinctStretches(all, facts);
        for (const one of all) {
          for (const lsn of POSITIONS.filter(
            (position) => beginOf(one) <= position && position < one.reach.end,
          )) {
            const sameContent = shown.some((other) => {
              if (beginOf(other) > lsn || lsn >= other.reach.end) return false;
              if (other.timeline === one.timeline) return true;
              const step = pathTo(other.timeline, facts).steps.find(
                ({ timeline }) => timeline === one.timeline,
              );
              return step?.endsAt !== undefined && lsn < step.endsAt;
            });
            expect(sameContent).toBe(true);
          }
        }
        for (const one of shown) expect(distinctStretches([...shown], facts)).toContain(one);
      }),
      { numRuns: 800 },
    );
  });

  it('A6: each missing segment of a way that a backup begins is named, and nothing else', () => {
    fc.assert(
      fc.property(someArchive, (facts) => {
        const expected = new Set<string>();
        const backups = completeBackups(facts);
        const timelines = TIMELINES.filter(
          (timeline) =>
            facts.histories.has(timeline) ||
            facts.segments.newest(timeline) !== undefined ||
            backups.some((one) => one.timeline === timeline),
        );
        for (const timeline of timelines) {
          const path = pathTo(timeline, facts);
          const begins = backups
            .filter((one) => offPath(one, path) === undefined)
            .map(({ beginLsn }) => Number(beginLsn / BigInt(MiB)));
          const isThere = (number: number) =>
            facts.segments.has(asked(facts, timeline, number), BigInt(number));
          for (let number = Math.min(...begins, 99); number <= LAST; number++) {
            const isFollowed = Array.from({ length: LAST - number }, (_, i) => number + 1 + i).some(isThere);
            if (!isThere(number) && isFollowed) expected.add(`${asked(facts, timeline, number)}/${number}`);
          }
        }
        const named = missingWal(facts).flatMap(({ timeline, first, last }) =>
          Array.from({ length: Number(last - first) + 1 }, (_, i) => `${timeline}/${Number(first) + i}`),
        );
        expect(named.toSorted()).toEqual([...expected].toSorted());
      }),
      { numRuns: 1500 },
    );
  });

  it('A6: a base backup is asked for exactly when there were some and none leads to the newest WAL', () => {
    fc.assert(
      fc.property(someArchive, (facts) => {
        const tip = facts.segments.timelines().at(-1);
        const taken = facts.backups.some(({ status }) => status === 'DONE');
        const expected = tip !== undefined && taken && !reaches(facts, tip);
        expect(needsBaseBackup(facts, new SegmentRanges(MiB))).toBe(expected);
      }),
      { numRuns: 1000 },
    );
  });

  it('D1, C4: taking segments out leaves exactly the others', () => {
    const numbers = fc.array(fc.nat(30), { maxLength: 20 });
    fc.assert(
      fc.property(numbers, numbers, (all, taken) => {
        const ranges = (list: readonly number[]) => {
          const made = new SegmentRanges(MiB);
          for (const number of list) made.addNumber(1, BigInt(number));
          return made;
        };
        const left = withoutSegments(ranges(all), ranges(taken));
        for (let number = 0; number <= 30; number++)
          expect(left.has(1, BigInt(number))).toBe(all.includes(number) && !taken.includes(number));
      }),
    );
  });
});

describe('a window with a hole', () => {
  const two = [backup('first', 1, 5, 6), backup('second', 1, 29, 30)];
  const facts = (more: Partial<WindowFacts>): WindowFacts => ({
    backups: two,
    histories: new Map(),
    segments: archive([1, 1, 12]),
    ...more,
  });
  const shown = (given: WindowFacts) =>
    distinctStretches(recoverableStretches(given), given).map(
      (one) =>
        `${one.timeline}: ${one.backups.map(({ backupId }) => backupId).join('+')} to ${formatLsn(one.reach.end)}`,
    );

  test.for<{
    why: string;
    given: Partial<WindowFacts>;
    intervals: string[];
    missing: string[];
    needs: boolean;
  }>([
    {
      why: 'none: one interval',
      given: {},
      intervals: ['1: first+second to 0/D00000'],
      missing: [],
      needs: false,
    },
    {
      why: 'between two backups: it is split, and the newer one still leads to the end',
      given: { segments: archive([1, 1, 3], [1, 6, 12]) },
      intervals: ['1: first to 0/400000', '1: second to 0/D00000'],
      missing: ['4-5'],
      needs: false,
    },
    {
      why: 'behind all backups: it ends there, and a backup is needed',
      given: { segments: archive([1, 1, 9], [1, 12, 12]) },
      intervals: ['1: first+second to 0/A00000'],
      missing: ['10-11'],
      needs: true,
    },
    {
      why: 'in the WAL of the newest backup: only the older one is left',
      given: { segments: archive([1, 1, 6], [1, 8, 12]) },
      intervals: ['1: first to 0/700000'],
      missing: ['7-7'],
      needs: true,
    },
    {
      why: 'before every backup: nobody cares',
      given: { segments: archive([1, 0, 0], [1, 1, 12]) },
      intervals: ['1: first+second to 0/D00000'],
      missing: [],
      needs: false,
    },
    {
      why: 'no backup at all: nothing is broken',
      given: { backups: [] },
      intervals: [],
      missing: [],
      needs: false,
    },
  ])('A6: $why', ({ given, intervals, missing, needs }) => {
    const all = facts(given);
    expect(shown(all)).toEqual(intervals);
    expect(missingWal(all).map(({ first, last }) => `${first}-${last}`)).toEqual(missing);
    expect(needsBaseBackup(all, new SegmentRanges(MiB))).toBe(needs);
  });

  it('a failover is one interval: what the old timeline shares with the new one is not listed twice', () => {
    const histories = new Map([[2, [{ timeline: 1, switchedAt: at(34) }]]]);
    const given = facts({ histories, segments: archive([1, 1, 7], [2, 8, 12]) });
    expect(shown(given)).toEqual(['2: first+second to 0/D00000']);
  });

  it('a damaged segment at the very end needs a backup before the next segment makes it a hole', () => {
    const given = facts({ segments: archive([1, 1, 11]) });
    expect(needsBaseBackup(given, archive([1, 12, 12]))).toBe(true);
    expect(needsBaseBackup(given, archive([1, 3, 3]))).toBe(false);
  });

  it('names the timelines whose history was lost, and not the one the archive begins with', () => {
    expect(lostHistories(facts({ segments: archive([1, 1, 5], [3, 5, 9]) }))).toEqual([3]);
    expect(lostHistories(facts({ segments: archive([3, 1, 9]), backups: [] }))).toEqual([]);
  });
});
