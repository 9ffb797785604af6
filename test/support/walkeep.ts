import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import pg from 'pg';
import { onCleanUp } from './cleanup.ts';
import { createPostgres, type CreateOptions, type Postgres } from './postgres.ts';
import {
  freePort,
  type Outcome,
  type Process,
  runProcess,
  runSuccessfully,
  startProcess,
} from './processes.ts';
import { startS3 } from './s3.ts';
import { giveToServerUser, serverUser } from './server-user.ts';
import { makeTempDir } from './temp.ts';
import type { TemporalServer } from './temporal.ts';
import { type Major, postgresBin, repositoryRoot } from './tools.ts';
import { until } from './wait.ts';

const PROGRAM = join(repositoryRoot, 'scripts/walkeep');
const API_VERSION = 'postgresql.cnpg.io/v1';

/** A machine as a user has one: a state directory of its own, and what commands there find in their environment. */
export interface Machine {
  readonly state: string;
  /** Runs `walkeep ARGS` to its end, whatever that is, as the user that PostgreSQL runs as. */
  walkeep(...args: string[]): Promise<Outcome>;
  /** As `walkeep`, and throws with all it wrote unless it ended with 0. @returns standard output */
  succeed(...args: string[]): Promise<string>;
  /** As `succeed`, for commands that were told to write JSON. */
  json<Answer>(...args: string[]): Promise<Answer>;
  /** `walkeep apply -f` a file with these documents. @returns what it said, line by line */
  apply(...documents: readonly object[]): Promise<string[]>;
  startWorker(options: WorkerOptions): Promise<Worker>;
}

export interface WorkerOptions {
  readonly cluster: string;
  readonly instance: string;
  /** May be missing: then the worker waits for a restore. */
  readonly pgdata: string;
}

/** `walkeep worker`, in a process of its own. */
export interface Worker {
  readonly process: Process;
  /** Resolves when it takes work from Temporal. */
  waitUntilReady(): Promise<void>;
  /** What `/readyz` answers at this moment. */
  isReady(): Promise<boolean>;
  /** SIGTERM, and waits until it has drained. */
  stop(): Promise<void>;
}

export interface MachineOptions {
  readonly temporal: TemporalServer;
  /** The server that commands and workers of this machine find by libpq's environment; it may not be there yet. */
  readonly postgres?: Pick<Postgres, 'environment'>;
  /** The state directory of a machine that is there already: the same one, in another environment. */
  readonly state?: string;
}

export function createMachine({ temporal, postgres, state = newState() }: MachineOptions): Machine {
  const env = {
    ...process.env,
    ...(postgres?.environment ?? { PGHOST: '/nowhere' }),
    ...temporal.environment,
    WALKEEP_STATE: state,
  };
  const options = { user: serverUser, env, timeoutMs: 170_000 };
  const succeed = (...args: string[]): Promise<string> => runSuccessfully(PROGRAM, args, options);
  return {
    state,
    walkeep: (...args) => runProcess(PROGRAM, args, options),
    succeed,
    async json<Answer>(...args: string[]) {
      // Our own program wrote it, and the test looks at what it needs of it.
      return JSON.parse(await succeed(...args, '-o', 'json')) as Answer;
    },
    async apply(...documents) {
      const file = join(makeTempDir('manifest'), `${randomUUID()}.yaml`);
      // JSON is YAML.
      writeFileSync(file, documents.map((document) => JSON.stringify(document, null, 2)).join('\n---\n'));
      giveToServerUser(file);
      return (await succeed('apply', '-f', file)).trim().split('\n');
    },
    startWorker: (worker) => startWorker(worker, env),
  };
}

function newState(): string {
  const state = join(makeTempDir('state'), 's');
  mkdirSync(state, { mode: 0o700 });
  giveToServerUser(state);
  return state;
}

async function startWorker(
  { cluster, instance, pgdata }: WorkerOptions,
  env: NodeJS.ProcessEnv,
): Promise<Worker> {
  const address = `127.0.0.1:${await freePort()}`;
  const args = ['worker', '--cluster', cluster, '--instance', instance, '--pgdata', pgdata];
  const child = startProcess(PROGRAM, [...args, '--metrics', address], { user: serverUser, env });
  const answers = async (path: string): Promise<boolean> => {
    if (!child.isRunning()) throw new Error(`the worker ended:\n${child.output().slice(-4000)}`);
    return (await fetch(`http://${address}${path}`)).ok;
  };
  await until('the worker to be healthy', () => answers('/healthz'), { timeoutMs: 60_000 });
  return {
    process: child,
    isReady: () => answers('/readyz'),
    async waitUntilReady() {
      await until('the worker to be ready', () => answers('/readyz'), { timeoutMs: 90_000, everyMs: 200 });
    },
    async stop() {
      const { code } = await child.stop('SIGTERM', 60_000);
      if (code !== 0) throw new Error(`the worker ended with ${code}:\n${child.output().slice(-4000)}`);
    },
  };
}

