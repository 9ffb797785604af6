import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GetObjectCommandOutput } from '@aws-sdk/client-s3';
import { BackupError, isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { odd } from './s3-client.ts';
import type { S3Connection, S3Place } from './s3-client.ts';
import { failureOf } from './s3-errors.ts';

/** How often a body that breaks off is asked for again without a byte having come. */
const FRUITLESS_RESUMES = 4;

/** First and last byte that are wanted, of the version with this tag only. */
interface Wanted {
  readonly first: number;
  readonly last: number;
  readonly etag?: string;
}

/**
 * Asks for an object, and gives its body: as many bytes as the answer announced, of one version. Where it breaks off or
 * stalls it is asked for again from there.
 *
 * @param idleMs without a byte, after which a body has stalled
 * @throws BackupError `object-missing` and others at once; while the body is read also `object-damaged` when its
 *   checksum is wrong
 */
export async function download(
  connection: S3Connection,
  place: S3Place,
  key: string,
  options: {
    readonly signal: AbortSignal;
    readonly idleMs: number;
    readonly range?: { readonly offset: number; readonly length: number };
  },
): Promise<AsyncIterable<Uint8Array>> {
  const { signal, idleMs, range } = options;
  const begin = range?.offset ?? 0;
  const what = `get ${place.named(key)}`;
  const ask = (wanted?: Wanted) => open(connection, place, key, signal, wanted);
  const answer = await ask(range && { first: begin, last: begin + range.length - 1 });
  return readBody(answer, { what, begin, ask, idleMs, signal });
}

async function open(
  connection: S3Connection,
  place: S3Place,
  key: string,
  signal: AbortSignal,
  wanted?: Wanted,
) {
  const what = `get ${place.named(key)}`;
  const answer = await connection.call(what, { signal }, (client, sdk, send) =>
    client.send(
      new sdk.GetObjectCommand({
        Bucket: place.Bucket,
        Key: place.root + key,
        ...(wanted === undefined
          ? { ChecksumMode: 'ENABLED' as const }
          : { Range: `bytes=${wanted.first}-${wanted.last}` }),
        ...(wanted?.etag === undefined ? {} : { IfMatch: wanted.etag }),
      }),
      send,
    ),
  );
  if (wanted !== undefined && answer.ContentRange?.startsWith(`bytes ${wanted.first}-`) !== true) {
    discard(answer);
    throw odd(what, 'the answer is not the range that was asked for');
  }
  return answer;
}

interface Download {
  readonly what: string;
  /** The place of the first byte in the object. */
  readonly begin: number;
  readonly ask: (wanted: Wanted) => Promise<GetObjectCommandOutput>;
  readonly idleMs: number;
  readonly signal: AbortSignal;
}

async function* readBody(
  first: GetObjectCommandOutput,
  { what, begin, ask, idleMs, signal }: Download,
): AsyncGenerator<Uint8Array, void, void> {
  const announced = first.ContentLength;
  if (announced === undefined) throw odd(what, 'the answer does not say its length');
  const etag = first.ETag;
  let answer: GetObjectCommandOutput | undefined = first;
  let came = 0;
  for (let fruitless = 0; ; fruitless++) {
    try {
      answer ??= await resume(
        announced - came,
        { first: begin + came, last: begin + announced - 1, etag },
        ask,
        what,
      );
      for await (const piece of piecesOfAnswer(answer, idleMs, signal)) {
        came += piece.length;
        if (came > announced)
          throw new BackupError('object-damaged', `${what}: more came than ${announced} bytes`);
        fruitless = 0;
        yield piece;
      }
      if (came === announced) return;
      throw odd(what, `it ended after ${came} of ${announced} bytes`);
    } catch (error) {
      signal.throwIfAborted();
      const failure = toBodyError(error, what, `${came} of ${announced} bytes`);
      // without a tag, another version could be joined to the beginning of this one
      if (failure.code !== 'store-unavailable' || fruitless >= FRUITLESS_RESUMES || etag === undefined)
        throw failure;
      answer = undefined;
      await sleep(Math.random() * 100 * 2 ** fruitless, undefined, { signal });
    }
  }
}

async function resume(
  expectedBytes: number,
  { etag, ...range }: { first: number; last: number; etag: string | undefined },
  ask: Download['ask'],
  what: string,
): Promise<GetObjectCommandOutput> {
  const answer = await ask({ ...range, ...(etag === undefined ? {} : { etag }) });
  if (answer.ContentLength === expectedBytes) return answer;
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
  if (isChecksumMismatch(error)) {
    return new BackupError(
      'object-damaged',
      `${what}: the bytes do not have the checksum they were stored with`,
    );
  }
  return odd(what, `it broke off after ${came} (${failureOf(error).code})`);
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
