import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { takeLease } from '../../repository/lease.ts';
import { claimOwner } from '../../repository/owner.ts';
import { createRepository } from '../../repository/repository.ts';
import type { StoreMemory } from '../../repository/store-knowledge.ts';
import { retrying } from '../../stores/retrying.ts';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import { startS3ServerDouble, type Oddities, type S3ServerDouble } from '../stores/s3-server-double.ts';

const MiB = 1024 * 1024;
const signal = new AbortController().signal;
const create = { signal, ifAbsent: true };
let double: S3ServerDouble;
const start = async (odd: Oddities) => (double = await startS3ServerDouble(odd));
/** Another process: it remembers nothing. */
const open = (memory: StoreMemory = {}) =>
  createRepository(retrying(double.store({ idleMs: 5_000 }), { firstPauseMs: 1 }), 'pg', memory);
const textOf = (key: string) => double.objects.get(key)?.bytes.toString();
const puts = () => double.calls().filter((call) => call.startsWith('PUT '));
const turns = () => [...double.objects.keys()].filter((key) => key.includes('/turns/'));

afterEach(async () => {
  vi.useRealTimers();
  await double.close();
});

describe('creation on a store that ignores If-None-Match', () => {
  beforeEach(() => start({ ignoresCondition: true }));

  it('E3: never replaces what is there, and leaves no turn behind', async () => {
    const { store } = open();
    await store.put('pg/a', Buffer.from('first'), create);
    await expect(store.put('pg/a', Buffer.from('second'), create)).rejects.toMatchObject({
      code: 'already-exists',
    });
    expect(textOf('pg/a')).toBe('first');
    expect(store.features.ifAbsent).toBe(false);
    expect(turns()).toEqual([]);
  });

  it('E3: a put that may replace is as it was', async () => {
    const { store } = open();
    await store.put('pg/a', Buffer.from('first'), { signal });
    await store.put('pg/a', Buffer.from('second'), { signal });
    expect(textOf('pg/a')).toBe('second');
    expect(puts()).toHaveLength(2);
  });

  it('E3: a writer of other bytes that died is waited for, until its turn is old by the store’s clock', async () => {
    const { store } = open();
    await store.put('pg/a', Buffer.from('first'), create);
    const taken = double.seen.find(({ method, key }) => method === 'PUT' && key.includes('/turns/'))?.key;
    const folder = String(taken).slice(0, String(taken).lastIndexOf('/') + 1);
    const theirs = `${folder}0123456789abcdef-x`;
    await store.delete(['pg/a'], { signal });
    await store.put(theirs, Buffer.from('somebody'), { signal });
    const late = AbortSignal.timeout(600);
    await expect(store.put('pg/a', Buffer.from('mine'), { ...create, signal: late })).rejects.toMatchObject({
      name: 'TimeoutError',
    });
    expect(double.objects.has('pg/a')).toBe(false);

    const found = double.objects.get(theirs);
    vi.spyOn(found?.modifiedAt as Date, 'toISOString').mockReturnValue(
      new Date(Date.now() - 70_000).toISOString(),
    );
    await store.put('pg/a', Buffer.from('mine'), create);
    expect(textOf('pg/a')).toBe('mine');
    expect(turns()).toEqual([]);
  });

  it('E3: a turn that is dated far in the future holds nobody up', async () => {
    const { store } = open();
    await store.put('pg/a', Buffer.from('first'), create);
    const taken = double.seen.find(({ method, key }) => method === 'PUT' && key.includes('/turns/'))?.key;
    const theirs = `${String(taken).slice(0, String(taken).lastIndexOf('/'))}/0123456789abcdef-x`;
    await store.delete(['pg/a'], { signal });
    await store.put(theirs, Buffer.from('somebody'), { signal });
    vi.spyOn(double.objects.get(theirs)?.modifiedAt as Date, 'toISOString').mockReturnValue(
      new Date(Date.now() + 86_400_000).toISOString(),
    );
    await store.put('pg/a', Buffer.from('mine'), create);
    expect(textOf('pg/a')).toBe('mine');
  });

  it('A3, E3: the condition is sent all the same, for a store that was misjudged', async () => {
    await open().store.put('pg/a', Buffer.from('1'), create);
    const sent = double.seen.filter(({ method, key }) => method === 'PUT' && !key.includes('store.json'));
    expect(sent.map(({ headers }) => headers['if-none-match'])).toEqual(sent.map(() => '*'));
  });

  it('E3: an earlier try with the same bytes, which was killed, holds nobody up', async () => {
    const { store } = open();
    await store.put('pg/a', Buffer.from('same'), create);
    const taken = double.seen.find(({ method, key }) => method === 'PUT' && key.includes('/turns/'))?.key;
    await store.delete(['pg/a'], { signal });
    await store.put(`${String(taken).slice(0, -8)}deadbeef`, Buffer.from('killed'), { signal });
    await store.put('pg/a', Buffer.from('same'), create);
    expect(textOf('pg/a')).toBe('same');
  });

  it('F1, E3: a lease says that it is not exclusive', async () => {
    const lease = await takeLease(open(), 'sweep', { signal, holder: 'a', settleMs: 1 });
    expect(lease.isExclusive).toBe(false);
    await lease.release();
  });
});

