import { createHash } from 'node:crypto';
import type { Hash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobDownloadResponseParsed } from '@azure/storage-blob';
import { BackupError, isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { odd } from './azure-client.ts';
import type { AzureConnection, AzurePlace } from './azure-client.ts';
import { failureOf } from './azure-errors.ts';

/** How often a body that breaks off is asked for again without a byte having come. */
const FRUITLESS_RESUMES = 4;

/** First byte and number of bytes that are wanted, of the version with this tag only. */
interface Wanted {
  readonly offset: number;
  readonly length: number;
  readonly etag?: string;
}

/**
 * Asks for an object, and gives its body: as many bytes as the answer announced, of one version. Where it breaks off or
 * stalls it is asked for again from there. The whole of an object is compared with the MD5 that the store has of it,
 * where it has one.
 *
 * @param idleMs without a byte, after which a body has stalled
 * @throws BackupError `object-missing` and others at once; while the body is read also `object-damaged` when its
 *   checksum is wrong
 */
export async function download(
  connection: AzureConnection,
  place: AzurePlace,
  key: string,
  options: {
    readonly signal: AbortSignal;
    readonly idleMs: number;
    readonly range?: { readonly offset: number; readonly length: number };
  },
): Promise<AsyncIterable<Uint8Array>> {
  const { signal, idleMs, range } = options;
  const what = `get ${place.named(key)}`;
  const ask = (wanted?: Wanted) => open(connection, what, place.root + key, signal, wanted);
  const answer = await ask(range);
  return readBody(answer, {
    what,
    begin: range?.offset ?? 0,
    isWhole: range === undefined,
    ask,
    idleMs,
    signal,
  });
}

async function open(
  connection: AzureConnection,
  what: string,
  name: string,
  signal: AbortSignal,
  wanted?: Wanted,
): Promise<BlobDownloadResponseParsed> {
  const answer = await connection.call(what, { signal }, (container, options) =>
    container.getBlobClient(name).download(wanted?.offset ?? 0, wanted?.length, {
      ...options,
      conditions: wanted?.etag === undefined ? {} : { ifMatch: wanted.etag },
      // it is resumed here, where limits and the signal hold
      maxRetryRequests: 0,
    }),
  );
  if (wanted !== undefined && answer.contentRange?.startsWith(`bytes ${wanted.offset}-`) !== true) {
    discard(answer);
    throw odd(what, 'the answer is not the range that was asked for');
  }
  return answer;
}

interface Download {
  readonly what: string;
  /** The place of the first byte in the object. */
  readonly begin: number;
  readonly isWhole: boolean;
  readonly ask: (wanted: Wanted) => Promise<BlobDownloadResponseParsed>;
  readonly idleMs: number;
  readonly signal: AbortSignal;
}

async function* readBody(
  first: BlobDownloadResponseParsed,
  { what, begin, isWhole, ask, idleMs, signal }: Download,
): AsyncGenerator<Uint8Array, void, void> {
  const { contentLength: announced, etag } = first;
  if (announced === undefined || etag === undefined) {
    discard(first);
    throw odd(what, 'the answer does not say its length or version');
  }
  const checksum = isWhole && first.contentMD5 !== undefined ? createHash('md5') : undefined;
  let answer: BlobDownloadResponseParsed | undefined = first;
  let came = 0;
  for (let fruitless = 0; ; fruitless++) {
    try {
      answer ??= await resume({ offset: begin + came, length: announced - came, etag }, ask, what);
      for await (const piece of piecesOfAnswer(answer, idleMs, signal)) {
        came += piece.length;
        if (came > announced)
          throw new BackupError('object-damaged', `${what}: more came than ${announced} bytes`);
        fruitless = 0;
        checksum?.update(piece);
        yield piece;
      }
      if (came !== announced) throw odd(what, `it ended after ${came} of ${announced} bytes`);
      compareChecksum(what, checksum, first.contentMD5);
      return;
    } catch (error) {
      signal.throwIfAborted();
      const failure = toBodyError(error, what, `${came} of ${announced} bytes`);
      if (failure.code !== 'store-unavailable' || fruitless >= FRUITLESS_RESUMES) throw failure;
      answer = undefined;
      await sleep(Math.random() * 100 * 2 ** fruitless, undefined, { signal });
    }
  }
}

function compareChecksum(what: string, computed: Hash | undefined, stored: Uint8Array | undefined): void {
  if (computed === undefined || stored === undefined || computed.digest().equals(stored)) return;
  throw new BackupError(
    'object-damaged',
    `${what}: the bytes do not have the checksum they were stored with`,
  );
}

async function resume(
  wanted: Wanted,
  ask: Download['ask'],
  what: string,
): Promise<BlobDownloadResponseParsed> {
  const answer = await ask(wanted);
  if (answer.contentLength === wanted.length) return answer;
  discard(answer);
  throw odd(what, 'it was resumed with another length');
}

function toBodyError(error: unknown, what: string, came: string): BackupError {
  if (isBackupError(error, 'already-exists', 'object-missing')) {
    return new BackupError('object-missing', `${what} failed: it was replaced or removed while it was read`, {
      hint: 'whoever writes to this repository beside walkeep has to stop',
    });
  }
  if (isBackupError(error)) return error;
  return odd(what, `it broke off after ${came} (${failureOf(error).code})`);
}

type Answer = Pick<BlobDownloadResponseParsed, 'readableStreamBody'>;

/** The body of an answer; `TimeoutError` when nothing comes for a while. */
async function* piecesOfAnswer(
  answer: Answer,
  idleMs: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  const body = answer.readableStreamBody;
  if (body === undefined) return;
  const idle = new AbortController();
  const onAbort = () => idle.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  // what breaks after the reader has left is of no interest
  body.on('error', () => undefined);
  const iterator: AsyncIterator<string | Buffer> = body[Symbol.asyncIterator]();
  try {
    for (;;) {
      const timer = setTimeout(
        () => idle.abort(Object.assign(new Error('idle'), { name: 'TimeoutError' })),
        idleMs,
      );
      const step = await unlessAborted(iterator.next(), idle.signal).finally(() => clearTimeout(timer));
      if (step.done === true) return;
      yield typeof step.value === 'string' ? Buffer.from(step.value) : step.value;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    discard(answer);
  }
}

function discard({ readableStreamBody: body }: Answer): void {
  if (body !== undefined && 'destroy' in body && typeof body.destroy === 'function') {
    body.on('error', () => undefined);
    body.destroy();
  }
}
