import { BackupError } from './errors.ts';

/**
 * Who reads the text. `cnpg`: CloudNativePG's parser (robfig/cron v1.2.0: seconds first, five or six fields).
 * `unix`: ordinary five-field cron (minutes first, 7 is Sunday too).
 */
export type CronDialect = 'cnpg' | 'unix';

/** One field: the values that match, ascending, and whether it was written with a star. */
export interface CronField {
  readonly values: readonly number[];
  /** A star in either of the two day fields makes both count; without one, either suffices. */
  readonly star: boolean;
}

export type CronSpec =
  | {
      readonly kind: 'calendar';
      readonly dialect: CronDialect;
      readonly text: string;
      readonly second: CronField;
      readonly minute: CronField;
      readonly hour: CronField;
      readonly dayOfMonth: CronField;
      readonly month: CronField;
      /** 0 is Sunday, 6 is Saturday. */
      readonly dayOfWeek: CronField;
    }
  | {
      /** `@every`: whole seconds between runs, counted from the moment asked about. */
      readonly kind: 'every';
      readonly dialect: CronDialect;
      readonly text: string;
      readonly intervalMs: number;
    };

interface Bounds {
  readonly min: number;
  readonly max: number;
  readonly names?: readonly string[];
}

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const WEEKDAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const SECONDS: Bounds = { min: 0, max: 59 };
const MINUTES: Bounds = { min: 0, max: 59 };
const HOURS: Bounds = { min: 0, max: 23 };
const DAYS_OF_MONTH: Bounds = { min: 1, max: 31 };
const MONTH_NUMBERS: Bounds = { min: 1, max: 12, names: MONTHS };
const DAYS_OF_WEEK: Bounds = { min: 0, max: 6, names: WEEKDAYS };
const UNIX_DAYS_OF_WEEK: Bounds = { min: 0, max: 7, names: WEEKDAYS };

const DESCRIPTORS: ReadonlyMap<string, string> = new Map([
  ['@yearly', '0 0 0 1 1 *'],
  ['@annually', '0 0 0 1 1 *'],
  ['@monthly', '0 0 0 1 * *'],
  ['@weekly', '0 0 0 * * 0'],
  ['@daily', '0 0 0 * * *'],
  ['@midnight', '0 0 0 * * *'],
  ['@hourly', '0 0 * * * *'],
]);

/** How many fields `text` has; a descriptor such as `@daily` has none. */
export function cronFieldCount(text: string): number {
  return text.startsWith('@') ? 0 : fieldsOf(text).length;
}

/**
 * Parses a schedule. In the dialect `cnpg` it takes and refuses exactly what CNPG does, with the same words.
 *
 * @throws BackupError `format-invalid`
 */
export function parseCron(text: string, dialect: CronDialect): CronSpec {
  if (text.length === 0) throw invalid('Empty spec string');
  if (text.startsWith('@')) return parseDescriptor(text, dialect);
  const fields = fieldsOf(text);
  if (dialect === 'unix') return parseUnixFields(text, fields);
  if (fields.length < 5 || fields.length > 6) {
    throw invalid(`Expected 5 to 6 fields, found ${fields.length}: ${text}`);
  }
  return calendar(text, dialect, [...fields, '*'], DAYS_OF_WEEK);
}

function parseUnixFields(text: string, fields: readonly string[]): CronSpec {
  if (fields.length !== 5) throw invalid(`ordinary cron has 5 fields, found ${fields.length}: ${text}`);
  const spec = calendar(text, 'unix', ['0', ...fields], UNIX_DAYS_OF_WEEK);
  if (spec.kind !== 'calendar') return spec;
  const days = new Set(spec.dayOfWeek.values.map((day) => day % 7));
  return { ...spec, dayOfWeek: { ...spec.dayOfWeek, values: [...days].toSorted((a, b) => a - b) } };
}

