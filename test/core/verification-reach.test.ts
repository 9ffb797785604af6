import { describe, expect, it } from 'vitest';
import type { RecoveryPlan } from '../../core/recovery.ts';
import { parseTargetTime } from '../../core/target-time.ts';
import { judgeReach, type Reached } from '../../core/verification-reach.ts';

const MiB = 1024 * 1024;

function plan(target: RecoveryPlan['target'], more: Partial<RecoveryPlan> = {}): RecoveryPlan {
  return {
    version: 1,
    backupId: '20261101T000000',
    backupTimeline: 1,
    backupBeginLsn: '0/2000028',
    backupEndLsn: '0/2000138',
    backupEndTime: '2026-11-01T00:00:10Z',
    target,
    targetTimeline: 2,
    timelinePath: [
      { timeline: 1, beginsAt: '0/0', endsAt: '0/4000000' },
      { timeline: 2, beginsAt: '0/4000000' },
    ],
    segmentSize: 16 * MiB,
    firstSegment: '000000010000000000000002',
    lastSegment: '000000020000000000000006',
    lastLsn: '0/7000000',
    walSegments: 5,
    endsAt: '',
    acceptsEnd: false,
    settings: {},
    reasons: [],
    warnings: [],
    excluded: [],
    ...more,
  };
}

const TIME = '2026-11-01T01:00:00Z';
const at = (text: string) => parseTargetTime(text);
const END: Reached = { lsn: '0/6000500', timeline: 2, lastRecordLsn: '0/6000480' };

describe('whether a recovery ended where it was to', () => {
  const end = { kind: 'end', inclusive: true } as const;
  const time = { kind: 'time', value: TIME, inclusive: true } as const;
  const lsn = { kind: 'lsn', value: '0/6000400', inclusive: true } as const;
  const name = { kind: 'name', value: 'x', inclusive: true } as const;
  const stop = { text: 'recovery stopping before commit of transaction 700' };
  const before = at('2026-11-01T00:59:59Z');
  const after = at('2026-11-01T01:00:00.000001Z');

  it.for<
    [
      why: string,
      target: RecoveryPlan['target'],
      planned: string | undefined,
      reached: Reached,
      right: boolean,
    ]
  >([
    ['behind the last record that is archived', end, '0/6000480', END, true],
    ['before it: a record can’t be read', end, '0/6000500', END, false],
    ['in the last segment, whose records nobody read', end, undefined, END, true],
    ['before the last segment', end, undefined, { ...END, lsn: '0/5FFFF00' }, false],
    ['on another timeline', end, '0/6000480', { ...END, timeline: 1 }, false],
    [
      'in the gap around the time',
      time,
      undefined,
      { ...END, lastTransaction: before, stop: { ...stop, time: after } },
      true,
    ],
    ['no transaction before the time', time, undefined, { ...END, stop: { ...stop, time: after } }, true],
    [
      'beyond the time',
      time,
      undefined,
      { ...END, lastTransaction: after, stop: { ...stop, time: after } },
      false,
    ],
    [
      'short of the time',
      time,
      undefined,
      { ...END, lastTransaction: before, stop: { ...stop, time: before } },
      false,
    ],
    ['at the end of the WAL, before the time', time, undefined, { ...END, lastTransaction: before }, false],
    [
      'at the time itself, inclusive',
      time,
      undefined,
      { ...END, lastTransaction: at(TIME), stop: { ...stop, time: after } },
      true,
    ],
    [
      'at the time itself, exclusive',
      { ...time, inclusive: false },
      undefined,
      { ...END, lastTransaction: at(TIME), stop: { ...stop, time: after } },
      false,
    ],
    ['at the LSN', lsn, undefined, { ...END, stop }, true],
    ['before the LSN', lsn, undefined, { ...END, lastRecordLsn: '0/6000300', stop }, false],
    ['at the end of the WAL instead of the LSN', lsn, undefined, END, false],
    ['at the restore point', name, undefined, { ...END, stop }, true],
    ['no restore point came', name, undefined, END, false],
  ])('C4, C6: %s', ([, target, planned, reached, right]) => {
    expect(judgeReach(plan(target), planned, reached).isRight).toBe(right);
  });

  it('C6: what ends too early names the segment', () => {
    expect(judgeReach(plan(end), '0/6000480', { ...END, lsn: '0/5000100' })).toMatchObject({
      isRight: false,
      segment: '000000020000000000000005',
    });
  });
});
