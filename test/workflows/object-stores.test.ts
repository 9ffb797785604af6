import { WithStartWorkflowOperation, WorkflowUpdateFailedError } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ScheduleFacts } from '../../activities/schedules.ts';
import { CNPG_API, type ClusterManifest } from '../../manifests/cluster.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import * as walkeep from '../../workflows/interface.ts';
import { slotBackupInput } from '../../workflows/scheduled-backup-child.ts';
import { QUICK, clusterManifest, newWorld, startInstance, startTemporal } from './fake-cluster.ts';
import { oldBundle } from './old-bundle.ts';

let temporal: TestWorkflowEnvironment;
beforeAll(async () => void (temporal = await startTemporal()), 60_000);
afterAll(async () => temporal?.teardown());

const reference = { name: 'barman-cloud.cloudnative-pg.io', parameters: { barmanObjectName: 'store' } };
const archiver = { plugins: [{ ...reference, isWALArchiver: true }] };
const keeperOf = (name: string) =>
  temporal.client.workflow.getHandle(walkeep.clusterWorkflowId('default', name));

function start(manifest: ClusterManifest) {
  const { name } = manifest.metadata;
  return temporal.client.workflow.start(walkeep.WORKFLOW.cluster, {
    workflowId: walkeep.clusterWorkflowId('default', name),
    taskQueue: walkeep.WORKFLOW_QUEUE,
    args: [manifest],
  });
}

async function apply(name: string, cluster: ClusterManifest): Promise<walkeep.ApplyResult> {
  return temporal.client.workflow.executeUpdateWithStart(walkeep.applyUpdate, {
    args: [{ cluster }],
    startWorkflowOperation: new WithStartWorkflowOperation(walkeep.WORKFLOW.cluster, {
      workflowId: walkeep.clusterWorkflowId('default', name),
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowIdConflictPolicy: 'USE_EXISTING',
      args: [cluster],
    }),
  });
}

const worker = (cluster: string, more: object = {}) =>
  startInstance({ connection: temporal.nativeConnection }, newWorld(), {
    cluster,
    instance: `${cluster}-1`,
    ...more,
  });

it('plain JSON with plugins and without what their ObjectStores say is refused, with what to give', async () => {
  const instance = await worker('plain');
  try {
    for (const spec of [
      { backup: undefined, ...archiver },
      {
        externalClusters: [{ name: 'origin', plugin: reference }],
        bootstrap: { recovery: { source: 'origin' } },
      },
    ]) {
      const bare = clusterManifest('plain', spec);
      const handle = await start(bare);
      await expect(handle.result()).rejects.toMatchObject({
        cause: {
          type: 'manifest-invalid',
          message: expect.stringMatching(
            /"spec\.(plugins|externalClusters)\[0\].*refers to the ObjectStore "store"/,
          ),
        },
      });
      await expect(apply('plain', bare)).rejects.toBeInstanceOf(WorkflowUpdateFailedError);
    }
    // With what the ObjectStore says beside it, it is taken; a later one without is refused, and a preview says so.
    const whole = clusterManifest('plain', archiver);
    expect(await apply('plain', whole)).toMatchObject({ objects: [{ outcome: 'created' }] });
    const bare = clusterManifest('plain', { backup: undefined, ...archiver });
    await expect(apply('plain', bare)).rejects.toMatchObject({
      cause: {
        message: expect.stringContaining('refers to the ObjectStore "store"'),
        details: [expect.stringMatching(/spec\.backup\.barmanObjectStore.*walkeep apply/)],
      },
    });
    await expect(keeperOf('plain').query(walkeep.previewQuery, { cluster: bare })).rejects.toThrow('"store"');
    expect((await keeperOf('plain').query(walkeep.manifestQuery)).revision).toBe(1);
  } finally {
    await keeperOf('plain').terminate();
    await instance.stop();
  }
}, 60_000);

it('F3: a keeper of 0.2.0 that took such a manifest goes on', async () => {
  const before = await worker('older', { bundle: await oldBundle() });
  await start(clusterManifest('older', { backup: undefined, ...archiver }));
  expect((await keeperOf('older').query(walkeep.manifestQuery)).revision).toBe(1);
  await before.stop();
  const after = await worker('older');
  try {
    await keeperOf('older').signal(walkeep.instanceSignal, after.facts());
    const { problems } = await keeperOf('older').query(walkeep.clusterStatusQuery);
    expect(problems.join('\n')).toContain('nothing is archived or backed up');
    const { events } = await keeperOf('older').fetchHistory();
    expect(events?.filter((event) => event.workflowTaskFailedEventAttributes)).toEqual([]);
  } finally {
    await keeperOf('older').terminate();
    await after.stop();
  }
}, 90_000);

it('a slot of a ScheduledBackup by the Barman plugin is a backup as any; one by another plugin stays what it is', () => {
  const scheduled = (plugin: string) =>
    scheduledBackupSchema.parse({
      apiVersion: CNPG_API,
      kind: 'ScheduledBackup',
      metadata: { name: 'nightly' },
      spec: {
        schedule: '0 0 2 * * *',
        cluster: { name: 'shop' },
        method: 'plugin',
        pluginConfiguration: { name: plugin },
      },
    });
  const methodBy = (plugin: string) =>
    slotBackupInput(
      { cluster: 'shop', namespace: 'default', immediate: false },
      { schedule: scheduled(plugin), cluster: { pace: QUICK } } as unknown as ScheduleFacts,
      'nightly-1',
    ).method;
  expect(methodBy(reference.name)).toBe('barmanObjectStore');
  expect(methodBy('klio.cnpg.io')).toBe('plugin');
});
