/**
 * What has to be true at the end of every fault, crash and soak test (invariants.md, "The five oracles"): O1 the ledger,
 * O2 the sentinel rows, O3 the leftovers.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import { fetchWal } from '../../operations/fetch-wal.ts';
import type { Repository } from '../../repository/repository.ts';
import { onCleanUp } from './cleanup.ts';
import type { Canary, Commit } from './canary.ts';
import type { Postgres } from './postgres.ts';
import { descendantsOf } from './processes.ts';
import type { S3Server } from './s3.ts';
import { giveToServerUser } from './server-user.ts';
import { makeTempDir } from './temp.ts';
import { until } from './wait.ts';

const NEVER = new AbortController().signal;

// ---- O1 ------------------------------------------------------------------------------------------------------------

/** Keeps a copy of every file at the moment its `archive_command` said 0. */
export interface Ledger {
  /** The line for PostgreSQL: runs `command`, notes its answer, and passes it on. */
  around(command: string): string;
  /** Names that were answered with 0. */
  confirmed(): string[];
  /** Answers other than 0, as they came. */
  refused(): number[];
  /**
   * O1: each file that was answered 0 is fetched from the repository as a recovery would, and equal.
   *
   * @returns their names
   */
  requireKept(repository: Repository): Promise<string[]>;
}

export function createLedger(): Ledger {
  const directory = makeTempDir('ledger');
  const confirmed = (): string[] =>
    readdirSync(directory)
      .filter((name) => name !== 'refused')
      .toSorted();
  return {
    around: (command) =>
      `(${command}); s=$?; if [ $s = 0 ]; then cp "%p" ${directory}/.%f && mv ${directory}/.%f ${directory}/%f; ` +
      `else echo "$s %f" >> ${directory}/refused; fi; exit $s`,
    confirmed,
    refused() {
      const path = join(directory, 'refused');
      if (!existsSync(path)) return [];
      return readFileSync(path, 'utf8')
        .trim()
        .split('\n')
        .map((line) => Number(line.split(' ')[0]));
    },
    async requireKept(repository) {
      const target = makeTempDir('fetched');
      const names = confirmed().filter((name) => !name.startsWith('.'));
      for (const name of names) {
        const destination = join(target, name);
        const ports = { repository: async () => repository, deadlineMs: 30_000 };
        const { outcome } = await fetchWal(ports, name, destination, { signal: NEVER });
        if (outcome !== 'fetched')
          throw new Error(`O1: ${name} was answered 0, and is ${outcome} in ${repository.url}`);
        if (!readFileSync(destination).equals(readFileSync(join(directory, name))))
          throw new Error(`O1: ${name} was answered 0, and ${repository.url} holds other bytes`);
      }
      return names;
    },
  };
}

// ---- O2 ------------------------------------------------------------------------------------------------------------

/** Stops a canary and has all its commits archived: from here on every restore to the end has to show them. */
export async function archiveAll(canary: Canary, postgres: Postgres): Promise<readonly Commit[]> {
  const commits = await canary.stop();
  await postgres.waitUntilArchived(await postgres.switchWal());
  return commits;
}

/**
 * O2: what a restored server shows is what was acknowledged and archived: every commit, and nothing else.
 *
 * @param ids of table `canary`, as the server has them
 * @param possible one more that may be there: sent, and killed before it was acknowledged
 */
export function requireCommits(
  ids: readonly (number | string)[],
  commits: readonly Commit[],
  { possible = 0 }: { possible?: number } = {},
): void {
  const found = ids.map(Number);
  const expected = commits.map(({ id }) => id);
  const extra = found.slice(expected.length);
  const isPrefix = expected.every((id, at) => found[at] === id);
  if (isPrefix && extra.length <= possible && extra.every((id, at) => id === expected.length + at + 1))
    return;
  throw new Error(
    `O2: ${expected.length} commits were acknowledged and archived, the restored server has ${found.length}: ${found.slice(-5).join(', ')}`,
  );
}

// ---- O3 ------------------------------------------------------------------------------------------------------------

/** Where to look for what should be gone. */
interface Places {
  readonly postgres?: Postgres | readonly Postgres[];
  /** Roots of directory repositories. */
  readonly stores?: readonly string[];
  readonly s3?: S3Server;
  /** Data directories, of the source and restored. */
  readonly dataDirectories?: readonly string[];
  readonly states?: readonly string[];
  /** Processes that are meant to be there, such as the worker that runs, and all they started. */
  readonly expectedPids?: readonly number[];
}

/** Everything that was left, by kind. */
interface Leftovers {
  readonly sessions: readonly string[];
  readonly slots: readonly string[];
  readonly advisoryLocks: readonly string[];
  readonly temporaryFiles: readonly string[];
  readonly uploads: readonly string[];
  readonly processes: readonly string[];
}

/**
 * O3: no backup session, slot, advisory lock, temporary file, multipart upload or child process is left. What ends a
 * moment after its cause is waited for.
 */
