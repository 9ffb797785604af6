import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';
import { isSegmentSize, type WalFile } from '../core/segment.ts';
import { sha256 } from '../streams/digest.ts';

/** A file of `pg_wal`, read whole, and the hash of exactly these bytes. */
export interface ReadWalFile {
  readonly bytes: Uint8Array;
  readonly sha256: string;
}

/** Histories and backup labels are a few hundred bytes; this is where doubt begins. */
const LARGEST_TEXT_BYTES = 4 << 20;
const PIECE_BYTES = 1 << 20;

/**
 * Reads a file of `pg_wal` into memory. It is opened by name in this one directory, never through a link, and has to
 * stay as it is while it is read: what changes under the reader is read once more, then refused.
 *
 * @throws BackupError `wal-missing` when it is not there, `format-invalid` when it can't be such a file
 */
export async function readWalFile(
  pgWalDirectory: string,
  file: WalFile,
  options: { readonly signal: AbortSignal },
): Promise<ReadWalFile> {
  for (let attempt = 1; ; attempt++) {
    const read = await withWalFile(pgWalDirectory, file, async (handle, sizeBytes, isUnchanged) => {
      const bytes = new Uint8Array(sizeBytes);
      await readPieces(handle, sizeBytes, options.signal, (piece, offset) => bytes.set(piece, offset));
      return (await isUnchanged()) ? { bytes, sha256: sha256(bytes) } : undefined;
    });
    if (read) return read;
    if (attempt === 2) throw changing(file);
  }
}

/**
 * The SHA-256 of a file of `pg_wal` as it is now, in constant memory.
 *
 * @throws BackupError as `readWalFile`
 */
export async function hashWalFile(
  pgWalDirectory: string,
  file: WalFile,
  options: { readonly signal: AbortSignal },
): Promise<string> {
  return withWalFile(pgWalDirectory, file, async (handle, sizeBytes, isUnchanged) => {
    const hash = createHash('sha256');
    await readPieces(handle, sizeBytes, options.signal, (piece) => hash.update(piece));
    if (!(await isUnchanged())) throw changing(file);
    return hash.digest('hex');
  });
}

function changing(file: WalFile): BackupError {
  return new BackupError('format-invalid', `${file.name} changed while it was read`, {
    hint: 'a WAL file that is ready to be archived does not change; look for who writes to pg_wal',
  });
}

type Work<T> = (handle: FileHandle, sizeBytes: number, isUnchanged: () => Promise<boolean>) => Promise<T>;

async function withWalFile<T>(pgWalDirectory: string, file: WalFile, work: Work<T>): Promise<T> {
  const path = join(pgWalDirectory, file.name);
  const handle = await openWithoutLinks(path, file);
  try {
    const before = await handle.stat({ bigint: true });
    if (!before.isFile()) throw new BackupError('format-invalid', `${path} is not a regular file`);
    const sizeBytes = Number(before.size);
    requireFittingSize(path, file, sizeBytes);
    return await work(handle, sizeBytes, async () => {
      const after = await handle.stat({ bigint: true });
      return after.size === before.size && after.mtimeNs === before.mtimeNs;
    });
  } finally {
    await handle.close();
  }
}

async function openWithoutLinks(path: string, file: WalFile): Promise<FileHandle> {
  try {
    // O_NONBLOCK: a pipe under this name must not hang the archiver
    return await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT') {
      throw new BackupError('wal-missing', `${file.name} is not in pg_wal (${path})`, {
        cause: error,
        hint: 'PostgreSQL asks only for files that are there: check --pgdata',
      });
    }
    if (code === 'ELOOP') throw new BackupError('format-invalid', `${path} is a link; it was not followed`);
    throw new BackupError('config-invalid', `cannot read ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: 'look at the rights of the user that runs this, and at the disk; PostgreSQL keeps the file and asks again',
    });
  }
}

/** Before anything is allocated: the size has to be one that such a file can have. */
function requireFittingSize(path: string, file: WalFile, sizeBytes: number): void {
  if (file.kind === 'segment' || file.kind === 'partial') {
    if (isSegmentSize(sizeBytes)) return;
    throw new BackupError('format-invalid', `${path} has ${sizeBytes} bytes; no WAL segment has this size`);
  }
  if (sizeBytes > 0 && sizeBytes <= LARGEST_TEXT_BYTES) return;
  throw new BackupError(
    'format-invalid',
    `${path} has ${sizeBytes} bytes; a ${file.kind} file is a short text`,
  );
}

async function readPieces(
  handle: FileHandle,
  sizeBytes: number,
  signal: AbortSignal,
  take: (piece: Uint8Array, offset: number) => void,
): Promise<void> {
  const buffer = new Uint8Array(Math.min(PIECE_BYTES, sizeBytes));
  for (let offset = 0; offset < sizeBytes;) {
    signal.throwIfAborted();
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, sizeBytes - offset), offset);
    // it shrank: the caller sees that by its size
    if (bytesRead === 0) return;
    take(buffer.subarray(0, bytesRead), offset);
    offset += bytesRead;
  }
}
