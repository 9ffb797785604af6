import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { nextRuns, parseCron } from '../../core/cron.ts';
import {
  CATCH_UP_MS,
  dueSlots,
  judgeSlot,
  judgeSlots,
  newestSlot,
  nextSlot,
  nextSlots,
  parseSlotStamp,
  rfc3339,
  slotBackupName,
  slotStamp,
  type SlotJudgement,
  type SlotTimes,
} from '../../core/slots.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const at = (text: string) => new Date(text);

describe('what becomes of a slot', () => {
  const slot = at('2026-11-24T02:00:00Z');
  const next = at('2026-11-25T02:00:00Z');
  const after = (ms: number) => new Date(slot.getTime() + ms);

  test.for<[string, Partial<Parameters<typeof judgeSlot>[0]>, SlotJudgement['outcome'], RegExp?]>([
    ['due now: it runs', { now: slot }, 'ran'],
    ['late, and none due since: it is made up for', { now: after(11 * HOUR) }, 'ran'],
    ['later than can be made up for: missed', { now: after(CATCH_UP_MS + 1) }, 'missed', /within 12 h/],
    [
      'overtaken by the next one: missed',
      { now: after(2 * HOUR), next: after(HOUR) },
      'missed',
      /2026-11-24T03/,
    ],
    ['the next one is due this moment: missed', { now: next, next }, 'missed'],
    [
      'a Backup before it is open: skipped',
      { now: slot, openBackup: 'a-1' },
      'skipped',
      /"a-1" has not ended/,
    ],
    ['suspended: skipped', { now: slot, suspended: true }, 'skipped', /suspended/],
    ['without a schedule none overtakes it', { now: after(3 * HOUR) }, 'ran'],
  ])('F6: %s', ([, facts, outcome, reason]) => {
    const judged = judgeSlot({ slot, now: slot, ...facts });
    expect(judged.outcome).toBe(outcome);
    if (reason) expect(judged.reason).toMatch(reason);
    expect(judged.backupName).toBe(facts.openBackup);
  });
});

describe('the slots that are due', () => {
  const daily = parseCron('0 0 2 * * *', 'cnpg');

  it('begin after and end with the given moments', () => {
    const slots = dueSlots(daily, 'Etc/UTC', at('2026-11-22T02:00:00Z'), at('2026-11-24T02:00:00Z'), 10);
    expect(slots.map(rfc3339)).toEqual(['2026-11-23T02:00:00Z', '2026-11-24T02:00:00Z']);
  });

  it('of @every are in step with the anchor, wherever one asks from', () => {
    const spec = parseCron('@every 7m', 'cnpg');
    const anchor = at('2026-11-22T02:03:11Z');
    fc.assert(
      fc.property(fc.integer({ min: -90 * DAY, max: 90 * DAY }), (apart) => {
        const from = new Date(anchor.getTime() + apart);
        const slot = nextSlot({ spec, timezone: 'Etc/UTC', anchor }, from)!;
        expect(slot.getTime()).toBeGreaterThan(from.getTime());
        expect(slot.getTime() - from.getTime()).toBeLessThanOrEqual(7 * MINUTE);
        expect(Math.abs(slot.getTime() - anchor.getTime()) % (7 * MINUTE)).toBe(0);
      }),
    );
    const times: SlotTimes = { spec, timezone: 'Etc/UTC', anchor };
    expect(nextSlots(times, anchor, 2).map(rfc3339)).toEqual([
      '2026-11-22T02:10:11Z',
      '2026-11-22T02:17:11Z',
    ]);
  });

  it('are the newest when they are many, and quick to find in a long time', () => {
    const spec = parseCron('* * * * * *', 'cnpg');
    const until = at('2026-11-24T02:00:00.900Z');
    const began = Date.now();
    const slots = dueSlots(spec, 'Etc/UTC', at('2021-01-01T00:00:00Z'), until, 5);
    expect(slots.map(slotStamp)).toEqual([
      '20261124015956',
      '20261124015957',
      '20261124015958',
      '20261124015959',
      '20261124020000',
    ]);
    expect(Date.now() - began).toBeLessThan(1_000);
  });

  it('are those of the schedule whatever the limit is', () => {
    const texts = ['0 */7 * * * *', '0 0 2 * * *', '0 0 3 1 * MON', '@every 11m', '*/20 * 5 * * SUN'];
    fc.assert(
      fc.property(
        fc.constantFrom(...texts),
        fc.integer({ min: 0, max: 9 * DAY }),
        fc.integer({ min: 1, max: 300 }),
        (text, span, limit) => {
          const spec = parseCron(text, 'cnpg');
          const since = at('2026-03-20T11:12:13.456Z');
          const until = new Date(since.getTime() + span);
          const all = nextRuns(spec, since, 2_000, 'Europe/Rome').filter((run) => run <= until);
          const expected = all.slice(-limit);
          const anchor = at('2026-03-20T11:12:13Z');
          expect(dueSlots(spec, 'Europe/Rome', since, until, limit, anchor)).toEqual(expected);
          expect(newestSlot({ spec, timezone: 'Europe/Rome', anchor }, since, until)).toEqual(all.at(-1));
        },
      ),
      { numRuns: 40 },
    );
  });

  it('have names as CNPG gives them, which can be read back', () => {
    const slot = at('2026-11-24T02:00:05Z');
    expect(slotBackupName('nightly', slot)).toBe('nightly-20261124020005');
    expect(parseSlotStamp('20261124020005')).toEqual(slot);
    for (const wrong of ['20261324020005', '2026112402000', 'schedule', '20260230000000'])
      expect(parseSlotStamp(wrong)).toBeUndefined();
  });
});

