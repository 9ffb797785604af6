import { createHash, type Hash } from 'node:crypto';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { DATA_AREA, tarBytes, type PlannedFile } from '../core/backup-plan.ts';
import { isBackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import type { ManifestFile } from '../postgres/backup-manifest.ts';
import type { WalkedDirectory } from '../postgres/data-directory.ts';
import { readOwnerNames, type OwnerNames } from '../postgres/owner-names.ts';
import { parseRelationFile } from '../postgres/page-checksum.ts';
import { openFile, type DamagedPage, type OpenFile } from '../postgres/read-file-pages.ts';
import { tarEnd, tarHeader, tarPadding } from '../repository/tar.ts';
import type { ObjectStore, PutOptions } from '../stores/object-store.ts';
import type { Codec } from '../streams/codec.ts';
import { lend } from '../streams/chunks.ts';
import { digesting } from '../streams/digest.ts';
import { compressProved, type Compress } from '../streams/proof.ts';
import { throttled, type Throttle } from '../streams/throttle.ts';

/** A member whose bytes are in memory already. */
export interface InlineFile {
  readonly path: string;
  readonly content: Uint8Array;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeMs: number;
}

/** All that a worker thread needs to write one part; plain data. */
export interface PartTask {
  readonly area: string;
  /** The tar's name in the backup's folder: `data_0001.tar.gz`. */
  readonly name: string;
  readonly key: string;
  /** Where the list of its files goes. */
  readonly filesKey: string;
  readonly root: string;
  readonly directories: readonly WalkedDirectory[];
  readonly files: readonly PlannedFile[];
  readonly inline: readonly InlineFile[];
  readonly codec: Codec;
  /** Pages are checked when given. */
  readonly pages?: { readonly blockSize: number; readonly segmentBlocks: number };
  readonly encryption?: NonNullable<PutOptions['encryption']>;
  readonly tags?: Readonly<Record<string, string>>;
}

/** A page of a file that was stored damaged. */
export interface PartDamage extends DamagedPage {
  /** Relative to the data directory. */
  readonly path: string;
}

/** A part as it was stored; plain data. */
export interface WrittenPart {
  readonly name: string;
  readonly codec: Codec;
  readonly plainBytes: number;
  readonly plainSha256: string;
  readonly storedBytes: number;
  readonly storedSha256: string;
  /** Members of the tar, directories too. */
  readonly members: number;
  readonly files: number;
  /** Of the files, without what the tar adds. */
  readonly contentBytes: number;
  /** At most `MAX_DAMAGED_PAGES`; `damagedPages` counts all. */
  readonly damage: readonly PartDamage[];
  readonly damagedPages: number;
}

export interface PartOptions {
  readonly signal: AbortSignal;
  /** Called often; who listens has to be quick. */
  readonly onProgress: (progress: PartProgress) => void;
  /** Pieces pass when it lets them. */
  readonly throttle?: Throttle;
  /** By default `compress`; what it makes is proved whoever it is. */
  readonly compress?: Compress;
}

/** Since the beginning of the part; it goes back when the part is begun again. */
export interface PartProgress {
  readonly contentBytes: number;
  readonly storedBytes: number;
}

/** More are not named, only counted: the disk is broken then, not a page. */
export const MAX_DAMAGED_PAGES = 200;
/** Pieces that stay in the processor's cache between reading, checking, hashing and compressing. */
const PIECE_BYTES = 256 * 1024;
const ATTEMPTS = 4;
/** Bytes that are damaged twice in a row are no accident: another attempt would only hide it. */
const ATTEMPTS_WHEN_DAMAGED = 2;
const FIRST_WAIT_MS = 500;

/**
 * Reads, checks, hashes, frames, compresses, proves and stores one part, in constant memory. Nothing is stored that did
 * not decode to what was read (E1). When the store or the proof fails in the middle, the part is read again from the
 * beginning: what changed in the files meanwhile is in the WAL, as always.
 *
 * @throws BackupError of the store; `data-unreadable`; `object-damaged` when it can't be proved the second time either
 */
export async function writePart(
  store: ObjectStore,
  task: PartTask,
  options: PartOptions,
): Promise<WrittenPart> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await tryPart(store, task, options);
    } catch (error) {
      if (options.signal.aborted) throw options.signal.reason;
      if (attempt >= attemptsAfter(error)) throw error;
      await pause(FIRST_WAIT_MS * 4 ** (attempt - 1), options.signal);
    }
  }
}

