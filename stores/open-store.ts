import { createFilesystemStore } from './filesystem.ts';
import type { ObjectStore } from './object-store.ts';
import { retrying } from './retrying.ts';
import { createS3Store } from './s3.ts';
import type { StoreConfig } from './store-config.ts';

/** The store that `config` describes, wrapped in `retrying`. Nothing is connected before the first call. */
export function openStore(config: StoreConfig): ObjectStore {
  return retrying(config.kind === 'file' ? createFilesystemStore(config.directory) : createS3Store(config));
}
