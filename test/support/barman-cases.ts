import { cpSync, existsSync, mkdirSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ListObjectsV2Command } from '@aws-sdk/client-s3';
import pg from 'pg';
import { Secret } from '../../core/secret.ts';
import { thisInstallation } from '../../operations/installation.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import {
  confirmBackup,
  copyBackup,
  recordBackup,
  type BackupPorts,
  type CopiedBackup,
  type TakeBackupInput,
} from '../../operations/take-backup.ts';
import { archiveCommandLine } from '../../operations/wal-command-lines.ts';
import { connectionFromEnvironment } from '../../postgres/connection.ts';
import { readBackupManifest } from '../../repository/backup-record.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import type { StoreConfig } from '../../stores/store-config.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { applyTestCluster } from './applied-cluster.ts';
import { barmanCloud, s3Arguments, type BarmanCloudProgram } from './barman.ts';
import { openPostgres, type Postgres, type Settings } from './postgres.ts';
import { descendantsOf, runProcess, runSuccessfully, startProcess, type Outcome } from './processes.ts';
import type { S3Server } from './s3.ts';
import { giveToServerUser, serverUser } from './server-user.ts';
import { makeTempDir } from './temp.ts';
import { postgresBin, repositoryRoot, toolPath, type Major } from './tools.ts';
import { until } from './wait.ts';

export const { signal } = new AbortController();

const PREFIX = 'clusters/prod';

/** One server's folder in a bucket, with what barman-cloud and walkeep each do to it. */
export interface SharedRepository {
  readonly s3: S3Server;
  readonly server: string;
  /** `s3://bucket/prefix`, as both are told. */
  readonly destination: string;
  /** The same objects as walkeep opens them. */
  readonly repository: Repository;
  /** Runs a barman-cloud program: first words, then the destination and the server, then the last words. */
  barman(program: BarmanCloudProgram, first?: readonly string[], last?: readonly string[]): Promise<Outcome>;
  /** Takes a backup of a PostgreSQL by barman-cloud. */
  barmanBackup(postgres: Postgres, ...options: string[]): Promise<Outcome>;
  /** Begins one, and kills it with all its children as soon as it has a record. */
  barmanBackupKilled(postgres: Postgres, name: string): Promise<void>;
  /** For `archive_command`: barman-cloud archives. */
  barmanArchiveCommand(...options: string[]): string;
  /** For `restore_command`: barman-cloud fetches, with a spool of this recovery's own. */
  barmanRestoreCommand(): string;
  /** For `archive_command`: walkeep archives, as the manifest applied last says. */
  walkeepArchiveCommand(postgres: Pick<Postgres, 'dataDirectory'>): string;
  /** Applies the manifest of this server, with a compression of WAL. */
  apply(walCompression?: string): Promise<void>;
  backupPorts(postgres: Postgres): BackupPorts;
  backupInput(postgres: Postgres, change?: Partial<TakeBackupInput>): TakeBackupInput;
  /** Takes, confirms and records a backup by walkeep; of a standby with its primary. */
  takeBackup(
    postgres: Postgres,
    change?: Partial<TakeBackupInput>,
    primary?: Postgres,
  ): Promise<CopiedBackup>;
  /** Restores by barman-cloud. */
  restoreByBarman(backup: string, places: NewPlaces): Promise<Outcome>;
  /** Restores by `walkeep restore`; `words` say from where and how far. */
  restoreByWalkeep(places: NewPlaces, ...words: string[]): Promise<Outcome>;
  /** Runs a walkeep command as a person would: keys in the environment, no Temporal anywhere. */
  walkeep(...args: string[]): Promise<Outcome>;
  /** For `walkeep restore`: where the repository is. */
  readonly fromUrl: readonly string[];
  /** Every object's ETag by key relative to the server's folder, but for holds: a restore says in one what it reads. */
  objects(): Promise<Record<string, string>>;
  /** A copy of the whole in a directory: what `file://` would open. */
  copyToDirectory(): string;
}

