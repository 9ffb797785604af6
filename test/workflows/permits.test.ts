import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import type { Caps } from '../../activities/cluster.ts';
import * as walkeep from '../../workflows/interface.ts';
import { capacityQuery, ordinal, type CapacityInput } from '../../workflows/permits.ts';
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

interface Cluster {
  readonly world: World;
  readonly letGo: () => void;
  /** How many copies run at this moment. */
  readonly copying: () => number;
}

/** A cluster with caps, whose copies go on until they are let go. */
async function cluster(name: string, caps: Caps, fake: Partial<FakeInstance> = {}): Promise<Cluster> {
  const world = newWorld();
  world.manifests.set(`${name}-1:default/${name}`, { manifest: clusterManifest(name), revision: 1 });
  const held = gate();
  let copying = 0;
  running.push(
    await startInstance({ connection: temporal.nativeConnection }, world, {
      cluster: name,
      instance: `${name}-1`,
      copy: async ({ backupName }, { signal }) => {
        copying += 1;
        try {
          await held.passed(signal);
          return copied(backupName);
        } finally {
          copying -= 1;
        }
      },
      clusterPorts: { caps: () => caps },
      // One process has one worker of the workflows.
      queues: running.length === 0 ? ['workflows', 'cluster', 'instance'] : ['cluster', 'instance'],
      ...fake,
    }),
  );
  return { world, letGo: () => held.open(), copying: () => copying };
}

const backup = (name: string): Promise<WorkflowHandle> =>
  temporal.client.workflow.start(walkeep.WORKFLOW.baseBackup, {
    taskQueue: walkeep.WORKFLOW_QUEUE,
    workflowId: walkeep.backupWorkflowId('default', name),
    args: [{ cluster: name, name }],
  });

/** A queue that looks after its holders every second, and not every half minute. */
async function lively(key: string): Promise<WorkflowHandle> {
  const input: CapacityInput = { key, lookSeconds: 1 };
  return temporal.client.workflow.start(walkeep.WORKFLOW.capacity, {
    taskQueue: walkeep.WORKFLOW_QUEUE,
    workflowId: walkeep.capacityWorkflowId(key),
    args: [input],
  });
}

const capacityOf = (key: string) =>
  temporal.client.workflow.getHandle(walkeep.capacityWorkflowId(key)).query(capacityQuery);

async function page(handle: WorkflowHandle): Promise<string> {
  const metadata = await handle.query<{ currentDetails?: string }>('__temporal_workflow_metadata');
  return metadata.currentDetails ?? '';
}

const waits = (handle: WorkflowHandle) => async () => /waits for its turn: \d/.test(await page(handle));

