import type { CompletedPart } from '@aws-sdk/client-s3';
import { isBackupError } from '../core/errors.ts';
import { abortable } from '../streams/abortable.ts';
import { release } from '../streams/chunks.ts';
import type { PutOptions } from './object-store.ts';
import { odd } from './s3-client.ts';
import type { S3Connection } from './s3-client.ts';

/** Where an object goes. */
export interface S3Target {
  readonly Bucket: string;
  readonly Key: string;
}

/** What a new object is given beside its bytes. */
export interface S3Attributes {
  readonly ServerSideEncryption?: 'AES256' | 'aws:kms';
  readonly SSEKMSKeyId?: string;
  readonly Tagging?: string;
  readonly Metadata: Record<string, string>;
}

const MiB = 1024 * 1024;
/** Bodies up to here go in one PUT; beyond, this is the least size of a part. */
export const PART_BYTES = 16 * MiB;
/** Of a body whose size can be foreseen: two that are on their way take no more memory than a larger one, and less time. */
const SMALLER_PART_BYTES = 8 * MiB;
/** While these are sent one more is gathered: a backup has several uploads side by side, all of them in memory. */
const PARTS_AT_ONCE = 2;
const BYTES_AT_ONCE = 24 * MiB;
/** Bodies of unknown size have parts of the least size up to here: no part of a backup is larger. */
const EQUAL_UP_TO = 100 * 1024 * MiB;
const LONGEST_PART_LIST = 10_000;
/** What was expected has this many parts at most; those behind it grow. */
const EXPECTED_PARTS = 9000;
const LARGEST_PART_BYTES = 5 * 1024 * MiB;
const CLEAN_UP_MS = 15_000;
/** An upload whose id never came costs until the store's own rule removes it; a busy host is late by a second. */
const GRACE_MS = 3000;

/**
 * The size of the next part. S3 takes 10 000 parts and 5 TiB: of a body of unknown size the parts grow with what has
 * been sent (beyond 100 GiB), so that all fit. Of a known size all parts are equal, which some stores demand, and so they
 * are of an expected one, as far as it goes.
 */
export function partBytes(
  sentBytes: number,
  { sizeBytes, expectedBytes }: Pick<PutOptions, 'sizeBytes' | 'expectedBytes'> = {},
): number {
  if (sizeBytes === undefined && expectedBytes !== undefined) {
    const equal = Math.max(SMALLER_PART_BYTES, wholeMiB(expectedBytes / EXPECTED_PARTS));
    const grown = sentBytes < equal * EXPECTED_PARTS ? 0 : wholeMiB(sentBytes / 150);
    return Math.min(LARGEST_PART_BYTES, Math.max(equal, grown));
  }
  const grown = sentBytes < EQUAL_UP_TO ? 0 : sentBytes / 860;
  const needed = sizeBytes === undefined ? grown : sizeBytes / (LONGEST_PART_LIST - 500);
  return Math.min(LARGEST_PART_BYTES, Math.max(PART_BYTES, wholeMiB(needed)));
}

const wholeMiB = (bytes: number) => Math.ceil(bytes / MiB) * MiB;

/**
 * Uploads `parts` as one object, a few at a time. When anything fails, the upload is removed at the server, and
 * nothing is stored.
 *
 * @param confirm whether the object that is at the target is this very upload; asked when the answer to its completion
 *   was lost or odd
 */
export async function uploadParts(
  connection: S3Connection,
  target: S3Target,
  parts: AsyncIterable<Uint8Array>,
  options: PutOptions & { readonly attributes: S3Attributes; readonly confirm: () => Promise<boolean> },
): Promise<{ sizeBytes: number }> {
  const what = `put s3://${target.Bucket}/${target.Key}`;
  const { signal } = options;
  const created = await createUpload(connection, target, what, options);
  if (created.UploadId === undefined) throw odd(what, 'the answer has no upload id');
  const upload = { ...target, UploadId: created.UploadId };
  try {
    signal.throwIfAborted();
    const sent = await sendParts(connection, upload, parts, signal);
    signal.throwIfAborted();
    await complete(connection, upload, sent.parts, options, what);
    return { sizeBytes: sent.sizeBytes };
  } catch (error) {
    await removeUpload(connection, upload, what);
    throw error;
  }
}

/** An upload whose id is not known can't be removed: after an abort, the answer is waited for a little. */
async function createUpload(
  connection: S3Connection,
  target: S3Target,
  what: string,
  { signal, attributes }: { readonly signal: AbortSignal; readonly attributes: S3Attributes },
) {
  const late = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const onAbort = () => {
    timer = setTimeout(() => late.abort(signal.reason), GRACE_MS);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    // the checksum has to be announced here: servers refuse it at the end otherwise
    return await connection.call(what, { signal: late.signal }, (client, sdk, send) =>
      client.send(
        new sdk.CreateMultipartUploadCommand({ ...target, ...attributes, ChecksumAlgorithm: 'CRC32' }),
        send,
      ),
    );
  } finally {
    signal.removeEventListener('abort', onAbort);
    clearTimeout(timer);
  }
}