/** An empty folder for `server` in the bucket of `s3`. */
export function shareRepository(s3: S3Server, server: string): SharedRepository {
  const destination = `s3://${s3.bucket}/${PREFIX}`;
  const store: StoreConfig = {
    kind: 's3',
    bucket: s3.bucket,
    prefix: PREFIX,
    endpointUrl: s3.endpointUrl,
    region: s3.region,
    credentials: {
      accessKeyId: new Secret(s3.accessKeyId),
      secretAccessKey: new Secret(s3.secretAccessKey),
    },
  };
  const repository = createRepository(openStore(store), server);
  const state = makeTempDir('state');
  const environment = Object.entries(s3.environment).map(([name, value]) => `${name}=${value}`);
  const barmanLine = (program: BarmanCloudProgram, words: readonly string[]) =>
    ['env', ...environment, join(toolPath('barman'), program), ...s3Arguments(s3), ...words].join(' ');

  const shared: SharedRepository = {
    s3,
    server,
    destination,
    repository,
    barman: (program, first = [], last = []) =>
      barmanCloud(program, [...first, ...s3Arguments(s3), destination, server, ...last], { s3 }),
    barmanBackup: (postgres, ...options) =>
      barmanCloud(
        'barman-cloud-backup',
        [...options, '--immediate-checkpoint', ...s3Arguments(s3), destination, server],
        { s3, postgres },
      ),
    async barmanBackupKilled(postgres, name) {
      const before = new Set(Object.keys(await shared.objects()));
      const began = async () => {
        const keys = Object.keys(await shared.objects());
        return keys.some((key) => key.endsWith('/backup.info') && !before.has(key));
      };
      const slowly = ['--name', name, '--max-bandwidth', '50kB', '--immediate-checkpoint'];
      const backup = startProcess(
        join(toolPath('barman'), 'barman-cloud-backup'),
        [...slowly, ...s3Arguments(s3), destination, server],
        {
          env: { PATH: process.env['PATH'], ...s3.environment, ...postgres.environment },
          user: serverUser,
        },
      );
      await until('a record', began);
      const all = [backup.pid, ...descendantsOf(backup.pid)];
      for (const pid of all) process.kill(pid, 'SIGKILL');
      await backup.ended;
    },
    barmanArchiveCommand: (...options) =>
      barmanLine('barman-cloud-wal-archive', [...options, destination, server, '%p']),
    barmanRestoreCommand: () =>
      barmanLine('barman-cloud-wal-restore', [
        '--spool-dir',
        makeTempDir('spool'),
        destination,
        server,
        '%f',
        '%p',
      ]),
    walkeepArchiveCommand: ({ dataDirectory }) =>
      archiveCommandLine({
        namespace: 'default',
        cluster: server,
        pgdata: dataDirectory,
        stateDirectory: state,
        socketPath: join(state, 'no-worker.sock'),
      }),
    async apply(walCompression) {
      const name = 's3-credentials';
      await openStateDirectory(state).createSecret({
        namespace: 'default',
        name,
        values: new Map([
          ['ACCESS_KEY_ID', new Secret(s3.accessKeyId)],
          ['SECRET_ACCESS_KEY', new Secret(s3.secretAccessKey)],
          ['REGION', new Secret(s3.region)],
        ]),
      });
      await applyTestCluster(state, {
        name: server,
        destinationPath: destination,
        ...(walCompression === undefined ? {} : { walCompression }),
        objectStore: {
          endpointURL: s3.endpointUrl,
          s3Credentials: {
            accessKeyId: { name, key: 'ACCESS_KEY_ID' },
            secretAccessKey: { name, key: 'SECRET_ACCESS_KEY' },
            region: { name, key: 'REGION' },
          },
        },
      });
    },
    backupPorts: (postgres) => ({
      postgres: connectionFromEnvironment(postgres.environment),
      store,
      repository: () => Promise.resolve(repository),
      walkeepVersion: '0.0.0-test',
    }),
    backupInput: (postgres, change = {}) => ({
      cluster: server,
      namespace: 'default',
      instance: `${server}-1`,
      backupName: 'nightly',
      immediateCheckpoint: true,
      jobs: 2,
      codec: 'gzip',
      pgdata: postgres.dataDirectory,
      ...change,
    }),
    async takeBackup(postgres, change, primary) {
      const ports: BackupPorts = {
        ...shared.backupPorts(postgres),
        ...(primary && { primary: connectionFromEnvironment(primary.environment) }),
      };
      const copied = await copyBackup(ports, shared.backupInput(postgres, change), { signal });
      await confirmBackup(ports, copied, { signal, deadlineMs: 90_000 });
      await recordBackup(ports, copied, { signal });
      return copied;
    },
    walkeep(...args) {
      const [node, main] = thisInstallation().fullClient;
      const env = {
        PATH: process.env['PATH'],
        ...s3.environment,
        WALKEEP_STATE: state,
        TEMPORAL_ADDRESS: '127.0.0.1:1',
      };
      return runProcess(node, [main, ...args], { env, cwd: repositoryRoot, timeoutMs: 150_000 });
    },
    restoreByBarman(backup, { pgdata, tablespaces }) {
      const rules = tablespaces.flatMap(({ name, location }) => ['--tablespace', `${name}:${location}`]);
      return shared.barman('barman-cloud-restore', rules, [backup, pgdata]);
    },
    restoreByWalkeep(places, ...words) {
      const flags = places.tablespaces.flatMap(({ name, location }) => [
        '--tablespace',
        `${name}=${location}`,
      ]);
      return shared.walkeep('restore', ...words, '-D', places.pgdata, ...flags);
    },
    fromUrl: ['--repository', destination, '--server-name', server, '--endpoint-url', s3.endpointUrl],
    async objects() {
      const client = s3.client();
      const found: Record<string, string> = {};
      const prefix = `${PREFIX}/${server}/`;
      let token: string | undefined;
      do {
        const page = await client.send(
          new ListObjectsV2Command({ Bucket: s3.bucket, Prefix: prefix, ContinuationToken: token }),
        );
        for (const { Key = '', ETag = '' } of page.Contents ?? []) {
          const key = Key.slice(prefix.length);
          if (!key.startsWith('walkeep/holds/')) found[key] = ETag;
        }
        token = page.NextContinuationToken;
      } while (token !== undefined);
      client.destroy();
      return found;
    },
    copyToDirectory() {
      const directory = join(makeTempDir('copy'), 'repository');
      mkdirSync(directory);
      // versitygw keeps an object as a file of its key's name
      cpSync(join(s3.directory, s3.bucket, PREFIX, server), join(directory, server), { recursive: true });
      // the recovered server's `restore_command` reads it as the server's user
      return directory;
    },
  };
  return shared;
}

