import { describe, expect, it } from 'vitest';
import { faulty } from '../../stores/faulty.ts';
import type { Fault } from '../../stores/faulty.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { retrying } from '../../stores/retrying.ts';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import { describeObjectStore } from './conformance.ts';

const signal = new AbortController().signal;
const options = { signal };
const quick = { firstPauseMs: 1, longestPauseMs: 2, withinMs: 500 };
const bytes = (text: string) => Buffer.from(text);

describeObjectStore('retrying memory', async () => ({ store: retrying(createMemoryStore()) }));
describeObjectStore('faulty memory without faults', async () => ({ store: faulty(createMemoryStore(), []) }));

const broken = (...plan: Fault[]) => {
  const memory = createMemoryStore();
  const store = faulty(memory, plan);
  return { memory, store, tried: retrying(store, quick) };
};

describe('trying again', () => {
  it('cures what passes, of every method', async () => {
    const methods = ['put', 'get', 'head', 'list', 'folders', 'delete'] as const;
    const { store, tried } = broken(...methods.map((on) => ({ on, nth: 1, does: 'error' }) as const));
    await tried.put('a/b', bytes('x'), options);
    expect((await collectBytes((await tried.get('a/b', options))!, 10)).toString()).toBe('x');
    expect(await tried.head('a/b', options)).toMatchObject({ sizeBytes: 1 });
    for await (const { key } of tried.list('', options)) expect(key).toBe('a/b');
    for await (const folder of tried.folders('', options)) expect(folder).toBe('a/');
    await tried.delete(['a/b'], options);
    expect(store.calls).toEqual({ put: 2, get: 2, head: 2, list: 2, folders: 2, delete: 2 });
  });

  it('ends after its time, with the last error', async () => {
    const { store, tried } = broken({ on: 'head', does: 'error' });
    const begin = performance.now();
    await expect(tried.head('a', options)).rejects.toMatchObject({ code: 'store-unavailable' });
    expect(performance.now() - begin).toBeLessThan(2000);
    expect(store.calls.head).toBeGreaterThan(5);
  });

  it('does not repeat what would fail again', async () => {
    const { store, tried } = broken({ on: 'head', does: 'error', code: 'access-denied' });
    await expect(tried.head('a', options)).rejects.toMatchObject({ code: 'access-denied' });
    expect(store.calls.head).toBe(1);
  });

  it('ends at once when it is aborted, in a call and in a pause', async () => {
    for (const does of ['stall', 'error'] as const) {
      const { store } = broken({ on: 'head', does });
      const slow = retrying(store, {
        withinMs: 60_000,
        firstPauseMs: 60_000,
        longestPauseMs: 60_000,
        random: () => 0.9,
      });
      const aborter = new AbortController();
      setTimeout(() => aborter.abort(new Error('shutdown')), 20);
      const begin = performance.now();
      await expect(slow.head('a', { signal: aborter.signal })).rejects.toThrow('shutdown');
      expect(performance.now() - begin).toBeLessThan(1000);
    }
  });

  it('does not read a stream twice', async () => {
    const { memory, store, tried } = broken({ on: 'put', nth: 1, does: 'error' });
    await expect(tried.put('a', piecesOf(bytes('x')), options)).rejects.toMatchObject({
      code: 'store-unavailable',
    });
    expect(store.calls.put).toBe(1);
    expect(await memory.head('a', options)).toBeUndefined();
  });

  it('A2: takes its own object for success when the answer to creating it was lost', async () => {
    const { memory, tried } = broken({ on: 'put', nth: 1, does: 'lost-answer' });
    expect(await tried.put('a', bytes('same'), { signal, ifAbsent: true })).toEqual({ sizeBytes: 4 });
    expect((await collectBytes((await memory.get('a', options))!, 10)).toString()).toBe('same');
  });

  it.for(['other', 'sam', 'same!'])('A3: does not take other bytes (%s) for its own', async (there) => {
    const { memory, tried } = broken({ on: 'put', nth: 1, does: 'error' });
    await memory.put('a', bytes(there), options);
    await expect(tried.put('a', bytes('same'), { signal, ifAbsent: true })).rejects.toMatchObject({
      code: 'already-exists',
    });
    expect((await collectBytes((await memory.get('a', options))!, 10)).toString()).toBe(there);
  });

  it('A3: at the first attempt, an object that exists is not ours, whatever its bytes', async () => {
    const { memory, tried } = broken();
    await memory.put('a', bytes('same'), options);
    await expect(tried.put('a', bytes('same'), { signal, ifAbsent: true })).rejects.toMatchObject({
      code: 'already-exists',
    });
  });

  it('D3: a listing that breaks off goes on behind its last key, each key once', async () => {
    const { memory, tried } = broken(
      { on: 'list', nth: 1, does: 'cut', afterBytes: 3 },
      { on: 'list', nth: 2, does: 'cut', afterBytes: 5 },
    );
    for (const key of ['a', 'b', 'c', 'd', 'e', 'f']) await memory.put(key, bytes('x'), options);
    const keys: string[] = [];
    for await (const { key } of tried.list('', options)) keys.push(key);
    expect(keys).toEqual(['a', 'b', 'c', 'd', 'e', 'f']);
  });
});

describe('the faulty store', () => {
  it('cuts, shortens and changes bodies where it is told', async () => {
    const plan = (['cut', 'truncate', 'flip'] as const).map(
      (does) => ({ on: 'get', matching: does, does, afterBytes: 2 }) as const,
    );
    const { memory, store } = broken(...plan);
    const read = async (key: string) => (await collectBytes((await store.get(key, options))!, 10)).toString();
    for (const key of ['cut', 'truncate', 'flip', 'whole']) await memory.put(key, bytes('abcdef'), options);
    await expect(read('cut')).rejects.toMatchObject({ code: 'store-unavailable' });
    expect(await read('truncate')).toBe('ab');
    expect(await read('flip')).toBe('abbdef');
    expect(await read('whole')).toBe('abcdef');
  });
});
