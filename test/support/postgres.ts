import { appendFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { descendantsOf, freePort, type Process, runSuccessfully, startProcess } from './processes.ts';
import { giveToServerUser, serverUser } from './server-user.ts';
import { makeTempDir } from './temp.ts';
import { type Major, postgresBin } from './tools.ts';
import { until } from './wait.ts';

export type Settings = Readonly<Record<string, string | number | boolean>>;

export interface ServerOptions {
  readonly major: Major;
  /** Lines for `postgresql.conf`, quoted here. */
  readonly config?: Settings;
  /** Listen on 127.0.0.1 too, not on the unix socket only. */
  readonly tcp?: boolean;
}

export interface CreateOptions extends ServerOptions {
  /** `wal_segment_size`, by default 16. */
  readonly segmentSizeMiB?: number;
  /** Page checksums, by default on. */
  readonly dataChecksums?: boolean;
  /** By default none: `archive_mode` is on, and WAL waits. */
  readonly archiveCommand?: string;
}

/** A PostgreSQL of a test's own, run by `serverUser`, ended with the test file at the latest. */
export interface Postgres {
  readonly major: Major;
  readonly dataDirectory: string;
  readonly socketDirectory: string;
  readonly port: number;
  /** For libpq and whoever honours it: PGHOST, PGPORT, PGUSER, PGDATABASE. */
  readonly environment: Readonly<Record<string, string>>;
  /** Of the postmaster. @throws when it does not run */
  readonly pid: number;
  /** Waits until it accepts connections. @throws with the end of its log when it ends instead */
  start(): Promise<void>;
  /** Starts it and returns at once: for a recovery that is expected to fail, or to take its time. */
  launch(): Process;
  /** Fast shutdown, or `immediate`: without a shutdown checkpoint. */
  stop(mode?: 'fast' | 'immediate'): Promise<void>;
  restart(): Promise<void>;
  /** SIGKILL to the postmaster and all its children. */
  kill9(): Promise<void>;
  isRunning(): boolean;
  /** A superuser's connection; whoever asks for it ends it. */
  connect(database?: string): Promise<pg.Client>;
  /** One statement (or several without parameters) on a connection of its own. @returns the rows of the last */
  psql<Row extends pg.QueryResultRow = pg.QueryResultRow>(
    sql: string,
    parameters?: unknown[],
  ): Promise<Row[]>;
  /** Adds lines to `postgresql.conf`; `reload` or `restart` makes them count. */
  configure(settings: Settings): void;
  reload(): Promise<void>;
  /** Runs one of its programs as the server's user. @returns standard output */
  run(program: string, args: readonly string[]): Promise<string>;
  /** What the server wrote, the last 256 KiB of all its runs. */
  log(): string;
  /** Ends recovery and waits until it takes writes. */
  promote(): Promise<void>;
  /** Waits until recovery has ended by itself and it takes writes. */
  waitUntilPromoted(timeoutMs?: number): Promise<void>;
  /** Closes the current segment, and returns the name of its file. */
  switchWal(): Promise<string>;
  /** Waits until PostgreSQL's own word is that this file was archived. */
  waitUntilArchived(fileName: string, timeoutMs?: number): Promise<void>;
  /** A running streaming standby of this server. */
  createStandby(options?: { config?: Settings }): Promise<Postgres>;
}

const SUPERUSER = 'postgres';
// Small and talkative. fsync is off since a test kills processes, not the machine.
const TEST_SETTINGS: Settings = {
  fsync: false,
  full_page_writes: true,
  shared_buffers: '32MB',
  max_connections: 60,
  wal_level: 'replica',
  max_wal_senders: 10,
  hot_standby: true,
  archive_mode: true,
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_line_prefix: '%m [%p] ',
  log_checkpoints: true,
  lc_messages: 'C',
};

/** A new cluster, running. */
export async function createPostgres(options: CreateOptions): Promise<Postgres> {
  const dataDirectory = join(makeTempDir('pg'), 'data');
  const { major, segmentSizeMiB = 16, dataChecksums = true } = options;
  const args = ['--pgdata', dataDirectory, '--username', SUPERUSER, '--auth', 'trust', '--encoding', 'UTF8'];
  args.push('--locale-provider', 'libc', '--locale', 'C.UTF-8', '--no-sync', '--no-instructions');
  args.push('--wal-segsize', String(segmentSizeMiB));
  if (dataChecksums) args.push('--data-checksums');
  else if (major >= 18) args.push('--no-data-checksums');
  await runSuccessfully(join(postgresBin(major), 'initdb'), args, { user: serverUser });

  const server = await openPostgres({ ...options, dataDirectory, config: TEST_SETTINGS });
  server.configure({ ...options.config, archive_command: options.archiveCommand ?? '' });
  await server.start();
  return server;
}

/**
 * A server on a data directory that exists, such as a restored one; not started yet. Only its port and socket are set
 * for it, so that it never meets the server that it is a copy of.
 */
export async function openPostgres(options: ServerOptions & { dataDirectory: string }): Promise<Postgres> {
  const { major, dataDirectory, config, tcp = false } = options;
  const bin = postgresBin(major);
  const socketDirectory = makeTempDir('sock');
  const port = tcp ? await freePort() : 5432;
  const environment = {
    PGHOST: socketDirectory,
    PGPORT: String(port),
    PGUSER: SUPERUSER,
    PGDATABASE: 'postgres',
  };
  let postmaster: Process | undefined;
  let earlierLog = '';

  const configure = (settings: Settings): void => {
    const lines = Object.entries(settings).map(([name, value]) => `${name} = ${quoteSetting(value)}\n`);
    appendFileSync(join(dataDirectory, 'postgresql.conf'), lines.join(''));
  };
  configure({
    ...config,
    port,
    unix_socket_directories: socketDirectory,
    listen_addresses: tcp ? '127.0.0.1' : '',
  });

  const isRunning = (): boolean => postmaster?.isRunning() ?? false;
  const connect = async (database = 'postgres'): Promise<pg.Client> => {
    const client = new pg.Client({
      host: socketDirectory,
      port,
      user: SUPERUSER,
      database,
      connectionTimeoutMillis: 10_000,
    });
    client.on('error', () => {}); // the server went away; the next query says so
    await client.connect();
    return client;
  };
  const psql: Postgres['psql'] = async (sql, parameters) => {
    const client = await connect();
    try {
      // Several statements give several results, which the types of `pg` don't know.
      const results = [await client.query(sql, parameters)].flat();
      return results.at(-1)?.rows ?? [];
    } finally {
      await client.end();
    }
  };
  const launch = (): Process => {
    earlierLog += postmaster?.output() ?? '';
    postmaster = startProcess(join(bin, 'postgres'), ['-D', dataDirectory], { user: serverUser });
    return postmaster;
  };
  const start = async (): Promise<void> => {
    const started = launch();
    const accepts = async (): Promise<boolean> =>
      !started.isRunning() || (await psql('SELECT 1')).length === 1;
    await until(`PostgreSQL in ${dataDirectory} to accept connections`, accepts, { timeoutMs: 90_000 });
    if (!started.isRunning()) throw new Error(`PostgreSQL did not start:\n${started.output().slice(-4000)}`);
  };
  const stop = async (mode: 'fast' | 'immediate' = 'fast'): Promise<void> => {
    await postmaster?.stop(mode === 'fast' ? 'SIGINT' : 'SIGQUIT', 60_000);
  };
  const run = async (program: string, args: readonly string[]): Promise<string> =>
    runSuccessfully(join(bin, program), args, { user: serverUser, env: { ...process.env, ...environment } });
  const waitUntilPromoted = async (timeoutMs = 60_000): Promise<void> => {
    const question = async (): Promise<boolean> => {
      if (!isRunning()) return true;
      const [answer] = await psql<{ recovering: boolean }>('SELECT pg_is_in_recovery() AS recovering');
      return answer?.recovering === false;
    };
    await until('recovery to end', question, { timeoutMs });
    if (!isRunning()) throw new Error(`PostgreSQL ended in recovery:\n${postmaster?.output().slice(-4000)}`);
  };

  const server: Postgres = {
    major,
    dataDirectory,
    socketDirectory,
    port,
    environment,
    get pid() {
      if (!postmaster || !isRunning()) throw new Error(`PostgreSQL in ${dataDirectory} does not run`);
      return postmaster.pid;
    },
    start,
    launch,
    stop,
    async restart() {
      await stop();
      await start();
    },
    async kill9() {
      if (!postmaster) return;
      const all = descendantsOf(postmaster.pid);
      const ending = postmaster.kill9();
      for (const pid of all) killIfThere(pid);
      await ending;
    },
    isRunning,
    connect,
    psql,
    configure,
    async reload() {
      await psql('SELECT pg_reload_conf()');
    },
    run,
    log: () => earlierLog + (postmaster?.output() ?? ''),
    async promote() {
      await psql('SELECT pg_promote(true, 60)');
      await waitUntilPromoted();
    },
    waitUntilPromoted,
    async switchWal() {
      // The marker makes sure there is something in the segment: an empty one is not switched.
      const [row] = await psql<{ name: string }>(
        `SELECT pg_logical_emit_message(false, 'walkeep-test', ''); SELECT pg_walfile_name(pg_switch_wal()) AS name`,
      );
      return row!.name;
    },
    async waitUntilArchived(fileName, timeoutMs = 60_000) {
      const archived = async (): Promise<boolean> => {
        const [row] = await psql<{ last: string | null }>(
          'SELECT last_archived_wal AS last FROM pg_stat_archiver',
        );
        return (row?.last ?? '') >= fileName;
      };
      await until(`${fileName} to be archived`, archived, { timeoutMs });
    },
    async createStandby({ config: extra } = {}) {
      const copy = join(makeTempDir('standby'), 'data');
      mkdirSync(copy, { mode: 0o700 });
      giveToServerUser(copy);
      await run('pg_basebackup', ['-D', copy, '-R', '-X', 'stream', '-c', 'fast', '--no-sync']);
      const standby = await openPostgres({ major, dataDirectory: copy, ...(extra ? { config: extra } : {}) });
      await standby.start();
      return standby;
    },
  };
  return server;
}

function quoteSetting(value: string | number | boolean): string {
  return typeof value === 'boolean' ? (value ? 'on' : 'off') : `'${String(value).replaceAll("'", "''")}'`;
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has ended already
  }
}
