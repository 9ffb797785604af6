import fc from 'fast-check';
import { toLsn, type Lsn } from '../../core/lsn.ts';
import type { RetentionBackup, RetentionFacts, RetentionRules } from '../../core/retention.ts';
import { SegmentRanges } from '../../core/segment-ranges.ts';
import { segmentName } from '../../core/segment.ts';
import type { TimelineSwitch } from '../../core/timeline.ts';

export const SEGMENT = 1024 * 1024;
const SIZE = BigInt(SEGMENT);
/** WAL is written in steps of a quarter of a segment. */
export const STEP = SIZE / 4n;
const HOUR = 3_600_000;
const DAY = 24 * HOUR;

/** Where a timeline really came from, whatever history files there are. */
export type Descent = ReadonlyMap<number, { readonly parent: number; readonly at: Lsn }>;

/** A position that the cluster was at, and when. */
export interface Moment {
  readonly timeline: number;
  readonly lsn: Lsn;
  readonly time: number;
}

export interface Catalogue {
  readonly facts: RetentionFacts;
  /** The archive, segment by segment: `timeline:number`. */
  readonly archived: ReadonlySet<string>;
  readonly partials: ReadonlySet<string>;
  readonly descent: Descent;
  readonly moments: readonly Moment[];
  /** Every time in it is true, and every record and history is there. */
  readonly isHonest: boolean;
}

/** The life of a cluster and of its archive, with most of what can go wrong in it. */
export const randomCatalogue: fc.Arbitrary<Catalogue> = fc
  .gen()
  .map((g) => live((min, max) => g(fc.integer, { min, max })));

type Dice = (min: number, max: number) => number;

interface World {
  timeline: number;
  lsn: bigint;
  time: number;
  system: string;
  readonly dice: Dice;
  /** All positions have this distance from a quarter of a segment. */
  readonly offset: bigint;
  readonly archived: Map<string, number>;
  readonly partials: Set<string>;
  readonly descent: Map<number, { parent: number; at: Lsn }>;
  readonly histories: Map<number, TimelineSwitch[]>;
  readonly ends: Map<number, bigint>;
  readonly moments: Moment[];
  readonly backups: RetentionBackup[];
}

function live(dice: Dice): Catalogue {
  const offset = dice(0, 3) === 0 ? 0n : 40n;
  const world: World = {
    timeline: 1,
    offset,
    lsn: SIZE + offset,
    time: Date.UTC(2026, 0, 5),
    system: '7711125222447432971',
    dice,
    archived: new Map(),
    partials: new Set(),
    descent: new Map(),
    histories: new Map([[1, []]]),
    ends: new Map(),
    moments: [],
    backups: [],
  };
  const gaps = dice(0, 3) === 0 ? 12 : 0;
  for (let count = dice(6, 34); count > 0; count--) {
    const what = dice(0, 99);
    if (what < 35) write(world, dice(1, 10), gaps);
    else if (what < 75) takeBackup(world, gaps);
    else if (what < 85) promote(world, world.timeline, world.lsn);
    else if (what < 89) restoreSomeMoment(world);
    else if (what < 91) goBack(world);
    else if (what < 94) upgrade(world);
    else world.time += dice(1, 5) * DAY;
    world.time += dice(1, 30) * HOUR;
  }
  return report(world);
}

function write(world: World, steps: number, gaps: number): void {
  for (let step = 0; step < steps; step++) {
    const before = world.lsn / SIZE;
    world.lsn += STEP;
    world.time += 60_000;
    world.moments.push({ timeline: world.timeline, lsn: toLsn(world.lsn), time: world.time });
    if (world.lsn / SIZE > before && (gaps === 0 || world.dice(0, 99) >= gaps))
      world.archived.set(`${world.timeline}:${before}`, world.time);
  }
  world.ends.set(world.timeline, world.lsn);
}

