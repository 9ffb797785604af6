import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { takeLease, type LeaseOptions } from '../../repository/lease.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { faulty } from '../../stores/faulty.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';

const { signal } = new AbortController();
const open = (store: ObjectStore = createMemoryStore()) => createRepository(store, 'pg');
const take = (r: Repository, options: Partial<LeaseOptions> = {}) =>
  takeLease(r, 'sweep', { signal, holder: 'a test', ttlMs: 400, ...options });

async function leasesOf(r: Repository): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of r.store.list('pg/walkeep/leases/', { signal })) keys.push(key.slice(24));
  return keys;
}

describe('a lease', () => {
  it('F1: has one holder, who is named to the next one, and goes over when it is released', async () => {
    const r = open();
    const first = await take(r, { holder: 'the first' });
    await expect(take(r)).rejects.toMatchObject({
      code: 'lease-held',
      message: expect.stringContaining('the first has it'),
    });
    await first.check(signal);
    await first.release();
    const second = await take(r);
    expect([first.epoch, second.epoch]).toEqual([1, 2]);
    await expect(first.check(signal)).rejects.toMatchObject({ code: 'lease-lost' });
    await second.release();
  });

  it('F1: of many who ask at the same moment one gets it', async () => {
    const r = open();
    const asked = await Promise.allSettled(Array.from({ length: 10 }, () => take(r)));
    const taken = asked.filter((one) => one.status === 'fulfilled');
    expect(taken).toHaveLength(1);
    await taken[0]?.value.release();
  });

  it('F1: lasts while it is renewed, and runs out when its holder is gone', async () => {
    const r = open();
    const lease = await take(r);
    await sleep(1200);
    await lease.check(signal);
    await expect(take(r)).rejects.toMatchObject({ code: 'lease-held' });
    await lease.release();

    // its holder dies: it writes nothing any more
    const store = faulty(r.store, [{ on: 'put', does: 'error' }]);
    let isDead = false;
    const dying = {
      ...r,
      store: {
        ...r.store,
        put: (...args: Parameters<ObjectStore['put']>) =>
          isDead ? store.put(...args) : r.store.put(...args),
      },
    };
    const lost = await take(dying);
    isDead = true;
    await sleep(800);
    const next = await take(r);
    expect(next.epoch).toBe(lost.epoch + 1);
    await expect(lost.check(signal)).rejects.toMatchObject({ code: 'lease-lost', retryable: true });
    expect(lost.lost.aborted).toBe(true);
    await lost.release();
    await next.check(signal);
    await next.release();
  });

  it('F1: who was not able to renew it in time has lost it, also when nobody took it', async () => {
    const r = open();
    let isAway = false;
    const away = () => Promise.reject(new Error('away'));
    const store: ObjectStore = {
      ...r.store,
      put: (...args) => (isAway ? away() : r.store.put(...args)),
    };
    const lease = await take({ ...r, store });
    isAway = true;
    await sleep(600);
    isAway = false;
    await expect(lease.check(signal)).rejects.toMatchObject({ code: 'lease-lost' });
    await lease.release();
  });

  it('D3, F1: whose object is gone is lost, also when an older one is there', async () => {
    const r = open();
    await (await take(r, { ttlMs: 60_000 })).release();
    const lease = await take(r, { ttlMs: 60_000 });
    await lease.check(signal);
    await r.store.delete(['pg/walkeep/leases/sweep/0000000002.json'], { signal });
    expect(await leasesOf(r)).toContain('0000000001.json');
    await expect(lease.check(signal)).rejects.toMatchObject({ code: 'lease-lost' });
    expect(lease.lost.aborted).toBe(true);
    await lease.release();
  });

  describe('of a store whose listings are late', () => {
    function late(r: Repository, isShown: (key: string) => boolean): Repository {
      const store: ObjectStore = {
        ...r.store,
        async *list(prefix, options) {
          for await (const object of r.store.list(prefix, options)) if (isShown(object.key)) yield object;
        },
      };
      return { ...r, store };
    }

    it.for([
      { shown: 'none', isShown: () => false, before: 0 },
      { shown: 'the one before', isShown: (key: string) => key.endsWith('0000000001.json'), before: 1 },
    ])('F1, fault 23: is ours while its object is there: $shown is listed', async ({ isShown, before }) => {
      const r = open();
      for (let times = 0; times < before; times += 1) await (await take(r)).release();
      const lease = await take(late(r, isShown), { ttlMs: 60_000 });
      expect(lease.epoch).toBe(before + 1);
      await lease.check(signal);
      await r.store.delete([`pg/walkeep/leases/sweep/000000000${before + 1}.json`], { signal });
      await expect(lease.check(signal)).rejects.toMatchObject({ code: 'lease-lost' });
      await lease.release();
    });

    it('F1, fault 23: is lost when somebody took the next one, which is not listed either', async () => {
      const r = open();
      const lease = await take(
        late(r, () => false),
        { ttlMs: 60_000 },
      );
      const next = Buffer.from('{}');
      await r.store.put('pg/walkeep/leases/sweep/0000000002.json', next, { signal });
      await expect(lease.check(signal)).rejects.toMatchObject({
        code: 'lease-lost',
        message: expect.stringContaining('epoch 2 was taken after 1'),
      });
      await lease.release();
    });
  });

  it('D3: a look that fails is no permission', async () => {
    const r = open();
    let isAway = false;
    const store: ObjectStore = {
      ...r.store,
      list: (prefix, options) =>
        isAway
          ? faulty(r.store, [{ on: 'list', does: 'error' }]).list(prefix, options)
          : r.store.list(prefix, options),
    };
    const lease = await take({ ...r, store });
    isAway = true;
    await expect(lease.check(signal)).rejects.toMatchObject({ code: 'store-unavailable' });
    isAway = false;
    await lease.check(signal);
    await lease.release();
  });

  it('E3: without create-if-absent it says so, and still has one holder', async () => {
    const ignoring = (store: ObjectStore): ObjectStore => ({
      ...store,
      put: (key, body, options) => store.put(key, body, { ...options, ifAbsent: false }),
    });
    const r = open(ignoring(createMemoryStore()));
    const asked = await Promise.allSettled([take(r, { settleMs: 50 }), take(r, { settleMs: 50 })]);
    const taken = asked.filter((one) => one.status === 'fulfilled');
    expect(taken).toHaveLength(1);
    expect(taken[0]?.value.isExclusive).toBe(false);
    await taken[0]?.value.check(signal);
    await taken[0]?.value.release();
  });

  it('leaves two epochs behind, and nothing more', async () => {
    const r = open();
    for (let times = 0; times < 5; times += 1) await (await take(r)).release();
    expect(await leasesOf(r)).toEqual(['0000000004.json', '0000000005.json', 'probe']);
  });

  it('D3: one that can not be read is nobody’s to take', async () => {
    const r = open();
    await r.store.put('pg/walkeep/leases/sweep/0000000007.json', Buffer.from('{}'), { signal });
    await expect(take(r)).rejects.toMatchObject({
      code: 'format-invalid',
      hint: expect.stringContaining('remove'),
    });
  });
});