function calendar(text: string, dialect: CronDialect, fields: readonly string[], weekdays: Bounds): CronSpec {
  const field = (index: number, bounds: Bounds) => parseField(fields[index] ?? '*', bounds);
  return {
    kind: 'calendar',
    dialect,
    text,
    second: field(0, SECONDS),
    minute: field(1, MINUTES),
    hour: field(2, HOURS),
    dayOfMonth: field(3, DAYS_OF_MONTH),
    month: field(4, MONTH_NUMBERS),
    dayOfWeek: field(5, weekdays),
  };
}

function parseDescriptor(text: string, dialect: CronDialect): CronSpec {
  const fields = DESCRIPTORS.get(text);
  if (fields !== undefined) return calendar(text, dialect, fieldsOf(fields), DAYS_OF_WEEK);
  if (!text.startsWith('@every ')) throw invalid(`Unrecognized descriptor: ${text}`);
  const ms = parseGoDuration(text.slice('@every '.length), text);
  return { kind: 'every', dialect, text, intervalMs: Math.max(1, Math.floor(ms / 1000)) * 1000 };
}

/** A list of ranges. Empty items are ignored, so a field of commas alone matches nothing, ever. */
function parseField(field: string, bounds: Bounds): CronField {
  const ranges = field.split(',').filter((item) => item !== '');
  const parsed = ranges.map((range) => parseRange(range, bounds));
  const values = new Set(parsed.flatMap((range) => range.values));
  return { values: [...values].toSorted((a, b) => a - b), star: parsed.some((range) => range.star) };
}

/** `N`, `N-M`, `*`, each with `/step`; the order of the checks decides which error is told. */
function parseRange(expression: string, bounds: Bounds): CronField {
  const [range = '', stepText, ...moreSteps] = expression.split('/');
  const [low = '', high, ...moreHyphens] = range.split('-');
  const star = low === '*' || low === '?';
  let begin = bounds.min;
  let end = bounds.max;
  if (!star) {
    begin = parseValue(low, bounds);
    if (moreHyphens.length > 0) throw invalid(`Too many hyphens: ${expression}`);
    end = high === undefined ? begin : parseValue(high, bounds);
  }
  if (moreSteps.length > 0) throw invalid(`Too many slashes: ${expression}`);
  const step = stepText === undefined ? 1 : parseNumber(stepText);
  // "N/step" means "N-max/step".
  if (stepText !== undefined && high === undefined) end = bounds.max;
  if (begin < bounds.min) {
    throw invalid(`Beginning of range (${begin}) below minimum (${bounds.min}): ${expression}`);
  }
  if (end > bounds.max) throw invalid(`End of range (${end}) above maximum (${bounds.max}): ${expression}`);
  if (begin > end) throw invalid(`Beginning of range (${begin}) beyond end of range (${end}): ${expression}`);
  if (step === 0) throw invalid(`Step of range should be a positive number: ${expression}`);
  const values: number[] = [];
  for (let value = begin; value <= end; value += step) values.push(value);
  return { values, star };
}

function parseValue(text: string, bounds: Bounds): number {
  const named = bounds.names?.indexOf(text.toLowerCase()) ?? -1;
  return named >= 0 ? named + bounds.min : parseNumber(text);
}

function parseNumber(text: string): number {
  if (!/^[+-]?[0-9]+$/.test(text)) {
    throw invalid(`Failed to parse int from ${text}: strconv.Atoi: parsing "${text}": invalid syntax`);
  }
  const value = Number(text);
  if (!Number.isSafeInteger(value)) {
    throw invalid(`Failed to parse int from ${text}: strconv.Atoi: parsing "${text}": value out of range`);
  }
  if (value < 0) throw invalid(`Negative number (${value}) not allowed: ${text}`);
  return value === 0 ? 0 : value;
}

const GO_UNITS_MS: ReadonlyMap<string, number> = new Map([
  ['ns', 1e-6],
  ['us', 1e-3],
  ['µs', 1e-3],
  ['μs', 1e-3],
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
  ['h', 3_600_000],
]);
/** Go keeps durations in 64 bits of nanoseconds: about 292 years. */
const GO_LONGEST_MS = 9_223_372_036_854;

