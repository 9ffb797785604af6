/**
 * Fault 12: ten times the WAL while the store is slow. Faults 13 and 14 at their full length under load:
 * WALKEEP_OUTAGE_SECONDS is how long Temporal is away, 25 s by default, and 120 s in scripts/soak.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { afterEach, beforeAll, expect, it, vi } from 'vitest';
import type { ClusterStatus } from '../../workflows/interface.ts';
import { startLoad, type Commit } from '../support/canary.ts';
import { archiveAll, requireCommits, requireNothingLeft } from '../support/oracles.ts';
import type { Process } from '../support/processes.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { backupManifest, type BackupStatus } from '../support/walkeep.ts';
import { requireContiguous } from './contiguous.ts';
import { startKeyedSite, type KeyedSite } from './keyed-site.ts';
import { metricsOf, startFaultyWorker, type FaultyWorker } from './site.ts';

const OUTAGE_MS = Number(process.env['WALKEEP_OUTAGE_SECONDS'] ?? 25) * 1000;
const IS_LONG = OUTAGE_MS > 60_000;
const SEGMENT_MIB = 1;

vi.setConfig({ testTimeout: OUTAGE_MS + 180_000 });

describeWith(['temporal', 'versitygw'], 'a database that writes much', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: KeyedSite;
  let worker: FaultyWorker;
  let load: Process | undefined;
  let taken = 0;

  const keeper = () =>
    client.workflow.getHandle(`cluster/default/${site.cluster}`).query<ClusterStatus>('status');
  const archiveOne = async () => site.postgres.waitUntilArchived(await site.postgres.switchWal());
  const sessions = async () =>
    (await site.postgres.psql(`SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'walkeep backup%'`))
      .length;
  async function beginBackup(name: string, ...args: string[]) {
    await site.machine.succeed('backup', site.cluster, '--name', name, ...args);
    return () => client.workflow.getHandle(`backup/default/${name}`).result() as Promise<BackupStatus>;
  }
  /** Files that wait, as the worker's metrics have it. */
  async function waitingByMetrics(): Promise<number> {
    const text = await metricsOf(worker.process);
    return Number(/^walkeep_archive_waiting\{[^}]*kind="files"[^}]*\} (\d+)/m.exec(text)?.[1]);
  }
  /** Writes so many segments full of WAL. */
  const write = (segments: number) =>
    site.postgres.psql(
      `INSERT INTO ballast SELECT repeat(md5(random()::text), 30) FROM generate_series(1, ${segments * 900 * SEGMENT_MIB})`,
    );

  beforeAll(async () => {
    temporal = await startTemporal();
    client = await temporal.client();
    site = await startKeyedSite({
      temporal,
      major: 15,
      segmentSizeMiB: SEGMENT_MIB,
      compression: { wal: 'gzip', data: 'gzip' },
      // a checkpoint that is spread gives a test time to strike
      config: { checkpoint_timeout: '30s', checkpoint_completion_target: 0.4, max_wal_size: '1GB' },
    });
    await site.worker.stop();
    const { machine, cluster, postgres } = site;
    worker = await startFaultyWorker({
      machine,
      temporal,
      cluster,
      instance: `${cluster}-1`,
      pgdata: postgres.dataDirectory,
      postgres: postgres.environment,
    });
    await worker.waitUntilReady();
    await site.postgres.psql('CREATE TABLE ballast (t text)');
  }, 180_000);

  afterEach(async () => {
    site.weather.become({});
    if (!site.postgres.isRunning()) return;
    const names = await site.ledger.requireKept(site.openRepository());
    requireContiguous(names, SEGMENT_MIB);
    expect(site.ledger.refused()).toEqual([]);
    await requireNothingLeft({
      postgres: site.postgres,
      states: [site.machine.state],
      dataDirectories: [site.postgres.dataDirectory],
      expectedPids: [worker.process.pid, ...(load ? [load.pid] : [])],
    });
    expect(await site.s3.unfinishedUploads()).toEqual([]);
  });

  it('A1, A5, B1, fault 12: a burst of ten times the WAL over a slow way: it falls behind, says so, and catches up', async () => {
    site.weather.become({ uploadDelayMs: 200 });
    await write(2);
    await archiveOne();
    expect(await waitingByMetrics()).toBeLessThan(5);
    await write(20);
    const ended = await beginBackup('burst', '--immediate-checkpoint');
    expect(await waitingByMetrics()).toBeGreaterThan(8);
    const status = await until(
      'the keeper to say so',
      async () => {
        const { archiving } = await keeper();
        return archiving && archiving.waitingFiles > 5 ? archiving : undefined;
      },
      { everyMs: 300 },
    );
    expect(status.waitingBytes).toBeGreaterThan(5 * SEGMENT_MIB * 1024 * 1024);
    expect(status.health).toBe('working');
    const shown = await site.machine.succeed('status', site.cluster);
    expect(shown).toMatch(/\d+ (files? )?wait/);
    expect(await ended()).toMatchObject({ phase: 'completed' });
    taken += 1;
    await archiveOne();
    await until(
      'the keeper to see it caught up',
      async () => (await keeper()).archiving?.waitingFiles === 0,
      {
        everyMs: 300,
      },
    );
  });

  it('F5, A5, A6, fault 13: Temporal away for long in mid-backup and under load: no call fails, no segment is missing, it ends by itself', async () => {
    load = await startLoad(site.postgres, { transactionsPerSecond: 20 });
    const ended = await beginBackup('outage');
    await until('the backup session', async () => (await sessions()) > 0);
    await temporal.stop();
    const back = Date.now() + OUTAGE_MS;
    while (Date.now() < back) {
      await archiveOne();
      await sleep(4_000);
    }
    await temporal.start();
    expect(await ended()).toMatchObject({ phase: 'completed', backupName: 'outage' });
    taken += 1;
    await archiveOne();
    expect((await keeper()).problems.filter((text) => /archiving fails/.test(text))).toEqual([]);
  });

  it('F5, F6, fault 14: Temporal’s state lost, and Temporal away for long: apply rebuilds, what was declared is taken once', async () => {
    const manifests = [...site.manifests, backupManifest('declared', site.cluster)];
    await site.machine.apply(...manifests);
    await until('the backup session', async () => (await sessions()) > 0, { timeoutMs: 60_000 });
    await temporal.stop();
    temporal.deleteState();
    const back = Date.now() + (IS_LONG ? OUTAGE_MS : 5_000);
    while (Date.now() < back) {
      await archiveOne();
      await sleep(4_000);
    }
    await temporal.start();
    await worker.waitUntilReady();
    await site.machine.apply(...manifests);
    const isCompleted = async () => {
      const known = (await keeper()).backups.find(({ name }) => name === 'declared');
      return known?.phase === 'completed';
    };
    await until('the Backup to complete', isCompleted, { timeoutMs: 120_000, everyMs: 1000 });
    taken += 1;
    const { archiving, instances, revision } = await keeper();
    expect(archiving).toMatchObject({ instance: `${site.cluster}-1`, health: 'working' });
    expect(instances).toMatchObject([{ instance: `${site.cluster}-1`, revision }]);
    const backups = await site.machine.json<{ items: { status: BackupStatus }[] }>('get', 'backups');
    const completed = backups.items.filter(({ status }) => status.phase === 'completed');
    expect(completed.map(({ status }) => status.backupName).toSorted()).toEqual([
      'burst',
      'declared',
      'outage',
    ]);
    expect(completed).toHaveLength(taken);
  });

  it('O1, O2, fault 12, 13, 14: every segment is there, and every commit', async () => {
    await load?.stop('SIGTERM');
    load = undefined;
    const commits: readonly Commit[] = await archiveAll(site.canary, site.postgres);
    await worker.process.stop('SIGTERM', 40_000);
    // Each segment of a recovery is a program that starts: the last backup goes on to the end, the others become whole.
    const restored = await site.restore('--backup-id', 'declared');
    const rows = await restored.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await restored.remove();
    for (const name of ['burst', 'outage']) {
      const consistent = await site.restore('--backup-id', name, '--target-immediate');
      expect(consistent.recovery.state).toBe('promoted');
      await consistent.remove();
    }
  });
});
