import {
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  closeSync,
  constants,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  statfsSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';
import type { Tablespace } from '../repository/backup-info.ts';

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** A directory that a restore fills. */
export interface RestoreTarget {
  /** `data`, or the oid of a tablespace. */
  readonly area: string;
  /** Absolute, without links on the way. */
  readonly directory: string;
  /** The tablespace's name. */
  readonly name?: string;
}

/** What restores of this very process are filling: a marker names the process, not which of its restores. */
const filling = new Set<string>();

/** Runs `work` while the targets count as being filled by this process. */
export async function whileFilling<Result>(
  targets: readonly RestoreTarget[],
  work: () => Promise<Result>,
): Promise<Result> {
  for (const { directory } of targets) filling.add(directory);
  try {
    return await work();
  } finally {
    for (const { directory } of targets) filling.delete(directory);
  }
}

/** In every directory a restore is filling; it says that whatever is there was made by that restore. */
export const RESTORE_MARKER = '.walkeep-restore';

interface Marker {
  readonly version: 1;
  readonly backupId: string;
  readonly area: string;
  readonly host: string;
  readonly pid: number;
  /** When that process started, in the kernel's own count; tells it from a later process with its number. */
  readonly processStart: string;
  readonly startedAt: string;
}

/**
 * Where the parts of a backup go: the data directory, and each tablespace to the directory given for it, or to where
 * it was. One that lay inside the data directory stays inside.
 *
 * @param mapping by tablespace name
 * @throws BackupError `usage` for a mapping of a tablespace that the backup does not have
 */
export function chooseTargets(
  targetDirectory: string,
  tablespaces: readonly Tablespace[],
  mapping: Readonly<Record<string, string>>,
  sourceDirectory: string | undefined,
): RestoreTarget[] {
  const data = canonical(targetDirectory);
  for (const name of Object.keys(mapping)) {
    if (tablespaces.some((tablespace) => tablespace.name === name)) continue;
    const known = tablespaces.map((tablespace) => tablespace.name).join(', ') || 'none';
    throw new BackupError('usage', `the backup has no tablespace "${name}"; it has: ${known}`);
  }
  return [
    { area: 'data', directory: data },
    ...tablespaces.map(({ name, oid, location }) => {
      const inside = sourceDirectory === undefined ? undefined : insideOf(location, sourceDirectory);
      const directory = mapping[name] ?? (inside === undefined ? location : join(data, inside));
      return { area: String(oid), name, directory: canonical(directory) };
    }),
  ];
}

function insideOf(path: string, directory: string): string | undefined {
  const way = relative(directory, path);
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !way.startsWith(sep) ? way : undefined;
}

/** The path with the links of its existing part resolved, so that two names of one place are seen to be one. */
function canonical(path: string): string {
  const absolute = resolve(path);
  if (existsSync(absolute)) return realpathSync(absolute);
  const parent = dirname(absolute);
  return parent === absolute ? absolute : join(canonical(parent), basename(absolute));
}

/** Names that PostgreSQL itself uses in a data directory. */
const OF_POSTGRES =
  /^(base|global|pg_[a-z_]+|postmaster\..*|PG_VERSION|.*\.conf|.*\.signal|backup_.*|walkeep_.*|\.walkeep.*)$/;

/**
 * Refuses before anything is written (C1): a target that is not empty, lies inside a data directory or around one, or
 * overlaps another. A directory with the marker of an interrupted restore of the same backup is accepted.
 *
 * @param forbidden directories that must not be written into, such as that of the repository
 * @throws BackupError `directory-not-empty` | `usage`
 */
export function checkTargets(
  targets: readonly RestoreTarget[],
  backupId: string,
  forbidden: readonly string[],
): void {
  const [data] = targets;
  for (const [index, target] of targets.entries()) {
    for (const other of targets.slice(0, index)) refuseOverlap(other, target, data as RestoreTarget);
    for (const place of forbidden) {
      if (
        target.directory === place ||
        insideOf(target.directory, place) !== undefined ||
        insideOf(place, target.directory) !== undefined
      ) {
        throw new BackupError('usage', `${target.directory} overlaps the repository in ${place}`, {
          hint: 'choose a directory outside of it',
        });
      }
    }
    refuseDataDirectoryAround(target, targets);
    refuseContent(target, backupId);
  }
}

function refuseOverlap(one: RestoreTarget, other: RestoreTarget, data: RestoreTarget): void {
  const inner = insideOf(other.directory, one.directory);
  const isApart =
    one.directory !== other.directory &&
    inner === undefined &&
    insideOf(one.directory, other.directory) === undefined;
  if (isApart) return;
  // As at the source: a tablespace inside the data directory, beside PostgreSQL's own names.
  if (one === data && inner !== undefined && !OF_POSTGRES.test(inner.split(sep)[0] as string)) return;
  throw new BackupError(
    'usage',
    `the directories of ${describe(one)} and ${describe(other)} overlap: ${one.directory}, ${other.directory}`,
    {
      hint: 'give each its own: --tablespace NAME=DIRECTORY',
    },
  );
}

function describe({ name }: RestoreTarget): string {
  return name === undefined ? 'the data directory' : `tablespace "${name}"`;
}

function refuseDataDirectoryAround(target: RestoreTarget, targets: readonly RestoreTarget[]): void {
  for (let at = dirname(target.directory); at !== dirname(at); at = dirname(at)) {
    const isOurs = targets.some(({ directory }) => directory === at);
    if (!isOurs && existsSync(join(at, 'PG_VERSION')) && existsSync(join(at, 'global'))) {
      throw new BackupError('usage', `${target.directory} lies inside the data directory ${at}`, {
        hint: 'choose a directory outside of it',
      });
    }
  }
}

function refuseContent(target: RestoreTarget, backupId: string): void {
  const { directory } = target;
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    if (codeOf(error) === 'ENOTDIR')
      throw new BackupError('directory-not-empty', `${directory} is not a directory`);
    throw new BackupError('config-invalid', `can't look into ${directory}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  // mkfs leaves it at the root of a file system
  const found = names.filter((name) => name !== 'lost+found');
  if (found.length === 0) return;
  if (found.includes(RESTORE_MARKER)) return refuseOthersMarker(directory, backupId);
  const isRunning = found.includes('postmaster.pid');
  const isTablespace = found.some((name) => /^PG_\d+_\d+$/.test(name));
  const what = isRunning
    ? 'holds a PostgreSQL server that runs, or ran'
    : isTablespace
      ? 'holds a tablespace'
      : found.includes('PG_VERSION')
        ? 'holds a database'
        : `is not empty (${found.slice(0, 3).join(', ')}${found.length > 3 ? ', …' : ''})`;
  const hint =
    target.name === undefined
      ? 'give an empty or new directory; nothing was written. To restore in place, stop PostgreSQL and rename the old directory first'
      : `give it another: --tablespace ${target.name}=DIRECTORY; nothing was written`;
  throw new BackupError('directory-not-empty', `${directory} ${what}`, { hint });
}

function refuseOthersMarker(directory: string, backupId: string): void {
  const marker = readMarker(directory);
  if (marker === undefined) {
    throw new BackupError('directory-not-empty', `${directory} holds a ${RESTORE_MARKER} that can't be read`);
  }
  if (isAlive(marker, directory)) {
    throw new BackupError(
      'directory-not-empty',
      `another restore (process ${marker.pid}) is filling ${directory}`,
      {
        hint: 'wait for it or stop it; nothing was written',
      },
    );
  }
  if (existsSync(join(directory, 'global', 'pg_control'))) {
    // It was interrupted behind its last step; since then PostgreSQL may have run here.
    throw new BackupError(
      'directory-not-empty',
      `${directory} holds a complete restore of backup ${marker.backupId}`,
      {
        hint: `start PostgreSQL there and remove ${RESTORE_MARKER}, or give another directory; nothing was written`,
      },
    );
  }
  if (marker.backupId === backupId) return;
  throw new BackupError(
    'directory-not-empty',
    `${directory} holds an interrupted restore of backup ${marker.backupId}, and ${backupId} is to be restored now`,
    {
      hint: `go on with --backup-id ${marker.backupId}, or empty the directory`,
    },
  );
}

function readMarker(directory: string): Marker | undefined {
  try {
    const marker: unknown = JSON.parse(readFileSync(join(directory, RESTORE_MARKER), 'utf8'));
    const isMarker =
      typeof marker === 'object' &&
      marker !== null &&
      'backupId' in marker &&
      'pid' in marker &&
      'host' in marker;
    return isMarker ? (marker as Marker) : undefined;
  } catch {
    return undefined;
  }
}

function isAlive({ host, pid, processStart }: Marker, directory: string): boolean {
  if (host !== hostname()) return false;
  // An earlier restore of this process that failed is no obstacle: whoever tries again finishes it.
  if (pid === process.pid) return filling.has(directory);
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (codeOf(error) !== 'EPERM') return false;
  }
  return processStart === '' || startOf(pid) === processStart;
}

