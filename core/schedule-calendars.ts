import { nextAfter, type CronField, type CronSpec } from './cron.ts';
import { BackupError } from './errors.ts';

/** Values from `start` to `end`, every `step`th of them. */
export interface ValueRange<Value> {
  readonly start: Value;
  readonly end: Value;
  readonly step: number;
}

/** Moments whose wall clock matches every field, as a Temporal Schedule has them. */
export interface Calendar {
  readonly second: readonly ValueRange<number>[];
  readonly minute: readonly ValueRange<number>[];
  readonly hour: readonly ValueRange<number>[];
  readonly dayOfMonth: readonly ValueRange<number>[];
  readonly month: readonly ValueRange<MonthName>[];
  readonly dayOfWeek: readonly ValueRange<DayName>[];
  /** The text it was made of. */
  readonly comment: string;
}

/** Every `every` since the epoch, moved by `offset`; both in milliseconds. */
export interface Interval {
  readonly every: number;
  readonly offset: number;
}

/** When a Temporal Schedule starts something: at what any of these names, by the clock of `timezone`. */
export interface ScheduleTimes {
  readonly timezone: string;
  readonly calendars: readonly Calendar[];
  readonly intervals: readonly Interval[];
}

const MONTHS = [
  'JANUARY',
  'FEBRUARY',
  'MARCH',
  'APRIL',
  'MAY',
  'JUNE',
  'JULY',
  'AUGUST',
  'SEPTEMBER',
  'OCTOBER',
  'NOVEMBER',
  'DECEMBER',
] as const;
const DAYS = ['SUNDAY', 'MONDAY', 'TUESDAY', 'WEDNESDAY', 'THURSDAY', 'FRIDAY', 'SATURDAY'] as const;

export type MonthName = (typeof MONTHS)[number];
export type DayName = (typeof DAYS)[number];

const EVERY_DAY_OF_MONTH = Array.from({ length: 31 }, (_, index) => index + 1);
const EVERY_DAY_OF_WEEK = Array.from({ length: 7 }, (_, index) => index);

/**
 * A schedule in Temporal's own terms, which mean the same at every moment. The text is never passed on: Temporal reads
 * six fields as five and a year, and takes both day fields together where cron takes either.
 *
 * @param anchor where `@every` counts from: the same one gives the same moments. Of no account for the others
 * @throws BackupError `format-invalid` when it would never run
 */
export function scheduleTimes(spec: CronSpec, timezone: string, anchor: Date): ScheduleTimes {
  if (spec.kind === 'every') {
    const interval = { every: spec.intervalMs, offset: phaseOf(spec.intervalMs, anchor) };
    return { timezone, calendars: [], intervals: [interval] };
  }
  if (nextAfter(spec, anchor, timezone) === undefined) {
    throw new BackupError(
      'format-invalid',
      `"${spec.text}" never runs: no such moment comes within five years`,
      {
        hint: 'to pause a schedule write suspend: true',
      },
    );
  }
  return { timezone, calendars: calendarsOf(spec), intervals: [] };
}

/** How far into its interval `anchor` is, in whole seconds, as milliseconds. */
export function phaseOf(intervalMs: number, anchor: Date): number {
  const wholeSeconds = Math.floor(anchor.getTime() / 1000) * 1000;
  return ((wholeSeconds % intervalMs) + intervalMs) % intervalMs;
}

function calendarsOf(spec: CronSpec & { kind: 'calendar' }): Calendar[] {
  const { dayOfMonth, dayOfWeek } = spec;
  // With a star in either day field both have to match; without one, either does: that takes two calendars.
  if (dayOfMonth.star || dayOfWeek.star) {
    return [calendarOf(spec, dayOfMonth.values, dayOfWeek.values)];
  }
  return [
    calendarOf(spec, dayOfMonth.values, EVERY_DAY_OF_WEEK),
    calendarOf(spec, EVERY_DAY_OF_MONTH, dayOfWeek.values),
    // An empty list is no restriction to Temporal, and none to be had here.
  ].filter((calendar) => calendar.dayOfMonth.length > 0 && calendar.dayOfWeek.length > 0);
}

function calendarOf(
  spec: CronSpec & { kind: 'calendar' },
  daysOfMonth: CronField['values'],
  daysOfWeek: CronField['values'],
): Calendar {
  return {
    second: rangesOf(spec.second.values),
    minute: rangesOf(spec.minute.values),
    hour: rangesOf(spec.hour.values),
    dayOfMonth: rangesOf(daysOfMonth),
    month: named(rangesOf(spec.month.values), (value) => MONTHS[value - 1]),
    dayOfWeek: named(rangesOf(daysOfWeek), (value) => DAYS[value]),
    comment: spec.text,
  };
}

/** Few ranges for ascending values: one where they are evenly spaced, else one for each run without a gap. */
function rangesOf(values: readonly number[]): ValueRange<number>[] {
  const [first, second] = values;
  if (first === undefined) return [];
  const step = second === undefined ? 1 : second - first;
  if (values.every((value, index) => value === first + index * step)) {
    return [{ start: first, end: values.at(-1) ?? first, step }];
  }
  const ranges: { start: number; end: number; step: number }[] = [];
  for (const value of values) {
    const last = ranges.at(-1);
    if (last && value === last.end + 1) last.end = value;
    else ranges.push({ start: value, end: value, step: 1 });
  }
  return ranges;
}

function named<Name>(
  ranges: readonly ValueRange<number>[],
  name: (value: number) => Name | undefined,
): ValueRange<Name>[] {
  return ranges.flatMap(({ start, end, step }) => {
    const [from, to] = [name(start), name(end)];
    return from === undefined || to === undefined ? [] : [{ start: from, end: to, step }];
  });
}