type Upload = S3Target & { readonly UploadId: string };

async function sendParts(
  connection: S3Connection,
  upload: Upload,
  parts: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<{ parts: CompletedPart[]; sizeBytes: number }> {
  // one that fails stops the others
  const stop = new AbortController();
  const onAbort = () => stop.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  const inFlight = new Set<Promise<void>>();
  const done: CompletedPart[] = [];
  let flyingBytes = 0;
  let sizeBytes = 0;
  let failure: { error: unknown } | undefined;

  const begin = (number: number, body: Uint8Array) => {
    const sentBytes = body.length;
    flyingBytes += sentBytes;
    const sending = sendPart(connection, upload, number, body, stop.signal)
      .then((part) => {
        done.push(part);
        // Only now: of a call that failed, the socket may still be sending.
        release(body);
      })
      .catch((error: unknown) => {
        failure ??= { error };
        stop.abort(error);
      })
      .finally(() => {
        flyingBytes -= sentBytes;
        inFlight.delete(sending);
      });
    inFlight.add(sending);
  };

  try {
    let number = 0;
    // a failure also ends the wait for a source that is slow
    for await (const body of abortable(parts, stop.signal)) {
      while (
        inFlight.size >= PARTS_AT_ONCE ||
        (inFlight.size > 0 && flyingBytes + body.length > BYTES_AT_ONCE)
      ) {
        await Promise.race(inFlight);
      }
      stop.signal.throwIfAborted();
      begin(++number, body);
      sizeBytes += body.length;
    }
    await Promise.all(inFlight);
  } finally {
    // a part that is still on its way would outlive the removal of its upload
    stop.abort(signal.reason);
    await Promise.all(inFlight);
    signal.removeEventListener('abort', onAbort);
  }
  if (failure) throw failure.error;
  return { parts: done.toSorted((a, b) => (a.PartNumber ?? 0) - (b.PartNumber ?? 0)), sizeBytes };
}

async function sendPart(
  connection: S3Connection,
  upload: Upload,
  number: number,
  body: Uint8Array,
  signal: AbortSignal,
): Promise<CompletedPart> {
  const what = `put part ${number} of s3://${upload.Bucket}/${upload.Key}`;
  const answer = await connection.call(what, { signal, sendsBytes: body.length }, (client, sdk, send) =>
    client.send(
      new sdk.UploadPartCommand({
        ...upload,
        PartNumber: number,
        Body: body,
        ContentLength: body.length,
        ChecksumAlgorithm: 'CRC32',
      }),
      send,
    ),
  );
  if (answer.ETag === undefined) throw odd(what, 'the answer has no ETag');
  const { ETag, ChecksumCRC32 } = answer;
  return { PartNumber: number, ETag, ...(ChecksumCRC32 === undefined ? {} : { ChecksumCRC32 }) };
}

async function complete(
  connection: S3Connection,
  upload: Upload,
  parts: CompletedPart[],
  options: PutOptions & { readonly confirm: () => Promise<boolean> },
  what: string,
): Promise<void> {
  try {
    const answer = await connection.call(
      what,
      { signal: options.signal, completes: true },
      (client, sdk, send) =>
        client.send(
          new sdk.CompleteMultipartUploadCommand({
            ...upload,
            MultipartUpload: { Parts: parts },
            ...(options.ifAbsent === true ? { IfNoneMatch: '*' } : {}),
          }),
          send,
        ),
    );
    if (answer.ETag === undefined) throw odd(what, 'the answer to its completion has no ETag');
  } catch (error) {
    if (options.signal.aborted) throw error;
    // a completion that was carried out is refused or unknown the second time, and its first answer may be lost
    if (isBackupError(error) && !isBackupError(error, 'access-denied') && (await options.confirm())) return;
    throw error;
  }
}

async function removeUpload(connection: S3Connection, upload: Upload, what: string): Promise<void> {
  // the caller's signal may be the reason why this is needed
  const signal = AbortSignal.timeout(CLEAN_UP_MS);
  await connection
    .call(`remove the upload of ${what}`, { signal }, (client, sdk, send) =>
      client.send(new sdk.AbortMultipartUploadCommand(upload), send),
    )
    // the failure that led here is the one to report; the store's own rule for unfinished uploads takes the rest
    .catch(() => undefined);
}
