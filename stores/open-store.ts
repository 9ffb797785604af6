import { createAzureStore } from './azure.ts';
import { createFilesystemStore } from './filesystem.ts';
import { createGcsStore } from './gcs.ts';
import type { ObjectStore } from './object-store.ts';
import { retrying, type RetryOptions } from './retrying.ts';
import { createS3Store } from './s3.ts';
import type { StoreConfig } from './store-config.ts';

/** The store that `config` describes, wrapped in `retrying`. Nothing is connected before the first call. */
export function openStore(config: StoreConfig, options: RetryOptions = {}): ObjectStore {
  return retrying(createStore(config), options);
}

function createStore(config: StoreConfig): ObjectStore {
  switch (config.kind) {
    case 'file':
      return createFilesystemStore(config.directory);
    case 's3':
      return createS3Store(config);
    case 'azure':
      return createAzureStore(config);
    case 'gs':
      return createGcsStore(config);
  }
}
