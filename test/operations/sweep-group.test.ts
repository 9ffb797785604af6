/** A sweep that can't go on in the middle of a group: what it did not delete is a backup as before. */
import { beforeEach, describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { sweep, type SweepOptions } from '../../operations/sweep.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { ownKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { beginDeletion, listTombstones } from '../../repository/tombstones.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { aged, benchRules, keysOf, NEVER, putBenchBackup, putBenchWal, segmentsOf } from './sweep-bench.ts';

const OLD = 2 * 3_600_000;
const old = (key: string) => (/\/(base|wals|tombstones)\//.test(key) ? OLD : 0);

let r: Repository;
/** Oldest first: four that are due, two that are kept. */
let ids: string[];

beforeEach(async () => {
  r = createRepository(aged(createMemoryStore(), old), 'pg');
  ids = [];
  for (let at = 10; at <= 60; at += 10) ids.push(await putBenchBackup(r, { at, daysOld: 7 - at / 10 }));
  await putBenchWal(r, 10, 69);
  await run(r);
});

const run = (place: Repository, more: Partial<SweepOptions> = {}) =>
  sweep(place, benchRules(), { signal: NEVER, holder: 'test', ...more });
const denied = () => new BackupError('access-denied', 'this key may not delete');
const saidToGo = async () =>
  [...(await listTombstones(r, NEVER)).values()].flatMap(({ backupId, deletingSince }) =>
    deletingSince ? [backupId] : [],
  );
const marked = async () => [...(await listTombstones(r, NEVER)).keys()];
const restorable = async () =>
  (await listBackups(r, NEVER)).flatMap(({ backupId, info }) => (info ? [backupId] : []));

/** A store that tells who was said to be deleted before the first data went, and does what the test wants before a deletion. */
function watched(beforeDelete: (keys: readonly string[]) => Promise<void> | void) {
  const events: string[] = [];
  const store: ObjectStore = {
    ...r.store,
    put: async (key, body, options) => {
      if (key.endsWith('.deleting')) events.push(`says ${key.slice(-24, -9)}`);
      return r.store.put(key, body, options);
    },
    delete: async (keys, options) => {
      await beforeDelete(keys);
      const data = keys.find((key) => key.endsWith('/data.tar'));
      if (data !== undefined) events.push(`deletes ${data.slice('pg/base/'.length, -'/data.tar'.length)}`);
      return r.store.delete(keys, options);
    },
  };
  return { place: { ...r, store }, events };
}

describe('a key that', () => {
  it('D3: may write and not delete: the sweep says so and no backup is said to be deleted', async () => {
    const { place, events } = watched(() => Promise.reject(denied()));
    const before = await keysOf(r);
    await expect(run(place)).rejects.toMatchObject({
      code: 'access-denied',
      message: expect.stringContaining('needs a key that may write and delete'),
      hint: expect.stringContaining('no backup was touched'),
    });
    expect(events).toEqual([]);
    expect(await keysOf(r)).toEqual(before);
    expect(await restorable()).toEqual(ids);
  });

  it('D3: says that it deleted and did not: no backup is said to be deleted', async () => {
    const { place, events } = watched(() => undefined);
    const store: ObjectStore = { ...place.store, delete: async () => undefined };
    await expect(run({ ...r, store })).rejects.toMatchObject({ code: 'store-unavailable' });
    expect(events).toEqual([]);
    expect(await restorable()).toEqual(ids);
  });

  it('D7: may delete walkeep’s own objects alone: one backup was said to be deleted, and is one again', async () => {
    const { place, events } = watched((keys) => {
      if (keys.some((key) => key.startsWith('pg/base/'))) throw denied();
    });
    await expect(run(place)).rejects.toMatchObject({ code: 'access-denied' });
    expect(events).toEqual([`says ${ids[3]}`]);
    expect(await saidToGo()).toEqual([]);
    expect(await marked()).toEqual(ids.slice(0, 4));
    expect(await restorable()).toEqual(ids);
  });

  it('may delete leaves nothing of its proof', async () => {
    const { place, events } = watched(() => undefined);
    expect((await run(place)).counts.deletedBackups).toBe(4);
    // the first one alone, the rest together
    const [fourth, third, second, first] = ids.slice(0, 4).toReversed();
    expect(events).toEqual([
      `says ${fourth}`,
      `deletes ${fourth}`,
      ...[third, second, first].map((id) => `says ${id}`),
      ...[third, second, first].map((id) => `deletes ${id}`),
    ]);
    expect((await keysOf(r, { own: true })).filter((key) => key.includes('probe'))).toEqual([
      'walkeep/leases/sweep/probe',
    ]);
  });
});

describe('a failure in the middle of a group', () => {
  it('D7, F2: leaves the rest of it as backups; the next sweep does the same set', async () => {
    const { place } = watched((keys) => {
      if (keys.includes(`pg/base/${ids[1]}/data.tar`))
        throw new BackupError('store-unavailable', 'the store is away');
    });
    await expect(run(place)).rejects.toMatchObject({ code: 'store-unavailable' });
    // gone as far as their data: they stay what they are
    expect(await saidToGo()).toEqual([ids[2], ids[3]]);
    expect(await marked()).toEqual(ids.slice(0, 4));
    expect(await restorable()).toEqual([ids[0], ids[1], ids[4], ids[5]]);
    await run(r);
    expect(await restorable()).toEqual(ids.slice(4));
    expect((await segmentsOf(r))[0]).toBe(50);
    expect(await marked()).toEqual([]);
  });

  it('D7: leaves one whose first tar is gone as being deleted', async () => {
    const { place } = watched(async (keys) => {
      if (!keys.includes(`pg/base/${ids[1]}/data_0001.tar`)) return;
      throw new BackupError('store-unavailable', 'the store is away');
    });
    await expect(run(place)).rejects.toMatchObject({ code: 'store-unavailable' });
    expect(await saidToGo()).toEqual([ids[1], ids[2], ids[3]]);
    expect(await restorable()).toEqual([ids[0], ids[4], ids[5]]);
  });

  it('F2: a sweep that is cancelled leaves them as backups as well', async () => {
    const controller = new AbortController();
    const { place } = watched((keys) => {
      if (!keys.includes(`pg/base/${ids[1]}/data.tar`)) return;
      controller.abort(new Error('the worker ends'));
    });
    await expect(run(place, { signal: controller.signal })).rejects.toThrow('the worker ends');
    expect(await saidToGo()).toEqual([ids[2], ids[3]]);
    expect(await restorable()).toEqual([ids[0], ids[1], ids[4], ids[5]]);
  });

  it('F1: without the lease nothing is written any more', async () => {
    let isOver = false;
    const taken: string[] = [];
    const { place } = watched(async (keys) => {
      if (isOver) taken.push(...keys);
      if (!keys.includes(`pg/base/${ids[1]}/data.tar`)) return;
      isOver = true;
      const newer = ownKey('pg', 'leases', 'sweep', '0000009999.json');
      await r.store.put(newer, Buffer.from('{}'), { signal: NEVER });
      throw new BackupError('store-unavailable', 'the store is away');
    });
    await expect(run(place)).rejects.toMatchObject({ code: 'store-unavailable' });
    expect(taken).toEqual([]);
    expect(await saidToGo()).toEqual(ids.slice(0, 4));
  });
});

describe('what was declared and is not any more', () => {
  /** Says no at the n-th time it is asked. */
  function until(nth: number) {
    let asked = 0;
    return async () => {
      asked += 1;
      return asked >= nth ? 'the policy was replaced' : undefined;
    };
  }

  it('D3: stops a sweep before its first deletion; what was said to be deleted is a backup again', async () => {
    const { place, events } = watched(() => undefined);
    const before = await keysOf(r);
    const report = await run(place, { stillDeclared: until(1) });
    expect(events).toEqual([`says ${ids[3]}`]);
    expect(report.warnings).toContain('stopped: the policy was replaced');
    expect(report.counts).toMatchObject({ deletedBackups: 0, deletedWal: 0 });
    expect(report.backups.filter(({ decision }) => decision === 'undecided')).toHaveLength(4);
    expect(await keysOf(r)).toEqual(before);
    expect([await saidToGo(), await marked()]).toEqual([[], ids.slice(0, 4)]);
    expect(await restorable()).toEqual(ids);
  });

  it('D3: stops it between two groups, and in the second one', async () => {
    // 1: in the first group, 2: after it, 3: in the second one
    for (const nth of [2, 3]) {
      const { place, events } = watched(() => undefined);
      const report = await run(place, { stillDeclared: until(nth) });
      expect(events.filter((event) => event === `says ${ids[2]}`)).toHaveLength(nth - 2);
      expect(report.warnings).toContain('stopped: the policy was replaced');
      expect(await restorable()).toEqual([...ids.slice(0, 3), ...ids.slice(4)]);
      expect(await saidToGo()).toEqual([ids[3]]);
      expect((await segmentsOf(r))[0]).toBe(10);
    }
    expect((await run(r)).counts.deletedBackups).toBe(4);
  });

  it('D3: stops it before WAL goes that belongs to no backup, and before anything is cleaned up', async () => {
    await putBenchWal(r, 1, 9);
    const keepAll = benchRules({ keepLast: 9 });
    const stopped = await sweep(r, keepAll, { signal: NEVER, holder: 'test', stillDeclared: until(1) });
    expect(stopped.counts.deletedWal).toBe(0);
    expect((await segmentsOf(r))[0]).toBe(1);
    const hold = ownKey('pg', 'tombstones', '20200101T000000.json');
    await r.store.put(hold, Buffer.from('{}'), { signal: NEVER });
    const later = await sweep(r, keepAll, { signal: NEVER, holder: 'test', stillDeclared: until(3) });
    expect(later.counts.deletedWal).toBe(9);
    expect(later.leftovers).toEqual([]);
    expect(await r.store.head(hold, { signal: NEVER })).toBeDefined();
  });

  it('D3: stops it in the middle of the WAL; the next sweep finishes it', async () => {
    const stopped = await run(r, { stillDeclared: until(6) });
    expect(stopped.counts).toMatchObject({ deletedBackups: 4, deletedWal: 0 });
    expect(stopped.warnings).toContain('stopped: the policy was replaced');
    expect((await segmentsOf(r))[0]).toBe(10);
    expect(await saidToGo()).toEqual(ids.slice(0, 4));
    await run(r);
    expect([(await segmentsOf(r))[0], await marked()]).toEqual([50, []]);
  });

  it('a question that can not be answered is no permission', async () => {
    const stillDeclared = () => Promise.reject(new BackupError('temporal-unavailable', 'nobody answers'));
    await expect(run(r, { stillDeclared })).rejects.toMatchObject({ code: 'temporal-unavailable' });
    expect(await saidToGo()).toEqual([]);
    expect(await restorable()).toEqual(ids);
  });

  it('a question that is never answered ends with the sweep', async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('enough')), 100).unref();
    const stillDeclared = () => new Promise<never>(() => undefined);
    await expect(run(r, { stillDeclared, signal: controller.signal })).rejects.toThrow('enough');
    expect(await restorable()).toEqual(ids);
  });

  it('what an earlier sweep said before it died is taken back as well', async () => {
    await beginDeletion(r, ids[3] ?? '', NEVER);
    await run(r, { stillDeclared: until(1) });
    expect(await saidToGo()).toEqual([]);
  });
});