/** A time in which something is away. */
interface Outage {
  readonly from: number;
  readonly until: number;
}

/** What the simulated repository holds, and who wrote what. */
interface Recorded extends SlotJudgement {
  readonly at: number;
}

/**
 * 60 days of one schedule. Temporal, the workers and the repository go away and come back; some Backups take many
 * intervals. Temporal begins what it missed when it is back, unless it is older than the catch-up window; a run decides
 * when it can, and an audit looks for what nothing began.
 */
function simulate(
  times: SlotTimes,
  begin: number,
  end: number,
  outages: { readonly temporal: readonly Outage[]; readonly others: readonly Outage[] },
  durationOf: (slot: number) => number,
) {
  const records = new Map<number, Recorded>();
  const backups: { slot: number; from: number; until: number }[] = [];
  const record = (slot: number, judgement: SlotJudgement, now: number): SlotJudgement => {
    const first = records.get(slot);
    if (first) return first;
    records.set(slot, { ...judgement, at: now });
    return judgement;
  };
  const back = (now: number, away: readonly Outage[]): number =>
    away.reduce((time, { from, until }) => (time >= from && time < until ? until : time), now);
  const all = [...outages.temporal, ...outages.others].toSorted((a, b) => a.from - b.from);
  const whenAllAreThere = (now: number) => back(back(now, all), all);

  const slots = dueSlots(times.spec, times.timezone, new Date(begin), new Date(end), 100_000, times.anchor);
  const happenings: { at: number; does: (now: number) => void }[] = [];
  for (const [index, due] of slots.entries()) {
    const slot = due.getTime();
    const starts = back(slot, outages.temporal);
    if (starts - slot > CATCH_UP_MS) continue;
    const decides = whenAllAreThere(starts);
    if (decides - slot > CATCH_UP_MS) continue;
    happenings.push({
      at: decides,
      does: (now) => {
        const known = records.get(slot);
        if (known) return;
        const next = slots[index + 1];
        const open = backups.find((backup) => backup.slot < slot && backup.until > now);
        const judgement = judgeSlot({
          slot: due,
          now: new Date(now),
          ...(next && { next }),
          ...(open && { openBackup: slotBackupName('s', new Date(open.slot)) }),
        });
        if (record(slot, judgement, now).outcome === 'ran')
          backups.push({ slot, from: now, until: now + durationOf(slot) });
      },
    });
  }
  const audit = (now: number, lookBack = 2 * DAY) => {
    const until = now - 15 * MINUTE;
    const { missed, reason } = judgeSlots({
      ...times,
      since: new Date(Math.max(begin, until - lookBack)),
      until: new Date(until),
      recorded: new Set(records.keys()),
      limit: 100_000,
    });
    for (const slot of missed)
      if (slot.getTime() <= end) record(slot.getTime(), { outcome: 'missed', reason }, now);
  };
  for (let look = begin + HOUR; look <= end + 2 * DAY; look += 30 * HOUR) {
    if (whenAllAreThere(look) === look) happenings.push({ at: look, does: (now) => audit(now) });
  }
  happenings.push({ at: end + 3 * DAY, does: (now) => audit(now, 70 * DAY) });
  for (const { at: now, does } of happenings.toSorted((a, b) => a.at - b.at)) does(now);
  return { slots, records, backups, whenAllAreThere };
}

