import { mkdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, it } from 'vitest';
import { parseLsn } from '../../core/lsn.ts';
import { idsUpTo, readCanary, startCanary, startLoad, type Canary, type Commit } from '../support/canary.ts';
import { readCommitOrder, type CommitOrder, type Stop } from '../support/commit-order.ts';
import type { Postgres } from '../support/postgres.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeEachMajor, type Major } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import {
  missingWal,
  startSite,
  type BackupStatus,
  type Restored,
  type Site,
  type SiteOptions,
} from '../support/walkeep.ts';

const MINUTE = 60_000;
const TABLESPACE = 'Räume 1';
const RESTORE_POINT = 'before the migration';
const GIANT_BLOCKS = 131_072 + 40;
const BLOCK = 8192;

/** What differs from major to major, so that all of it is run somewhere. */
const VARIETY: Record<Major, Omit<SiteOptions, 'temporal' | 'major'> & { readonly allTargets: boolean }> = {
  15: { allTargets: true, compression: { wal: 'gzip', data: 'gzip' } },
  16: { allTargets: false, segmentSizeMiB: 1 },
  17: { allTargets: false, segmentSizeMiB: 64, compression: { wal: 'gzip', data: 'lz4' } },
  18: { allTargets: true, store: 's3', compression: { wal: 'zstd', data: 'zstd' } },
};

/** A server that was loaded, backed up, killed and deleted; what is left of it is the repository. */
interface Story {
  readonly site: Site;
  readonly tablespace: string;
  readonly backups: Readonly<Record<'idle' | 'loaded' | 'giant', BackupStatus>>;
  /** Backups that had a record before their WAL was archived. */
  readonly recordedTooEarly: readonly string[];
  /** WAL that was not in the repository when its backup was said to be complete. */
  readonly missing: readonly string[];
  /** The canary's commits that were acknowledged. */
  readonly commits: readonly Commit[];
  /** In the gap after this commit. */
  readonly moment: { readonly after: number; readonly time: Date };
  readonly lsn: string;
  /** Of a transaction that began long before it committed. */
  readonly slowXid: string;
  readonly order: CommitOrder;
}

let temporal: TemporalServer;
beforeAll(async () => {
  temporal = await startTemporal();
});

