import type { Dirent, Stats } from 'node:fs';
import { lstat, readdir, readlink, realpath, stat } from 'node:fs/promises';
import { basename, join, relative, resolve } from 'node:path';
import { BackupError } from '../core/errors.ts';
import { DATA_AREA, type PlannedArea, type PlannedFile } from '../core/backup-plan.ts';
import {
  isDatabaseDirectory,
  judgePath,
  withoutTransientRelations,
  type ExclusionOptions,
  type Verdict,
} from './excluded-files.ts';

/** A directory of an area, with what a tar says about it. */
export interface WalkedDirectory {
  /** In the tar; `.` is PGDATA itself. */
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeMs: number;
}

/** Something that is there and not backed up, although no rule names it. */
export interface SkippedPath {
  readonly path: string;
  readonly why: string;
}

export interface WalkedArea extends PlannedArea {
  /** Where the paths of the files are read: the real path of PGDATA or of the tablespace. */
  readonly root: string;
  readonly directories: readonly WalkedDirectory[];
  readonly skipped: readonly SkippedPath[];
}

/** A tablespace as `pg_tblspc` names it. */
export interface TablespaceLink {
  readonly oid: number;
  /** Where the link points to. */
  readonly location: string;
  /** Where it is, all links followed. */
  readonly root: string;
}

export interface WalkOptions extends ExclusionOptions {
  /** `PG_<major>_<catalogue version>`: the folder of this server in a tablespace that several versions may share. */
  readonly versionDirectory: string;
  /** Real paths that are not entered: a repository that lies inside the data directory, say. */
  readonly notInto?: readonly string[];
  /** Names in the root of PGDATA that are taken from elsewhere. */
  readonly replaced?: readonly string[];
  readonly signal: AbortSignal;
}

/** What the walk of one area is told. */
interface AreaOptions extends ExclusionOptions {
  readonly notInto: ReadonlySet<string>;
  readonly replaced?: readonly string[];
  readonly signal: AbortSignal;
}

/** Questions about files that run at once. */
const CONCURRENCY = 32;

/**
 * Finds everything that belongs into a backup: PGDATA and each of its tablespaces. To be called after
 * `pg_backup_start`: what is made or removed afterwards is made or removed again by replay.
 *
 * Links: PGDATA itself may be one. `pg_wal` is stored as an empty directory. Links in `pg_tblspc` are the tablespaces.
 * All others are followed, and what they lead to is stored in their place: it can't be restored from where it was.
 *
 * @throws BackupError `postgres-unsuitable` when something can not be read, naming it
 */
export async function walkDataDirectory(
  pgdata: string,
  options: WalkOptions,
): Promise<{ readonly areas: WalkedArea[]; readonly tablespaces: TablespaceLink[] }> {
  const root = await realpath(pgdata).catch(unreadable(pgdata));
  const tablespaces = await readTablespaceLinks(root);
  const notInto = new Set([...(options.notInto ?? []), ...tablespaces.map((link) => link.root)]);
  const data = new AreaWalk(DATA_AREA, root, { ...options, notInto });
  await data.enterRoot();
  const areas = [data.result()];
  for (const link of tablespaces) {
    const walk = new AreaWalk(String(link.oid), link.root, { ...options, notInto: new Set(options.notInto) });
    await walk.enterTablespace(options.versionDirectory);
    areas.push(walk.result());
  }
  return { areas, tablespaces };
}

/** The tablespaces that lie outside `pg_tblspc`. Those in place are directories, and part of PGDATA. */
export async function readTablespaceLinks(pgdata: string): Promise<TablespaceLink[]> {
  const folder = join(pgdata, 'pg_tblspc');
  const names = await readdir(folder).catch(unreadable(folder));
  const links: TablespaceLink[] = [];
  for (const name of names.filter((entry) => /^[1-9]\d*$/.test(entry))) {
    const path = join(folder, name);
    const isLink = (await lstat(path).catch(ifThere))?.isSymbolicLink() ?? false;
    if (!isLink) continue;
    const location = await readlink(path).catch(ifThere);
    // One that is dropped right now has no location any more; replay drops it again.
    const real = await realpath(path).catch(ifThere);
    if (location !== undefined && real !== undefined) {
      links.push({ oid: Number(name), location: resolve(folder, location), root: real });
    }
  }
  return links.toSorted((a, b) => a.oid - b.oid);
}

class AreaWalk {
  readonly #area: string;
  readonly #root: string;
  readonly #options: AreaOptions;
  readonly #files: PlannedFile[] = [];
  readonly #directories: WalkedDirectory[] = [];
  readonly #skipped: SkippedPath[] = [];

  constructor(area: string, root: string, options: AreaOptions) {
    this.#area = area;
    this.#root = root;
    this.#options = options;
  }

  result(): WalkedArea {
    return {
      area: this.#area,
      root: this.#root,
      files: this.#files,
      directories: this.#directories,
      skipped: this.#skipped,
    };
  }

  async enterRoot(): Promise<void> {
    this.#addDirectory('.', await stat(this.#root));
    await this.#enter('', [this.#root]);
  }

