import { describe, expect, it, test } from 'vitest';
import { createRepository, type Repository } from '../../repository/repository.ts';
import {
  listSlots,
  readSeries,
  readSlot,
  slotsBefore,
  writeSeries,
  writeSlot,
  type SeriesRecord,
  type SlotRecord,
} from '../../repository/slots.ts';
import { createMemoryStore } from '../../stores/memory.ts';

const { signal } = new AbortController();
const open = () => createRepository(createMemoryStore(), 'pg');
const at = (text: string) => new Date(text);

function record(slot: string, more: Partial<SlotRecord> = {}): SlotRecord {
  return {
    version: 1,
    scheduledBackup: 'nightly',
    slot,
    outcome: 'ran',
    recordedAt: '2026-11-24T02:00:01Z',
    ...more,
  };
}

async function put(r: Repository, ...slots: string[]): Promise<void> {
  for (const slot of slots) await writeSlot(r, record(slot), signal);
}

async function keys(r: Repository): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of r.store.list('', { signal })) found.push(key);
  return found;
}

describe('the record of a slot', () => {
  it('F6: is written once; whoever comes later gets the one that is there', async () => {
    const r = open();
    const ran = record('2026-11-24T02:00:00Z', { backupName: 'nightly-20261124020000' });
    const missed = record('2026-11-24T02:00:00Z', { outcome: 'missed', reason: 'nothing began it' });
    expect(await writeSlot(r, ran, signal)).toBe(ran);
    expect(await writeSlot(r, missed, signal)).toEqual(ran);
    expect(await writeSlot(r, ran, signal)).toEqual(ran);
    expect(await readSlot(r, 'nightly', at('2026-11-24T02:00:00Z'), signal)).toEqual(ran);
    expect(await keys(r)).toEqual(['pg/walkeep/slots/nightly/20261124020000.json']);
  });

  it('F6: of many that write at once, one counts for all', async () => {
    const r = open();
    const outcomes = ['ran', 'skipped', 'missed', 'ran', 'missed'] as const;
    const written = await Promise.all(
      outcomes.map((outcome, index) =>
        writeSlot(r, record('2026-11-24T02:00:00Z', { outcome, reason: `writer ${index}` }), signal),
      ),
    );
    expect(new Set(written.map(({ reason }) => reason)).size).toBe(1);
  });

  it('an immediate run has a place of its own and is no slot', async () => {
    const r = open();
    const immediate = record('2026-11-24T02:00:00Z', { backupName: 'nightly-20261124020000' });
    await writeSlot(r, immediate, signal, 'immediate');
    const later = record('2026-11-25T09:00:00Z');
    expect(await writeSlot(r, later, signal, 'immediate')).toEqual(immediate);
    expect(await readSlot(r, 'nightly', 'immediate', signal)).toEqual(immediate);
    expect(await readSlot(r, 'nightly', at('2026-11-24T02:00:00Z'), signal)).toBeUndefined();
    const all = { since: at('2026-01-01T00:00:00Z'), until: at('2027-01-01T00:00:00Z') };
    expect(await listSlots(r, 'nightly', all, signal)).toEqual([]);
  });

  test.for([
    ['not JSON', '{'],
    ['of another shape', '{"version":1}'],
    ['about another slot', JSON.stringify(record('2026-11-23T02:00:00Z'))],
    ['about another schedule', JSON.stringify(record('2026-11-24T02:00:00Z', { scheduledBackup: 'hourly' }))],
    ['an outcome nobody knows', JSON.stringify({ ...record('2026-11-24T02:00:00Z'), outcome: 'lost' })],
  ])('%s: it is named, and not taken for an outcome', async ([, text]) => {
    const r = open();
    await r.store.put('pg/walkeep/slots/nightly/20261124020000.json', Buffer.from(text!), { signal });
    await expect(readSlot(r, 'nightly', at('2026-11-24T02:00:00Z'), signal)).rejects.toMatchObject({
      code: 'format-invalid',
      message: expect.stringContaining('20261124020000.json'),
    });
  });

  it('S2: a schedule’s name can’t leave the folder', async () => {
    for (const name of ['..', 'a/b', '']) {
      await expect(readSlot(open(), name, new Date(0), signal)).rejects.toThrow(
        /not a name inside a repository/,
      );
    }
  });
});

