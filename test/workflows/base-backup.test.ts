import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ApplicationFailure } from '@temporalio/common';
import { WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { BackupError } from '../../core/errors.ts';
import * as walkeep from '../../workflows/interface.ts';
import {
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

beforeAll(async () => {
  temporal = await startTemporal();
}, 60_000);
afterAll(async () => {
  await temporal?.teardown();
});
afterEach(async () => {
  await Promise.all(running.map((instance) => instance.stop()));
  running = [];
});

async function instance(world: World, fake: FakeInstance): Promise<RunningInstance> {
  const started = await startInstance({ connection: temporal.nativeConnection }, world, fake);
  running.push(started);
  return started;
}

function worldWith(cluster: string, ...instances: string[]): World {
  const world = newWorld();
  for (const name of instances) {
    world.manifests.set(`${name}:default/${cluster}`, { manifest: clusterManifest(cluster), revision: 1 });
  }
  return world;
}

/** As a person starts it: nothing but JSON. */
async function start(input: unknown, workflowId: string): Promise<WorkflowHandle> {
  return temporal.client.workflow.start(walkeep.WORKFLOW.baseBackup, {
    taskQueue: walkeep.WORKFLOW_QUEUE,
    workflowId,
    args: [input],
  });
}

async function failureOf(handle: WorkflowHandle): Promise<ApplicationFailure> {
  const error: unknown = await handle.result().catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(WorkflowFailedError);
  const cause = (error as WorkflowFailedError).cause;
  expect(cause).toBeInstanceOf(ApplicationFailure);
  return cause as ApplicationFailure;
}

describe('baseBackup', () => {
  it('takes a backup with nothing but the cluster: copies, confirms, records, and returns the status', async () => {
    const world = worldWith('alone', 'alone-1');
    await instance(world, { cluster: 'alone', instance: 'alone-1' });
    const handle = await start({ cluster: 'alone', name: null }, 'backup/default/one');
    const status: unknown = await handle.result();
    expect(status).toMatchObject({ phase: 'completed', backupName: 'one' });
    const id = (status as { backupId: string }).backupId;
    expect(world.story).toEqual([
      'alone-1: copy one attempt 1',
      `alone-1: confirm ${id}`,
      `alone-1: record ${id}`,
      'outcome one completed',
    ]);
    const described = await handle.describe();
    expect(described.typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.backup)).toBe('one');
    expect(described.typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.phase)).toBe('completed');
  });

  it('F2: the same name again does nothing and returns what was', async () => {
    const world = worldWith('again', 'again-1');
    await instance(world, { cluster: 'again', instance: 'again-1' });
    const first: unknown = await (
      await start({ cluster: 'again', name: 'once' }, 'backup/default/once')
    ).result();
    const second: unknown = await (
      await start({ cluster: 'again', name: 'once' }, 'backup/default/once')
    ).result();
    expect(second).toEqual(first);
    expect(world.story.filter((line) => line.includes('copy'))).toHaveLength(1);
  });

  it.for([
    { input: { cluster: 7 }, says: 'field "cluster"' },
    { input: {}, says: 'field "cluster"' },
    { input: { cluster: 'x', target: 'secondary' }, says: 'field "target"' },
    { input: { cluster: 'x', imediateCheckpoint: true }, says: 'imediateCheckpoint' },
    { input: { cluster: '../x' }, says: 'field "cluster"' },
    { input: 'x', says: 'the input' },
  ])('refuses $input and names the field', async ({ input, says }) => {
    await instance(newWorld(), { cluster: 'x', instance: 'x-1' });
    const failure = await failureOf(await start(input, `backup/default/bad-${Math.random()}`));
    expect(failure.type).toBe('input-invalid');
    expect(failure.nonRetryable).toBe(true);
    expect(failure.message).toContain(says);
  });

  it('a cluster nobody applied is the typed failure cluster-unknown', async () => {
    await instance(newWorld(), { cluster: 'unknown', instance: 'unknown-1' });
    const failure = await failureOf(await start({ cluster: 'unknown' }, 'backup/default/unknown'));
    expect(failure.type).toBe('cluster-unknown');
    expect(failure.message).toContain('default/unknown');
    expect(failure.details).toEqual([expect.stringContaining('walkeep apply')]);
  });

  it('a cluster without a worker fails and says which task queue has none', async () => {
    await instance(newWorld(), { cluster: 'other', instance: 'other-1' });
    const handle = await start({ cluster: 'nobody', waitForWorkerSeconds: 1 }, 'backup/default/nobody');
    const failure = await failureOf(handle);
    expect(failure.type).toBe('worker-missing');
    expect(failure.message).toContain('"walkeep/default/nobody"');
  });

  it('what can pass is tried again as a new attempt, what can not fails at once with its advice', async () => {
    const world = worldWith('flaky', 'flaky-1');
    await instance(world, {
      cluster: 'flaky',
      instance: 'flaky-1',
      copy: async ({ backupName, attempt }) => {
        if (attempt < 3) throw new BackupError('store-unavailable', 'the store does not answer');
        if (backupName === 'hopeless') throw new BackupError('access-denied', 'not allowed to write');
        return copied(backupName);
      },
    });
    expect(await (await start({ cluster: 'flaky' }, 'backup/default/stubborn')).result()).toMatchObject({
      phase: 'completed',
    });
    expect(world.story.filter((line) => line.includes('copy'))).toHaveLength(3);
    const failure = await failureOf(await start({ cluster: 'flaky' }, 'backup/default/hopeless'));
    expect(failure).toMatchObject({ type: 'access-denied', message: 'not allowed to write' });
    expect(world.outcomes.get('hopeless')).toMatchObject({ phase: 'failed', error: 'not allowed to write' });
  });

  it('fails after the attempts it may make, and its name is used up', async () => {
    const world = worldWith('broken', 'broken-1');
    await instance(world, {
      cluster: 'broken',
      instance: 'broken-1',
      pace: { attempts: 2 },
      copy: async () => {
        throw new BackupError('postgres-unavailable', 'connection refused');
      },
    });
    expect((await failureOf(await start({ cluster: 'broken' }, 'backup/default/broken'))).type).toBe(
      'postgres-unavailable',
    );
    expect(world.story).toEqual([
      'broken-1: copy broken attempt 1',
      'broken-1: copy broken attempt 2',
      'outcome broken failed',
    ]);
    const again = await failureOf(await start({ cluster: 'broken' }, 'backup/default/broken'));
    expect(again.type).toBe('already-exists');
    expect(again.message).toContain('connection refused');
  });

  it('B1: a backup whose WAL never arrives is discarded and failed', async () => {
    const world = worldWith('nowal', 'nowal-1');
    await instance(world, {
      cluster: 'nowal',
      instance: 'nowal-1',
      pace: { attempts: 1 },
      backup: {
        confirm: async () => {
          throw ApplicationFailure.nonRetryable(
            'segment 000000010000000000000002 is not there',
            'wal-missing',
          );
        },
      },
    });
    const failure = await failureOf(await start({ cluster: 'nowal' }, 'backup/default/nowal'));
    expect(failure.type).toBe('wal-missing');
    expect(world.story.some((line) => line.includes('discard'))).toBe(true);
    expect(world.story.some((line) => line.includes('record'))).toBe(false);
  });

  it('a cancelled backup stops the copy, ends cancelled, and leaves a terminal outcome', async () => {
    const world = worldWith('cancelled', 'cancelled-1');
    const held = gate();
    let stopped = false;
    await instance(world, {
      cluster: 'cancelled',
      instance: 'cancelled-1',
      copy: async ({ backupName }, { signal }) => {
        try {
          await held.passed(signal);
          return copied(backupName);
        } finally {
          stopped = signal.aborted;
        }
      },
    });
    const handle = await start({ cluster: 'cancelled' }, 'backup/default/cancelled');
    await eventually('the copy runs', () => world.story.length > 0);
    await handle.cancel();
    await expect(handle.result()).rejects.toThrow(/cancelled/i);
    expect((await handle.describe()).status.name).toBe('CANCELLED');
    expect(stopped).toBe(true);
    expect(world.outcomes.get('cancelled')).toMatchObject({ phase: 'failed', error: 'cancelled' });
  });

  it('prefer-standby asks the keeper who is there and takes a standby', async () => {
    const world = worldWith('pair', 'pair-1', 'pair-2');
    await instance(world, { cluster: 'pair', instance: 'pair-1', role: 'primary' });
    await instance(world, { cluster: 'pair', instance: 'pair-2', role: 'standby', queues: ['instance'] });
    const facts = { host: 'h', version: '0', searchAttributes: true } as const;
    const keeper = await temporal.client.workflow.start(walkeep.WORKFLOW.cluster, {
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowId: walkeep.clusterWorkflowId('default', 'pair'),
      args: [clusterManifest('pair')],
    });
    await keeper.signal(walkeep.instanceSignal, { instance: 'pair-1', role: 'primary', ...facts });
    await keeper.signal(walkeep.instanceSignal, { instance: 'pair-2', role: 'standby', ...facts });
    await (await start({ cluster: 'pair' }, 'backup/default/spared')).result();
    await (await start({ cluster: 'pair', target: 'primary' }, 'backup/default/on-primary')).result();
    expect(world.story.filter((line) => line.includes('copy'))).toEqual([
      'pair-2: copy spared attempt 1',
      'pair-1: copy on-primary attempt 1',
    ]);
    await keeper.terminate();
    await temporal.client.workflow
      .getHandle(walkeep.walArchivingWorkflowId('default', 'pair'))
      .terminate()
      .catch(() => {});
  });

  describe('a promotion in the middle', () => {
    /** Two instances that change roles when the first copy has begun; the keeper hears nothing of it. */
    async function promotion(cluster: string, target: walkeep.BackupTarget) {
      const world = worldWith(cluster, `${cluster}-1`, `${cluster}-2`);
      let primary = 1;
      const role = (n: number) => () => (n === primary ? 'primary' : 'standby');
      for (const n of [1, 2]) {
        await instance(world, {
          cluster,
          instance: `${cluster}-${n}`,
          role: role(n),
          queues: n === 1 ? ['workflows', 'cluster', 'instance'] : ['instance'],
          copy: async ({ backupName, attempt }) => {
            if (attempt > 1) return copied(backupName);
            primary = 2;
            throw new BackupError('backup-interrupted', 'the server was promoted');
          },
        });
      }
      const keeper = await temporal.client.workflow.start(walkeep.WORKFLOW.cluster, {
        taskQueue: walkeep.WORKFLOW_QUEUE,
        workflowId: walkeep.clusterWorkflowId('default', cluster),
        args: [clusterManifest(cluster)],
      });
      for (const [n, known] of [
        [1, 'primary'],
        [2, 'standby'],
      ] as const) {
        const facts = { host: 'h', version: '0', searchAttributes: true, role: known };
        await keeper.signal(walkeep.instanceSignal, { instance: `${cluster}-${n}`, ...facts });
      }
      const handle = await start({ cluster, target }, `backup/default/${cluster}`);
      expect(await handle.result()).toMatchObject({ phase: 'completed' });
      await keeper.terminate();
      await temporal.client.workflow
        .getHandle(walkeep.walArchivingWorkflowId('default', cluster))
        .terminate()
        .catch(() => {});
      return world.story.filter((line) => line.includes(': copy'));
    }

    it('B6: the standby is promoted: the attempt is interrupted, the next one takes what is a standby now', async () => {
      expect(await promotion('promoted', 'prefer-standby')).toEqual([
        'promoted-2: copy promoted attempt 1',
        'promoted-1: copy promoted attempt 2',
      ]);
    });

    it('B6: target primary follows to the new primary', async () => {
      expect(await promotion('followed', 'primary')).toEqual([
        'followed-1: copy followed attempt 1',
        'followed-2: copy followed attempt 2',
      ]);
    });
  });

  it('F2: what the Backup object carried is kept with its outcome, however it ended', async () => {
    const world = worldWith('labelled', 'labelled-1');
    const kept: unknown[] = [];
    await instance(world, {
      cluster: 'labelled',
      instance: 'labelled-1',
      pace: { attempts: 1 },
      copy: async ({ backupName }) => {
        if (backupName === 'bad') throw new BackupError('access-denied', 'not allowed to write');
        return copied(backupName);
      },
      backup: { writeOutcome: async ({ metadata }) => void kept.push(metadata) },
    });
    const metadata = {
      labels: { 'cnpg.io/scheduled-backup': 'nightly' },
      annotations: { team: 'payments' },
      ownerReferences: [
        { apiVersion: 'postgresql.cnpg.io/v1', kind: 'ScheduledBackup', name: 'nightly', controller: true },
      ],
    };
    await (await start({ cluster: 'labelled', ...metadata }, 'backup/default/good')).result();
    await failureOf(await start({ cluster: 'labelled', ...metadata }, 'backup/default/bad'));
    await (await start({ cluster: 'labelled' }, 'backup/default/plain')).result();
    expect(kept).toEqual([metadata, metadata, undefined]);
    const refused = await failureOf(
      await start({ cluster: 'labelled', labels: { a: 7 } }, 'backup/default/wrong'),
    );
    expect(refused).toMatchObject({ type: 'input-invalid', message: expect.stringContaining('labels') });
  });

  it('F2: a worker that dies in the copy costs a new copy, not the backup', async () => {
    const world = worldWith('mortal', 'mortal-1');
    const first = await instance(world, {
      cluster: 'mortal',
      instance: 'mortal-1',
      copy: async ({ backupName }, { signal }) => {
        await gate().passed(signal);
        return copied(backupName);
      },
    });
    const handle = await start({ cluster: 'mortal' }, 'backup/default/mortal');
    await eventually('the copy runs', () => world.story.length > 0);
    await first.stop();
    running = [];
    await instance(world, { cluster: 'mortal', instance: 'mortal-1' });
    expect(await handle.result()).toMatchObject({ phase: 'completed' });
    expect(world.story.filter((line) => line.includes('copy'))).toEqual([
      'mortal-1: copy mortal attempt 1',
      'mortal-1: copy mortal attempt 1',
    ]);
  });

  it('F4: a run costs few events and small payloads', async () => {
    const world = worldWith('small', 'small-1');
    await instance(world, { cluster: 'small', instance: 'small-1' });
    const handle = await start({ cluster: 'small' }, 'backup/default/small');
    await handle.result();
    const history = await handle.fetchHistory();
    expect(history.events?.length).toBeLessThan(100);
    expect(JSON.stringify(history).length).toBeLessThan(200_000);
  });
});
