/**
 * Faults 19, 21 and 38: a store that refuses a third of what it is asked, a credential that expires, and a secret that
 * is rotated in the middle. Real S3 behind a scripted proxy, a real worker, Temporal and PostgreSQL; one story.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import { afterEach, beforeAll, expect, it } from 'vitest';
import { listBackups } from '../../repository/catalogue.ts';
import type { ClusterStatus } from '../../workflows/interface.ts';
import { startCanary, type Canary, type Commit } from '../support/canary.ts';
import { archiveAll, requireCommits, requireNothingLeft } from '../support/oracles.ts';
import { openPostgres, type Postgres } from '../support/postgres.ts';
import { startProcess } from '../support/processes.ts';
import { serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import type { BackupStatus } from '../support/walkeep.ts';
import { startKeyedSite, type KeyedSite } from './keyed-site.ts';
import { keepAwake, metricsOf, startFaultyWorker, untilStopped, type FaultyWorker } from './site.ts';

const NEVER = new AbortController().signal;
const STORMY = { refused: 0.3 };

describeWith(['temporal', 'versitygw'], 'a store that is not at its best', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: KeyedSite;
  let worker: FaultyWorker;
  let canary: Canary;
  const names: string[] = [];

  const environment = (extra: NodeJS.ProcessEnv = {}) => ({
    ...process.env,
    WALKEEP_STATE: site.machine.state,
    PGHOST: '/nowhere',
    ...extra,
  });
  async function replaceWorker(extra: NodeJS.ProcessEnv = {}): Promise<void> {
    await worker?.process.stop('SIGTERM', 40_000);
    const { machine, cluster, postgres } = site;
    const about = { machine, temporal, cluster, instance: `${cluster}-1`, pgdata: postgres.dataDirectory };
    worker = await startFaultyWorker({ ...about, postgres: postgres.environment, environment: extra });
    await worker.waitUntilReady();
  }
  async function beginBackup(name: string) {
    await site.machine.succeed('backup', site.cluster, '--name', name, '--immediate-checkpoint');
    return () => client.workflow.getHandle(`backup/default/${name}`).result() as Promise<BackupStatus>;
  }
  const keeper = () =>
    client.workflow.getHandle(`cluster/default/${site.cluster}`).query<ClusterStatus>('status');
  const archiveOne = async () => site.postgres.waitUntilArchived(await site.postgres.switchWal());
  const listed = async () => {
    const repository = site.openRepository();
    return (await listBackups(repository, NEVER)).flatMap(({ info }) => info?.backupName ?? []);
  };

  beforeAll(async () => {
    temporal = await startTemporal();
    client = await temporal.client();
    site = await startKeyedSite({
      temporal,
      major: 15,
      segmentSizeMiB: 4,
      compression: { wal: 'gzip', data: 'gzip' },
    });
    canary = site.canary;
    await site.worker.stop();
    await replaceWorker();
  }, 180_000);

  afterEach(async () => {
    site.weather.become({});
    if (!site.postgres.isRunning()) return;
    await site.ledger.requireKept(site.openRepository());
    expect(site.ledger.refused().every((code) => code >= 1 && code <= 125)).toBe(true);
    await requireNothingLeft({
      postgres: site.postgres,
      states: [site.machine.state],
      dataDirectories: [site.postgres.dataDirectory],
      expectedPids: [worker.process.pid],
    });
    expect(await site.s3.unfinishedUploads()).toEqual([]);
    expect(await listed()).toEqual(names);
  });

  it('A1, A2, E2, fault 19: with 503 or 429 for three in ten requests every segment is archived, at the first call', async () => {
    site.weather.become(STORMY);
    for (let round = 0; round < 6; round++) await archiveOne();
    expect(site.weather.counts().refused).toBeGreaterThan(3);
    expect(site.ledger.refused()).toEqual([]);
  });

  it('B1, F2, E2, fault 19: with 503 or 429 for three in ten requests a backup is taken, once', async () => {
    site.weather.become(STORMY);
    const ended = await beginBackup('stormy');
    expect(await ended()).toMatchObject({ phase: 'completed' });
    names.push('stormy');
    expect(site.weather.counts().refused).toBeGreaterThan(5);
  });

  it('O2, C3, E2, fault 19: with 503 or 429 for three in ten requests a restore and its recovery show every commit', async () => {
    await canary.waitFor(canary.commits.length + 3);
    const commits = await archiveAll(canary, site.postgres);
    site.weather.become(STORMY);
    await requireRestored('canary', commits);
    expect(site.weather.counts().refused).toBeGreaterThan(5);
    canary = await startCanary(site.postgres, { table: 'canary_two' });
  });

  it('A5, fault 21: the credential expires: archiving exits 1 to 125, the keeper and the metrics say so, and it heals', async () => {
    site.weather.become({ expiresAfter: 0 });
    const refused = site.ledger.refused().length;
    const failedUploads = async () =>
      Number(
        /^walkeep_archive_uploads_total\{.*outcome="failed".*\} (\d+)/m.exec(
          await metricsOf(worker.process),
        )?.[1],
      );
    const failedBefore = await failedUploads();
    const name = await site.postgres.switchWal();
    await until('a refusal', () => site.ledger.refused().length > refused, { timeoutMs: 90_000 });
    expect(await failedUploads()).toBeGreaterThan(failedBefore);
    expect(existsSync(join(site.postgres.dataDirectory, 'pg_wal', name))).toBe(true);
    const alert = async () => (await keeper()).problems.find((text) => /WAL archiving fails/.test(text));
    const problem = await until('the keeper to say so', alert, { timeoutMs: 120_000, everyMs: 1000 });
    expect(problem).toMatch(/access-denied/);
    const status = await site.machine.walkeep('status', site.cluster);
    expect(status.stdout + status.stderr).toMatch(/archiving fails|failing/i);
    site.weather.become({});
    // A new segment wakes the archiver, which had given up for a minute.
    await archiveOne();
    await site.postgres.waitUntilArchived(name, 90_000);
    await until('the keeper to be content', async () => (await alert()) === undefined, {
      timeoutMs: 90_000,
      everyMs: 1000,
    });
  });

  it('B3, fault 21: the credential expires in mid-copy: the Backup fails and says why, nothing is held, the next completes', async () => {
    await replaceWorker({ WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' });
    const ended = await beginBackup('expired');
    await untilStopped(worker.process);
    site.weather.become({ expiresAfter: 0 });
    keepAwake(worker.process);
    await expect(ended()).rejects.toMatchObject({ cause: { type: 'access-denied' } });
    site.weather.become({});
    expect((await keeper()).problems.join()).toMatch(/"expired", failed/);
    await replaceWorker();
    const again = await beginBackup('renewed');
    expect(await again()).toMatchObject({ phase: 'completed' });
    names.push('renewed');
  });

  it('C2, C3, fault 21: the credential expires in mid-restore, and in recovery: neither starts or ends early, both go on', async () => {
    await canary.waitFor(3);
    const commits = await archiveAll(canary, site.postgres);
    const target = join(makeTempDir('target'), 'data');
    site.weather.become({ expiresAfter: 12 });
    const failed = await site.machine.walkeep('restore', site.cluster, '-D', target);
    expect(failed.code, failed.stderr).not.toBe(0);
    expect(failed.stderr).toMatch(/expired: renew it|access-denied|ExpiredToken/);
    expect(existsSync(join(target, 'global/pg_control'))).toBe(false);
    site.weather.become({});
    await site.machine.succeed('restore', site.cluster, '-D', target, '--set', 'port=5432');
    site.weather.become({ expiresAfter: 0 });
    const server = await openPostgres({ major: 15, dataDirectory: target });
    expect((await server.launch().ended).code).not.toBe(0);
    expect(server.log()).toMatch(/walkeep: wal-fetch: access-denied: /);
    expect(existsSync(join(target, 'recovery.signal'))).toBe(true);
    site.weather.become({});
    await requireRecovered(server, 'canary_two', commits);
    canary = await startCanary(site.postgres, { table: 'canary_three' });
  });

  it('F2, A5, fault 38: the secret is rotated in mid-copy and the old key revoked: the Backup completes, archiving goes on', async () => {
    await replaceWorker({ WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' });
    const ended = await beginBackup('rotated');
    await untilStopped(worker.process);
    await site.rotateKey();
    keepAwake(worker.process);
    expect(await ended()).toMatchObject({ phase: 'completed' });
    names.push('rotated');
    await archiveOne();
  });

  it('A5, fault 38: the key is revoked before the new secret is there: archiving waits, and heals without a restart', async () => {
    const refused = site.ledger.refused().length;
    await site.revokeKey();
    const name = await site.postgres.switchWal();
    await until('a refusal', () => site.ledger.refused().length > refused, { timeoutMs: 90_000 });
    await site.applyKey();
    await site.postgres.waitUntilArchived(name, 90_000);
  });

  it('C2, C3, O2, fault 38: the secret is rotated in mid-restore and in recovery: every commit is there', async () => {
    await canary.waitFor(3);
    const commits = await archiveAll(canary, site.postgres);
    const target = join(makeTempDir('target'), 'data');
    const args = ['restore', site.cluster, '-D', target];
    const restoring = startProcess(join(repositoryRoot, 'scripts/walkeep'), args, {
      user: serverUser,
      env: environment({ WALKEEP_FAILPOINT: 'restore.before-write:stop' }),
    });
    await untilStopped(restoring);
    await site.rotateKey();
    keepAwake(restoring);
    const { code } = await restoring.ended;
    // It read the key before: the same command, again, goes on from there.
    if (code !== 0) {
      expect(restoring.output()).toMatch(/access key|access-denied/);
      await site.machine.succeed(...args);
    }
    const server = await openPostgres({ major: 15, dataDirectory: target });
    await site.rotateKey();
    await requireRecovered(server, 'canary_three', commits);
  });

  async function requireRestored(table: string, commits: readonly Commit[]): Promise<void> {
    const target = join(makeTempDir('target'), 'data');
    await site.machine.succeed('restore', site.cluster, '-D', target);
    await requireRecovered(await openPostgres({ major: 15, dataDirectory: target }), table, commits);
  }

  async function requireRecovered(
    server: Postgres,
    table: string,
    commits: readonly Commit[],
  ): Promise<void> {
    await server.start();
    await server.waitUntilPromoted();
    const rows = await server.psql<{ id: string }>(`SELECT id FROM ${table} ORDER BY id`);
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await server.stop();
  }
});