/** Since the boot, in ticks; empty where the system does not say. */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // the name in parentheses may hold anything
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

/** Refuses a restore that would not fit: what is known of its size against what is free, by file system. */
export function checkRoom(
  targets: readonly RestoreTarget[],
  bytesOf: (target: RestoreTarget) => number,
): void {
  const needs = new Map<number, { directory: string; bytes: number }>();
  for (const target of targets) {
    const existing = nearest(target.directory);
    const device = statSync(existing).dev;
    const need = needs.get(device) ?? { directory: existing, bytes: 0 };
    needs.set(device, { ...need, bytes: need.bytes + bytesOf(target) });
  }
  for (const { directory, bytes } of needs.values()) {
    const { bavail, bsize } = statfsSync(directory);
    if (bavail * bsize >= bytes) continue;
    const mebi = (value: number) => `${Math.ceil(value / 1024 / 1024)} MiB`;
    throw new BackupError(
      'disk-full',
      `the restore needs ${mebi(bytes)} at ${directory}, and ${mebi(bavail * bsize)} are free`,
      {
        hint: 'make room there; nothing was written',
      },
    );
  }
}

function nearest(path: string): string {
  for (let at = path; ; at = dirname(at)) if (existsSync(at)) return at;
}

/**
 * Who is to own what is restored. As root: who was asked for, or who owns the target, or its parent, or else the
 * system's `postgres`; PostgreSQL does not run as root. As anybody else: nobody but this user can.
 *
 * @param wanted a user's name, or `uid:gid`
 * @returns `undefined` when nothing has to be given away
 * @throws BackupError `usage` when nobody fits
 */
