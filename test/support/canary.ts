import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { onCleanUp } from './cleanup.ts';
import type { Postgres } from './postgres.ts';
import { type Process, runSuccessfully, startProcess } from './processes.ts';
import { serverUser } from './server-user.ts';
import { availableMajors, postgresBin } from './tools.ts';
import { until } from './wait.ts';

/** A commit that the server acknowledged. Times are the server's own clock, in milliseconds since 1970. */
export interface Commit {
  /** 1, 2, 3, …: the row's primary key. */
  readonly id: number;
  readonly xid: string;
  /** Before COMMIT was sent, and after it was acknowledged: the commit record's time lies between. */
  readonly sentAt: number;
  readonly acknowledgedAt: number;
  /** A position at or after the end of the commit record, e.g. `0/3000148`. */
  readonly lsn: string;
}

/** A single writer that commits one row at a time, with gaps in which nothing of it happens. */
export interface Canary {
  /** Every commit that the server acknowledged so far, in order. */
  readonly commits: readonly Commit[];
  /** Waits until it has `count` commits. */
  waitFor(count: number): Promise<void>;
  /** Ends it; also after its server went away. @returns all its commits */
  stop(): Promise<readonly Commit[]>;
  /** A moment inside the gap after commit `id`, to recover to: that row is there, the next is not. */
  momentAfter(id: number): Date;
}

/**
 * Starts a canary in a table of database `postgres`, by default `canary`; one writer a table.
 *
 * @param options.gapMs from one acknowledgement to the next row, at least; long enough to lie in
 */
export async function startCanary(
  postgres: Postgres,
  { gapMs = 60, table = 'canary' }: { gapMs?: number; table?: string } = {},
): Promise<Canary> {
  const client = await postgres.connect();
  await client.query(`CREATE TABLE IF NOT EXISTS ${table} (id bigint PRIMARY KEY, at timestamptz NOT NULL)`);
  const commits: Commit[] = [];
  let stopping = false;

  const commitOne = async (id: number): Promise<void> => {
    await client.query('BEGIN');
    const { rows } = await client.query<{ xid: string; sent: string }>(
      `INSERT INTO ${table} VALUES ($1, clock_timestamp())
       RETURNING pg_current_xact_id()::text AS xid, extract(epoch FROM clock_timestamp()) * 1000 AS sent`,
      [id],
    );
    await client.query('COMMIT');
    const after = await client.query<{ at: string; lsn: string }>(
      'SELECT extract(epoch FROM clock_timestamp()) * 1000 AS at, pg_current_wal_lsn()::text AS lsn',
    );
    commits.push({
      id,
      xid: rows[0]!.xid,
      sentAt: Number(rows[0]!.sent),
      acknowledgedAt: Number(after.rows[0]!.at),
      lsn: after.rows[0]!.lsn,
    });
  };
  const writing = (async () => {
    for (let id = 1; !stopping; id += 1) {
      await commitOne(id);
      await sleep(gapMs);
    }
  })().catch(() => {}); // the server was killed under it, as the test wanted: what counts was acknowledged before

  const stop = async (): Promise<readonly Commit[]> => {
    stopping = true;
    await writing;
    await client.end().catch(() => {});
    return commits;
  };
  onCleanUp(async () => void (await stop()));
  return {
    commits,
    async waitFor(count) {
      await until(`${count} commits of the canary`, () => commits.length >= count, { timeoutMs: 60_000 });
    },
    stop,
    momentAfter(id) {
      const commit = commits[id - 1];
      if (!commit) throw new Error(`the canary has no commit ${id}, the last is ${commits.length}`);
      // Whole milliseconds: a Date has no more, and the gap is far longer.
      return new Date(Math.ceil(commit.acknowledgedAt) + Math.floor(gapMs / 3));
    },
  };
}

/** The ids that a server has, in order: to be compared with the commits that were acknowledged. */
export async function readCanary(postgres: Pick<Postgres, 'psql'>, table = 'canary'): Promise<number[]> {
  const rows = await postgres.psql<{ id: string }>(`SELECT id FROM ${table} ORDER BY id`);
  return rows.map(({ id }) => Number(id));
}

/** The ids 1 to `last`. */
export function idsUpTo(last: number): number[] {
  return Array.from({ length: last }, (_, index) => index + 1);
}

/**
 * Load beside the canary: pgbench, two clients, until it is stopped.
 *
 * @param options.transactionsPerSecond by default as many as it can: that leaves little of the processors to others
 * @returns `undefined` where no PostgreSQL of this host has a pgbench
 */
export async function startLoad(
  postgres: Postgres,
  { clients = 2, transactionsPerSecond }: { clients?: number; transactionsPerSecond?: number } = {},
): Promise<Process | undefined> {
  const candidates = [postgres.major, ...availableMajors().toReversed()].map((major) =>
    join(postgresBin(major), 'pgbench'),
  );
  const pgbench = candidates.find((path) => existsSync(path));
  if (pgbench === undefined) return undefined;
  const options = { user: serverUser, env: { ...process.env, ...postgres.environment } };
  await runSuccessfully(pgbench, ['--initialize', '--scale=1', '--quiet'], options);
  const pace = transactionsPerSecond === undefined ? [] : [`--rate=${transactionsPerSecond}`];
  return startProcess(pgbench, [`--client=${clients}`, '--time=3600', '--no-vacuum', ...pace], options);
}
