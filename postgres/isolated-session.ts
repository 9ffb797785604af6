import pg from 'pg';
import { postgresError } from './postgres-error.ts';

export interface IsolatedSession {
  readonly socketDirectory: string;
  readonly user: string;
  /** Others may not say which libraries their session loads; `roleSettings` are for them. */
  readonly isSuperuser: boolean;
  readonly database: string;
  readonly majorVersion: number;
  /** Of one statement, in milliseconds. */
  readonly statementTimeoutMs: number;
  /** Statements may change nothing. */
  readonly isReadOnly?: boolean;
  /** Names are looked up as an ordinary user of the database does, instead of in `pg_catalog` only. */
  readonly usesDatabasePath?: boolean;
  readonly signal: AbortSignal;
}

/**
 * Opens a session on a scratch copy. Settings that the copied database holds for roles and databases don't count: they
 * would load libraries, or look up names where somebody has put others (S4). Values come as PostgreSQL writes them.
 *
 * @throws BackupError `postgres-unavailable` | `postgres-denied` | `config-invalid`
 */
export async function openIsolated(session: IsolatedSession): Promise<pg.Client> {
  const { signal, majorVersion } = session;
  signal.throwIfAborted();
  const settings = [
    ...(session.usesDatabasePath ? [] : ['search_path=pg_catalog,pg_temp']),
    'local_preload_libraries=',
    ...(session.isSuperuser ? ['session_preload_libraries='] : []),
    ...(session.isSuperuser && majorVersion >= 17 ? ['event_triggers=off'] : []),
    `statement_timeout=${Math.max(1, Math.round(session.statementTimeoutMs))}`,
    'lock_timeout=60000',
    'idle_in_transaction_session_timeout=0',
    'datestyle=ISO,YMD',
    'timezone=UTC',
    'client_min_messages=warning',
    ...(session.isReadOnly ? ['default_transaction_read_only=on'] : []),
  ];
  const client = new pg.Client({
    host: session.socketDirectory,
    port: 5432,
    user: session.user,
    database: session.database,
    application_name: 'walkeep verification',
    connectionTimeoutMillis: 30_000,
    options: settings.map((setting) => `-c ${setting}`).join(' '),
    types: { getTypeParser: () => (value: unknown) => value },
  });
  // Without a listener a server that goes away would end this process; the statement that runs says so.
  client.on('error', () => {});
  const cut = () => client.connection.stream.destroy();
  signal.addEventListener('abort', cut, { once: true });
  client.once('end', () => signal.removeEventListener('abort', cut));
  try {
    await client.connect();
    return client;
  } catch (error) {
    cut();
    signal.throwIfAborted();
    throw postgresError(error, `connecting to the copy as ${session.user}, database ${session.database}`);
  }
}
