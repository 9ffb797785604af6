import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { formatLsn, parseLsn, toLsn, type Lsn } from '../../core/lsn.ts';
import {
  planRecovery,
  type RecoveryBackup,
  type RecoveryFacts,
  type RecoveryTarget,
} from '../../core/recovery.ts';
import { SegmentRanges } from '../../core/segment-ranges.ts';
import { segmentName, type SegmentName } from '../../core/segment.ts';
import type { TimelineSwitch } from '../../core/timeline.ts';

const MiB = 1024 * 1024;
const NOW = Date.UTC(2026, 10, 30);

/** A backup that begins in segment `at` of 1 MiB and ends in the same one, an hour per segment after midnight. */
function backup(
  backupId: string,
  timeline: number,
  at: number,
  more: Partial<RecoveryBackup> = {},
): RecoveryBackup {
  const begin = BigInt(at) * BigInt(MiB) + 0x28n;
  return {
    backupId,
    status: 'DONE',
    timeline,
    beginLsn: toLsn(begin),
    endLsn: toLsn(begin + 0x1000n),
    beginTime: new Date(Date.UTC(2026, 10, 22, at)),
    endTime: new Date(Date.UTC(2026, 10, 22, at, 30)),
    segmentSize: MiB,
    systemId: '7711125222447432971',
    ...more,
  };
}

function archive(...ranges: [timeline: number, first: number, last: number][]): SegmentRanges {
  const segments = new SegmentRanges(MiB);
  for (const [timeline, first, last] of ranges)
    segments.addRange(timeline, { first: BigInt(first), last: BigInt(last) });
  return segments;
}

const name = (timeline: number, number: number) => segmentName(timeline, BigInt(number), MiB);
const lsn = (segment: number, offset = 0) => toLsn(BigInt(segment) * BigInt(MiB) + BigInt(offset));
const text = (segment: number, offset = 0) => formatLsn(lsn(segment, offset));
const histories = (entries: Record<number, [timeline: number, at: Lsn][]>) =>
  new Map(
    Object.entries(entries).map(([timeline, switches]) => [
      Number(timeline),
      switches.map(([from, switchedAt]): TimelineSwitch => ({ timeline: from, switchedAt })),
    ]),
  );

function plan(target: RecoveryTarget, facts: Partial<RecoveryFacts> = {}) {
  return planRecovery({
    backups: [backup('20261122T020000', 1, 2), backup('20261122T050000', 1, 5)],
    histories: new Map(),
    segments: archive([1, 1, 9]),
    now: NOW,
    ...facts,
    target,
  });
}

function refusal(target: RecoveryTarget, facts: Partial<RecoveryFacts> = {}): BackupError {
  try {
    plan(target, facts);
  } catch (error) {
    if (error instanceof BackupError) return error;
    throw error;
  }
  throw new Error('the plan was not refused');
}

