import { describe, expect, it, test } from 'vitest';
import { calendarOf } from '../../core/calendar-period.ts';
import { parseLsn, toLsn } from '../../core/lsn.ts';
import {
  planRetention,
  type RetentionBackup,
  type RetentionFacts,
  type RetentionPlan,
  type RetentionRules,
} from '../../core/retention.ts';
import { SegmentRanges } from '../../core/segment-ranges.ts';
import { segmentName } from '../../core/segment.ts';
import { growTimelineTree } from '../../core/timeline-tree.ts';

const MiB = 1024 * 1024;
const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const NOW = Date.UTC(2026, 10, 30, 12);
const SYSTEM = '7711125222447432971';
const ago = (days: number) => new Date(NOW - days * DAY);

/** A backup in segment `at`, that ended so many days ago. */
function backup(at: number, days: number, more: Partial<RetentionBackup> = {}): RetentionBackup {
  const begin = BigInt(at) * BigInt(MiB) + 0x28n;
  return {
    backupId: `at-${String(at).padStart(5, '0')}`,
    status: 'DONE',
    timeline: 1,
    beginLsn: toLsn(begin),
    endLsn: toLsn(begin + 0x1000n),
    beginTime: new Date(NOW - days * DAY - HOUR),
    endTime: ago(days),
    segmentSize: MiB,
    systemId: SYSTEM,
    ...more,
  };
}

function archive(...ranges: [timeline: number, first: number, last: number][]): SegmentRanges {
  const segments = new SegmentRanges(MiB);
  for (const [timeline, first, last] of ranges)
    segments.addRange(timeline, { first: BigInt(first), last: BigInt(last) });
  return segments;
}

const NO_RULES: RetentionRules = {
  minimum: 1,
  schedules: {},
  onlyWithProvenSuccessor: false,
  timezone: 'Etc/UTC',
};
const branch = (timeline: number, lsn: number) => ({ timeline, switchedAt: toLsn(BigInt(lsn * MiB)) });

function plan(backups: readonly RetentionBackup[], more: Partial<RetentionFacts> = {}): RetentionPlan {
  return planRetention({
    backups,
    histories: new Map(),
    segments: archive([1, 1, 100]),
    youngFrom: new Map(),
    windowMs: 7 * DAY,
    graceMs: 0,
    deadlineMs: 12 * HOUR,
    now: NOW,
    systemId: SYSTEM,
    ...more,
  });
}

const rules = (
  some: Partial<RetentionRules>,
  more: Partial<RetentionFacts> = {},
): Partial<RetentionFacts> => ({
  windowMs: undefined,
  policy: { ...NO_RULES, ...some },
  ...more,
});

/** The segments in which the backups with this decision begin. */
function which(result: RetentionPlan, decision: string): number[] {
  return result.backups
    .filter((one) => one.decision === decision)
    .map(({ backupId }) => Number(backupId.slice(3)))
    .toSorted((a, b) => a - b);
}
const reasonsOf = (result: RetentionPlan, at: number) =>
  result.backups.find(({ backupId }) => Number(backupId.slice(3)) === at)?.reasons.join('; ') ?? '';
const keptWal = (result: RetentionPlan, timeline = 1) =>
  result.wal
    .filter((range) => range.timeline === timeline && range.decision === 'keep')
    .map(({ first, last }) => `${first}-${last}`);

