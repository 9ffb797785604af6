import { setTimeout as sleep } from 'node:timers/promises';
import { isBackupError } from '../core/errors.ts';
import { objectBody } from './body.ts';
import { compareKeys } from './keys.ts';
import type { ObjectStore } from './object-store.ts';

export interface RetryOptions {
  /** No attempt begins later than this after the first, in milliseconds. Attempts themselves are not cut off. */
  readonly withinMs?: number;
  /** The first pause is random below this, each further one below twice as much, up to `longestPauseMs`. */
  readonly firstPauseMs?: number;
  readonly longestPauseMs?: number;
  /** 0 to 1, for tests. */
  readonly random?: () => number;
}

/**
 * Tries again what failed with `store-unavailable`, with full jitter, within a time. Nothing else is tried again.
 *
 * - `put` is repeated only for a body in memory: one that is read as it goes can be read once.
 * - A `put` with `ifAbsent` whose answer was lost may find its own object in the way. What is there is compared then:
 *   the same bytes are a success.
 * - `get` is repeated until its body begins; a body that breaks off is resumed by the stores that can.
 * - Listings go on behind the last entry that came.
 */
export function retrying(store: ObjectStore, options: RetryOptions = {}): ObjectStore {
  const inquire = store.inquire?.bind(store);
  const hasLocks = store.hasLocks?.bind(store);
  const { withinMs = 20_000, firstPauseMs = 200, longestPauseMs = 5_000, random = Math.random } = options;

  /** Pauses before the next attempt, or says that there is none. */
  async function mayTryAgain(
    error: unknown,
    attempt: number,
    begin: number,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (!isBackupError(error, 'store-unavailable') || signal.aborted) return false;
    const pauseMs = random() * Math.min(longestPauseMs, firstPauseMs * 2 ** attempt);
    if (performance.now() + pauseMs - begin > withinMs) return false;
    await sleep(pauseMs, undefined, { signal }).catch(() => signal.throwIfAborted());
    return true;
  }

  async function again<T>(signal: AbortSignal, work: (attempt: number) => Promise<T>): Promise<T> {
    const begin = performance.now();
    for (let attempt = 0; ; attempt++) {
      try {
        return await work(attempt);
      } catch (error) {
        if (!(await mayTryAgain(error, attempt, begin, signal))) throw error;
      }
    }
  }

  async function* listAgain<T>(
    signal: AbortSignal,
    keyOf: (entry: T) => string,
    list: () => AsyncIterable<T>,
  ) {
    let last: string | undefined;
    let begin = performance.now();
    for (let attempt = 0; ; attempt++) {
      try {
        for await (const entry of list()) {
          const key = keyOf(entry);
          if (last !== undefined && compareKeys(key, last) <= 0) continue;
          yield entry;
          last = key;
          // what goes on may go on for hours: only a standstill is bounded
          begin = performance.now();
          attempt = 0;
        }
        return;
      } catch (error) {
        if (!(await mayTryAgain(error, attempt, begin, signal))) throw error;
      }
    }
  }

  return {
    url: store.url,
    features: store.features,
    put(key, body, putOptions) {
      if (!(body instanceof Uint8Array)) return store.put(key, body, putOptions);
      return again(putOptions.signal, async (attempt) => {
        try {
          return await store.put(key, body, putOptions);
        } catch (error) {
          const maybeOurs = attempt > 0 && isBackupError(error, 'already-exists');
          if (maybeOurs && (await holds(store, key, body, putOptions.signal)))
            return { sizeBytes: body.length };
          throw error;
        }
      });
    },
    async get(key, getOptions) {
      const body = await again(getOptions.signal, () => store.get(key, getOptions));
      return body && objectBody(body, () => again(getOptions.signal, () => body.metadata()));
    },
    head: (key, headOptions) => again(headOptions.signal, () => store.head(key, headOptions)),
    ...(store.makeDurable && {
      makeDurable: (key, durableOptions) =>
        again(durableOptions.signal, async () => store.makeDurable?.(key, durableOptions)),
    }),
    list: (prefix, { signal }) =>
      listAgain(
        signal,
        (object) => object.key,
        () => store.list(prefix, { signal }),
      ),
    folders: (prefix, { signal }) =>
      listAgain(
        signal,
        (folder) => folder,
        () => store.folders(prefix, { signal }),
      ),
    ...(store.lockOf && {
      lockOf: (key, lockOptions) => again(lockOptions.signal, async () => store.lockOf?.(key, lockOptions)),
    }),
    ...(hasLocks && { hasLocks: (lockOptions) => again(lockOptions.signal, () => hasLocks(lockOptions)) }),
    // Not in an order in which it could go on behind the last one.
    ...(store.unfinished && {
      unfinished: (prefix, listOptions) => store.unfinished?.(prefix, listOptions) ?? nothing(),
    }),
    ...(store.abandon && {
      abandon: (upload, abandonOptions) =>
        again(abandonOptions.signal, async () => store.abandon?.(upload, abandonOptions)),
    }),
    // Each of its questions has a time of its own, and an answer for when that is over.
    ...(inquire && { inquire }),
    delete: (keys, deleteOptions) => again(deleteOptions.signal, () => store.delete(keys, deleteOptions)),
    close: () => store.close(),
  };
}

async function* nothing(): AsyncGenerator<never, void, void> {}

/** Whether the object at `key` has exactly these bytes. */
async function holds(
  store: ObjectStore,
  key: string,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<boolean> {
  const stored = await store.get(key, { signal });
  if (stored === undefined) return false;
  let at = 0;
  for await (const piece of stored) {
    if (Buffer.compare(piece, bytes.subarray(at, at + piece.length)) !== 0) return false;
    at += piece.length;
  }
  return at === bytes.length;
}
