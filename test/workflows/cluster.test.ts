import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  WithStartWorkflowOperation,
  WorkflowUpdateFailedError,
  type WorkflowHandle,
} from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import * as walkeep from '../../workflows/interface.ts';
import {
  archiveReport,
  backupManifest,
  clusterManifest,
  copied,
  eventually,
  gate,
  newWorld,
  startInstance,
  startTemporal,
  type FakeInstance,
  type RunningInstance,
  type World,
} from './fake-cluster.ts';

let temporal: TestWorkflowEnvironment;
let running: RunningInstance[] = [];
const keepers: string[] = [];

beforeAll(async () => {
  // A small history makes the keeper continue as new within a test.
  temporal = await startTemporal(['--dynamic-config-value', 'limit.historyCountSuggestContinueAsNew=120']);
}, 60_000);
afterAll(async () => {
  await temporal?.teardown();
});
afterEach(async () => {
  for (const name of keepers.splice(0)) {
    await handleOf(walkeep.clusterWorkflowId('default', name))
      .terminate()
      .catch(() => {});
    await handleOf(walkeep.walArchivingWorkflowId('default', name))
      .terminate()
      .catch(() => {});
  }
  await Promise.all(running.map((instance) => instance.stop()));
  running = [];
});

function handleOf(workflowId: string): WorkflowHandle {
  return temporal.client.workflow.getHandle(workflowId);
}

async function instance(world: World, fake: FakeInstance): Promise<RunningInstance> {
  const started = await startInstance({ connection: temporal.nativeConnection }, world, fake);
  running.push(started);
  return started;
}

/** As `walkeep apply` does it. */
async function apply(name: string, input: walkeep.ApplyInput): Promise<walkeep.ApplyResult> {
  if (!keepers.includes(name)) keepers.push(name);
  return temporal.client.workflow.executeUpdateWithStart(walkeep.applyUpdate, {
    args: [input],
    startWorkflowOperation: new WithStartWorkflowOperation(walkeep.WORKFLOW.cluster, {
      workflowId: walkeep.clusterWorkflowId('default', name),
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowIdConflictPolicy: 'USE_EXISTING',
      args: [input.cluster ?? clusterManifest(name)],
    }),
  });
}

async function status(name: string): Promise<walkeep.ClusterStatus> {
  return handleOf(walkeep.clusterWorkflowId('default', name)).query(walkeep.clusterStatusQuery);
}

async function ended(name: string, backup: string, phase = 'completed'): Promise<void> {
  await eventually(`${backup} is ${phase}`, async () =>
    (await status(name)).backups.some((one) => one.name === backup && one.phase === phase),
  );
}

async function refusal(request: Promise<unknown>): Promise<ApplicationFailure> {
  const error: unknown = await request.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(WorkflowUpdateFailedError);
  return (error as WorkflowUpdateFailedError).cause as ApplicationFailure;
}