describe('the slots that have a record', () => {
  const slots = [
    '2025-10-31T02:00:00Z',
    '2026-08-31T23:59:59Z',
    '2026-09-01T00:00:00Z',
    '2026-11-20T02:00:00Z',
    '2026-11-22T02:00:00Z',
    '2026-11-23T02:00:00Z',
    '2026-11-24T02:00:00Z',
    '2026-11-24T14:00:00Z',
  ];

  test.for([
    ['2026-11-22T02:00:00Z', '2026-11-24T02:00:00Z', slots.slice(5, 7)],
    ['2026-11-20T01:59:59Z', '2026-11-24T13:59:59Z', slots.slice(3, 7)],
    ['2026-08-01T00:00:00Z', '2026-11-30T00:00:00Z', slots.slice(1)],
    ['2026-08-31T23:59:59Z', '2026-09-30T00:00:00Z', slots.slice(2, 3)],
    ['2025-10-01T00:00:00Z', '2026-11-30T00:00:00Z', slots],
    ['2026-11-24T02:00:00Z', '2026-11-24T02:00:00Z', []],
  ] as const)('after %s and not after %s', async ([since, until, expected]) => {
    const r = open();
    await put(r, ...slots);
    const found = await listSlots(r, 'nightly', { since: at(since), until: at(until) }, signal);
    expect(found).toEqual(expected.map(at));
  });

  test.for([
    ['2026-11-24T14:00:00Z', '2026-11-01T00:00:00Z', slots.slice(3, 7)],
    ['2026-11-24T14:00:01Z', '2025-01-01T00:00:00Z', slots],
    ['2026-11-10T00:00:00Z', '2026-09-01T00:00:00Z', slots.slice(2, 3)],
    ['2026-10-31T12:00:00Z', '2026-08-31T00:00:00Z', slots.slice(1, 3)],
  ] as const)('before %s, back to %s, newest first', async ([before, notBefore, expected]) => {
    const r = open();
    await put(r, ...slots);
    const found: Date[] = [];
    for await (const slot of slotsBefore(r, 'nightly', at(before), at(notBefore), signal)) found.push(slot);
    expect(found).toEqual(expected.map(at).toReversed());
  });

  it('other objects in the folder are passed over', async () => {
    const r = open();
    await put(r, '2026-11-24T02:00:00Z');
    for (const name of ['20261124020000.txt', '20261399000000.json', 'x.json', 'schedule.json'])
      await r.store.put(`pg/walkeep/slots/nightly/${name}`, Buffer.from('x'), { signal });
    const all = { since: at('2026-01-01T00:00:00Z'), until: at('2027-01-01T00:00:00Z') };
    expect(await listSlots(r, 'nightly', all, signal)).toHaveLength(1);
  });
});

describe('since when a schedule is due', () => {
  it('is what was written last', async () => {
    const r = open();
    expect(await readSeries(r, 'nightly', signal)).toBeUndefined();
    const series: SeriesRecord = {
      version: 1,
      scheduledBackup: 'nightly',
      schedule: '@every 1h',
      dialect: 'cnpg',
      timezone: 'Etc/UTC',
      anchor: '2026-11-24T02:00:00Z',
      suspended: false,
      since: '2026-11-24T02:00:00Z',
    };
    await writeSeries(r, series, signal);
    await writeSeries(r, { ...series, suspended: true }, signal);
    expect(await readSeries(r, 'nightly', signal)).toEqual({ ...series, suspended: true });
  });
});
