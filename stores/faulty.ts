import { BackupError } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { objectBody } from './body.ts';
import type { ObjectStore } from './object-store.ts';

export type StoreMethod = 'put' | 'get' | 'head' | 'list' | 'folders' | 'delete';

/** One thing that goes wrong. */
export interface Fault {
  readonly on: StoreMethod;
  /** Only the n-th call of that method, from 1; without it every call. */
  readonly nth?: number;
  /** Only keys (for lists: prefixes) that contain this. */
  readonly matching?: string;
  /**
   * `error`: fails before anything happens. `lost-answer`: does the work, then fails. `stall`: never answers (until
   * aborted). `cut`: a body ends with an error after `afterBytes`, a listing after as many entries.
   * `truncate`: a body or listing ends there without any error, as if it were complete. `flip`: the byte there has a
   * bit turned.
   */
  readonly does: 'error' | 'lost-answer' | 'stall' | 'cut' | 'truncate' | 'flip';
  /** Of the error; `store-unavailable` by default. */
  readonly code?: ErrorCode;
  readonly afterBytes?: number;
}

/** A store that fails as `plan` says, for fault tests. The first fault that fits a call happens. */
export function faulty(
  store: ObjectStore,
  plan: readonly Fault[],
): ObjectStore & { readonly calls: Readonly<Record<StoreMethod, number>> } {
  const calls: Record<StoreMethod, number> = { put: 0, get: 0, head: 0, list: 0, folders: 0, delete: 0 };

  const faultOf = (method: StoreMethod, subject: string): Fault | undefined => {
    const nth = ++calls[method];
    return plan.find(
      (fault) =>
        fault.on === method &&
        (fault.nth ?? nth) === nth &&
        (fault.matching === undefined || subject.includes(fault.matching)),
    );
  };
  const fail = (fault: Fault, subject: string) =>
    new BackupError(fault.code ?? 'store-unavailable', `${store.url}: scripted fault at ${subject}`);
  const stalled = (signal: AbortSignal) => unlessAborted(new Promise<never>(() => undefined), signal);

  async function around<T>(
    method: StoreMethod,
    subject: string,
    signal: AbortSignal,
    work: (fault?: Fault) => Promise<T>,
  ) {
    const fault = faultOf(method, subject);
    if (fault?.does === 'error') throw fail(fault, subject);
    if (fault?.does === 'stall') return stalled(signal);
    const result = await work(fault);
    if (fault?.does === 'lost-answer') throw fail(fault, subject);
    return result;
  }
  async function* aroundList<T>(
    method: StoreMethod,
    subject: string,
    signal: AbortSignal,
    entries: AsyncIterable<T>,
  ) {
    const fault = faultOf(method, subject);
    if (fault?.does === 'error') throw fail(fault, subject);
    let came = 0;
    const limit = fault?.afterBytes ?? 0;
    for await (const entry of entries) {
      if (fault && came >= limit) {
        if (fault.does === 'stall') await stalled(signal);
        if (fault.does === 'truncate') return;
        throw fail(fault, subject);
      }
      came += 1;
      yield entry;
    }
  }

  return {
    calls,
    url: store.url,
    features: store.features,
    put: (key, body, options) => around('put', key, options.signal, () => store.put(key, body, options)),
    get: (key, options) =>
      around('get', key, options.signal, async (fault) => {
        const body = await store.get(key, options);
        if (!body || !fault) return body;
        return objectBody(
          damagedBody(body, fault, () => fail(fault, key)),
          () => body.metadata(),
        );
      }),
    head: (key, options) => around('head', key, options.signal, () => store.head(key, options)),
    ...(store.makeDurable && { makeDurable: async (key, options) => store.makeDurable?.(key, options) }),
    ...(store.lockOf && { lockOf: async (key, options) => store.lockOf?.(key, options) }),
    ...(store.hasLocks && { hasLocks: async (options) => (await store.hasLocks?.(options)) ?? true }),
    ...(store.unfinished && {
      unfinished: (prefix, options) => store.unfinished?.(prefix, options) ?? nothing(),
    }),
    ...(store.abandon && { abandon: async (upload, options) => store.abandon?.(upload, options) }),
    list: (prefix, options) => aroundList('list', prefix, options.signal, store.list(prefix, options)),
    folders: (prefix, options) =>
      aroundList('folders', prefix, options.signal, store.folders(prefix, options)),
    delete: (keys, options) =>
      around('delete', keys.join(' '), options.signal, () => store.delete(keys, options)),
    close: () => store.close(),
  };
}

async function* nothing(): AsyncGenerator<never, void, void> {}

async function* damagedBody(body: AsyncIterable<Uint8Array>, fault: Fault, failure: () => BackupError) {
  const limit = fault.afterBytes ?? 0;
  let passed = 0;
  for await (const piece of body) {
    const at = limit - passed;
    passed += piece.length;
    if (at >= piece.length || at < 0) {
      yield piece;
      continue;
    }
    if (fault.does === 'flip') {
      const flipped = Buffer.from(piece);
      flipped[at] = (flipped[at] ?? 0) ^ 1;
      yield flipped;
      continue;
    }
    if (at > 0) yield piece.subarray(0, at);
    if (fault.does === 'truncate') return;
    throw failure();
  }
}