describe('cluster', () => {
  it('apply twice: one keeper, one backup, and the second time nothing changes', async () => {
    const world = newWorld();
    await instance(world, { cluster: 'twice', instance: 'twice-1' });
    const input = { cluster: clusterManifest('twice'), backups: [backupManifest('b1', 'twice')] };
    expect(await apply('twice', input)).toEqual({
      revision: 1,
      objects: [
        { kind: 'Cluster', name: 'twice', outcome: 'created' },
        { kind: 'Backup', name: 'b1', outcome: 'created' },
      ],
    });
    const second = await apply('twice', input);
    expect(second.objects.map((one) => one.outcome)).toEqual(['unchanged', 'unchanged']);
    await ended('twice', 'b1');
    await apply('twice', input);
    expect(world.story.filter((line) => line.includes('copy'))).toEqual(['twice-1: copy b1 attempt 1']);
  });

  it('gives the manifest to the worker that answers first, before any backup, and archiving is observed', async () => {
    const world = newWorld();
    await instance(world, { cluster: 'fresh', instance: 'fresh-1' });
    await apply('fresh', {
      cluster: clusterManifest('fresh'),
      backups: [backupManifest('fresh-one', 'fresh')],
    });
    await ended('fresh', 'fresh-one');
    expect(world.story[0]).toBe('fresh-1: store revision 1');
    await eventually(
      'archiving has reported',
      async () => (await status('fresh')).archiving?.health === 'working',
    );
    expect((await status('fresh')).problems).toEqual([]);
    const stored = await handleOf(walkeep.clusterWorkflowId('default', 'fresh')).query(walkeep.manifestQuery);
    expect(stored).toMatchObject({ revision: 1, manifest: { metadata: { name: 'fresh' } } });
  });

  it('F5: with Temporal’s state lost the same manifests do nothing again, and the revision goes on', async () => {
    const world = newWorld();
    await instance(world, { cluster: 'lost', instance: 'lost-1' });
    const input = { cluster: clusterManifest('lost'), backups: [backupManifest('kept', 'lost')] };
    await apply('lost', input);
    await apply('lost', { cluster: clusterManifest('lost', { instances: 3 }) });
    await ended('lost', 'kept');
    await eventually('revision 2 is stored', () => world.story.includes('lost-1: store revision 2'));
    await handleOf(walkeep.clusterWorkflowId('default', 'lost')).terminate();
    await handleOf(walkeep.walArchivingWorkflowId('default', 'lost')).terminate();
    const again = { ...input, cluster: clusterManifest('lost', { instances: 5 }) };
    await apply('lost', again);
    await ended('lost', 'kept');
    expect(world.story.filter((line) => line.includes('copy'))).toHaveLength(1);
    const stored = () => world.manifests.get('lost-1:default/lost');
    await eventually('the newest manifest is stored', () => stored()?.manifest.spec.instances === 5);
    // The keeper counted from one; what it met at the worker makes it go on from there.
    await eventually('the revision went on', async () => (await status('lost')).revision === 3);
  });

  it('Backups of a cluster run one after the other, in the order they were applied', async () => {
    const world = newWorld();
    let atOnce = 0;
    let most = 0;
    await instance(world, {
      cluster: 'queue',
      instance: 'queue-1',
      copy: async ({ backupName }) => {
        most = Math.max(most, ++atOnce);
        await new Promise((resolve) => setTimeout(resolve, 200));
        atOnce -= 1;
        return copied(backupName);
      },
    });
    const backups = ['c', 'a', 'b'].map((name) => backupManifest(`queued-${name}`, 'queue'));
    await apply('queue', { cluster: clusterManifest('queue'), backups });
    await ended('queue', 'queued-b');
    expect(world.story.filter((line) => line.includes('copy'))).toEqual(
      ['c', 'a', 'b'].map((name) => `queue-1: copy queued-${name} attempt 1`),
    );
    expect(most).toBe(1);
  });

  it('a failed Backup ends, is shown, and does not hold up the next one', async () => {
    const world = newWorld();
    await instance(world, {
      cluster: 'failing',
      instance: 'failing-1',
      copy: async ({ backupName }) => {
        if (backupName === 'bad')
          throw ApplicationFailure.nonRetryable('no rights', 'postgres-denied', 'grant them');
        return copied(backupName);
      },
    });
    await apply('failing', {
      cluster: clusterManifest('failing'),
      backups: [backupManifest('bad', 'failing'), backupManifest('good', 'failing')],
    });
    await ended('failing', 'good');
    const now = await status('failing');
    expect(now.backups.find((one) => one.name === 'bad')).toMatchObject({
      phase: 'failed',
      error: 'no rights',
    });
    expect(now.lastFailedBackup).toBeDefined();
  });

  it.for([
    {
      why: 'a Backup whose spec changed',
      input: { backups: [backupManifest('b', 'strict', { target: 'primary' })] },
      says: 'immutable',
    },
    {
      why: 'a Backup of another cluster',
      input: { backups: [backupManifest('x', 'other')] },
      says: 'spec.cluster.name',
    },
    {
      why: 'the manifest of another cluster',
      input: { cluster: clusterManifest('other') },
      says: 'metadata.name',
    },
    { why: 'nothing', input: {}, says: 'cluster' },
    {
      why: 'a manifest that is too large',
      input: { cluster: clusterManifest('strict', { imageName: 'y'.repeat(40_000) }) },
      says: 'bytes',
    },
  ])('apply refuses $why and changes nothing', async ({ input, says }) => {
    await instance(newWorld(), { cluster: 'strict', instance: 'strict-1' });
    await apply('strict', { cluster: clusterManifest('strict'), backups: [backupManifest('b', 'strict')] });
    const failure = await refusal(apply('strict', input));
    expect(['manifest-invalid', 'input-invalid']).toContain(failure.type);
    expect(failure.message).toContain(says);
    expect((await status('strict')).revision).toBe(1);
    const preview = handleOf(walkeep.clusterWorkflowId('default', 'strict')).query(
      walkeep.previewQuery,
      input,
    );
    await expect(preview).rejects.toThrow(says);
  });

  it('apply that would start a keeper with a bad manifest hears what is wrong with it', async () => {
    await instance(newWorld(), { cluster: 'misled', instance: 'misled-1' });
    const bad = clusterManifest('misled', { bootstrap: { recovery: { source: 'orgin' } } });
    const failure = await refusal(apply('misled', { cluster: bad }));
    expect(failure.type).toBe('manifest-invalid');
    expect(failure.message).toContain('orgin');
  });

  it('a keeper with a wrong id is refused, with the right one', async () => {
    await instance(newWorld(), { cluster: 'idless', instance: 'idless-1' });
    const handle = await temporal.client.workflow.start(walkeep.WORKFLOW.cluster, {
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowId: 'my-keeper',
      args: [clusterManifest('idless')],
    });
    await expect(handle.result()).rejects.toMatchObject({
      cause: { type: 'input-invalid', message: expect.stringContaining('cluster/default/idless') },
    });
  });

  it('continues as new in the middle of a backup and of archiving, and finds both again', async () => {
    const world = newWorld();
    const held = gate();
    const worker = await instance(world, {
      cluster: 'long',
      instance: 'long-1',
      copy: async ({ backupName }, { signal }) => {
        await held.passed(signal);
        return copied(backupName);
      },
    });
    await apply('long', {
      cluster: clusterManifest('long'),
      backups: [backupManifest('through', 'long'), backupManifest('after', 'long')],
    });
    await eventually('the copy runs', () => world.story.some((line) => line.includes('copy')));
    const keeper = handleOf(walkeep.clusterWorkflowId('default', 'long'));
    const { runId } = await keeper.describe();
    await eventually('the keeper continued as new', async () => {
      await Promise.all(
        Array.from({ length: 10 }, () => keeper.signal(walkeep.instanceSignal, worker.facts())),
      );
      return (await keeper.describe()).runId !== runId;
    });
    const archiving = await handleOf(walkeep.walArchivingWorkflowId('default', 'long')).describe();
    expect(archiving.status.name).toBe('RUNNING');
    expect((await status('long')).backups.map((one) => [one.name, one.phase])).toEqual([
      ['through', 'running'],
      ['after', 'pending'],
    ]);
    held.open();
    await ended('long', 'through');
    await ended('long', 'after');
    expect(world.story.filter((line) => line.includes('copy'))).toHaveLength(2);
    expect((await handleOf(walkeep.walArchivingWorkflowId('default', 'long')).describe()).runId).toBe(
      archiving.runId,
    );
  });

  it('archiving that ends unheard, after the keeper continued as new, is begun again', async () => {
    const world = newWorld();
    const worker = await instance(world, {
      cluster: 'quiet',
      instance: 'quiet-1',
      facts: { keeperPace: { missed: 0.5 } },
    });
    await apply('quiet', { cluster: clusterManifest('quiet') });
    const archiving = () => handleOf(walkeep.walArchivingWorkflowId('default', 'quiet')).describe();
    await eventually('archiving is observed', async () => Boolean((await status('quiet')).archiving));
    const keeper = handleOf(walkeep.clusterWorkflowId('default', 'quiet'));
    const { runId } = await keeper.describe();
    await eventually('the keeper continued as new', async () => {
      await Promise.all(
        Array.from({ length: 10 }, () => keeper.signal(walkeep.instanceSignal, worker.facts())),
      );
      return (await keeper.describe()).runId !== runId;
    });
    const { runId: before } = await archiving();
    await handleOf(walkeep.walArchivingWorkflowId('default', 'quiet')).terminate('by hand');
    await eventually('it runs again', async () => {
      const { runId: now, status: at } = await archiving();
      return now !== before && at.name === 'RUNNING';
    });
  });

  it('a Backup whose workflow is terminated is failed, and the next one starts', async () => {
    const world = newWorld();
    await instance(world, {
      cluster: 'killed',
      instance: 'killed-1',
      copy: async ({ backupName }, { signal }) => {
        if (backupName === 'victim') await gate().passed(signal);
        return copied(backupName);
      },
    });
    await apply('killed', {
      cluster: clusterManifest('killed'),
      backups: [backupManifest('victim', 'killed'), backupManifest('heir', 'killed')],
    });
    await eventually('the copy runs', () => world.story.some((line) => line.includes('copy')));
    await handleOf(walkeep.backupWorkflowId('default', 'victim')).terminate('by hand');
    await ended('killed', 'victim', 'failed');
    await ended('killed', 'heir');
  });

  it('archiving that starts to fail is a problem in the status within moments, and so is its end', async () => {
    const world = newWorld();
    let health: walkeep.ArchiveHealth = 'working';
    await instance(world, {
      cluster: 'alarm',
      instance: 'alarm-1',
      pace: { archivingReport: 2 },
      archiving: async () =>
        archiveReport('alarm-1', { health, ...(health === 'failing' && { lastError: 'store is full' }) }),
    });
    await apply('alarm', { cluster: clusterManifest('alarm') });
    await eventually('it works', async () => (await status('alarm')).archiving?.health === 'working');
    health = 'failing';
    await eventually('it is said', async () =>
      (await status('alarm')).problems.some((one) => one.includes('store is full')),
    );
    health = 'working';
    await eventually('it is over', async () => (await status('alarm')).problems.length === 0);
  });

  it('archiving follows the primary from one observer to the next, without a failed task', async () => {
    const world = newWorld();
    let primary = 'roles-1';
    const workers = await Promise.all(
      ['roles-1', 'roles-2'].map((name) =>
        instance(world, {
          cluster: 'roles',
          instance: name,
          role: () => (name === primary ? 'primary' : 'standby'),
          queues: name === 'roles-1' ? ['workflows', 'cluster', 'instance'] : ['instance'],
        }),
      ),
    );
    await apply('roles', { cluster: clusterManifest('roles') });
    const keeper = handleOf(walkeep.clusterWorkflowId('default', 'roles'));
    const report = () =>
      Promise.all(workers.map((one) => keeper.signal(walkeep.instanceSignal, one.facts())));
    for (primary of ['roles-1', 'roles-2', 'roles-1', 'roles-2']) {
      await report();
      await eventually(
        `${primary} is observed`,
        async () => (await status('roles')).archiving?.instance === primary,
      );
    }
    const { events } = await handleOf(walkeep.walArchivingWorkflowId('default', 'roles')).fetchHistory();
    expect(events?.filter((event) => event.workflowTaskFailedEventAttributes)).toEqual([]);
  });

  it('a manifest with bootstrap.recovery restores once, when its worker is there', async () => {
    const world = newWorld();
    const barmanObjectStore = { destinationPath: 'file:///srv/origin' };
    const spec = {
      bootstrap: { recovery: { source: 'origin' } },
      externalClusters: [{ name: 'origin', barmanObjectStore }],
      backup: undefined,
    };
    await instance(world, { cluster: 'reborn', instance: 'elsewhere', queues: ['workflows'] });
    await apply('reborn', { cluster: clusterManifest('reborn', spec) });
    const worker = await instance(world, {
      cluster: 'reborn',
      instance: 'reborn-1',
      role: 'absent',
      queues: ['cluster', 'instance'],
    });
    await handleOf(walkeep.clusterWorkflowId('default', 'reborn')).signal(
      walkeep.instanceSignal,
      worker.facts(),
    );
    const restore = handleOf(walkeep.restoreWorkflowId('default', 'reborn'));
    await eventually('the restore has run', () => world.story.includes('reborn-1: restore'));
    expect(await restore.result()).toMatchObject({ outcome: 'restored', instance: 'reborn-1' });
    expect(world.story).toEqual(['reborn-1: store revision 1', 'reborn-1: plan', 'reborn-1: restore']);
  });

  it('has current details that a person can read', async () => {
    await instance(newWorld(), { cluster: 'page', instance: 'page-1' });
    await apply('page', { cluster: clusterManifest('page'), backups: [backupManifest('shown', 'page')] });
    await ended('page', 'shown');
    const metadata = await handleOf(walkeep.clusterWorkflowId('default', 'page')).query(
      '__temporal_workflow_metadata',
    );
    const details = (metadata as { currentDetails?: string }).currentDetails ?? '';
    expect(details).toContain('### default/page');
    expect(details).toContain('| page-1 | primary | test | revision 1 |');
  });
});