describeEachMajor('a point in time, by the command line alone', (major) => {
  const { allTargets } = VARIETY[major];
  let story: Story;
  beforeAll(async () => {
    story = await tellStory(major);
  }, 3 * MINUTE);

  /** Restores the dead server, looks, and removes it again. */
  async function restored(args: readonly string[], look: (server: Restored) => Promise<void>): Promise<void> {
    const space = join(makeTempDir('space'), 'mapped');
    const server = await story.site.restore('--tablespace', `${TABLESPACE}=${space}`, ...args);
    await look(server);
    await server.remove();
  }

  /** What is there, held against what PostgreSQL itself reads in the archived WAL. */
  async function expectExactly(server: Restored, stop: Stop): Promise<void> {
    const expected = await story.order.committedUpTo(stop);
    const visible = await visibleTransactions(server);
    expect(difference(visible, expected), 'there, and not committed before the target').toEqual([]);
    expect(difference(expected, visible), 'committed before the target, and not there').toEqual([]);
    expect(visible.length).toBeGreaterThan(20);
    // The load went on behind every other target, so a recovery that goes too far is seen.
    const all = await story.order.committedUpTo('end');
    expect(all.length - expected.length).toBeGreaterThan(stop === 'end' ? -1 : 20);
    const ids = await readCanary(server);
    expect(ids).toEqual(idsUpTo(ids.length));
  }

  it('B1: each backup is listed as completed, with its WAL from begin to end archived; idle or under load', async () => {
    const { items } = await story.site.machine.json<{ items: { status: BackupStatus }[] }>('get', 'backups');
    expect(items.map(({ status }) => [status.backupName, status.phase])).toEqual(
      expect.arrayContaining([
        ['idle', 'completed'],
        ['loaded', 'completed'],
        ['giant', 'completed'],
      ]),
    );
    expect(story.recordedTooEarly).toEqual([]);
    expect(story.missing).toEqual([]);
    // Every commit that was acknowledged and lies in archived WAL is in the archive, as pg_waldump reads it.
    const order = new Set(story.order.commits);
    const safe = story.commits.filter(({ lsn }) => parseLsn(lsn) <= story.order.endsAt);
    expect(safe.filter(({ xid }) => !order.has(xid))).toEqual([]);
    expect(safe.length).toBeGreaterThan(story.moment.after);
  });

  it('O2, C4: to a time in a gap between two commits: all of the first, nothing of the second', async () => {
    const { after, time } = story.moment;
    await restored(['--target-time', time.toISOString()], async (server) => {
      expect(server.plan.backupId).toBe(story.backups.loaded.backupId);
      expect(await readCanary(server)).toEqual(idsUpTo(after));
      await expectExactly(server, { time });
    });
  });

  it('O2, C4, C5: to the end, after kill -9 and the loss of all directories: every commit that was archived', async () => {
    const server = await story.site.restore();
    expect(server.plan.backupId).toBe(story.backups.giant.backupId);
    await expectExactly(server, 'end');
    const there = new Set(await readCanary(server));
    const archived = story.commits.filter(({ lsn }) => parseLsn(lsn) <= story.order.endsAt);
    expect(archived.filter(({ id }) => !there.has(id))).toEqual([]);
    expect(server.warnings).toEqual([]);
    await expectRelations(server, story.tablespace);
    expect(await server.psql('SHOW archive_mode')).toEqual([{ archive_mode: 'off' }]);
    await server.remove();
  });

  if (!allTargets) return;

  it('O2, C4: to an LSN under load: the record there, and nothing behind it', async () => {
    await restored(['--target-lsn', story.lsn], (server) => expectExactly(server, { lsn: story.lsn }));
  });

  it('O2, C4: to a transaction that committed long after it began: what committed meanwhile is there too', async () => {
    const xid = story.slowXid;
    await restored(['--target-xid', xid, '--backup-id', 'loaded'], async (server) => {
      expect(await server.psql('SELECT n FROM slow')).toEqual([{ n: 1 }]);
      await expectExactly(server, { xid });
      expect((await readCanary(server)).length).toBeGreaterThan(story.moment.after);
    });
  });

  it('O2, C4: to just before that transaction', async () => {
    const xid = story.slowXid;
    await restored(['--target-xid', xid, '--backup-id', 'loaded', '--exclusive'], async (server) => {
      expect(await server.psql('SELECT n FROM slow')).toEqual([]);
      await expectExactly(server, { xid, exclusive: true });
    });
  });

  it('O2, C4: to a restore point made under load', async () => {
    await restored(['--target-name', RESTORE_POINT, '--backup-id', 'loaded'], (server) =>
      expectExactly(server, { restorePoint: RESTORE_POINT }),
    );
  });

  it('O2, C4: immediate: what had been committed when the backup under load ended, and no further', async () => {
    const { backupId, beginLSN } = story.backups.loaded;
    await restored(['--target-immediate', '--backup-id', backupId], (server) =>
      expectExactly(server, { backupBegunAt: beginLSN }),
    );
  });

  it('B1: the backup of an idle server is whole by itself', async () => {
    await restored(['--target-immediate', '--backup-id', 'idle'], async (server) => {
      expect(await server.psql('SELECT n FROM quiet')).toEqual([{ n: 7 }]);
      expect(await server.psql(`SELECT to_regclass('canary')::text AS canary`)).toEqual([{ canary: null }]);
    });
  });
});

