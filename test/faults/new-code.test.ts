/**
 * Fault 15: new code comes while runs are open. A worker with the workflows of before begins a keeper, its archiving, a
 * Backup and a restore; it is killed in the middle of both, and the present worker goes on with all of them.
 * (What earlier releases recorded is replayed by test/workflows/replay.test.ts.)
 */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client, WorkflowHandle } from '@temporalio/client';
import { beforeAll, expect, it } from 'vitest';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { WORKFLOW, WORKFLOW_QUEUE, type ClusterStatus } from '../../workflows/interface.ts';
import { archiveAll, requireCommits, requireNothingLeft } from '../support/oracles.ts';
import { openPostgres } from '../support/postgres.ts';
import { runSuccessfully, startProcess, type Process } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { backupManifest, type BackupStatus } from '../support/walkeep.ts';
import { oldCode } from './old-code.ts';
import {
  startFaultSite,
  startFaultyWorker,
  untilStopped,
  type FaultSite,
  type FaultyWorker,
} from './site.ts';

describeWith('temporal', 'runs that were begun by older code', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: FaultSite;
  let old: { readonly database: Process; readonly target: Process };
  let present: FaultyWorker;
  let restoring: WorkflowHandle;
  const target = () => join(targetParent, 'data');
  let targetParent: string;
  let root: string;
  let open: string[];

  const handle = (id: string) => client.workflow.getHandle(id);
  const keeper = () => handle(`cluster/default/${site.cluster}`);
  /** Workflow tasks that the code could not go on with. */
  async function stumbles(id: string): Promise<string[]> {
    const { events } = await handle(id).fetchHistory();
    return (events ?? []).flatMap(({ workflowTaskFailedEventAttributes: failed }) =>
      failed ? [failed.failure?.message ?? 'a workflow task failed'] : [],
    );
  }

  beforeAll(async () => {
    root = oldCode();
    targetParent = makeTempDir('target');
    temporal = await startTemporal();
    client = await temporal.client();
    // The site's own worker is of the present; its state and its manifests are taken over, its runs are not.
    site = await startFaultSite({
      temporal,
      major: 15,
      segmentSizeMiB: 4,
      compression: { wal: 'gzip', data: 'gzip' },
    });
    await site.canary.waitFor(5);
    await site.backup('before');
    await site.worker.stop();
    await temporal.stop();
    temporal.deleteState();
    await temporal.start();
    const startOld = (args: string[], environment: NodeJS.ProcessEnv) =>
      startProcess(join(root, 'scripts/walkeep'), ['worker', ...args, '--metrics', '127.0.0.1:0'], {
        user: serverUser,
        env: { ...process.env, ...temporal.environment, WALKEEP_STATE: site.machine.state, ...environment },
      });
    const { cluster, postgres } = site;
    old = {
      database: startOld(
        ['--cluster', cluster, '--instance', `${cluster}-1`, '--pgdata', postgres.dataDirectory],
        { ...postgres.environment, WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' },
      ),
      target: startOld(['--cluster', 'reborn', '--instance', 'reborn-1', '--pgdata', target()], {
        PGHOST: '/nowhere',
        WALKEEP_FAILPOINT: 'restore.unpacked:stop',
      }),
    };
    for (const process of Object.values(old))
      await until(
        'the old worker to be connected',
        () => process.output().includes('connected to Temporal'),
        {
          timeoutMs: 60_000,
        },
      );
  }, 180_000);

  it('F3, fault 15: the old worker begins a keeper, a Backup and a restore, and is killed in the middle', async () => {
    // By the command line of then, too: today's may ask what it can not answer.
    const file = join(makeTempDir('manifest'), 'all.yaml');
    const documents = [...site.manifests, backupManifest('across', site.cluster)];
    writeFileSync(file, documents.map((document) => JSON.stringify(document)).join('\n---\n'));
    giveToServerUser(file);
    await runSuccessfully(join(root, 'scripts/walkeep'), ['apply', '-f', file], {
      user: serverUser,
      env: { ...process.env, ...temporal.environment, WALKEEP_STATE: site.machine.state },
    });
    restoring = await client.workflow.start(WORKFLOW.restore, {
      workflowId: 'restore/default/reborn',
      taskQueue: WORKFLOW_QUEUE,
      args: [
        {
          cluster: 'reborn',
          source: { name: site.cluster, barmanObjectStore: site.barmanObjectStore },
          // The end of what is archived by then would be another each time.
          recoveryTarget: { backupID: 'before', targetImmediate: true },
        },
      ],
    });
    await untilStopped(old.target);
    await untilStopped(old.database);
    await Promise.all([old.database.kill9(), old.target.kill9()]);
    open = [];
    for await (const { workflowId, status } of client.workflow.list()) {
      if (status.name === 'RUNNING') open.push(workflowId);
    }
    expect(open.toSorted()).toEqual(
      [
        'backup/default/across',
        `cluster/default/${site.cluster}`,
        'restore/default/reborn',
        `wal-archiving/default/${site.cluster}`,
      ].toSorted(),
    );
    expect(existsSync(join(target(), 'global/pg_control'))).toBe(false);
  });

  it('F3, B2, fault 15: the present worker goes on with the Backup, which is taken once, and with the keeper', async () => {
    const { machine, cluster, postgres } = site;
    present = await startFaultyWorker({
      machine,
      temporal,
      cluster,
      instance: `${cluster}-1`,
      pgdata: postgres.dataDirectory,
      postgres: postgres.environment,
    });
    await present.waitUntilReady();
    expect((await handle('backup/default/across').result()) as BackupStatus).toMatchObject({
      phase: 'completed',
      backupName: 'across',
    });
    expect(site.repository.recordedBackups()).toHaveLength(2);
    const known = async () =>
      (await keeper().query<ClusterStatus>('status')).backups.find(({ name }) => name === 'across');
    await until('the keeper to be told', async () => (await known())?.phase === 'completed');
    // It takes what only present code knows of, too: the next Backup.
    await machine.apply(...site.manifests, backupManifest('after', cluster));
    const after = async () =>
      (await keeper().query<ClusterStatus>('status')).backups.find(({ name }) => name === 'after')?.phase;
    await until('the next Backup', async () => (await after()) === 'completed', { timeoutMs: 60_000 });
    await postgres.waitUntilArchived(await postgres.switchWal());
  });

  it('F3, C2, O2, fault 15: the present worker goes on with the restore, which begins anew in the same place', async () => {
    // A dead worker is noticed after two minutes; an operator who does not want to wait does this.
    const wish = 'activity update-options -w restore/default/reborn -a restore --heartbeat-timeout 4s';
    await temporal.cli(...wish.split(' '));
    const worker = await startFaultyWorker({
      machine: site.machine,
      temporal,
      cluster: 'reborn',
      instance: 'reborn-1',
      pgdata: target(),
    });
    expect(await restoring.result()).toMatchObject({ outcome: 'restored', isVerified: true });
    await worker.process.stop('SIGTERM', 40_000);
    const server = await openPostgres({ major: 15, dataDirectory: target() });
    await server.start();
    await server.waitUntilPromoted();
    expect((await server.psql('SELECT id FROM canary')).length).toBeGreaterThan(0);
    await server.stop();
  });

  it('F3, fault 15: no run met a command that its history does not have', async () => {
    for (const id of open) expect({ id, stumbles: await stumbles(id) }).toEqual({ id, stumbles: [] });
  });

  it('O1, O2, O3, fault 15: nothing is lost, and nothing is left', async () => {
    const store = openStore({ kind: 'file', directory: site.directory });
    const commits = await archiveAll(site.canary, site.postgres);
    await site.ledger.requireKept(createRepository(store, site.cluster));
    await requireNothingLeft({
      postgres: site.postgres,
      states: [site.machine.state],
      dataDirectories: [site.postgres.dataDirectory, target()],
      expectedPids: [present.process.pid],
    });
    await present.process.stop('SIGTERM', 40_000);
    const restored = await site.restore('--backup-id', 'across');
    const rows = await restored.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await restored.remove();
  });
});