describe('the window of a Cluster', () => {
  test.for<{ why: string; ages: number[]; deleted: number[] }>([
    { why: 'the only backup stays, however old it is', ages: [400], deleted: [] },
    { why: 'a backup at the edge of the window is inside it', ages: [7, 6, 1], deleted: [] },
    { why: 'one backup from before the window opens it', ages: [30, 9, 8, 1], deleted: [1, 2] },
    { why: 'without any inside, the newest stays', ages: [30, 20, 10], deleted: [1, 2] },
  ])('D2: $why', ({ ages, deleted }) => {
    const result = plan(ages.map((days, index) => backup(index + 1, days)));
    expect(which(result, 'delete')).toEqual(deleted);
    expect(which(result, 'keep').length).toBe(ages.length - deleted.length);
  });

  it('tells the rule of each backup, and why the others may go', () => {
    const result = plan([backup(1, 30), backup(2, 8), backup(3, 1)]);
    expect(reasonsOf(result, 3)).toContain(
      'it ended in the recovery window, which begins at 2026-11-23T12:00:00.000Z',
    );
    expect(reasonsOf(result, 3)).toContain(`it is the newest that can be restored of system ${SYSTEM}`);
    expect(reasonsOf(result, 2)).toBe(
      'it opens the recovery window: the newest that ended before 2026-11-23T12:00:00.000Z',
    );
    expect(reasonsOf(result, 1)).toBe(
      'it ended at 2026-10-31T12:00:00.000Z; the recovery window of 7d keeps it no longer',
    );
    expect(result.wal.map(({ first, last, decision, reason }) => [first, last, decision, reason])).toEqual([
      [1n, 1n, 'delete', 'nothing that is kept needs what is before 000000010000000000000002'],
      [
        2n,
        100n,
        'keep',
        'backup at-00002, which begins at 0/200028, and 1 later ones need it or what follows',
      ],
    ]);
  });

  it('D1: a timeline that branched off before the newest old backup keeps an older one that leads to it', () => {
    // timeline 2 is a restore to segment 3, made five days ago; the window began with timeline 1
    const backups = [backup(1, 30), backup(2, 12), backup(5, 8), backup(6, 2, { timeline: 2 })];
    const histories = new Map([[2, [branch(1, 3.5)]]]);
    const result = plan(backups, { histories, segments: archive([1, 1, 7], [2, 3, 9]) });
    expect(which(result, 'delete')).toEqual([1]);
    expect(reasonsOf(result, 2)).toContain('on the way to timeline 2');
    expect(reasonsOf(result, 5)).toContain('on the way to timeline 1');
    // once a backup of timeline 2 is older than the window, timeline 1 is over
    const later = plan(backups, { histories, segments: archive([1, 1, 7], [2, 3, 9]), now: NOW + 6 * DAY });
    expect(which(later, 'delete')).toEqual([1, 2, 5]);
    expect(later.wal.find(({ timeline }) => timeline === 1)?.decision).toBe('delete');
  });

  it('D1: a timeline that somebody went back to, without a backup of it, keeps one that leads to it', () => {
    const backups = [backup(2, 20), backup(6, 12, { timeline: 2 }), backup(8, 1, { timeline: 2 })];
    const facts = {
      histories: new Map([[2, [branch(1, 5.5)]]]),
      segments: archive([1, 1, 9], [2, 5, 20]),
    };
    expect(which(plan(backups, facts), 'delete')).toEqual([2]);
    const later = plan(backups, { ...facts, lastStored: new Map([[1, NOW - 2 * DAY]]) });
    expect(reasonsOf(later, 2)).toContain('on the way to timeline 1');
  });

  it('D2: what can not be restored opens no window', () => {
    const result = plan(
      [
        backup(1, 20),
        backup(3, 12, { damage: 'data.tar is missing' }),
        backup(4, 10, { parentBackupId: 'at-00003' }),
        backup(5, 9, { status: 'FAILED' }),
        backup(6, 8),
        backup(7, 1),
      ],
      { segments: archive([1, 1, 5], [1, 7, 9]) },
    );
    expect(which(result, 'delete')).toEqual([]);
    expect(reasonsOf(result, 1)).toContain('opens the recovery window');
    expect(reasonsOf(result, 6)).toContain('000000010000000000000006 is missing');
  });
});