describe('the choice of a backup', () => {
  test.for<{ why: string; target: RecoveryTarget; chosen: string }>([
    { why: 'to the end: the newest, which has the least to replay', target: {}, chosen: '20261122T050000' },
    {
      why: 'a time: the newest that ended before it',
      target: { targetTime: '2026-11-22 05:29:59Z' },
      chosen: '20261122T020000',
    },
    {
      why: 'a time equal to the end of a backup: that backup',
      target: { targetTime: '2026-11-22T05:30:00Z' },
      chosen: '20261122T050000',
    },
    {
      why: 'a time in another zone is the same time',
      target: { targetTime: '2026-11-22T06:29:59+01:00' },
      chosen: '20261122T020000',
    },
    {
      why: 'a time without a zone is UTC',
      target: { targetTime: '2026-11-22 05:30:00' },
      chosen: '20261122T050000',
    },
    {
      why: 'an LSN: the newest that ended before it',
      target: { targetLSN: text(5, 0x1027) },
      chosen: '20261122T020000',
    },
    {
      why: 'an LSN equal to the end of a backup: that backup',
      target: { targetLSN: text(5, 0x1028) },
      chosen: '20261122T050000',
    },
    { why: 'an id: that one', target: { backupID: '20261122T020000' }, chosen: '20261122T020000' },
    { why: 'a word for an id', target: { targetXID: '731', backupID: 'oldest' }, chosen: '20261122T020000' },
    {
      why: 'the other word',
      target: { targetImmediate: true, backupID: 'newest' },
      chosen: '20261122T050000',
    },
  ])('$why', ({ target, chosen }) => {
    expect(plan(target).backupId).toBe(chosen);
  });

  test.for<{ why: string; more: Partial<RecoveryBackup>; reason: RegExp }>([
    { why: 'a failed one', more: { status: 'FAILED' }, reason: /FAILED/ },
    { why: 'a running one', more: { status: 'STARTED' }, reason: /running/ },
    { why: 'one without a status', more: { status: 'EMPTY' }, reason: /EMPTY/ },
    { why: 'an unreadable one', more: { problem: 'its record is unreadable: line 3' }, reason: /line 3/ },
    { why: 'an incremental one', more: { parentBackupId: '20261122T020000' }, reason: /incremental/ },
    { why: 'one of volume snapshots', more: { snapshots: true }, reason: /snapshots/ },
    { why: 'one without an end', more: { endTime: undefined }, reason: /does not say/ },
    { why: 'one of another system', more: { systemId: '1' }, reason: /system 1/ },
    { why: 'one of another segment size', more: { segmentSize: 16 * MiB }, reason: /16777216/ },
    { why: 'one that ends before it begins', more: { endLsn: lsn(1) }, reason: /contradictory/ },
  ])('C4: $why is never chosen, and the plan says why', ({ more, reason }) => {
    const backups = [backup('20261122T020000', 1, 2), backup('20261122T050000', 1, 5, more)];
    const result = plan({}, { backups, systemId: '7711125222447432971' });
    expect(result.backupId).toBe('20261122T020000');
    expect(result.excluded).toEqual([{ backupId: '20261122T050000', reason: expect.stringMatching(reason) }]);
    const refused = refusal({ backupID: '20261122T050000' }, { backups, systemId: '7711125222447432971' });
    expect(refused.code).toBe('backup-unusable');
    expect(refused.message).toMatch(reason);
  });

  test.for<{ why: string; target: RecoveryTarget }>([
    { why: 'a transaction id', target: { targetXID: '731' } },
    { why: 'a restore point', target: { targetName: 'before-migration' } },
    { why: 'an immediate end', target: { targetImmediate: true } },
  ])('$why needs a chosen backup, and the refusal lists those there are', ({ target }) => {
    const refused = refusal(target);
    expect(refused.code).toBe('usage');
    expect(refused.message).toContain('20261122T050000 (ended 2026-11-22T05:30:00.000Z)');
    expect(refused.hint).toContain('--backup-id');
  });

  it('names an unknown backup and those there are', () => {
    const refused = refusal({ backupID: '20261122T090000' });
    expect(refused.code).toBe('backup-unknown');
    expect(refused.message).toContain('20261122T020000');
  });

  it('finds a backup by its name', () => {
    const backups = [
      backup('20261122T020000', 1, 2, { backupName: 'before-migration' }),
      backup('20261122T050000', 1, 5),
    ];
    expect(plan({ backupID: 'before-migration' }, { backups }).backupId).toBe('20261122T020000');
  });

  it('B1: leaves out a backup whose own WAL is incomplete', () => {
    const result = plan({}, { segments: archive([1, 1, 4], [1, 6, 9]), acceptEnd: true });
    expect(result.backupId).toBe('20261122T020000');
    expect(result.excluded[0]?.reason).toContain(name(1, 5));
  });

  it('refuses an empty repository', () => {
    expect(refusal({}, { backups: [] }).code).toBe('target-unreachable');
  });
});

describe('what PostgreSQL is told', () => {
  test.for<{ target: RecoveryTarget; settings: Record<string, string> }>([
    { target: {}, settings: {} },
    {
      target: { targetTime: '2026-11-22T08:00:00.25+01:00' },
      settings: { recovery_target_time: '2026-11-22 07:00:00.25+00' },
    },
    {
      target: { targetLSN: '0/00812345', exclusive: true },
      settings: { recovery_target_lsn: '0/812345', recovery_target_inclusive: 'false' },
    },
    { target: { targetXID: '731', backupID: 'newest' }, settings: { recovery_target_xid: '731' } },
    { target: { targetName: "it's", backupID: 'newest' }, settings: { recovery_target_name: "it's" } },
    { target: { targetImmediate: true, backupID: 'newest' }, settings: { recovery_target: 'immediate' } },
  ])('$settings', ({ target, settings }) => {
    expect(plan(target).settings).toEqual({
      recovery_target_timeline: '1',
      recovery_target_inclusive: 'true',
      ...settings,
    });
  });

  test.for<RecoveryTarget>([
    { targetTime: '2026-11-22', targetXID: '3' },
    { targetTime: '2026-02-30' },
    { targetTime: 'yesterday' },
    { targetLSN: '0/0', targetName: 'x' },
    { targetXID: '4294967296', backupID: 'newest' },
    { targetXID: '-1', backupID: 'newest' },
    { targetName: 'n'.repeat(64), backupID: 'newest' },
    { targetName: 'a\nb', backupID: 'newest' },
    { targetTLI: '0' },
    { targetTLI: 'newest' },
  ])('refuses %j', (target) => {
    expect(refusal(target).code).toBe('usage');
  });

  it('is plain JSON', () => {
    const result = plan({ targetLSN: text(8) });
    expect(JSON.parse(JSON.stringify(result))).toEqual(result);
  });
});

