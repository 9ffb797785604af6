import { join } from 'node:path';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { SweepReport } from '../../core/sweep-report.ts';
import { backupPolicySchema, WALKEEP_API } from '../../manifests/backup-policy.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { createRepository } from '../../repository/repository.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import {
  applyUpdate,
  clusterWorkflowId,
  desireQuery,
  WORKFLOW,
  WORKFLOW_QUEUE,
} from '../../workflows/interface.ts';
import { makeOld, NEVER, putFourBackups } from '../operations/sweep-bench.ts';
import { applyTestCluster } from '../support/applied-cluster.ts';
import { runProcess } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';
import { eventually, newWorld, startInstance, startTemporal } from '../workflows/fake-cluster.ts';

let temporal: TestWorkflowEnvironment;
beforeAll(async () => {
  temporal = await startTemporal();
}, 60_000);
afterAll(async () => {
  await temporal?.teardown();
});

function policy(keepLast: number) {
  const retention = { keepLast, daily: 0, weekly: 0, monthly: 0, yearly: 0, minimum: 1, grace: '1h' };
  return backupPolicySchema.parse({
    apiVersion: WALKEEP_API,
    kind: 'BackupPolicy',
    metadata: { name: 'p', namespace: 'default' },
    spec: { clusters: ['pg'], attempts: { deadline: '1h' }, retention },
  });
}

it('D3: what the keeper declares counts, with its doubt; while it is silent nothing is deleted; without it only by --local', async () => {
  const directory = makeTempDir('sweep');
  const r = createRepository(createFilesystemStore(directory), 'pg');
  await putFourBackups(r);
  makeOld(directory, 2 * 3_600_000);
  // What this host keeps is old: by it two of the four would go.
  const state = makeTempDir('state');
  await applyTestCluster(state, { name: 'pg', destinationPath: `file://${directory}` });
  const shelves = openStateDirectory(state);
  await shelves.backupPolicies.save(policy(2));
  const env = { ...process.env, TEMPORAL_ADDRESS: temporal.address, NO_COLOR: '1' };
  const walkeep = (...args: string[]) =>
    runProcess(
      process.execPath,
      [join(repositoryRoot, 'cli/main.ts'), 'sweep', 'pg', ...args, '--state', state],
      {
        env,
        input: '',
      },
    );
  const decided = ({ stdout }: { stdout: string }) => (JSON.parse(stdout) as SweepReport).counts;
  const stays = async () => expect(await listBackups(r, NEVER)).toHaveLength(4);

  const { manifest } = (await shelves.clusters.read('default', 'pg'))!;
  const keeper = await temporal.client.workflow.start(WORKFLOW.cluster, {
    workflowId: clusterWorkflowId('default', 'pg'),
    taskQueue: WORKFLOW_QUEUE,
    args: [manifest],
  });
  // No worker: the keeper runs and does not answer.
  const [shown, ...refused] = await Promise.all([
    walkeep('--dry-run', '-o', 'json'),
    walkeep('--yes'),
    walkeep('--yes', '--local'),
  ]);
  for (const outcome of refused) {
    expect(outcome).toMatchObject({
      code: 5,
      stderr: expect.stringMatching(/runs and does not answer.*nothing was deleted.*start walkeep worker/),
    });
  }
  expect(shown.stderr).toContain('may be out of date');
  expect(decided(shown)).toMatchObject({ kept: 2, marked: 2 });

  const world = newWorld();
  const worker = { cluster: 'pg', instance: 'pg-1' };
  const connection = { connection: temporal.nativeConnection };
  const workflows = await startInstance(connection, world, { ...worker, queues: ['workflows'] });
  try {
    await keeper.executeUpdate(applyUpdate, { args: [{ policy: policy(3) }] });
    // It is new, and what its workers hold is not known yet.
    const doubting = await walkeep('--yes', '--local');
    expect(doubting).toMatchObject({
      code: 9,
      stdout: expect.stringContaining('Nothing is deleted: '),
    });
    const instance = await startInstance(connection, world, { ...worker, queues: ['cluster', 'instance'] });
    try {
      await eventually('the keeper heard its worker', async () => {
        await keeper.signal('instance', instance.facts());
        return (await keeper.query(desireQuery)).doubt === undefined;
      });
      expect(decided(await walkeep('--dry-run', '-o', 'json'))).toMatchObject({ kept: 3, marked: 1 });
      const swept = await walkeep('--yes', '--local', '-o', 'json');
      expect(swept, swept.stderr).toMatchObject({ code: 0 });
      expect(decided(swept)).toMatchObject({ kept: 3, marked: 1 });
    } finally {
      await instance.stop();
    }
  } finally {
    await keeper.terminate();
    await workflows.stop();
  }

  const ended = await walkeep('--yes');
  expect(ended).toMatchObject({
    code: 4,
    stderr: expect.stringMatching(/no keeper of default\/pg runs.*may be old: nothing was deleted.*--local/),
  });
  await stays();
  const local = await walkeep('--yes', '--local', '-o', 'json');
  expect(local, local.stderr).toMatchObject({ code: 0 });
  expect(decided(local)).toMatchObject({ kept: 2, marked: 1, waiting: 1 });
  await stays();
}, 180_000);