describe('the rules of a BackupPolicy', () => {
  const daily = Array.from({ length: 60 }, (_, index) => backup(index + 1, 59 - index));
  test.for<{ why: string; some: Partial<RetentionRules>; kept: number[] }>([
    { why: 'keepLast: the newest', some: { keepLast: 3 }, kept: [58, 59, 60] },
    { why: 'daily: the newest of each day', some: { daily: 2 }, kept: [59, 60] },
    // Sundays, and the day itself: it is a Monday
    { why: 'weekly: the newest of each week', some: { weekly: 3 }, kept: [52, 59, 60] },
    { why: 'monthly: the newest of each month', some: { monthly: 2 }, kept: [30, 60] },
    { why: 'more of a rule than there is', some: { monthly: 9, yearly: 9 }, kept: [30, 60] },
    { why: 'D2: minimum, whatever else is said', some: { minimum: 2 }, kept: [59, 60] },
    { why: 'D2: at least one', some: { minimum: 0 }, kept: [60] },
    { why: 'any rule is enough', some: { keepLast: 1, weekly: 2, monthly: 2 }, kept: [30, 59, 60] },
  ])('$why', ({ some, kept }) => {
    // more come in a month than on a day before: no flood
    expect(which(plan(daily, rules(some)), 'keep')).toEqual(kept);
  });

  it('a window beside them keeps what it keeps', () => {
    expect(which(plan(daily, { policy: { ...NO_RULES, monthly: 2 }, windowMs: 2 * DAY }), 'keep')).toEqual([
      30, 57, 58, 59, 60,
    ]);
  });

  it('D6: days begin where the policy says, also over a change of the clock', () => {
    const at = (text: string, index: number) =>
      backup(index, 0, { endTime: new Date(text), beginTime: new Date(text) });
    // 1 November 2026: New York goes from UTC-4 to UTC-5
    const backups = [
      '2026-11-01T03:30:00Z',
      '2026-11-01T04:30:00Z',
      '2026-11-02T04:30:00Z',
      '2026-11-02T05:30:00Z',
    ].map((text, index) => at(text, index + 1));
    const kept = (timezone: string) => which(plan(backups, rules({ daily: 3, timezone })), 'keep');
    expect(kept('America/New_York')).toEqual([1, 3, 4]);
    expect(kept('Etc/UTC')).toEqual([2, 4]);
    expect(calendarOf('America/New_York')(Date.parse('2027-01-01T04:59:59Z'), 'year')).toBe('2026');
    expect(calendarOf('Pacific/Auckland')(Date.parse('2026-12-31T12:00:00Z'), 'week')).toBe(
      'the week of 2026-12-28',
    );
  });

  it('of one schedule: further rules for its backups alone', () => {
    const mixed = daily.map((one, index) => (index % 2 === 0 ? { ...one, schedule: 'hourly' } : one));
    const result = plan(
      mixed,
      rules({ keepLast: 1, schedules: { hourly: { keepLast: 2 }, gone: { daily: 3 } } }),
    );
    expect(which(result, 'keep')).toEqual([57, 59, 60]);
    expect(reasonsOf(result, 57)).toBe('keepLast: it is one of the newest 2 of schedule hourly');
  });

  it('onlyWithProvenSuccessor: nothing goes until a newer one was restored', () => {
    const some = { onlyWithProvenSuccessor: true };
    expect(which(plan(daily, rules(some)), 'delete')).toEqual([]);
    const proven = daily.map((one, index) => (index === 1 ? { ...one, provenAt: ago(1) } : one));
    const result = plan(proven, rules(some));
    expect(which(result, 'delete')).toEqual([1]);
    expect(reasonsOf(result, 2)).toContain('no newer backup has been restored successfully yet');
  });

  it('what failed stays as long as the backups of its time, and without a policy for ever', () => {
    const backups = [
      backup(1, 30, { status: 'FAILED' }),
      backup(2, 20),
      backup(3, 3, { status: 'FAILED' }),
      backup(4, 4),
    ];
    expect(which(plan(backups, rules({ keepLast: 1 })), 'delete')).toEqual([1, 2]);
    const window = plan(backups, { windowMs: 3 * DAY });
    expect(which(window, 'delete')).toEqual([2]);
    expect(window.warnings.join()).toContain('2 backups failed or died');
  });
});

