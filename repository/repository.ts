import type { ObjectStore } from '../stores/object-store.ts';
import { validateServerName } from './layout.ts';

/** What a store keeps for one server (one PostgreSQL cluster): its backups, its WAL archive and our notes on them. */
export interface Repository {
  readonly store: ObjectStore;
  /** The folder below `destinationPath`; CNPG's default is the name of the cluster. */
  readonly server: string;
  /** For messages: where it is. Never holds a credential. */
  readonly url: string;
  /** Closes the store. */
  close(): Promise<void>;
}

/**
 * The repository of `server` in `store`; nothing is read or written.
 *
 * @throws BackupError `config-invalid` for a server name that can't be a folder
 */
export function createRepository(store: ObjectStore, server: string): Repository {
  validateServerName(server);
  return {
    store,
    server,
    url: `${store.url.replace(/\/+$/, '')}/${server}`,
    close: () => store.close(),
  };
}