function takeBackup(world: World, gaps: number): void {
  const { dice } = world;
  const begin = toLsn(world.lsn);
  const [timeline, beginTime] = [world.timeline, new Date(world.time)];
  write(world, dice(1, 5), gaps);
  world.time += dice(0, 60) * 60_000;
  const status = pick(dice, [
    [88, 'DONE'],
    [6, 'FAILED'],
    [6, 'STARTED'],
  ]);
  const isDone = status === 'DONE';
  const parent = world.backups.findLast((backup) => backup.status === 'DONE');
  const isIncremental = isDone && parent !== undefined && dice(0, 11) === 0;
  world.backups.push({
    backupId: `b${dice(0, 9)}${dice(0, 9)}-${world.backups.length}`,
    status,
    beginTime,
    ...(isDone ? { endTime: new Date(world.time), endLsn: toLsn(world.lsn) } : {}),
    timeline,
    beginLsn: begin,
    systemId: world.system,
    segmentSize: SEGMENT,
    ...(dice(0, 2) > 0 ? { storedAt: new Date(world.time + dice(0, 20) * 60_000) } : {}),
    ...(isIncremental ? { parentBackupId: parent.backupId } : {}),
    ...(dice(0, 3) === 0
      ? {
          schedule: pick(dice, [
            [1, 'hourly'],
            [1, 'nightly'],
          ]),
        }
      : {}),
    ...(isDone && dice(0, 29) === 0 ? { snapshots: true } : {}),
    ...(isDone && dice(0, 19) === 0 ? { damage: 'data.tar is missing' } : {}),
    ...(isDone && dice(0, 4) === 0 ? { provenAt: new Date(world.time + HOUR) } : {}),
    ...(isDone && dice(0, 9) === 0
      ? {
          keep: pick(dice, [
            [1, 'full'],
            [2, 'standalone'],
          ]),
        }
      : {}),
    ...(dice(0, 24) === 0 ? { hold: 'a restore runs' } : {}),
  });
  // most servers switch to a new segment at the end of a backup
  const rest = (SIZE - (world.lsn % SIZE)) % SIZE;
  if (dice(0, 3) > 0 && rest > 0n) write(world, Number(rest / STEP) + 1, gaps);
}

/** A server of `parent` is promoted at `at`. */
function promote(world: World, parent: number, at: bigint): void {
  const { dice } = world;
  const timeline = Math.max(1, ...world.descent.keys()) + 1;
  const segment = `${parent}:${at / SIZE}`;
  if (dice(0, 2) > 0) world.partials.add(segment);
  // the old primary came back, or went on for a while, and archived the whole segment
  if (dice(0, 3) === 0) world.archived.set(segment, world.time);
  world.histories.set(timeline, [
    ...(world.histories.get(parent) ?? []),
    { timeline: parent, switchedAt: toLsn(at) },
  ]);
  world.descent.set(timeline, { parent, at: toLsn(at) });
  Object.assign(world, { timeline, lsn: at });
  write(world, dice(1, 6), 0);
}

function restoreSomeMoment(world: World): void {
  const moment = world.moments[world.dice(0, Math.max(0, world.moments.length - 1))];
  if (moment !== undefined) promote(world, moment.timeline, moment.lsn);
}

/** Somebody goes on with a server of an older timeline. */
function goBack(world: World): void {
  const lines = [...world.ends];
  const [timeline, lsn] = lines[world.dice(0, Math.max(0, lines.length - 1))] ?? [world.timeline, world.lsn];
  Object.assign(world, { timeline, lsn });
}

/** pg_upgrade: another system identifier, perhaps from timeline 1 on, behind all that was written. */
function upgrade(world: World): void {
  world.system = String(BigInt(world.system) + 1n);
  if (world.dice(0, 1) === 0) return;
  const highest = [...world.ends.values()].reduce((a, b) => (b > a ? b : a), world.lsn);
  Object.assign(world, { timeline: 1, lsn: (highest / SIZE + 2n) * SIZE + world.offset });
}