export async function requireNothingLeft(places: Places, { timeoutMs = 10_000 } = {}): Promise<void> {
  let found = await leftoversOf(places);
  const isClean = async (): Promise<boolean> => {
    found = await leftoversOf(places);
    return Object.values(found).every((list: readonly string[]) => list.length === 0);
  };
  await until('nothing to be left', isClean, { timeoutMs, everyMs: 200 }).catch(() => {
    throw new Error(`O3: left over: ${JSON.stringify(found, null, 2)}`);
  });
}

async function leftoversOf(places: Places): Promise<Leftovers> {
  const servers = places.postgres === undefined ? [] : [places.postgres].flat();
  const atServers = await Promise.all(servers.map(leftAtServer));
  return {
    sessions: atServers.flatMap(({ sessions }) => sessions),
    slots: atServers.flatMap(({ slots }) => slots),
    advisoryLocks: atServers.flatMap(({ locks }) => locks),
    temporaryFiles: [
      ...(places.stores ?? []).flatMap((root) => below(join(root, '.walkeep-tmp'), () => true)),
      ...(places.states ?? []).flatMap((root) => below(root, (name) => name.startsWith('.tmp-'))),
      ...(places.dataDirectories ?? []).flatMap((root) =>
        below(
          root,
          (name) =>
            name.startsWith('.walkeep') || name.endsWith('.walkeep-withheld') || name.startsWith('xlogtemp.'),
        ),
      ),
    ],
    uploads: places.s3 ? await unfinishedUploads(places.s3) : [],
    processes: processesAbout(
      [...(places.states ?? []), ...(places.stores ?? [])],
      places.expectedPids ?? [],
    ),
  };
}

async function leftAtServer(postgres: Postgres) {
  // The worker asks for the role every now and then, on a session named `walkeep`: that is no backup's.
  const sessions = await postgres.psql<{ name: string }>(
    `SELECT application_name AS name FROM pg_stat_activity WHERE application_name LIKE 'walkeep %'`,
  );
  const slots = await postgres.psql<{ name: string }>(
    `SELECT slot_name::text AS name FROM pg_replication_slots`,
  );
  const locks = await postgres.psql<{ name: string }>(
    `SELECT classid || '/' || objid AS name FROM pg_locks WHERE locktype = 'advisory'`,
  );
  const names = (rows: readonly { name: string }[]) => rows.map(({ name }) => name);
  return { sessions: names(sessions), slots: names(slots), locks: names(locks) };
}

async function unfinishedUploads(s3: S3Server): Promise<string[]> {
  const client = s3.client();
  try {
    const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket: s3.bucket }));
    return Uploads.map(({ Key = '?' }) => Key);
  } finally {
    client.destroy();
  }
}

/** Files below `root`, at any depth, whose name is one of those. */
function below(root: string, isWanted: (name: string) => boolean): string[] {
  if (!existsSync(root)) return [];
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory() && isWanted(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Processes whose command line names one of the paths: workers, clients of PostgreSQL, whatever they started. */
function processesAbout(paths: readonly string[], expected: readonly number[]): string[] {
  const ignored = new Set([process.pid, ...expected.flatMap((pid) => [pid, ...descendantsOf(pid)])]);
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && !ignored.has(Number(name)))
    .flatMap((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        return paths.some((path) => line.includes(path)) ? [`${pid} ${line.slice(0, 200)}`] : [];
      } catch {
        return []; // it ended while we looked
      }
    });
}

// ---- nothing lost, nothing changed ---------------------------------------------------------------------------------

/**
 * Everything below some directories, to be compared before and after: names, kinds, owners, modes and contents. What is
 * not there is a fact, too.
 */
export function pictureOf(...roots: readonly string[]): Readonly<Record<string, string>> {
  const picture: Record<string, string> = {};
  const look = (path: string): void => {
    const about = lstatSync(path, { throwIfNoEntry: false });
    if (about === undefined) {
      picture[path] = 'absent';
      return;
    }
    const rights = `${about.uid}:${about.gid} ${(about.mode & 0o7777).toString(8)}`;
    if (about.isDirectory()) {
      picture[path] = `directory ${rights}`;
      for (const name of readdirSync(path)) look(join(path, name));
    } else if (about.isSymbolicLink()) picture[path] = `link to ${readlinkSync(path)}`;
    else if (about.isFile())
      picture[path] = `file ${rights} ${createHash('sha256').update(readFileSync(path)).digest('hex')}`;
    else picture[path] = 'something else';
  };
  for (const root of roots) look(root);
  return picture;
}

/** A file system of so many MiB, for the server's user; `undefined`, said loudly, where none may be mounted. */
export function mountSmall(sizeMiB: number): { directory: string; grow(toMiB: number): void } | undefined {
  const directory = makeTempDir('small');
  const mount = (options: string, ...rest: string[]) =>
    execFileSync('mount', ['-o', options, ...rest, directory], { stdio: 'ignore' });
  try {
    mount(`size=${sizeMiB}m,mode=755`, '-t', 'tmpfs', 'tmpfs');
  } catch {
    process.stderr.write('skipped: no tmpfs of a set size can be mounted here\n');
    return undefined;
  }
  onCleanUp(() => void execFileSync('umount', ['--lazy', directory]));
  giveToServerUser(directory);
  return { directory, grow: (toMiB) => void mount(`remount,size=${toMiB}m`) };
}
