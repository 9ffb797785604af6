import type { ObjectStore } from '../stores/object-store.ts';
import { creatingByTurns } from './creation-turns.ts';
import { validateServerName } from './layout.ts';
import type { StoreRecord } from './store-record.ts';
import { StoreKnowledge, type StoreMemory } from './store-knowledge.ts';

/** What a store keeps for one server (one PostgreSQL cluster): its backups, its WAL archive and our notes on them. */
export interface Repository {
  readonly store: ObjectStore;
  /** The store as it was opened; `store` creates by turns where its promise to create only can't be believed (E3). */
  readonly bareStore?: ObjectStore;
  /** The folder below `destinationPath`; CNPG's default is the name of the cluster. */
  readonly server: string;
  /** For messages: where it is. Never holds a credential. */
  readonly url: string;
  /**
   * Begins to read what was found out about the store, so that the first creation need not wait for it. Nothing is
   * written. Absent where nothing has to be known.
   */
  recall?(signal: AbortSignal): Promise<void>;
  /** Takes what was found out elsewhere; from then on it counts here. Absent as `recall`. */
  remember?(record: StoreRecord): void;
  /** What this process knows of the store. Absent as `recall`. */
  known?(): StoreRecord | undefined;
  /** Closes the store. */
  close(): Promise<void>;
}

/**
 * The repository of `server` in `store`; nothing is read or written.
 *
 * @param memory what this process knows of the place already; whoever opens it more than once keeps one for it
 * @throws BackupError `config-invalid` for a server name that can't be a folder
 */
export function createRepository(store: ObjectStore, server: string, memory: StoreMemory = {}): Repository {
  validateServerName(server);
  const bare: Repository = {
    store,
    server,
    url: `${store.url.replace(/\/+$/, '')}/${server}`,
    close: () => store.close(),
  };
  if (store.features.ifAbsentUnproven === undefined) return bare;
  const knowledge = new StoreKnowledge(bare, memory);
  return {
    ...bare,
    store: creatingByTurns(bare, knowledge),
    bareStore: store,
    recall: (signal) => knowledge.recall(signal),
    remember: (record) => knowledge.remember(record),
    known: () => memory.record,
  };
}
