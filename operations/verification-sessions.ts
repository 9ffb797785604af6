import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { userInfo } from 'node:os';
import pg from 'pg';
import { BackupError, isBackupError } from '../core/errors.ts';
import { disconnect } from '../postgres/connection.ts';
import { openIsolated, type IsolatedSession } from '../postgres/isolated-session.ts';
import { ISOLATION } from '../postgres/isolated-settings.ts';
import type { Setting } from '../postgres/recovery-settings.ts';
import type { Scratch } from './verification-scratch.ts';

/** How sessions on one copy are opened. */
export interface Sessions {
  readonly majorVersion: number;
  readonly socketDirectory: string;
  readonly superuser: string;
  /** Until when statements may run, in ms since 1970. */
  readonly deadline: number;
  readonly signal: AbortSignal;
}

export interface SessionsRequest {
  readonly scratch: Scratch;
  readonly programs: string;
  readonly majorVersion: number;
  readonly deadline: number;
  readonly signal: AbortSignal;
}

/** A role that can read everything and change nothing; it exists in the copy only. */
export interface Reader {
  readonly user: string;
}

/** Runs `work` on a session of its own. */
export async function withSession<Result>(
  sessions: Sessions,
  session: Pick<IsolatedSession, 'user' | 'isSuperuser' | 'database'> & Partial<IsolatedSession>,
  work: (client: pg.Client) => Promise<Result>,
): Promise<Result> {
  const { majorVersion, socketDirectory, signal, deadline } = sessions;
  const client = await openIsolated({
    majorVersion,
    socketDirectory,
    signal,
    statementTimeoutMs: Math.max(1000, deadline - Date.now()),
    ...session,
  });
  try {
    return await work(client);
  } finally {
    await disconnect(client);
  }
}

/** As the superuser of the copy, in the database that every cluster has. */
export function asSuperuser<Result>(
  sessions: Sessions,
  database: string,
  work: (client: pg.Client) => Promise<Result>,
): Promise<Result> {
  return withSession(sessions, { user: sessions.superuser, isSuperuser: true, database }, work);
}

/** The database for what concerns the whole cluster. */
export const COMMON_DATABASE = 'template1';

/**
 * Finds a superuser of the copy by trying the usual names; the one that a cluster was made with need not be among them.
 *
 * @param superuserName tried first
 * @throws BackupError `postgres-unsuitable` when none of them is there; `postgres-unavailable`
 */
export async function openSessions(request: SessionsRequest, superuserName?: string): Promise<Sessions> {
  const { scratch, majorVersion, deadline, signal } = request;
  const names = new Set([
    ...given(superuserName),
    'postgres',
    ...given(process.env['PGUSER']),
    ...given(ownName()),
  ]);
  for (const superuser of names) {
    const sessions = { majorVersion, socketDirectory: scratch.socketDirectory, superuser, deadline, signal };
    try {
      const isSuperuser = await asSuperuser(sessions, COMMON_DATABASE, async (client) => {
        const { rows } = await client.query<{ super: string }>(
          "select current_setting('is_superuser') as super",
        );
        return rows[0]?.super === 'on';
      });
      if (isSuperuser) return sessions;
    } catch (error) {
      // the role does not exist, may not log in, or is not allowed what only superusers are
      if (!isBackupError(error, 'postgres-denied')) throw error;
    }
  }
  throw new BackupError(
    'postgres-unsuitable',
    `the copy has no superuser named ${[...names].join(' or ')}, so nothing can be asked of it`,
    { hint: 'set PGUSER of the worker to a superuser that the backed-up cluster has' },
  );
}

function given(name: string | undefined): string[] {
  return name === undefined || name === '' ? [] : [name];
}

function ownName(): string | undefined {
  try {
    return userInfo().username;
  } catch {
    // a container's user without a name
    return undefined;
  }
}

/** @throws BackupError `postgres-unsuitable` when the copy could reach something, or be reached */
export async function requireIsolation(sessions: Sessions): Promise<void> {
  await asSuperuser(sessions, COMMON_DATABASE, async (client) => {
    const names = Object.keys(ISOLATION);
    const { rows } = await client.query<{ name: string; setting: string }>(
      'select name, setting from pg_settings where name = any ($1)',
      [names],
    );
    for (const { name, setting } of rows) {
      if (setting === ISOLATION[name]) continue;
      throw new BackupError('postgres-unsuitable', `the copy runs with ${name} = '${setting}'; it was ended`);
    }
    if (rows.length !== names.length)
      throw new BackupError('postgres-unsuitable', 'the copy does not say how it was started; it was ended');
  });
}

/** What PostgreSQL calls itself. */
export async function serverVersion(sessions: Sessions): Promise<string> {
  return asSuperuser(sessions, COMMON_DATABASE, async (client) => {
    const { rows } = await client.query<{ version: string }>(
      "select current_setting('server_version') as version",
    );
    return rows[0]?.version ?? String(sessions.majorVersion);
  });
}

/**
 * Makes a role for questions that people wrote: it reads all tables, and what a table's owner has put in the way of a
 * reader can do nothing with it (S4).
 */
export async function createReader(sessions: Sessions, databases: readonly string[]): Promise<Reader> {
  const user = `walkeep_${randomBytes(8).toString('hex')}`;
  await asSuperuser(sessions, COMMON_DATABASE, async (client) => {
    // The name is ours, of letters and digits.
    await client.query(`create role ${user} login bypassrls in role pg_read_all_data`);
    // Libraries that roles and databases load may not be on this host, and only superusers may leave them out.
    await client.query('alter role all reset session_preload_libraries');
    for (const database of databases) {
      const found = await client.query('select from pg_database where datname = $1', [database]);
      if (found.rowCount !== 1) continue;
      const name = pg.escapeIdentifier(database);
      await client.query(`alter database ${name} reset session_preload_libraries`);
      await client.query(`grant connect on database ${name} to ${user}`);
    }
  });
  return { user };
}

/** Databases that let sessions in. */
export async function listDatabases(sessions: Sessions): Promise<string[]> {
  return asSuperuser(sessions, COMMON_DATABASE, async (client) => {
    const { rows } = await client.query<{ name: string }>(
      'select datname as name from pg_database where datallowconn order by oid',
    );
    return rows.map(({ name }) => name);
  });
}

/**
 * The name of the role a stopped copy was made with, by PostgreSQL's single-user mode, which asks for none.
 *
 * @returns `undefined` when it does not tell
 */
export async function readBootstrapRole(
  { scratch, programs, signal }: SessionsRequest,
  settings: readonly Setting[],
): Promise<string | undefined> {
  const args = [
    '--single',
    '-D',
    scratch.data,
    ...settings.flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ];
  return new Promise((resolve, reject) => {
    let output = '';
    const child = spawn(join(programs, 'postgres'), [...args, COMMON_DATABASE], {
      cwd: scratch.data,
      stdio: ['pipe', 'pipe', 'ignore'],
      env: { LC_ALL: 'C', TZ: 'UTC' },
      signal: AbortSignal.any([signal, AbortSignal.timeout(60_000)]),
      ...scratch.owner,
    });
    child.stdout.on('data', (chunk: Buffer) => (output = (output + chunk.toString('utf8')).slice(0, 16_384)));
    child.stdin.on('error', () => {});
    child.stdin.end('select rolname from pg_authid where oid = 10\n');
    child.once('error', (error) => reject(signal.aborted ? (signal.reason as Error) : error));
    child.once('close', () => resolve(/rolname = "([^"]+)"/.exec(output)?.[1]));
  });
}