describe('backups that share a store', () => {
  it('F1: one after the other under a cap of 1; who waits is pending, has made no attempt, and shows its turn', async () => {
    const caps = { store: 'one', perStore: 1 };
    const [a, b] = [await cluster('share-a', caps), await cluster('share-b', caps)];
    const first = await backup('share-a');
    await eventually('the first copy', () => a.copying() === 1);
    const second = await backup('share-b');
    await eventually('the second to wait', waits(second));
    expect(await page(second)).toContain('waits for its turn: 1st of 1 (store/one)');
    expect(await second.query(walkeep.backupStatusQuery)).toMatchObject({ phase: 'pending', attempt: 0 });
    expect(b.copying()).toBe(0);
    a.letGo();
    await first.result();
    await eventually('the second copy', () => b.copying() === 1);
    expect(await page(second)).not.toContain('turn');
    expect(await second.query(walkeep.backupStatusQuery)).toMatchObject({ phase: 'running', attempt: 1 });
    b.letGo();
    await second.result();
    await eventually(
      'all places to be free',
      async () => (await capacityOf('store/one')).holders.length === 0,
    );
  });

  it('no caps, no permits, no further events', async () => {
    const world = newWorld();
    world.manifests.set('free-1:default/free', { manifest: clusterManifest('free'), revision: 1 });
    running.push(
      await startInstance({ connection: temporal.nativeConnection }, world, {
        cluster: 'free',
        instance: 'free-1',
      }),
    );
    const handle = await backup('free');
    await handle.result();
    const { events } = await handle.fetchHistory();
    const text = JSON.stringify(events);
    for (const word of ['capacity', 'markerRecorded', 'startChild']) expect(text).not.toContain(word);
  });

  it('the host before the store, and both are given back when the copy ends', async () => {
    const caps = { store: 'two', perStore: 5, perHost: 1 };
    const [a, b] = [
      await cluster('host-a', caps, { host: 'db1' }),
      await cluster('host-b', caps, { host: 'db1' }),
    ];
    const first = await backup('host-a');
    await eventually('the first copy', () => a.copying() === 1);
    const second = await backup('host-b');
    await eventually('the second to wait', waits(second));
    expect(await page(second)).toContain('(host/db1)');
    // It holds no place at the store while it waits for the host.
    expect((await capacityOf('store/two')).holders).toHaveLength(1);
    a.letGo();
    b.letGo();
    await Promise.all([first.result(), second.result()]);
    await eventually('all places to be free', async () => {
      const all = await Promise.all(['host/db1', 'store/two'].map(capacityOf));
      return all.every(({ holders, waiting }) => holders.length + waiting.length === 0);
    });
  });

  it('F2: cancelled while it waits for its turn: it leaves the queue, and its outcome says so', async () => {
    const caps = { store: 'three', perStore: 1 };
    const [a, b] = [await cluster('leave-a', caps), await cluster('leave-b', caps)];
    const first = await backup('leave-a');
    await eventually('the first copy', () => a.copying() === 1);
    const second = await backup('leave-b');
    await eventually('the second to wait', waits(second));
    await second.cancel();
    await expect(second.result()).rejects.toThrow(/cancelled/i);
    expect(b.world.outcomes.get('leave-b')).toMatchObject({ phase: 'failed', error: 'cancelled' });
    await eventually(
      'the queue to be empty',
      async () => (await capacityOf('store/three')).waiting.length === 0,
    );
    a.letGo();
    await first.result();
  });

  it('F2: a holder that is terminated loses its place, and who waits for it runs', async () => {
    const caps = { store: 'four', perStore: 1 };
    const [a, b] = [await cluster('gone-a', caps), await cluster('gone-b', caps)];
    await lively('store/four');
    const first = await backup('gone-a');
    await eventually('the first copy', () => a.copying() === 1);
    const second = await backup('gone-b');
    await eventually('the second to wait', waits(second));
    await first.terminate();
    await eventually('the second copy', () => b.copying() === 1);
    a.letGo();
    b.letGo();
    await second.result();
  });

  it('F2: a queue that is lost is begun anew by who waits for it next; nobody is left', async () => {
    const caps = { store: 'five', perStore: 1 };
    const a = await cluster('lost-a', caps);
    a.letGo();
    await (await backup('lost-a')).result();
    await temporal.client.workflow.getHandle(walkeep.capacityWorkflowId('store/five')).terminate();
    const b = await cluster('lost-b', caps);
    b.letGo();
    expect(await (await backup('lost-b')).result()).toMatchObject({ phase: 'completed' });
  });

  it('F2: a turn that does not come before the deadline fails the backup with that cause', async () => {
    const caps = { store: 'six', perStore: 1 };
    const a = await cluster('full-a', caps);
    const b = await cluster('full-b', caps, { pace: { deadline: 3 } });
    const first = await backup('full-a');
    await eventually('the first copy', () => a.copying() === 1);
    const second = await backup('full-b');
    await expect(second.result()).rejects.toThrow(/failed/i);
    expect(b.world.outcomes.get('full-b')).toMatchObject({
      phase: 'failed',
      error: expect.stringMatching(/no turn came at store\/six before the deadline: 1st of 1/),
    });
    expect(b.world.story.some((line) => line.includes('copy'))).toBe(false);
    a.letGo();
    await first.result();
  });

  it('a restore begins at once though backups hold all places, and counts', async () => {
    const caps = { store: 'seven', perStore: 1 };
    const a = await cluster('busy-a', caps);
    const first = await backup('busy-a');
    await eventually('the first copy', () => a.copying() === 1);
    const restoring = gate();
    let restores = 0;
    const target = await cluster('busy-r', caps, {
      role: 'absent',
      restore: {
        plan: async () => Object.assign({}, PLANNED, { caps }),
        perform: async (_request, _planned, { signal }) => {
          restores += 1;
          await restoring.passed(signal);
          return RESTORED;
        },
      },
    });
    const startedAt = Date.now();
    const restore = await temporal.client.workflow.start(walkeep.WORKFLOW.restore, {
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowId: walkeep.restoreWorkflowId('default', 'busy-r'),
      args: [{ cluster: 'busy-r', source: 'busy-a' }],
    });
    await eventually('the restore', () => restores === 1);
    expect(Date.now() - startedAt).toBeLessThan(5_000);
    expect((await capacityOf('store/seven')).holders.map(({ kind }) => kind)).toEqual(['backup', 'restore']);
    restoring.open();
    await restore.result();
    a.letGo();
    await first.result();
    target.letGo();
    await eventually(
      'all places to be free',
      async () => (await capacityOf('store/seven')).holders.length === 0,
    );
  });

  it('says places as people do', () => {
    expect([1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111].map(ordinal)).toEqual(
      '1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th'.split(' '),
    );
  });
});

const PLANNED = {
  plan: {
    version: 1,
    backupId: '20260124T020000',
    targetTimeline: 1,
    endsAt: 'the end of the archive',
    excluded: [],
    warnings: [],
  },
  sourceUrl: 'file:///srv/backups',
} as unknown as Awaited<ReturnType<PlanPort>>;

type PlanPort = NonNullable<NonNullable<FakeInstance['restore']>['plan']>;

const RESTORED: walkeep.RestoreResult = {
  backupId: '20260124T020000',
  sourceUrl: 'file:///srv/backups',
  targetTimeline: 1,
  endsAt: 'the end of the archive',
  instance: 'busy-r-1',
  targetDirectory: '/data',
  files: 1,
  contentBytes: 1,
  storedBytes: 1,
  isVerified: true,
  warnings: [],
};
