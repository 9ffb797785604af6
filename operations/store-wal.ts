import { BackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import type { WalFile } from '../core/segment.ts';
import type { Repository } from '../repository/repository.ts';
import { digestMetadata, writeDigest } from '../repository/wal-digest.ts';
import type { WalObject } from '../repository/wal.ts';
import type { PutOptions } from '../stores/object-store.ts';
import { compressBytes, decompressBytes, type Codec } from '../streams/codec.ts';
import type { Digest } from '../streams/digest.ts';
import type { ReadWalFile } from './wal-file.ts';

/** How WAL files are stored; from the manifest's `wal`, `tags` and `historyTags`. */
export interface WalStorage {
  readonly codec: Codec;
  readonly level?: number;
  readonly encryption?: 'AES256' | 'aws:kms';
  readonly tags?: Readonly<Record<string, string>>;
  /** Replace `tags` on timeline histories, as barman-cloud's do. */
  readonly historyTags?: Readonly<Record<string, string>>;
}

/** What a WAL file is stored with, beside its bytes. */
export function attributesOf(
  { encryption, historyTags, tags: usual }: WalStorage,
  { kind }: WalFile,
): Pick<PutOptions, 'encryption' | 'tags'> {
  const tags = (kind === 'history' ? historyTags : undefined) ?? usual;
  return { ...(encryption === undefined ? {} : { encryption }), ...(tags === undefined ? {} : { tags }) };
}

export function digestOfFile({ sha256, bytes }: ReadWalFile): Digest {
  return { sha256, sizeBytes: bytes.length };
}

/** Compressed bytes count when they were decompressed to what they came from (E1): compressors have been wrong. */
export async function compressProved(codec: Codec, bytes: Uint8Array, level?: number): Promise<Uint8Array> {
  if (codec === 'none') return bytes;
  const compressed = await compressBytes(codec, bytes, level);
  const back = await decompressBytes(codec, compressed, bytes.length);
  if (Buffer.compare(back, bytes) === 0) return compressed;
  throw new BackupError(
    'object-damaged',
    `${codec} made something of ${bytes.length} bytes that does not give them back`,
    {
      hint: 'nothing was stored; the memory of this machine or the compression library is broken',
    },
  );
}

/**
 * Stores a file again in place of a copy that the caller has found to contradict itself (A3). The same key and codec: no
 * reader may find two objects of one file. The object before its record, where that does not travel with it.
 *
 * No condition guards the put. It needs none: whoever comes here has the bytes that were archived under this name, so
 * that two at once store the same.
 */
export async function replaceWal(
  repository: Repository,
  { key, codec, file }: WalObject,
  read: ReadWalFile,
  { storage, signal }: { readonly storage: WalStorage; readonly signal: AbortSignal },
): Promise<void> {
  const digest = digestOfFile(read);
  const level = codec === storage.codec ? storage.level : undefined;
  const stored = await compressProved(codec, read.bytes, level);
  failpoint('repair.before-replace');
  const { modifiedAt } = await repository.store.put(key, stored, {
    ...attributesOf(storage, file),
    signal,
    sizeBytes: stored.length,
    metadata: digestMetadata(repository, digest),
  });
  failpoint('repair.replaced');
  const replaced = modifiedAt ? { key, modifiedAt } : await repository.store.head(key, { signal });
  if (replaced) await writeDigest(repository, replaced, digest, signal);
}
