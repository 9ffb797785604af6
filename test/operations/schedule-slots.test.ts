import { describe, expect, it } from 'vitest';
import { rfc3339, slotBackupName, slotStamp } from '../../core/slots.ts';
import { scheduledBackupSchema, type ScheduledBackupManifest } from '../../manifests/scheduled-backup.ts';
import {
  auditSlots,
  considerSlot,
  endSeries,
  keepSeries,
  slotToMakeUpFor,
  type SlotQuestion,
} from '../../operations/schedule-slots.ts';
import { writeOutcome } from '../../repository/outcome.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { listSlots, readSlot, writeSlot } from '../../repository/slots.ts';
import { createMemoryStore } from '../../stores/memory.ts';

const HOUR = 3_600_000;
const { signal } = new AbortController();
const open = () => createRepository(createMemoryStore(), 'pg');
const at = (text: string) => new Date(text);

function schedule(text: string, spec: object = {}): ScheduledBackupManifest {
  return scheduledBackupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'ScheduledBackup',
    metadata: { name: 'hourly' },
    spec: { schedule: text, cluster: { name: 'pg' }, ...spec },
  });
}

const HOURLY = schedule('0 0 * * * *');

function question(slot: Date, more: Partial<SlotQuestion> = {}): SlotQuestion {
  return {
    series: 'hourly',
    schedule: HOURLY,
    key: slot,
    slot,
    now: slot,
    backupName: slotBackupName('hourly', slot),
    deadlineMs: 12 * HOUR,
    ...more,
  };
}

async function decide(r: Repository, asked: SlotQuestion) {
  const answer = await considerSlot(r, asked, signal);
  if ('ask' in answer) throw new Error(`asks about ${answer.ask}`);
  return answer;
}

async function end(r: Repository, backupName: string): Promise<void> {
  const status = { phase: 'completed' };
  const outcome = { version: 1 as const, backupName, status, recordedAt: '2026-11-24T02:00:00Z' };
  await writeOutcome(r, outcome, { mode: 'create', signal });
}

const T = at('2026-11-24T02:00:00Z');
const hours = (count: number) => new Date(T.getTime() + count * HOUR);

