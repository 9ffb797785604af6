/**
 * Fault 36: two people, or two programs, start the same Backup or restore at the same moment, by the command line and
 * past it. One of them does it; the other is told, and nothing is done twice.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import { afterEach, beforeAll, expect, it } from 'vitest';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { restoreStatusQuery, WORKFLOW, WORKFLOW_QUEUE } from '../../workflows/interface.ts';
import type { Commit } from '../support/canary.ts';
import { archiveAll, requireCommits, requireNothingLeft } from '../support/oracles.ts';
import { openPostgres } from '../support/postgres.ts';
import { startProcess } from '../support/processes.ts';
import { serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import type { BackupStatus } from '../support/walkeep.ts';
import {
  keepAwake,
  startFaultSite,
  startFaultyWorker,
  untilStopped,
  type FaultSite,
  type FaultyWorker,
} from './site.ts';

describeWith('temporal', 'two starters of the same thing', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: FaultSite;
  let worker: FaultyWorker;
  let commits: readonly Commit[] = [];
  const names: string[] = [];

  async function replaceWorker(environment: NodeJS.ProcessEnv = {}): Promise<void> {
    await worker?.process.stop('SIGTERM', 40_000);
    const { machine, cluster, postgres } = site;
    const about = { machine, temporal, cluster, instance: `${cluster}-1`, pgdata: postgres.dataDirectory };
    worker = await startFaultyWorker({ ...about, postgres: postgres.environment, environment });
    await worker.waitUntilReady();
  }
  const startBackup = (workflowId: string, name: string) =>
    client.workflow.start(WORKFLOW.baseBackup, {
      workflowId,
      taskQueue: WORKFLOW_QUEUE,
      args: [{ cluster: site.cluster, name, immediateCheckpoint: true }],
    });

  beforeAll(async () => {
    temporal = await startTemporal();
    client = await temporal.client();
    site = await startFaultSite({
      temporal,
      major: 15,
      segmentSizeMiB: 4,
      compression: { wal: 'gzip', data: 'gzip' },
    });
    await site.worker.stop();
    await replaceWorker();
  }, 180_000);

  afterEach(async () => {
    if (!site.postgres.isRunning()) return;
    const store = openStore({ kind: 'file', directory: site.directory });
    await site.ledger.requireKept(createRepository(store, site.cluster));
    expect(site.ledger.refused()).toEqual([]);
    await requireNothingLeft({
      postgres: site.postgres,
      stores: [site.directory],
      states: [site.machine.state],
      dataDirectories: [site.postgres.dataDirectory],
      expectedPids: [worker.process.pid],
    });
    expect(site.repository.recordedBackups()).toHaveLength(names.length);
    expect(site.repository.backupFolders()).toHaveLength(names.length);
  });

  it('F1, B2, fault 36: three walkeep backup of one name at once: one takes it, the others are refused before any change', async () => {
    const starters = await Promise.all(
      [1, 2, 3].map(() =>
        site.machine.walkeep('backup', site.cluster, '--name', 'twin', '--immediate-checkpoint', '--wait'),
      ),
    );
    names.push('twin');
    const refused = starters.filter(({ code }) => code !== 0);
    for (const { stderr } of refused)
      expect(stderr).toMatch(/walkeep: .*"twin" is running already; follow it/);
    // Whoever came when it was over was shown how it ended.
    expect(starters.length - refused.length).toBeGreaterThanOrEqual(1);
    const late = await site.machine.json<BackupStatus>('backup', site.cluster, '--name', 'twin', '--wait');
    expect(late).toMatchObject({ phase: 'completed', backupId: site.repository.recordedBackups()[0] });
  });

  it('F1, B2, fault 36: the same Backup under two workflow ids, by hand: it counts once, and the other is refused', async () => {
    await replaceWorker({ WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' });
    const first = await startBackup('backup/default/by-hand', 'by-hand');
    await untilStopped(worker.process);
    const second = await startBackup('somebody-else', 'by-hand');
    keepAwake(worker.process);
    const ends = await Promise.allSettled([first.result(), second.result()]);
    names.push('by-hand');
    const taken = ends.flatMap((end) => (end.status === 'fulfilled' ? [end.value as BackupStatus] : []));
    // The other one is told, or shown how it ended; either way there is one backup.
    expect(new Set(taken.map(({ backupId }) => backupId)).size).toBe(1);
    for (const end of ends)
      if (end.status === 'rejected') expect(end.reason).toMatchObject({ cause: { type: 'already-exists' } });
  });

  it('F1, fault 36: two Backups of one cluster at once: one after the other, both whole', async () => {
    await replaceWorker();
    const both = await Promise.all(
      ['left', 'right'].map((name) => startBackup(`backup/default/${name}`, name)),
    );
    for (const handle of both) expect(await handle.result()).toMatchObject({ phase: 'completed' });
    names.push('left', 'right');
  });

  it('C1, fault 36: two walkeep restore into one directory: one restores, the other is refused before any change', async () => {
    commits = await archiveAll(site.canary, site.postgres);
    const target = join(makeTempDir('target'), 'data');
    const args = ['restore', site.cluster, '-D', target];
    const first = startProcess(join(repositoryRoot, 'scripts/walkeep'), args, {
      user: serverUser,
      env: {
        ...process.env,
        PGHOST: '/nowhere',
        WALKEEP_STATE: site.machine.state,
        WALKEEP_FAILPOINT: 'restore.unpacked:stop',
      },
    });
    await untilStopped(first);
    const before = readdirSync(target).toSorted();
    const { code, stderr } = await site.machine.walkeep(...args);
    expect(code, stderr).not.toBe(0);
    expect(stderr).toMatch(/walkeep: .*(is being restored|in use|another restore|not empty)/);
    expect(readdirSync(target).toSorted()).toEqual(before);
    keepAwake(first);
    expect(await first.ended, first.output()).toMatchObject({ code: 0 });
    await requireRestored(target);
  });

  it('C1, fault 36: the same restore started twice past the command line: one restores, the other is refused', async () => {
    const target = join(makeTempDir('target'), 'data');
    const reborn = await startFaultyWorker({
      machine: site.machine,
      temporal,
      cluster: 'reborn',
      instance: 'reborn-1',
      pgdata: target,
      environment: { WALKEEP_FAILPOINT: 'restore.unpacked:stop' },
    });
    const start = (workflowId: string) =>
      client.workflow.start(WORKFLOW.restore, {
        workflowId,
        taskQueue: WORKFLOW_QUEUE,
        args: [
          {
            cluster: 'reborn',
            source: { name: site.cluster, barmanObjectStore: site.barmanObjectStore },
          },
        ],
      });
    const first = await start('restore/default/reborn');
    // The same id: Temporal itself says no.
    await expect(start('restore/default/reborn')).rejects.toThrow(/already/i);
    await untilStopped(reborn.process);
    const second = await start('by-somebody-else');
    keepAwake(reborn.process);
    const isUnderway = async () => (await first.query(restoreStatusQuery)).phase !== 'waiting-for-worker';
    await until('the first to be under way', isUnderway);
    const refusal = Promise.allSettled([second.result()]);
    expect(await first.result()).toMatchObject({ outcome: 'restored', isVerified: true });
    expect(await refusal).toMatchObject([
      { reason: { cause: { type: expect.stringMatching(/directory-not-empty|restore-interrupted/) } } },
    ]);
    await reborn.process.stop('SIGTERM', 40_000);
    expect(existsSync(join(target, 'global/pg_control'))).toBe(true);
    await requireRestored(target);
  });

  async function requireRestored(dataDirectory: string): Promise<void> {
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
