import { randomUUID } from 'node:crypto';
import { BackupError, isBackupError } from '../core/errors.ts';
import { piecesOf, piecesOfSize } from '../streams/chunks.ts';
import { checkedBody, checkSize, objectBody } from './body.ts';
import { checkFolder, checkKey, checkPrefix, checkReadKey, checkReadPrefix, isDoubled } from './keys.ts';
import { checkMetadata, metadataOf, NO_METADATA } from './metadata.ts';
import type { FoundObject, ObjectStore, PutOptions } from './object-store.ts';
import { createS3Connection, odd, S3_TIMEOUTS, withReadTimeout } from './s3-client.ts';
import type { S3Place, S3Timeouts } from './s3-client.ts';
import { download } from './s3-download.ts';
import { failureOf, isFailure } from './s3-errors.ts';
import { inquireS3 } from './s3-inquiry.ts';
import { listFolders, listObjects, sizeAndTime } from './s3-list.ts';
import { createS3LockReader } from './s3-lock.ts';
import { abandonUpload, listUnfinished } from './s3-unfinished.ts';
import { partBytes, PART_BYTES, uploadParts } from './s3-upload.ts';
import type { S3Attributes } from './s3-upload.ts';
import type { S3StoreConfig } from './store-config.ts';

/** Metadata that tells our object from another's when the answer to a put was lost. */
const PUT_ID = 'walkeep-put';
const KEYS_AT_ONCE = 1000;

/**
 * A bucket, or what lies below a prefix in it, as an object store. Works with AWS and with servers that speak its
 * protocol; those with an endpoint of their own are asked by path style unless `addressingStyle` says otherwise.
 *
 * - A put is one request up to 16 MiB, else a multipart upload with one part of 16 MiB or two smaller ones in flight; it
 *   counts when the server's answer was read and makes sense. CRC32 checksums go along.
 * - That an object is absent is believed only when the server answered without any error; for `head`, whose answer has
 *   no text, a listing confirms it.
 * - A body that breaks off is resumed where it broke, of the same version of the object only.
 * - Everything has a limit in time (`S3Timeouts`).
 * - Keys that end in `/` (folder marks of consoles) are not listed.
 */
