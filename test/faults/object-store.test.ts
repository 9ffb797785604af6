/** Faults 16 and 18: an object store that goes away, and a way to it that breaks in mid-body, with real S3 and PostgreSQL. */
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { confirmBackup, copyBackup, recordBackup } from '../../operations/take-backup.ts';
import { connectionFromEnvironment } from '../../postgres/connection.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { inputFor, NEVER } from '../operations/take-backup-bench.ts';
import { startCanary, type Canary, type Commit } from '../support/canary.ts';
import {
  archiveAll,
  createLedger,
  requireCommits,
  requireNothingLeft,
  type Ledger,
} from '../support/oracles.ts';
import { createPostgres, openPostgres, type Postgres } from '../support/postgres.ts';
import { startProcess, type Process } from '../support/processes.ts';
import { startS3, type S3Server } from '../support/s3.ts';
import { serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { createHost, type Host } from './host.ts';
import { startProxy, type Proxy } from './proxy.ts';

const SECONDS = 4;

describeWith('versitygw', 'an object store', () => {
  let s3: S3Server;
  let proxy: Proxy;
  let host: Host;
  let postgres: Postgres;
  let worker: Process;
  let ledger: Ledger;
  let canary: Canary;
  let commits: readonly Commit[];
  let repository: Repository;

  beforeAll(async () => {
    [s3, postgres] = await Promise.all([
      startS3(),
      createPostgres({ major: 15, segmentSizeMiB: 4, config: { archive_timeout: 0 } }),
    ]);
    proxy = await startProxy(s3.endpointUrl);
    host = createHost(postgres.environment);
    await host.secret('keys', { ID: s3.accessKeyId, KEY: s3.secretAccessKey });
    const s3Credentials = {
      accessKeyId: { name: 'keys', key: 'ID' },
      secretAccessKey: { name: 'keys', key: 'KEY' },
    };
    const objectStore = { endpointURL: proxy.url, s3Credentials };
    // Not compressed, so that a body is long enough to break in the middle.
    await host.cluster({ name: 'pg', destinationPath: `s3://${s3.bucket}/deep`, objectStore });
    const pgdata = postgres.dataDirectory;
    const line = await host.walkeep('archive-command', '--cluster', 'pg', '--pgdata', pgdata);
    // The full client gives up sooner than PostgreSQL's users would want: a test has less time.
    const configuration = line.stdout.replace(' wal-push ', ` wal-push --deadline ${SECONDS} `);
    appendFileSync(join(pgdata, 'postgresql.conf'), configuration);
    await postgres.reload();
    const [row] = await postgres.psql<{ archive_command: string }>('SHOW archive_command');
    ledger = createLedger();
    postgres.configure({ archive_command: ledger.around(row?.archive_command ?? '') });
    await postgres.reload();
    canary = await startCanary(postgres);
    await startWorker();
    await archiveOne();
    repository = createRepository(openStore(storeConfig(s3.endpointUrl)), 'pg');
  });

  /** Without Temporal: archiving needs none. */
  async function startWorker(): Promise<void> {
    const args = ['worker', '--cluster', 'pg', '--instance', 'pg-1', '--pgdata', postgres.dataDirectory];
    worker = startProcess(join(repositoryRoot, 'scripts/walkeep'), [...args, '--metrics', '127.0.0.1:0'], {
      user: serverUser,
      env: {
        PATH: process.env['PATH'],
        ...postgres.environment,
        WALKEEP_STATE: host.state,
        TEMPORAL_ADDRESS: '127.0.0.1:1',
      },
    });
    await until('the agent to listen', () => worker.output().includes('archiving agent listens'));
  }

  const archiveOne = async () => postgres.waitUntilArchived(await postgres.switchWal());
  const storeConfig = (endpointUrl: string) =>
    ({
      kind: 's3',
      bucket: s3.bucket,
      prefix: 'deep',
      endpointUrl,
      region: s3.region,
      credentials: {
        accessKeyId: new Secret(s3.accessKeyId),
        secretAccessKey: new Secret(s3.secretAccessKey),
      },
    }) as const;
  const backupPorts = (endpointUrl: string) => {
    const store = storeConfig(endpointUrl);
    const opened = createRepository(openStore(store), 'pg');
    return {
      postgres: connectionFromEnvironment(postgres.environment),
      store,
      repository: async () => opened,
      walkeepVersion: '0.0.0-test',
    };
  };

  afterEach(async () => {
    if (!postgres.isRunning()) return;
    // Random bytes: they fill a segment with what can't be compressed.
    await ledger.requireKept(repository);
    const expectedPids = [worker.pid, process.pid];
    await requireNothingLeft({
      postgres,
      s3,
      states: [host.state],
      dataDirectories: [postgres.dataDirectory],
      expectedPids,
    });
  });

  it('A1, A2, E2, fault 18: connections reset in the middle of an upload: each segment arrives, once', async () => {
    const before = proxy.resets();
    proxy.resetAfter(600_000, 'sent', 4);
    for (let round = 0; round < 3; round++) await archiveOne();
    expect(proxy.resets() - before).toBeGreaterThanOrEqual(2);
    expect((await ledger.requireKept(repository)).length).toBeGreaterThanOrEqual(4);
  });

  it('B1, B5, E2, fault 18: connections reset in the middle of a base backup: every part whole, no upload left open', async () => {
    await postgres.psql(
      `CREATE TABLE random_t AS SELECT string_agg(md5(random()::text), '') AS t FROM generate_series(1, 60000) i GROUP BY i % 200`,
    );
    const ports = backupPorts(proxy.url);
    const before = proxy.resets();
    proxy.resetAfter(400_000, 'sent', 4);
    const copied = await copyBackup(ports, inputFor(postgres, { cluster: 'pg', backupName: 'reset' }), {
      signal: NEVER,
    });
    expect(proxy.resets() - before).toBeGreaterThanOrEqual(1);
    await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 60_000, verify: 'decode' });
    await recordBackup(ports, copied, { signal: NEVER });
    expect((await listBackups(repository, NEVER)).map(({ backupId }) => backupId)).toEqual([copied.backupId]);
  });

  it('A5, fault 16: with the store gone archiving exits 1 to 125 in time, WAL stays, and it heals when the store is back', async () => {
    // Without the worker: its agent would take its own time before.
    await worker.stop('SIGTERM', 40_000);
    await s3.kill9();
    const name = await postgres.switchWal();
    await until('two refusals', () => ledger.refused().length >= 2, { timeoutMs: 60_000 });
    expect(ledger.refused().every((code) => code >= 1 && code <= 125)).toBe(true);
    expect(existsSync(join(postgres.dataDirectory, 'pg_wal', name))).toBe(true);
    expect(postgres.log()).toMatch(/walkeep: wal-push: (deadline-exceeded|store-unavailable): /);
    await startWorker();
    await s3.start();
    await postgres.waitUntilArchived(name);
  });

  it('B3, O3, fault 16: with the store gone in mid-copy a backup fails, and leaves nothing at the server or in the store', async () => {
    const ports = backupPorts(proxy.url);
    let killed: Promise<void> | undefined;
    const copying = copyBackup(ports, inputFor(postgres, { cluster: 'pg', backupName: 'gone' }), {
      signal: NEVER,
      onProgress: ({ phase }) => {
        if (phase === 'copying') killed ??= s3.kill9();
      },
    });
    await expect(copying).rejects.toMatchObject({ code: 'store-unavailable', retryable: true });
    await killed;
    await s3.start();
    expect(await listBackups(repository, NEVER)).toHaveLength(1);
  });

  it('C3, O2, fault 18: connections reset in the middle of a restore and of its recovery: every commit is there', async () => {
    commits = await archiveAll(canary, postgres);
    await ledger.requireKept(repository);
    await postgres.stop();
    const target = join(makeTempDir('target'), 'data');
    const before = proxy.resets();
    proxy.resetAfter(300_000, 'received', 6);
    const restored = await host.walkeep('restore', 'pg', '-D', target);
    expect(restored, restored.stderr).toMatchObject({ code: 0 });
    expect(restored.stderr).toContain('every part was compared');
    await requireRecovered(target);
    expect(proxy.resets() - before).toBeGreaterThanOrEqual(3);
  });

  it('C3, O2, fault 16: the store gone in mid-recovery: PostgreSQL stops, is not promoted, and goes on from there later', async () => {
    const target = join(makeTempDir('target'), 'data');
    expect(await host.walkeep('restore', 'pg', '-D', target)).toMatchObject({ code: 0 });
    const auto = join(target, 'postgresql.auto.conf');
    writeFileSync(
      auto,
      readFileSync(auto, 'utf8').replaceAll(' wal-fetch ', ` wal-fetch --deadline ${SECONDS} `),
    );
    await s3.kill9();
    const server = await openPostgres({ major: 15, dataDirectory: target });
    expect((await server.launch().ended).code).not.toBe(0);
    expect(server.log()).toMatch(/walkeep: wal-fetch: (deadline-exceeded|store-unavailable): /);
    expect(existsSync(join(target, 'recovery.signal'))).toBe(true);
    await s3.start();
    await requireRecovered(target);
  });

  async function requireRecovered(dataDirectory: string): Promise<void> {
    const server = await openPostgres({ major: 15, dataDirectory });
    await server.start();
    await server.waitUntilPromoted();
    const rows = await server.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await server.stop();
  }
});
