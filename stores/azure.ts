import { randomUUID } from 'node:crypto';
import { isBackupError } from '../core/errors.ts';
import { piecesOf, piecesOfSize } from '../streams/chunks.ts';
import { AZURE_TIMEOUTS, createAzureConnection, odd } from './azure-client.ts';
import type { AzurePlace, AzureTimeouts } from './azure-client.ts';
import { deleteEach } from './azure-delete.ts';
import { download } from './azure-download.ts';
import { BEHIND_THE_END, isFailure, NO_SUCH_BLOB } from './azure-errors.ts';
import { listFolders, listObjects, sizeAndTime } from './azure-list.ts';
import { createAzureLockReader } from './azure-lock.ts';
import { blockBytes, WHOLE_BYTES, md5Of, uploadBlocks } from './azure-upload.ts';
import type { AzureAttributes, Whose } from './azure-upload.ts';
import { checkedBody, checkSize, objectBody } from './body.ts';
import { checkFolder, checkKey, checkReadKey, checkReadPrefix } from './keys.ts';
import { checkMetadata, metadataOf, type Metadata } from './metadata.ts';
import type { FoundObject, ObjectStore, PutOptions, StoreTraits } from './object-store.ts';
import type { AzureStoreConfig } from './store-config.ts';

/** Metadata that tells our object from another's when the answer to a put was lost. */
const PUT_ID = 'walkeep_put';

/**
 * A container, or what lies below a prefix in it, as an object store. Works with Azure and with emulators.
 *
 * - A put is one request up to 16 MiB, else blocks, 16 MiB of them in flight, that one request makes an object of. What a
 *   put that failed has staged is seen by nobody and can't be removed: Azure drops it after a week.
 * - An MD5 goes along with every request that carries bytes. Azure keeps that of objects that were put in one request,
 *   and what is read as a whole is compared with it.
 * - That an object is absent is believed only of the store's own word for it.
 * - A body that breaks off is resumed where it broke, of the same version of the object only.
 * - Everything has a limit in time (`AzureTimeouts`).
 * - Names that end in `/` (folder marks of consoles) are not listed.
 *
 * @throws BackupError `config-invalid` when a secret is not what it should be
 */
