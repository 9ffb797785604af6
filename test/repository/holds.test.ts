import { describe, expect, it } from 'vitest';
import { isOver, listHolds, placeHold, releaseHold, renewHold } from '../../repository/holds.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';

const { signal } = new AbortController();
const open = () => createRepository(createMemoryStore(), 'pg');
const HOLD = { id: 'restore-1', kind: 'restore', backupId: '20261122T222531', reason: 'a test' } as const;

describe('holds', () => {
  it('D5: what is placed is listed until it is released', async () => {
    const r = open();
    await placeHold(r, { ...HOLD, firstSegment: '000000010000000000000003', timelines: [1, 2] }, signal);
    await placeHold(r, { ...HOLD, id: 'by-hand', kind: 'manual' }, signal);
    const holds = await listHolds(r, signal);
    expect(holds.map(({ id, kind }) => [id, kind])).toEqual([
      ['by-hand', 'manual'],
      ['restore-1', 'restore'],
    ]);
    expect(holds[1]).toMatchObject({ timelines: [1, 2], storedAt: expect.any(Date) });
    await releaseHold(r, 'restore-1', signal);
    await releaseHold(r, 'restore-1', signal);
    expect(await listHolds(r, signal)).toHaveLength(1);
  });

  it('D6: ends by the time of the store, and never where that is not known', async () => {
    const r = open();
    await placeHold(r, { ...HOLD, lastsMs: 60_000 }, signal);
    const [hold] = await listHolds(r, signal);
    const at = (ms: number) => new Date((hold?.storedAt.getTime() ?? 0) + ms);
    expect(isOver(hold!, at(59_999))).toBe(false);
    expect(isOver(hold!, at(60_000))).toBe(true);
    expect(isOver(hold!, undefined)).toBe(false);
    const { lastsMs: _, ...forEver } = hold!;
    expect(isOver(forEver, at(1e12))).toBe(false);
  });

  it('begins anew when it is renewed', async () => {
    const r = open();
    await placeHold(r, { ...HOLD, lastsMs: 60_000 }, signal);
    const [before] = await listHolds(r, signal);
    await new Promise((resolve) => setTimeout(resolve, 5));
    await renewHold(r, HOLD.id, signal);
    const [after] = await listHolds(r, signal);
    expect(after!.storedAt.getTime()).toBeGreaterThan(before!.storedAt.getTime());
    await expect(renewHold(r, 'another', signal)).rejects.toMatchObject({ code: 'object-missing' });
  });

  it.for([
    ['walkeep/holds/restore-1.json', '{"version":1}'],
    ['walkeep/holds/restore-1.json', 'not json'],
    ['walkeep/holds/restore-1', '{}'],
    [
      'walkeep/holds/other.json',
      JSON.stringify({ version: 1, ...HOLD, host: 'h', placedAt: '2026-11-22T22:25:31Z' }),
    ],
  ])('D3: one that can not be read is a failure, not an absence: %s', async ([key, text]) => {
    const r = open();
    await r.store.put(`pg/${key}`, Buffer.from(text as string), { signal });
    await expect(listHolds(r, signal)).rejects.toMatchObject({ code: 'format-invalid' });
  });

  it.for(['', '../x', 'a/b', '.hidden', 'x'.repeat(201)])('S2: %j is no id of a hold', async (id) => {
    await expect(placeHold(open(), { ...HOLD, id }, signal)).rejects.toMatchObject({
      code: 'format-invalid',
    });
  });
});
