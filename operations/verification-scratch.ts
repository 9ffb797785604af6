import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';
import { isVerificationId } from '../repository/verifications.ts';
import { isRunning, processStart, stopForeignServer } from './verification-processes.ts';
import { chooseOwner, type Owner } from './restore-targets.ts';

/** The directory of one verification, and what lies in it. Everything in it was made by that verification. */
export interface Scratch {
  readonly id: string;
  readonly directory: string;
  /** The restored data directory. */
  readonly data: string;
  readonly tablespaces: string;
  readonly socketDirectory: string;
  readonly hbaFile: string;
  readonly identFile: string;
  readonly configFile: string;
  readonly log: string;
  /** As root: who owns the copy and runs its server. */
  readonly owner: Owner | undefined;
}

interface Marker {
  readonly version: 1;
  readonly verification: string;
  readonly cluster: string;
  readonly host: string;
  readonly pid: number;
  readonly processStart: string;
  readonly startedAt: string;
  /** Where it is not inside. */
  readonly socketDirectory?: string;
}

const MARKER = 'walkeep-verification.json';
const SOCKET = '.s.PGSQL.5432';
/** `sizeof(sockaddr_un.sun_path)`, less the terminating zero. */
const LONGEST_SOCKET_BYTES = 107;
/** Verifications of this very process: a marker names the process, not which of its verifications. */
const active = new Set<string>();

export interface ScratchPlace {
  /** Where verifications have their directories. */
  readonly root: string;
  /** Somebody asked for this very place. */
  readonly isGiven: boolean;
  /** The data directory of the production server on this host. */
  readonly pgdata?: string | undefined;
}

/**
 * Refuses a place that the production server's own disk would have to provide: a verification that fills it would take
 * the database down.
 *
 * @throws BackupError `verification-impossible`
 */
export function requireOwnFileSystem({ root, isGiven, pgdata }: ScratchPlace): void {
  if (isGiven || pgdata === undefined || !existsSync(pgdata)) return;
  if (statSync(nearest(root)).dev !== statSync(pgdata).dev) return;
  throw new BackupError(
    'verification-impossible',
    `the scratch directory ${root} is on the file system of the data directory ${pgdata}`,
    {
      hint: 'give one on another disk: scratch.directory in the ScheduledVerification, or --scratch DIRECTORY. If it is to be this file system, name the directory there all the same',
    },
  );
}

export interface RoomRequest {
  readonly root: string;
  readonly neededBytes: number;
  /** Percent of the file system that has to stay free. */
  readonly minFreePercent: number;
}

/** @throws BackupError `verification-impossible` when the copy would leave less free than it may */
export function requireRoom({ root, neededBytes, minFreePercent }: RoomRequest): void {
  const { bavail, blocks, bsize } = statfsSync(nearest(root));
  const keep = (blocks * bsize * minFreePercent) / 100;
  const free = bavail * bsize;
  if (free - neededBytes >= keep) return;
  const mebi = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;
  throw new BackupError(
    'verification-impossible',
    `the copy needs ${mebi(neededBytes)} below ${root}, of ${mebi(free)} that are free, and ${mebi(keep)} (minFree ${minFreePercent}%) have to stay free`,
    { hint: 'make room, give another scratch directory, or a smaller scratch.minFree' },
  );
}

/** Whether less than half of what has to stay free is left: then a running verification stops before others suffer. */
export function isRunningOut(root: string, minFreePercent: number): boolean {
  const { bavail, blocks } = statfsSync(nearest(root));
  return bavail < (blocks * minFreePercent) / 200;
}

/**
 * Makes the directory of a verification; it was not there before, and nobody else reaches into it.
 *
 * @throws BackupError `verification-impossible` when it can't be made, or PostgreSQL's user could not get there
 */
export async function createScratch(root: string, id: string, cluster: string): Promise<Scratch> {
  const base = resolve(root);
  const directory = join(base, id);
  const inside = join(directory, 'run');
  const isShort = Buffer.byteLength(join(inside, SOCKET)) <= LONGEST_SOCKET_BYTES;
  const socketDirectory = isShort ? inside : join(tmpdir(), `walkeep-${id}`);
  const marker: Marker = {
    version: 1,
    verification: id,
    cluster,
    host: hostname(),
    pid: process.pid,
    processStart: processStart(process.pid),
    startedAt: new Date().toISOString(),
    ...(isShort ? {} : { socketDirectory }),
  };
  let isMade = false;
  try {
    const owner = chooseOwner(directory, undefined);
    const give = (path: string) => owner && chownSync(path, owner.uid, owner.gid);
    const made = mkdirSync(base, { recursive: true, mode: 0o700 });
    if (made !== undefined) give(base);
    // Not recursive: one that is there is somebody else's.
    mkdirSync(directory, { mode: 0o700 });
    active.add(directory);
    isMade = true;
    writeFileSync(join(directory, MARKER), `${JSON.stringify(marker)}\n`, { flag: 'wx', mode: 0o600 });
    mkdirSync(socketDirectory, { mode: 0o700 });
    const scratch: Scratch = {
      id,
      directory,
      data: join(directory, 'data'),
      tablespaces: join(directory, 'tablespaces'),
      socketDirectory,
      hbaFile: join(directory, 'pg_hba.conf'),
      identFile: join(directory, 'pg_ident.conf'),
      configFile: join(directory, 'postgresql.conf'),
      log: join(directory, 'server.log'),
      owner,
    };
    mkdirSync(scratch.tablespaces, { mode: 0o700 });
    for (const path of [directory, socketDirectory, scratch.tablespaces]) give(path);
    if (owner) requireReachable(directory, owner);
    return scratch;
  } catch (error) {
    if (isMade) await removeOwn(directory, socketDirectory);
    if (error instanceof BackupError && error.code === 'verification-impossible') throw error;
    throw new BackupError('verification-impossible', `can't make ${directory}: ${messageOf(error)}`, {
      cause: error,
      hint: 'give a directory that this user may write into: scratch.directory, or --scratch DIRECTORY',
    });
  }
}

