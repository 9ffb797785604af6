import { closeSync, fstatSync, openSync, readSync, type Stats } from 'node:fs';
import { BackupError, messageOf } from '../core/errors.ts';
import { formatLsn, type Lsn } from '../core/lsn.ts';
import { findDamagedPages, isPageIntact, pageLsn, type RelationFile } from './page-checksum.ts';

/** A page whose checksum does not fit, also when it was read again. */
export interface DamagedPage {
  /** The page's number in its relation. */
  readonly block: number;
  /**
   * Where its header says it was last changed. At or after the beginning of the backup the page may be one that
   * PostgreSQL was just writing, which replay mends; but nothing can be newer than the end of the backup.
   */
  readonly lsn: string;
}

export interface PageCheck {
  readonly relation: RelationFile;
  readonly blockSize: number;
  readonly onDamage: (page: DamagedPage) => void;
}

/** A file under change by PostgreSQL, held at the size it had when it was opened. */
export interface OpenFile {
  readonly stats: Stats;
  /**
   * Fills `target` with the next bytes, checking pages when asked to. Behind the end of a file that shrank come
   * zeros; what a file grew is not read. (Replay extends and cuts it as it was at the end of the backup.)
   */
  read(target: Buffer): void;
  close(): void;
}

/** Waits before a page is read again, in milliseconds; PostgreSQL writes a page in far less. */
const PATIENCE_MS = [1, 10, 50];

/**
 * Opens a file of the data directory. All calls are synchronous, for worker threads.
 *
 * @returns `undefined` when it is gone: what was dropped is dropped again by replay
 * @throws BackupError `data-unreadable` for every other failure, naming the file
 */
export function openFile(path: string, check?: PageCheck): OpenFile | undefined {
  const fd = open(path);
  if (fd === undefined) return undefined;
  let offset = 0;
  return {
    stats: guarded(path, () => fstatSync(fd)),
    read(target) {
      let filled = 0;
      while (filled < target.length) {
        const at = offset + filled;
        const got = guarded(path, () => readSync(fd, target, filled, target.length - filled, at));
        if (got === 0) break;
        filled += got;
      }
      target.fill(0, filled);
      if (check) checkPages(fd, path, target.subarray(0, filled), offset, check);
      offset += target.length;
    },
    close: () => guarded(path, () => closeSync(fd)),
  };
}

function checkPages(fd: number, path: string, bytes: Buffer, offset: number, check: PageCheck): void {
  const { blockSize, relation } = check;
  const firstBlock = relation.firstBlock + offset / blockSize;
  for (const index of findDamagedPages(bytes, firstBlock, blockSize)) {
    const page = bytes.subarray(index * blockSize, (index + 1) * blockSize);
    const block = firstBlock + index;
    if (!readAgain(fd, path, page, offset + index * blockSize, block)) {
      check.onDamage({ block, lsn: formatLsn(pageLsn(page)) });
    }
  }
}

/** Puts a later reading of a page in its place; whether that one is intact. */
function readAgain(fd: number, path: string, page: Buffer, at: number, block: number): boolean {
  for (const waitMs of PATIENCE_MS) {
    sleepSync(waitMs);
    const again = Buffer.alloc(page.length);
    const got = guarded(path, () => readSync(fd, again, 0, again.length, at));
    // Cut off meanwhile: what was read before stands, and replay cuts it off as well.
    if (got < page.length) return true;
    again.copy(page);
    if (isPageIntact(page, block)) return true;
  }
  return false;
}

/** Whether a damaged page is damage, rather than one that was being written while we read it. */
export function isRealDamage(changedAt: Lsn, beginLsn: Lsn, endLsn: Lsn): boolean {
  return changedAt < beginLsn || changedAt > endLsn;
}

function open(path: string): number | undefined {
  try {
    return openSync(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw unreadable(path, error);
  }
}

function guarded<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: string, error: unknown): BackupError {
  return new BackupError('data-unreadable', `can not read ${path}: ${messageOf(error)}`, { cause: error });
}

function sleepSync(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