describe('a slot that could begin', () => {
  it('F6: runs, and asked again gets the same answer, whatever has happened since', async () => {
    const r = open();
    const first = await decide(r, question(T));
    expect(first.record).toMatchObject({ outcome: 'ran', backupName: 'hourly-20261124020000' });
    expect((await decide(r, question(T, { now: hours(5) }))).record).toEqual(first.record);
  });

  it('F6: whose outcome somebody else recorded keeps that', async () => {
    const r = open();
    const missed = {
      version: 1 as const,
      scheduledBackup: 'hourly',
      slot: rfc3339(T),
      outcome: 'missed' as const,
    };
    await writeSlot(r, { ...missed, recordedAt: rfc3339(T) }, signal);
    expect((await decide(r, question(T))).record.outcome).toBe('missed');
  });

  it('F6: is skipped while the Backup before it is open, as the repository and then the workflow say', async () => {
    const r = open();
    await decide(r, question(T));
    const next = question(hours(1));
    expect(await considerSlot(r, next, signal)).toEqual({ ask: 'hourly-20261124020000' });
    const asked = { backupName: 'hourly-20261124020000', isOpen: true };
    const skipped = (await decide(r, { ...next, asked })).record;
    expect(skipped).toMatchObject({ outcome: 'skipped', backupName: 'hourly-20261124020000' });
    expect(skipped.reason).toContain('"hourly-20261124020000" has not ended');
    // The slot after that looks at the same Backup, without reading all between.
    expect(await considerSlot(r, question(hours(2)), signal)).toEqual({ ask: 'hourly-20261124020000' });
    await end(r, 'hourly-20261124020000');
    expect((await decide(r, question(hours(2)))).record.outcome).toBe('ran');
  });

  it('F6: a Backup that left no outcome and runs no more is in nobody’s way', async () => {
    const r = open();
    await decide(r, question(T));
    const asked = { backupName: 'hourly-20261124020000', isOpen: false };
    expect((await decide(r, question(hours(1), { asked }))).record.outcome).toBe('ran');
  });

  it('F6: a Backup that was decided on this moment may not have begun yet: it is in the way', async () => {
    const r = open();
    const seconds = schedule('*/5 * * * * *');
    const slot = (count: number) => new Date(T.getTime() + count * 5_000);
    await decide(r, question(slot(0), { schedule: seconds }));
    const asked = { backupName: slotBackupName('hourly', slot(0)), isOpen: false };
    const after = await decide(r, question(slot(1), { schedule: seconds, asked }));
    expect(after.record.outcome).toBe('skipped');
  });

  it('F6: of many that wait the newest runs; the others are missed, in whatever order they come', async () => {
    for (const order of [
      [0, 1, 2, 3],
      [3, 2, 1, 0],
      [2, 3, 0, 1],
    ]) {
      const r = open();
      await keepSeries(r, HOURLY, hours(-1), signal);
      const now = new Date(hours(3).getTime() + HOUR / 2);
      for (const slot of order) await decide(r, question(hours(slot), { now }));
      const outcomes = await Promise.all(
        [0, 1, 2, 3].map((slot) => readSlot(r, 'hourly', hours(slot), signal)),
      );
      expect(outcomes.map((record) => record?.outcome)).toEqual(['missed', 'missed', 'missed', 'ran']);
    }
  });

  it('F6: slots before it that nothing began are recorded with it, back to the last record', async () => {
    const r = open();
    await keepSeries(r, HOURLY, hours(-1), signal);
    await decide(r, question(T));
    await end(r, 'hourly-20261124020000');
    const answer = await decide(r, question(hours(4)));
    expect(answer.record.outcome).toBe('ran');
    expect(answer.missed.map(({ slot }) => slot)).toEqual([1, 2, 3].map((count) => rfc3339(hours(count))));
    expect(answer.missed.every(({ outcome }) => outcome === 'missed')).toBe(true);
    const later = await decide(r, question(hours(4)));
    expect(later.missed).toEqual([]);
  });

  it('nothing is missed of the time before the schedule was declared, or while it was suspended', async () => {
    const r = open();
    await keepSeries(r, HOURLY, hours(3), signal);
    expect((await decide(r, question(hours(4)))).missed).toEqual([]);
    await keepSeries(r, schedule('0 0 * * * *', { suspend: true }), new Date(hours(4).getTime() + 1), signal);
    await keepSeries(r, HOURLY, hours(9), signal);
    await end(r, slotBackupName('hourly', hours(4)));
    expect((await decide(r, question(hours(10)))).missed).toEqual([]);
    // Taken back and declared again much later
    await endSeries(r, 'hourly', hours(11), signal);
    await keepSeries(r, HOURLY, hours(100), signal);
    await end(r, slotBackupName('hourly', hours(10)));
    expect((await decide(r, question(hours(101)))).missed).toEqual([]);
    // Another schedule under the same name
    const other = schedule('0 30 * * * *');
    await keepSeries(r, other, hours(200), signal);
    await end(r, slotBackupName('hourly', hours(101)));
    const half = new Date(hours(200).getTime() + HOUR / 2);
    expect((await decide(r, question(half, { schedule: other }))).missed).toEqual([]);
  });

  it('a run by hand has no schedule to be overtaken by, and its own series', async () => {
    const r = open();
    const { schedule: _none, ...byHand } = question(T, { series: 'pg', backupName: 'pg-20261124020000' });
    expect((await decide(r, { ...byHand, now: hours(5) })).record).toMatchObject({
      scheduledBackup: 'pg',
      outcome: 'ran',
    });
  });

  it('the immediate run is recorded once, whenever it is asked about', async () => {
    const r = open();
    const first = await decide(r, question(T, { key: 'immediate' }));
    expect(first.record).toMatchObject({ outcome: 'ran', backupName: 'hourly-20261124020000' });
    const again = question(hours(70), { key: 'immediate', backupName: 'hourly-20261127000000' });
    expect((await decide(r, again)).record).toEqual(first.record);
  });
});