/** A tablespace of a test: as barman-cloud's tools and walkeep's are told where it goes. */
export interface TestTablespace {
  readonly name: string;
  readonly location: string;
}

/** Two tablespaces outside of PGDATA, one with a name and a place that nobody should have to quote, with tables. */
export async function fillWithTablespaces(postgres: Postgres): Promise<TestTablespace[]> {
  const home = makeTempDir('ts');
  const tablespaces = [
    { name: 'plain', location: join(home, 'plain') },
    { name: 'Räume "2" für alle', location: join(home, 'Räume & mehr') },
  ];
  for (const { name, location } of tablespaces) {
    mkdirSync(location, { mode: 0o700 });
    giveToServerUser(location);
    await postgres.psql(`create tablespace ${quoted(name)} location '${location}'`);
  }
  const rows = `select g as id, repeat(md5(g::text), 4) as t from generate_series(1, 4000) g`;
  const [plain, spaced] = tablespaces.map(({ name }) => quoted(name));
  await postgres.psql(`
    create table in_default as ${rows};
    create table in_plain tablespace ${plain} as ${rows};
    create table in_spaced tablespace ${spaced} as ${rows};
    create index in_spaced_id on in_spaced (id) tablespace ${spaced};
    create table story (id int generated always as identity, chapter text)`);
  return tablespaces;
}

function quoted(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}

/** Rows that tell how far a recovery came, and that change what backups have copied. */
export async function writeChapter(postgres: Postgres, chapter: string): Promise<void> {
  await postgres.psql(`
    insert into story (chapter) select '${chapter}' from generate_series(1, 100);
    update in_spaced set t = reverse(t) || '${chapter}' where id % 7 = 0;
    delete from in_default where id % 11 = 0 and id > 3000`);
}

/** A time that lies between what is committed now and what will be, for `recovery_target_time`. */
export async function momentBetween(postgres: Postgres): Promise<string> {
  const [row] = await postgres.psql<{ at: string }>(`select (clock_timestamp() + '200 ms')::text as at`);
  await sleep(500);
  return row?.at ?? '';
}

/** Number of rows and their hash, by table. */
export type Content = Readonly<Record<string, string>>;

/** A hash over all rows of every table in `public`. */
export async function contentOf(postgres: Pick<Postgres, 'psql'>): Promise<Content> {
  const tables = await postgres.psql<{ name: string }>(
    `select relname as name from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1`,
  );
  const content: Record<string, string> = {};
  for (const { name } of tables) {
    const [row] = await postgres.psql<{ hash: string }>(
      `select count(*) || ' rows ' || coalesce(sum(hashtextextended(t::text, 0)), 0) as hash from ${name} t`,
    );
    content[name] = row?.hash ?? '';
  }
  return content;
}

/** Where a restore is to put PGDATA and each tablespace: new directories. */
export interface NewPlaces {
  readonly pgdata: string;
  readonly tablespaces: readonly TestTablespace[];
}

export function newPlaces(tablespaces: readonly TestTablespace[]): NewPlaces {
  const home = makeTempDir('new');
  return {
    pgdata: join(home, 'data'),
    tablespaces: tablespaces.map(({ name }, at) => ({ name, location: join(home, `space ${at}`) })),
  };
}