async function tellStory(major: Major): Promise<Story> {
  const { allTargets: _, ...variety } = VARIETY[major];
  const config = { checkpoint_timeout: '30s' };
  const site = await startSite({ temporal, major, config, ...variety });
  const { postgres } = site;
  const tablespace = await createRelations(postgres);
  const [idle, recordedTooEarly] = await backupWithoutArchiving(site, 'idle');
  const missing = missingWal(site, idle);
  const backup = async (name: string): Promise<BackupStatus> => {
    const status = await site.backup(name);
    missing.push(...missingWal(site, status));
    return status;
  };

  const load = await startLoad(postgres, { transactionsPerSecond: 300 });
  const canary = await startCanary(postgres);
  const relations = await filenodesOf(postgres, ['canary', 'pgbench_history', 'slow']);
  await canary.waitFor(5);
  const loaded = await backup('loaded');
  const targets = await makeTargets(postgres, canary);
  await createGiant(postgres);
  const giant = await backup('giant');

  await canary.waitFor(canary.commits.length + 3);
  await postgres.waitUntilArchived(await postgres.switchWal());
  // These may well be lost: no archive can have what was never archived.
  await canary.waitFor(canary.commits.length + 3);
  await postgres.kill9();
  const commits = await canary.stop();
  await load?.stop();
  rmSync(postgres.dataDirectory, { recursive: true });
  rmSync(tablespace, { recursive: true });
  // The worker ends in order although its database is gone; nothing below needs it, nor Temporal.
  await site.worker.stop();

  const wal = site.repository.unpackWal();
  const order = await readCommitOrder(major, wal, relations);
  return {
    site,
    tablespace,
    backups: { idle, loaded, giant },
    recordedTooEarly,
    missing,
    commits,
    ...targets,
    order,
  };
}

/** Takes a backup of the idle server while nothing is archived. @returns it, and what was recorded until WAL came */
async function backupWithoutArchiving(site: Site, name: string): Promise<[BackupStatus, string[]]> {
  const { postgres, repository } = site;
  await postgres.psql(`ALTER SYSTEM SET archive_command = 'false'`);
  await postgres.reload();
  const ending = site.backup(name);
  ending.catch(() => {}); // it is awaited below
  const failures = `SELECT FROM pg_stat_archiver WHERE last_failed_wal IS NOT NULL`;
  await until(
    'PostgreSQL to ask for the last WAL of the backup',
    async () => (await postgres.psql(failures)).length > 0,
    { timeoutMs: MINUTE },
  );
  await sleep(1000);
  const recorded = repository.recordedBackups();
  await postgres.psql('ALTER SYSTEM RESET archive_command');
  await postgres.reload();
  return [await ending, recorded];
}

/** A tablespace with a table in it, an unlogged table, and one that is left alone. @returns the tablespace's place */
async function createRelations(postgres: Postgres): Promise<string> {
  const tablespace = join(makeTempDir('ts'), 'sp ace');
  mkdirSync(tablespace, { mode: 0o700 });
  giveToServerUser(tablespace);
  // By itself: a tablespace can't be made inside a transaction.
  await postgres.psql(`CREATE TABLESPACE "${TABLESPACE}" LOCATION '${tablespace}'`);
  await postgres.psql(`
    CREATE TABLE slow (n int) TABLESPACE "${TABLESPACE}";
    CREATE TABLE elsewhere TABLESPACE "${TABLESPACE}" AS SELECT n, repeat('x', 500) AS pad FROM generate_series(1, 3000) n;
    CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 1000) AS n;
    CREATE TABLE quiet AS SELECT 7 AS n;
  `);
  return tablespace;
}

/** Moments to recover to, while the canary and the load go on. */
async function makeTargets(
  postgres: Postgres,
  canary: Canary,
): Promise<Pick<Story, 'moment' | 'lsn' | 'slowXid'>> {
  const client = await postgres.connect();
  await client.query('BEGIN');
  const { rows } = await client.query<{ xid: string }>(
    'INSERT INTO slow VALUES (1) RETURNING pg_current_xact_id()::text AS xid',
  );
  await canary.waitFor(canary.commits.length + 3);
  const after = canary.commits.length;
  const time = canary.momentAfter(after);
  await canary.waitFor(after + 2);
  const [position] = await postgres.psql<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
  await canary.waitFor(canary.commits.length + 2);
  await client.query('COMMIT');
  await client.query('BEGIN');
  await client.query('INSERT INTO slow VALUES (2)');
  await client.query('ROLLBACK');
  await client.end();
  await postgres.psql(`SELECT pg_create_restore_point('${RESTORE_POINT}')`);
  await canary.waitFor(canary.commits.length + 2);
  if (!position || !rows[0]) throw new Error('PostgreSQL returned no row');
  return { moment: { after, time }, lsn: position.lsn, slowXid: rows[0].xid };
}

