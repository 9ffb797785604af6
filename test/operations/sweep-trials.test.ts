import { describe, expect, it } from 'vitest';
import { sweepTrials } from '../../operations/sweep-trials.ts';
import { sweep } from '../../operations/sweep.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { aged, benchRules, putFourBackups } from './sweep-bench.ts';

const { signal } = new AbortController();
const HOUR_MS = 3_600_000;
const TRIALS = ['pg/walkeep/turns/0a/1', 'pg/walkeep/probe/b/create'];

async function repository(ageMs: number) {
  const r = createRepository(createMemoryStore(), 'pg');
  for (const key of TRIALS) await r.store.put(key, Buffer.from('x'), { signal });
  const isOld = (key: string) => /\/(turns|probe|base|wals)\//.test(key);
  return { ...r, store: aged(r.store, (key) => (isOld(key) ? ageMs : 0)) };
}
async function keysOf(r: Awaited<ReturnType<typeof repository>>) {
  const keys: string[] = [];
  for await (const { key } of r.store.list('pg/walkeep/', { signal }))
    if (/\/(turns|probe)\//.test(key)) keys.push(key);
  return keys;
}

describe('what creations and probes left behind', () => {
  it('S6, E3: is removed by a sweep with rules when it is older than an hour', async () => {
    const r = await repository(2 * HOUR_MS);
    await putFourBackups(r);
    await sweep(r, benchRules(), { signal, holder: 'test' });
    expect(await keysOf(r)).toEqual([]);
  });

  it('E3: stays while it is young', async () => {
    const r = await repository(HOUR_MS / 2);
    await putFourBackups(r);
    await sweep(r, benchRules(), { signal, holder: 'test' });
    expect(await keysOf(r)).toHaveLength(2);
  });

  it('F1: stays when the sweep has lost its lease', async () => {
    const r = await repository(2 * HOUR_MS);
    const mayGoOn = () => Promise.reject(new Error('the lease is lost'));
    await expect(sweepTrials(r, { now: Date.now(), mayGoOn, signal })).rejects.toThrow('the lease is lost');
    expect(await keysOf(r)).toHaveLength(2);
  });
});
