import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GetObjectCommandOutput, ListObjectsV2CommandOutput } from '@aws-sdk/client-s3';
import { BackupError, isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { piecesOf, piecesOfSize } from '../streams/chunks.ts';
import { checkedBody, checkSize } from './body.ts';
import { checkFolder, checkKey, checkPrefix, compareKeys } from './keys.ts';
import type { ObjectStore, PutOptions, StoredObject } from './object-store.ts';
import { createS3Connection, S3_TIMEOUTS } from './s3-client.ts';
import type { S3Timeouts } from './s3-client.ts';
import { failureOf, isFailure } from './s3-errors.ts';
import { odd, partBytes, PART_BYTES, uploadParts } from './s3-upload.ts';
import type { S3Attributes } from './s3-upload.ts';
import type { S3StoreConfig } from './store-config.ts';

/** Metadata that tells our object from another's when the answer to a put was lost. */
const PUT_ID = 'walkeep-put';
const KEYS_AT_ONCE = 1000;
/** How often a body that breaks off is asked for again without a byte having come. */
const FRUITLESS_RESUMES = 4;

/**
 * A bucket, or what lies below a prefix in it, as an object store. Works with AWS and with servers that speak its
 * protocol; those with an endpoint of their own are asked by path style.
 *
 * - A put is one request up to 16 MiB, else a multipart upload with at most four parts in flight; it counts when the
 *   server's answer was read and makes sense. CRC32 checksums go along.
 * - That an object is absent is believed only when the server answered without any error; for `head`, whose answer has
 *   no text, a listing confirms it.
 * - A body that breaks off is resumed where it broke, of the same version of the object only.
 * - Everything has a limit in time (`S3Timeouts`).
 * - Keys that end in `/` (folder marks of consoles) are not listed.
 */
export function createS3Store(config: S3StoreConfig, timeouts: Partial<S3Timeouts> = {}): ObjectStore {
  const limits = { ...S3_TIMEOUTS, ...timeouts };
  const connection = createS3Connection(config, limits);
  const Bucket = config.bucket;
  const root = config.prefix === '' ? '' : `${config.prefix}/`;
  const target = (key: string) => ({ Bucket, Key: root + key });
  const named = (key: string) => `s3://${Bucket}/${root}${key}`;

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
      const head = await connection.call(`look at ${named(key)}`, { signal }, (client, sdk, send) =>
        client.send(new sdk.HeadObjectCommand(target(key)), send),
      );
      return head.Metadata?.[PUT_ID] === attributes.Metadata[PUT_ID];
    } catch {
      // the failure that made us look is the one to report
      signal.throwIfAborted();
      return false;
    }
  }

  async function putBody(key: string, body: AsyncGenerator<Uint8Array>, options: PutOptions) {
    const attributes = attributesOf(options);
    let sentBytes = 0;
    const sizeOfNext = () => {
      const size = partBytes(sentBytes, options.sizeBytes);
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

  /** @param from begins at its first byte, of the version of `etag` only */
  async function open(
    key: string,
    signal: AbortSignal,
    from?: { first: number; last: number; etag?: string },
  ) {
    const what = `get ${named(key)}`;
    const answer = await connection.call(what, { signal }, (client, sdk, send) =>
      client.send(
        new sdk.GetObjectCommand({
          ...target(key),
          ...(from === undefined
            ? { ChecksumMode: 'ENABLED' as const }
            : { Range: `bytes=${from.first}-${from.last}` }),
          ...(from?.etag === undefined ? {} : { IfMatch: from.etag }),
        }),
        send,
      ),
    );
    if (from !== undefined && answer.ContentRange?.startsWith(`bytes ${from.first}-`) !== true) {
      discard(answer);
      throw odd(what, 'the answer is not the range that was asked for');
    }
    return answer;
  }

  /** The bytes from `begin` on, as many as the first answer announced, asked for again where they break off. */
  async function* readBody(key: string, begin: number, first: GetObjectCommandOutput, signal: AbortSignal) {
    const what = `get ${named(key)}`;
    const announced = first.ContentLength;
    if (announced === undefined) throw odd(what, 'the answer does not say its length');
    const etag = first.ETag;
    let answer: GetObjectCommandOutput | undefined = first;
    let came = 0;
    for (let fruitless = 0; ; fruitless++) {
      try {
        if (answer === undefined) {
          // without its tag, another version could be joined to the beginning of this one
          if (etag === undefined) throw odd(what, `it broke off after ${came} of ${announced} bytes`);
          answer = await open(key, signal, { first: begin + came, last: begin + announced - 1, etag });
          if (answer.ContentLength !== announced - came)
            throw odd(what, 'it was resumed with another length');
        }
        for await (const piece of piecesOfAnswer(answer, limits.idleMs, signal)) {
          came += piece.length;
          if (came > announced)
            throw new BackupError(
              'object-damaged',
              `${what}: more came than the ${announced} bytes announced`,
            );
          fruitless = 0;
          yield piece;
        }
        if (came === announced) return;
        throw odd(what, `it ended after ${came} of ${announced} bytes`);
      } catch (error) {
        signal.throwIfAborted();
        if (isBackupError(error, 'already-exists')) throw odd(what, 'it was replaced while it was read');
        if (isChecksumMismatch(error))
          throw new BackupError(
            'object-damaged',
            `${named(key)} does not have the checksum it was stored with`,
          );
        if (isBackupError(error) && error.code !== 'store-unavailable') throw error;
        if (fruitless >= FRUITLESS_RESUMES || etag === undefined) {
          throw isBackupError(error)
            ? error
            : odd(what, `it broke off after ${came} of ${announced} bytes (${failureOf(error).code})`);
        }
        answer = undefined;
        await sleep(Math.random() * 100 * 2 ** fruitless, undefined, { signal });
      }
    }
  }

  /** The pages of a listing. @throws BackupError `store-unavailable` when it can't be read to its end */
  async function* pages(prefix: string, delimiter: string | undefined, signal: AbortSignal) {
    const what = `list ${named(prefix)}`;
    let token: string | undefined;
    for (;;) {
      const continued: { ContinuationToken?: string } =
        token === undefined ? {} : { ContinuationToken: token };
      const page: ListObjectsV2CommandOutput = await connection.call(what, { signal }, (client, sdk, send) =>
        client.send(
          new sdk.ListObjectsV2Command({
            Bucket,
            Prefix: root + prefix,
            ...(delimiter === undefined ? {} : { Delimiter: delimiter }),
            ...continued,
          }),
          send,
        ),
      );
      // an answer that was cut short looks like a short list otherwise
      if (page.IsTruncated === undefined) throw odd(what, 'the answer does not say whether it is complete');
      yield page;
      if (!page.IsTruncated) return;
      const next = page.NextContinuationToken;
      if (next === undefined || next === token)
        throw odd(what, 'the list goes on, but the answer does not say where');
      token = next;
    }
  }

  /** Keys are checked to come in order below the prefix, so that a page given twice is noticed. */
  function createOrderCheck(prefix: string) {
    let last: string | undefined;
    return (fullKey: string | undefined): string => {
      const inOrder = fullKey !== undefined && (last === undefined || compareKeys(last, fullKey) < 0);
      if (!inOrder || !fullKey.startsWith(root + prefix)) {
        throw odd(`list ${named(prefix)}`, 'the keys are not in order below the prefix');
      }
      last = fullKey;
      return fullKey.slice(root.length);
    };
  }

  async function* list(prefix: string, signal: AbortSignal): AsyncGenerator<StoredObject, void, void> {
    const inOrder = createOrderCheck(prefix);
    for await (const page of pages(prefix, undefined, signal)) {
      for (const object of page.Contents ?? []) {
        const key = inOrder(object.Key);
        if (key === '' || key.endsWith('/')) continue;
        yield { key, ...sizeAndTime(`list ${named(key)}`, object.Size, object.LastModified) };
      }
    }
  }

  async function head(key: string, signal: AbortSignal): Promise<StoredObject | undefined> {
    checkKey(key);
    const what = `look at ${named(key)}`;
    try {
      const answer = await connection.call(what, { signal }, (client, sdk, send) =>
        client.send(new sdk.HeadObjectCommand(target(key)), send),
      );
      return { key, ...sizeAndTime(what, answer.ContentLength, answer.LastModified) };
    } catch (error) {
      if (isFailure(error, 'NotFound', 'NoSuchKey')) return confirmAbsence(key, signal);
      throw error;
    }
  }

  /** Absence that a `HEAD` reported, asked again by a request whose errors have a name. */
  async function confirmAbsence(key: string, signal: AbortSignal): Promise<StoredObject | undefined> {
    for await (const object of list(key, signal)) return object.key === key ? object : undefined;
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
    features: { ifAbsent: true },
    async put(key, body, options) {
      checkKey(key);
      options.signal.throwIfAborted();
      if (body instanceof Uint8Array && body.length <= PART_BYTES) {
        checkSize(key, body.length, options.sizeBytes);
        return putAtOnce(key, body, options, attributesOf(options));
      }
      const sized = body instanceof Uint8Array ? { sizeBytes: body.length, ...options } : options;
      return putBody(key, checkedBody(key, body, sized), sized);
    },
    async get(key, { signal, range }) {
      checkKey(key);
      if (range?.length === 0) return (await head(key, signal)) && piecesOf();
      const wanted = range && { first: range.offset, last: range.offset + range.length - 1 };
      try {
        const answer = await open(key, signal, wanted);
        return readBody(key, range?.offset ?? 0, answer, signal);
      } catch (error) {
        if (isFailure(error, 'NoSuchKey')) return undefined;
        // the range begins behind the end
        if (isFailure(error, 'InvalidRange')) return piecesOf();
        throw error;
      }
    },
    head: (key, { signal }) => head(key, signal),
    async *list(prefix, { signal }) {
      checkPrefix(prefix);
      yield* list(prefix, signal);
    },
    async *folders(prefix, { signal }) {
      checkFolder(prefix);
      const inOrder = createOrderCheck(prefix);
      for await (const page of pages(prefix, '/', signal)) {
        for (const { Prefix } of page.CommonPrefixes ?? []) yield inOrder(Prefix);
      }
    },
    async delete(keys, { signal }) {
      keys.forEach(checkKey);
      for (let at = 0; at < keys.length; at += KEYS_AT_ONCE) {
        await deleteTogether(keys.slice(at, at + KEYS_AT_ONCE), signal);
      }
    },
    close: () => connection.close(),
  };
}

function attributesOf({ encryption, tags }: PutOptions): S3Attributes {
  return {
    ...(encryption === undefined ? {} : { ServerSideEncryption: encryption }),
    ...(tags === undefined ? {} : { Tagging: tagging(tags) }),
    Metadata: { [PUT_ID]: randomUUID() },
  };
}

function tagging(tags: Readonly<Record<string, string>>): string {
  return Object.entries(tags)
    .map((pair) => pair.map(encodeURIComponent).join('='))
    .join('&');
}

function sizeAndTime(what: string, sizeBytes: number | undefined, modifiedAt: Date | undefined) {
  if (sizeBytes === undefined || modifiedAt === undefined)
    throw odd(what, 'the answer lacks a size or a time');
  return { sizeBytes, modifiedAt };
}

async function* joined(first: readonly Uint8Array[], rest: AsyncIterable<Uint8Array>) {
  yield* first;
  yield* rest;
}

type Answer = Pick<GetObjectCommandOutput, 'Body'>;

/** The body of an answer; `TimeoutError` when nothing comes for a while, which the SDK does not notice. */
async function* piecesOfAnswer(
  answer: Answer,
  idleMs: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  const body = answer.Body;
  if (!(body instanceof Readable)) return;
  const idle = new AbortController();
  const onAbort = () => idle.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  // what breaks after the reader has left is of no interest
  body.on('error', () => undefined);
  const iterator: AsyncIterator<Uint8Array> = body[Symbol.asyncIterator]();
  try {
    for (;;) {
      const timer = setTimeout(
        () => idle.abort(Object.assign(new Error('idle'), { name: 'TimeoutError' })),
        idleMs,
      );
      const step = await unlessAborted(iterator.next(), idle.signal).finally(() => clearTimeout(timer));
      if (step.done === true) return;
      yield step.value;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    body.destroy();
  }
}

function discard(answer: Answer): void {
  if (answer.Body instanceof Readable) answer.Body.on('error', () => undefined).destroy();
}

/** The SDK checks the bytes against the checksum of the whole, and has no code for a difference. */
function isChecksumMismatch(error: unknown): boolean {
  return error instanceof Error && /checksum mismatch/i.test(error.message);
}
