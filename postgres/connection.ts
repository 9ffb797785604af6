import { existsSync, readFileSync, statSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { ConnectionOptions } from 'node:tls';
import pg from 'pg';
import { BackupError } from '../core/errors.ts';
import { Secret } from '../core/secret.ts';
import { postgresError } from './postgres-error.ts';
import { findPassword, readService } from './service-file.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** libpq's `sslmode`. */
export type SslMode = 'disable' | 'allow' | 'prefer' | 'require' | 'verify-ca' | 'verify-full';

/** Where PostgreSQL is and as whom; nothing is looked up any more, except the password file when a password is asked for. */
export interface ConnectionSettings {
  /** A host name, an address, or the directory of the server's socket. */
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly database: string;
  readonly password?: Secret;
  readonly passwordFile?: string;
  readonly sslMode: SslMode;
  readonly sslRootCertificate?: string;
  readonly sslCertificate?: string;
  readonly sslKey?: string;
  readonly connectTimeoutMs: number;
}

const DEFAULT_PORT = 5432;
const CONNECT_TIMEOUT_MS = 10_000;
/** No statement of ours takes long, except on the session of a backup, which lifts the limit for itself. */
const STATEMENT_TIMEOUT_MS = 30_000;
const SSL_MODES: readonly string[] = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'];

/**
 * The connection that libpq would make from `env`: `PGHOST` (a socket directory too), `PGPORT`, `PGUSER`, `PGDATABASE`,
 * `PGPASSWORD`, `PGPASSFILE`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGSSLCERT`, `PGSSLKEY`, `PGCONNECT_TIMEOUT`, and for what
 * they leave open the service `PGSERVICE`. Only the database differs: `postgres` unless named.
 *
 * @throws BackupError `config-invalid`
 */
export function connectionFromEnvironment(
  env: Environment,
  overrides: Partial<ConnectionSettings> = {},
): ConnectionSettings {
  const service = env['PGSERVICE'] ? readService(env['PGSERVICE'], env) : undefined;
  const value = (variable: string, parameter: string) =>
    env[variable] || service?.get(parameter) || undefined;
  const port = overrides.port ?? parsePort(value('PGPORT', 'port'));
  const host = overrides.host ?? parseHost(value('PGHOST', 'host') ?? value('PGHOSTADDR', 'hostaddr'), port);
  const password = value('PGPASSWORD', 'password');
  const home = env['HOME'];
  const optional = {
    password: password === undefined ? undefined : new Secret(password),
    passwordFile: value('PGPASSFILE', 'passfile') ?? (home && join(home, '.pgpass')),
    sslRootCertificate: value('PGSSLROOTCERT', 'sslrootcert') ?? ifThere(home, '.postgresql/root.crt'),
    sslCertificate: value('PGSSLCERT', 'sslcert') ?? ifThere(home, '.postgresql/postgresql.crt'),
    sslKey: value('PGSSLKEY', 'sslkey') ?? ifThere(home, '.postgresql/postgresql.key'),
  };
  return {
    host,
    port,
    user: value('PGUSER', 'user') ?? userInfo().username,
    database: value('PGDATABASE', 'dbname') ?? 'postgres',
    sslMode: parseSslMode(value('PGSSLMODE', 'sslmode')),
    connectTimeoutMs: parseTimeout(value('PGCONNECT_TIMEOUT', 'connect_timeout')),
    ...withoutUndefined(optional),
    ...overrides,
  };
}

/** For messages: `postgres@/run/postgresql:5432/postgres`. */
export function describeConnection({ user, host, port, database }: ConnectionSettings): string {
  return `${user}@${host}:${port}/${database}`;
}

/**
 * Opens one session. Its `search_path` holds nothing that a user of the database could have made (S4), and statements
 * may take 30 s. Whoever gets the client has to listen to its `error` event, and to `end()` it.
 *
 * @throws BackupError `postgres-unavailable` | `postgres-denied` | `config-invalid`
 */
export async function connect(
  settings: ConnectionSettings,
  options: { readonly applicationName: string; readonly signal: AbortSignal },
): Promise<pg.Client> {
  const doing = `connecting to ${describeConnection(settings)}`;
  const attempts = sslAttempts(settings);
  for (const [index, ssl] of attempts.entries()) {
    try {
      return await openSession(settings, ssl, options);
    } catch (error) {
      options.signal.throwIfAborted();
      // As libpq: `prefer` and `allow` go on with the other way when the server refuses this one.
      if (index + 1 < attempts.length && mayTryOtherWay(error)) continue;
      throw postgresError(error, doing);
    }
  }
  throw new BackupError('config-invalid', `${doing}: no way of connecting is allowed`);
}

/**
 * Refuses a session that a pooler may share with others: locks and `pg_backup_start` belong to a server process, which
 * a transaction pooler changes under us.
 *
 * @throws BackupError `postgres-unsuitable`
 */
export async function refusePooler(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
  // Known to pg since the start of the session, but not to its type definitions.
  const announced = (client as unknown as { processID: number | null }).processID;
  if (rows[0]?.pid === announced) return;
  throw new BackupError(
    'postgres-unsuitable',
    `the connection goes through a pooler (process ${announced} announced, ${rows[0]?.pid} answered)`,
    {
      hint: 'set PGHOST and PGPORT to PostgreSQL itself, past the pooler',
    },
  );
}

/** Ends a session, by force when the server does not take leave within 5 s. */
export async function disconnect(client: pg.Client): Promise<void> {
  client.on('error', () => {});
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(() => {
      socketOf(client).destroy();
      resolve();
    }, 5_000);
  });
  await Promise.race([client.end().catch(() => socketOf(client).destroy()), late]);
  clearTimeout(timer);
}

