import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  realpathSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { confirmBackup, copyBackup, recordBackup, type Progress } from '../../operations/take-backup.ts';
import { readBackupManifest, readBackupRecord, readTablespaceMap } from '../../repository/backup-record.ts';
import { listBackups, readBackup } from '../../repository/catalogue.ts';
import { createRepository } from '../../repository/repository.ts';
import { putWal } from '../../repository/wal.ts';
import { openStore } from '../../stores/open-store.ts';
import { collectBytes } from '../../streams/chunks.ts';
import {
  backupObjects,
  createBench,
  inputFor,
  leftovers,
  NEVER,
  SERVER,
  unpack,
  type BackupBench,
} from '../operations/take-backup-bench.ts';
import { startLoad } from '../support/canary.ts';
import { startS3 } from '../support/s3.ts';
import { createPostgres, openPostgres, type Postgres } from '../support/postgres.ts';
import { runProcess, runSuccessfully } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import {
  describeEachMajor,
  describeWith,
  postgresBin,
  repositoryRoot,
  type Major,
} from '../support/tools.ts';
import { until } from '../support/wait.ts';

const NOTHING = { sessions: 0, locks: 0, slots: 0 };

async function takeBackup(bench: BackupBench, server: Postgres, change: Parameters<typeof inputFor>[1] = {}) {
  const ports = bench.ports(server);
  const copied = await copyBackup(ports, inputFor(server, change), { signal: NEVER });
  await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 60_000, verify: 'decode' });
  return { copied, status: await recordBackup(ports, copied, { signal: NEVER }) };
}

