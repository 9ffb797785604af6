import { createHash } from 'node:crypto';
import type pg from 'pg';
import { BackupError } from '../core/errors.ts';
import { parseLsn, type Lsn } from '../core/lsn.ts';
import { failpoint } from '../core/failpoint.ts';
import { connect, disconnect, refusePooler, socketOf, type ConnectionSettings } from './connection.ts';
import { readControlData } from './control-data.ts';
import {
  readPosition,
  readServerFacts,
  readTablespaces,
  requireSamePosition,
  requireSameServer,
  requireSuitable,
  type ServerFacts,
  type ServerPosition,
  type ServerTablespace,
} from './facts.ts';
import { postgresError } from './postgres-error.ts';

export interface BackupSessionOptions {
  /** Whose backup this is; two sessions with the same key never run at once. */
  readonly lockKey: string;
  readonly pgdata: string;
  readonly applicationName: string;
  readonly signal: AbortSignal;
  /** How often role and timeline are looked at, and the line to the server is tried. */
  readonly watchIntervalMs?: number;
  /** A server that does not answer a trivial question for so long is taken for lost. */
  readonly watchDeadlineMs?: number;
}

/** What `pg_backup_start` said. */
export interface BackupStart {
  readonly beginLsn: Lsn;
  readonly beginTime: Date;
  readonly position: ServerPosition;
  /** As they were after the start: a later one is made again by replay. */
  readonly tablespaces: readonly ServerTablespace[];
}

/** What `pg_backup_stop` said. */
export interface BackupStop {
  readonly endLsn: Lsn;
  /** The server's time after the stop returned, so that every target from here on is reachable. */
  readonly endTime: Date;
  readonly backupLabel: string;
  /** Empty when there are no tablespaces. */
  readonly tablespaceMap: string;
  readonly tablespaces: readonly ServerTablespace[];
}

/** One backup of a server, on one connection that is held from start to stop. */
export interface BackupSession {
  readonly facts: ServerFacts;
  /** Aborted with the reason (`backup-interrupted`) when the session, the role or the timeline is lost. */
  readonly signal: AbortSignal;
  start(label: string, options: { readonly immediateCheckpoint: boolean }): Promise<BackupStart>;
  stop(): Promise<BackupStop>;
  /** Ends the session; without a stop before, PostgreSQL ends the backup mode by itself. Never throws. */
  close(): Promise<void>;
}

/** The first half of the advisory lock's key: "walk" in ASCII. */
const LOCK_CLASS = 0x77616c6b;
const WATCH_INTERVAL_MS = 5_000;
const WATCH_DEADLINE_MS = 60_000;

/**
 * Opens the session of a backup: every time-out lifted, the lock taken, the server found suitable and `pgdata` found to
 * be its own.
 *
 * @throws BackupError `backup-in-progress` | `postgres-unsuitable` | `postgres-denied` | `postgres-unavailable`
 */
export async function openBackupSession(
  settings: ConnectionSettings,
  options: BackupSessionOptions,
): Promise<BackupSession> {
  // Advisory locks belong to a database: one and the same for everybody, or they would not exclude each other.
  const client = await connect({ ...settings, database: 'postgres' }, options);
  const held = holdSession(client);
  try {
    await refusePooler(client);
    await liftTimeouts(client);
    await takeLock(client, options.lockKey);
    const facts = await readServerFacts(client);
    requireSuitable(facts);
    const pid = await backendPid(client);
    await requireSameServer(options.pgdata, facts, pid, options.signal);
    return createSession(client, pid, { settings, options, facts, held });
  } catch (error) {
    const reason = held.lost.signal.aborted
      ? held.lost.signal.reason
      : postgresError(error, 'preparing the backup');
    await held.leave();
    options.signal.throwIfAborted();
    throw reason;
  }
}

/** A session that must not end before we leave it. */
interface HeldSession {
  /** Aborted with the reason when it ended by itself. */
  readonly lost: AbortController;
  leave(): Promise<void>;
}

function holdSession(client: pg.Client): HeldSession {
  const lost = new AbortController();
  let leaving: Promise<void> | undefined;
  const lose = (error: unknown) => {
    if (!leaving) lost.abort(interrupted(error));
  };
  client.on('error', lose);
  client.on('end', () => lose(new Error('the server ended the session')));
  return { lost, leave: () => (leaving ??= disconnect(client)) };
}

/** A lock on a server that is not the one being backed up: the primary of a standby. */
export interface HeldLock {
  /** Aborted with the reason when the session, and so the lock, is lost. */
  readonly signal: AbortSignal;
  /** Never throws. */
  close(): Promise<void>;
}

