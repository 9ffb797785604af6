import { Readable } from 'node:stream';
import type { GetObjectCommandOutput } from '@aws-sdk/client-s3';
import { resumingDownload, type DownloadAnswer } from './resuming-download.ts';
import { odd } from './s3-client.ts';
import type { S3Connection, S3Place } from './s3-client.ts';

/** First and last byte that are wanted, of the version with this tag only. */
interface Wanted {
  readonly first: number;
  readonly last: number;
  readonly etag?: string;
}

export interface S3Download {
  readonly body: AsyncIterable<Uint8Array>;
  /** As the answer had it. */
  readonly metadata: Readonly<Record<string, string>> | undefined;
}

/**
 * Asks for an object, and gives its body as `resumingDownload` does, of one version; its checksum is compared by the SDK.
 *
 * @param idleMs without a byte, after which a body has stalled
 * @throws BackupError `object-missing` and others at once
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
): Promise<S3Download> {
  const { signal, idleMs, range } = options;
  const begin = range?.offset ?? 0;
  const ask = (wanted?: Wanted) => open(connection, place, key, signal, wanted);
  const answer = await ask(range && { first: begin, last: begin + range.length - 1 });
  const etag = answer.ETag;
  const resume =
    etag &&
    (async (came: number, announced: number) =>
      answerOf(await ask({ first: begin + came, last: begin + announced - 1, etag })));
  const body = resumingDownload({
    what: `get ${place.named(key)}`,
    first: answerOf(answer),
    resume: resume || undefined,
    idleMs,
    signal,
  });
  return { body, metadata: answer.Metadata };
}

async function open(
  connection: S3Connection,
  place: S3Place,
  key: string,
  signal: AbortSignal,
  wanted?: Wanted,
): Promise<GetObjectCommandOutput> {
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
    answerOf(answer).discard();
    throw odd(what, 'the answer is not the range that was asked for');
  }
  return answer;
}

function answerOf({ ContentLength, Body }: GetObjectCommandOutput): DownloadAnswer {
  const body = Body instanceof Readable ? Body : undefined;
  // what breaks after the reader has left is of no interest
  body?.on('error', () => undefined);
  return { sizeBytes: ContentLength, body, discard: () => void body?.destroy() };
}