/** A hash over all rows of all ordinary tables. */
async function contentOf(server: Postgres): Promise<Record<string, string>> {
  const tables = await server.psql<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = relnamespace
      where relkind = 'r' and nspname = 'public' order by 1`,
  );
  const content: Record<string, string> = {};
  for (const { name } of tables) {
    const [row] = await server.psql<{ hash: string }>(
      `select count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) as hash from ${name} t`,
    );
    content[name] = row!.hash;
  }
  return content;
}

async function startRestored(bench: BackupBench, major: Major, dataDirectory: string): Promise<Postgres> {
  writeFileSync(join(dataDirectory, 'recovery.signal'), '');
  giveToServerUser(join(dataDirectory, 'recovery.signal'));
  const config = { restore_command: bench.restoreCommand, archive_mode: false };
  const restored = await openPostgres({ major, dataDirectory, config });
  await restored.start();
  await restored.waitUntilPromoted();
  return restored;
}

async function verifyWithPostgres(bench: BackupBench, major: Major, backupId: string, dataDirectory: string) {
  const source = await readBackupManifest(bench.repository, backupId, NEVER);
  const manifest = join(makeTempDir(), 'backup_manifest');
  writeFileSync(manifest, await collectBytes(source!, 2 ** 30));
  const program = join(postgresBin(major), 'pg_verifybackup');
  if (!existsSync(program)) return undefined;
  return runProcess(program, ['--no-parse-wal', '--exit-on-error', '-m', manifest, dataDirectory], {
    user: serverUser,
  });
}

describeEachMajor('a base backup', (major) => {
  it('B1, B2, B4, B5, O2: taken under load, with tablespaces and an unlogged table, restores to the same content', async () => {
    const bench = createBench();
    const server = await createPostgres({ major, archiveCommand: bench.archiveCommand });
    const [outside, inside] = [makeTempDir('ts'), join(server.dataDirectory, 'inner ts')];
    await runSuccessfully('mkdir', [inside]);
    giveToServerUser(inside);
    await server.psql(`create tablespace "Ts B ü" location '${outside}'`);
    await server.psql(`create tablespace inner_ts location '${inside}'`);
    await server.psql(`
      create table outer_t tablespace "Ts B ü" as select g, repeat('x', 200) as t from generate_series(1, 20000) g;
      create table inner_t tablespace inner_ts as select g from generate_series(1, 1000) g;
      create unlogged table unlogged_t as select g from generate_series(1, 1000) g;
      create table churn (id int)`);
    const load = await startLoad(server);
    const churn = await server.connect();
    let churning = true;
    // Files come, grow, shrink and go while they are copied.
    const churned = (async () => {
      while (churning) {
        await churn.query(
          `drop table churn; create table churn as select g, repeat('y', 500) as t from generate_series(1, 5000) g`,
        );
        await churn.query('delete from churn where g > 100; vacuum churn; checkpoint'.split(';')[0]!);
        await churn.query('vacuum churn');
        await churn.query('checkpoint');
      }
    })();
    const phases: Progress[] = [];
    const ports = bench.ports(server);
    const copied = await copyBackup(
      ports,
      inputFor(server, { codec: 'zstd', maxPartBytes: 8 * 1024 * 1024 }),
      {
        signal: NEVER,
        onProgress: (progress) => phases.push(progress),
      },
    );
    expect(await listBackups(bench.repository, NEVER)).toEqual([]);
    await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 60_000, verify: 'decode' });
    expect(await listBackups(bench.repository, NEVER)).toEqual([]);
    const status = await recordBackup(ports, copied, { signal: NEVER });
    expect(await recordBackup(ports, copied, { signal: NEVER })).toEqual(status);
    churning = false;
    await churned;
    await churn.end();
    await load?.stop();
    expect(await leftovers(server)).toEqual(NOTHING);
    expect(status).toMatchObject({ phase: 'completed', backupId: copied.backupId, majorVersion: major });
    expect(new Set(phases.map(({ phase }) => phase))).toEqual(new Set(['starting', 'copying', 'stopping']));

    const info = await readBackup(bench.repository, copied.backupId, NEVER);
    expect(info).toMatchObject({
      status: 'DONE',
      version: copied.postgresVersion,
      backupName: 'nightly',
      serverName: 'cloud',
    });
    expect(info!.tablespaces.map(({ name, location }) => [name, location])).toEqual([
      ['Ts B ü', outside],
      ['inner_ts', inside],
    ]);
    expect(await readTablespaceMap(bench.repository, copied.backupId, NEVER)).toContain(outside);
    const record = await readBackupRecord(bench.repository, copied.backupId, NEVER);
    expect(record!.parts.length).toBeGreaterThan(4);
    expect(record!.pageChecksumFailures).toEqual([]);

    const expected = await contentOf(server);
    await server.waitUntilArchived(await server.switchWal());
    await server.stop();
    const target = await unpack(bench, copied);
    expect((statSync(target).mode & 0o777).toString(8)).toBe('700');
    expect(existsSync(join(target, 'tablespace_map'))).toBe(false);
    expect(readFileSync(join(target, 'backup_label'), 'utf8')).toBe(info!.backupLabel);
    const verified = await verifyWithPostgres(bench, major, copied.backupId, target);
    if (verified)
      expect(verified).toMatchObject({ code: 0, stdout: expect.stringContaining('successfully verified') });
    const restored = await startRestored(bench, major, target);
    // What is unlogged is empty after a recovery, and that is right.
    expect(await contentOf(restored)).toEqual({ ...expected, unlogged_t: '0 0' });
    expect(await restored.psql('select count(*)::int as n from inner_t')).toEqual([{ n: 1000 }]);
    await restored.run('vacuumdb', ['--all', '--freeze']);
    await restored.stop();
  });

  it('S4: a role with nothing but scripts/grants.sql is enough; less is refused, saying what to do', async () => {
    const bench = createBench();
    const server = await createPostgres({ major, archiveCommand: bench.archiveCommand });
    await server.psql('create role plain login');
    const input = inputFor(server);
    const refused = copyBackup(bench.ports(server, 'plain'), input, { signal: NEVER });
    await expect(refused).rejects.toMatchObject({
      code: 'postgres-denied',
      hint: expect.stringContaining('grants.sql'),
    });
    await runSuccessfully(
      join(postgresBin(15), 'psql'),
      ['-q', '-f', join(repositoryRoot, 'scripts/grants.sql')],
      {
        env: { ...process.env, ...server.environment },
      },
    );
    // What a hostile owner of the database could put in the way of an unqualified name.
    await server.psql(`
      create function public.pg_backup_start(text, bool) returns pg_lsn language sql as $$ select 1/0; select '0/0'::pg_lsn $$;
      create function public.pg_is_in_recovery() returns bool language sql as $$ select 1/0 = 1 $$;
      alter role walkeep set search_path = public, pg_catalog;
      alter role walkeep set statement_timeout = '50ms';
      alter role walkeep set idle_session_timeout = '1s'`);
    const ports = bench.ports(server, 'walkeep');
    const copied = await copyBackup(ports, input, { signal: NEVER });
    await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 30_000 });
    expect((await recordBackup(ports, copied, { signal: NEVER })).phase).toBe('completed');
    expect(await leftovers(server)).toEqual(NOTHING);
  });
});

describeEachMajor(
  'what can go wrong in a base backup',
  (major) => {
    it('B3, O3: its session killed in mid-copy interrupts it at once, and nothing is listed or left', async () => {
      const { bench, server } = await withData(major, 60_000);
      const started = performance.now();
      const copying = copyBackup(bench.ports(server), inputFor(server), {
        signal: NEVER,
        onProgress: once('copying', () =>
          server.psql(
            `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'walkeep backup%'`,
          ),
        ),
      });
      await expect(copying).rejects.toMatchObject({ code: 'backup-interrupted', retryable: true });
      expect(performance.now() - started).toBeLessThan(10_000);
      await expectNothingLeft(bench, server);
    });

    it('B3, O3: the server killed in mid-copy interrupts it', async () => {
      const { bench, server } = await withData(major, 60_000);
      const copying = copyBackup(bench.ports(server), inputFor(server), {
        signal: NEVER,
        onProgress: once('copying', () => server.kill9()),
      });
      await expect(copying).rejects.toMatchObject({ code: 'backup-interrupted' });
      expect(await partsIn(bench)).toEqual([]);
      await server.start();
      await expectNothingLeft(bench, server);
    });

    it('B3, O3: cancelled while PostgreSQL spreads its checkpoint, it ends at once', async () => {
      const { bench, server } = await withData(major, 20_000);
      server.configure({ checkpoint_timeout: '30min', checkpoint_completion_target: 0.9 });
      await server.reload();
      const cancelled = new AbortController();
      const copying = copyBackup(bench.ports(server), inputFor(server, { immediateCheckpoint: false }), {
        signal: cancelled.signal,
      });
      const outcome = copying.catch((error: unknown) => error);
      await until('pg_backup_start to wait', async () => {
        const rows = await server.psql(
          `select from pg_stat_activity where query like '%pg_backup_start($1%' and state = 'active' and pid <> pg_backend_pid()`,
        );
        return rows.length > 0;
      });
      const started = performance.now();
      cancelled.abort(new Error('no longer wanted'));
      expect(await outcome).toMatchObject({ message: 'no longer wanted' });
      expect(performance.now() - started).toBeLessThan(5_000);
      await expectNothingLeft(bench, server);
    });

    it('B3: cancelled while it prepares, it says so, and not that PostgreSQL is away', async () => {
      const { bench, server } = await withData(major, 10);
      for (const ms of [5, 10, 15, 20, 30, 40, 60]) {
        const copying = copyBackup(bench.ports(server), inputFor(server, { immediateCheckpoint: false }), {
          signal: AbortSignal.any([AbortSignal.timeout(ms)]),
        });
        await expect(copying, `${ms} ms`).rejects.toMatchObject({ name: 'TimeoutError' });
      }
      await expectNothingLeft(bench, server);
    });

    it('F1: two at once: one runs, the other is refused and harms nothing', async () => {
      const { bench, server } = await withData(major, 60_000);
      const first = copyBackup(bench.ports(server), inputFor(server), { signal: NEVER });
      await until('the first to begin', async () => (await leftovers(server)).locks > 0);
      const second = copyBackup(bench.ports(server), inputFor(server), { signal: NEVER });
      await expect(second).rejects.toMatchObject({
        code: 'backup-in-progress',
        message: expect.stringContaining('default/c'),
      });
      expect((await first).files).toBeGreaterThan(100);
      expect(await leftovers(server)).toEqual(NOTHING);
    });

    it('B5: a damaged page is found and named, and the backup counts with a warning', async () => {
      const { bench, server } = await withData(major, 5_000);
      const [row] = await server.psql<{ path: string }>(`select pg_relation_filepath('data_t') as path`);
      await server.stop();
      const fd = openSync(join(server.dataDirectory, row!.path), 'r+');
      writeSync(fd, 'damage', 3 * 8192 + 4000);
      closeSync(fd);
      await server.start();
      const { copied } = await takeBackup(bench, server);
      expect(copied.pageChecksumFailures).toBe(1);
      const record = await readBackupRecord(bench.repository, copied.backupId, NEVER);
      expect(record!.pageChecksumFailures).toEqual([{ path: row!.path, blocks: [3] }]);
    });

    it('B4: a relation over 1 GiB is stored in all its files', async () => {
      const bench = createBench();
      const server = await createPostgres({ major, archiveCommand: bench.archiveCommand });
      const [row] = await server.psql<{ path: string }>(
        `create table large (t text); insert into large values ('first'); select pg_relation_filepath('large') as path`,
      );
      await server.stop();
      const file = join(server.dataDirectory, row!.path);
      truncateSync(file, 2 ** 30);
      await server.start();
      await server.psql(`insert into large select repeat(g::text, 100) from generate_series(1, 1000) g`);
      expect(existsSync(`${file}.1`)).toBe(true);
      const { copied } = await takeBackup(bench, server, { codec: 'lz4' });
      const expected = await contentOf(server);
      await server.stop();
      const restored = await startRestored(bench, major, await unpack(bench, copied));
      expect(await contentOf(restored)).toEqual(expected);
    });

    it('B4: configuration outside PGDATA is brought along; a linked data directory and pg_wal are no obstacle', async () => {
      const bench = createBench();
      const server = await createPostgres({ major, archiveCommand: bench.archiveCommand });
      await server.stop();
      const outside = makeTempDir('etc');
      const [wal, hba] = [join(outside, 'wal'), join(outside, 'pg_hba.conf')];
      await runSuccessfully('mv', [join(server.dataDirectory, 'pg_wal'), wal]);
      symlinkSync(wal, join(server.dataDirectory, 'pg_wal'));
      writeFileSync(hba, 'local all all trust # outside\n');
      server.configure({ hba_file: hba });
      await server.start();
      const link = join(outside, 'linked');
      symlinkSync(realpathSync(server.dataDirectory), link);
      const { copied } = await takeBackup(bench, server, { pgdata: link });
      const target = await unpack(bench, copied);
      expect(readFileSync(join(target, 'pg_hba.conf'), 'utf8')).toContain('# outside');
      expect(statSync(join(target, 'pg_wal')).isDirectory()).toBe(true);
    });

    it('B1: without its WAL in the repository a backup is not confirmed, and the message says where to look', async () => {
      const bench = createBench();
      const server = await createPostgres({ major, archiveCommand: 'false' });
      const ports = bench.ports(server);
      const copied = await copyBackup(ports, inputFor(server), { signal: NEVER });
      const confirming = confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 700 });
      await expect(confirming).rejects.toMatchObject({
        code: 'wal-missing',
        message: expect.stringContaining(copied.beginWal),
        hint: expect.stringContaining('pg_stat_archiver'),
      });
      expect(await listBackups(bench.repository, NEVER)).toEqual([]);
    });

    it.for([
      ['archive_mode off', { archive_mode: false }, 'archive_mode is off'],
      [
        'wal_level minimal',
        { wal_level: 'minimal', archive_mode: false, max_wal_senders: 0 },
        'wal_level is minimal',
      ],
      ['archive_command empty', { archive_command: '' }, 'archive_command is empty'],
    ] as const)('refused before anything is begun: %s', async ([, config, message]) => {
      const bench = createBench();
      const server = await createPostgres({ major, archiveCommand: bench.archiveCommand });
      server.configure(config);
      await server.restart();
      const copying = copyBackup(bench.ports(server), inputFor(server), { signal: NEVER });
      await expect(copying).rejects.toMatchObject({
        code: 'postgres-unsuitable',
        message: expect.stringContaining(message),
      });
      expect(await backupObjects(bench)).toEqual([]);
    });

    it('refuses the data directory of another server, even of the same cluster', async () => {
      const bench = createBench();
      const server = await createPostgres({ major, archiveCommand: bench.archiveCommand });
      const other = await createPostgres({ major });
      const copying = (pgdata: string) =>
        copyBackup(bench.ports(server), inputFor(server, { pgdata }), { signal: NEVER });
      await expect(copying(other.dataDirectory)).rejects.toThrow('its system identifier is');
      const standby = await server.createStandby();
      await expect(copying(standby.dataDirectory)).rejects.toThrow(
        'is not the data directory of this server',
      );
      await standby.stop();
      await expect(copying(standby.dataDirectory)).rejects.toThrow('it has no postmaster.pid');
      await expect(copying('/nowhere')).rejects.toThrow('/nowhere');
    });
  },
  [15],
);

describeEachMajor('a base backup from a standby', (major) => {
  it('B1, O2: restores, also when both servers are idle: the primary is asked for the last segment', async () => {
    const bench = createBench();
    const primary = await createPostgres({ major, archiveCommand: bench.archiveCommand });
    await primary.psql('create table data_t as select g from generate_series(1, 1000) g');
    const standby = await primary.createStandby();
    const ports = { ...bench.ports(standby), primary: bench.ports(primary).postgres };
    const copied = await copyBackup(ports, inputFor(standby), { signal: NEVER });
    expect(copied.fromStandby).toBe(true);
    await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 60_000 });
    await recordBackup(ports, copied, { signal: NEVER });
    expect([await leftovers(primary), await leftovers(standby)]).toEqual([NOTHING, NOTHING]);
    const expected = await contentOf(primary);
    await standby.stop();
    const target = await unpack(bench, copied);
    expect(existsSync(join(target, 'standby.signal'))).toBe(false);
    const restored = await startRestored(bench, major, target);
    expect(await contentOf(restored)).toEqual(expected);
  });

  it('F1, B3: holds a lock on the primary as well; losing that one ends the backup, too', async () => {
    const bench = createBench();
    const primary = await createPostgres({ major, archiveCommand: bench.archiveCommand });
    await primary.psql(
      `create table data_t as select g, repeat('x', 500) as t from generate_series(1, 60000) g`,
    );
    const standby = await primary.createStandby();
    const ports = { ...bench.ports(standby), primary: bench.ports(primary).postgres };
    const locks: number[] = [];
    const copying = copyBackup(ports, inputFor(standby), {
      signal: NEVER,
      onProgress: once('copying', async () => {
        locks.push((await leftovers(primary)).locks);
        await primary.psql(
          `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'walkeep backup of%'`,
        );
      }),
    });
    await expect(copying).rejects.toMatchObject({ code: 'backup-interrupted' });
    expect(locks).toEqual([1]);
    await expectNothingLeft(bench, standby);
    expect(await leftovers(primary)).toEqual(NOTHING);
  });

  it('B6: promoted in mid-copy, the backup fails', async () => {
    const bench = createBench();
    const primary = await createPostgres({ major, archiveCommand: bench.archiveCommand });
    await primary.psql(
      `create table data_t as select g, repeat('x', 500) as t from generate_series(1, 60000) g`,
    );
    const standby = await primary.createStandby();
    const copying = copyBackup(bench.ports(standby), inputFor(standby), {
      signal: NEVER,
      onProgress: once('copying', () => standby.psql('select pg_promote(true, 60)')),
    });
    await expect(copying).rejects.toMatchObject({ code: 'backup-interrupted' });
    await expectNothingLeft(bench, standby);
  });
});

describeWith('versitygw', 'a base backup in an S3 store', () => {
  it('S1, B1, E1, B3: its threads reach the store with the keys they are given; what was stored is as it was read, and of what does not decompress to that nothing stays', async () => {
    const s3 = await startS3();
    const credentials = {
      accessKeyId: new Secret(s3.accessKeyId),
      secretAccessKey: new Secret(s3.secretAccessKey),
    };
    const { bucket, endpointUrl, region } = s3;
    const store = { kind: 's3', bucket, prefix: 'a/b', endpointUrl, region, credentials } as const;
    const repository = createRepository(openStore(store), SERVER);
    const { bench, server } = await withData(15, 40_000);
    const ports = { ...bench.ports(server), store, repository: () => Promise.resolve(repository) };
    const copied = await copyBackup(ports, inputFor(server, { tags: { team: 'dba' } }), { signal: NEVER });
    const archived = join(bench.directory, SERVER, 'wals', copied.beginWal.slice(0, 16), copied.beginWal);
    // cp is not atomic, and nobody has waited for the archiver yet
    await until('the archived segment', () => statSync(archived).size === copied.segmentSize);
    const segment = readFileSync(archived);
    await putWal(repository, copied.beginWal, segment, 'none', { signal: NEVER });
    await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 30_000, verify: 'decode' });
    await recordBackup(ports, copied, { signal: NEVER });
    expect((await listBackups(repository, NEVER)).map(({ backupId }) => backupId)).toEqual([copied.backupId]);

    // An attempt that failed leaves its name and its verdict, so that it can't come back.
    const kept = async () =>
      (await keysOf(repository.store.list('', { signal: NEVER }))).filter(
        (key) => !key.includes('/attempts/'),
      );
    const stored = await kept();
    // Fault injection: threads whose codec turns a bit.
    const partThread = new URL('../operations/damaging-thread.ts', import.meta.url);
    const damaging = copyBackup({ ...ports, partThread }, inputFor(server), { signal: NEVER });
    await expect(damaging).rejects.toMatchObject({ code: 'object-damaged' });
    expect(await kept()).toEqual(stored);
    expect(await keysOf(repository.store.unfinished!('', { signal: NEVER }))).toEqual([]);
    expect(await leftovers(server)).toEqual(NOTHING);

    await s3.kill9();
    const failing = copyBackup(ports, inputFor(server), { signal: NEVER });
    await expect(failing).rejects.toMatchObject({ code: 'store-unavailable' });
    expect(await leftovers(server)).toEqual(NOTHING);
    await repository.close();
  });
});

async function keysOf(listing: AsyncIterable<{ readonly key: string }>): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of listing) keys.push(key);
  return keys;
}

/** A server with a table of `rows` × 500 bytes. */
async function withData(major: Major, rows: number): Promise<{ bench: BackupBench; server: Postgres }> {
  const bench = createBench();
  const server = await createPostgres({ major, archiveCommand: bench.archiveCommand });
  await server.psql(
    `create table data_t as select g, repeat(md5(g::text), 16) as t from generate_series(1, ${rows}) g`,
  );
  return { bench, server };
}

/** Does `action` when a phase begins. */
function once(wanted: Progress['phase'], action: () => Promise<unknown>): (progress: Progress) => void {
  let done = false;
  return ({ phase }) => {
    if (phase !== wanted || done) return;
    done = true;
    void action();
  };
}

async function partsIn(bench: BackupBench): Promise<string[]> {
  return (await backupObjects(bench)).filter((key) => key.startsWith(`${SERVER}/base/`));
}

async function expectNothingLeft(bench: BackupBench, server: Postgres): Promise<void> {
  expect(await leftovers(server)).toEqual(NOTHING);
  expect(await listBackups(bench.repository, NEVER)).toEqual([]);
  expect(await partsIn(bench)).toEqual([]);
}