  async enterTablespace(versionDirectory: string): Promise<void> {
    const found = await stat(join(this.#root, versionDirectory)).catch(ifThere);
    if (!found) return;
    this.#addDirectory(versionDirectory, found);
    await this.#enter(versionDirectory, [this.#root]);
  }

  async #enter(path: string, above: readonly string[]): Promise<void> {
    this.#options.signal.throwIfAborted();
    const folder = join(this.#root, path);
    // A directory that vanished belonged to something that was dropped; replay drops it too.
    const entries = await readdir(folder, { withFileTypes: true }).catch(ifGone(folder));
    const sorted = (entries ?? []).toSorted((a, b) => (a.name < b.name ? -1 : 1));
    const kept = isDatabaseDirectory(path) ? onlyNames(sorted, withoutTransientRelations) : sorted;
    for (let at = 0; at < kept.length; at += CONCURRENCY) {
      const batch = kept.slice(at, at + CONCURRENCY);
      const stats = await Promise.all(batch.map((entry) => this.#statFile(path, entry)));
      for (const [index, entry] of batch.entries()) await this.#visit(path, entry, stats[index], above);
    }
  }

  async #visit(
    folder: string,
    entry: Dirent,
    size: number | undefined,
    above: readonly string[],
  ): Promise<void> {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
    const verdict = this.#judge(path);
    if (verdict === 'exclude') return;
    if (entry.name.includes('\uFFFD')) this.#skip(path, 'its name is not UTF-8');
    else if (entry.isFile()) {
      if (size !== undefined) this.#files.push({ path, sizeBytes: size });
    } else if (entry.isDirectory()) await this.#visitDirectory(path, verdict, above);
    else if (entry.isSymbolicLink()) await this.#follow(path, verdict, above);
    else this.#skip(path, 'it is no file, directory or link');
  }

  #judge(path: string): Verdict {
    if (this.#area !== DATA_AREA) return judgePath(path);
    if (path === 'global/pg_control' || this.#options.replaced?.includes(path)) return 'exclude';
    return judgePath(path, this.#options);
  }

  async #visitDirectory(path: string, verdict: Verdict, above: readonly string[]): Promise<void> {
    const full = join(this.#root, path);
    const [found, real] = await Promise.all([stat(full).catch(ifThere), realpath(full).catch(ifThere)]);
    if (!found || real === undefined) return;
    if (above.includes(real)) return this.#skip(path, 'it leads back to a directory above it');
    this.#addDirectory(path, found);
    if (verdict !== 'empty-directory' && !this.#options.notInto.has(real))
      await this.#enter(path, [...above, real]);
  }

  /** A link: a tablespace (stored elsewhere), or something whose content takes the link's place. */
  async #follow(path: string, verdict: Verdict, above: readonly string[]): Promise<void> {
    if (this.#area === DATA_AREA && /^pg_tblspc\/\d+$/.test(path)) return;
    const found = await stat(join(this.#root, path)).catch(ifThere);
    if (!found) this.#skip(path, 'the link leads nowhere');
    else if (found.isDirectory()) await this.#visitDirectory(path, verdict, above);
    else if (found.isFile()) this.#files.push({ path, sizeBytes: found.size });
    else this.#skip(path, 'the link leads to no file or directory');
  }

  async #statFile(folder: string, entry: Dirent): Promise<number | undefined> {
    if (!entry.isFile()) return undefined;
    const full = join(this.#root, folder, entry.name);
    return (await lstat(full).catch(ifGone(full)))?.size;
  }

  #addDirectory(path: string, { mode, uid, gid, mtimeMs }: Stats): void {
    this.#directories.push({ path, mode: mode & 0o7777, uid, gid, mtimeMs });
  }

  #skip(path: string, why: string): void {
    this.#skipped.push({ path, why });
  }
}

/** A configuration file that the server reads from outside its data directory. */
export interface OutsideFile {
  /** Absolute. */
  readonly source: string;
  /** In the root of PGDATA, where a restored server finds it. */
  readonly path: string;
}

/** Those of `files` that lie outside `pgdata`, each under its own name. */
export function outsideFiles(pgdata: string, files: readonly (string | undefined)[]): OutsideFile[] {
  const outside = files.filter((file): file is string => file !== undefined && !isInside(pgdata, file));
  const byName = new Map(outside.map((source) => [basename(source), { source, path: basename(source) }]));
  return [...byName.values()];
}

/** `log_directory` relative to `pgdata` when it lies inside, and is not `pgdata` itself. */
export function logDirectoryInside(pgdata: string, logDirectory: string | undefined): string | undefined {
  if (logDirectory === undefined) return undefined;
  const path = relative(pgdata, resolve(pgdata, logDirectory));
  return path === '' || path.startsWith('..') ? undefined : path;
}

function isInside(directory: string, path: string): boolean {
  const inside = relative(directory, path);
  return inside !== '' && inside !== '..' && !inside.startsWith('../') && !inside.startsWith('/');
}

function onlyNames(entries: readonly Dirent[], choose: (names: string[]) => string[]): Dirent[] {
  const chosen = new Set(choose(entries.map(({ name }) => name)));
  return entries.filter(({ name }) => chosen.has(name));
}

/** Vanishing is normal; everything else is not. */
function ifGone(path: string): (error: NodeJS.ErrnoException) => undefined {
  return (error) => (error.code === 'ENOENT' ? undefined : unreadable(path)(error));
}

function ifThere(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
  throw new BackupError('postgres-unsuitable', `can not read the data directory: ${error.message}`, {
    cause: error,
  });
}

function unreadable(path: string): (error: NodeJS.ErrnoException) => never {
  return (error) => {
    throw new BackupError('postgres-unsuitable', `can not read ${path}: ${error.message}`, {
      cause: error,
      hint: 'the worker has to run as the owner of the data directory',
    });
  };
}