/** @see Go's `time.ParseDuration`: signed, several terms, decimals, no days */
function parseGoDuration(text: string, descriptor: string): number {
  const fail = (why: string) =>
    invalid(`Failed to parse duration ${descriptor}: time: ${why} duration "${text}"`);
  const negative = text.startsWith('-');
  let rest = text.replace(/^[+-]/, '');
  if (rest === '0') return 0;
  if (rest === '') throw fail('invalid');
  let total = 0;
  while (rest !== '') {
    const number = /^(?:[0-9]+\.?[0-9]*|\.[0-9]+)/.exec(rest)?.[0];
    if (number === undefined) throw fail('invalid');
    rest = rest.slice(number.length);
    const unit = /^[^0-9.]+/.exec(rest)?.[0];
    if (unit === undefined) throw fail('missing unit in');
    const size = GO_UNITS_MS.get(unit);
    if (size === undefined) throw fail(`unknown unit "${unit}" in`);
    total += Number(number) * size;
    if (total > GO_LONGEST_MS) throw fail('invalid');
    rest = rest.slice(unit.length);
  }
  return negative ? -total : total;
}

function fieldsOf(text: string): string[] {
  return text.split(/\s+/).filter((field) => field !== '');
}

function invalid(message: string): BackupError {
  return new BackupError('format-invalid', message, {
    hint: 'six fields: second minute hour day-of-month month day-of-week, such as "0 0 2 * * *" for 02:00 daily',
  });
}

const SECOND_MS = 1000;
const DAY_MS = 86_400_000;
/** CNPG gives up after this many years. */
const YEARS_AHEAD = 5;

/**
 * The first run strictly after `after`, in whole seconds. A run is an instant whose wall clock in `timezone` matches:
 * a time that a clock change skips does not run on that day, one that comes twice runs twice, as CNPG does it.
 *
 * @param timezone an IANA name; `Etc/UTC` unless given
 * @returns `undefined` when there is none within five years
 * @throws BackupError `format-invalid` for a time zone that does not exist
 */
export function nextAfter(spec: CronSpec, after: Date, timezone = 'Etc/UTC'): Date | undefined {
  const begin = Math.floor(after.getTime() / SECOND_MS) * SECOND_MS;
  if (spec.kind === 'every') return new Date(begin + spec.intervalMs);
  const offsetAt = wallClockOffset(timezone);
  const lastYear = new Date(begin + SECOND_MS + offsetAt(begin + SECOND_MS)).getUTCFullYear() + YEARS_AHEAD;
  // Between two changes of the clock the wall clock is UTC plus a constant: search there, and at the change go on.
  let from = begin;
  for (;;) {
    const offset = offsetAt(from + SECOND_MS);
    const wall = nextWallClock(spec, from + offset, lastYear);
    if (wall === undefined && offsetIsFixed(timezone)) return undefined;
    const until = (wall ?? Date.UTC(lastYear + 1, 0, 1)) - offset;
    const change = firstOffsetChange(offsetAt, from + SECOND_MS, until);
    if (change === undefined) return wall === undefined ? undefined : new Date(wall - offset);
    from = change - SECOND_MS;
  }
}

/** The next `count` runs after `after`; fewer when there are no more. */
export function nextRuns(spec: CronSpec, after: Date, count: number, timezone?: string): Date[] {
  const runs: Date[] = [];
  let from = after;
  while (runs.length < count) {
    const next = nextAfter(spec, from, timezone);
    if (!next) break;
    runs.push(next);
    from = next;
  }
  return runs;
}

/** Whether the runtime knows `timezone` as an IANA name. */
export function isTimezone(timezone: string): boolean {
  try {
    formatterFor(timezone);
    return true;
  } catch {
    return false;
  }
}