describe('what keeps a backup whatever the rules say', () => {
  const old = (more: Partial<RetentionBackup>) => [backup(2, 50, more), backup(10, 9), backup(20, 1)];

  it("D1: barman's keep full: the backup and all WAL after it", () => {
    const result = plan(old({ keep: 'full' }));
    expect(which(result, 'delete')).toEqual([]);
    expect(keptWal(result)).toEqual(['2-100']);
  });

  it("D1: barman's keep standalone: the backup and the WAL from its begin to its end", () => {
    const result = plan(old({ keep: 'standalone', endLsn: parseLsn('0/400010') }));
    expect(which(result, 'delete')).toEqual([]);
    expect(keptWal(result)).toEqual(['2-4', '10-100']);
    expect(result.wal.find(({ first }) => first === 2n)?.reason).toBe(
      'backup at-00002, kept by itself, needs it',
    );
    // kept by a rule as well, it needs what follows
    expect(keptWal(plan(old({ keep: 'standalone' }), { windowMs: 60 * DAY }))).toEqual(['2-100']);
  });

  it('D5: a hold, with all WAL after it; and WAL that is held', () => {
    const result = plan(old({ hold: 'restore db-2 runs' }));
    expect(reasonsOf(result, 2)).toBe('it is held: restore db-2 runs');
    expect(keptWal(result)).toEqual(['2-100']);
    const held = plan(old({}), { walHolds: [{ timeline: 1, from: 5n, why: 'restore db-2 reads it' }] });
    expect(which(held, 'delete')).toEqual([2]);
    expect(held.wal.map(({ first, reason }) => [first, reason]).slice(1, 2)).toEqual([
      [5n, 'restore db-2 reads it'],
    ]);
  });

  it('D5: WAL that is held on a timeline is held on those that left it later', () => {
    const result = plan([backup(41, 9, { timeline: 4 }), backup(50, 1, { timeline: 4 })], {
      histories: new Map([
        [2, [branch(1, 20.5)]],
        [3, [branch(1, 4.5)]],
        [4, [branch(1, 4.5), branch(3, 40.5)]],
      ]),
      segments: archive([1, 1, 20], [2, 20, 30], [3, 4, 40], [4, 40, 60]),
      walHolds: [{ timeline: 1, from: 10n, why: 'restore db-2 reads it' }],
    });
    expect(keptWal(result, 1)).toEqual(['10-20']);
    expect(keptWal(result, 2)).toEqual(['20-30']);
    expect(keptWal(result, 3)).toEqual([]);
  });

  it('D5: a backup that runs, and all WAL when it does not say since where', () => {
    const running = { status: 'STARTED', endTime: undefined, endLsn: undefined, beginTime: ago(0.1) };
    const result = plan([...old({}), backup(1, 0, running)]);
    expect(which(result, 'delete')).toEqual([2]);
    expect(keptWal(result)).toEqual(['1-100']);
    const silent = { ...running, beginLsn: undefined, timeline: undefined };
    const nothing = plan([...old({}), backup(1, 0, silent)]);
    expect(which(nothing, 'delete')).toEqual([2]);
    expect(keptWal(nothing)).toEqual(['1-100']);
    expect(nothing.wal[0]?.reason).toContain('where it began is not known');
  });

  it('D5: what was stored within the grace period, backups and WAL', () => {
    const result = plan([backup(2, 50), backup(3, 2), backup(4, 1.5)], {
      ...rules({ keepLast: 1 }),
      graceMs: 2 * DAY + 1,
      youngFrom: new Map([[1, 1n]]),
    });
    expect(which(result, 'mark')).toEqual([2]);
    expect(reasonsOf(result, 3)).toContain('it is younger than the grace period of 2d');
    expect(keptWal(result)[0]).toBe('1-1');
  });

  it('B7, D1: what others are built on; a chain dies from its end', () => {
    const chain = [
      backup(2, 50),
      backup(3, 49, { parentBackupId: 'at-00002' }),
      backup(20, 9),
      backup(30, 1),
    ];
    expect(which(plan(chain), 'delete')).toEqual([2, 3]);
    const held = plan(chain.map((one, index) => (index === 1 ? { ...one, hold: 'a restore' } : one)));
    expect(reasonsOf(held, 2)).toBe('backup at-00003 is built on it');
    const due = plan(
      chain.map((one, index) => (index === 0 ? { ...one, tombstonedAt: ago(5) } : one)),
      { graceMs: DAY },
    );
    expect([which(due, 'mark'), which(due, 'wait')]).toEqual([[3], [2]]);
    expect(reasonsOf(due, 2)).toContain('backup at-00003, which is built on it, has to go first');
  });

  it('D2: volume snapshots, which are said not to be covered', () => {
    const result = plan(old({ snapshots: true }));
    expect(which(result, 'delete')).toEqual([]);
    expect(result.warnings).toContain('1 backups are volume snapshots, which retention does not cover');
  });

  it('D2: each system its own newest; after pg_upgrade with timelines from 1 on the new ones are not the old ones', () => {
    const before = [backup(1, 40), backup(2, 30), backup(3, 20)].map((one) => ({
      ...one,
      systemId: '1',
      timeline: 11,
    }));
    const after = [backup(60, 12), backup(70, 9), backup(80, 1)];
    const histories = new Map([[11, [branch(1, 0.5)]]]);
    const result = plan([...before, ...after], { histories, segments: archive([1, 60, 100], [11, 1, 10]) });
    expect(which(result, 'delete')).toEqual([1, 2, 60]);
    expect(reasonsOf(result, 3)).toContain('the newest that can be restored of system 1');
    expect(keptWal(result, 11)).toEqual(['3-10']);
  });
});

