import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ApplicationFailure } from '@temporalio/common';
import { WorkflowUpdateFailedError, type WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import type { CopyBackupInput } from '../../activities/base-backup.ts';
import type { CopyControl } from '../../activities/control.ts';
import { BackupError } from '../../core/errors.ts';
import type { Wishes } from '../../operations/job-registry.ts';
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

/** A cluster whose copies go on until they are let go, and remember what they were told. */
interface Stage {
  readonly world: World;
  readonly heard: Heard[];
  readonly letGo: () => void;
  readonly start: () => Promise<RunningInstance>;
  readonly backup: () => Promise<WorkflowHandle>;
}

interface Heard {
  readonly attempt: number;
  readonly wishes: Wishes<CopyControl>;
  readonly limits: CopyBackupInput['limits'];
  stopped: boolean;
}

function stage(cluster: string, fake: Partial<FakeInstance> = {}): Stage {
  const world = newWorld();
  world.manifests.set(`${cluster}-1:default/${cluster}`, { manifest: clusterManifest(cluster), revision: 1 });
  const heard: Heard[] = [];
  const held = gate();
  return {
    world,
    heard,
    letGo: () => held.open(),
    async start() {
      const instance = await startInstance({ connection: temporal.nativeConnection }, world, {
        cluster,
        instance: `${cluster}-1`,
        copy: async ({ backupName, attempt, limits }, { signal, wishes }) => {
          const entry: Heard = { attempt, wishes, limits, stopped: false };
          heard.push(entry);
          try {
            await held.passed(signal);
            return copied(backupName);
          } finally {
            entry.stopped = signal.aborted;
          }
        },
        ...fake,
      });
      running.push(instance);
      return instance;
    },
    backup: () =>
      temporal.client.workflow.start(walkeep.WORKFLOW.baseBackup, {
        taskQueue: walkeep.WORKFLOW_QUEUE,
        workflowId: walkeep.backupWorkflowId('default', cluster),
        args: [{ cluster, name: cluster }],
      }),
  };
}

const status = (handle: WorkflowHandle) => handle.query(walkeep.backupStatusQuery);
const wanted = (heard: Heard | undefined): Partial<walkeep.ControlState> => {
  const { version: _version, ...state } = heard?.wishes.latest ?? { version: 0 };
  return state;
};

async function page(handle: WorkflowHandle): Promise<string> {
  const metadata = await handle.query<{ currentDetails?: string }>('__temporal_workflow_metadata');
  return metadata.currentDetails ?? '';
}

async function refusal(update: Promise<unknown>): Promise<ApplicationFailure> {
  const error: unknown = await update.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(WorkflowUpdateFailedError);
  return (error as WorkflowUpdateFailedError).cause as ApplicationFailure;
}

describe('control of a running backup', () => {
  it('pause and resume by update: the copy was told when the answer comes; status, page and search say so', async () => {
    const { heard, letGo, start, backup } = stage('paused');
    await start();
    const handle = await backup();
    await eventually('the copy runs', () => heard.length === 1);
    expect(await handle.executeUpdate(walkeep.pauseUpdate)).toEqual({ paused: true });
    expect(wanted(heard[0])).toEqual({ paused: true });
    expect(await status(handle)).toMatchObject({ phase: 'running', control: { paused: true } });
    expect(await page(handle)).toMatch(/### Backup paused: running, paused/);
    const attributes = (await handle.describe()).typedSearchAttributes;
    expect(attributes.get(walkeep.SEARCH_ATTRIBUTE.phase)).toBe('paused');

    expect(await handle.executeUpdate(walkeep.resumeUpdate)).toEqual({ paused: false });
    expect(wanted(heard[0])).toEqual({ paused: false });
    letGo();
    expect(await handle.result()).toMatchObject({ phase: 'completed' });
    expect(heard).toHaveLength(1);
  });

  it('its page says that the defaults hold where the worker can’t read the policy', async () => {
    const problem = 'the BackupPolicy "strict" kept on this host can\'t be read: it is no JSON';
    const readHeld = async () => ({ schedules: [], verifications: [], problem });
    const { heard, letGo, start, backup } = stage('unread', { clusterPorts: { readHeld } });
    await start();
    const handle = await backup();
    await eventually('the copy runs', () => heard.length === 1);
    expect(await page(handle)).toMatch(/defaults hold.*BackupPolicy "strict" kept on this host/);
    letGo();
    expect(await handle.result()).toMatchObject({ phase: 'completed' });
  });

  it('throttle by update and by signal; a rate that is none is refused, and ends nothing', async () => {
    const { heard, letGo, start, backup } = stage('throttled');
    await start();
    const handle = await backup();
    await eventually('the copy runs', () => heard.length === 1);
    expect(heard[0]?.limits).toMatchObject({ maxRate: null, nice: 10 });
    const MiB = 2 ** 20;
    expect(await handle.executeUpdate(walkeep.throttleUpdate, { args: [{ maxRate: '20MiB/s' }] })).toEqual({
      paused: false,
      maxBytesPerSecond: 20 * MiB,
    });
    expect(wanted(heard[0])).toEqual({ paused: false, maxBytesPerSecond: 20 * MiB });
    for (const bad of [{ maxRate: 'fast' }, { maxRate: '1B/s' }, {}, 'fast', null]) {
      const args = [bad as unknown as walkeep.ThrottleInput] as [walkeep.ThrottleInput];
      const refused = await refusal(handle.executeUpdate(walkeep.throttleUpdate, { args }));
      expect(refused.type).toBe('input-invalid');
      expect(refused.message).toContain('maxRate');
      await handle.signal(walkeep.throttleSignal, ...args);
    }
    await handle.signal(walkeep.throttleSignal, { maxRate: null });
    await eventually('the copy heard it', () => wanted(heard[0]).maxBytesPerSecond === null);
    letGo();
    expect(await handle.result()).toMatchObject({ phase: 'completed' });
  });

  it('F2: telling twice is telling once, and costs nothing', async () => {
    const { heard, letGo, start, backup } = stage('twice');
    await start();
    const handle = await backup();
    await eventually('the copy runs', () => heard.length === 1);
    await handle.executeUpdate(walkeep.pauseUpdate);
    const before = heard[0]?.wishes.latest;
    await handle.executeUpdate(walkeep.pauseUpdate);
    expect(heard[0]?.wishes.latest).toEqual(before);
    const { events = [] } = await handle.fetchHistory();
    const told = (events ?? []).filter(
      (event) => event.activityTaskScheduledEventAttributes?.activityType?.name === 'controlBackup',
    );
    expect(told).toHaveLength(1);
    letGo();
    await handle.result();
  });

  it('F2: what was wanted before the copy began is in its input; a new attempt has it, too', async () => {
    let attempts = 0;
    const seen: unknown[] = [];
    const { start, backup } = stage('early', {
      copy: async ({ backupName }, { wishes }) => {
        attempts += 1;
        seen.push(wishes.latest?.maxBytesPerSecond);
        if (attempts === 1) throw new BackupError('backup-interrupted', 'lost the session');
        return copied(backupName);
      },
    });
    const handle = await backup();
    await handle.signal(walkeep.throttleSignal, { maxRate: '1MiB/s' });
    await start();
    expect(await handle.result()).toMatchObject({ phase: 'completed' });
    expect(seen).toEqual([2 ** 20, 2 ** 20]);
  });

  it('F2: a worker that restarts begins the copy as it is wanted now, not as it was when it was scheduled', async () => {
    const { heard, letGo, start, backup } = stage('restarted');
    const first = await start();
    const handle = await backup();
    await eventually('the copy runs', () => heard.length === 1);
    expect(heard[0]?.wishes.latest).toBeUndefined();
    await handle.executeUpdate(walkeep.pauseUpdate);
    await first.stop();
    running = [];
    await start();
    await eventually('the copy runs again', () => heard.length === 2);
    expect(heard.map(({ attempt }) => attempt)).toEqual([1, 1]);
    expect(wanted(heard[1])).toEqual({ paused: true });
    await handle.executeUpdate(walkeep.resumeUpdate);
    expect(wanted(heard[1])).toEqual({ paused: false });
    letGo();
    expect(await handle.result()).toMatchObject({ phase: 'completed' });
  });

  it('B3, F2: cancelled while paused: the copy is stopped, the outcome says cancelled, nothing else begins', async () => {
    const { world, heard, start, backup } = stage('dropped');
    await start();
    const handle = await backup();
    await eventually('the copy runs', () => heard.length === 1);
    await handle.executeUpdate(walkeep.pauseUpdate);
    await handle.cancel();
    await expect(handle.result()).rejects.toThrow(/cancelled/i);
    expect((await handle.describe()).status.name).toBe('CANCELLED');
    expect(heard).toHaveLength(1);
    expect(heard[0]?.stopped).toBe(true);
    expect(world.outcomes.get('dropped')).toMatchObject({ phase: 'failed', error: 'cancelled' });
  });

  it('F2: the deadline comes also while it is paused, and stops the copy', async () => {
    const { world, heard, start, backup } = stage('late', { pace: { deadline: 4 } });
    await start();
    const handle = await backup();
    await eventually('the copy runs', () => heard.length === 1);
    await handle.executeUpdate(walkeep.pauseUpdate);
    await expect(handle.result()).rejects.toThrow(/failed/i);
    await eventually('the copy to stop', () => heard.every(({ stopped }) => stopped), 5_000);
    expect(world.outcomes.get('late')).toMatchObject({ phase: 'failed' });
    expect(world.outcomes.get('late')?.error).toMatch(/in time/);
  });

  it('a backup that has ended is not controlled any more', async () => {
    const { heard, letGo, start, backup } = stage('ended');
    await start();
    const handle = await backup();
    await eventually('the copy runs', () => heard.length === 1);
    letGo();
    await handle.result();
    await expect(handle.executeUpdate(walkeep.pauseUpdate)).rejects.toThrow(/complete/i);
  });
});
