import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { odd } from './gcs-client.ts';
import type { GcsConnection, GcsPlace } from './gcs-client.ts';
import { crc32c, crc32cText } from './gcs-crc32c.ts';
import type { HttpAnswer } from './gcs-http.ts';
import { failureOf } from './s3-errors.ts';

/** How often a body that breaks off is asked for again without a byte having come. */
const FRUITLESS_RESUMES = 4;

/** First and last byte that are wanted, of this generation only. */
interface Wanted {
  readonly first: number;
  readonly last: number;
  readonly generation?: string;
}

/**
 * Asks for an object, and gives its body: as many bytes as the answer announced, of one generation. Where it breaks off
 * or stalls it is asked for again from there. A whole object is compared with the checksum that the store keeps of it.
 *
 * @param idleMs without a byte, after which a body has stalled
 * @returns `undefined` when the range begins behind the end
 * @throws BackupError `object-missing`, `bucket-missing` and others at once; while the body is read also `object-damaged`
 */
export async function download(
  connection: GcsConnection,
  place: GcsPlace,
  key: string,
  options: {
    readonly signal: AbortSignal;
    readonly idleMs: number;
    readonly range?: { readonly offset: number; readonly length: number };
  },
): Promise<AsyncIterable<Uint8Array> | undefined> {
  const { signal, idleMs, range } = options;
  const begin = range?.offset ?? 0;
  const what = `get ${place.named(key)}`;
  const ask = (wanted?: Wanted) => open(connection, place, key, signal, wanted);
  const answer = await ask(range && { first: begin, last: begin + range.length - 1 });
  if (answer.status === 416) {
    answer.body.destroy();
    return undefined;
  }
  return readBody(answer, { what, begin, ask, idleMs, signal, whole: range === undefined });
}

async function open(
  connection: GcsConnection,
  { bucket, root, named }: GcsPlace,
  key: string,
  signal: AbortSignal,
  wanted?: Wanted,
): Promise<HttpAnswer> {
  const what = `get ${named(key)}`;
  const answer = await connection.open(what, {
    method: 'GET',
    path: `/storage/v1/b/${encodeURIComponent(bucket)}/o/${encodeURIComponent(root + key)}`,
    query: { alt: 'media', generation: wanted?.generation },
    headers: {
      // the bytes as they are stored: what another tool labelled as gzip is not unpacked on the way
      'accept-encoding': 'gzip',
      'cache-control': 'no-store',
      ...(wanted === undefined ? {} : { range: `bytes=${wanted.first}-${wanted.last}` }),
    },
    accepts: [416],
    signal,
  });
  const isRange = answer.headers['content-range']?.startsWith(`bytes ${wanted?.first}-`) === true;
  if (wanted !== undefined && answer.status !== 416 && !isRange) {
    answer.body.destroy();
    throw odd(what, 'the answer is not the range that was asked for');
  }
  return answer;
}

interface Download {
  readonly what: string;
  /** The place of the first byte in the object. */
  readonly begin: number;
  readonly ask: (wanted: Wanted) => Promise<HttpAnswer>;
  readonly idleMs: number;
  readonly signal: AbortSignal;
  readonly whole: boolean;
}

async function* readBody(
  first: HttpAnswer,
  { what, begin, ask, idleMs, signal, whole }: Download,
): AsyncGenerator<Uint8Array, void, void> {
  const announced = lengthOf(first);
  if (announced === undefined) {
    first.body.destroy();
    throw odd(what, 'the answer does not say its length');
  }
  const generation = headerOf(first, 'x-goog-generation');
  const expected = whole ? checksumOf(first) : undefined;
  let answer: HttpAnswer | undefined = first;
  let came = 0;
  let checksum = 0;
  for (let fruitless = 0; ; fruitless++) {
    try {
      answer ??= await resume(
        announced - came,
        {
          first: begin + came,
          last: begin + announced - 1,
          ...(generation === undefined ? {} : { generation }),
        },
        ask,
        what,
      );
      for await (const piece of piecesOfAnswer(answer, idleMs, signal)) {
        came += piece.length;
        if (came > announced)
          throw new BackupError('object-damaged', `${what}: more came than ${announced} bytes`);
        if (expected !== undefined) checksum = crc32c(piece, checksum);
        fruitless = 0;
        // the last bytes are given only when all are known to be right
        if (came === announced) checkChecksum(what, expected, checksum);
        yield piece;
      }
      if (came === announced) return checkChecksum(what, expected, checksum);
      throw odd(what, `it ended after ${came} of ${announced} bytes`);
    } catch (error) {
      signal.throwIfAborted();
      const failure = toBodyError(error, what, `${came} of ${announced} bytes`);
      // without a generation, another version could be joined to the beginning of this one
      if (failure.code !== 'store-unavailable' || fruitless >= FRUITLESS_RESUMES || generation === undefined)
        throw failure;
      answer = undefined;
      await sleep(Math.random() * 100 * 2 ** fruitless, undefined, { signal });
    }
  }
}

async function resume(
  expectedBytes: number,
  wanted: Wanted,
  ask: Download['ask'],
  what: string,
): Promise<HttpAnswer> {
  const answer = await ask(wanted);
  if (answer.status !== 416 && lengthOf(answer) === expectedBytes) return answer;
  answer.body.destroy();
  throw odd(what, 'it was resumed with another length');
}

function toBodyError(error: unknown, what: string, came: string): BackupError {
  if (isBackupError(error, 'object-missing', 'bucket-missing')) {
    return new BackupError('object-missing', `${what} failed: it was replaced or removed while it was read`, {
      hint: 'whoever writes to this repository beside walkeep has to stop',
    });
  }
  if (isBackupError(error)) return error;
  return odd(what, `it broke off after ${came} (${failureOf(error).code})`);
}

function checkChecksum(what: string, expected: string | undefined, checksum: number): void {
  if (expected === undefined || expected === crc32cText(checksum)) return;
  throw new BackupError(
    'object-damaged',
    `${what}: the bytes do not have the checksum they were stored with`,
  );
}

/** The body of an answer; `TimeoutError` when nothing comes for a while. */
async function* piecesOfAnswer(
  { body }: HttpAnswer,
  idleMs: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  const idle = new AbortController();
  const onAbort = () => idle.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
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

function headerOf({ headers }: HttpAnswer, name: string): string | undefined {
  const value = headers[name];
  return typeof value === 'string' ? value : undefined;
}

function lengthOf(answer: HttpAnswer): number | undefined {
  const text = headerOf(answer, 'content-length');
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** `x-goog-hash: crc32c=n03x6A==,md5=…`, of the stored bytes. An emulator may leave it out. */
function checksumOf(answer: HttpAnswer): string | undefined {
  return /(?:^|,)\s*crc32c=([^,]+)/.exec(headerOf(answer, 'x-goog-hash') ?? '')?.[1];
}