describe('tombstones', () => {
  const going = (more: Partial<RetentionBackup> = {}) => [backup(1, 50, more), backup(10, 9), backup(20, 1)];

  it('D4: marked, waiting, deleted; the WAL stays until then', () => {
    const marked = plan(going(), { graceMs: DAY });
    expect(marked.backups.at(-1)).toMatchObject({ decision: 'mark', dueAt: NOW + DAY });
    expect(keptWal(marked)).toEqual(['1-100']);
    const waiting = plan(going({ tombstonedAt: ago(0.5) }), { graceMs: DAY });
    expect(waiting.backups.at(-1)).toMatchObject({ decision: 'wait', dueAt: NOW + DAY / 2 });
    const due = plan(going({ tombstonedAt: ago(1) }), { graceMs: DAY });
    expect(which(due, 'delete')).toEqual([1]);
    expect(keptWal(due)).toEqual(['10-100']);
  });

  it('D4: taken back when something keeps the backup again; not when its data are gone', () => {
    const hold = { tombstonedAt: ago(3), keep: 'full' } as const;
    expect(plan(going(hold), { graceMs: DAY }).backups.at(-1)).toMatchObject({
      decision: 'keep',
      takeBack: true,
    });
    const begun = plan(going({ ...hold, deletionBegan: true }), { graceMs: DAY });
    expect(which(begun, 'delete')).toEqual([1]);
    expect(reasonsOf(begun, 1)).toContain('its deletion has begun');
  });

  it('D4: due when the longer of two grace periods is over: that it was placed under, and that of today', () => {
    const under = (markGraceMs: number, days: number) =>
      plan(going({ tombstonedAt: ago(days), markGraceMs }), { graceMs: DAY });
    const early = under(3 * DAY, 2);
    expect(early.backups.at(-1)).toMatchObject({ decision: 'wait', dueAt: NOW + DAY });
    expect(reasonsOf(early, 1)).toContain('it was marked under a grace period of 3d');
    expect(keptWal(early)).toEqual(['1-100']);
    expect(which(under(3 * DAY, 3), 'delete')).toEqual([1]);
    expect(which(under(HOUR, 0.5), 'wait')).toEqual([1]);
    expect(under(Number.NaN, 9).refused).toContain('no span of time');
  });

  it('D5: the slower of two clocks tells when a tombstone is due', () => {
    const slow = { storeNow: NOW - 10 * 60_000 };
    expect(which(plan(going({ tombstonedAt: ago(1) }), { graceMs: DAY, ...slow }), 'wait')).toEqual([1]);
  });

  it('D3: no retentionPolicy and no BackupPolicy: nothing is marked or deleted, and tombstones are taken back', () => {
    const result = plan(going({ tombstonedAt: ago(9) }), { windowMs: undefined });
    expect(which(result, 'keep')).toEqual([1, 10, 20]);
    expect(result.refused).toBeUndefined();
    expect(result.backups.at(-1)?.takeBack).toBe(true);
    expect(keptWal(result)).toEqual(['1-100']);
  });

  it('D3: what the caller says against any decision holds, also without rules', () => {
    const undecidable = 'a hold that was asked for is not placed yet';
    for (const windowMs of [undefined, 7 * DAY]) {
      const result = plan(going({ tombstonedAt: ago(9) }), { windowMs, undecidable });
      expect(result.refused).toBe(`nothing is deleted: ${undecidable}`);
      expect(['mark', 'wait', 'delete'].flatMap((decision) => which(result, decision))).toEqual([]);
      expect(result.backups.some(({ takeBack }) => takeBack)).toBe(false);
      expect(keptWal(result)).toEqual(['1-100']);
    }
  });
});

