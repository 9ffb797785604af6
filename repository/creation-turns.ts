import { createHash, randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, isBackupError } from '../core/errors.ts';
import type { ObjectStore, PutOptions } from '../stores/object-store.ts';
import { ownKey } from './layout.ts';
import type { Repository } from './repository.ts';
import { hasBytes, utf8 } from './small-object.ts';
import { isRecent, type StoreKnowledge, type StoreMemory } from './store-knowledge.ts';

/** A turn lasts at most this long, from when it is taken; who was frozen for longer has lost it. */
const TURN_MS = 45_000;
/** By the store's clock. A turn of a writer that died ends then; a request of its that still travels has been given up. */
const DEAD_AFTER_MS = 60_000;
/** So long one waits for others before the caller is told to come again. */
const WAIT_MS = 20_000;
/** So long one waits until a listing shows one's own turn. */
const LATE_MS = 10_000;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2_000;
const WITHDRAW_MS = 15_000;
const SUM = 16;

/**
 * A store whose `put` with `ifAbsent` creates and never replaces, also where the server passes over the condition: what
 * the store was found to keep to is asked of it, and for the rest writers take turns (E3).
 *
 * A turn is an object of its own below `walkeep/turns/`, in a folder for the key. Each writer puts its turn first and
 * looks for others afterwards, until a listing shows its own, so that of two at least one sees the other; who sees one
 * takes its turn back and tries again a little later. Alone, it looks whether the object exists, puts it with the condition
 * all the same, and reads it again. Writers of the same bytes do not disturb each other: one of them may be an earlier try
 * that was killed. This is as good as the store's listings are up to date, and no better: where they stay behind for long,
 * and where the key may not write turns, it is a look, a put and a comparison.
 *
 * Where nothing could be found out, the condition alone has to do: archiving that worked does not stop.
 */
export function creatingByTurns(r: Repository, knowledge: StoreKnowledge): ObjectStore {
  const { store } = r;
  const inOneRequest = store.features.ifAbsentUnproven?.oneRequestBytes ?? 0;
  return {
    ...store,
    features: {
      ...store.features,
      /** What is known so far: nothing is promised before it was found out, which the first creation does. */
      get ifAbsent() {
        return knowledge.memory.record?.ifAbsent === 'yes';
      },
    },
    async put(key, body, options) {
      if (options.ifAbsent !== true) return store.put(key, body, options);
      const record = await knowledge.learn(options.signal);
      if (record === undefined) {
        try {
          return await store.put(key, body, options);
        } catch (error) {
          if (!(body instanceof Uint8Array) || !isBackupError(error, 'config-invalid')) throw error;
          // It may be the condition alone that is refused.
          return createInTurn(r, key, body, options, knowledge.memory);
        }
      }
      const isSmall = body instanceof Uint8Array && body.length <= inOneRequest;
      const isKept = record.ifAbsent === 'yes' && (isSmall || record.multipartIfAbsent === 'yes');
      return isKept ? store.put(key, body, options) : createInTurn(r, key, body, options, knowledge.memory);
    },
  };
}

type Body = Uint8Array | AsyncIterable<Uint8Array>;

async function createInTurn(
  r: Repository,
  key: string,
  body: Body,
  options: PutOptions,
  memory: StoreMemory,
): Promise<{ sizeBytes: number }> {
  const { signal } = options;
  const folder = `${ownKey(r.server, 'turns', sumOf(utf8(key)))}/`;
  // what is read as it goes can't be compared: such writers are all strangers to each other
  const content = body instanceof Uint8Array ? sumOf(body) : sumOf(utf8(randomUUID()));
  const begun = performance.now();
  for (let attempt = 0; ; attempt += 1) {
    const turn: Turn = { folder, key: `${folder}${content}-${randomUUID()}`, content };
    const takenAt = { monotonic: performance.now(), wall: Date.now() };
    const isTaken = await putTurn(r.store, turn, key, memory, signal);
    let isOver = isTaken;
    try {
      if (!isTaken || (await isAlone(r, turn, memory, signal))) {
        // After the others: what one of them stored before it withdrew is seen now.
        if ((await r.store.head(key, { signal })) !== undefined) throw existsAlready(r, key);
        const leftMs = timeLeft(key, takenAt);
        const done = await putInTime(r.store, key, body, { options, memory, leftMs }).catch(
          (error: unknown) => {
            // A put whose fate is open may still come to pass: its turn stays, and runs out.
            isOver &&= isBackupError(error) && !isBackupError(error, 'store-unavailable');
            throw error;
          },
        );
        if (body instanceof Uint8Array) await requireSame(r, key, body, signal);
        return done;
      }
    } finally {
      if (isOver) await withdraw(r.store, turn.key);
    }
    if (performance.now() - begun > WAIT_MS) throw busy(r, key);
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempt);
    await pause(FIRST_PAUSE_MS + Math.random() * longest, signal);
  }
}

interface Turn {
  readonly folder: string;
  readonly key: string;
  /** Of the bytes that are to be created. */
  readonly content: string;
}

