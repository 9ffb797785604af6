import { isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { probeStore } from './probe-store.ts';
import type { Repository } from './repository.ts';
import { isCurrent, readStoreRecord, writeStoreRecord, type StoreRecord } from './store-record.ts';

/** What a process knows of a store; shared by all that open the same place. */
export interface StoreMemory {
  record?: StoreRecord;
}

/**
 * What is known about the store of one repository: remembered, else read from its `walkeep/store.json`, else found out by
 * a probe, whose record the next process reads. A probe happens only when something is to be created.
 */
export class StoreKnowledge {
  readonly #repository: Repository;
  readonly #memory: StoreMemory;
  #recalling: Promise<void> | undefined;
  #learning: Promise<StoreRecord> | undefined;

  /** @param repository with the store as it was opened */
  constructor(repository: Repository, memory: StoreMemory) {
    this.#repository = repository;
    this.#memory = memory;
  }

  /** What is known at this moment. */
  get record(): StoreRecord | undefined {
    return this.#memory.record;
  }

  /** Reads what was found out before; writes nothing. */
  async recall(signal: AbortSignal): Promise<void> {
    if (this.#current()) return;
    const recalling = (this.#recalling ??= readStoreRecord(this.#repository, signal)
      .then((found) => this.#remember(found))
      .finally(() => (this.#recalling = undefined)));
    await unlessAborted(recalling, signal);
  }

  /** @throws what the store throws, when neither a record nor a probe is to be had */
  async learn(signal: AbortSignal): Promise<StoreRecord> {
    // Another call's failure, or its deadline, is no answer to this one (A5).
    await (this.#recalling && unlessAborted(this.#recalling, signal).catch(() => undefined));
    const known = this.#current();
    if (known) return known;
    await (this.#learning && unlessAborted(this.#learning, signal).catch(() => undefined));
    const learnt = this.#current();
    if (learnt) return learnt;
    signal.throwIfAborted();
    const learning = (this.#learning = this.#findOut(signal).finally(() => {
      if (this.#learning === learning) this.#learning = undefined;
    }));
    return learning;
  }

  async #findOut(signal: AbortSignal): Promise<StoreRecord> {
    this.#remember(await readStoreRecord(this.#repository, signal));
    const found = this.#current();
    if (found) return found;
    try {
      return await probeAndKeep(this.#repository, this.#memory, signal);
    } catch (error) {
      // What was true a month ago is the best guess while the store answers with errors.
      const old = this.#memory.record;
      if (old === undefined || !isBackupError(error, 'store-unavailable')) throw error;
      return old;
    }
  }

  #remember(found: StoreRecord | undefined): void {
    if (found) this.#memory.record = found;
  }

  #current(): StoreRecord | undefined {
    const { record } = this.#memory;
    return record && isCurrent(record, new Date()) ? record : undefined;
  }
}

/** Probes, and writes down what was found where the key may write. */
async function probeAndKeep(r: Repository, memory: StoreMemory, signal: AbortSignal): Promise<StoreRecord> {
  const { record } = await probeStore(r, signal);
  memory.record = record;
  await writeStoreRecord(r, record, signal);
  return record;
}
