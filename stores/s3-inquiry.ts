import { isBackupError } from '../core/errors.ts';
import type { StoreTraits, Trait } from './object-store.ts';
import type { S3Connection, S3Place } from './s3-client.ts';
import { isFailure } from './s3-errors.ts';
import { PART_BYTES } from './s3-upload.ts';

/** CRC-32 of nothing: it fits no body that has a byte. */
const WRONG_CRC32 = 'AAAAAA==';
const BODY = Buffer.from('what does this store do?\n');

interface Inquiry {
  readonly connection: S3Connection;
  readonly place: S3Place;
  readonly folder: string;
  readonly signal: AbortSignal;
}

/**
 * Tries what S3 servers differ in, with tiny objects below `folder`: three keys for listings, one for the condition of
 * an upload in parts, one for a checksum. They are removed together at the end, which is a trial of its own.
 */
export async function inquireS3(
  connection: S3Connection,
  place: S3Place,
  folder: string,
  signal: AbortSignal,
): Promise<StoreTraits> {
  const inquiry: Inquiry = { connection, place, folder, signal };
  const keys = ['1', '2', '3'].map((name) => `${folder}list-${name}`);
  for (const key of keys) await put(inquiry, key);
  const listing = await tryListing(inquiry, keys);
  const checksums = await tryChecksum(inquiry, `${folder}checksum`);
  const multipartIfAbsent = await tryMultipart(inquiry, keys[0] ?? '');
  const versioning = await askVersioning(inquiry);
  const objectLock = await askObjectLock(inquiry);
  // Last, for it removes what the others needed.
  const bulkDelete = await tryBulkDelete(inquiry, [...keys, `${folder}checksum`]);
  return {
    multipartIfAbsent,
    oneRequestBytes: PART_BYTES,
    checksums,
    bulkDelete,
    ...listing,
    versioning,
    objectLock,
  };
}

async function put({ connection, place, signal }: Inquiry, key: string): Promise<void> {
  await connection.call(`put ${place.named(key)}`, { signal }, (client, sdk, send) =>
    client.send(
      new sdk.PutObjectCommand({
        Bucket: place.Bucket,
        Key: place.root + key,
        Body: BODY,
        ContentLength: BODY.length,
      }),
      send,
    ),
  );
}

/** One that refuses the wrong sum looks at it. */
async function tryChecksum({ connection, place, signal }: Inquiry, key: string): Promise<Trait> {
  try {
    await connection.call(`put ${place.named(key)} with a wrong checksum`, { signal }, (client, sdk, send) =>
      client.send(
        new sdk.PutObjectCommand({
          Bucket: place.Bucket,
          Key: place.root + key,
          Body: BODY,
          ContentLength: BODY.length,
          ChecksumCRC32: WRONG_CRC32,
        }),
        send,
      ),
    );
    return 'no';
  } catch (error) {
    if (isBackupError(error, 'access-denied')) return 'unknown';
    // The first two are cured by a second try elsewhere, and so are failures of another kind.
    if (isFailure(error, 'BadDigest', 'XAmzContentChecksumMismatch') || isRefusal(error)) return 'yes';
    throw error;
  }
}

/** The upload is completed onto an object that is there; the last part of an upload may be of any size. */
async function tryMultipart({ connection, place, signal }: Inquiry, key: string): Promise<Trait> {
  const what = `put ${place.named(key)} in parts`;
  const target = { Bucket: place.Bucket, Key: place.root + key };
  try {
    const { UploadId } = await connection.call(what, { signal }, (client, sdk, send) =>
      client.send(new sdk.CreateMultipartUploadCommand({ ...target, ChecksumAlgorithm: 'CRC32' }), send),
    );
    if (UploadId === undefined) return 'unknown';
    const upload = { ...target, UploadId };
    let trait: Trait = 'unknown';
    try {
      const part = await connection.call(what, { signal }, (client, sdk, send) =>
        client.send(
          new sdk.UploadPartCommand({
            ...upload,
            PartNumber: 1,
            Body: BODY,
            ContentLength: BODY.length,
            ChecksumAlgorithm: 'CRC32',
          }),
          send,
        ),
      );
      const { ETag, ChecksumCRC32 } = part;
      const Parts = [{ PartNumber: 1, ...(ETag && { ETag }), ...(ChecksumCRC32 && { ChecksumCRC32 }) }];
      await connection.call(what, { signal, completes: true }, (client, sdk, send) =>
        client.send(
          new sdk.CompleteMultipartUploadCommand({
            ...upload,
            MultipartUpload: { Parts },
            IfNoneMatch: '*',
          }),
          send,
        ),
      );
      trait = 'no';
    } catch (error) {
      // A server that does not know the condition may refuse all that ask for it.
      trait = isBackupError(error, 'already-exists') ? 'yes' : 'no';
      if (!isRefusal(error)) throw error;
      await connection
        .call(`remove the upload of ${what}`, { signal }, (client, sdk, send) =>
          client.send(new sdk.AbortMultipartUploadCommand(upload), send),
        )
        .catch(() => undefined);
    }
    return trait;
  } catch (error) {
    if (isRefusal(error)) return 'unknown';
    throw error;
  }
}