export type Compression = 'gzip' | 'zstd';

export interface SiteOptions extends Omit<CreateOptions, 'archiveCommand'> {
  readonly temporal: TemporalServer;
  readonly cluster?: string;
  /** Where the repository is; by default a directory. */
  readonly store?: 'directory' | 's3';
  readonly compression?: { readonly wal?: Compression; readonly data?: Compression | 'lz4' };
}

/** A PostgreSQL that walkeep protects, set up as the README says, by nothing but the command line. */
export interface Site {
  readonly cluster: string;
  readonly machine: Machine;
  readonly postgres: Postgres;
  readonly worker: Worker;
  /** The Cluster (and the Secret it names) that was applied. */
  readonly manifests: readonly object[];
  /** As an entry of `externalClusters` has it. */
  readonly barmanObjectStore: Readonly<Record<string, unknown>>;
  readonly repository: RepositoryFiles;
  /** `walkeep backup CLUSTER --name NAME --wait` with an immediate checkpoint. @returns the Backup's status */
  backup(name: string, ...args: string[]): Promise<BackupStatus>;
  /** `walkeep restore CLUSTER … --start` into a new directory. */
  restore(...args: string[]): Promise<Restored>;
}

/** What `walkeep backup -o json` says, in CloudNativePG's words. */
export interface BackupStatus {
  readonly phase: string;
  readonly backupId: string;
  readonly backupName: string;
  readonly beginWal: string;
  readonly endWal: string;
  readonly beginLSN: string;
  readonly endLSN: string;
  readonly instanceID?: { readonly podName: string };
}

/** PostgreSQL, a worker, and a manifest applied; WAL is archived when this resolves. */
export async function startSite({
  temporal,
  cluster = 'main',
  store = 'directory',
  compression = {},
  ...options
}: SiteOptions): Promise<Site> {
  const [postgres, place] = await Promise.all([createPostgres(options), createPlace(store, cluster)]);
  const machine = createMachine({ temporal, postgres });
  const barmanObjectStore = {
    ...place.store,
    ...(compression.wal && { wal: { compression: compression.wal } }),
    ...(compression.data && { data: { compression: compression.data, jobs: 2 } }),
  };
  const manifests = [...place.secrets, clusterManifest(cluster, { backup: { barmanObjectStore } })];
  const pgdata = postgres.dataDirectory;
  const worker = await machine.startWorker({ cluster, instance: `${cluster}-1`, pgdata });
  await worker.waitUntilReady();
  await machine.apply(...manifests);
  await archiveBy(machine, cluster, postgres);
  await postgres.waitUntilArchived(await postgres.switchWal());
  return {
    cluster,
    machine,
    postgres,
    worker,
    manifests,
    barmanObjectStore,
    repository: repositoryFiles(place.directory, cluster),
    backup: (name, ...args) =>
      machine.json('backup', cluster, '--name', name, '--immediate-checkpoint', '--wait', ...args),
    restore: (...args) => restoreAndStart(machine, options.major, 'restore', cluster, ...args),
  };
}

/** Puts the line that `walkeep archive-command` prints into the server's configuration. */
export async function archiveBy(machine: Machine, cluster: string, postgres: Postgres): Promise<void> {
  // What was applied reaches the worker's host a moment after `apply` has returned.
  const line = await until('the manifest to be on this host', () =>
    machine.succeed('archive-command', '--cluster', cluster, '--pgdata', postgres.dataDirectory),
  );
  writeFileSync(join(postgres.dataDirectory, 'postgresql.conf'), line, { flag: 'a' });
  await postgres.reload();
}

export function clusterManifest(name: string, spec: object): object {
  return {
    apiVersion: API_VERSION,
    kind: 'Cluster',
    metadata: { name },
    spec: { instances: 1, storage: { size: '1Gi' }, ...spec },
  };
}

export function backupManifest(name: string, cluster: string): object {
  return {
    apiVersion: API_VERSION,
    kind: 'Backup',
    metadata: { name },
    spec: { cluster: { name: cluster } },
  };
}

/** Files that a backup needs and that are not archived at this moment: none, once it is complete. */
export function missingWal({ repository }: Site, { beginWal, endWal }: BackupStatus): string[] {
  const archived = new Set(repository.walFiles());
  return [beginWal, endWal].filter((name) => !archived.has(name));
}

interface Place {
  /** `destinationPath` and how to get there. */
  readonly store: Readonly<Record<string, unknown>>;
  readonly secrets: readonly object[];
  /** Where the objects are files. */
  readonly directory: string;
}

