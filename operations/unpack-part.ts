import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  statfsSync,
  writeSync,
} from 'node:fs';
import { join, posix } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { TarReader, type TarEntry } from '../repository/tar.ts';
import type { ObjectStore } from '../stores/object-store.ts';
import { decompress, type Codec } from '../streams/codec.ts';
import { digesting } from '../streams/digest.ts';

/** What walkeep noted about a part when it was taken; backups of other tools have none. */
export interface ExpectedPart {
  readonly plainBytes: number;
  readonly plainSha256: string;
  readonly storedBytes: number;
  readonly storedSha256: string;
}

/** All that a worker thread needs to unpack one part; plain data. */
export interface UnpackTask {
  readonly key: string;
  readonly name: string;
  readonly area: string;
  readonly codec: Codec;
  /** As listed. */
  readonly sizeBytes: number;
  readonly expected?: ExpectedPart | undefined;
  /** The data directory, or that of the tablespace. It was empty; nobody else writes into it. */
  readonly directory: string;
  /** Who is to own the files; nobody else than this process unless it is given. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined;
  /** Tablespaces that are restored on their own: nothing of them belongs into the data directory. */
  readonly tablespaceOids: readonly number[];
}

export interface UnpackedLink {
  readonly path: string;
  readonly kind: 'symlink' | 'hardlink';
  /** Of a symbolic link as it is, of a hard link the path of the other file. */
  readonly to: string;
}

/** What came out of a part; plain data. Links are made when everything else is there, so that nothing goes through one. */
export interface UnpackedPart {
  readonly name: string;
  readonly files: number;
  readonly contentBytes: number;
  readonly links: readonly UnpackedLink[];
  /** Permission bits of the directory itself, when the part has it. */
  readonly rootMode?: number;
  readonly warnings: readonly string[];
}

export interface UnpackOptions {
  readonly signal: AbortSignal;
  /** Stored bytes read so far; it goes back when a part is begun again. */
  readonly onProgress: (storedBytes: number) => void;
}

/** Files that make a directory startable are written under this ending until the last step. */
export const WITHHELD = '.walkeep-withheld';
export const WITHHELD_FILES = ['global/pg_control', 'backup_label'] as const;

/** Of the running source, or of an earlier recovery: they would mislead the copy. */
const OF_THE_SOURCE = new Set([
  'postmaster.pid',
  'postmaster.opts',
  'recovery.signal',
  'standby.signal',
  'recovery.conf',
  // relocation is ours; a map would silently undo it at the first start
  'tablespace_map',
  'walkeep_recovery.json',
]);
/** Directories of which only themselves belong into a copy: its WAL comes from the archive, and slots are the source's. */
const ONLY_DIRECTORIES = [
  'pg_wal',
  'pg_replslot',
  'pg_dynshmem',
  'pg_notify',
  'pg_serial',
  'pg_snapshots',
  'pg_stat_tmp',
  'pg_subtrans',
];
/** What is kept in memory until the end; no data directory comes near these. */
const MAX_DIRECTORIES = 1_000_000;
const MAX_LINKS = 100_000;
/** What the file system says to members that can't be there together, or whose names are too long below the target. */
const NOT_WRITABLE = new Set(['EEXIST', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENAMETOOLONG', 'ENXIO', 'EINVAL']);
const ATTEMPTS = 4;
const FIRST_WAIT_MS = 500;

/**
 * Downloads, checks, decompresses and unpacks one part, in constant memory. When the store fails in the middle, the
 * part is read again from the beginning and overwrites what it had written.
 *
 * @throws BackupError `object-damaged` when anything differs from the record, or the tar is damaged or hostile;
 *   `disk-full`; what the store throws
 */
export async function unpackPart(
  store: ObjectStore,
  task: UnpackTask,
  options: UnpackOptions,
): Promise<UnpackedPart> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await tryPart(store, task, options);
    } catch (error) {
      options.signal.throwIfAborted();
      if (isBackupError(error, 'object-damaged')) throw unusable(error, task);
      if (attempt === ATTEMPTS || !isBackupError(error, 'store-unavailable')) throw error;
      await sleep(FIRST_WAIT_MS * 4 ** (attempt - 1), undefined, { signal: options.signal });
    }
  }
}

