import { describe, expect, it } from 'vitest';
import { setAnnotatedHold } from '../../operations/hold-by-annotation.ts';
import { listHolds } from '../../repository/holds.ts';
import { readKeep, writeKeep } from '../../repository/keeps.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';

const { signal } = new AbortController();
const backupId = '20261122T222531';
const open = () => createRepository(createMemoryStore(), 'pg');

describe('a hold that a Backup asks for by its annotation', () => {
  it('D1: is heeded by every walkeep and, as a keep, by stock tools, until it is taken back', async () => {
    const r = open();
    for (let twice = 0; twice < 2; twice += 1)
      await setAnnotatedHold(r, { backupId, reason: 'before the migration' }, signal);
    expect((await listHolds(r, signal)).map((hold) => hold.backupId)).toEqual([backupId, backupId]);
    expect((await listHolds(r, signal))[0]?.reason).toContain('before the migration');
    expect(await readKeep(r, backupId, signal)).toBe('full');
    for (let twice = 0; twice < 2; twice += 1) await setAnnotatedHold(r, { backupId, reason: null }, signal);
    expect(await listHolds(r, signal)).toEqual([]);
    expect(await readKeep(r, backupId, signal)).toBeUndefined();
  });

  it('D1: taking it back leaves a keep that somebody else had put there', async () => {
    const r = open();
    await writeKeep(r, backupId, 'standalone', signal);
    await setAnnotatedHold(r, { backupId, reason: 'x' }, signal);
    await setAnnotatedHold(r, { backupId, reason: null }, signal);
    expect(await readKeep(r, backupId, signal)).toBe('standalone');
    expect(await listHolds(r, signal)).toEqual([]);
  });
});
