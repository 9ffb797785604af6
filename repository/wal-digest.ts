import { z } from 'zod';
import { BackupError, isBackupError } from '../core/errors.ts';
import { NO_METADATA, type Metadata } from '../stores/metadata.ts';
import type { ObjectBody, StoredObject } from '../stores/object-store.ts';
import type { Digest } from '../streams/digest.ts';
import { walDigestKey } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';

/**
 * What walkeep records of the plain bytes of every WAL file that it stores, so that a reader knows that these are the
 * bytes that were archived. It travels as metadata of the object where the store has that, and lies beside it elsewhere.
 * Objects without a record are as good as before: barman wrote them, or an older walkeep, or a crash came in between, or
 * something on the way to the store drops metadata. A record that makes no sense is none.
 *
 * One that lies beside its object can outlive it. So it names the time at which its object was modified, and says nothing
 * of an object that was modified at another: bits that turn on a disk, and what a file system cuts off, leave the time as
 * it is; whoever puts another file in the place does not.
 */

const SHA256 = 'walkeep-sha256';
const BYTES = 'walkeep-bytes';
const MAX_RECORD_BYTES = 4096;
/** Copies that keep times keep them to the microsecond at least, and round them as they like. */
const SAME_TIME_MS = 1;

const digest = {
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  bytes: z.number().int().min(0),
};
const metadataSchema = z.object(digest);
const besideSchema = z.object({ version: z.literal(1), ...digest, objectModifiedAt: z.iso.datetime() });

/** An object, and which one of those that have had its key. */
export type DatedObject = Pick<StoredObject, 'key' | 'modifiedAt'>;

/** What is recorded of an object, or `store-unavailable`: why that can't be known. */
export type Recorded = Digest | BackupError | undefined;

/** The record as metadata: part of the put that stores the object; empty where the store has none. */
export function digestMetadata(r: Repository, { sha256, sizeBytes }: Digest): Metadata {
  return r.store.features.metadata ? { [SHA256]: sha256, [BYTES]: String(sizeBytes) } : NO_METADATA;
}

/** What metadata says of the plain bytes; `undefined` when it has no record, or none that makes sense. */
export function digestOf(metadata: Metadata): Digest | undefined {
  const parsed = metadataSchema.safeParse({ sha256: metadata[SHA256], bytes: Number(metadata[BYTES]) });
  return parsed.success ? { sha256: parsed.data.sha256, sizeBytes: parsed.data.bytes } : undefined;
}

/**
 * Reads an object, and what is recorded of the very bytes that were read.
 *
 * @param key of the WAL object
 * @returns `undefined` when there is no such object
 * @throws what `read` and the store throw
 */
export async function readWithDigest<T>(
  r: Repository,
  key: string,
  read: (body: ObjectBody) => Promise<T>,
  signal: AbortSignal,
): Promise<{ readonly value: T; readonly recorded: Recorded } | undefined> {
  if (r.store.features.metadata) {
    const body = await r.store.get(key, { signal });
    return body && { value: await read(body), recorded: digestOf(await body.metadata()) };
  }
  // looked at before it is read, and again behind that: the same one all the while, or the record is not of these bytes
  const before = await r.store.head(key, { signal });
  const body = before && (await r.store.get(key, { signal }));
  return body && { value: await read(body), recorded: await readBeside(r, before, signal) };
}

/** What is recorded of an object, which is not read. @returns `undefined` when there is no such object */
export async function findDigest(
  r: Repository,
  key: string,
  signal: AbortSignal,
): Promise<{ readonly recorded: Recorded } | undefined> {
  const found = await r.store.head(key, { signal });
  if (r.store.features.metadata) return found && { recorded: digestOf(found.metadata) };
  return found && { recorded: await readBeside(r, found, signal) };
}

async function readBeside(r: Repository, seen: DatedObject, signal: AbortSignal): Promise<Recorded> {
  const record = await readRecord(r, seen.key, signal);
  if (record === undefined || record instanceof BackupError) return record;
  const objectModifiedAt = Date.parse(record.objectModifiedAt);
  const now = await r.store.head(seen.key, { signal });
  const isOf = (one: DatedObject) => Math.abs(one.modifiedAt.getTime() - objectModifiedAt) <= SAME_TIME_MS;
  if (!now || !isOf(now) || !isOf(seen)) return undefined;
  return { sha256: record.sha256, sizeBytes: record.bytes };
}

async function readRecord(r: Repository, key: string, signal: AbortSignal) {
  try {
    const options = { schema: besideSchema, maxBytes: MAX_RECORD_BYTES, signal };
    return await readOwnRecord(r, walDigestKey(r.server, key), options);
  } catch (error) {
    // it only adds to what is known: a good object must not be lost to a bad record
    if (isBackupError(error, 'format-invalid', 'object-damaged', 'access-denied')) return undefined;
    if (isBackupError(error, 'store-unavailable')) return error;
    throw error;
  }
}

/**
 * Writes the record of an object that is stored and durable, where it does not travel with it. An earlier one is
 * replaced: the caller has seen the bytes.
 */
export async function writeDigest(
  r: Repository,
  { key, modifiedAt }: DatedObject,
  { sha256, sizeBytes }: Digest,
  signal: AbortSignal,
): Promise<void> {
  if (r.store.features.metadata) return;
  const recordKey = walDigestKey(r.server, key);
  const record = {
    version: 1,
    sha256,
    bytes: sizeBytes,
    objectModifiedAt: modifiedAt.toISOString(),
  } as const;
  const bytes = ownRecordBytes(recordKey, record, besideSchema);
  await r.store.put(recordKey, bytes, { signal, sizeBytes: bytes.length });
}