/**
 * Takes the lock of a backup on `settings`' server, and nothing else.
 *
 * @throws BackupError `backup-in-progress` | `postgres-unsuitable` | `postgres-denied` | `postgres-unavailable`
 */
export async function holdLock(
  settings: ConnectionSettings,
  options: { readonly lockKey: string; readonly applicationName: string; readonly signal: AbortSignal },
): Promise<HeldLock> {
  const client = await connect({ ...settings, database: 'postgres' }, options);
  const held = holdSession(client);
  try {
    await refusePooler(client);
    await liftTimeouts(client);
    await takeLock(client, options.lockKey);
  } catch (error) {
    await held.leave();
    options.signal.throwIfAborted();
    throw postgresError(error, 'locking the primary');
  }
  return { signal: held.lost.signal, close: () => held.leave() };
}

interface SessionParts {
  readonly settings: ConnectionSettings;
  readonly options: BackupSessionOptions;
  readonly facts: ServerFacts;
  readonly held: HeldSession;
}

function createSession(
  client: pg.Client,
  pid: number,
  { settings, options, facts, held }: SessionParts,
): BackupSession {
  const { lost } = held;
  const signal = AbortSignal.any([options.signal, lost.signal]);
  const position = () => readPosition(client, () => readControlData(options.pgdata, signal));
  const ask = <T>(doing: string, question: () => Promise<T>) => askUntil(client, signal, doing, question);
  let began: ServerPosition | undefined;
  let beganAt: Date | undefined;
  let closed = false;
  let watch: { end(): void } | undefined;

  return {
    facts,
    signal,

    async start(label, { immediateCheckpoint }) {
      failpoint('backup.start-requested');
      const before = await ask('reading the position of the server', position);
      const { rows } = await ask('pg_backup_start', () =>
        client.query<{ lsn: string; time: Date }>(
          'select pg_backup_start($1, $2)::text as lsn, clock_timestamp() as time',
          [label, immediateCheckpoint],
        ),
      );
      failpoint('backup.started');
      const now = await ask('reading the position of the server', position);
      requireSamePosition(before, now);
      began = now;
      watch = watchPosition(began, position, lost, options);
      const tablespaces = await ask('reading the tablespaces', () => readTablespaces(client));
      const row = rows[0] as { lsn: string; time: Date };
      beganAt = row.time;
      return { beginLsn: parseLsn(row.lsn), beginTime: row.time, position: began, tablespaces };
    },

    async stop() {
      if (!began) throw new BackupError('backup-interrupted', 'the backup was not started');
      failpoint('backup.before-stop');
      requireSamePosition(began, await ask('reading the position of the server', position));
      watch?.end();
      // Waiting for the archive is ours: PostgreSQL waits for ever on a primary, and not at all on a standby.
      const { rows } = await ask('pg_backup_stop', () =>
        client.query<{ lsn: string; label: string; map: string }>(
          `select lsn::text, labelfile as label, coalesce(spcmapfile, '') as map from pg_backup_stop(wait_for_archive => false)`,
        ),
      );
      failpoint('backup.stopped');
      const { rows: times } = await ask('reading the time', () =>
        // Rounded up: what a Date drops would make the end earlier than the stop.
        client.query<{ time: Date }>(`select clock_timestamp() + interval '1 ms' as time`),
      );
      requireSamePosition(began, await ask('reading the position of the server', position));
      const tablespaces = await ask('reading the tablespaces', () => readTablespaces(client));
      const row = rows[0] as { lsn: string; label: string; map: string };
      const endTime = (times[0] as { time: Date }).time;
      requireLaterThan(beganAt, endTime);
      return {
        endLsn: parseLsn(row.lsn),
        endTime,
        backupLabel: row.label,
        tablespaceMap: row.map,
        tablespaces,
      };
    },

    async close() {
      watch?.end();
      // A backend in the middle of pg_backup_start (a checkpoint may take minutes) does not hear us leave.
      if (signal.aborted && !closed) await terminate(settings, pid);
      closed = true;
      await held.leave();
    },
  };
}

/** A backup whose end lies before its beginning could not say which moments it can be recovered to. */
function requireLaterThan(begin: Date | undefined, end: Date): void {
  if (!begin || end >= begin) return;
  const seconds = Math.round((begin.getTime() - end.getTime()) / 1000);
  throw new BackupError(
    'backup-interrupted',
    `the server's clock was set back during the backup: it began at ${begin.toISOString()}, and ended ${seconds} s before that`,
    { hint: 'a new attempt succeeds when the clock stands still; look at its synchronisation (NTP)' },
  );
}

