import { createHash, randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, isBackupError } from '../core/errors.ts';
import type { ObjectStore, PutOptions } from '../stores/object-store.ts';
import { ownKey } from './layout.ts';
import type { Repository } from './repository.ts';
import { hasBytes, utf8 } from './small-object.ts';
import type { StoreKnowledge } from './store-knowledge.ts';
import type { StoreRecord } from './store-record.ts';

/** A turn lasts at most this long; who was frozen for longer has lost it. */
const TURN_MS = 60_000;
/** By the store's clock. A turn of a writer that died ends then; a request of its that still travels has been given up. */
const DEAD_AFTER_MS = 150_000;
/** So long one waits for others before the caller is told to come again. */
const WAIT_MS = 20_000;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2_000;
const WITHDRAW_MS = 15_000;
const SUM = 16;

/**
 * A store whose `put` with `ifAbsent` creates and never replaces, also where the server passes over the condition: what
 * the store was found to keep to is asked of it, and for the rest writers take turns (E3).
 *
 * A turn is an object of its own below `walkeep/turns/`, in a folder for the key. Each writer puts its turn first and
 * looks for others afterwards, so that of two at least one sees the other; who sees one takes its turn back and tries
 * again a little later. Alone, it looks whether the object exists, puts it, and reads it again. Writers of the same bytes do
 * not disturb each other: one of them may be an earlier try that was killed. This is as good as the store's listings are
 * up to date, and no better.
 */
export function creatingByTurns(r: Repository, knowledge: StoreKnowledge): ObjectStore {
  const { store } = r;
  return {
    ...store,
    features: {
      ...store.features,
      /** What is known so far: nothing is promised before it was found out, which the first creation does. */
      get ifAbsent() {
        return knowledge.record?.ifAbsent === 'yes';
      },
    },
    async put(key, body, options) {
      if (options.ifAbsent !== true) return store.put(key, body, options);
      const record = await knowledge.learn(options.signal);
      if (isKept(record, body)) return store.put(key, body, options);
      return createInTurn(r, key, body, options);
    },
  };
}

function isKept({ ifAbsent, multipartIfAbsent, oneRequestBytes }: StoreRecord, body: Body): boolean {
  if (ifAbsent !== 'yes') return false;
  if (multipartIfAbsent === 'yes') return true;
  return body instanceof Uint8Array && oneRequestBytes !== undefined && body.length <= oneRequestBytes;
}

type Body = Uint8Array | AsyncIterable<Uint8Array>;

async function createInTurn(
  r: Repository,
  key: string,
  body: Body,
  options: PutOptions,
): Promise<{ sizeBytes: number }> {
  const { signal } = options;
  const folder = `${ownKey(r.server, 'turns', sumOf(utf8(key)))}/`;
  // what is read as it goes can't be compared: such writers are all strangers to each other
  const content = body instanceof Uint8Array ? sumOf(body) : sumOf(utf8(randomUUID()));
  const begun = performance.now();
  for (let attempt = 0; ; attempt += 1) {
    const turn = `${folder}${content}-${randomUUID()}`;
    const takenAt = { monotonic: performance.now(), wall: Date.now() };
    await putTurn(r.store, turn, key, signal);
    let isOver = true;
    try {
      if (await isAlone(r.store, folder, turn, content, signal)) {
        // After the others: what one of them stored before it withdrew is seen now.
        if ((await r.store.head(key, { signal })) !== undefined) throw existsAlready(r, key);
        requireInTime(key, takenAt);
        const done = await putInTime(r.store, key, body, options).catch((error: unknown) => {
          // A put whose fate is open may still come to pass: its turn stays, and runs out.
          isOver = isBackupError(error) && !isBackupError(error, 'store-unavailable');
          throw error;
        });
        if (body instanceof Uint8Array) await requireSame(r, key, body, signal);
        return done;
      }
    } finally {
      if (isOver) await withdraw(r.store, turn);
    }
    if (performance.now() - begun > WAIT_MS) throw busy(r, key);
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempt);
    await sleep(FIRST_PAUSE_MS + Math.random() * longest, undefined, { signal }).catch(() =>
      signal.throwIfAborted(),
    );
  }
}

/** Who it is, for people who find it. */
async function putTurn(store: ObjectStore, turn: string, key: string, signal: AbortSignal): Promise<void> {
  const bytes = utf8(`${JSON.stringify({ key, host: hostname(), pid: process.pid })}\n`);
  await store.put(turn, bytes, { signal, sizeBytes: bytes.length });
}

/**
 * Whether nobody else is at it with other bytes. Turns that ended are empty, where they could not be removed; those of
 * writers that died are old, and are removed. A listing that does not show our own is late, and says nothing.
 */
async function isAlone(
  store: ObjectStore,
  folder: string,
  turn: string,
  content: string,
  signal: AbortSignal,
): Promise<boolean> {
  const others: { readonly key: string; readonly at: number }[] = [];
  let ours: number | undefined;
  for await (const { key, sizeBytes, modifiedAt } of store.list(folder, { signal })) {
    if (key === turn) ours = modifiedAt.getTime();
    else if (sizeBytes > 0 && !key.startsWith(`${folder}${content}-`))
      others.push({ key, at: modifiedAt.getTime() });
  }
  if (ours === undefined) return false;
  const now = ours;
  const dead = others.filter(({ at }) => now - at > DEAD_AFTER_MS).map(({ key }) => key);
  if (dead.length > 0) await store.delete(dead, { signal }).catch(() => undefined);
  return dead.length === others.length;
}

async function putInTime(store: ObjectStore, key: string, body: Body, options: PutOptions) {
  const limit = new AbortController();
  const timer = setTimeout(
    () =>
      limit.abort(new BackupError('store-unavailable', `${key} was not stored within ${TURN_MS / 1000} s`)),
    TURN_MS,
  );
  try {
    return await store.put(key, body, {
      ...options,
      ifAbsent: false,
      signal: AbortSignal.any([options.signal, limit.signal]),
    });
  } finally {
    clearTimeout(timer);
  }
}

function requireInTime(key: string, taken: { readonly monotonic: number; readonly wall: number }): void {
  const ms = Math.max(performance.now() - taken.monotonic, Date.now() - taken.wall);
  if (ms < TURN_MS) return;
  throw new BackupError('store-unavailable', `the turn to create ${key} ran out after ${Math.round(ms)} ms`);
}

async function requireSame(r: Repository, key: string, body: Uint8Array, signal: AbortSignal): Promise<void> {
  const stored = await r.store.get(key, { signal });
  if (stored === undefined) {
    throw new BackupError('store-unavailable', `${r.url}: ${key} was stored and is not there`);
  }
  if (!(await hasBytes(stored, body))) throw existsAlready(r, key);
}

/** Never throws: a turn that stays runs out. Without the right to delete it is emptied. */
async function withdraw(store: ObjectStore, turn: string): Promise<void> {
  const signal = AbortSignal.timeout(WITHDRAW_MS);
  await store
    .delete([turn], { signal })
    .catch(() => store.put(turn, new Uint8Array(0), { signal, sizeBytes: 0 }))
    .catch(() => undefined);
}

function existsAlready({ store }: Repository, key: string): BackupError {
  return new BackupError('already-exists', `${store.url}/${key} exists already`);
}

function busy(r: Repository, key: string): BackupError {
  return new BackupError(
    'store-unavailable',
    `${r.url}: somebody else is creating ${key}, and did not end within ${WAIT_MS / 1000} s`,
    {
      hint: 'this store ignores If-None-Match, so writers take turns; one that died is waited for up to three minutes',
    },
  );
}

function sumOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, SUM);
}
