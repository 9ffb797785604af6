import { nextAfter, type CronSpec } from './cron.ts';
import { phaseOf } from './schedule-calendars.ts';

/** A slot is a moment at which a schedule is due, in whole seconds. What became of one, once and for all. */
export type SlotOutcome = 'ran' | 'skipped' | 'missed';

/** A slot that could not begin within this time is missed. In ms. */
export const CATCH_UP_MS = 12 * 3_600_000;

/** When a schedule is due. */
export interface SlotTimes {
  readonly spec: CronSpec;
  /** IANA name. */
  readonly timezone: string;
  /** Where `@every` counts from; without it from the moment asked about. */
  readonly anchor?: Date;
}

export interface SlotJudgement {
  readonly outcome: SlotOutcome;
  readonly reason?: string;
  /** The Backup that is still open, of a skipped slot. */
  readonly backupName?: string;
}

export interface SlotFacts {
  readonly slot: Date;
  readonly now: Date;
  /** The slot after this one; absent where there is none, or no schedule. */
  readonly next?: Date;
  readonly suspended?: boolean;
  /** A Backup of the same schedule that has not ended. */
  readonly openBackup?: string;
}

/**
 * Decides what becomes of a slot at the moment it could begin. Of several that wait only the newest runs, so that an
 * outage is followed by one run at most.
 */
export function judgeSlot({ slot, now, next, suspended, openBackup }: SlotFacts): SlotJudgement {
  const late = now.getTime() - slot.getTime();
  if (suspended) return { outcome: 'skipped', reason: 'the schedule is suspended' };
  if (late > CATCH_UP_MS) {
    return { outcome: 'missed', reason: `it could not begin within ${spanText(CATCH_UP_MS)}` };
  }
  if (next && next <= now) {
    return {
      outcome: 'missed',
      reason: `it could not begin before the next one was due (${rfc3339(next)}), ${spanText(late)} late`,
    };
  }
  if (openBackup !== undefined) {
    return {
      outcome: 'skipped',
      reason: `the Backup "${openBackup}" has not ended yet`,
      backupName: openBackup,
    };
  }
  return { outcome: 'ran' };
}

/**
 * The slots after `since` and not after `until`, oldest first; of more than `limit` the newest.
 *
 * @param anchor where `@every` counts from
 */
export function dueSlots(
  spec: CronSpec,
  timezone: string,
  since: Date,
  until: Date,
  limit: number,
  anchor?: Date,
): Date[] {
  return newestSlots({ spec, timezone, ...(anchor && { anchor }) }, since, until, limit);
}

/** By halves, so that a dense schedule and a long time cost no more than the answer. */
function newestSlots(times: SlotTimes, since: Date, until: Date, limit: number): Date[] {
  const slots = slotsBetween(times, since, until, limit + 1);
  if (slots.length <= limit) return slots;
  const spanMs = until.getTime() - since.getTime();
  if (spanMs <= 2000) return slotsBetween(times, since, until, Number.POSITIVE_INFINITY).slice(-limit);
  const middle = new Date(since.getTime() + Math.ceil(spanMs / 2));
  const later = newestSlots(times, middle, until, limit);
  if (later.length === limit) return later;
  return [...newestSlots(times, since, middle, limit - later.length), ...later];
}

function slotsBetween(times: SlotTimes, since: Date, until: Date, most: number): Date[] {
  const slots: Date[] = [];
  for (let slot = nextSlot(times, since); slot && slot <= until; slot = nextSlot(times, slot)) {
    slots.push(slot);
    if (slots.length === most) break;
  }
  return slots;
}

/** The first slot after `after`. */
export function nextSlot({ spec, timezone, anchor }: SlotTimes, after: Date): Date | undefined {
  if (spec.kind === 'calendar' || !anchor) return nextAfter(spec, after, timezone);
  const { intervalMs } = spec;
  const begin = Math.floor(after.getTime() / 1000) * 1000;
  const passedMs = phaseOf(intervalMs, new Date(begin - phaseOf(intervalMs, anchor)));
  return new Date(begin - passedMs + intervalMs);
}

/** The next `count` slots after `after`. */
export function nextSlots(times: SlotTimes, after: Date, count: number): Date[] {
  const slots: Date[] = [];
  for (let slot = nextSlot(times, after); slot && slots.length < count; slot = nextSlot(times, slot)) {
    slots.push(slot);
  }
  return slots;
}

/** The newest slot after `since` and not after `until`. */
export function newestSlot(times: SlotTimes, since: Date, until: Date): Date | undefined {
  const { spec, timezone, anchor } = times;
  return dueSlots(spec, timezone, since, until, 1, anchor).at(-1);
}

export interface PastSlots extends SlotTimes {
  readonly since: Date;
  readonly until: Date;
  /** Of which slots an outcome is recorded already, as milliseconds since 1970. */
  readonly recorded: ReadonlySet<number>;
  /** At most so many are looked at, the newest. */
  readonly limit: number;
}

export interface JudgedSlots {
  /** Nothing can become of them any more, oldest first. */
  readonly missed: readonly Date[];
  readonly reason: string;
  /** The newest of all when nothing became of it yet: it may still be begun. */
  readonly open?: Date;
}

/** Judges the slots of a time gone by that have no outcome: all but the newest have been overtaken. */
export function judgeSlots(past: PastSlots): JudgedSlots {
  const { spec, timezone, anchor, since, until, recorded, limit } = past;
  const due = dueSlots(spec, timezone, since, until, limit, anchor);
  const newest = due.at(-1);
  const isOpen =
    newest !== undefined &&
    !recorded.has(newest.getTime()) &&
    until.getTime() - newest.getTime() <= CATCH_UP_MS;
  return {
    missed: due.filter((slot) => !recorded.has(slot.getTime()) && !(isOpen && slot === newest)),
    reason: 'nothing began it: Temporal, or every worker of the cluster, was away',
    ...(isOpen && { open: newest }),
  };
}

/** `YYYYMMDDhhmmss`, in UTC. */
export function slotStamp(slot: Date): string {
  return slot.toISOString().replaceAll(/[-:T]|\.\d+Z$/g, '');
}

/** @returns `undefined` for what is no stamp */
export function parseSlotStamp(stamp: string): Date | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)$/.exec(stamp);
  if (!match) return undefined;
  const [, year, month, day, hour, minute, second] = match;
  const slot = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(slot.getTime()) || slotStamp(slot) !== stamp ? undefined : slot;
}

/** The name of a slot's Backup, as CloudNativePG gives it. */
export function slotBackupName(series: string, slot: Date): string {
  return `${series}-${slotStamp(slot)}`;
}

/** Without a fraction, in UTC. */
export function rfc3339(time: Date): string {
  return `${time.toISOString().slice(0, 19)}Z`;
}

function spanText(ms: number): string {
  const minutes = Math.round(ms / 60_000);
  if (minutes < 1) return `${Math.round(ms / 1000)} s`;
  return minutes < 120 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}
