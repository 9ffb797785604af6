import { odd } from './gcs-client.ts';
import type { GcsConnection, GcsPlace } from './gcs-client.ts';
import { crc32c, crc32cText } from './gcs-crc32c.ts';
import type { HttpAnswer } from './gcs-http.ts';
import { resumingDownload, type BodyChecksum, type DownloadAnswer } from './resuming-download.ts';

/** First and last byte that are wanted, of this generation only. */
interface Wanted {
  readonly first: number;
  readonly last: number;
  readonly generation?: string;
}

export interface GcsDownload {
  readonly body: AsyncIterable<Uint8Array>;
  /** The version whose bytes they are; an emulator may not say it. */
  readonly generation: string | undefined;
}

/**
 * Asks for an object, and gives its body as `resumingDownload` does, of one generation. A whole object is compared with
 * the checksum that the store keeps of it.
 *
 * @param idleMs without a byte, after which a body has stalled
 * @returns `undefined` when the range begins behind the end
 * @throws BackupError `object-missing`, `bucket-missing` and others at once
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
): Promise<GcsDownload | undefined> {
  const { signal, idleMs, range } = options;
  const begin = range?.offset ?? 0;
  const ask = (wanted?: Wanted) => open(connection, place, key, signal, wanted);
  const answer = await ask(range && { first: begin, last: begin + range.length - 1 });
  if (answer.status === 416) {
    answer.body.destroy();
    return undefined;
  }
  const generation = headerOf(answer, 'x-goog-generation');
  const expected = range === undefined ? checksumOf(answer) : undefined;
  const body = resumingDownload({
    what: `get ${place.named(key)}`,
    first: answerOf(answer),
    resume:
      generation === undefined
        ? undefined
        : async (came, announced) =>
            answerOf(await ask({ first: begin + came, last: begin + announced - 1, generation })),
    checksum: expected === undefined ? undefined : comparison(expected),
    idleMs,
    signal,
  });
  return { body, generation };
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

function comparison(expected: string): BodyChecksum {
  let checksum = 0;
  return {
    update: (piece) => void (checksum = crc32c(piece, checksum)),
    isRight: () => crc32cText(checksum) === expected,
  };
}

function answerOf(answer: HttpAnswer): DownloadAnswer {
  const length = headerOf(answer, 'content-length');
  const isLength = answer.status !== 416 && length !== undefined && /^\d{1,15}$/.test(length);
  return {
    sizeBytes: isLength ? Number(length) : undefined,
    body: answer.body,
    discard: () => void answer.body.destroy(),
  };
}

function headerOf({ headers }: HttpAnswer, name: string): string | undefined {
  const value = headers[name];
  return typeof value === 'string' ? value : undefined;
}

/** `x-goog-hash: crc32c=n03x6A==,md5=…`, of the stored bytes. An emulator may leave it out. */
function checksumOf(answer: HttpAnswer): string | undefined {
  return /(?:^|,)\s*crc32c=([^,]+)/.exec(headerOf(answer, 'x-goog-hash') ?? '')?.[1];
}