describe('what forbids every deletion', () => {
  const due = backup(1, 50, { tombstonedAt: ago(40) });
  const good = [due, backup(10, 9), backup(20, 1)];
  const many = Array.from({ length: 30 }, (_, index) => backup(index + 1, 60 - index));
  const today = (count: number) => Array.from({ length: count }, (_, index) => backup(70 + index, 0.5));

  test.for<{ why: string; backups?: RetentionBackup[]; more?: Partial<RetentionFacts>; refused: RegExp }>([
    {
      why: 'D3: a record that can not be read',
      backups: [
        ...good,
        { backupId: 'at-00030', status: 'EMPTY', segmentSize: MiB, problem: 'line 3 is odd' },
      ],
      refused: /backup at-00030: line 3 is odd/,
    },
    {
      why: 'D3: a record that says too little',
      backups: [...good, backup(30, 3, { beginLsn: undefined })],
      refused: /does not say where/,
    },
    {
      why: 'D3: a record that contradicts itself',
      backups: [...good, backup(30, 3, { endLsn: toLsn(1n) })],
      refused: /contradictory/,
    },
    {
      why: 'D3: a backup older than its timeline',
      backups: [...good, backup(2, 3, { timeline: 2 })],
      more: { histories: new Map([[2, [branch(1, 5)]]]) },
      refused: /before its timeline 2 did/,
    },
    {
      why: 'D3: another size of segments',
      backups: [...good, backup(30, 3, { segmentSize: 16 * MiB })],
      refused: /16777216/,
    },
    {
      why: 'D3: a backup twice',
      backups: [...good, good[1] as RetentionBackup],
      refused: /at-00010 is listed twice/,
    },
    {
      why: 'D3: an odd listing',
      more: { doubts: ['a page of the listing came twice'] },
      refused: /came twice/,
    },
    {
      why: 'D3: an unknown timeline',
      more: { segments: archive([1, 1, 100], [3, 5, 9]) },
      refused: /no 00000003.history/,
    },
    {
      why: 'D3: a partial of an unknown timeline',
      more: { partials: [segmentName(3, 5n, MiB)] },
      refused: /timeline 3/,
    },
    {
      why: 'D3: histories that contradict each other',
      more: {
        histories: new Map([
          [2, [branch(1, 5)]],
          [3, [branch(1, 6), branch(2, 7)]],
        ]),
      },
      refused: /00000003.history tells another descent of timeline 2/,
    },
    {
      why: 'D3: a history that leads backwards',
      more: { histories: new Map([[3, [branch(1, 6), branch(2, 5)]]]) },
      refused: /00000003.history leaves timeline 2/,
    },
    { why: 'D3: a time zone nobody knows', more: rules({ timezone: 'Mars/Olympus' }), refused: /Mars/ },
    { why: 'D3: a window that is none', more: { windowMs: Number.NaN }, refused: /no span of time/ },
    {
      why: 'D2: nothing that can be restored',
      backups: [due, backup(200, 1)],
      more: { segments: archive([1, 5, 9]) },
      refused: /no backup can be restored/,
    },
    {
      why: 'D2: nothing of the system that the archive belongs to',
      more: { systemId: '99' },
      refused: /no backup of system 99/,
    },
    { why: 'D2: no backup at all', backups: [], refused: /there is no backup/ },
    { why: 'D6: two clocks that differ', more: { storeNow: NOW + 20 * 60_000 }, refused: /differ by 20m/ },
    { why: 'D6: this clock is two days behind', more: { storeNow: NOW + 2 * DAY }, refused: /differ by 2d/ },
    {
      why: 'D6: a backup from the future',
      backups: [...good, backup(30, -1)],
      more: { storeNow: NOW },
      refused: /began in the future.*\(delete it by hand, or put a keep on it\)/,
    },
    {
      why: 'D6: backups from the future, and nobody is told to delete them',
      backups: [...good, backup(30, -1), backup(40, -2)],
      more: { storeNow: NOW },
      refused:
        /^(?=.*began in the future.*began in the future)(?!.*\(delete it by hand).*delete none by hand/,
    },
    {
      why: 'D6: a backup from the future where the store’s time is not known: the clock is named first',
      backups: [...good, backup(30, -1)],
      refused:
        /^nothing is deleted: this host's clock \(.*\) may be behind: (?!.*by hand).*began in the future/,
    },
    {
      why: 'D6: a backup of the future by two clocks that differ',
      backups: [...good, backup(30, -1)],
      more: { storeNow: NOW + 20 * 60_000 },
      refused: /^nothing is deleted: the clock of this host (?!.*by hand).*began in the future/,
    },
    {
      why: 'D6: a record stored in the future',
      backups: [...good, backup(30, 1, { storedAt: ago(-1) })],
      refused: /was stored in the future/,
    },
    {
      why: 'D6: a backup that ended after it was stored',
      backups: [...good, backup(30, 1, { storedAt: ago(2) })],
      more: { storeNow: NOW },
      refused: /was stored before that.*delete it by hand, or put a keep on it/,
    },
    {
      why: 'D6: a backup that ended before it began',
      backups: [...good, backup(30, 0.5, { beginTime: ago(0.1) })],
      refused: /and ended before that/,
    },
    {
      why: 'D6: times against the order of the WAL',
      backups: [...good, backup(30, 5)],
      more: { storeNow: NOW },
      refused: /at-00030: by its times it ended before backup at-00020(?!.*\(delete it by hand)/,
    },
    {
      why: 'D6: a time that is none',
      backups: [...good, backup(30, 5, { endTime: new Date(Number.NaN) })],
      refused: /in the future, at NaN/,
    },
    {
      why: 'D6: a flood of new backups',
      backups: [...good, ...today(11)],
      more: rules({ keepLast: 3 }),
      refused: /11 backups came within a day, and never more than 1 on a day before/,
    },
    {
      why: 'D6: most would go while no new ones come',
      backups: many,
      refused: /29 of 30 backups would go at once, and none is younger than the window of 7d/,
    },
  ])('$why', ({ backups = good, more = {}, refused }) => {
    const result = plan(backups, more);
    expect(result.refused).toMatch(/^nothing is deleted: /);
    expect(result.refused).toMatch(refused);
    for (const { decision, reasons } of result.backups) {
      expect(['keep', 'undecided']).toContain(decision);
      expect(reasons.length).toBeGreaterThan(0);
    }
    for (const { decision, reason } of [...result.wal, ...result.histories, ...result.partials]) {
      expect([decision, reason]).toEqual(['keep', result.refused]);
    }
    // and nothing but that stood in the way
    expect(which(plan(good), 'delete')).toEqual([1]);
  });

  test.for<{ why: string; backups: RetentionBackup[]; more?: Partial<RetentionFacts>; deleted: number[] }>([
    { why: 'an hour, as at a change of the clock', backups: [...good, backup(30, 1 + 1 / 24)], deleted: [1] },
    {
      why: 'times without a zone that are half a day off',
      backups: [...good, backup(30, -0.3, { hasTimesWithoutZone: true })],
      deleted: [1],
    },
    {
      why: 'clocks that differ by minutes',
      backups: good,
      more: { storeNow: NOW - 5 * 60_000 },
      deleted: [1],
    },
    {
      why: 'a wrong time that somebody looked at, and put a keep on',
      backups: [...good, backup(30, 5, { keep: 'standalone' })],
      deleted: [1],
    },
    {
      why: 'a time in the future that somebody looked at, where the store’s is not known',
      backups: [...good, backup(30, -1, { keep: 'standalone' })],
      deleted: [1],
    },
    {
      why: 'as many as on a busy day before',
      backups: [...good, ...today(11), ...Array.from({ length: 4 }, (_, i) => backup(50 + i, 3))].filter(
        ({ backupId }) => backupId !== 'at-00020',
      ),
      more: rules({ keepLast: 15 }),
      deleted: [1, 10],
    },
    {
      why: 'most at once, while new ones come',
      backups: [...many, backup(40, 1)],
      deleted: many.slice(0, -1).map((_, index) => index + 1),
    },
  ])('no reason to stop: $why', ({ backups, more = {}, deleted }) => {
    const result = plan(backups, more);
    expect(result.refused).toBeUndefined();
    expect(which(result, 'delete')).toEqual(deleted);
  });

  it('D6: a copied repository loses nothing: what either time keeps stays, and it is said', () => {
    const copied = Array.from({ length: 9 }, (_, index) =>
      backup(index + 1, 90 - index * 10, { storedAt: ago(2) }),
    );
    const window = plan(copied);
    expect(which(window, 'delete')).toEqual([]);
    expect(window.warnings.join()).toContain('as when a repository is copied');
    // of the months, too
    expect(which(plan(copied, rules({ monthly: 3 })), 'keep')).toEqual([3, 7, 9]);
  });

  it('D6, S6: backups with chosen times, added by somebody else, take no place of an old one', () => {
    const months = [backup(1, 61), backup(2, 31), backup(3, 1)];
    const planted = [backup(30, 60.9), backup(40, 30.9)].map((one) => ({
      ...one,
      storedAt: ago(0.01),
      timeline: 2,
    }));
    const histories = new Map([[2, [branch(1, 25)]]]);
    const result = plan([...months, ...planted], {
      ...rules({ monthly: 3 }),
      histories,
      segments: archive([1, 1, 100], [2, 25, 100]),
    });
    expect(which(result, 'delete')).toEqual([]);
  });
});

describe('the WAL', () => {
  const branched = new Map([
    [2, [branch(1, 50.5)]],
    [3, [branch(1, 20.5)]],
  ]);

  it('D1: descendants that left after the begin stay whole, older branches go, the parent stays', () => {
    const backups = [backup(30, 9), backup(60, 1, { timeline: 2 })];
    const segments = archive([1, 1, 55], [2, 50, 70], [3, 20, 40]);
    const result = plan(backups, { histories: branched, segments, policy: NO_RULES });
    expect(keptWal(result, 1)).toEqual(['30-55']);
    expect(keptWal(result, 2)).toEqual(['50-70']);
    // no backup leads to timeline 3, and it is the newest
    expect(keptWal(result, 3)).toEqual(['20-40']);
    const later = plan([...backups, backup(41, 0.5, { timeline: 4 })], {
      histories: new Map([...branched, [4, [branch(1, 20.5), branch(3, 40.5)]]]),
      segments: archive([1, 1, 55], [2, 50, 70], [3, 20, 40], [4, 40, 45]),
    });
    expect(keptWal(later, 3)).toEqual([]);
    expect(later.wal.find(({ timeline }) => timeline === 3)?.reason).toBe(
      'nothing that is kept can be recovered along timeline 3',
    );
  });

  it('D1: holes are no end: what lies behind one stays', () => {
    const result = plan([backup(2, 9), backup(4, 1)], { segments: archive([1, 1, 2], [1, 4, 5], [1, 9, 9]) });
    expect(keptWal(result)).toEqual(['2-2', '4-5', '9-9']);
  });

  it('a .partial follows its segment', () => {
    const result = plan([backup(10, 9), backup(20, 1)], {
      partials: [segmentName(1, 9n, MiB), segmentName(1, 50n, MiB)],
    });
    expect(result.partials.map(({ decision }) => decision)).toEqual(['delete', 'keep']);
  });

  it('A7: a history goes when nothing of its timeline or its descendants is left, and no older one looks for it', () => {
    const histories = new Map([
      [2, [branch(1, 5)]],
      [3, [branch(1, 6)]],
      [4, [branch(1, 6), branch(3, 30)]],
    ]);
    const labels = [segmentName(2, 5n, MiB), segmentName(3, 7n, MiB)];
    const segments = archive([1, 1, 6], [2, 5, 8], [3, 6, 30], [4, 30, 60]);
    const result = plan([backup(2, 50), backup(40, 9, { timeline: 4 }), backup(50, 1, { timeline: 4 })], {
      histories,
      segments,
      labels,
    });
    expect(which(result, 'delete')).toEqual([2]);
    expect(result.histories.map(({ name, decision }) => [name, decision])).toEqual([
      ['00000002.history', 'delete'],
      ['00000003.history', 'keep'],
      ['00000004.history', 'keep'],
    ]);
    expect(result.labels.map(({ decision }) => decision)).toEqual(['delete', 'keep']);
    // with something of timeline 1 left, recovery along it would miss the ones behind timeline 2
    const kept = plan(
      [backup(2, 50, { keep: 'standalone' }), backup(40, 9, { timeline: 4 }), backup(50, 1, { timeline: 4 })],
      { histories, segments },
    );
    expect(kept.histories[0]).toMatchObject({
      decision: 'keep',
      reason: 'recovery along an older timeline looks for it',
    });
  });

  it('an archive may begin with any timeline; a descendant tells what the missing history would', () => {
    const segments = archive([3, 1, 20], [4, 20, 30], [5, 30, 100]);
    const histories = new Map([[5, [branch(3, 20.5), branch(4, 30.5)]]]);
    const backups = [
      backup(2, 50, { timeline: 3 }),
      backup(10, 9, { timeline: 3 }),
      backup(40, 1, { timeline: 5 }),
    ];
    const result = plan(backups, { segments, histories });
    expect(result.refused).toBeUndefined();
    expect(which(result, 'delete')).toEqual([2]);
    expect(growTimelineTree(histories, [3, 4, 5]).pathOf(4)).toEqual([
      { timeline: 3, beginsAt: 0n, endsAt: branch(3, 20.5).switchedAt },
      { timeline: 4, beginsAt: branch(3, 20.5).switchedAt },
    ]);
  });
});

it('plans 10,000 backups and 10 million segments in a moment', () => {
  const histories = new Map<number, ReturnType<typeof branch>[]>();
  const segments = new SegmentRanges(MiB);
  const perTimeline = 200_000n;
  for (let timeline = 1; timeline <= 50; timeline++) {
    if (timeline > 1)
      histories.set(timeline, [
        ...(histories.get(timeline - 1) ?? []),
        { timeline: timeline - 1, switchedAt: toLsn(BigInt(timeline - 1) * perTimeline * BigInt(MiB)) },
      ]);
    const first = BigInt(timeline - 1) * perTimeline;
    for (let part = 0n; part < 100n; part++)
      segments.addRange(timeline, { first: first + part * 2000n, last: first + part * 2000n + 1998n });
    segments.addRange(timeline, { first: first + perTimeline - 1n, last: first + perTimeline - 1n });
  }
  const backups = Array.from({ length: 10_000 }, (_, index) =>
    backup(index * 1000 + 7, (10_000 - index) / 8, {
      timeline: Math.floor(index / 200) + 1,
      backupId: `at-${index}`,
      storedAt: new Date(NOW - ((10_000 - index) / 8) * DAY + HOUR),
      ...(index % 100 === 0 ? { keep: 'standalone' } : {}),
    }),
  );
  const begin = performance.now();
  const result = plan(backups, {
    histories,
    segments,
    windowMs: 30 * DAY,
    policy: {
      ...NO_RULES,
      keepLast: 7,
      daily: 7,
      weekly: 4,
      monthly: 12,
      yearly: 3,
      onlyWithProvenSuccessor: false,
    },
  });
  const seconds = (performance.now() - begin) / 1000;
  expect(result.refused).toBeUndefined();
  expect(which(result, 'delete').length).toBeGreaterThan(9000);
  expect(segments.count()).toBeGreaterThan(9_900_000n);
  expect(seconds).toBeLessThan(5);
});