export function createS3Store(config: S3StoreConfig, timeouts: Partial<S3Timeouts> = {}): ObjectStore {
  const limits = { ...withReadTimeout(S3_TIMEOUTS, config.readTimeoutMs), ...timeouts };
  const connection = createS3Connection(config, limits);
  const Bucket = config.bucket;
  const root = config.prefix === '' ? '' : `${config.prefix}/`;
  const target = (key: string) => ({ Bucket, Key: root + key });
  const named = (key: string) => `s3://${Bucket}/${root}${key}`;
  const place: S3Place = { Bucket, root, named };
  const checkRead = (key: string) => checkReadKey(key, root);
  const locks = createS3LockReader(connection, place);

  async function putAtOnce(key: string, body: Uint8Array, options: PutOptions, attributes: S3Attributes) {
    const what = `put ${named(key)}`;
    try {
      const answer = await connection.call(
        what,
        { signal: options.signal, sendsBytes: body.length },
        (client, sdk, send) =>
          client.send(
            new sdk.PutObjectCommand({
              ...target(key),
              ...attributes,
              Body: body,
              ContentLength: body.length,
              ...(options.ifAbsent === true ? { IfNoneMatch: '*' } : {}),
            }),
            send,
          ),
      );
      if (answer.ETag === undefined) throw odd(what, 'the answer has no ETag');
      return { sizeBytes: body.length };
    } catch (error) {
      // the SDK repeats a request whose answer was lost, and then meets the object it made
      if (isBackupError(error, 'already-exists') && (await isOurs(key, attributes, options.signal))) {
        return { sizeBytes: body.length };
      }
      throw error;
    }
  }

  async function isOurs(key: string, attributes: S3Attributes, signal: AbortSignal): Promise<boolean> {
    try {
      const found = await connection.call(`look at ${named(key)}`, { signal }, (client, sdk, send) =>
        client.send(new sdk.HeadObjectCommand(target(key)), send),
      );
      return found.Metadata?.[PUT_ID] === attributes.Metadata[PUT_ID];
    } catch {
      // the failure that made us look is the one to report
      signal.throwIfAborted();
      return false;
    }
  }

  async function putBody(key: string, body: AsyncGenerator<Uint8Array>, options: PutOptions) {
    const attributes = attributesOf(config, options);
    let sentBytes = 0;
    const sizeOfNext = () => {
      const size = partBytes(sentBytes, options);
      sentBytes += size;
      return size;
    };
    const parts = piecesOfSize(body, sizeOfNext);
    try {
      const first = await parts.next();
      const second = first.done === true ? first : await parts.next();
      const whole = first.done === true ? new Uint8Array(0) : first.value;
      if (second.done === true && whole.length <= PART_BYTES)
        return await putAtOnce(key, whole, options, attributes);
      const all = joined(second.done === true ? [whole] : [whole, second.value], parts);
      const confirm = () => isOurs(key, attributes, options.signal);
      return await uploadParts(connection, target(key), all, { ...options, attributes, confirm });
    } finally {
      await parts.return();
    }
  }

  async function head(key: string, signal: AbortSignal): Promise<FoundObject | undefined> {
    checkKey(key);
    const what = `look at ${named(key)}`;
    try {
      const answer = await connection.call(what, { signal }, (client, sdk, send) =>
        client.send(new sdk.HeadObjectCommand(target(key)), send),
      );
      const { ContentLength, LastModified, Metadata } = answer;
      return {
        key,
        ...sizeAndTime(what, ContentLength, LastModified),
        metadata: metadataOf(Metadata, PUT_ID),
      };
    } catch (error) {
      if (isFailure(error, 'NotFound', 'NoSuchKey')) return confirmAbsence(key, signal);
      throw error;
    }
  }

  /** Absence that a `HEAD` reported, asked again by a request whose errors have a name. */
  async function confirmAbsence(key: string, signal: AbortSignal): Promise<FoundObject | undefined> {
    for await (const object of listObjects(connection, place, key, { signal, pageKeys: 1 })) {
      return object.key === key ? { ...object, metadata: NO_METADATA } : undefined;
    }
    return undefined;
  }

  async function deleteOneByOne(keys: readonly string[], signal: AbortSignal): Promise<void> {
    for (const key of keys) {
      await connection
        .call(`delete ${named(key)}`, { signal }, (client, sdk, send) =>
          client.send(new sdk.DeleteObjectCommand(target(key)), send),
        )
        .catch((error: unknown) => {
          if (!isFailure(error, 'NoSuchKey')) throw error;
        });
    }
  }

  async function deleteTogether(keys: readonly string[], signal: AbortSignal): Promise<void> {
    const what = `delete ${keys.length} objects, the first ${named(keys[0] ?? '')},`;
    let answer;
    try {
      answer = await connection.call(what, { signal }, (client, sdk, send) =>
        client.send(
          new sdk.DeleteObjectsCommand({
            Bucket,
            Delete: { Objects: keys.map((key) => ({ Key: root + key })) },
          }),
          send,
        ),
      );
    } catch (error) {
      // stores differ in the checksum that they want of this request, and some do not have it
      if (!isBackupError(error, 'config-invalid')) throw error;
      return deleteOneByOne(keys, signal);
    }
    const refused = (answer.Errors ?? []).filter(({ Code }) => Code !== 'NoSuchKey');
    const [first] = refused;
    if (first !== undefined) {
      const code = first.Code === 'AccessDenied' ? 'access-denied' : 'store-unavailable';
      const others = refused.length > 1 ? ` and ${refused.length - 1} more` : '';
      throw new BackupError(
        code,
        `delete s3://${Bucket}/${first.Key ?? '?'}${others} failed: ${failureOf(first).code}`,
      );
    }
    const answered = new Set([...(answer.Deleted ?? []), ...(answer.Errors ?? [])].map(({ Key }) => Key));
    const missing = keys.find((key) => !answered.has(root + key));
    if (missing !== undefined) throw odd(`delete ${named(missing)}`, 'the answer does not name it');
  }

  return {
    url: `s3://${Bucket}${config.prefix === '' ? '' : `/${config.prefix}`}`,
    features: { ifAbsent: true, ifAbsentUnproven: { oneRequestBytes: PART_BYTES }, metadata: true },
    async put(key, body, options) {
      checkKey(key);
      checkMetadata(key, options.metadata);
      options.signal.throwIfAborted();
      if (body instanceof Uint8Array && body.length <= PART_BYTES) {
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
        return objectBody(body, metadataOf(metadata, PUT_ID));
      } catch (error) {
        if (isFailure(error, 'NoSuchKey')) return undefined;
        // the range begins behind the end
        if (isFailure(error, 'InvalidRange')) return objectBody(piecesOf());
        throw error;
      }
    },
    head: (key, { signal }) => head(key, signal),
    async *list(prefix, { signal }) {
      checkReadPrefix(prefix, root);
      yield* listObjects(connection, place, prefix, { signal, passesOthers: isDoubled(prefix, root) });
    },
    async *folders(prefix, { signal }) {
      checkFolder(prefix);
      yield* listFolders(connection, place, prefix, { signal });
    },
    async delete(keys, { signal }) {
      keys.forEach(checkRead);
      for (let at = 0; at < keys.length; at += KEYS_AT_ONCE) {
        await deleteTogether(keys.slice(at, at + KEYS_AT_ONCE), signal);
      }
    },
    lockOf: (key, { signal }) => locks.lockOf(key, signal),
    hasLocks: ({ signal }) => locks.hasLocks(signal),
    async *unfinished(prefix, { signal }) {
      checkPrefix(prefix);
      yield* listUnfinished(connection, place, prefix, signal);
    },
    abandon: (upload, { signal }) => abandonUpload(connection, place, upload, signal),
    inquire(folder, { signal }) {
      checkFolder(folder);
      return inquireS3(connection, place, folder, signal);
    },
    close: () => connection.close(),
  };
}

function attributesOf({ kmsKeyId }: S3StoreConfig, { encryption, tags, metadata }: PutOptions): S3Attributes {
  return {
    ...(encryption === undefined ? {} : { ServerSideEncryption: encryption }),
    // a key of KMS beside another encryption is refused by AWS
    ...(kmsKeyId === undefined || encryption !== 'aws:kms' ? {} : { SSEKMSKeyId: kmsKeyId }),
    ...(tags === undefined ? {} : { Tagging: tagging(tags) }),
    Metadata: { ...metadata, [PUT_ID]: randomUUID() },
  };
}

function tagging(tags: Readonly<Record<string, string>>): string {
  return Object.entries(tags)
    .map((pair) => pair.map(encodeURIComponent).join('='))
    .join('&');
}

async function* joined(first: readonly Uint8Array[], rest: AsyncIterable<Uint8Array>) {
  yield* first;
  yield* rest;
}
