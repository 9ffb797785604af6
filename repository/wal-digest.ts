import { z } from 'zod';
import { isBackupError } from '../core/errors.ts';
import { NO_METADATA, type Metadata } from '../stores/metadata.ts';
import type { Digest } from '../streams/digest.ts';
import { walDigestKey } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';

/**
 * What walkeep records of the plain bytes of every WAL file that it stores, so that a reader knows that these are the
 * bytes that were archived. It travels as metadata of the object where the store has that, and lies beside it elsewhere.
 * Objects without a record are as good as before: barman wrote them, or an older walkeep, or a crash came in between, or
 * something on the way to the store drops metadata. A record that makes no sense is none.
 */

const SHA256 = 'walkeep-sha256';
const BYTES = 'walkeep-bytes';
const MAX_RECORD_BYTES = 4096;

const schema = z.object({
  version: z.literal(1),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  bytes: z.number().int().min(0),
});

/** The record as metadata: part of the put that stores the object; empty where the store has none. */
export function digestMetadata(r: Repository, { sha256, sizeBytes }: Digest): Metadata {
  return r.store.features.metadata ? { [SHA256]: sha256, [BYTES]: String(sizeBytes) } : NO_METADATA;
}

/** What metadata says of the plain bytes; `undefined` when it has no record, or none that makes sense. */
export function digestOf(metadata: Metadata): Digest | undefined {
  const parsed = schema.safeParse({ version: 1, sha256: metadata[SHA256], bytes: Number(metadata[BYTES]) });
  return parsed.success ? { sha256: parsed.data.sha256, sizeBytes: parsed.data.bytes } : undefined;
}

/**
 * What is recorded of an object.
 *
 * @param key of the WAL object
 * @param metadata of the object, or how to ask for it
 */
export async function readDigest(
  r: Repository,
  key: string,
  metadata: () => Promise<Metadata>,
  signal: AbortSignal,
): Promise<Digest | undefined> {
  if (r.store.features.metadata) return digestOf(await metadata());
  try {
    const options = { schema, maxBytes: MAX_RECORD_BYTES, signal };
    const found = await readOwnRecord(r, walDigestKey(r.server, key), options);
    return found && { sha256: found.sha256, sizeBytes: found.bytes };
  } catch (error) {
    // it only adds to what is known: a good object must not be lost to a bad record
    if (isBackupError(error, 'format-invalid', 'object-damaged', 'access-denied')) return undefined;
    throw error;
  }
}

/**
 * Writes the record of an object that is stored and durable, where it does not travel with it. An earlier one is
 * replaced: the caller has seen the bytes.
 *
 * @param key of the WAL object
 */
export async function writeDigest(
  r: Repository,
  key: string,
  { sha256, sizeBytes }: Digest,
  signal: AbortSignal,
): Promise<void> {
  if (r.store.features.metadata) return;
  const recordKey = walDigestKey(r.server, key);
  const bytes = ownRecordBytes(recordKey, { version: 1, sha256, bytes: sizeBytes }, schema);
  await r.store.put(recordKey, bytes, { signal, sizeBytes: bytes.length });
}

/**
 * Removes what is left of an object that is gone. Before another is created under its key: until that one has its own
 * record, the old one would speak against it, and for whoever has the old bytes.
 *
 * @param key of the WAL object
 */
export async function removeDigest(r: Repository, key: string, signal: AbortSignal): Promise<void> {
  if (r.store.features.metadata) return;
  await r.store.delete([walDigestKey(r.server, key)], { signal });
}