/** How many attempts there are when one ends like this. */
function attemptsAfter(error: unknown): number {
  if (isBackupError(error, 'store-unavailable')) return ATTEMPTS;
  return isBackupError(error, 'object-damaged') ? ATTEMPTS_WHEN_DAMAGED : 1;
}

async function tryPart(
  store: ObjectStore,
  task: PartTask,
  { signal, onProgress, throttle, compress }: PartOptions,
): Promise<WrittenPart> {
  const part = new PartReader(task);
  const pieces = part.pieces(signal);
  const plain = digesting(throttle ? throttled(pieces, throttle, signal) : pieces);
  // Uncompressed, both are the same bytes: hashing is what costs most then.
  const stored =
    task.codec === 'none'
      ? plain
      : digesting(
          compressProved(task.codec, plain.bytes, {
            signal,
            name: task.key,
            ...(compress && { compress }),
          }),
        );
  let storedBytes = 0;
  async function* counted() {
    for await (const piece of stored.bytes) {
      storedBytes += piece.length;
      yield piece;
      onProgress({ contentBytes: part.contentBytes, storedBytes });
    }
  }
  const put = putOptions(task, signal);
  const expectedBytes = task.files.reduce((sum, { sizeBytes }) => sum + tarBytes(sizeBytes), 0);
  failpoint('backup.part-before-upload');
  try {
    await store.put(task.key, counted(), { ...put, expectedBytes });
  } finally {
    part.close();
  }
  failpoint('backup.part-uploaded');
  const list = gzipSync(Buffer.from(part.manifest.join('')), { level: 3 });
  await store.put(task.filesKey, list, { ...put, sizeBytes: list.length });
  failpoint('backup.part-recorded');
  const whole = plain.result();
  const compressed = stored === plain ? whole : stored.result();
  return {
    name: task.name,
    codec: task.codec,
    plainBytes: whole.sizeBytes,
    plainSha256: whole.sha256,
    storedBytes: compressed.sizeBytes,
    storedSha256: compressed.sha256,
    members: part.members,
    files: part.manifest.length,
    contentBytes: part.contentBytes,
    damage: part.damage,
    damagedPages: part.damagedPages,
  };
}

/** One reading of a part: the bytes of its tar, and what is learned on the way. */
class PartReader {
  readonly manifest: string[] = [];
  readonly damage: PartDamage[] = [];
  damagedPages = 0;
  members = 0;
  contentBytes = 0;

  readonly #task: PartTask;
  readonly #owners: OwnerNames = readOwnerNames();
  #open: OpenFile | undefined;
  #piece: Buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
  #filled = 0;
  #written = 0;

  constructor(task: PartTask) {
    this.#task = task;
  }

  /** The tar, in pieces that are never used again. */
  async *pieces(signal: AbortSignal): AsyncGenerator<Uint8Array, void, void> {
    for (const directory of this.#task.directories) {
      yield* this.#append(tarHeader({ ...this.#entry(directory), type: 'directory', size: 0 }));
      this.members += 1;
    }
    for (const file of this.#task.files) {
      signal.throwIfAborted();
      yield* this.#file(file);
    }
    for (const file of this.#task.inline) yield* this.#inline(file);
    yield* this.#append(tarEnd(this.#written));
    yield* this.#flush();
  }

  close(): void {
    const open = this.#open;
    // first: one that can't be closed is not open any more, and its number may be another's already
    this.#open = undefined;
    open?.close();
  }

  *#file({ path }: PlannedFile): Generator<Uint8Array, void, void> {
    const { root, pages } = this.#task;
    const relation = pages && parseRelationFile(path, pages.segmentBlocks);
    const onDamage = (page: DamagedPage) => this.#addDamage({ path: this.#nameInBackup(path), ...page });
    const file = openFile(join(root, path), relation && { relation, blockSize: pages.blockSize, onDamage });
    if (!file) return;
    this.#open = file;
    const { size, mode, uid, gid, mtimeMs } = file.stats;
    if (!file.stats.isFile()) return this.close();
    yield* this.#append(tarHeader({ ...this.#entry({ path, mode, uid, gid, mtimeMs }), type: 'file', size }));
    const hash = createHash('sha256');
    yield* this.#content(file, size, hash, relation ? pages.blockSize : 1);
    this.close();
    yield* this.#append(tarPadding(size));
    this.#addFile(path, size, mtimeMs, hash);
  }

