import { randomUUID } from 'node:crypto';
import { BackupError, isBackupError } from '../core/errors.ts';
import { piecesOf } from '../streams/chunks.ts';
import { checkedBody, checkSize, objectBody } from './body.ts';
import { chunksOf } from './gcs-chunks.ts';
import { createGcsConnection, GCS_TIMEOUTS, odd } from './gcs-client.ts';
import type { GcsPlace, GcsTimeouts } from './gcs-client.ts';
import { deleteObjects } from './gcs-delete.ts';
import { download } from './gcs-download.ts';
import { field, NO_SUCH_OBJECT } from './gcs-errors.ts';
import { inquireGcs } from './gcs-inquiry.ts';
import { listFolders, listObjects, sizeAndTime } from './gcs-list.ts';
import { LOCK_FIELDS, lockOfRecord } from './gcs-lock.ts';
import { CHUNK_BYTES, WHOLE_BYTES, uploadAtOnce, uploadChunks } from './gcs-upload.ts';
import type { GcsTarget } from './gcs-upload.ts';
import { checkFolder, checkKey, checkReadKey, checkReadPrefix } from './keys.ts';
import { checkMetadata, metadataOf, NO_METADATA, type Metadata } from './metadata.ts';
import type { FoundObject, ObjectStore, PutOptions } from './object-store.ts';
import { isFailure } from './s3-errors.ts';
import type { GcsStoreConfig } from './store-config.ts';

/** Metadata that tells our object from another's when the answer to a put was lost. */
const PUT_ID = 'walkeep-put';

/**
 * A bucket of Google Cloud Storage, or what lies below a prefix in it, as an object store.
 *
 * - A put is one request up to 16 MiB, else a resumable upload that holds three chunks of 8 MiB at most. It counts when
 *   the store's answer was read and has the size and CRC-32C of what was sent; what was begun and fails is cancelled.
 * - That an object is absent is believed only when the store says so in its own words, or a listing without any error
 *   confirms it.
 * - A body that breaks off is resumed where it broke, of the same generation only; a whole one is compared with the
 *   store's CRC-32C.
 * - Tags are custom metadata, as barman-cloud has them. `encryption` is S3's: Google always encrypts, with the key of
 *   `kmsKeyName` where one is given.
 * - Everything has a limit in time (`GcsTimeouts`). Calls are tried three times; the rest is left to `retrying`.
 * - Keys that end in `/` (folder marks of consoles) are not listed.
 */