export function createAzureStore(
  config: AzureStoreConfig,
  timeouts: Partial<AzureTimeouts> = {},
): ObjectStore {
  const limits = { ...AZURE_TIMEOUTS, ...timeouts };
  const connection = createAzureConnection(config, limits);
  const root = config.prefix === '' ? '' : `${config.prefix}/`;
  const containerUrl = `${connection.serviceUrl}/${config.container}`;
  const named = (key: string) => `${containerUrl}/${root}${key}`;
  const place: AzurePlace = { root, named };
  const checkRead = (key: string) => checkReadKey(key, root);
  const locks = createAzureLockReader(connection, place);

  async function putAtOnce(key: string, body: Uint8Array, options: PutOptions, attributes: AzureAttributes) {
    const what = `put ${named(key)}`;
    const transactionalContentMD5 = md5Of(body);
    try {
      const answer = await connection.call(
        what,
        { signal: options.signal, sendsBytes: body.length },
        (container, sdk) =>
          container.getBlockBlobClient(root + key).upload(body, body.length, {
            ...sdk,
            ...attributes,
            transactionalContentMD5,
            ...(options.ifAbsent === true ? { conditions: { ifNoneMatch: '*' } } : {}),
          }),
      );
      if (answer.etag === undefined) throw odd(what, 'the answer has no ETag');
      return { sizeBytes: body.length };
    } catch (error) {
      // a request whose answer was lost is repeated, and then meets the object it made
      const isOurs = async () => (await whose(key, attributes, options.signal)) === 'ours';
      if (isBackupError(error, 'already-exists') && (await isOurs())) return { sizeBytes: body.length };
      throw error;
    }
  }

  async function whose(key: string, attributes: AzureAttributes, signal: AbortSignal): Promise<Whose> {
    try {
      const { metadata } = await properties(key, signal);
      return metadata?.[PUT_ID] === attributes.metadata[PUT_ID] ? 'ours' : 'another';
    } catch {
      // the failure that made us look is the one to report
      signal.throwIfAborted();
      return 'nobody';
    }
  }

  async function putBody(key: string, body: AsyncGenerator<Uint8Array>, options: PutOptions) {
    const attributes = attributesOf(config, options);
    let sentBytes = 0;
    const sizeOfNext = () => {
      const size = blockBytes(sentBytes, options.sizeBytes);
      sentBytes += size;
      return size;
    };
    const blocks = piecesOfSize(body, sizeOfNext);
    try {
      const first = await blocks.next();
      const second = first.done === true ? first : await blocks.next();
      const whole = first.done === true ? new Uint8Array(0) : first.value;
      if (second.done === true && whole.length <= WHOLE_BYTES)
        return await putAtOnce(key, whole, options, attributes);
      const all = joined(second.done === true ? [whole] : [whole, second.value], blocks);
      return await uploadBlocks(connection, { name: root + key, address: named(key) }, all, {
        ...options,
        attributes,
        whose: () => whose(key, attributes, options.signal),
      });
    } finally {
      await blocks.return();
    }
  }

  function properties(key: string, signal: AbortSignal) {
    return connection.call(`look at ${named(key)}`, { signal }, (container, sdk) =>
      container.getBlobClient(root + key).getProperties(sdk),
    );
  }

  async function head(key: string, signal: AbortSignal): Promise<FoundObject | undefined> {
    checkKey(key);
    try {
      const { contentLength, lastModified, metadata } = await properties(key, signal);
      return {
        key,
        ...sizeAndTime(`look at ${named(key)}`, contentLength, lastModified),
        metadata: withHyphens(metadata),
      };
    } catch (error) {
      if (isFailure(error, NO_SUCH_BLOB)) return undefined;
      throw error;
    }
  }

  return {
    url: containerUrl + (root === '' ? '' : `/${config.prefix}`),
    features: { ifAbsent: true, metadata: true },
    async put(key, body, options) {
      checkKey(key);
      checkMetadata(key, options.metadata);
      options.signal.throwIfAborted();
      if (body instanceof Uint8Array && body.length <= WHOLE_BYTES) {
        checkSize(key, body.length, options.sizeBytes);
        return putAtOnce(key, body, options, attributesOf(config, options));
      }
      const sized = body instanceof Uint8Array ? { sizeBytes: body.length, ...options } : options;
      return putBody(key, checkedBody(key, body, sized), sized);
    },
    async get(key, { signal, range }) {
      checkRead(key);
      if (range?.length === 0) {
        const found = await head(key, signal);
        return found && objectBody(piecesOf(), found.metadata);
      }
      try {
        const options = { signal, idleMs: limits.idleMs, ...(range === undefined ? {} : { range }) };
        const { body, metadata } = await download(connection, place, key, options);
        return objectBody(body, withHyphens(metadata));
      } catch (error) {
        if (isFailure(error, NO_SUCH_BLOB)) return undefined;
        if (isFailure(error, BEHIND_THE_END)) return objectBody(piecesOf());
        throw error;
      }
    },
    head: (key, { signal }) => head(key, signal),
    async *list(prefix, { signal }) {
      checkReadPrefix(prefix, root);
      yield* listObjects(connection, place, prefix, { signal });
    },
    async *folders(prefix, { signal }) {
      checkFolder(prefix);
      yield* listFolders(connection, place, prefix, { signal });
    },
    async delete(keys, { signal }) {
      keys.forEach(checkRead);
      await deleteEach(connection, place, keys, signal);
    },
    inquire: async () => AZURE_TRAITS,
    lockOf: (key, { signal }) => locks.lockOf(key, signal),
    hasLocks: ({ signal }) => locks.hasLocks(signal),
    close: () => connection.close(),
  };
}

/** Of the service itself; whether an account keeps versions or locks blobs is told by another service of Azure. */
const AZURE_TRAITS: StoreTraits = {
  multipartIfAbsent: 'yes',
  checksums: 'yes',
  bulkDelete: 'no',
  listPaging: 'yes',
  listStart: 'no',
  versioning: 'unknown',
  objectLock: 'unknown',
};

function attributesOf(
  { encryptionScope }: AzureStoreConfig,
  { tags, metadata }: PutOptions,
): AzureAttributes {
  return {
    metadata: { ...withUnderscores(metadata), [PUT_ID]: randomUUID() },
    ...(tags === undefined ? {} : { tags: indexTags(tags) }),
    ...(encryptionScope === undefined ? {} : { encryptionScope }),
  };
}

/** Names of metadata can't hold a hyphen here. */
function withUnderscores(metadata: Metadata = {}): Metadata {
  return Object.fromEntries(
    Object.entries(metadata).map(([name, value]) => [name.replaceAll('-', '_'), value]),
  );
}

function withHyphens(found: Readonly<Record<string, string>> | undefined): Metadata {
  const entries = Object.entries(metadataOf(found, PUT_ID));
  return Object.fromEntries(entries.map(([name, value]) => [name.replaceAll('_', '-'), value]));
}

/** Azure refuses an object for a tag that S3 takes: what can't stand in one becomes `_`, and what is too long is cut. */
function indexTags(tags: Readonly<Record<string, string>>): Record<string, string> {
  const plain = (text: string, longest: number) =>
    text.replace(/[^A-Za-z0-9 +\-./:=_]/gu, '_').slice(0, longest);
  return Object.fromEntries(
    Object.entries(tags).map(([name, value]) => [plain(name, 128), plain(value, 256)]),
  );
}

async function* joined(first: readonly Uint8Array[], rest: AsyncIterable<Uint8Array>) {
  yield* first;
  yield* rest;
}