describe('the audit of slots', () => {
  const audit = (r: Repository, since: Date, until: Date, asked = HOURLY) =>
    auditSlots(r, { schedule: asked, since, until, now: until }, signal);

  it('F6: records what nothing began, leaves the newest open, and does it once', async () => {
    const r = open();
    await keepSeries(r, HOURLY, hours(-1), signal);
    await decide(r, question(T));
    const until = new Date(hours(4).getTime() + 1000);
    const found = await audit(r, T, until);
    expect(found.missed.map(({ slot }) => slot)).toEqual([1, 2, 3].map((count) => rfc3339(hours(count))));
    expect(found.open).toEqual(hours(4));
    expect(await audit(r, T, until)).toEqual({ missed: [], open: hours(4) });
    await end(r, 'hourly-20261124020000');
    await decide(r, question(hours(4)));
    expect(await audit(r, T, until)).toEqual({ missed: [] });
  });

  it('F6: what nobody could begin in the catch-up window is missed', async () => {
    const r = open();
    const daily = schedule('0 0 2 * * *');
    await keepSeries(r, daily, hours(-1), signal);
    expect(await audit(r, T, hours(11), daily)).toEqual({ missed: [], open: T });
    const late = await audit(r, hours(11), hours(13), daily);
    expect(late.missed.map(({ slot }) => slot)).toEqual([rfc3339(T)]);
    expect(late.open).toBeUndefined();
  });

  it('F6: a keeper that forgot everything finds what was due before it was born', async () => {
    const r = open();
    await keepSeries(r, HOURLY, hours(-48), signal);
    for (let count = -47; count <= 0; count += 1)
      await writeSlot(
        r,
        {
          version: 1,
          scheduledBackup: 'hourly',
          slot: rfc3339(hours(count)),
          outcome: 'ran',
          recordedAt: rfc3339(hours(count)),
        },
        signal,
      );
    const found = await audit(r, hours(200), hours(201));
    expect(found.missed).toHaveLength(200);
    const all = await listSlots(r, 'hourly', { since: hours(-48), until: hours(201) }, signal);
    expect(all).toHaveLength(248);
  });

  it('nothing is due of a suspended schedule', async () => {
    const r = open();
    await keepSeries(r, HOURLY, hours(-1), signal);
    const suspended = schedule('0 0 * * * *', { suspend: true });
    expect(await audit(r, T, hours(5), suspended)).toEqual({ missed: [] });
    await keepSeries(r, suspended, hours(5), signal);
    expect(await audit(r, T, hours(6))).toEqual({ missed: [] });
  });

  it('F4: a schedule of every second costs bounded work', async () => {
    const r = open();
    const seconds = schedule('* * * * * *');
    await keepSeries(r, seconds, hours(-1), signal);
    const found = await audit(r, T, hours(24), seconds);
    expect(found.missed).toHaveLength(1_999);
    expect(found.missed.at(-1)?.slot).toBe('2026-11-25T01:59:59Z');
  });
});

describe('@every', () => {
  it('goes on in step when Temporal has forgotten it', async () => {
    const r = open();
    const every = schedule('@every 7h');
    const anchor = await keepSeries(r, every, new Date(T.getTime() + 432), signal);
    expect(anchor).toEqual(T);
    expect(await keepSeries(r, every, hours(3), signal)).toEqual(T);
    expect(await slotToMakeUpFor(r, every, hours(22), signal)).toEqual(hours(21));
    expect(await keepSeries(r, schedule('@every 8h'), hours(3), signal)).toEqual(hours(3));
  });
});

describe('a schedule that Temporal was told of anew', () => {
  it('F5 F6: is made up for when its newest slot has no record and is not too old', async () => {
    const r = open();
    const daily = schedule('0 0 2 * * *');
    expect(await slotToMakeUpFor(r, daily, hours(1), signal)).toBeUndefined();
    await keepSeries(r, daily, hours(-1), signal);
    expect(await slotToMakeUpFor(r, daily, hours(-0.5), signal)).toBeUndefined();
    expect(await slotToMakeUpFor(r, daily, hours(11), signal)).toEqual(T);
    expect(await slotToMakeUpFor(r, daily, hours(13), signal)).toBeUndefined();
    await decide(r, question(T, { schedule: daily }));
    expect(await slotToMakeUpFor(r, daily, hours(11), signal)).toBeUndefined();
    expect(slotStamp(T)).toBe('20261124020000');
  });
});
