/** The spans of a calendar that rules count in. */
export const PERIODS = ['day', 'week', 'month', 'year'] as const;
export type Period = (typeof PERIODS)[number];

const DAY_MS = 86_400_000;

/**
 * A function that names the period an instant lies in, by the wall clock of `timezone`: `2026-11-22` for a day,
 * `the week of 2026-11-16` (a Monday), `2026-11`, `2026`.
 *
 * @throws RangeError for a time zone that does not exist
 */
export function calendarOf(timezone: string): (instant: number, period: Period) => string {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: timezone,
    calendar: 'gregory',
    numberingSystem: 'latn',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
  });
  const days = new Map<number, number>();
  /** Midnight of the date there, as if it were UTC. */
  const dateAt = (instant: number): number => {
    const known = days.get(instant);
    if (known !== undefined) return known;
    const parts = new Map(format.formatToParts(instant).map(({ type, value }) => [type, Number(value)]));
    const date = Date.UTC(parts.get('year') ?? 0, (parts.get('month') ?? 1) - 1, parts.get('day') ?? 1);
    days.set(instant, date);
    return date;
  };
  return (instant, period) => {
    const date = dateAt(instant);
    if (period === 'day') return textOf(date, 10);
    if (period === 'month') return textOf(date, 7);
    if (period === 'year') return textOf(date, 4);
    const sinceMonday = (new Date(date).getUTCDay() + 6) % 7;
    return `the week of ${textOf(date - sinceMonday * DAY_MS, 10)}`;
  };
}

function textOf(date: number, length: number): string {
  return new Date(date).toISOString().slice(0, length);
}