const outage = (days: number, longest: number) =>
  fc
    .record({ from: fc.integer({ min: 0, max: days * DAY }), length: fc.integer({ min: 1, max: longest }) })
    .map(({ from, length }) => ({ from, until: from + length }));

describe('F6: 60 days with outages, two changes of the clock and long runs', () => {
  // Africa/Casablanca puts its clock back for Ramadan and forth again: two changes within 60 days.
  const places = [
    { timezone: 'Africa/Casablanca', begin: '2026-02-01T00:00:00Z' },
    { timezone: 'Europe/Rome', begin: '2026-03-01T00:00:00Z' },
    { timezone: 'America/New_York', begin: '2026-09-20T00:00:00Z' },
    { timezone: 'Australia/Lord_Howe', begin: '2026-03-10T00:00:00Z' },
  ] as const;
  const texts = [
    '0 30 2 * * *',
    '0 0 * * * *',
    '0 */20 * * * *',
    '0 15 1,2,3 * * MON-FRI',
    '@every 5h',
    '0 0 2 1 * SUN',
  ];

  it('has exactly one outcome a slot, never two runs of one, at most one run to make up for an outage', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...places),
        fc.constantFrom(...texts),
        fc.array(outage(60, 2 * DAY), { maxLength: 6 }),
        fc.array(outage(60, 8 * HOUR), { maxLength: 10 }),
        fc.integer({ min: 0, max: 6 }),
        ({ timezone, begin }, text, temporal, others, longRuns) => {
          const start = Date.parse(begin);
          const end = start + 60 * DAY;
          const shift = ({ from, until }: Outage) => ({
            from: start + from,
            until: Math.min(start + until, end),
          });
          const spec = parseCron(text, 'cnpg');
          const times: SlotTimes = { spec, timezone, anchor: new Date(start) };
          const away = { temporal: temporal.map(shift), others: others.map(shift) };
          const { slots, records, backups, whenAllAreThere } = simulate(times, start, end, away, (slot) =>
            (slot / 1000) % 7 < longRuns ? 9 * HOUR : 3 * MINUTE,
          );

          expect([...records.keys()].toSorted((a, b) => a - b)).toEqual(slots.map((slot) => slot.getTime()));
          expect(new Set(backups.map(({ slot }) => slot)).size).toBe(backups.length);
          const ran = [...records].filter(([, { outcome }]) => outcome === 'ran');
          expect(ran).toHaveLength(backups.length);
          // Never two at once.
          for (const [index, { from }] of backups.entries()) {
            expect(from).toBeGreaterThanOrEqual(backups[index - 1]?.until ?? 0);
          }
          // What began late began at the end of an outage: one each.
          const late = backups.filter(({ slot, from }) => from > slot);
          expect(new Set(late.map(({ from }) => from)).size).toBe(late.length);
          for (const { slot, from } of late) {
            expect(whenAllAreThere(slot)).toBe(from);
            // The newest that was due by then
            const next = slots.find((one) => one.getTime() > slot);
            expect(next?.getTime() ?? Number.POSITIVE_INFINITY).toBeGreaterThan(from);
          }
          // Nothing that could have run is called missed.
          for (const [slot, { outcome }] of records) {
            if (whenAllAreThere(slot) === slot) expect(outcome).not.toBe('missed');
          }
        },
      ),
      { numRuns: 40 },
    );
  }, 120_000);

  it('an outage within the catch-up window is followed by the newest slot, and the others are missed', () => {
    const start = Date.parse('2026-11-24T00:00:00Z');
    const times: SlotTimes = { spec: parseCron('0 0 * * * *', 'cnpg'), timezone: 'Etc/UTC' };
    const temporal = [{ from: start + 2.5 * HOUR, until: start + 7.25 * HOUR }];
    const { records } = simulate(times, start, start + 10 * HOUR, { temporal, others: [] }, () => MINUTE);
    const told = [...records].toSorted(([a], [b]) => a - b).map(([, { outcome }]) => outcome);
    expect(told).toEqual(['ran', 'ran', 'missed', 'missed', 'missed', 'missed', 'ran', 'ran', 'ran', 'ran']);
    expect(records.get(start + 7 * HOUR)).toMatchObject({ outcome: 'ran', at: start + 7.25 * HOUR });
  });
});