async function createPlace(store: 'directory' | 's3', cluster: string): Promise<Place> {
  if (store === 'directory') {
    const directory = join(makeTempDir('repo'), 'r');
    mkdirSync(directory, { mode: 0o700 });
    giveToServerUser(directory);
    return { store: { destinationPath: `file://${directory}` }, secrets: [], directory };
  }
  const s3 = await startS3();
  const name = `${cluster}-keys`;
  const stringData = { ID: s3.accessKeyId, KEY: s3.secretAccessKey, REGION: s3.region };
  return {
    store: {
      destinationPath: `s3://${s3.bucket}/deep/er`,
      endpointURL: s3.endpointUrl,
      s3Credentials: {
        accessKeyId: { name, key: 'ID' },
        secretAccessKey: { name, key: 'KEY' },
        region: { name, key: 'REGION' },
      },
    },
    secrets: [{ apiVersion: 'v1', kind: 'Secret', metadata: { name }, stringData }],
    directory: join(s3.directory, s3.bucket, 'deep/er'),
  };
}

/** A repository seen from behind its store: what is there, whoever says what. */
export interface RepositoryFiles {
  /** Folders of base backups, listed or not. */
  backupFolders(): string[];
  /** Ids of those with a record. */
  recordedBackups(): string[];
  /** Names of archived files without the suffix of their compression, in order. */
  walFiles(): string[];
  /** Writes all archived segments, decompressed by Node's own zlib, into a new directory. */
  unpackWal(): string;
}

function repositoryFiles(directory: string, cluster: string): RepositoryFiles {
  const base = join(directory, cluster, 'base');
  const wals = join(directory, cluster, 'wals');
  const backupFolders = (): string[] => (existsSync(base) ? readdirSync(base).toSorted() : []);
  const stored = (): { name: string; path: string }[] =>
    (existsSync(wals) ? readdirSync(wals, { recursive: true, withFileTypes: true }) : [])
      .filter((entry) => entry.isFile() && /^[0-9A-F]{8}/.test(entry.name))
      .map((entry) => ({
        name: entry.name.replace(/\.(gz|zst|lz4)$/, ''),
        path: join(entry.parentPath, entry.name),
      }));
  return {
    backupFolders,
    recordedBackups: () => backupFolders().filter((id) => existsSync(join(base, id, 'backup.info'))),
    walFiles: () =>
      stored()
        .map(({ name }) => name)
        .toSorted(),
    unpackWal() {
      const target = makeTempDir('wal');
      for (const { name, path } of stored()) {
        if (/^[0-9A-F]{24}$/.test(name)) writeFileSync(join(target, name), decompressed(path));
      }
      return target;
    },
  };
}

function decompressed(path: string): Buffer {
  const bytes = readFileSync(path);
  if (path.endsWith('.gz')) return gunzipSync(bytes);
  return path.endsWith('.zst') ? zstdDecompressSync(bytes) : bytes;
}

/** A server that `walkeep restore --start` left running. */
export interface Restored {
  readonly directory: string;
  readonly plan: { readonly backupId: string; readonly targetTimeline: number; readonly walSegments: number };
  readonly recovery: { readonly state: string; readonly timeline?: number; readonly reason?: string };
  readonly warnings: readonly string[];
  psql<Row extends pg.QueryResultRow = pg.QueryResultRow>(sql: string): Promise<Row[]>;
  /** Ends it at once; what it had to show was seen. */
  stop(): Promise<void>;
  /** Ends it and removes its data directory. */
  remove(): Promise<void>;
}

/** Runs a `walkeep restore …` that starts PostgreSQL, with a socket of its own. */
export async function restoreAndStart(
  machine: Machine,
  major: Major,
  ...args: readonly string[]
): Promise<Restored> {
  const directory = join(makeTempDir('restored'), 'data');
  const sockets = makeTempDir('sock');
  const settings = { unix_socket_directories: sockets, listen_addresses: '', port: '5432' };
  const stop = async (): Promise<void> => {
    if (!existsSync(join(directory, 'postmaster.pid'))) return;
    await runSuccessfully(
      join(postgresBin(major), 'pg_ctl'),
      ['-D', directory, '-m', 'immediate', '-w', 'stop'],
      { user: serverUser },
    );
  };
  onCleanUp(stop);
  const answer = await machine.json<
    Pick<Restored, 'plan' | 'recovery'> & { restored: { warnings: string[] } }
  >(
    ...args,
    '--target-directory',
    directory,
    ...Object.entries(settings).flatMap(([name, value]) => ['--set', `${name}=${value}`]),
    '--start',
    '--postgres-bin',
    postgresBin(major),
  );
  return {
    directory,
    plan: answer.plan,
    recovery: answer.recovery,
    warnings: answer.restored.warnings,
    async psql<Row extends pg.QueryResultRow>(sql: string) {
      const client = new pg.Client({ host: sockets, port: 5432, user: 'postgres', database: 'postgres' });
      await client.connect();
      try {
        const results = [await client.query<Row>(sql)].flat();
        return results.at(-1)?.rows ?? [];
      } finally {
        await client.end();
      }
    },
    stop,
    async remove() {
      await stop();
      rmSync(directory, { recursive: true });
    },
  };
}