export function createGcsStore(config: GcsStoreConfig, timeouts: Partial<GcsTimeouts> = {}): ObjectStore {
  const limits = { ...GCS_TIMEOUTS, ...timeouts };
  const connection = createGcsConnection(config, limits);
  const { bucket } = config;
  const root = config.prefix === '' ? '' : `${config.prefix}/`;
  const named = (key: string) => `gs://${bucket}/${root}${key}`;
  const place: GcsPlace = { bucket, root, named };

  /** The record of an object. @throws BackupError also when it is absent */
  async function look(
    key: string,
    { fields, generation }: { readonly fields: string; readonly generation?: string },
    signal: AbortSignal,
  ): Promise<unknown> {
    const { json } = await connection.call(`look at ${named(key)}`, {
      method: 'GET',
      path: `/storage/v1/b/${encodeURIComponent(bucket)}/o/${encodeURIComponent(root + key)}`,
      query: { fields, generation },
      signal,
    });
    return json;
  }

  function targetOf(key: string, options: PutOptions): GcsTarget {
    const id = randomUUID();
    return {
      place,
      key,
      metadata: { ...options.tags, ...options.metadata, [PUT_ID]: id },
      query: {
        ifGenerationMatch: options.ifAbsent === true ? '0' : undefined,
        kmsKeyName: config.kmsKeyName,
      },
      signal: options.signal,
      async findOwn() {
        try {
          const record = await look(key, { fields: 'metadata,size,crc32c,generation' }, options.signal);
          return field(field(record, 'metadata'), PUT_ID) === id ? record : undefined;
        } catch {
          // the failure that made us look is the one to report
          options.signal.throwIfAborted();
          return undefined;
        }
      },
    };
  }

  async function putBody(key: string, body: AsyncIterable<Uint8Array>, options: PutOptions) {
    // ends the wait for a source that is slow when the store has failed
    const stop = new AbortController();
    const signal = AbortSignal.any([options.signal, stop.signal]);
    const chunks = chunksOf(checkedBody(key, body, { ...options, signal }), CHUNK_BYTES);
    try {
      const first = await chunks.next();
      const second = first.done === true ? first : await chunks.next();
      if (first.done === true || second.done === true) {
        const whole = first.done === true ? new Uint8Array(0) : first.value;
        await uploadAtOnce(connection, targetOf(key, options), whole);
        return { sizeBytes: whole.length };
      }
      const source = joined([first.value, second.value], chunks);
      const release = (chunk: Uint8Array) => chunks.release(chunk);
      const { sizeBytes } = options;
      return await uploadChunks(connection, targetOf(key, options), { source, release, sizeBytes });
    } finally {
      stop.abort(new Error('the put has ended'));
      await chunks.return();
    }
  }

  /** Absence that an answer reported without the store's own words, asked again by a request that lists. */
  async function confirmAbsence(key: string, signal: AbortSignal): Promise<FoundObject | undefined> {
    for await (const object of listObjects(connection, place, key, { signal, pageKeys: 1 })) {
      return object.key === key ? { ...object, metadata: NO_METADATA } : undefined;
    }
    return undefined;
  }

  async function head(key: string, signal: AbortSignal): Promise<FoundObject | undefined> {
    checkReadKey(key, root);
    try {
      const record = await look(key, { fields: 'size,timeCreated,metadata' }, signal);
      return { key, ...sizeAndTime(`look at ${named(key)}`, record), metadata: metadataIn(record) };
    } catch (error) {
      if (isFailure(error, NO_SUCH_OBJECT)) return undefined;
      if (isNotFound(error)) return confirmAbsence(key, signal);
      throw error;
    }
  }

  /** The API gives an object's bytes without its metadata. */
  async function metadataOfVersion(
    key: string,
    generation: string | undefined,
    signal: AbortSignal,
  ): Promise<Metadata> {
    // without it, the metadata may be another version's
    if (generation === undefined) return NO_METADATA;
    try {
      return metadataIn(await look(key, { fields: 'metadata', generation }, signal));
    } catch (error) {
      if (!isNotFound(error)) throw error;
      throw new BackupError('object-missing', `${named(key)} was replaced or removed while it was read`, {
        cause: error,
      });
    }
  }

  return {
    url: `gs://${bucket}${config.prefix === '' ? '' : `/${config.prefix}`}`,
    features: { ifAbsent: true, metadata: true },
    async put(key, body, options) {
      checkKey(key);
      checkMetadata(key, options.metadata);
      options.signal.throwIfAborted();
      if (!(body instanceof Uint8Array)) return putBody(key, body, options);
      checkSize(key, body.length, options.sizeBytes);
      if (body.length > WHOLE_BYTES)
        return putBody(key, piecesOf(body), { ...options, sizeBytes: body.length });
      await uploadAtOnce(connection, targetOf(key, options), body);
      return { sizeBytes: body.length };
    },
    async get(key, { signal, range }) {
      checkReadKey(key, root);
      if (range?.length === 0) {
        const found = await head(key, signal);
        return found && objectBody(piecesOf(), found.metadata);
      }
      try {
        const options = { signal, idleMs: limits.idleMs, ...(range === undefined ? {} : { range }) };
        const found = await download(connection, place, key, options);
        if (found === undefined) return objectBody(piecesOf());
        return objectBody(found.body, () => metadataOfVersion(key, found.generation, signal));
      } catch (error) {
        if (isFailure(error, NO_SUCH_OBJECT)) return undefined;
        if (!isNotFound(error) || isBackupError(error, 'store-unavailable')) throw error;
        if ((await confirmAbsence(key, signal)) === undefined) return undefined;
        throw odd(`get ${named(key)}`, 'it is listed, but not given');
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
      for (const key of keys) checkReadKey(key, root);
      await deleteObjects(connection, place, keys, signal);
    },
    inquire: (_folder, { signal }) => inquireGcs(connection, place, signal),
    async lockOf(key, { signal }) {
      try {
        return lockOfRecord(await look(key, { fields: LOCK_FIELDS }, signal));
      } catch (error) {
        if (isFailure(error, NO_SUCH_OBJECT) || isNotFound(error)) return undefined;
        throw error;
      }
    },
    close() {
      connection.close();
      return Promise.resolve();
    },
  };
}

function metadataIn(record: unknown): Metadata {
  const found = field(record, 'metadata');
  return typeof found === 'object' && found !== null ? metadataOf({ ...found }, PUT_ID) : NO_METADATA;
}

/** Status 404, whoever said it. */
export function isNotFound(error: unknown): boolean {
  return error instanceof BackupError && field(error.cause, 'status') === 404;
}

async function* joined(first: readonly Uint8Array[], rest: AsyncIterable<Uint8Array>) {
  yield* first;
  yield* rest;
}