/** The socket below a client, for cutting it. */
export function socketOf(client: pg.Client): { destroy(): void } {
  return client.connection.stream;
}

async function openSession(
  settings: ConnectionSettings,
  ssl: boolean | ConnectionOptions,
  options: { readonly applicationName: string; readonly signal: AbortSignal },
): Promise<pg.Client> {
  options.signal.throwIfAborted();
  const client = new pg.Client({
    host: settings.host,
    port: settings.port,
    user: settings.user,
    database: settings.database,
    password: () => passwordFor(settings),
    ssl,
    application_name: options.applicationName,
    connectionTimeoutMillis: settings.connectTimeoutMs,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    // In the startup packet, so that no statement runs before it, and ALTER ROLE … SET can not win.
    options: `-c search_path=pg_catalog,pg_temp -c statement_timeout=${STATEMENT_TIMEOUT_MS} -c datestyle=ISO,YMD -c client_min_messages=warning`,
  });
  const cut = () => socketOf(client).destroy();
  options.signal.addEventListener('abort', cut, { once: true });
  // Without a listener an error between connect and the caller's own listener would end the process.
  client.on('error', () => {});
  try {
    await client.connect();
    options.signal.throwIfAborted();
    return client;
  } catch (error) {
    cut();
    throw error;
  } finally {
    options.signal.removeEventListener('abort', cut);
  }
}

function passwordFor(settings: ConnectionSettings): string {
  const password = settings.password?.reveal() ?? passwordFromFile(settings);
  if (password !== undefined) return password;
  throw new BackupError(
    'postgres-denied',
    `the server asks for a password of "${settings.user}" and there is none`,
    {
      hint: 'put it into ~/.pgpass (0600), or let pg_hba.conf use peer on the local socket',
    },
  );
}

function passwordFromFile(settings: ConnectionSettings): string | undefined {
  const file = settings.passwordFile;
  if (file === undefined || !existsSync(file)) return undefined;
  const { mode } = statSync(file);
  if ((mode & 0o077) !== 0) {
    throw new BackupError(
      'postgres-denied',
      `the password file ${file} can be read by others (mode ${(mode & 0o777).toString(8)}); it is not used`,
      {
        hint: `chmod 0600 ${file}`,
      },
    );
  }
  return findPassword(readFileSync(file, 'utf8'), settings);
}

function sslAttempts(settings: ConnectionSettings): (boolean | ConnectionOptions)[] {
  if (settings.host.startsWith('/')) return [false];
  const encrypted = sslOptions(settings);
  switch (settings.sslMode) {
    case 'disable':
      return [false];
    case 'allow':
      return [false, encrypted];
    case 'prefer':
      return [encrypted, false];
    default:
      return [encrypted];
  }
}

function sslOptions(settings: ConnectionSettings): ConnectionOptions {
  const read = (file: string | undefined) => (file === undefined ? undefined : readFileSync(file));
  // As libpq: `require` verifies the certificate too when there is a root to verify it with.
  const verify =
    settings.sslMode.startsWith('verify') ||
    (settings.sslMode === 'require' && settings.sslRootCertificate !== undefined);
  return {
    rejectUnauthorized: verify,
    ...(settings.sslMode === 'verify-full' ? {} : { checkServerIdentity: () => undefined }),
    ...withoutUndefined({
      ca: verify ? read(settings.sslRootCertificate) : undefined,
      cert: read(settings.sslCertificate),
      key: read(settings.sslKey),
    }),
  };
}

function mayTryOtherWay(error: unknown): boolean {
  const text = error instanceof Error ? error.message : '';
  return (
    /does not support SSL|establishing an SSL/.test(text) || (error as { code?: unknown }).code === '28000'
  );
}

function parsePort(text: string | undefined): number {
  if (text === undefined) return DEFAULT_PORT;
  const port = Number(text);
  if (Number.isInteger(port) && port > 0 && port < 65536) return port;
  throw new BackupError('config-invalid', `PGPORT must be a port, not "${text}"`);
}

function parseHost(text: string | undefined, port: number): string {
  if (text === undefined) return socketDirectory(port) ?? 'localhost';
  if (!text.includes(',')) return text;
  throw new BackupError(
    'config-invalid',
    `PGHOST names several hosts ("${text}"), but a worker belongs to one instance`,
  );
}

function parseSslMode(text = 'prefer'): SslMode {
  if (SSL_MODES.includes(text)) return text as SslMode;
  throw new BackupError('config-invalid', `PGSSLMODE must be one of ${SSL_MODES.join(', ')}, not "${text}"`);
}

function parseTimeout(text: string | undefined): number {
  const seconds = Number(text);
  return Number.isFinite(seconds) && seconds > 0 ? Math.max(2, seconds) * 1000 : CONNECT_TIMEOUT_MS;
}

function socketDirectory(port: number): string | undefined {
  return ['/var/run/postgresql', '/run/postgresql', '/tmp'].find((path) =>
    existsSync(`${path}/.s.PGSQL.${port}`),
  );
}

function ifThere(home: string | undefined, name: string): string | undefined {
  const path = home && join(home, name);
  return path && existsSync(path) ? path : undefined;
}

/** Without the properties that are undefined, which `exactOptionalPropertyTypes` keeps apart from absent ones. */
function withoutUndefined<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
