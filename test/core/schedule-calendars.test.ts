import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { parseCron, type CronDialect } from '../../core/cron.ts';
import { phaseOf, scheduleTimes } from '../../core/schedule-calendars.ts';

const ANCHOR = new Date('2026-01-21T10:07:30.5Z');

function calendars(text: string, dialect: CronDialect = 'cnpg') {
  return scheduleTimes(parseCron(text, dialect), 'Etc/UTC', ANCHOR).calendars;
}

const one = <Value>(value: Value) => [{ start: value, end: value, step: 1 }];
const range = <Value>(start: Value, end: Value, step = 1) => [{ start, end, step }];

describe('a schedule in the terms of Temporal', () => {
  it('six fields begin with seconds, as in CNPG', () => {
    expect(calendars('30 0 2 * * *')).toEqual([
      {
        second: one(30),
        minute: one(0),
        hour: one(2),
        dayOfMonth: range(1, 31),
        month: range('JANUARY', 'DECEMBER'),
        dayOfWeek: range('SUNDAY', 'SATURDAY'),
        comment: '30 0 2 * * *',
      },
    ]);
  });

  it('five fields begin with minutes as cron, with seconds as CNPG', () => {
    expect(calendars('0 2 * * *', 'unix')).toMatchObject([{ second: one(0), minute: one(0), hour: one(2) }]);
    expect(calendars('0 2 * * *', 'cnpg')).toMatchObject([
      { second: one(0), minute: one(2), hour: range(0, 23) },
    ]);
  });

  it('both day fields without a star: either counts, so there are two calendars', () => {
    expect(calendars('0 0 12 1 * MON')).toMatchObject([
      { dayOfMonth: one(1), dayOfWeek: range('SUNDAY', 'SATURDAY') },
      { dayOfMonth: range(1, 31), dayOfWeek: one('MONDAY') },
    ]);
  });

  it('a star in either day field, also with a step: both count, so there is one', () => {
    expect(calendars('0 0 12 */2 * MON')).toMatchObject([
      { dayOfMonth: range(1, 31, 2), dayOfWeek: one('MONDAY') },
    ]);
    expect(calendars('0 0 12 1 * */3')).toMatchObject([
      { dayOfMonth: one(1), dayOfWeek: range('SUNDAY', 'SATURDAY', 3) },
    ]);
  });

  it('names, lists, ranges and steps keep their values', () => {
    expect(calendars('5/15 1,2,3,7 9-17/4 ? jan-MAR,dec sun')).toMatchObject([
      {
        second: range(5, 50, 15),
        minute: [...range(1, 3), ...one(7)],
        hour: range(9, 17, 4),
        month: [...range('JANUARY', 'MARCH'), ...one('DECEMBER')],
        dayOfWeek: one('SUNDAY'),
      },
    ]);
    expect(calendars('0 0 * * 7', 'unix')).toMatchObject([{ dayOfWeek: one('SUNDAY') }]);
  });

  it('a day field that lists nothing restricts nothing in Temporal, and so makes no calendar', () => {
    expect(calendars('0 0 12 , * MON')).toMatchObject([
      { dayOfMonth: range(1, 31), dayOfWeek: one('MONDAY') },
    ]);
  });

  test.for(['0 0 0 31 2 *', '0 0 0 30 2 ?', ', 0 0 * * *', '0 0 0 , * ,'])(
    '"%s" never runs and is refused',
    (text) => {
      expect(() => calendars(text)).toThrow(
        expect.objectContaining({ code: 'format-invalid', message: expect.stringContaining('never runs') }),
      );
    },
  );

  it('@every is an interval in step with its anchor', () => {
    const spec = parseCron('@every 1h30m', 'cnpg');
    const times = scheduleTimes(spec, 'Etc/UTC', ANCHOR);
    expect(times).toEqual({
      timezone: 'Etc/UTC',
      calendars: [],
      intervals: [{ every: 5_400_000, offset: phaseOf(5_400_000, ANCHOR) }],
    });
    const again = new Date(ANCHOR.getTime() + 7 * 5_400_000);
    expect(scheduleTimes(spec, 'Etc/UTC', again)).toEqual(times);
    expect(scheduleTimes(spec, 'Etc/UTC', new Date(times.intervals[0]!.offset))).toEqual(times);
  });

  it('has exactly the values of the cron text in its ranges', () => {
    const list = (min: number, max: number) =>
      fc
        .uniqueArray(fc.integer({ min, max }), { minLength: 1, maxLength: max - min + 1 })
        .map((values) => values.toSorted((a, b) => a - b));
    fc.assert(
      fc.property(list(0, 59), list(0, 23), (minutes, hours) => {
        const [calendar] = calendars(`0 ${minutes.join(',')} ${hours.join(',')} * * *`);
        const values = (ranges: readonly { start: number; end: number; step: number }[]) =>
          ranges.flatMap(({ start, end, step }) => {
            const all: number[] = [];
            for (let value = start; value <= end; value += step) all.push(value);
            return all;
          });
        expect(values(calendar!.minute)).toEqual(minutes);
        expect(values(calendar!.hour)).toEqual(hours);
      }),
    );
  });
});
