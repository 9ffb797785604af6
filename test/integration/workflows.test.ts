import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { WithStartWorkflowOperation, type Client } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { beforeAll, expect, it } from 'vitest';
import { backupSchema } from '../../manifests/backup.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import * as walkeep from '../../workflows/interface.ts';
import { createPostgres, openPostgres, type Postgres } from '../support/postgres.ts';
import { freePort, type Process, runSuccessfully, startProcess } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';

const CANARY = 'c4n4ry-of-the-password';
const CLUSTER = 'main';
const MINUTE = 60_000;
const PACE = { heartbeat: 6, backoff: 1, backoffMaximum: 2, walDeadline: 60, archivingReport: 30 };

interface WorkerHandle {
  readonly process: Process;
  readonly health: string;
}

/** One story on real servers, told in order: each test goes on where the one before ended. */
describeWith('temporal', 'the workflows with a worker, PostgreSQL and Temporal', () => {
  let temporal: TemporalServer;
  let client: Client;
  let postgres: Postgres;
  let worker: WorkerHandle;
  const state = join(makeTempDir('state'), 's');
  const repository = join(makeTempDir('repo'), 'r');
  const base = join(repository, CLUSTER, 'base');

  const manifest = clusterSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'Cluster',
    metadata: { name: CLUSTER },
    spec: {
      backup: {
        barmanObjectStore: {
          destinationPath: `file://${repository}`,
          wal: { compression: 'gzip' },
          data: { compression: 'gzip' },
        },
      },
    },
  });
  const backup = (name: string) =>
    backupSchema.parse({
      apiVersion: 'postgresql.cnpg.io/v1',
      kind: 'Backup',
      metadata: { name },
      spec: { cluster: { name: CLUSTER } },
    });

  async function startWorker(
    more: { instance?: string; cluster?: string; pgdata?: string } = {},
  ): Promise<WorkerHandle> {
    const { instance = 'main-1', cluster = CLUSTER, pgdata = postgres.dataDirectory } = more;
    const port = await freePort();
    const env = {
      ...process.env,
      ...postgres.environment,
      ...temporal.environment,
      PGPASSWORD: CANARY,
      WALKEEP_SECRET_S3_KEY: CANARY,
      WALKEEP_PACE: JSON.stringify(PACE),
    };
    const args = ['worker', '--cluster', cluster, '--instance', instance, '--pgdata', pgdata];
    args.push('--state', state, '--metrics', `127.0.0.1:${port}`, '--grace', '2');
    const child = startProcess(join(repositoryRoot, 'scripts/walkeep'), args, { user: serverUser, env });
    const health = `http://127.0.0.1:${port}`;
    await until('the worker to be healthy', async () => {
      if (!child.isRunning()) throw new Error(child.output());
      return (await fetch(`${health}/healthz`)).ok;
    });
    return { process: child, health };
  }

  async function ready(handle: WorkerHandle): Promise<void> {
    await until('the worker to be ready', async () => (await fetch(`${handle.health}/readyz`)).ok, {
      timeoutMs: 60_000,
    });
  }

  async function apply(input: walkeep.ApplyInput): Promise<walkeep.ApplyResult> {
    return client.workflow.executeUpdateWithStart(walkeep.applyUpdate, {
      args: [input],
      startWorkflowOperation: new WithStartWorkflowOperation(walkeep.WORKFLOW.cluster, {
        workflowId: walkeep.clusterWorkflowId('default', CLUSTER),
        taskQueue: walkeep.WORKFLOW_QUEUE,
        workflowIdConflictPolicy: 'USE_EXISTING',
        args: [manifest],
      }),
    });
  }

  const status = (): Promise<walkeep.ClusterStatus> =>
    client.workflow
      .getHandle(walkeep.clusterWorkflowId('default', CLUSTER))
      .query(walkeep.clusterStatusQuery);
  const recorded = (): string[] =>
    existsSync(base)
      ? readdirSync(base)
          .filter((id) => existsSync(join(base, id, 'backup.info')))
          .toSorted()
      : [];
  const sessions = async (): Promise<number> =>
    (await postgres.psql(`SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'walkeep backup%'`))
      .length;

  async function backupByCli(id: string, input: object): Promise<walkeep.RunningBackupStatus> {
    const args = [
      'workflow',
      'execute',
      '--type',
      'baseBackup',
      '--task-queue',
      'walkeep',
      '-w',
      id,
      '--input',
      JSON.stringify(input),
      '-o',
      'json',
    ];
    // Our own program wrote it.
    const answer = JSON.parse(await temporal.cli(...args)) as { result: walkeep.RunningBackupStatus };
    return answer.result;
  }

  beforeAll(async () => {
    for (const directory of [state, repository]) {
      mkdirSync(directory, { mode: 0o700 });
      giveToServerUser(directory);
    }
    [temporal, postgres] = await Promise.all([
      startTemporal(),
      createPostgres({ major: 15, config: { checkpoint_timeout: '30s', checkpoint_completion_target: 0.5 } }),
    ]);
    client = await temporal.client();
    await postgres.psql('CREATE TABLE ledger (n int); INSERT INTO ledger SELECT generate_series(1, 10000)');
    worker = await startWorker();
    await ready(worker);
  }, 3 * MINUTE);

  it('apply gives the manifest to the worker, WAL is archived, and the keeper shows it', async () => {
    expect((await apply({ cluster: manifest })).objects).toEqual([
      { kind: 'Cluster', name: CLUSTER, outcome: 'created' },
    ]);
    await until('the manifest to be on the host', () =>
      existsSync(join(state, 'clusters/default/main.json')),
    );
    const args = [
      'archive-command',
      '--cluster',
      CLUSTER,
      '--pgdata',
      postgres.dataDirectory,
      '--state',
      state,
    ];
    const line = await runSuccessfully(join(repositoryRoot, 'scripts/walkeep'), args, { user: serverUser });
    writeFileSync(join(postgres.dataDirectory, 'postgresql.auto.conf'), line);
    giveToServerUser(join(postgres.dataDirectory, 'postgresql.auto.conf'));
    await postgres.reload();
    await postgres.waitUntilArchived(await postgres.switchWal());
    const archiving = await until('a report', async () => {
      const { archiving: report } = await status();
      return report?.health === 'working' ? report : undefined;
    });
    expect(archiving.lastArchived).toMatch(/^[0-9A-F]{24}/);
    const metrics = await (await fetch(`${worker.health}/metrics`)).text();
    expect(metrics).toMatch(/walkeep_archive_answers_total\{answer="archived".*\} [1-9]/);
    expect(metrics).toMatch(/walkeep_temporal_connected\{.*\} 1/);
  });

  it('baseBackup by the Temporal CLI with nothing but JSON returns CNPG’s status', async () => {
    const result = await backupByCli('backup/default/by-hand', {
      cluster: CLUSTER,
      immediateCheckpoint: true,
    });
    expect(result).toMatchObject({
      phase: 'completed',
      method: 'barmanObjectStore',
      backupName: 'by-hand',
      destinationPath: `file://${repository}`,
      serverName: CLUSTER,
      instanceID: { podName: 'main-1' },
    });
    expect(recorded()).toEqual([result.backupId]);
    expect(await sessions()).toBe(0);
  });

  it('F5: a Backup applied twice runs once, also with Temporal’s state deleted in between', async () => {
    await apply({ backups: [backup('declared')] });
    const ended = () =>
      until(
        'the Backup to end',
        async () =>
          (await status()).backups.find((one) => one.name === 'declared' && one.phase === 'completed'),
        {
          timeoutMs: 2 * MINUTE,
        },
      );
    const first = await ended();
    await apply({ cluster: manifest, backups: [backup('declared')] });
    expect(recorded()).toHaveLength(2);
    for (const id of [
      'cluster/default/main',
      'wal-archiving/default/main',
      'backup/default/declared',
      'backup/default/by-hand',
    ]) {
      await temporal.cli('workflow', 'delete', '--yes', '-w', id);
    }
    // The server deletes in its own time: a few seconds, and half a minute on a busy machine.
    await until(
      'the deletion',
      async () => {
        // What the keeper began names it as its parent: only its own run counts.
        const query = "WorkflowId = 'cluster/default/main'";
        const listed = await temporal.cli('workflow', 'list', '--query', query, '-o', 'json');
        return (JSON.parse(listed) as unknown[]).length === 0;
      },
      { timeoutMs: 2 * MINUTE, everyMs: 500 },
    );
    await apply({ cluster: manifest, backups: [backup('declared')] });
    expect((await ended()).backupId).toBe(first.backupId);
    expect(recorded()).toHaveLength(2);
  });

  it('F2: Temporal killed in the middle of a backup and started again: the run completes by itself, copied once', async () => {
    await postgres.psql('INSERT INTO ledger SELECT generate_series(1, 200000)');
    const handle = await client.workflow.start(walkeep.WORKFLOW.baseBackup, {
      workflowId: 'backup/default/outage',
      taskQueue: walkeep.WORKFLOW_QUEUE,
      args: [{ cluster: CLUSTER }],
    });
    // A spread checkpoint takes long enough.
    await until('the backup session', async () => (await sessions()) > 0);
    await temporal.kill9();
    await postgres.waitUntilArchived(await postgres.switchWal());
    await until('the copy to end', async () => (await sessions()) === 0, { timeoutMs: 2 * MINUTE });
    await temporal.start();
    expect(await handle.result()).toMatchObject({ phase: 'completed', backupName: 'outage' });
    expect(recorded()).toHaveLength(3);
    expect(readdirSync(base)).toHaveLength(3);
  });

  it('F2: the worker killed in the middle of a backup: a new attempt completes, and nothing is left behind in PostgreSQL', async () => {
    await postgres.psql('INSERT INTO ledger SELECT generate_series(1, 200000)');
    const handle = await client.workflow.start(walkeep.WORKFLOW.baseBackup, {
      workflowId: 'backup/default/killed',
      taskQueue: walkeep.WORKFLOW_QUEUE,
      args: [{ cluster: CLUSTER }],
    });
    await until('the backup session', async () => (await sessions()) > 0);
    await worker.process.kill9();
    worker = await startWorker();
    expect(await handle.result()).toMatchObject({ phase: 'completed', backupName: 'killed' });
    expect(recorded()).toHaveLength(4);
    expect(await sessions()).toBe(0);
  });

  it('a cancelled backup leaves PostgreSQL and the repository clean', async () => {
    await postgres.psql('INSERT INTO ledger SELECT generate_series(1, 200000)');
    const handle = await client.workflow.start(walkeep.WORKFLOW.baseBackup, {
      workflowId: 'backup/default/cancelled',
      taskQueue: walkeep.WORKFLOW_QUEUE,
      args: [{ cluster: CLUSTER }],
    });
    await until('the backup session', async () => (await sessions()) > 0);
    await handle.cancel();
    await expect(handle.result()).rejects.toThrow(/cancelled/i);
    expect(await sessions()).toBe(0);
    expect(recorded()).toHaveLength(4);
    const outcomes = readdirSync(join(repository, CLUSTER, 'walkeep/outcomes'));
    expect(outcomes).toContain('cancelled.json');
  });

  it('F5: with Temporal down a restarted worker archives at once, and SIGTERM ends it in order', async () => {
    await temporal.kill9();
    expect((await worker.process.stop('SIGTERM', 40_000)).code).toBe(0);
    worker = await startWorker();
    await postgres.waitUntilArchived(await postgres.switchWal());
    expect((await fetch(`${worker.health}/readyz`)).status).toBe(503);
    await temporal.start();
    await ready(worker);
  });

  it('restore by the Temporal CLI, on the target’s worker: PostgreSQL recovers what was there', async () => {
    await postgres.psql(`INSERT INTO ledger VALUES (-1)`);
    await postgres.waitUntilArchived(await postgres.switchWal());
    const target = join(makeTempDir('target'), 'data');
    const restoring = await startWorker({ cluster: 'restored', instance: 'restored-1', pgdata: target });
    const input = JSON.stringify({ cluster: 'restored', source: CLUSTER });
    const args = [
      'workflow',
      'execute',
      '--type',
      'restore',
      '--task-queue',
      'walkeep',
      '-w',
      'restore/default/restored',
      '--input',
      input,
      '-o',
      'json',
    ];
    const answer = JSON.parse(await temporal.cli(...args)) as { result: walkeep.RestoreOutcome };
    expect(answer.result).toMatchObject({
      outcome: 'restored',
      instance: 'restored-1',
      targetDirectory: target,
    });
    const restored = await openPostgres({ major: 15, dataDirectory: target });
    await restored.start();
    await restored.waitUntilPromoted();
    expect(await restored.psql('SELECT count(*)::int AS rows, min(n) AS newest FROM ledger')).toEqual([
      { rows: 610_001, newest: -1 },
    ]);
    await restored.stop();
    const again = await client.workflow.start(walkeep.WORKFLOW.restore, {
      workflowId: 'restore/default/again',
      taskQueue: walkeep.WORKFLOW_QUEUE,
      args: [{ cluster: 'restored', source: CLUSTER }],
    });
    await expect(again.result()).rejects.toMatchObject({ cause: { type: 'directory-not-empty' } });
    await restoring.process.stop('SIGTERM', 40_000);
  });

  it('S1: no secret is in any history, log, metric or command line', async () => {
    const formsOf = (secret: string) => [
      secret,
      encodeURIComponent(secret),
      ...[0, 1, 2].map((skip) => base64Core(secret, skip)),
    ];
    const texts: string[] = [worker.process.output(), await (await fetch(`${worker.health}/metrics`)).text()];
    for await (const { workflowId, runId } of client.workflow.list()) {
      texts.push(historyToJSON(await client.workflow.getHandle(workflowId, runId).fetchHistory()));
    }
    texts.push(execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' }));
    const found = (word: string) =>
      texts.filter((text) => formsOf(word).some((form) => text.includes(form))).length;
    // What is no secret is found, so the search works.
    expect(found(repository)).toBeGreaterThan(5);
    expect(found(CANARY)).toBe(0);
  });
});

/** The part of the base64 of a text that does not depend on what stands around it, for one of three positions. */
function base64Core(text: string, skip: number): string {
  const bytes = Buffer.concat([Buffer.alloc(skip), Buffer.from(text)]);
  const encoded = bytes.toString('base64').replaceAll('=', '');
  return encoded.slice(skip === 0 ? 0 : skip + 1, -2);
}