/** The next matching wall clock after `after`, both as milliseconds of a clock without time zone. */
function nextWallClock(
  spec: CronSpec & { kind: 'calendar' },
  after: number,
  lastYear: number,
): number | undefined {
  const first = new Date(after + SECOND_MS);
  let day = Date.UTC(first.getUTCFullYear(), first.getUTCMonth(), first.getUTCDate());
  let earliest = after + SECOND_MS - day;
  while (new Date(day).getUTCFullYear() <= lastYear) {
    const date = new Date(day);
    if (!spec.month.values.includes(date.getUTCMonth() + 1)) {
      day = Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 1);
    } else {
      const time = dayMatches(spec, date) ? firstTimeOfDay(spec, earliest) : undefined;
      if (time !== undefined) return day + time;
      day += DAY_MS;
    }
    earliest = 0;
  }
  return undefined;
}

function dayMatches(spec: CronSpec & { kind: 'calendar' }, date: Date): boolean {
  const inMonth = spec.dayOfMonth.values.includes(date.getUTCDate());
  const inWeek = spec.dayOfWeek.values.includes(date.getUTCDay());
  return spec.dayOfMonth.star || spec.dayOfWeek.star ? inMonth && inWeek : inMonth || inWeek;
}

/** Milliseconds since midnight of the first matching time not before `earliest`. */
function firstTimeOfDay(spec: CronSpec & { kind: 'calendar' }, earliest: number): number | undefined {
  for (const hour of spec.hour.values) {
    const hourMs = hour * 3_600_000;
    if (hourMs + 3_599_000 < earliest) continue;
    for (const minute of spec.minute.values) {
      const minuteMs = hourMs + minute * 60_000;
      if (minuteMs + 59_000 < earliest) continue;
      const second = spec.second.values.find((value) => minuteMs + value * SECOND_MS >= earliest);
      if (second !== undefined) return minuteMs + second * SECOND_MS;
    }
  }
  return undefined;
}

/** The first instant in (`from`, `until`] at which the offset differs from the one at `from`, to the second. */
function firstOffsetChange(
  offsetAt: (instant: number) => number,
  from: number,
  until: number,
): number | undefined {
  const offset = offsetAt(from);
  for (let low = from; low < until; low += DAY_MS) {
    let high = Math.min(low + DAY_MS, until);
    if (offsetAt(high) === offset) continue;
    while (high - low > SECOND_MS) {
      const middle = low + Math.floor((high - low) / 2 / SECOND_MS) * SECOND_MS;
      if (offsetAt(middle) === offset) low = middle;
      else high = middle;
    }
    return high;
  }
  return undefined;
}

const formatters = new Map<string, Intl.DateTimeFormat>();

function formatterFor(timezone: string): Intl.DateTimeFormat {
  const known = formatters.get(timezone);
  if (known) return known;
  const formatter = new Intl.DateTimeFormat('en-US', {
    timeZone: timezone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  });
  formatters.set(timezone, formatter);
  return formatter;
}

function offsetIsFixed(timezone: string): boolean {
  return timezone === 'Etc/UTC' || timezone === 'UTC';
}

/** A function that says how far, in milliseconds, the wall clock of `timezone` is ahead of UTC at an instant. */
function wallClockOffset(timezone: string): (instant: number) => number {
  if (offsetIsFixed(timezone)) return () => 0;
  if (!isTimezone(timezone)) {
    throw new BackupError('format-invalid', `no such time zone: "${timezone}"`, {
      hint: 'write an IANA name such as Europe/Berlin or Etc/UTC',
    });
  }
  const formatter = formatterFor(timezone);
  return (instant) => {
    const parts = new Map(formatter.formatToParts(instant).map((part) => [part.type, Number(part.value)]));
    const part = (type: Intl.DateTimeFormatPartTypes) => parts.get(type) ?? 0;
    const wall = Date.UTC(
      part('year'),
      part('month') - 1,
      part('day'),
      part('hour'),
      part('minute'),
      part('second'),
    );
    return wall - instant;
  };
}