/**
 * A relation over 1 GiB: rows in its first block, rows in its second file, and between them pages that were never
 * written, which PostgreSQL takes for new ones. The files are sparse, so it costs little.
 */
async function createGiant(postgres: Postgres): Promise<void> {
  const [place] = await postgres.psql<{ path: string }>(`
    CREATE TABLE giant (n int) WITH (autovacuum_enabled = false);
    INSERT INTO giant VALUES (1);
    SELECT pg_relation_filepath('giant') AS path`);
  await postgres.psql('CHECKPOINT');
  const file = join(postgres.dataDirectory, place?.path ?? '');
  const second = `${file}.1`;
  truncateSync(file, 131_072 * BLOCK);
  writeFileSync(second, '', { mode: 0o600 });
  giveToServerUser(second);
  truncateSync(second, (GIANT_BLOCKS - 131_072) * BLOCK);
  // A new session knows no free space in it and takes the last page.
  await postgres.psql('INSERT INTO giant VALUES (2)');
  const [last] = await postgres.psql<{ at: string }>('SELECT ctid::text AS at FROM giant WHERE n = 2');
  expect(last?.at).toBe(`(${GIANT_BLOCKS - 1},1)`);
}

async function expectRelations(server: Restored, tablespace: string): Promise<void> {
  const [spaced] = await server.psql<{ rows: number; location: string }>(`
    SELECT count(*)::int AS rows, max((SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '${TABLESPACE}')) AS location
      FROM elsewhere`);
  expect(spaced).toEqual({ rows: 3000, location: tablespace });
  expect(statSync(join(tablespace)).isDirectory()).toBe(true);
  expect(await server.psql('SELECT n, ctid::text AS at FROM giant ORDER BY n')).toEqual([
    { n: 1, at: '(0,1)' },
    { n: 2, at: `(${GIANT_BLOCKS - 1},1)` },
  ]);
  const [size] = await server.psql<{ bytes: string }>(`SELECT pg_relation_size('giant')::text AS bytes`);
  expect(Number(size?.bytes)).toBe(GIANT_BLOCKS * BLOCK);
  // An unlogged table begins anew, and works.
  expect(await server.psql('SELECT count(*)::int AS rows FROM fleeting')).toEqual([{ rows: 0 }]);
  await server.psql('INSERT INTO fleeting VALUES (1)');
}

/** As pg_waldump names relations. */
async function filenodesOf(postgres: Postgres, tables: readonly string[]): Promise<string[]> {
  const rows = await postgres.psql<{ path: string }>(
    `SELECT coalesce(nullif(c.reltablespace, 0), d.dattablespace) || '/' || d.oid || '/' || pg_relation_filenode(c.oid) AS path
       FROM pg_class c, pg_database d WHERE d.datname = current_database() AND c.oid = ANY ($1::regclass[])`,
    [tables],
  );
  return rows.map(({ path }) => path);
}

/** The transactions whose rows are there, sorted. */
async function visibleTransactions(server: Restored): Promise<string[]> {
  const rows = await server.psql<{ xid: string }>(`
    SELECT DISTINCT xmin::text AS xid
      FROM (SELECT xmin FROM canary UNION ALL SELECT xmin FROM pgbench_history UNION ALL SELECT xmin FROM slow) AS found`);
  return rows.map(({ xid }) => xid).toSorted();
}

function difference(these: readonly string[], those: readonly string[]): string[] {
  const known = new Set(those);
  return these.filter((one) => !known.has(one)).slice(0, 10);
}