async function tryPart(
  store: ObjectStore,
  task: UnpackTask,
  { signal, onProgress }: UnpackOptions,
): Promise<UnpackedPart> {
  const body = await store.get(task.key, { signal });
  if (body === undefined)
    throw new BackupError('object-missing', `${task.key} is not in the repository any more`);
  let read = 0;
  async function* counted(source: AsyncIterable<Uint8Array>) {
    for await (const piece of source) {
      read += piece.length;
      onProgress(read);
      yield piece;
    }
  }
  const stored = digesting(counted(body));
  const plain = digesting(decompress(task.codec, stored.bytes, { signal, name: task.key }));
  const writer = new PartWriter(task);
  const tar = new TarReader(
    {
      member: (entry) => writer.member(entry),
      data: (chunk) => writer.data(chunk),
      memberEnd: () => writer.memberEnd(),
      hole: (length) => writer.hole(length),
      skipped: (path, why) => writer.warn(`${shown(path)} was left out: ${why}`),
    },
    { maxTotalBytes: task.expected?.plainBytes ?? roomOf(task.directory) },
  );
  const mostBytes = task.expected?.plainBytes ?? Number.POSITIVE_INFINITY;
  let plainBytes = 0;
  try {
    for await (const piece of plain.bytes) {
      plainBytes += piece.length;
      // not only at the end: of a few MiB may come more than any disk holds
      if (plainBytes > mostBytes)
        throw damaged(`it decompresses to more than the ${mostBytes} bytes that were recorded`);
      tar.write(piece);
    }
    tar.finish();
  } catch (error) {
    throw named(error, task);
  } finally {
    writer.close();
  }
  compare(task, 'stored', stored.result());
  compare(task, 'plain', plain.result());
  return writer.result();
}

const damaged = (message: string) => new BackupError('object-damaged', message);

/** Nothing says how much a part without a record of ours holds; more than its whole file system it can't. */
function roomOf(directory: string): number {
  const { blocks, bsize } = statfsSync(directory);
  // some file systems say nothing
  return blocks > 0 ? blocks * bsize : Number.MAX_SAFE_INTEGER;
}

function compare(
  task: UnpackTask,
  which: 'stored' | 'plain',
  found: { sha256: string; sizeBytes: number },
): void {
  const { expected } = task;
  if (expected === undefined) {
    if (which === 'plain' || found.sizeBytes === task.sizeBytes) return;
    throw new BackupError(
      'object-damaged',
      `${task.key}: ${found.sizeBytes} bytes came, ${task.sizeBytes} were listed`,
    );
  }
  const [bytes, sha256] =
    which === 'stored'
      ? [expected.storedBytes, expected.storedSha256]
      : [expected.plainBytes, expected.plainSha256];
  if (found.sizeBytes === bytes && found.sha256 === sha256) return;
  const what = which === 'stored' ? '' : ' decompressed';
  throw new BackupError(
    'object-damaged',
    `${task.key}${what} has ${found.sizeBytes} bytes with SHA-256 ${found.sha256.slice(0, 16)}…, recorded were ${bytes} with ${sha256.slice(0, 16)}…`,
  );
}

/** What was unpacked of it stays, and does not start: that has to be said, and what to do instead. */
function unusable({ code, message, cause }: BackupError, { directory }: UnpackTask): BackupError {
  return new BackupError(code, message, {
    cause,
    hint: `restore another backup (walkeep get backups, --backup-id ID) into another directory; what is in ${directory} does not start and can be removed`,
  });
}

function named(error: unknown, task: UnpackTask): unknown {
  if (isBackupError(error, 'object-damaged', 'not-yet') && !error.message.includes(task.key)) {
    return new BackupError(error.code, `${task.key}: ${error.message}`, { cause: error, hint: error.hint });
  }
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new BackupError('disk-full', `no room left for ${task.name} in ${task.directory}`, {
      cause: error,
      hint: 'make room there and run the same command again; it begins this backup anew in the same directory',
    });
  }
  if (code === 'EFBIG') {
    // A file of PostgreSQL has a gigabyte; only a hostile or broken tar declares what no file system takes.
    return new BackupError(
      'object-damaged',
      `${task.key} declares a file too large for the file system of ${task.directory}`,
      { cause: error },
    );
  }
  if (typeof code === 'string' && NOT_WRITABLE.has(code)) {
    return new BackupError(
      'object-damaged',
      `${task.key}: a member can't be written below ${task.directory}: ${messageOf(error).slice(0, 300)}`,
      { cause: error },
    );
  }
  return error;
}

const shown = (text: string) => (text.length > 100 ? `${text.slice(0, 100)}…` : text);

/** Whether a link goes up again behind a name: where that leads hangs on what the name is, and it may be a link. */
function turnsBack(linkPath: string): boolean {
  const names = linkPath.split('/').filter((name) => name !== '' && name !== '.');
  const first = names.findIndex((name) => name !== '..');
  return first >= 0 && names.includes('..', first);
}

/** Writes the members of one tar below its directory, and never through a link (S2). */
class PartWriter {
  readonly #task: UnpackTask;
  readonly #owner: UnpackTask['owner'];
  readonly #made = new Set<string>(['.']);
  readonly #links: UnpackedLink[] = [];
  readonly #warnings: string[] = [];
  #files = 0;
  #contentBytes = 0;
  #rootMode: number | undefined;
  #open: { readonly fd: number; readonly entry: TarEntry; position: number } | undefined;

  constructor(task: UnpackTask) {
    this.#task = task;
    this.#owner = task.owner;
  }

