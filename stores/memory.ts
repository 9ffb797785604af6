import { BackupError } from '../core/errors.ts';
import { collectBytes } from '../streams/chunks.ts';
import { checkedBody, objectBody } from './body.ts';
import { checkFolder, checkKey, checkPrefix, compareKeys } from './keys.ts';
import { checkMetadata, NO_METADATA, type Metadata } from './metadata.ts';
import type { ObjectStore, StoredObject } from './object-store.ts';

/** A store in memory, for tests: it keeps the whole contract, and forgets everything with the process. */
export function createMemoryStore(): ObjectStore {
  const objects = new Map<string, { bytes: Uint8Array; modifiedAt: Date; metadata: Metadata }>();
  const describe = (key: string): StoredObject | undefined => {
    const object = objects.get(key);
    return object && { key, sizeBytes: object.bytes.length, modifiedAt: object.modifiedAt };
  };
  const keysUnder = (prefix: string) =>
    [...objects.keys()].filter((key) => key.startsWith(prefix)).toSorted(compareKeys);

  return {
    url: 'memory:',
    features: { ifAbsent: true, metadata: true },
    async put(key, body, options) {
      checkKey(key);
      checkMetadata(key, options.metadata);
      const bytes = await collectBytes(checkedBody(key, body, options), Number.POSITIVE_INFINITY);
      options.signal.throwIfAborted();
      if (options.ifAbsent === true && objects.has(key)) {
        throw new BackupError('already-exists', `memory:/${key} exists already`);
      }
      objects.set(key, { bytes, modifiedAt: new Date(), metadata: { ...options.metadata } });
      return { sizeBytes: bytes.length };
    },
    async get(key, { signal, range }) {
      checkKey(key);
      signal.throwIfAborted();
      const object = objects.get(key);
      if (object === undefined) return undefined;
      const end = range && range.offset + range.length;
      const pieces = inPieces(object.bytes.subarray(range?.offset ?? 0, end), signal);
      return objectBody(pieces, object.metadata);
    },
    async head(key, { signal }) {
      checkKey(key);
      signal.throwIfAborted();
      const found = describe(key);
      return found && { ...found, metadata: objects.get(key)?.metadata ?? NO_METADATA };
    },
    async *list(prefix, { signal }) {
      checkPrefix(prefix);
      for (const key of keysUnder(prefix)) {
        signal.throwIfAborted();
        const object = describe(key);
        if (object) yield object;
      }
    },
    async *folders(prefix, { signal }) {
      checkFolder(prefix);
      const below = keysUnder(prefix).map((key) => key.slice(prefix.length));
      const names = below
        .filter((rest) => rest.includes('/'))
        .map((rest) => rest.slice(0, rest.indexOf('/') + 1));
      for (const name of new Set(names)) {
        signal.throwIfAborted();
        yield prefix + name;
      }
    },
    async delete(keys, { signal }) {
      keys.forEach(checkKey);
      signal.throwIfAborted();
      for (const key of keys) objects.delete(key);
    },
    async close() {},
  };
}

async function* inPieces(bytes: Uint8Array, signal: AbortSignal) {
  const PIECE_BYTES = 64 << 10;
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    signal.throwIfAborted();
    // a copy: what is stored must not change under a reader that writes into its piece
    yield Buffer.from(bytes.subarray(at, at + PIECE_BYTES));
  }
}