describe('what can not be reached', () => {
  it('C4: a time before the first backup ended names the earliest moment', () => {
    const refused = refusal({ targetTime: '2026-11-22 02:29:00' });
    expect(refused.code).toBe('target-unreachable');
    expect(refused.message).toContain('2026-11-22T02:30:00.000Z');
  });

  it('C4: an LSN before the first backup ended names the earliest position', () => {
    expect(refusal({ targetLSN: text(2, 0x1000) }).message).toContain(text(2, 0x1028));
  });

  it('C4: a target before the chosen backup ended names one that leads there', () => {
    const refused = refusal({ targetLSN: text(4), backupID: '20261122T050000' });
    expect(refused.message).toContain('backup 20261122T020000');
  });

  it('C4: an LSN beyond the archive names its end', () => {
    const refused = refusal({ targetLSN: text(10) });
    expect(refused.message).toContain(`before ${text(10)}`);
    expect(refused.message).toContain(name(1, 9));
  });

  it('C4: an LSN on another timeline names that timeline', () => {
    const facts = { segments: archive([1, 1, 9], [2, 4, 6]), histories: histories({ 2: [[1, lsn(4, 77)]] }) };
    expect(refusal({ targetLSN: text(8) }, facts).message).toContain('timeline 1 has it');
  });

  it('C4: a time after the newest commit within reach is refused, naming that commit', () => {
    const facts = { endRecords: [{ file: name(1, 9), newestCommit: '2026-11-22T09:10:11.5Z' }] };
    expect(refusal({ targetTime: '2026-11-22T09:10:12Z' }, facts).message).toContain(
      '2026-11-22T09:10:11.5Z',
    );
    // PostgreSQL stops at the first commit after an inclusive target, and at the first from an exclusive one.
    expect(refusal({ targetTime: '2026-11-22T09:10:11.5Z' }, facts).code).toBe('target-unreachable');
    expect(plan({ targetTime: '2026-11-22T09:10:11.5Z', exclusive: true }, facts).target.kind).toBe('time');
    expect(plan({ targetTime: '2026-11-22T09:10:11.4Z' }, facts).newestCommit).toBe('2026-11-22T09:10:11.5Z');
  });

  it('C4: an LSN behind the last record is refused, naming that record', () => {
    const facts = { endRecords: [{ file: name(1, 9), lastRecordLsn: text(9, 0x500) }] };
    expect(refusal({ targetLSN: text(9, 0x501) }, facts).message).toContain(text(9, 0x500));
    expect(plan({ targetLSN: text(9, 0x500) }, facts).backupId).toBe('20261122T050000');
  });

  it('a time in the future is refused even when nobody read the WAL', () => {
    expect(refusal({ targetTime: '2026-12-24' }).code).toBe('target-unreachable');
  });

  it('an unknown timeline is refused, naming the known ones', () => {
    expect(refusal({ targetTLI: '7' }).message).toContain('there are 1');
  });
});

