import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import {
  cronFieldCount,
  isTimezone,
  nextAfter,
  nextRuns,
  parseCron,
  type CronDialect,
} from '../../core/cron.ts';

const BASE = new Date('2026-01-21T10:07:30.5Z');

function runs(
  text: string,
  dialect: CronDialect = 'cnpg',
  options: { after?: Date; timezone?: string } = {},
) {
  const found = nextRuns(parseCron(text, dialect), options.after ?? BASE, 3, options.timezone);
  return found.map((run) => run.toISOString().replace('.000Z', 'Z'));
}

describe('the dialect of CNPG: what its parser was seen to do', () => {
  test.for([
    ['0 0 * * *', '2026-01-21T11:00:00Z', '2026-01-21T12:00:00Z', '2026-01-21T13:00:00Z'],
    ['0 2 * * *', '2026-01-21T11:02:00Z', '2026-01-21T12:02:00Z', '2026-01-21T13:02:00Z'],
    ['0 * * * *', '2026-01-21T10:08:00Z', '2026-01-21T10:09:00Z', '2026-01-21T10:10:00Z'],
    ['* * * * *', '2026-01-21T10:07:31Z', '2026-01-21T10:07:32Z', '2026-01-21T10:07:33Z'],
    ['0 0 0 * * *', '2026-01-22T00:00:00Z', '2026-01-23T00:00:00Z', '2026-01-24T00:00:00Z'],
    ['@daily', '2026-01-22T00:00:00Z', '2026-01-23T00:00:00Z', '2026-01-24T00:00:00Z'],
    ['@midnight', '2026-01-22T00:00:00Z', '2026-01-23T00:00:00Z', '2026-01-24T00:00:00Z'],
    ['@hourly', '2026-01-21T11:00:00Z', '2026-01-21T12:00:00Z', '2026-01-21T13:00:00Z'],
    ['@weekly', '2026-01-25T00:00:00Z', '2026-02-01T00:00:00Z', '2026-02-08T00:00:00Z'],
    ['@monthly', '2026-02-01T00:00:00Z', '2026-03-01T00:00:00Z', '2026-04-01T00:00:00Z'],
    ['@yearly', '2027-01-01T00:00:00Z', '2028-01-01T00:00:00Z', '2029-01-01T00:00:00Z'],
    ['0 0 3 * * 0', '2026-01-25T03:00:00Z', '2026-02-01T03:00:00Z', '2026-02-08T03:00:00Z'],
    ['0 0 3 * * SUN', '2026-01-25T03:00:00Z', '2026-02-01T03:00:00Z', '2026-02-08T03:00:00Z'],
    ['0 0 12 1 * MON', '2026-01-26T12:00:00Z', '2026-02-01T12:00:00Z', '2026-02-02T12:00:00Z'],
    ['0 0 12 */2 * MON', '2026-02-09T12:00:00Z', '2026-02-23T12:00:00Z', '2026-03-09T12:00:00Z'],
    ['5/15 * * * * *', '2026-01-21T10:07:35Z', '2026-01-21T10:07:50Z', '2026-01-21T10:08:05Z'],
    ['@every 1h30m', '2026-01-21T11:37:30Z', '2026-01-21T13:07:30Z', '2026-01-21T14:37:30Z'],
    ['@every 500ms', '2026-01-21T10:07:31Z', '2026-01-21T10:07:32Z', '2026-01-21T10:07:33Z'],
    ['@every -3s', '2026-01-21T10:07:31Z', '2026-01-21T10:07:32Z', '2026-01-21T10:07:33Z'],
    ['0 0 0 29 2 *', '2028-02-29T00:00:00Z', '2032-02-29T00:00:00Z', '2036-02-29T00:00:00Z'],
    ['0 0 0 ,1 * *', '2026-02-01T00:00:00Z', '2026-03-01T00:00:00Z', '2026-04-01T00:00:00Z'],
    ['0 0 0 ? JAN-mar ?', '2026-01-22T00:00:00Z', '2026-01-23T00:00:00Z', '2026-01-24T00:00:00Z'],
    ['0 0 0 31 2 *'],
    ['0 0 0 , * ,'],
  ] as const)('%s', ([text, ...expected]) => {
    expect(runs(text)).toEqual(expected);
  });

  test.for([
    ['0 3 * * 0', 'Beginning of range (0) below minimum (1): 0'],
    ['0 0 3 * * 7', 'End of range (7) above maximum (6): 7'],
    ['0 0 0 * * 5-1', 'Beginning of range (5) beyond end of range (1): 5-1'],
    ['TZ=UTC 0 0 0 * * *', 'Expected 5 to 6 fields, found 7: TZ=UTC 0 0 0 * * *'],
    ['0 0 0 *', 'Expected 5 to 6 fields, found 4: 0 0 0 *'],
    ['@reboot', 'Unrecognized descriptor: @reboot'],
    ['@DAILY', 'Unrecognized descriptor: @DAILY'],
    ['', 'Empty spec string'],
    ['0 0 0 1-2-3 * *', 'Too many hyphens: 1-2-3'],
    ['0 0 0 1/2/3 * *', 'Too many slashes: 1/2/3'],
    ['0 0 0 */0 * *', 'Step of range should be a positive number: */0'],
    ['0 x * * * *', 'Failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax'],
    ['0 0 0 L * *', 'Failed to parse int from L: strconv.Atoi: parsing "L": invalid syntax'],
    ['@every 5x', 'Failed to parse duration @every 5x: time: unknown unit "x" in duration "5x"'],
    ['@every 5', 'Failed to parse duration @every 5: time: missing unit in duration "5"'],
    ['@every ', 'Failed to parse duration @every : time: invalid duration ""'],
  ] as const)('refuses "%s" with the words of CNPG', ([text, message]) => {
    expect(() => parseCron(text, 'cnpg')).toThrow(
      expect.objectContaining({ code: 'format-invalid', message }),
    );
  });
});

