import { createHash } from 'node:crypto';
import type { BlobDownloadResponseParsed } from '@azure/storage-blob';
import { odd } from './azure-client.ts';
import type { AzureConnection, AzurePlace } from './azure-client.ts';
import { failureOf } from './azure-errors.ts';
import { resumingDownload, type BodyChecksum, type DownloadAnswer } from './resuming-download.ts';

/** First byte and number of bytes that are wanted, of the version with this tag only. */
interface Wanted {
  readonly offset: number;
  readonly length: number;
  readonly etag?: string;
}

export interface AzureDownload {
  readonly body: AsyncIterable<Uint8Array>;
  /** As the answer had it. */
  readonly metadata: Readonly<Record<string, string>> | undefined;
}

/**
 * Asks for an object, and gives its body as `resumingDownload` does, of one version. The whole of an object is compared
 * with the MD5 that the store has of it, where it has one.
 *
 * @param idleMs without a byte, after which a body has stalled
 * @throws BackupError `object-missing` and others at once
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
): Promise<AzureDownload> {
  const { signal, idleMs, range } = options;
  const begin = range?.offset ?? 0;
  const what = `get ${place.named(key)}`;
  const ask = (wanted?: Wanted) => open(connection, what, place.root + key, signal, wanted);
  const answer = await ask(range);
  const { etag, contentMD5 } = answer;
  if (etag === undefined) {
    answerOf(answer).discard();
    throw odd(what, 'the answer does not say its version');
  }
  const body = resumingDownload({
    what,
    first: answerOf(answer),
    resume: async (came, announced) =>
      answerOf(await ask({ offset: begin + came, length: announced - came, etag })),
    checksum: range === undefined && contentMD5 !== undefined ? md5(contentMD5) : undefined,
    nameOf: (error) => failureOf(error).code,
    idleMs,
    signal,
  });
  return { body, metadata: answer.metadata };
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
    answerOf(answer).discard();
    throw odd(what, 'the answer is not the range that was asked for');
  }
  return answer;
}

function md5(expected: Uint8Array): BodyChecksum {
  const hash = createHash('md5');
  return {
    update: (piece) => void hash.update(piece),
    isRight: () => hash.digest().equals(expected),
  };
}

function answerOf({
  contentLength,
  readableStreamBody: body,
}: Pick<BlobDownloadResponseParsed, 'contentLength' | 'readableStreamBody'>): DownloadAnswer {
  // what breaks after the reader has left is of no interest
  body?.on('error', () => undefined);
  return {
    sizeBytes: contentLength,
    body,
    discard() {
      if (body !== undefined && 'destroy' in body && typeof body.destroy === 'function') body.destroy();
    },
  };
}