async function tryListing(
  { connection, place, folder, signal }: Inquiry,
  keys: readonly string[],
): Promise<Pick<StoreTraits, 'listPaging' | 'listStart'>> {
  const [first, second, third] = keys.map((key) => place.root + key);
  const wanted = { Bucket: place.Bucket, Prefix: `${place.root}${folder}list-`, MaxKeys: 1 };
  const page = (from: { readonly StartAfter?: string | undefined; readonly ContinuationToken?: string }) =>
    connection.call(`list ${place.named(folder)}`, { signal }, (client, sdk, send) =>
      client.send(new sdk.ListObjectsV2Command({ ...wanted, ...from }), send),
    );
  try {
    const begun = await page({ StartAfter: first });
    const listStart: Trait = begun.Contents?.[0]?.Key === second ? 'yes' : 'no';
    const { NextContinuationToken, IsTruncated, Contents = [] } = begun;
    if (IsTruncated !== true || NextContinuationToken === undefined || Contents.length !== 1)
      return { listStart, listPaging: 'no' };
    const next = await page({ ContinuationToken: NextContinuationToken });
    const expected = listStart === 'yes' ? third : second;
    return { listStart, listPaging: next.Contents?.[0]?.Key === expected ? 'yes' : 'no' };
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return { listStart: 'unknown', listPaging: isBackupError(error, 'access-denied') ? 'unknown' : 'no' };
  }
}

async function tryBulkDelete(
  { connection, place, signal }: Inquiry,
  keys: readonly string[],
): Promise<Trait> {
  try {
    const { Deleted = [] } = await connection.call(
      `delete ${keys.length} objects of ${place.named('')}`,
      { signal },
      (client, sdk, send) =>
        client.send(
          new sdk.DeleteObjectsCommand({
            Bucket: place.Bucket,
            Delete: { Objects: keys.map((key) => ({ Key: place.root + key })) },
          }),
          send,
        ),
    );
    return Deleted.length === keys.length ? 'yes' : 'unknown';
  } catch (error) {
    if (isBackupError(error, 'access-denied')) return 'unknown';
    if (isRefusal(error)) return 'no';
    throw error;
  }
}

async function askVersioning({ connection, place, signal }: Inquiry): Promise<StoreTraits['versioning']> {
  try {
    const { Status } = await connection.call(
      `ask whether ${place.Bucket} keeps versions`,
      { signal },
      (client, sdk, send) => client.send(new sdk.GetBucketVersioningCommand({ Bucket: place.Bucket }), send),
    );
    if (Status === undefined) return 'off';
    return Status === 'Enabled' ? 'on' : 'suspended';
  } catch (error) {
    if (isRefusal(error)) return 'unknown';
    throw error;
  }
}

async function askObjectLock({ connection, place, signal }: Inquiry): Promise<StoreTraits['objectLock']> {
  try {
    const { ObjectLockConfiguration: found } = await connection.call(
      `ask whether ${place.Bucket} locks objects`,
      { signal },
      (client, sdk, send) =>
        client.send(new sdk.GetObjectLockConfigurationCommand({ Bucket: place.Bucket }), send),
    );
    return found?.Rule?.DefaultRetention === undefined ? 'off' : 'on';
  } catch (error) {
    if (isFailure(error, 'ObjectLockConfigurationNotFoundError', 'NoSuchObjectLockConfiguration'))
      return 'off';
    if (isRefusal(error)) return 'unknown';
    throw error;
  }
}

/** Whether the server answered and said no, rather than not at all. */
function isRefusal(error: unknown): boolean {
  return isBackupError(error, 'access-denied', 'already-exists', 'config-invalid', 'object-missing');
}
