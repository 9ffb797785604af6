/** Stores that answer, and are wrong: what they said they stored is gone, their listings are late or wild, they replace what is there. */
import { BackupError } from '../../core/errors.ts';
import type { ObjectStore, StoredObject } from '../../stores/object-store.ts';

/** Says that it stored what fits, and does not keep it. `dropped` counts. */
export function losing(
  store: ObjectStore,
  matching: string,
): ObjectStore & { readonly dropped: readonly string[] } {
  const dropped: string[] = [];
  return {
    ...store,
    dropped,
    async put(key, body, options) {
      const stored = await store.put(key, body, options);
      if (!key.includes(matching)) return stored;
      await store.delete([key], options);
      dropped.push(key);
      return stored;
    },
  };
}

/** Objects are there at once for whoever asks for one; listings and folders show puts and deletions `lateMs` later. */
export function stale(store: ObjectStore, lateMs: number): ObjectStore {
  const shownFrom = new Map<string, number>();
  const ghosts = new Map<string, { readonly object: StoredObject; readonly until: number }>();
  const now = () => performance.now();
  const isShown = (key: string) => (shownFrom.get(key) ?? 0) <= now();

  async function* shown(prefix: string, options: { readonly signal: AbortSignal }) {
    const found = new Map<string, StoredObject>();
    for (const [key, { object, until }] of ghosts) {
      if (until > now() && key.startsWith(prefix)) found.set(key, object);
    }
    for await (const object of store.list(prefix, options))
      if (isShown(object.key)) found.set(object.key, object);
    yield* [...found.values()].toSorted((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)));
  }
  return {
    ...store,
    async put(key, body, options) {
      const isNew = (await store.head(key, options)) === undefined;
      const stored = await store.put(key, body, options);
      if (isNew && !ghosts.has(key)) shownFrom.set(key, now() + lateMs);
      return stored;
    },
    list: shown,
    async *folders(prefix, options) {
      const names = new Set<string>();
      for await (const { key } of shown(prefix, options)) {
        const rest = key.slice(prefix.length);
        if (rest.includes('/')) names.add(prefix + rest.slice(0, rest.indexOf('/') + 1));
      }
      yield* names;
    },
    async delete(keys, options) {
      for (const key of keys) {
        const object = await store.head(key, options);
        if (object && isShown(key)) ghosts.set(key, { object, until: now() + lateMs });
        shownFrom.delete(key);
      }
      await store.delete(keys, options);
    },
  };
}

/** Has no create-if-absent, and says so: it looks first, as all such stores of ours do, and two who look at once both write. */
export function ignoringAbsence(store: ObjectStore, pauseMs = 0): ObjectStore {
  return {
    ...store,
    features: { ...store.features, ifAbsent: false },
    async put(key, body, options) {
      const { ifAbsent, ...rest } = options;
      if (ifAbsent === true && (await store.head(key, options)) !== undefined) {
        throw new BackupError('already-exists', `${store.url}/${key} exists already`);
      }
      if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      return store.put(key, body, rest);
    },
  };
}

/** Puts of what fits wait for each other: `count` writers have all looked before any of them writes, and none goes on before all have. */
export function together(store: ObjectStore, matching: string, count: number): ObjectStore {
  const gate = () => {
    const waiting: (() => void)[] = [];
    return () =>
      new Promise<void>((resolve) => {
        waiting.push(resolve);
        if (waiting.length === count) for (const goOn of waiting) goOn();
      });
  };
  const [before, after] = [gate(), gate()];
  return {
    ...store,
    async put(key, body, options) {
      if (!key.includes(matching)) return store.put(key, body, options);
      // What a put of such a store does is a look and a write: with all looks first, every write is one.
      const { ifAbsent: _, ...blindly } = options;
      await before();
      const stored = await store.put(key, body, blindly);
      await after();
      return stored;
    },
  };
}

export type WildListing = 'page 2 fails' | 'ends early' | 'repeats' | 'out of order';

/** Listings of what fits go wrong behind their first entry. What adapters of ours refuse arrives as their refusal. */
export function wildListing(store: ObjectStore, how: WildListing, matching = ''): ObjectStore {
  async function* wild<Entry>(prefix: string, entries: AsyncIterable<Entry>): AsyncGenerator<Entry> {
    const [first, ...rest] = await all(entries);
    if (!prefix.includes(matching)) {
      if (first !== undefined) yield first;
      yield* rest;
      return;
    }
    if (first !== undefined) yield first;
    if (how === 'page 2 fails')
      throw new BackupError('store-unavailable', `${store.url}: page 2 of ${prefix}`);
    if (how === 'ends early') return;
    if (how === 'repeats' && first !== undefined) yield first;
    yield* how === 'out of order' ? rest.toReversed() : rest;
  }
  return {
    ...store,
    list: (prefix, options) => wild(prefix, store.list(prefix, options)),
    folders: (prefix, options) => wild(prefix, store.folders(prefix, options)),
  };
}

async function all<Entry>(entries: AsyncIterable<Entry>): Promise<Entry[]> {
  const found: Entry[] = [];
  for await (const entry of entries) found.push(entry);
  return found;
}

/** Everything that a store holds. */
export async function contentsOf(store: ObjectStore, prefix = ''): Promise<Map<string, Buffer>> {
  const { signal } = new AbortController();
  const contents = new Map<string, Buffer>();
  for await (const { key } of store.list(prefix, { signal })) {
    contents.set(key, Buffer.concat(await all((await store.get(key, { signal })) ?? emptyBody())));
  }
  return contents;
}

async function* emptyBody(): AsyncGenerator<never> {}

/** Changes an object behind everybody's back. */
export async function damage(
  store: ObjectStore,
  key: string,
  change: (bytes: Buffer) => Uint8Array,
): Promise<void> {
  const { signal } = new AbortController();
  const bytes = Buffer.concat(await all((await store.get(key, { signal })) ?? emptyBody()));
  if (bytes.length === 0) throw new Error(`${key} is not there, or empty already`);
  await store.put(key, change(bytes), { signal });
}

export const flipped = (at: number) => (bytes: Buffer) => {
  const other = Buffer.from(bytes);
  const place = at < 0 ? bytes.length + at : Math.min(at, bytes.length - 1);
  other[place] = (other[place] ?? 0) ^ 1;
  return other;
};
export const halved = (bytes: Buffer) => bytes.subarray(0, bytes.length >> 1);
export const emptied = () => Buffer.alloc(0);