describe('ordinary cron', () => {
  test.for([
    ['0 0 * * *', '2026-01-22T00:00:00Z', '2026-01-23T00:00:00Z', '2026-01-24T00:00:00Z'],
    ['0 * * * *', '2026-01-21T11:00:00Z', '2026-01-21T12:00:00Z', '2026-01-21T13:00:00Z'],
    ['0 2 * * *', '2026-01-22T02:00:00Z', '2026-01-23T02:00:00Z', '2026-01-24T02:00:00Z'],
    ['0 3 * * 0', '2026-01-25T03:00:00Z', '2026-02-01T03:00:00Z', '2026-02-08T03:00:00Z'],
    ['0 3 * * 7', '2026-01-25T03:00:00Z', '2026-02-01T03:00:00Z', '2026-02-08T03:00:00Z'],
    ['0 3 * * 5-7', '2026-01-23T03:00:00Z', '2026-01-24T03:00:00Z', '2026-01-25T03:00:00Z'],
    ['30 4 1,15 * fri', '2026-01-23T04:30:00Z', '2026-01-30T04:30:00Z', '2026-02-01T04:30:00Z'],
  ] as const)('%s', ([text, ...expected]) => {
    expect(runs(text, 'unix')).toEqual(expected);
  });

  it('refuses six fields, which would mean something else', () => {
    expect(() => parseCron('0 0 2 * * *', 'unix')).toThrow('ordinary cron has 5 fields, found 6');
  });
});

describe('time zones', () => {
  const rome = { timezone: 'Europe/Rome' };

  it('skips a time that the clock skips in spring', () => {
    expect(runs('0 30 2 * * *', 'cnpg', { ...rome, after: new Date('2026-03-27T12:00:00Z') })).toEqual([
      '2026-03-28T01:30:00Z',
      '2026-03-30T00:30:00Z',
      '2026-03-31T00:30:00Z',
    ]);
  });

  it('runs twice when the time comes twice in autumn', () => {
    expect(runs('0 30 2 * * *', 'cnpg', { ...rome, after: new Date('2026-10-24T12:00:00Z') })).toEqual([
      '2026-10-25T00:30:00Z',
      '2026-10-25T01:30:00Z',
      '2026-10-26T01:30:00Z',
    ]);
  });

  it('keeps the wall clock over the change, where the zone is half an hour wide', () => {
    const options = { timezone: 'Australia/Lord_Howe', after: new Date('2026-10-03T00:00:00Z') };
    expect(runs('0 4 * * *', 'unix', options)).toEqual([
      '2026-10-03T17:00:00Z',
      '2026-10-04T17:00:00Z',
      '2026-10-05T17:00:00Z',
    ]);
  });

  it('ends the search of a schedule that never runs, in any zone', () => {
    expect(runs('0 0 0 31 2 *', 'cnpg', { timezone: 'America/New_York' })).toEqual([]);
  });

  it('refuses a zone that does not exist', () => {
    expect(isTimezone('Europe/Berln')).toBe(false);
    expect(() => nextAfter(parseCron('@daily', 'cnpg'), BASE, 'Europe/Berln')).toThrow('no such time zone');
  });
});

describe('any schedule', () => {
  const value = (max: number) => fc.integer({ min: 0, max }).map(String);
  const field = (min: number, max: number) =>
    fc.oneof(
      fc.constant('*'),
      fc.integer({ min, max }).map(String),
      fc
        .tuple(fc.integer({ min, max }), fc.integer({ min, max }))
        .map(([a, b]) => `${Math.min(a, b)}-${Math.max(a, b)}`),
      fc.integer({ min: 1, max }).map((step) => `*/${step}`),
    );
  const schedule = fc
    .tuple(field(0, 59), field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6))
    .map((fields) => fields.join(' '));
  const instant = fc.date({ min: new Date('2024-01-01'), max: new Date('2030-01-01'), noInvalidDate: true });

  it('runs later than asked, in whole seconds, and nothing was left out in between', () => {
    fc.assert(
      fc.property(schedule, instant, (text, after) => {
        const spec = parseCron(text, 'cnpg');
        const next = nextAfter(spec, after);
        if (!next) return;
        expect(next.getTime()).toBeGreaterThan(after.getTime());
        expect(next.getUTCMilliseconds()).toBe(0);
        // From any moment before it, the same run comes first.
        const between = new Date((after.getTime() + next.getTime() - 1) / 2);
        expect(nextAfter(spec, between)).toEqual(next);
        expect(nextAfter(spec, new Date(next.getTime() - 1))).toEqual(next);
      }),
      { numRuns: 300 },
    );
  });

  it('throws nothing but a BackupError, whatever the text', () => {
    const anything = fc.oneof(
      fc.string(),
      fc.array(fc.oneof(value(70), fc.constantFrom('*', '/', '-', ',', ' ', '@'))).map((p) => p.join('')),
    );
    fc.assert(
      fc.property(anything, fc.constantFrom<CronDialect>('cnpg', 'unix'), (text, dialect) => {
        try {
          parseCron(text, dialect);
        } catch (error) {
          expect(error).toMatchObject({ name: 'BackupError', code: 'format-invalid' });
        }
      }),
    );
  });

  it('counts fields, of which a descriptor has none', () => {
    expect([cronFieldCount('0 0  * * *'), cronFieldCount('0 0 2 * * *'), cronFieldCount('@daily')]).toEqual([
      5, 6, 0,
    ]);
  });
});