/** As root: PostgreSQL's user has to get through every directory on the way. */
function requireReachable(directory: string, { uid, gid }: Owner): void {
  for (let at = dirname(directory); ; at = dirname(at)) {
    const { mode, uid: of, gid: group } = statSync(at);
    const bit = of === uid ? 0o100 : group === gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) {
      throw new BackupError(
        'verification-impossible',
        `PostgreSQL's user (${uid}) may not enter ${at}, which is on the way to ${directory}`,
        { hint: 'give a scratch directory that it can reach, or run this as that user' },
      );
    }
    if (at === dirname(at)) return;
  }
}

/** Removes a verification's directory with all that is in it. Its server has to have ended. */
export async function removeScratch({ directory, socketDirectory }: Scratch): Promise<void> {
  await removeOwn(directory, socketDirectory);
}

async function removeOwn(directory: string, socketDirectory: string | undefined): Promise<void> {
  if (socketDirectory !== undefined && dirname(socketDirectory) !== directory) {
    await rm(socketDirectory, { recursive: true, force: true });
  }
  // The marker goes last: what can't be removed now is still known to be a verification's.
  for (const name of existsSync(directory) ? readdirSync(directory) : []) {
    if (name === MARKER) continue;
    openUp(join(directory, name));
    await rm(join(directory, name), { recursive: true, force: true, maxRetries: 3 });
  }
  await rm(directory, { recursive: true, force: true });
  active.delete(directory);
}

/** A directory without its write bit, as it may come out of a tar, can't be emptied. */
function openUp(path: string): void {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) chmodSync(path, 0o700);
}

/**
 * Removes what verifications left behind whose process is gone: their servers are ended, their directories removed.
 * Another process's verification that goes on, another host's, and everything else that lies there, is left alone.
 *
 * @returns what was done, and what could not be, for people
 */
export async function cleanLeftovers(root: string, id: string): Promise<string[]> {
  const base = resolve(root);
  if (!existsSync(base)) return [];
  const told: string[] = [];
  for (const name of readdirSync(base).filter(isVerificationId)) {
    const directory = join(base, name);
    const marker = readMarker(directory);
    if (marker === undefined) {
      removeIfEmpty(directory);
      continue;
    }
    if (marker.host !== hostname() || isAlive(marker, directory)) {
      if (name === id) {
        throw new BackupError('lease-held', `verification ${id} is going on in ${directory}`, {
          hint: 'wait for it',
        });
      }
      continue;
    }
    try {
      const ended = await stopForeignServer(join(directory, 'data'));
      await removeOwn(directory, ownSocketDirectory(marker, name));
      told.push(`removed what verification ${name} had left behind${ended ? ', and ended its server' : ''}`);
    } catch (error) {
      told.push(`what verification ${name} left in ${directory} can't be removed: ${messageOf(error)}`);
    }
  }
  return told;
}

/** A marker was written by us, yet what it names outside of its directory is removed only if it looks like ours. */
function ownSocketDirectory({ socketDirectory }: Marker, id: string): string | undefined {
  return socketDirectory === join(tmpdir(), `walkeep-${id}`) ? socketDirectory : undefined;
}

function isAlive(marker: Marker, directory: string): boolean {
  if (marker.pid === process.pid && marker.processStart === processStart(process.pid))
    return active.has(directory);
  return isRunning(marker.pid, marker.processStart);
}

function readMarker(directory: string): Marker | undefined {
  try {
    const marker: unknown = JSON.parse(readFileSync(join(directory, MARKER), 'utf8'));
    const isMarker =
      typeof marker === 'object' &&
      marker !== null &&
      'version' in marker &&
      marker.version === 1 &&
      'host' in marker &&
      'pid' in marker &&
      typeof marker.pid === 'number';
    return isMarker ? (marker as Marker) : undefined;
  } catch {
    return undefined;
  }
}

/** A verification that was killed between its first two steps has left an empty directory. */
function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch {
    // it holds something that no verification has marked: not ours
  }
}

function nearest(path: string): string {
  for (let at = resolve(path); ; at = dirname(at)) if (existsSync(at)) return at;
}
