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
  writeSync,
} from 'node:fs';
import { join, posix } from 'node:path';
import { BackupError } from '../core/errors.ts';
import type { TarEntry } from '../repository/tar.ts';

/** Where the members of a part go; plain data. */
export interface PartPlace {
  /** Of the part, for messages. */
  readonly name: string;
  readonly area: string;
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
const damaged = (message: string) => new BackupError('object-damaged', message);
const shown = (text: string) => (text.length > 100 ? `${text.slice(0, 100)}…` : text);

/** Whether a link goes up again behind a name: where that leads hangs on what the name is, and it may be a link. */
function turnsBack(linkPath: string): boolean {
  const names = linkPath.split('/').filter((name) => name !== '' && name !== '.');
  const first = names.findIndex((name) => name !== '..');
  return first >= 0 && names.includes('..', first);
}

/** Writes the members of one tar below its directory, and never through a link (S2). What is open is closed by `close`. */
export class PartWriter {
  readonly #place: PartPlace;
  readonly #owner: PartPlace['owner'];
  readonly #made = new Set<string>(['.']);
  readonly #links: UnpackedLink[] = [];
  readonly #warnings: string[] = [];
  #files = 0;
  #contentBytes = 0;
  #rootMode: number | undefined;
  #open: { readonly fd: number; readonly entry: TarEntry; position: number } | undefined;

  constructor(place: PartPlace) {
    this.#place = place;
    this.#owner = place.owner;
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
      const fd = openSync(join(this.#place.directory, this.#nameOnDisk(entry.path)), flags, 0o600);
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
    const open = this.#open;
    // first, as in memberEnd: one that can't be closed is not open any more
    this.#open = undefined;
    if (open) closeSync(open.fd);
  }

  /** A member that the reader did not hand over, and why. */
  leftOut(path: string, why: string): void {
    this.#warn(`${shown(path)} was left out: ${why}`);
  }

  #warn(text: string): void {
    if (this.#warnings.length < 20) this.#warnings.push(`${this.#place.name}: ${text}`);
  }

  result(): UnpackedPart {
    return {
      name: this.#place.name,
      files: this.#files,
      contentBytes: this.#contentBytes,
      links: this.#links,
      ...(this.#rootMode === undefined ? {} : { rootMode: this.#rootMode }),
      warnings: this.#warnings,
    };
  }

  #belongs({ path, type }: TarEntry): boolean {
    if (path.includes('.walkeep-')) return false;
    if (this.#place.area !== 'data') return this.#belongsToTablespace(path);
    if (OF_THE_SOURCE.has(path)) return false;
    const [first, second] = path.split('/');
    if (first === 'pg_tblspc' && second !== undefined)
      return !this.#place.tablespaceOids.includes(Number(second)) && type !== 'symlink';
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
    this.#warn(`${shown(path)} is no part of a tablespace and was left out`);
    return false;
  }

  #nameOnDisk(path: string): string {
    const isWithheld = this.#place.area === 'data' && WITHHELD_FILES.some((file) => file === path);
    return isWithheld ? `${path}${WITHHELD}` : path;
  }

  #directory({ path, mode }: TarEntry): void {
    if (path === '.') {
      this.#rootMode = mode & 0o777;
      return;
    }
    this.#make(path);
    // whoever owns it has to be able to work in it
    chmodSync(join(this.#place.directory, path), (mode & 0o777) | 0o700);
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
    const onDisk = join(this.#place.directory, path);
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
      return this.#warn(
        `the link ${shown(path)} leads out of the directory, or may (${shown(linkPath)}), and was left out`,
      );
    }
    if (this.#links.length >= MAX_LINKS) throw damaged(`the tar has more than ${MAX_LINKS} links`);
    this.#links.push({ path, kind: isSymlink ? 'symlink' : 'hardlink', to: isSymlink ? linkPath : leadsTo });
  }
}