  member(entry: TarEntry): void {
    if (!this.#belongs(entry)) return;
    if (entry.type === 'directory') return this.#directory(entry);
    this.#parents(entry.path);
    if (entry.type === 'file') {
      const flags =
        constants.O_WRONLY |
        constants.O_CREAT |
        constants.O_TRUNC |
        constants.O_NOFOLLOW |
        constants.O_NONBLOCK;
      const fd = openSync(join(this.#task.directory, this.#nameOnDisk(entry.path)), flags, 0o600);
      this.#open = { fd, entry, position: 0 };
      return;
    }
    this.#link(entry);
  }

  data(chunk: Uint8Array): void {
    const open = this.#open;
    if (open === undefined) return;
    for (let at = 0; at < chunk.length;)
      at += writeSync(open.fd, chunk, at, chunk.length - at, open.position + at);
    open.position += chunk.length;
    this.#contentBytes += chunk.length;
  }

  hole(length: number): void {
    if (this.#open) this.#open.position += length;
  }

  memberEnd(): void {
    const open = this.#open;
    if (open === undefined) return;
    ftruncateSync(open.fd, open.position);
    if (this.#owner) fchownSync(open.fd, this.#owner.uid, this.#owner.gid);
    fchmodSync(open.fd, open.entry.mode & 0o777);
    this.#open = undefined;
    closeSync(open.fd);
    this.#files += 1;
  }

  close(): void {
    if (this.#open) closeSync(this.#open.fd);
    this.#open = undefined;
  }

  warn(text: string): void {
    if (this.#warnings.length < 20) this.#warnings.push(`${this.#task.name}: ${text}`);
  }

  result(): UnpackedPart {
    return {
      name: this.#task.name,
      files: this.#files,
      contentBytes: this.#contentBytes,
      links: this.#links,
      ...(this.#rootMode === undefined ? {} : { rootMode: this.#rootMode }),
      warnings: this.#warnings,
    };
  }

  #belongs({ path, type }: TarEntry): boolean {
    if (path.includes('.walkeep-')) return false;
    if (this.#task.area !== 'data') return this.#belongsToTablespace(path);
    if (OF_THE_SOURCE.has(path)) return false;
    const [first, second] = path.split('/');
    if (first === 'pg_tblspc' && second !== undefined)
      return !this.#task.tablespaceOids.includes(Number(second)) && type !== 'symlink';
    if (!ONLY_DIRECTORIES.includes(first as string)) return true;
    // a pg_wal that was a link becomes a directory; what was below it stays behind, but for archive_status
    return (
      type === 'directory' &&
      (second === undefined || path === 'pg_wal/archive_status' || path === 'pg_wal/summaries')
    );
  }

  /** Where a tablespace goes is the record's word: nothing but PostgreSQL's own folder may be put there (S2). */
  #belongsToTablespace(path: string): boolean {
    if (path === '.' || /^PG_\d+_\d+(?:\/|$)/.test(path)) return true;
    this.warn(`${shown(path)} is no part of a tablespace and was left out`);
    return false;
  }

  #nameOnDisk(path: string): string {
    const isWithheld = this.#task.area === 'data' && WITHHELD_FILES.some((file) => file === path);
    return isWithheld ? `${path}${WITHHELD}` : path;
  }

  #directory({ path, mode }: TarEntry): void {
    if (path === '.') {
      this.#rootMode = mode & 0o777;
      return;
    }
    this.#make(path);
    // whoever owns it has to be able to work in it
    chmodSync(join(this.#task.directory, path), (mode & 0o777) | 0o700);
  }

  #parents(path: string): void {
    const parent = posix.dirname(path);
    if (!this.#made.has(parent)) this.#make(parent);
  }

  #make(path: string): void {
    if (this.#made.has(path)) return;
    if (this.#made.size > MAX_DIRECTORIES)
      throw damaged(`the tar has more than ${MAX_DIRECTORIES} directories`);
    this.#parents(path);
    const onDisk = join(this.#task.directory, path);
    try {
      mkdirSync(onDisk, 0o700);
    } catch (error) {
      // another part, or an interrupted restore, made it before; a link in its place is refused
      if (!(
        error instanceof Error &&
        'code' in error &&
        error.code === 'EEXIST' &&
        lstatSync(onDisk).isDirectory()
      ))
        throw error;
    }
    if (this.#owner) chownSync(onDisk, this.#owner.uid, this.#owner.gid);
    this.#made.add(path);
  }

  #link({ path, type, linkPath = '' }: TarEntry): void {
    const isSymlink = type === 'symlink';
    const leadsTo = isSymlink
      ? posix.normalize(posix.join(posix.dirname(path), linkPath))
      : posix.normalize(linkPath);
    const leaves = posix.isAbsolute(linkPath) || leadsTo === '..' || leadsTo.startsWith('../');
    if (leaves || (isSymlink && turnsBack(linkPath))) {
      return this.warn(
        `the link ${shown(path)} leads out of the directory, or may (${shown(linkPath)}), and was left out`,
      );
    }
    if (this.#links.length >= MAX_LINKS) throw damaged(`the tar has more than ${MAX_LINKS} links`);
    this.#links.push({ path, kind: isSymlink ? 'symlink' : 'hardlink', to: isSymlink ? linkPath : leadsTo });
  }
}