  /** @param unit bytes that must not be torn between two pieces */
  *#content(file: OpenFile, size: number, hash: Hash, unit: number): Generator<Uint8Array, void, void> {
    for (let rest = size; rest > 0;) {
      const room = this.#piece.length - this.#filled;
      const length = Math.min(rest, room - (room % unit));
      if (length === 0) {
        yield* this.#flush();
        continue;
      }
      const target = this.#piece.subarray(this.#filled, this.#filled + length);
      file.read(target);
      hash.update(target);
      this.#filled += length;
      this.#written += length;
      this.contentBytes += length;
      rest -= length;
      if (this.#filled + unit > this.#piece.length) yield* this.#flush();
    }
  }

  *#inline({ path, content, mode, uid, gid, mtimeMs }: InlineFile): Generator<Uint8Array, void, void> {
    const size = content.length;
    yield* this.#append(tarHeader({ ...this.#entry({ path, mode, uid, gid, mtimeMs }), type: 'file', size }));
    yield* this.#append(content);
    yield* this.#append(tarPadding(size));
    this.contentBytes += size;
    this.#addFile(path, size, mtimeMs, createHash('sha256').update(content));
  }

  *#append(bytes: Uint8Array): Generator<Uint8Array, void, void> {
    this.#written += bytes.length;
    for (let rest = bytes; rest.length > 0;) {
      const taken = rest.subarray(0, this.#piece.length - this.#filled);
      this.#piece.set(taken, this.#filled);
      this.#filled += taken.length;
      rest = rest.subarray(taken.length);
      if (this.#filled === this.#piece.length) yield* this.#flush();
    }
  }

  *#flush(): Generator<Uint8Array, void, void> {
    if (this.#filled === 0) return;
    // Whoever gets a piece keeps it, or gives its memory back.
    const full = lend(this.#piece.subarray(0, this.#filled));
    this.#piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
    this.#filled = 0;
    yield full;
  }

  #entry({ path, mode, uid, gid, mtimeMs }: Omit<WalkedDirectory, 'size'>) {
    const [uname, gname] = [this.#owners.user(uid), this.#owners.group(gid)];
    return {
      path,
      mode: mode & 0o7777,
      uid,
      gid,
      // Whole seconds: a fraction would cost every small file two more blocks, and nothing needs it.
      mtimeMs: Math.floor(mtimeMs / 1000) * 1000,
      ...(uname === undefined ? {} : { uname }),
      ...(gname === undefined ? {} : { gname }),
    };
  }

  #addFile(path: string, sizeBytes: number, mtimeMs: number, hash: Hash): void {
    const file: ManifestFile = {
      path: this.#nameInBackup(path),
      sizeBytes,
      mtimeMs,
      sha256: hash.digest('hex'),
    };
    this.manifest.push(`${JSON.stringify(file)}\n`);
    this.members += 1;
  }

  #addDamage(damage: PartDamage): void {
    this.damagedPages += 1;
    if (this.damage.length < MAX_DAMAGED_PAGES) this.damage.push(damage);
  }

  #nameInBackup(path: string): string {
    return this.#task.area === DATA_AREA ? path : `pg_tblspc/${this.#task.area}/${path}`;
  }
}

function putOptions({ encryption, tags }: PartTask, signal: AbortSignal): PutOptions {
  return {
    signal,
    ...(encryption === undefined ? {} : { encryption }),
    ...(tags === undefined ? {} : { tags }),
  };
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
