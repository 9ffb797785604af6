import { BackupError, isBackupError } from '../core/errors.ts';
import type { ObjectStore, PutOptions } from '../stores/object-store.ts';

/**
 * The whole of a small object.
 *
 * @returns `undefined` when there is none
 * @throws BackupError `object-damaged` when it is larger than `maxBytes`
 */
export async function readSmallObject(
  store: ObjectStore,
  key: string,
  { maxBytes, signal }: { maxBytes: number; signal: AbortSignal },
): Promise<Uint8Array | undefined> {
  const source = await store.get(key, { signal });
  return source && collectSmall(source, key, maxBytes);
}

/** The whole of a body. @throws BackupError `object-damaged` when it is larger than `maxBytes` */
export async function collectSmall(
  source: AsyncIterable<Uint8Array>,
  key: string,
  maxBytes: number,
): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of source) {
    sizeBytes += chunk.length;
    if (sizeBytes > maxBytes) {
      throw new BackupError('object-damaged', `${key} is larger than ${maxBytes} bytes, more than it can be`);
    }
    chunks.push(chunk);
  }
  const [only] = chunks;
  return only !== undefined && chunks.length === 1 ? only : Buffer.concat(chunks, sizeBytes);
}

/**
 * The text of a small object.
 *
 * @returns `undefined` when there is none
 * @throws BackupError `object-damaged` when it is larger than `maxBytes` or not UTF-8
 */
export async function readSmallText(
  store: ObjectStore,
  key: string,
  options: { maxBytes: number; signal: AbortSignal },
): Promise<string | undefined> {
  const bytes = await readSmallObject(store, key, options);
  if (bytes === undefined) return undefined;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new BackupError('object-damaged', `${key} is not UTF-8 text`, { cause });
  }
}

/**
 * Stores a small object that never changes. Storing equal bytes again succeeds, also when the first answer was lost.
 *
 * @throws BackupError `already-exists` when other bytes are there; they stay as they are
 */
export async function createSmallObject(
  store: ObjectStore,
  key: string,
  bytes: Uint8Array,
  options: Omit<PutOptions, 'ifAbsent' | 'sizeBytes'>,
): Promise<void> {
  try {
    await store.put(key, bytes, { ...options, ifAbsent: true, sizeBytes: bytes.length });
  } catch (error) {
    if (!isBackupError(error, 'already-exists')) throw error;
    const existing = await store.get(key, { signal: options.signal });
    if (existing === undefined || !(await hasBytes(existing, bytes))) throw error;
  }
}

/** Whether what is read is exactly `expected`. */
export async function hasBytes(source: AsyncIterable<Uint8Array>, expected: Uint8Array): Promise<boolean> {
  let offset = 0;
  for await (const chunk of source) {
    if (Buffer.compare(chunk, expected.subarray(offset, offset + chunk.length)) !== 0) return false;
    offset += chunk.length;
  }
  return offset === expected.length;
}

/** `text` as the bytes of an object. */
export function utf8(text: string): Uint8Array {
  return Buffer.from(text, 'utf8');
}