/** Waits for the answer to `question`, but not a moment longer than `signal` allows. */
async function askUntil<T>(
  client: pg.Client,
  signal: AbortSignal,
  doing: string,
  question: () => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  let abort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
  });
  try {
    return await Promise.race([question(), aborted]);
  } catch (error) {
    // The answer to a question on a session that just died is that it died.
    await settle();
    throw signal.aborted ? signal.reason : postgresError(error, doing);
  } finally {
    if (abort) signal.removeEventListener('abort', abort);
  }
}

/** Looks at the server again and again; a changed role or timeline, an error and silence all end the backup. */
function watchPosition(
  began: ServerPosition,
  position: () => Promise<ServerPosition>,
  lost: AbortController,
  { watchIntervalMs = WATCH_INTERVAL_MS, watchDeadlineMs = WATCH_DEADLINE_MS }: BackupSessionOptions,
): { end(): void } {
  let ended = false;
  let timer: NodeJS.Timeout;
  let deadline: NodeJS.Timeout;
  const look = async () => {
    deadline = setTimeout(() => {
      if (!ended) lost.abort(interrupted(new Error(`no answer for ${watchDeadlineMs / 1000} s`)));
    }, watchDeadlineMs);
    try {
      const now = await position();
      if (!ended) requireSamePosition(began, now);
    } catch (error) {
      if (!ended) lost.abort(interrupted(error));
    } finally {
      clearTimeout(deadline);
    }
    if (!ended && !lost.signal.aborted) timer = setTimeout(() => void look(), watchIntervalMs);
  };
  timer = setTimeout(() => void look(), watchIntervalMs);
  return {
    end() {
      ended = true;
      clearTimeout(timer);
      clearTimeout(deadline);
    },
  };
}

async function liftTimeouts(client: pg.Client): Promise<void> {
  await client.query(
    `select set_config(name, '0', false) from pg_catalog.pg_settings
      where name in ('statement_timeout', 'lock_timeout', 'idle_session_timeout',
                     'idle_in_transaction_session_timeout', 'transaction_timeout')`,
  );
  try {
    // So that a backend in a long checkpoint notices that we are gone, and ends the backup mode.
    await client.query(`select set_config('client_connection_check_interval', '2s', false)`);
  } catch {
    // Not on every operating system; then it notices at the end of the checkpoint.
  }
}

async function takeLock(client: pg.Client, lockKey: string): Promise<void> {
  const hash = createHash('sha256').update(lockKey).digest().readInt32BE(0);
  const { rows } = await client.query<{ taken: boolean }>(
    'select pg_try_advisory_lock($1::int, $2::int) as taken',
    [LOCK_CLASS, hash],
  );
  if (rows[0]?.taken) return;
  const holder = await client.query<{ pid: number; name: string }>(
    `select l.pid, a.application_name as name from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a using (pid)
      where l.locktype = 'advisory' and l.classid = $1::int::oid and l.objid::bigint = $2::bigint and l.granted`,
    [LOCK_CLASS, hash >>> 0],
  );
  const who = holder.rows[0] ? ` (process ${holder.rows[0].pid} of the server, ${holder.rows[0].name})` : '';
  throw new BackupError('backup-in-progress', `another backup of ${lockKey} is running${who}`);
}

async function backendPid(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
  return (rows[0] as { pid: number }).pid;
}

/** Ends a server process of ours from outside. Best effort: without it the server ends it a little later. */
async function terminate(settings: ConnectionSettings, pid: number): Promise<void> {
  const signal = AbortSignal.timeout(5_000);
  try {
    const client = await connect(
      { ...settings, database: 'postgres' },
      { applicationName: 'walkeep cancel', signal },
    );
    const cut = () => socketOf(client).destroy();
    signal.addEventListener('abort', cut, { once: true });
    try {
      await client.query('select pg_terminate_backend($1, 3000)', [pid]);
    } finally {
      signal.removeEventListener('abort', cut);
      await disconnect(client);
    }
  } catch {
    // The session is closed next; the server notices that.
  }
}

function interrupted(error: unknown): BackupError {
  if (error instanceof BackupError && error.code === 'backup-interrupted') return error;
  const text = error instanceof Error ? error.message.split('\n')[0] : String(error);
  return new BackupError('backup-interrupted', `the session that holds the backup was lost: ${text}`, {
    cause: error,
  });
}

/** Lets events that are already on their way arrive. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => setTimeout(resolve, 10)));
}