describe('two that create at the same moment', () => {
  const race = async (odd: Oddities, asStream = false) => {
    await start({ ...odd, latencyMs: () => Math.random() * 6 });
    for (let round = 0; round < 5; round += 1) {
      const key = `pg/race-${round}`;
      const bodies = ['a', 'b'].map((letter) => Buffer.alloc(5, letter));
      const results = await Promise.allSettled(
        bodies.map((body) => open().store.put(key, asStream ? piecesOf(body) : body, create)),
      );
      const winners = results.flatMap(({ status }, at) => (status === 'fulfilled' ? [at] : []));
      for (const result of results)
        if (result.status === 'rejected') expect(isBackupError(result.reason, 'already-exists')).toBe(true);
      expect(winners).toHaveLength(1);
      expect(double.objects.get(key)?.bytes.equals(bodies[winners[0] ?? 0] as Buffer)).toBe(true);
    }
    expect(turns()).toEqual([]);
  };

  it('E3, A3: on a store that ignores the condition, one creates and the others are told', () =>
    race({ ignoresCondition: true }));
  it('E3, A3: on a store that refuses the condition, one creates and the others are told', () =>
    race({ ignoresCondition: 'refused' }));
  it('E3, A3: what is read as it goes takes turns as well', () => race({ ignoresCondition: true }, true));
  it('S6, E3: also with keys that may not delete', async () => {
    await start({ ignoresCondition: true, deniesDelete: true, latencyMs: () => Math.random() * 6 });
    const results = await Promise.allSettled(
      ['a', 'b'].map((text) => open().store.put('pg/a', Buffer.from(text), create)),
    );
    expect(results.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    // emptied, so that they hold nobody up
    expect(turns().every((key) => double.objects.get(key)?.bytes.length === 0)).toBe(true);
  });

  it('A4, E3: of two clusters that find an empty repository, one owns it', async () => {
    await start({ ignoresCondition: true, latencyMs: () => Math.random() * 6 });
    for (let round = 0; round < 3; round += 1) {
      const claim = (systemId: string) =>
        claimOwner(
          createRepository(double.store({ idleMs: 5_000 }), `pg-${round}`),
          { systemId, segmentSize: 16 * MiB },
          signal,
        );
      const results = await Promise.allSettled([claim('1'), claim('2')]);
      expect(results.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    }
  });
});

describe('what is known of a store', () => {
  it('E3: is found out once, by the first creation, and read from then on', async () => {
    await start({});
    await open().store.put('pg/a', Buffer.from('1'), create);
    expect(JSON.parse(textOf('pg/walkeep/store.json') ?? '')).toMatchObject({ version: 1, ifAbsent: 'yes' });
    double.seen.length = 0;
    const memory = {};
    await open(memory).store.put('pg/b', Buffer.from('1'), create);
    expect(double.calls()).toEqual(['GET pg/walkeep/store.json', 'PUT pg/b']);
    await open(memory).store.put('pg/c', Buffer.from('1'), create);
    expect(double.calls().slice(2)).toEqual(['PUT pg/c']);
  });

  it('E3: reading, listing and replacing ask nothing', async () => {
    await start({});
    const { store } = open();
    await store.put('pg/a', Buffer.from('1'), { signal });
    await collectBytes((await store.get('pg/a', { signal }))!, 10);
    expect(double.calls()).toEqual(['PUT pg/a', 'GET pg/a']);
  });

  it('E3: is read again when it is a month old, where another process may have renewed it', async () => {
    await start({ ignoresCondition: true });
    await open().store.put('pg/a', Buffer.from('1'), create);
    const known = JSON.parse(textOf('pg/walkeep/store.json') ?? '');
    const probedAt = new Date(Date.now() - 31 * 86_400_000).toISOString();
    const memory: StoreMemory = { record: { ...known, ifAbsent: 'yes', probedAt } };
    const r = open(memory);
    await r.recall?.(signal);
    await expect(r.store.put('pg/a', Buffer.from('2'), create)).rejects.toMatchObject({
      code: 'already-exists',
    });
    expect(textOf('pg/a')).toBe('1');
  });

  it('E3: where only large bodies are created without the condition, only those take turns', async () => {
    await start({ ignoresConditionInParts: true });
    const { store } = open();
    await store.put('pg/a', Buffer.from('1'), create);
    expect(double.calls().filter((call) => call.includes('/turns/'))).toEqual([]);
    await store.put('pg/large', Buffer.alloc(17 * MiB, 'a'), create);
    await expect(store.put('pg/large', Buffer.alloc(17 * MiB, 'b'), create)).rejects.toMatchObject({
      code: 'already-exists',
    });
    expect(double.objects.get('pg/large')?.bytes[0]).toBe('a'.charCodeAt(0));
    expect(store.features.ifAbsent).toBe(true);
  });
});
