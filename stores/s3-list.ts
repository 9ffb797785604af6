import type { ListObjectsV2CommandOutput } from '@aws-sdk/client-s3';
import { compareKeys } from './keys.ts';
import type { StoredObject } from './object-store.ts';
import { odd } from './s3-client.ts';
import type { S3Connection, S3Place } from './s3-client.ts';

interface ListOptions {
  readonly signal: AbortSignal;
  /** Entries of a page, where fewer than the store's 1000 will do. */
  readonly pageKeys?: number;
  /** Pass over keys that do not begin with the prefix, instead of taking the answer for nonsense. */
  readonly passesOthers?: boolean;
}

/**
 * The objects below `prefix`, without those whose keys end in `/`.
 *
 * @throws BackupError `store-unavailable` when the list can't be read to its end or makes no sense
 */
export async function* listObjects(
  connection: S3Connection,
  place: S3Place,
  prefix: string,
  options: ListOptions,
): AsyncGenerator<StoredObject, void, void> {
  const inOrder = createOrderCheck(place, prefix);
  for await (const page of pages(connection, place, { Prefix: place.root + prefix }, options)) {
    for (const object of page.Contents ?? []) {
      if (options.passesOthers === true && object.Key?.startsWith(place.root + prefix) === false) continue;
      const key = inOrder(object.Key);
      if (key === '' || key.endsWith('/')) continue;
      yield { key, ...sizeAndTime(`list ${place.named(key)}`, object.Size, object.LastModified) };
    }
  }
}

/** The folders directly below `prefix`. @throws as `listObjects` */
export async function* listFolders(
  connection: S3Connection,
  place: S3Place,
  prefix: string,
  options: ListOptions,
): AsyncGenerator<string, void, void> {
  const inOrder = createOrderCheck(place, prefix);
  for await (const page of pages(
    connection,
    place,
    { Prefix: place.root + prefix, Delimiter: '/' },
    options,
  )) {
    for (const { Prefix } of page.CommonPrefixes ?? []) yield inOrder(Prefix);
  }
}

async function* pages(
  connection: S3Connection,
  { Bucket }: S3Place,
  wanted: { readonly Prefix: string; readonly Delimiter?: string },
  { signal, pageKeys }: ListOptions,
): AsyncGenerator<ListObjectsV2CommandOutput, void, void> {
  const what = `list s3://${Bucket}/${wanted.Prefix}`;
  const limited = pageKeys === undefined ? {} : { MaxKeys: pageKeys };
  let token: string | undefined;
  for (;;) {
    const from: { ContinuationToken?: string } = token === undefined ? {} : { ContinuationToken: token };
    const page: ListObjectsV2CommandOutput = await connection.call(what, { signal }, (client, sdk, send) =>
      client.send(new sdk.ListObjectsV2Command({ Bucket, ...wanted, ...limited, ...from }), send),
    );
    // an answer that was cut short looks like a short list otherwise
    if (page.IsTruncated === undefined) throw odd(what, 'the answer does not say whether it is complete');
    yield page;
    if (!page.IsTruncated) return;
    const next = page.NextContinuationToken;
    if (next === undefined || next === token) {
      throw odd(what, 'the list goes on, but the answer does not say where');
    }
    token = next;
  }
}

/** Checks that keys come in order below the prefix, so that a page given twice is noticed; takes the root off. */
function createOrderCheck({ root, named }: S3Place, prefix: string) {
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

/** Size and time of an answer. @throws BackupError `store-unavailable` when it lacks one */
export function sizeAndTime(what: string, sizeBytes: number | undefined, modifiedAt: Date | undefined) {
  if (sizeBytes === undefined || modifiedAt === undefined)
    throw odd(what, 'the answer lacks a size or a time');
  return { sizeBytes, modifiedAt };
}