/** Who it is, for people who find it. @returns whether the key may write turns */
async function putTurn(
  store: ObjectStore,
  turn: Turn,
  key: string,
  memory: StoreMemory,
  signal: AbortSignal,
): Promise<boolean> {
  const bytes = utf8(`${JSON.stringify({ key, host: hostname(), pid: process.pid })}\n`);
  try {
    // There are keys that may only create.
    await putConditionally(store, turn.key, bytes, { signal, sizeBytes: bytes.length }, memory);
    return true;
  } catch (error) {
    if (!isBackupError(error, 'access-denied')) throw error;
    return false;
  }
}

/** With the condition, unless it is the condition that is refused: some servers keep it that were thought not to. */
async function putConditionally(
  store: ObjectStore,
  key: string,
  body: Body,
  options: PutOptions,
  memory: StoreMemory,
): Promise<{ sizeBytes: number }> {
  // what is read as it goes can't be put twice
  if (body instanceof Uint8Array && memory.refusesCondition !== true) {
    try {
      return await store.put(key, body, { ...options, ifAbsent: true });
    } catch (error) {
      if (!isBackupError(error, 'config-invalid')) throw error;
    }
  }
  const done = await store.put(key, body, { ...options, ifAbsent: false });
  if (body instanceof Uint8Array) memory.refusesCondition = true;
  return done;
}

/**
 * Whether nobody else is at it with other bytes: asked until a listing shows our own turn, for one that does not is late and
 * says nothing. A store whose listings are late for long is not waited for again and again.
 */
async function isAlone(
  r: Repository,
  turn: Turn,
  memory: StoreMemory,
  signal: AbortSignal,
): Promise<boolean> {
  const until = performance.now() + (isRecent(memory.listedLateAt) ? 0 : LATE_MS);
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(LONGEST_PAUSE_MS / 2, pauseMs * 2)) {
    const { hasOthers, isShown } = await lookAround(r.store, turn, signal);
    if (hasOthers) return false;
    if (isShown) return true;
    if (performance.now() + pauseMs > until) break;
    await pause(pauseMs, signal);
  }
  if (!isRecent(memory.listedLateAt)) {
    memory.listedLateAt = performance.now();
    process.emitWarning(
      `${r.url}: this store ignores If-None-Match, and its listings do not show within ${LATE_MS / 1000} s what was stored: two that create one object at the same moment are not kept apart`,
      { code: 'WALKEEP_LATE_LISTINGS' },
    );
  }
  return true;
}

/** Turns that ended are empty, where they could not be removed; those of writers that died are old, and are removed. */
async function lookAround(
  store: ObjectStore,
  turn: Turn,
  signal: AbortSignal,
): Promise<{ readonly hasOthers: boolean; readonly isShown: boolean }> {
  const others: { readonly key: string; readonly at: number }[] = [];
  let ours: number | undefined;
  for await (const { key, sizeBytes, modifiedAt } of store.list(turn.folder, { signal })) {
    if (key === turn.key) ours = modifiedAt.getTime();
    else if (sizeBytes > 0 && !key.startsWith(`${turn.folder}${turn.content}-`))
      others.push({ key, at: modifiedAt.getTime() });
  }
  if (others.length === 0) return { hasOthers: false, isShown: ours !== undefined };
  // The store's clock; a turn that is later than ours by as much was dated by a clock that went wrong.
  const now = ours ?? (await store.head(turn.key, { signal }))?.modifiedAt.getTime();
  if (now === undefined) return { hasOthers: true, isShown: false };
  const dead = others.filter(({ at }) => Math.abs(now - at) > DEAD_AFTER_MS).map(({ key }) => key);
  if (dead.length > 0) await store.delete(dead, { signal }).catch(() => undefined);
  return { hasOthers: dead.length < others.length, isShown: ours !== undefined };
}

interface PutInTime {
  readonly options: PutOptions;
  readonly memory: StoreMemory;
  readonly leftMs: number;
}

async function putInTime(
  store: ObjectStore,
  key: string,
  body: Body,
  { options, memory, leftMs }: PutInTime,
) {
  const limit = new AbortController();
  const late = () =>
    new BackupError('store-unavailable', `${key} was not stored within its turn of ${TURN_MS / 1000} s`);
  const timer = setTimeout(() => limit.abort(late()), leftMs);
  try {
    const signal = AbortSignal.any([options.signal, limit.signal]);
    return await putConditionally(store, key, body, { ...options, signal }, memory);
  } finally {
    clearTimeout(timer);
  }
}

/** @throws BackupError `store-unavailable` when there is none */
function timeLeft(key: string, taken: { readonly monotonic: number; readonly wall: number }): number {
  const ms = Math.max(performance.now() - taken.monotonic, Date.now() - taken.wall);
  if (ms < TURN_MS) return TURN_MS - ms;
  throw new BackupError('store-unavailable', `the turn to create ${key} ran out after ${Math.round(ms)} ms`);
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => signal.throwIfAborted());
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
      hint: 'this store ignores If-None-Match, so writers take turns; one that died is waited for up to a minute',
    },
  );
}

function sumOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, SUM);
}