describe('holes', () => {
  const withHole = { segments: archive([1, 1, 6], [1, 8, 9]) };

  it('C3: a way to the end with a hole is refused, naming the hole and the end before it', () => {
    const refused = refusal({}, withHole);
    expect(refused.code).toBe('wal-hole');
    expect(refused.message).toContain(name(1, 7));
    expect(refused.message).toContain(text(7));
    expect(refused.hint).toContain('--accept-end');
  });

  it('C3: an accepted hole is the end', () => {
    const result = plan({}, { ...withHole, acceptEnd: true });
    expect(result).toMatchObject({
      acceptsEnd: true,
      lastSegment: name(1, 6),
      hole: { missing: name(1, 7), next: name(1, 8) },
    });
  });

  it('C4: an LSN before the hole is reached, one behind it is not', () => {
    expect(plan({ targetLSN: text(6, 9) }, withHole)).toMatchObject({
      acceptsEnd: false,
      lastSegment: name(1, 6),
    });
    expect(refusal({ targetLSN: text(8) }, withHole).message).toContain(name(1, 7));
  });

  it('a hole before the newest backup does not matter', () => {
    expect(plan({}, { segments: archive([1, 1, 3], [1, 5, 9]) }).hole).toBeUndefined();
  });

  it('from the oldest backup is the oldest that leads as far as any', () => {
    const facts = { segments: archive([1, 1, 3], [1, 5, 9]) };
    expect(plan({ targetName: 'x', backupID: 'oldest' }, facts).backupId).toBe('20261122T050000');
  });

  it('a time with a hole on the way warns of it', () => {
    expect(plan({ targetTime: '2026-11-22T06:00:00Z' }, withHole).warnings[0]).toContain(name(1, 7));
  });
});

describe('timelines', () => {
  const forked = { segments: archive([1, 1, 9], [2, 4, 6]), histories: histories({ 2: [[1, lsn(4, 77)]] }) };

  it('C4: a backup on an abandoned branch is not usable for the latest timeline', () => {
    const result = plan({}, forked);
    expect(result).toMatchObject({ backupId: '20261122T020000', targetTimeline: 2, lastSegment: name(2, 6) });
    expect(result.excluded[0]?.reason).toContain(text(4, 77));
    expect(result.timelinePath).toEqual([
      { timeline: 1, beginsAt: '0/0', endsAt: text(4, 77) },
      { timeline: 2, beginsAt: text(4, 77) },
    ]);
  });

  it('C4: latest is the newest descendant of a chosen backup', () => {
    expect(plan({ backupID: '20261122T050000' }, forked)).toMatchObject({
      targetTimeline: 1,
      lastSegment: name(1, 9),
    });
  });

  it('current stays on the timeline of the backup', () => {
    expect(plan({ targetTLI: 'current', backupID: '20261122T020000' }, forked)).toMatchObject({
      targetTimeline: 1,
      lastSegment: name(1, 9),
    });
  });

  it('C4: a history left by an earlier life of the cluster does not mislead', () => {
    const result = plan(
      {},
      { histories: histories({ 5: [[1, lsn(1, 5)]] }), segments: archive([1, 1, 9], [5, 1, 3]) },
    );
    expect(result.targetTimeline).toBe(1);
    expect(result.warnings[0]).toContain('timeline 5');
  });

  it('C4: a timeline without any WAL is not followed when its parent went on', () => {
    const result = plan({}, { histories: histories({ 2: [[1, lsn(6, 5)]] }) });
    expect(result.targetTimeline).toBe(1);
    expect(result.warnings[0]).toContain('--target-timeline 2');
    expect(plan({ targetTLI: '2' }, { histories: histories({ 2: [[1, lsn(6, 5)]] }) })).toMatchObject({
      lastLsn: text(6, 5),
      tail: { segment: name(1, 6), file: name(1, 6), cutAtOffset: 5 },
    });
  });

  it('C4: after a failover the parent’s partial segment leads up to the branch', () => {
    const facts = {
      histories: histories({ 2: [[1, lsn(10, 5)]] }),
      partials: [name(1, 10)] as SegmentName[],
    };
    expect(plan({}, facts)).toMatchObject({
      targetTimeline: 2,
      lastLsn: text(10, 5),
      tail: { segment: name(1, 10), file: `${name(1, 10)}.partial`, cutAtOffset: 5 },
    });
  });

  it('C4: a timeline with WAL whose history was lost is refused, unless one says which timeline is meant', () => {
    const facts = { segments: archive([1, 1, 9], [2, 6, 9]) };
    expect(refusal({}, facts).message).toContain('00000002.history');
    expect(refusal({ backupID: '20261122T020000' }, facts).hint).toContain('--target-timeline');
    expect(plan({ targetTLI: '1' }, facts).targetTimeline).toBe(1);
  });

  it('uses no history where there is none', () => {
    const result = plan({}, { backups: [backup('20261122T050000', 3, 5)], segments: archive([3, 4, 9]) });
    expect(result.settings['recovery_target_timeline']).toBe('current');
    expect(result.warnings[0]).toContain('history of timeline 3');
  });
});

// ---- brute force ---------------------------------------------------------------------------------------------------

/** Positions are counted in units of a quarter segment. */
const PER_SEGMENT = 4;
const UNIT = BigInt(MiB / PER_SEGMENT);
const at = (unit: number) => toLsn(BigInt(unit) * UNIT);