function report(world: World): Catalogue {
  const { dice } = world;
  const now = world.time + dice(0, 20) * DAY;
  const graceMs = pick(dice, [
    [2, 0],
    [2, HOUR],
    [3, DAY],
  ]);
  const histories = new Map([...world.histories].filter(([timeline]) => timeline !== 1));
  let isHonest = true;
  if (histories.size > 0 && dice(0, 24) === 0) {
    histories.delete([...histories.keys()][dice(0, histories.size - 1)] ?? 0);
    isHonest = false;
  }
  const segments = new SegmentRanges(SEGMENT);
  const youngFrom = new Map<number, bigint>();
  const lastStored = new Map<number, number>();
  for (const [key, time] of world.archived) {
    const [timeline = 0, number = 0] = key.split(':').map(Number);
    segments.addNumber(timeline, BigInt(number));
    lastStored.set(timeline, Math.max(time, lastStored.get(timeline) ?? time));
    const young = youngFrom.get(timeline);
    if (time > now - graceMs && (young === undefined || BigInt(number) < young))
      youngFrom.set(timeline, BigInt(number));
  }
  const skew = dice(0, 5) === 0;
  if (skew) isHonest = false;
  const backups = world.backups.map((backup) => {
    const tomb = dice(0, 1) === 0 ? undefined : new Date(now - dice(-1, 60) * 2 * HOUR);
    const problem = dice(0, 149) === 0 ? 'its record is unreadable: line 3' : undefined;
    if (problem !== undefined) isHonest = false;
    const lie = (time: Date | undefined) =>
      time !== undefined && skew && dice(0, 5) === 0 ? new Date(time.getTime() + dice(-90, 90) * HOUR) : time;
    const [endTime, storedAt] = [lie(backup.endTime), lie(backup.storedAt)];
    return {
      ...backup,
      ...(endTime === undefined ? {} : { endTime }),
      ...(storedAt === undefined ? {} : { storedAt }),
      ...(problem === undefined ? {} : { problem }),
      ...(tomb === undefined ? {} : { tombstonedAt: tomb }),
      ...(tomb !== undefined && dice(0, 29) === 0 ? { deletionBegan: true } : {}),
    };
  });
  const rules = dice(0, 2);
  const storeNow = pick(dice, [
    [3, undefined],
    [3, now + dice(-10, 10) * 60_000],
    [skew ? 2 : 0, now + dice(-48, 48) * HOUR],
  ]);
  return {
    facts: {
      backups,
      histories,
      segments,
      partials: [...world.partials].map(nameOf),
      labels: backups.flatMap(({ timeline, beginLsn, status }) =>
        status === 'DONE' ? [segmentName(timeline ?? 1, (beginLsn ?? 0n) / SIZE, SEGMENT)] : [],
      ),
      youngFrom,
      lastStored,
      ...(dice(0, 19) === 0
        ? {
            walHolds: [
              { timeline: world.timeline, from: BigInt(dice(1, 20)), why: 'a verification reads it' },
            ],
          }
        : {}),
      ...(rules === 0 ? {} : { policy: someRules(dice) }),
      ...(rules === 1 ? {} : { windowMs: dice(1, 20) * DAY }),
      graceMs,
      deadlineMs: 12 * HOUR,
      now,
      ...(storeNow === undefined ? {} : { storeNow }),
      ...(dice(0, 1) === 0 ? {} : { systemId: world.system }),
    },
    archived: new Set(world.archived.keys()),
    partials: world.partials,
    descent: world.descent,
    moments: world.moments,
    isHonest,
  };
}

function nameOf(key: string) {
  const [timeline = 0, number = 0] = key.split(':').map(Number);
  return segmentName(timeline, BigInt(number), SEGMENT);
}

function someRules(dice: Dice): RetentionRules {
  const few = () => Math.max(0, dice(-2, 3));
  return {
    keepLast: few(),
    daily: few(),
    weekly: few(),
    monthly: few(),
    yearly: few(),
    minimum: dice(1, 3),
    schedules: dice(0, 1) === 0 ? {} : { hourly: { keepLast: dice(0, 3) }, nightly: { weekly: dice(0, 2) } },
    onlyWithProvenSuccessor: dice(0, 5) === 0,
    timezone: pick(dice, [
      [1, 'Etc/UTC'],
      [1, 'America/New_York'],
    ]),
  };
}

function pick<const T>(dice: Dice, choices: readonly (readonly [weight: number, T])[]): T {
  const total = choices.reduce((sum, [weight]) => sum + weight, 0);
  let at = dice(0, total - 1);
  for (const [weight, choice] of choices) {
    if (at < weight) return choice;
    at -= weight;
  }
  throw new Error('nothing to choose from');
}
