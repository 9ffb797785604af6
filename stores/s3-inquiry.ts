import { isBackupError } from '../core/errors.ts';
import type { StoreTraits, Trait } from './object-store.ts';
import type { S3Connection, S3Place } from './s3-client.ts';
import { isFailure } from './s3-errors.ts';
import { unlessAborted } from '../streams/abortable.ts';

/** CRC-32 of nothing: it fits no body that has a byte. */
const WRONG_CRC32 = 'AAAAAA==';
const BODY = Buffer.from('what does this store do?\n');

/** A question that a server does not answer is one that need not be answered: the others are asked all the same. */
const ANSWER_MS = 5_000;

interface Inquiry {
  readonly connection: S3Connection;
  readonly place: S3Place;
  readonly folder: string;
  /** Every put is a creation where the server knows such: there are keys that may do nothing else. */
  readonly condition: { readonly IfNoneMatch?: '*' };
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
  const ask = async <Answer extends string>(
    question: (inquiry: Inquiry) => Promise<Answer>,
    condition: Inquiry['condition'] = { IfNoneMatch: '*' },
  ): Promise<Answer | 'unknown'> => {
    const limited = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]);
    const inquiry: Inquiry = { connection, place, folder, condition, signal: limited };
    try {
      return await unlessAborted(question(inquiry), limited);
    } catch (error) {
      signal.throwIfAborted();
      if (condition.IfNoneMatch !== undefined && isBackupError(error, 'config-invalid'))
        return ask(question, {});
      return 'unknown';
    }
  };
  const keys = ['1', '2', '3'].map((name) => `${folder}list-${name}`);
  const arePut = await ask((inquiry) => putAll(inquiry, keys));
  const onlyIfPut = async (question: (inquiry: Inquiry) => Promise<Trait>): Promise<Trait> =>
    arePut === 'yes' ? ask(question) : 'unknown';
  const listStart = await onlyIfPut((inquiry) => tryStart(inquiry, keys));
  const listPaging = await onlyIfPut((inquiry) => tryPaging(inquiry, keys));
  const multipartIfAbsent = await onlyIfPut((inquiry) => tryMultipart(inquiry, keys[0] ?? ''));
  const checksums = await ask((inquiry) => tryChecksum(inquiry, `${folder}checksum`));
  const versioning = await ask(askVersioning);
  const objectLock = await ask(askObjectLock);
  // Last, for it removes what the others needed.
  const bulkDelete = await ask((inquiry) => tryBulkDelete(inquiry, [...keys, `${folder}checksum`]));
  return { multipartIfAbsent, checksums, bulkDelete, listPaging, listStart, versioning, objectLock };
}

async function putAll({ connection, place, condition, signal }: Inquiry, keys: readonly string[]) {
  for (const key of keys) {
    await connection.call(`put ${place.named(key)}`, { signal }, (client, sdk, send) =>
      client.send(
        new sdk.PutObjectCommand({
          Bucket: place.Bucket,
          Key: place.root + key,
          Body: BODY,
          ContentLength: BODY.length,
          ...condition,
        }),
        send,
      ),
    );
  }
  return 'yes' as const;
}

/** One that refuses the wrong sum looks at it. */
async function tryChecksum({ connection, place, condition, signal }: Inquiry, key: string): Promise<Trait> {
  try {
    await connection.call(`put ${place.named(key)} with a wrong checksum`, { signal }, (client, sdk, send) =>
      client.send(
        new sdk.PutObjectCommand({
          Bucket: place.Bucket,
          Key: place.root + key,
          Body: BODY,
          ContentLength: BODY.length,
          ChecksumCRC32: WRONG_CRC32,
          ...condition,
        }),
        send,
      ),
    );
    return 'no';
  } catch (error) {
    if (isFailure(error, 'BadDigest', 'XAmzContentChecksumMismatch')) return 'yes';
    if (isFailure(error, 'InvalidRequest', 'InvalidDigest', 'InvalidArgument')) return 'yes';
    throw error;
  }
}

/** The upload is completed onto an object that is there; the last part of an upload may be of any size. */
async function tryMultipart({ connection, place, signal }: Inquiry, key: string): Promise<Trait> {
  const what = `put ${place.named(key)} in parts`;
  const target = { Bucket: place.Bucket, Key: place.root + key };
  const { UploadId } = await connection.call(what, { signal }, (client, sdk, send) =>
    client.send(new sdk.CreateMultipartUploadCommand({ ...target, ChecksumAlgorithm: 'CRC32' }), send),
  );
  if (UploadId === undefined) return 'unknown';
  const upload = { ...target, UploadId };
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
        new sdk.CompleteMultipartUploadCommand({ ...upload, MultipartUpload: { Parts }, IfNoneMatch: '*' }),
        send,
      ),
    );
    return 'no';
  } catch (error) {
    // Also when the time is over: an upload that stays takes room, and no listing shows it.
    await connection
      .call(`remove the upload of ${what}`, { signal: AbortSignal.timeout(ANSWER_MS) }, (client, sdk, send) =>
        client.send(new sdk.AbortMultipartUploadCommand(upload), send),
      )
      .catch(() => undefined);
    if (isBackupError(error, 'already-exists')) return 'yes';
    // A server that does not know the condition may refuse all that ask for it.
    if (isBackupError(error, 'config-invalid', 'object-missing')) return 'no';
    throw error;
  }
}

async function tryStart(
  { connection, place, folder, signal }: Inquiry,
  keys: readonly string[],
): Promise<Trait> {
  const [first, second] = keys.map((key) => place.root + key);
  const { Contents } = await connection.call(`list ${place.named(folder)}`, { signal }, (client, sdk, send) =>
    client.send(new sdk.ListObjectsV2Command({ ...listed(place, folder), StartAfter: first }), send),
  );
  return Contents?.[0]?.Key === second ? 'yes' : 'no';
}

async function tryPaging(
  { connection, place, folder, signal }: Inquiry,
  keys: readonly string[],
): Promise<Trait> {
  const [first, second] = keys.map((key) => place.root + key);
  const page = (from: { readonly ContinuationToken?: string }) =>
    connection.call(`list ${place.named(folder)}`, { signal }, (client, sdk, send) =>
      client.send(new sdk.ListObjectsV2Command({ ...listed(place, folder), ...from }), send),
    );
  const { NextContinuationToken, IsTruncated, Contents = [] } = await page({});
  if (IsTruncated !== true || NextContinuationToken === undefined || Contents.length !== 1) return 'no';
  const next = await page({ ContinuationToken: NextContinuationToken });
  return Contents[0]?.Key === first && next.Contents?.[0]?.Key === second ? 'yes' : 'no';
}

function listed(place: S3Place, folder: string) {
  return { Bucket: place.Bucket, Prefix: `${place.root}${folder}list-`, MaxKeys: 1 };
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
    if (isBackupError(error, 'config-invalid')) return 'no';
    throw error;
  }
}

async function askVersioning({ connection, place, signal }: Inquiry): Promise<StoreTraits['versioning']> {
  const { Status } = await connection.call(
    `ask whether ${place.Bucket} keeps versions`,
    { signal },
    (client, sdk, send) => client.send(new sdk.GetBucketVersioningCommand({ Bucket: place.Bucket }), send),
  );
  if (Status === undefined) return 'off';
  return Status === 'Enabled' ? 'on' : 'suspended';
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
    throw error;
  }
}