interface Branch {
  readonly timeline: number;
  readonly parent: number;
  readonly begin: number;
  readonly length: number;
}
interface World {
  readonly branches: readonly Branch[];
  readonly archived: ReadonlySet<string>;
  readonly partials: ReadonlySet<string>;
  readonly backups: readonly { timeline: number; begin: number; end: number }[];
}

const world: fc.Arbitrary<World> = fc
  .record({
    shapes: fc.array(
      fc.record({ parent: fc.nat(), begin: fc.nat(), length: fc.integer({ min: 1, max: 14 }) }),
      { maxLength: 3 },
    ),
    trunk: fc.integer({ min: 4, max: 24 }),
    missing: fc.array(fc.nat(80), { maxLength: 5 }),
    partial: fc.boolean(),
    backups: fc.array(
      fc.record({ timeline: fc.nat(), begin: fc.nat(), length: fc.integer({ min: 1, max: 4 }) }),
      { minLength: 1, maxLength: 5 },
    ),
  })
  .map(({ shapes, trunk, missing, partial, backups }) => {
    const branches: Branch[] = [{ timeline: 1, parent: 0, begin: 0, length: trunk }];
    for (const shape of shapes) {
      const parent = branches[shape.parent % branches.length] as Branch;
      const begin = parent.begin + 1 + (shape.begin % (parent.length - parent.begin));
      branches.push({
        timeline: branches.length + 1,
        parent: parent.timeline,
        begin,
        length: begin + shape.length,
      });
    }
    const archived = new Set<string>();
    const partials = new Set<string>();
    let count = 0;
    for (const { timeline, begin, length } of branches) {
      for (let n = Math.floor(begin / PER_SEGMENT); n * PER_SEGMENT < length; n++) {
        if ((n + 1) * PER_SEGMENT <= length) {
          if (!missing.includes(count++)) archived.add(`${timeline}/${n}`);
        } else if (partial) partials.add(`${timeline}/${n}`);
      }
    }
    const taken = backups.flatMap(({ timeline, begin, length }) => {
      const branch = branches[timeline % branches.length] as Branch;
      const from = branch.begin + (begin % (branch.length - branch.begin));
      return from + length <= branch.length
        ? [{ timeline: branch.timeline, begin: from, end: from + length }]
        : [];
    });
    return { branches, archived, partials, backups: taken };
  });

/** Which timeline wrote a unit of a timeline's content; `undefined` beyond its end. */
function writer({ branches }: World, timeline: number, unit: number): number | undefined {
  const branch = branches.find((one) => one.timeline === timeline) as Branch;
  if (unit >= branch.length) return undefined;
  if (unit >= branch.begin) return timeline;
  let ancestor = branch;
  while (unit < ancestor.begin) ancestor = branches.find((one) => one.timeline === ancestor.parent) as Branch;
  return ancestor.timeline;
}

function lineage({ branches }: World, timeline: number): Branch[] {
  const way: Branch[] = [];
  for (let at = timeline; at !== 0; at = way[0]?.parent ?? 0)
    way.unshift(branches.find((one) => one.timeline === at) as Branch);
  return way;
}

/** The segment of a number that PostgreSQL asks for first. */
function asked(it: World, timeline: number, n: number): string {
  const first = lineage(it, timeline)
    .toReversed()
    .find(({ begin }) => Math.floor(begin / PER_SEGMENT) <= n) as Branch;
  return `${first.timeline}/${n}`;
}

/** The unit up to which a timeline's content can be read from `unit`, and whether there is more behind a gap. */
function readable(it: World, timeline: number, unit: number): { end: number; hole: boolean } {
  let n = Math.floor(unit / PER_SEGMENT);
  while (it.archived.has(asked(it, timeline, n))) n++;
  for (let later = n + 1; later < 20; later++) {
    if (it.archived.has(asked(it, timeline, later))) return { end: n * PER_SEGMENT, hole: true };
  }
  // Without anything later, a part of segment n will do: as much of it as is both stored and of this timeline.
  let end = n * PER_SEGMENT;
  for (const { timeline: of } of lineage(it, timeline)) {
    const isWhole = it.archived.has(`${of}/${n}`);
    if (!isWhole && !it.partials.has(`${of}/${n}`)) continue;
    let good = n * PER_SEGMENT;
    // How much a partial segment of the last timeline holds can't be known without reading it.
    const isSame = (u: number) =>
      writer(it, of, u) === writer(it, timeline, u) && (writer(it, of, u) !== undefined || of === timeline);
    while (good < (n + 1) * PER_SEGMENT && isSame(good)) good++;
    end = Math.max(end, good);
  }
  return { end, hole: false };
}