/** Archives by this command from now on. */
export async function archiveBy(postgres: Postgres, archiveCommand: string): Promise<void> {
  postgres.configure({ archive_command: archiveCommand });
  await postgres.reload();
}

/** Where the links of a data directory to its tablespaces lead, by oid. */
export function tablespaceLinks(pgdata: string): string[] {
  const folder = join(pgdata, 'pg_tblspc');
  return readdirSync(folder)
    .toSorted()
    .map((oid) => readlinkSync(join(folder, oid)));
}

/**
 * Reads one backup out of barman-cloud's JSON by the rules of CloudNativePG's catalogue: its keys, its types (all text
 * but the timeline), RFC 3339 in the `_iso` fields, done when it has both times.
 *
 * @throws where CloudNativePG would not read it
 */
export function asCloudNativePgReads(record: unknown) {
  const fields = record as Record<string, unknown>;
  const text = (name: string): string => {
    const value = fields[name] ?? '';
    if (typeof value !== 'string') throw new Error(`${name} is no text: ${JSON.stringify(value)}`);
    return value;
  };
  const time = (name: string): number | undefined => {
    const value = text(name);
    if (value === '') return undefined;
    if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(value))
      throw new Error(`${name} is not RFC 3339: ${value}`);
    return Date.parse(value);
  };
  const { timeline } = fields;
  if (!Number.isInteger(timeline)) throw new Error(`timeline is no number: ${JSON.stringify(timeline)}`);
  for (const name of ['begin_time', 'end_time', 'backup_label']) text(name);
  const [begin, end] = [time('begin_time_iso'), time('end_time_iso')];
  return {
    id: text('backup_id'),
    name: text('backup_name'),
    begin,
    end,
    isDone: begin !== undefined && end !== undefined,
    beginWal: text('begin_wal'),
    endWal: text('end_wal'),
    beginLsn: text('begin_xlog'),
    endLsn: text('end_xlog'),
    systemId: text('systemid'),
    timeline,
    error: text('error'),
  };
}

/** A server on a directory that barman-cloud restored, not started yet; it leaves the archive of its source alone. */
export async function openRestored(
  major: Major,
  dataDirectory: string,
  signalFile: 'recovery.signal' | 'standby.signal',
  settings: Settings,
): Promise<Postgres> {
  const path = join(dataDirectory, signalFile);
  writeFileSync(path, '');
  giveToServerUser(path);
  const config = { archive_mode: false, archive_command: '', ...settings };
  return openPostgres({ major, dataDirectory, config });
}

/** Starts a directory that barman-cloud restored, and waits for the end of its recovery. */
export async function recover(major: Major, dataDirectory: string, settings: Settings): Promise<Postgres> {
  const postgres = await openRestored(major, dataDirectory, 'recovery.signal', settings);
  await postgres.start();
  await postgres.waitUntilPromoted(120_000);
  return postgres;
}

/**
 * Holds a restored directory against the backup_manifest that walkeep stored.
 *
 * @returns `undefined` where this PostgreSQL has no pg_verifybackup
 */
export async function verifyBackup(
  { repository }: SharedRepository,
  major: Major,
  backupId: string,
  dataDirectory: string,
): Promise<Outcome | undefined> {
  const program = join(postgresBin(major), 'pg_verifybackup');
  if (!existsSync(program)) return undefined;
  const source = await readBackupManifest(repository, backupId, signal);
  if (!source) throw new Error(`backup ${backupId} has no backup_manifest`);
  const manifest = join(makeTempDir('manifest'), 'backup_manifest');
  writeFileSync(manifest, await collectBytes(source, 2 ** 26));
  const args = ['--no-parse-wal', '--exit-on-error', '-m', manifest, dataDirectory];
  return runProcess(program, args, { user: serverUser });
}

/** A server that was started by somebody else, on port 5432. */
export function serverAt(socketDirectory: string): Pick<Postgres, 'psql'> {
  return {
    async psql<Row extends pg.QueryResultRow>(sql: string, parameters?: unknown[]): Promise<Row[]> {
      const client = new pg.Client({
        host: socketDirectory,
        port: 5432,
        user: 'postgres',
        database: 'postgres',
      });
      await client.connect();
      try {
        return (await client.query<Row>(sql, parameters)).rows;
      } finally {
        await client.end();
      }
    },
  };
}

/** Ends a server that `walkeep restore --start` left running. */
export async function stopStarted(major: Major, dataDirectory: string): Promise<void> {
  if (!existsSync(join(dataDirectory, 'postmaster.pid'))) return;
  const program = join(postgresBin(major), 'pg_ctl');
  const args = ['-D', dataDirectory, '-m', 'immediate', '-w', 'stop'];
  await runSuccessfully(program, args, { user: serverUser, cwd: '/' });
}
