import { isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { NOT_KNOWN, tryCreation } from './probe-store.ts';
import type { Repository } from './repository.ts';
import { isCurrent, readStoreRecord, writeStoreRecord, type StoreRecord } from './store-record.ts';
import { walkeepVersion } from './walkeep-version.ts';

/** What a process knows of a store; shared by all that open the same place. Times are of `performance.now()`. */
export interface StoreMemory {
  /** The best answer there was; whether it creates only is known in it. */
  record?: StoreRecord;
  /** When its record was read, or could not be. */
  readAt?: number;
  /** When a creation was tried in vain. */
  triedAt?: number;
  /** It answered that it does not know `If-None-Match`. */
  refusesCondition?: boolean;
  /** When a listing did not show what had been stored long before. */
  listedLateAt?: number;
}

/** So long a failure counts as an answer: WAL after WAL must not wait for the same question (A5). */
const ASK_AGAIN_MS = 5 * 60_000;
const READ_MS = 4_000;
const TRY_MS = 6_000;
const KEEP_MS = 4_000;

export function isRecent(at: number | undefined): boolean {
  return at !== undefined && performance.now() - at < ASK_AGAIN_MS;
}

/**
 * What is known about the store of one repository: remembered, else read from its `walkeep/store.json`, else found out by
 * two creations of one tiny object. All of it has little time, and none of it fails: archiving goes on without an answer.
 * An old answer stays in force; the worker and `walkeep repository check` are the ones that renew it.
 */
export class StoreKnowledge {
  readonly memory: StoreMemory;
  readonly #repository: Repository;
  #recalling: Promise<void> | undefined;
  #learning: Promise<StoreRecord | undefined> | undefined;

  /** @param repository with the store as it was opened */
  constructor(repository: Repository, memory: StoreMemory) {
    this.#repository = repository;
    this.memory = memory;
  }

  /** Takes what was found out; what does not say whether the store creates only is passed over. */
  remember(record: StoreRecord): void {
    if (record.ifAbsent !== 'unknown') this.memory.record = record;
  }

  /** Reads what was found out before; writes nothing, and throws only what aborted `signal`. */
  async recall(signal: AbortSignal): Promise<void> {
    const { record, readAt } = this.memory;
    if ((record && isCurrent(record, new Date())) || isRecent(readAt)) return;
    const recalling = (this.#recalling ??= this.#read(signal).finally(() => (this.#recalling = undefined)));
    await unlessAborted(recalling, signal);
  }

  /** @returns `undefined` when it can't be found out now @throws only what aborted `signal` */
  async learn(signal: AbortSignal): Promise<StoreRecord | undefined> {
    for (;;) {
      const { record, triedAt } = this.memory;
      if (record || isRecent(triedAt)) return record;
      if (this.#learning === undefined) break;
      // Another call's failure, or its deadline, is no answer to this one (A5).
      await unlessAborted(this.#learning, signal).catch(() => undefined);
      signal.throwIfAborted();
    }
    this.#learning = this.#findOut(signal).finally(() => (this.#learning = undefined));
    return this.#learning;
  }

  async #read(signal: AbortSignal): Promise<void> {
    const found = await inTime(READ_MS, signal, (limited) => readStoreRecord(this.#repository, limited));
    this.memory.readAt = performance.now();
    if (found) this.remember(found);
  }

  async #findOut(signal: AbortSignal): Promise<StoreRecord | undefined> {
    await this.recall(signal).catch(() => undefined);
    signal.throwIfAborted();
    await this.recall(signal);
    if (this.memory.record) return this.memory.record;
    const tried = await inTime(TRY_MS, signal, (limited) => tryCreation(this.#repository, limited));
    this.memory.triedAt = performance.now();
    if (!tried || tried.ifAbsent === 'unknown') return undefined;
    const record: StoreRecord = {
      ...NOT_KNOWN,
      version: 1,
      probedAt: new Date().toISOString(),
      walkeep: walkeepVersion(),
      ifAbsent: tried.ifAbsent,
      mayDelete: 'unknown',
      onlyCreation: true,
    };
    this.remember(record);
    await inTime(KEEP_MS, signal, (limited) =>
      Promise.allSettled([
        writeStoreRecord(this.#repository, record, limited),
        this.#repository.store.delete([tried.key], { signal: limited }),
      ]),
    );
    return record;
  }
}

/** @returns `undefined` when it failed, or took longer @throws only what aborted `signal` */
async function inTime<T>(
  ms: number,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T | undefined> {
  const limit = AbortSignal.timeout(ms);
  const limited = AbortSignal.any([signal, limit]);
  try {
    return await unlessAborted(work(limited), limited);
  } catch (error) {
    signal.throwIfAborted();
    if (limit.aborted || isBackupError(error)) return undefined;
    throw error;
  }
}