const leads = (it: World, timeline: number, backup: World['backups'][number]) => {
  for (let unit = backup.begin; unit < backup.end; unit++) {
    if (writer(it, timeline, unit) !== backup.timeline) return false;
  }
  return true;
};

function factsOf(it: World): Omit<RecoveryFacts, 'target'> {
  const segments = new SegmentRanges(MiB);
  for (const key of it.archived) {
    const [timeline, n] = key.split('/').map(Number) as [number, number];
    segments.addNumber(timeline, BigInt(n));
  }
  return {
    backups: it.backups.map(({ timeline, begin, end }, index) => ({
      ...backup(`b${index}`, timeline, 0),
      beginLsn: at(begin),
      endLsn: at(end),
    })),
    histories: new Map(
      it.branches.slice(1).map(({ timeline }) => {
        const way = lineage(it, timeline);
        return [
          timeline,
          way.slice(0, -1).map((step, index) => ({
            timeline: step.timeline,
            switchedAt: at((way[index + 1] as Branch).begin),
          })),
        ];
      }),
    ),
    segments,
    partials: [...it.partials].map((key) => {
      const [timeline, n] = key.split('/').map(Number) as [number, number];
      return name(timeline, n);
    }),
    now: NOW,
  };
}

describe('random timeline trees', () => {
  const targets = fc.record({
    timeline: fc.integer({ min: 1, max: 4 }),
    unit: fc.option(fc.nat(30), { nil: undefined }),
  });

  it('C4: the plan is the newest backup whose content leads to the target, or a refusal, as brute force finds', () => {
    fc.assert(
      fc.property(world, targets, (it, { timeline, unit }) => {
        fc.pre(timeline <= it.branches.length && it.backups.length > 0);
        const known = it.backups.filter(
          (one) => leads(it, timeline, one) && readable(it, timeline, one.begin).end >= one.end,
        );
        const before = known.filter(({ end }) => unit === undefined || end <= unit);
        const best = before.toSorted((a, b) => a.end - b.end).at(-1);
        const expected = best && readable(it, timeline, best.begin);
        const reachable = expected && (unit === undefined ? !expected.hole : unit < expected.end);
        const target = {
          targetTLI: String(timeline),
          ...(unit === undefined ? {} : { targetLSN: formatLsn(at(unit)) }),
        };
        let result;
        try {
          result = planRecovery({ ...factsOf(it), target });
        } catch (error) {
          if (!(error instanceof BackupError)) throw error;
          expect(['target-unreachable', 'wal-hole', 'backup-unknown']).toContain(error.code);
          // A timeline nobody archived anything of, not even its history, is unknown: the trunk only.
          expect(reachable ?? false).toBe(false);
          return;
        }
        expect(reachable).toBe(true);
        expect(parseLsn(result.backupEndLsn)).toBe(at((best as { end: number }).end));
        expect(result.lastLsn).toBe(formatLsn(at((expected as { end: number }).end)));
        expect(result.hole !== undefined).toBe(expected?.hole);
      }),
      { numRuns: 2000 },
    );
  });

  it('C4: latest is the newest timeline that a backup leads to and that was not outlived by its parent', () => {
    fc.assert(
      fc.property(world, (it) => {
        fc.pre(it.backups.length > 0);
        const hasOwn = (timeline: number) => [...it.archived].some((key) => key.startsWith(`${timeline}/`));
        const isOutlived = ({ timeline, parent, begin }: Branch) =>
          !hasOwn(timeline) &&
          !it.backups.some((one) => one.timeline === timeline) &&
          [...it.archived].some(
            (key) =>
              Number(key.split('/')[0]) === parent &&
              Number(key.split('/')[1]) > Math.floor(begin / PER_SEGMENT),
          );
        const expected = it.branches.findLast(
          (branch) => !isOutlived(branch) && it.backups.some((one) => leads(it, branch.timeline, one)),
        );
        try {
          const result = planRecovery({ ...factsOf(it), acceptEnd: true, target: {} });
          expect(result.targetTimeline).toBe(expected?.timeline);
        } catch (error) {
          if (!(error instanceof BackupError)) throw error;
          expect(error.message).toContain(`timeline ${expected?.timeline}`);
        }
      }),
      { numRuns: 1000 },
    );
  });
});
