import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { planSweep, sweep } from '../../operations/sweep.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { aged, benchRules, NEVER, putBenchBackup, putBenchWal, segmentsOf } from './sweep-bench.ts';

const HOUR = 3_600_000;
const WAL = 10_800;
/** What of it a first sweep gives up. */
const DOOMED = 10_700;
const LATE = '0000000100000002000009C4';

describe('the first sweep of a big archive', () => {
  let store: ObjectStore;
  beforeAll(async () => {
    store = aged(createMemoryStore(), (key) => (/\/(base|wals)\//.test(key) ? 5 * HOUR : 0));
    const r = createRepository(store, 'pg');
    await putBenchWal(r, 1, WAL);
    for (const [at, daysOld] of [
      [DOOMED + 1, 2],
      [DOOMED + 50, 1],
    ] as const)
      await putBenchBackup(r, { at, daysOld });
  }, 60_000);

  /** @param answer what the store says of an object */
  function asking(answer: ObjectStore['lockOf'], more: Partial<ObjectStore> = {}) {
    const asked: string[] = [];
    let now = 0;
    let most = 0;
    const r: Repository = createRepository(
      {
        ...store,
        ...more,
        async lockOf(key, options) {
          asked.push(key);
          now += 1;
          most = Math.max(most, now);
          const lock = await answer?.(key, options);
          now -= 1;
          return lock;
        },
      },
      'pg',
    );
    return { r, asked, most: () => most };
  }
  const plan = (r: Repository) => planSweep(r, benchRules(), { signal: NEVER });

  it('D7: asks about the oldest 10000 for its plan, many at once, and says so', async () => {
    const { r, asked, most } = asking(() => sleep(2, undefined));
    const { report } = await plan(r);
    expect(report.counts.deletedWal).toBe(DOOMED);
    expect(asked.length).toBe(10_000);
    expect(most()).toBe(32);
    expect(report.warnings).toEqual([
      'whether the store keeps WAL was asked about the 10000 oldest files that would go; about the others it is asked right before they are deleted',
    ]);
  });

  it('asks nothing, and says nothing, where the store has no locks at all', async () => {
    const { r, asked } = asking(undefined, { hasLocks: async () => false });
    const { report } = await plan(r);
    expect([asked, report.warnings]).toEqual([[], []]);
  });

  it('D7: asks for nothing that the listing has told, and believes it of all', async () => {
    const { r, asked } = asking(undefined, {
      async *list(prefix, options) {
        for await (const object of store.list(prefix, options))
          yield { ...object, lock: object.key.includes(LATE) ? { legalHold: true } : 'none' };
      },
    });
    const { report } = await plan(r);
    expect(asked).toEqual([]);
    expect(report.counts.deletedWal).toBe(DOOMED - 1);
    expect(report.warnings).toEqual([expect.stringMatching(/1 segments stay.*legal hold/)]);
  });

  it('D7: asks about each before it is deleted, and says once what nobody could look at', async () => {
    const unseen = 'nobody may look';
    const { r, asked } = asking(async (key) => (key.includes(LATE) ? { legalHold: true } : { unseen }));
    const preview = (await plan(r)).report;
    asked.length = 0;
    const report = await sweep(r, benchRules(), { signal: NEVER, holder: 'test' });
    expect(asked.filter((key) => key.includes('/wals/'))).toHaveLength(DOOMED);
    expect(report.counts.deletedWal).toBe(DOOMED - 1);
    for (const one of [preview, report])
      expect(one.warnings.filter((text) => text === unseen)).toHaveLength(1);
    expect((await segmentsOf(r)).slice(0, 2)).toEqual([0x2000 + 0x9c4, DOOMED + 1]);
  });
});