export function chooseOwner(targetDirectory: string, wanted: string | undefined): Owner | undefined {
  if (process.geteuid?.() !== 0) {
    if (wanted === undefined) return undefined;
    throw new BackupError('usage', 'only root can give the files to another user', {
      hint: 'leave --owner out, or run it as root',
    });
  }
  if (wanted !== undefined) {
    const numbers = /^(\d+):(\d+)$/.exec(wanted);
    const owner = numbers ? { uid: Number(numbers[1]), gid: Number(numbers[2]) } : userNamed(wanted);
    if (owner && owner.uid !== 0) return owner;
    throw new BackupError(
      'usage',
      `--owner ${wanted}: ${owner ? 'PostgreSQL does not run as root' : 'there is no such user'}`,
      {
        hint: 'name the user PostgreSQL runs as, or UID:GID',
      },
    );
  }
  for (const path of [targetDirectory, dirname(targetDirectory)]) {
    const existing = nearest(path);
    const { uid, gid } = statSync(existing);
    if (uid !== 0) return { uid, gid };
  }
  const postgres = userNamed('postgres');
  if (postgres) return postgres;
  throw new BackupError(
    'usage',
    `${dirname(targetDirectory)} belongs to root, and PostgreSQL does not run as root`,
    {
      hint: 'name the user it runs as: --owner USER',
    },
  );
}

function userNamed(name: string): Owner | undefined {
  try {
    const line = readFileSync('/etc/passwd', 'utf8')
      .split('\n')
      .find((entry) => entry.startsWith(`${name}:`));
    const [, , uid, gid] = line?.split(':') ?? [];
    return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
  } catch {
    return undefined;
  }
}

/** Makes the directories and marks them; from here on an interrupted restore is recognised. */
export function markTargets(
  targets: readonly RestoreTarget[],
  backupId: string,
  owner: Owner | undefined,
  now: Date,
): void {
  for (const { area, directory } of targets) {
    const made = mkdirSync(directory, { recursive: true, mode: 0o700 });
    if (made !== undefined && owner) giveParents(made, directory, owner);
    else if (owner) chownSync(directory, owner.uid, owner.gid);
    const marker: Marker = {
      version: 1,
      backupId,
      area,
      host: hostname(),
      pid: process.pid,
      processStart: startOf(process.pid),
      startedAt: now.toISOString(),
    };
    writeMarker(directory, marker);
  }
}

function writeMarker(directory: string, marker: Marker): void {
  const path = join(directory, RESTORE_MARKER);
  // One that is there was looked at before; only an ordinary file of that name is written over, and by another file:
  // half a marker would keep the same command from beginning anew.
  const isTaken = existsSync(path) && lstatSync(path).isFile();
  const written = isTaken ? `${path}.new` : path;
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW;
  const fd = openSync(written, flags | (isTaken ? constants.O_TRUNC : constants.O_EXCL), 0o600);
  try {
    try {
      writeSync(fd, `${JSON.stringify(marker)}\n`);
    } finally {
      closeSync(fd);
    }
    if (isTaken) renameSync(written, path);
  } catch (error) {
    unlinkSync(written);
    throw error;
  }
}

function giveParents(first: string, last: string, { uid, gid }: Owner): void {
  for (let at = last; at.length >= first.length; at = dirname(at)) chownSync(at, uid, gid);
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}
