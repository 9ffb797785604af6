import type { UnfinishedUpload } from './object-store.ts';
import { odd, type S3Connection, type S3Place } from './s3-client.ts';
import { isFailure } from './s3-errors.ts';

/** The multipart uploads below `prefix` that were begun and not ended: they are in no listing, and cost like objects. */
export async function* listUnfinished(
  connection: S3Connection,
  { Bucket, root, named }: S3Place,
  prefix: string,
  signal: AbortSignal,
): AsyncGenerator<UnfinishedUpload, void, void> {
  const what = `list the unfinished uploads below ${named(prefix)}`;
  let from: { KeyMarker?: string; UploadIdMarker?: string } = {};
  for (;;) {
    const page = await connection.call(what, { signal }, (client, sdk, send) =>
      client.send(new sdk.ListMultipartUploadsCommand({ Bucket, Prefix: root + prefix, ...from }), send),
    );
    for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
      if (Key === undefined || UploadId === undefined || Initiated === undefined)
        throw odd(what, 'the answer lacks a key, an id or a time');
      // some servers ignore the prefix
      if (Key.startsWith(root + prefix))
        yield { key: Key.slice(root.length), id: UploadId, startedAt: Initiated };
    }
    if (page.IsTruncated !== true) return;
    const { NextKeyMarker, NextUploadIdMarker } = page;
    if (
      NextKeyMarker === undefined ||
      (NextKeyMarker === from.KeyMarker && NextUploadIdMarker === from.UploadIdMarker)
    )
      throw odd(what, 'the list goes on, but the answer does not say where');
    from = {
      KeyMarker: NextKeyMarker,
      ...(NextUploadIdMarker === undefined ? {} : { UploadIdMarker: NextUploadIdMarker }),
    };
  }
}

/** Gives an upload up. One that is gone already is a success. */
export async function abandonUpload(
  connection: S3Connection,
  { Bucket, root, named }: S3Place,
  { key, id }: UnfinishedUpload,
  signal: AbortSignal,
): Promise<void> {
  await connection
    .call(`give up the upload of ${named(key)}`, { signal }, (client, sdk, send) =>
      client.send(new sdk.AbortMultipartUploadCommand({ Bucket, Key: root + key, UploadId: id }), send),
    )
    .catch((error: unknown) => {
      if (!isFailure(error, 'NoSuchUpload')) throw error;
    });
}
