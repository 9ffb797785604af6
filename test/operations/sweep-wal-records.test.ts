import { expect, it } from 'vitest';
import { segmentName } from '../../core/segment.ts';
import { planSweep, sweep } from '../../operations/sweep.ts';
import { walDigestKey, walDigestPrefix, walKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { MiB } from '../support/wal-segment.ts';
import { aged, benchRules, NEVER, putFourBackups } from './sweep-bench.ts';

const HOUR = 3_600_000;
const RULES = benchRules({ keepLast: 9 });

/** Four backups that all stay, with the WAL they need, 10 to 49, and a record of each, all older than the grace period. */
async function archive(): Promise<{ r: Repository; store: ObjectStore; records: () => Promise<number> }> {
  const inner = createMemoryStore();
  const store: ObjectStore = {
    ...aged(inner, (key) => (/\/(base|wals|walkeep\/wal)\//.test(key) ? 2 * HOUR : 0)),
    features: { ...inner.features, metadata: false },
  };
  const r = createRepository(store, 'pg');
  await putFourBackups(r);
  await store.delete([5, 6, 7, 8, 9].map(objectOf), OPTIONS);
  for (let number = 10; number <= 49; number += 1)
    await store.put(recordOf(number), Buffer.from('{}'), OPTIONS);
  const records = async () => {
    let count = 0;
    for await (const _ of store.list(walDigestPrefix('pg'), OPTIONS)) count += 1;
    return count;
  };
  return { r, store, records };
}

const OPTIONS = { signal: NEVER };
const objectOf = (number: number) => walKey('pg', segmentName(1, BigInt(number), MiB), 'gzip');
const recordOf = (number: number) => walDigestKey('pg', objectOf(number));
const run = (r: Repository, rules = RULES) => sweep(r, rules, { signal: NEVER, holder: 'test' });

it('D3: one listing that is cut short deletes no record of WAL that is there', async () => {
  const { store, records } = await archive();
  await store.delete([objectOf(40)], OPTIONS);
  const cut: ObjectStore = {
    ...store,
    async *list(prefix, options) {
      let came = 0;
      for await (const object of store.list(prefix, options)) {
        if (prefix.startsWith('pg/wals/') && ++came > 20) return;
        yield object;
      }
    },
  };
  await run(createRepository(cut, 'pg'));
  // the one whose object is gone indeed
  expect(await store.head(recordOf(40), OPTIONS)).toBeUndefined();
  expect(await records()).toBe(39);
});

it('D3: without any rule they stay, also those of WAL that is gone', async () => {
  const { r, store, records } = await archive();
  await store.delete([objectOf(41)], OPTIONS);
  const nothing = { graceMs: HOUR, deadlineMs: HOUR };
  const { report, hasWork } = await planSweep(r, nothing, OPTIONS);
  expect({ hasWork, leftovers: report.leftovers }).toEqual({ hasWork: false, leftovers: [] });
  await run(r, nothing);
  expect(await records()).toBe(40);
});

it('D4: the plan, the dry run and the report tell how many go', async () => {
  const { r, store, records } = await archive();
  expect((await planSweep(r, RULES, OPTIONS)).hasWork).toBe(false);
  await store.delete([objectOf(41), objectOf(42)], OPTIONS);
  const { report, hasWork } = await planSweep(r, RULES, OPTIONS);
  expect(await records()).toBe(40);
  const told = ['the records of 2 files of WAL that are gone'];
  expect({ hasWork, leftovers: report.leftovers }).toEqual({ hasWork: true, leftovers: told });
  expect((await run(r)).leftovers).toEqual(told);
  expect(await records()).toBe(38);
});
