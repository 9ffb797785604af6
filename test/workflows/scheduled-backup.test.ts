import { WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ConvergedSchedule, ScheduleActivities } from '../../activities/schedules.ts';
import { BackupError } from '../../core/errors.ts';
import { slotBackupName } from '../../core/slots.ts';
import { scheduledBackupSchema, type ScheduledBackupManifest } from '../../manifests/scheduled-backup.ts';
import { listSlots, readSeries, readSlot, type SlotRecord } from '../../repository/slots.ts';
import { createScheduleService } from '../../workers/schedule-ports.ts';
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

const { signal } = new AbortController();
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

function schedule(
  name: string,
  cluster: string,
  spec: object = {},
  annotations: Record<string, string> = {},
): ScheduledBackupManifest {
  return scheduledBackupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'ScheduledBackup',
    metadata: { name, annotations },
    spec: { schedule: '0 0 2 * * *', cluster: { name: cluster }, ...spec },
  });
}

/** A cluster with a worker that holds these schedules. */
async function site(
  cluster: string,
  schedules: readonly ScheduledBackupManifest[] = [],
  fake: Partial<FakeInstance> = {},
): Promise<World> {
  const world = newWorld();
  const instance = `${cluster}-1`;
  world.manifests.set(`${instance}:default/${cluster}`, { manifest: clusterManifest(cluster), revision: 1 });
  running.push(
    await startInstance({ connection: temporal.nativeConnection }, world, {
      cluster,
      instance,
      schedules: () => schedules,
      ...fake,
    }),
  );
  return world;
}

/** As a person starts it: nothing but JSON. */
function start(
  input: unknown,
  workflowId: string,
  options: { cronSchedule?: string } = {},
): Promise<WorkflowHandle> {
  return temporal.client.workflow.start(walkeep.WORKFLOW.scheduledBackup, {
    taskQueue: walkeep.WORKFLOW_QUEUE,
    workflowId,
    args: [input],
    ...options,
  });
}

async function failureOf(handle: WorkflowHandle): Promise<ApplicationFailure> {
  const error: unknown = await handle.result().catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(WorkflowFailedError);
  const cause = (error as WorkflowFailedError).cause;
  expect(cause).toBeInstanceOf(ApplicationFailure);
  return cause as ApplicationFailure;
}

async function recordsOf(world: World, series: string): Promise<SlotRecord[]> {
  const all = { since: new Date(0), until: new Date(Date.now() + 366 * 86_400_000) };
  const slots = await listSlots(
    world.repository,
    series,
    { ...all, since: new Date(Date.now() - 86_400_000) },
    signal,
  );
  const records = await Promise.all(slots.map((slot) => readSlot(world.repository, series, slot, signal)));
  return records.filter((record) => record !== undefined);
}

/** Runs an activity of the cluster as the keeper does. */
function activity<Name extends keyof ScheduleActivities>(
  cluster: string,
  name: Name,
  input: Parameters<ScheduleActivities[Name]>[0],
): ReturnType<ScheduleActivities[Name]> {
  return temporal.client.activity.execute(name, {
    id: `${name}-${Math.random()}`,
    taskQueue: walkeep.clusterQueue('default', cluster),
    args: [input],
    startToCloseTimeout: '20 seconds',
  }) as ReturnType<ScheduleActivities[Name]>;
}

function converge(
  cluster: string,
  schedules: readonly ScheduledBackupManifest[],
  known: readonly string[] = [],
): Promise<ConvergedSchedule[]> {
  return activity(cluster, 'convergeSchedules', {
    namespace: 'default',
    cluster,
    manifest: clusterManifest(cluster),
    schedules,
    known,
  });
}

/** What a baseBackup was started with. */
async function inputOf(workflowId: string): Promise<walkeep.BaseBackupInput> {
  const history = await temporal.client.workflow.getHandle(workflowId).fetchHistory();
  const started = history.events?.[0]?.workflowExecutionStartedEventAttributes;
  const text = Buffer.from(started?.input?.payloads?.[0]?.data ?? '').toString();
  return JSON.parse(text) as walkeep.BaseBackupInput;
}

const describeSchedule = (name: string) =>
  temporal.client.schedule.getHandle(walkeep.scheduleId('default', name)).describe();

describe('scheduledBackup, started by a person', () => {
  it('F6: takes one backup, named after the moment it began, and records that slot', async () => {
    const world = await site('by-hand');
    const status: unknown = await (await start({ cluster: 'by-hand' }, 'by-hand-run')).result();
    const [record] = await recordsOf(world, 'by-hand');
    expect(record).toMatchObject({ scheduledBackup: 'by-hand', outcome: 'ran' });
    const name = slotBackupName('by-hand', new Date(record!.slot));
    expect(record!.backupName).toBe(name);
    expect(status).toMatchObject({ phase: 'completed', backupName: name });
    expect(world.story.filter((line) => line.includes('copy'))).toEqual([
      `by-hand-1: copy ${name} attempt 1`,
    ]);
  });

  it('finds the cluster of a ScheduledBackup by its Schedule', async () => {
    const nightly = schedule('found-nightly', 'found');
    const world = await site('found', [nightly]);
    await converge('found', [nightly]);
    const status: unknown = await (await start({ scheduledBackup: 'found-nightly' }, 'found-run')).result();
    expect(status).toMatchObject({ phase: 'completed' });
    expect(await recordsOf(world, 'found-nightly')).toHaveLength(1);
  });

  it('a ScheduledBackup nobody knows is the typed failure schedule-unknown', async () => {
    await site('knows-nothing');
    const unknown = await failureOf(await start({ scheduledBackup: 'nobodys' }, 'nobodys-run'));
    expect(unknown).toMatchObject({ type: 'schedule-unknown', nonRetryable: true });
    const others = await start({ scheduledBackup: 'nobodys', cluster: 'knows-nothing' }, 'nobodys-run-2');
    expect((await failureOf(others)).type).toBe('schedule-unknown');
  });

  it.each([
    [{}, 'field "scheduledBackup"'],
    [{ cluster: 'x', scheduledBackups: 'y' }, 'scheduledBackups'],
    [{ cluster: '../x' }, 'field "cluster"'],
    [{ cluster: 'x', method: 'rsync' }, 'field "method"'],
    ['x', 'the input'],
  ])('refuses %j and names the field', async (input, says) => {
    await site('x');
    const failed = await failureOf(await start(input, `bad-${Math.random()}`));
    expect(failed).toMatchObject({ type: 'input-invalid', nonRetryable: true });
    expect(failed.message).toContain(says);
  });

  it('F6: with --cron runs again and again, one backup each, and a run that failed does not end the chain', async () => {
    let attempts = 0;
    const world = await site('cron', [], {
      pace: { attempts: 1 },
      copy: async ({ backupName }) => {
        if ((attempts += 1) === 1) throw new BackupError('data-unreadable', 'a file can not be read');
        return copied(backupName);
      },
    });
    await start({ cluster: 'cron' }, 'cron-chain', { cronSchedule: '@every 2s' });
    await eventually('three runs', async () => (await recordsOf(world, 'cron')).length >= 3);
    await temporal.client.workflow.getHandle('cron-chain').terminate();
    const records = await recordsOf(world, 'cron');
    expect(new Set(records.map(({ backupName }) => backupName)).size).toBe(records.length);
    expect(world.outcomes.get(records[0]!.backupName!)?.phase).toBe('failed');
    expect(world.outcomes.get(records[1]!.backupName!)?.phase).toBe('completed');
  });

  it('a --cron run that is cancelled while it waits takes no backup, and the chain ends', async () => {
    const world = await site('waiting');
    await start({ cluster: 'waiting' }, 'waiting-chain', { cronSchedule: '0 0 1 1 *' });
    const handle = temporal.client.workflow.getHandle('waiting-chain');
    await handle.cancel();
    const error: unknown = await handle.result().catch((thrown: unknown) => thrown);
    expect((error as WorkflowFailedError).cause).toBeInstanceOf(CancelledFailure);
    expect((await handle.describe()).status.name).toBe('CANCELLED');
    expect(world.story).toEqual([]);
    expect(await recordsOf(world, 'waiting')).toEqual([]);
  });

  it('a Backup that is cancelled by itself does not cancel the run, which would end a chain', async () => {
    const world = await site('backup-cancelled', [], {
      copy: async (_, options) => {
        await gate().passed(options.signal);
        throw new Error('never');
      },
    });
    const handle = await start({ cluster: 'backup-cancelled' }, 'backup-cancelled-run');
    await eventually('the copy', () => world.story.length > 0);
    const [record] = await recordsOf(world, 'backup-cancelled');
    await temporal.client.workflow
      .getHandle(walkeep.backupWorkflowId('default', record!.backupName!))
      .cancel();
    expect(await failureOf(handle)).toMatchObject({ type: 'backup-interrupted' });
  });

  it('cancelled itself, it cancels its Backup', async () => {
    const world = await site('run-cancelled', [], {
      copy: async (_, options) => {
        await gate().passed(options.signal);
        throw new Error('never');
      },
    });
    const handle = await start({ cluster: 'run-cancelled' }, 'run-cancelled-run');
    await eventually('the copy', () => world.story.length > 0);
    await handle.cancel();
    await handle.result().catch(() => {});
    expect((await handle.describe()).status.name).toBe('CANCELLED');
    const [record] = await recordsOf(world, 'run-cancelled');
    expect(world.outcomes.get(record!.backupName!)).toMatchObject({ phase: 'failed', error: 'cancelled' });
  });

  it('fails as its Backup does, with the code and its name', async () => {
    await site('failing', [], {
      copy: async () => {
        throw new BackupError('postgres-unsuitable', 'archive_mode is off');
      },
    });
    const failed = await failureOf(await start({ cluster: 'failing' }, 'failing-run'));
    expect(failed.type).toBe('postgres-unsuitable');
    expect(failed.message).toMatch(/Backup "failing-\d{14}": .*archive_mode is off/);
  });

  it('waits for a repository that does not answer, and then runs: nothing is begun that is not recorded', async () => {
    let away = true;
    const world: World = await site('away', [], {
      repository: () => {
        if (away) throw new BackupError('store-unavailable', 'the store does not answer');
        return world.repository;
      },
    });
    const handle = await start({ cluster: 'away' }, 'away-run');
    await eventually('a failed look', async () => {
      const { raw } = await handle.describe();
      return (raw.pendingActivities?.[0]?.attempt ?? 0) > 1;
    });
    expect(world.story).toEqual([]);
    away = false;
    expect(await handle.result()).toMatchObject({ phase: 'completed' });
  });

  it('shows what it does as a page, and is found by its attributes', async () => {
    await site('shown');
    const handle = await start({ cluster: 'shown' }, 'shown-run');
    await handle.result();
    const page = await handle.query<{ currentDetails?: string }>('__temporal_workflow_metadata');
    expect(page.currentDetails).toContain('backup begun');
    expect(page.currentDetails).toContain('default/shown');
    const { typedSearchAttributes } = await handle.describe();
    expect(typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.operation)).toBe('schedule');
    expect(typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.phase)).toBe('ran');
  });
});

describe('the Backups of a ScheduledBackup', () => {
  it.each([
    ['none', []],
    [
      'self',
      [{ apiVersion: 'postgresql.cnpg.io/v1', kind: 'ScheduledBackup', name: 'owned', controller: true }],
    ],
    ['cluster', [{ apiVersion: 'postgresql.cnpg.io/v1', kind: 'Cluster', name: 'owning', controller: true }]],
  ] as const)(
    'have the labels, annotations and, with backupOwnerReference: %s, the owner that CNPG gives them',
    async (owner, references) => {
      const owned = schedule(
        'owned',
        'owning',
        { backupOwnerReference: owner, target: 'primary' },
        { 'cnpg.io/volumeSnapshotDeadline': '20', 'walkeep.io/timezone': 'Europe/Rome' },
      );
      const world = await site('owning', [owned]);
      await (await start({ scheduledBackup: 'owned', cluster: 'owning' }, `owning-run-${owner}`)).result();
      const [record] = await recordsOf(world, 'owned');
      const input = await inputOf(walkeep.backupWorkflowId('default', record!.backupName!));
      expect(input).toMatchObject({
        cluster: 'owning',
        namespace: 'default',
        name: record!.backupName,
        method: 'barmanObjectStore',
        target: 'primary',
        labels: {
          'cnpg.io/cluster': 'owning',
          'cnpg.io/immediateBackup': 'false',
          'cnpg.io/scheduled-backup': 'owned',
        },
        annotations: { 'cnpg.io/volumeSnapshotDeadline': '20' },
      });
      expect(Object.keys(input.annotations ?? {})).toHaveLength(1);
      expect(input.ownerReferences).toEqual(references);
    },
  );
});

describe('Schedules in Temporal', () => {
  it('F7: are created, left alone, changed, paused and deleted as is declared; again changes nothing', async () => {
    await site('converging');
    const first = schedule('con-a', 'converging');
    const second = schedule('con-b', 'converging', { schedule: '@every 90m' });
    const created = await converge('converging', [first, second]);
    expect(created.map(({ name, outcome }) => [name, outcome])).toEqual([
      ['con-a', 'created'],
      ['con-b', 'created'],
    ]);
    expect(created[0]!.nextRuns).toHaveLength(3);
    expect(created[0]!.nextRuns[0]).toMatch(/T02:00:00Z$/);
    const { info, memo, policies, state } = await describeSchedule('con-b');
    expect(info.nextActionTimes.slice(0, 3).map((time) => time.toISOString().replace('.000Z', 'Z'))).toEqual(
      created[1]!.nextRuns,
    );
    expect(memo).toEqual({
      walkeep: { namespace: 'default', cluster: 'converging', scheduledBackup: 'con-b' },
    });
    expect(policies).toMatchObject({
      overlap: 'ALLOW_ALL',
      catchupWindow: 12 * 3_600_000,
      pauseOnFailure: false,
    });
    expect(state.note).toContain('@every 90m');

    const again = await converge('converging', [first, second], ['con-a', 'con-b']);
    expect(again.map(({ outcome }) => outcome)).toEqual(['unchanged', 'unchanged']);
    expect(again[1]!.nextRuns).toEqual(created[1]!.nextRuns);

    const suspended = schedule('con-a', 'converging', { schedule: '0 30 4 * * SUN', suspend: true });
    const changed = await converge('converging', [suspended, second]);
    expect(changed.map(({ outcome }) => outcome)).toEqual(['configured', 'unchanged']);
    expect(changed[0]!.nextRuns).toEqual([]);
    expect((await describeSchedule('con-a')).state.paused).toBe(true);
    expect((await describeSchedule('con-a')).spec.calendars?.[0]).toMatchObject({
      hour: [{ start: 4, end: 4 }],
      dayOfWeek: [{ start: 'SUNDAY', end: 'SUNDAY' }],
      comment: '0 30 4 * * SUN',
    });

    const removed = await converge('converging', [second], ['con-a', 'never-was']);
    expect(removed.map(({ name, outcome }) => [name, outcome])).toEqual([
      ['con-b', 'unchanged'],
      ['con-a', 'deleted'],
      ['never-was', 'deleted'],
    ]);
    await expect(describeSchedule('con-a')).rejects.toThrow(/not found/i);
    await eventually('the list to be up to date', async () => {
      const told = await converge('converging', []);
      return told.length === 1 && told[0]!.outcome === 'deleted';
    });
    await expect(describeSchedule('con-b')).rejects.toThrow(/not found/i);
  });

  it('F7: of somebody else, with an id of ours, are never touched, and that is a problem', async () => {
    await site('theirs');
    await temporal.client.schedule.create({
      scheduleId: walkeep.scheduleId('default', 'foreign-one'),
      spec: { intervals: [{ every: '1h' }] },
      action: { type: 'startWorkflow', workflowType: 'theirWorkflow', taskQueue: 'theirs', args: [] },
    });
    const [foreign] = await converge('theirs', [schedule('foreign-one', 'theirs')]);
    expect(foreign).toMatchObject({ outcome: 'foreign', nextRuns: [] });
    expect(foreign!.problem).toMatch(/"scheduledbackup\/default\/foreign-one".*was not made by walkeep/);
    expect(await converge('theirs', [], ['foreign-one'])).toEqual([
      { name: 'foreign-one', outcome: 'foreign', nextRuns: [] },
    ]);
    expect((await describeSchedule('foreign-one')).action.workflowType).toBe('theirWorkflow');
    // Another cluster's of walkeep's is somebody else's as well.
    const service = createScheduleService(temporal.client);
    await site('neighbour', [], { queues: ['cluster'] });
    await converge('neighbour', [schedule('shared-name', 'neighbour')]);
    const [taken] = await converge('theirs', [schedule('shared-name', 'theirs')]);
    expect(taken!.problem).toContain('belongs to the cluster "default/neighbour"');
    expect((await service.find('default', 'shared-name'))?.owner?.cluster).toBe('neighbour');
  });

  it('a schedule that never runs is refused by itself, and the others are made true', async () => {
    await site('never');
    const told = await converge('never', [
      schedule('never-a', 'never', { schedule: '0 0 0 31 2 *' }),
      schedule('never-b', 'never'),
    ]);
    expect(told.map(({ outcome }) => outcome)).toEqual(['refused', 'created']);
    expect(told[0]!.problem).toContain('never runs');
  });

  it('F5: @every goes on in step, and the newest slot is made up for, when Temporal has forgotten it', async () => {
    const every = schedule('forgotten', 'forgetful', { schedule: '@every 3s' });
    const world = await site('forgetful', [every]);
    await converge('forgetful', [every]);
    const before = (await describeSchedule('forgotten')).spec.intervals;
    await temporal.client.schedule.getHandle(walkeep.scheduleId('default', 'forgotten')).delete();
    await eventually('a slot that nothing began', async () => {
      const series = await readSeries(world.repository, 'forgotten', signal);
      return Date.now() - Date.parse(series!.since) > 7_000;
    });
    expect(await converge('forgetful', [every], ['forgotten'])).toMatchObject([{ outcome: 'created' }]);
    expect((await describeSchedule('forgotten')).spec.intervals).toEqual(before);
    await converge('forgetful', [], ['forgotten']);
    await eventually('the made-up run', async () => (await recordsOf(world, 'forgotten')).length >= 1);
  });

  it('immediate: true is one run at once, and never another, with Temporal’s state lost or not', async () => {
    const soon = schedule('soon', 'immediate', { immediate: true });
    const world = await site('immediate', [soon]);
    await converge('immediate', [soon]);
    await eventually('the backup', () =>
      [...world.outcomes.values()].some(({ phase }) => phase === 'completed'),
    );
    const record = await readSlot(world.repository, 'soon', 'immediate', signal);
    expect(record).toMatchObject({ outcome: 'ran' });
    const input = await inputOf(walkeep.backupWorkflowId('default', record!.backupName!));
    expect(input.labels).toMatchObject({ 'cnpg.io/immediateBackup': 'true' });
    await temporal.client.schedule.getHandle(walkeep.scheduleId('default', 'soon')).delete();
    await converge('immediate', [soon]);
    await converge('immediate', [soon]);
    await start({ scheduledBackup: 'soon', cluster: 'immediate', immediate: true }, 'immediate-again').then(
      (run) => run.result(),
    );
    expect(world.story.filter((line) => line.includes('copy'))).toHaveLength(1);
    await converge('immediate', []);
  });
});

describe('F6: slots of a Schedule', () => {
  it('run when due, and are skipped while the Backup before is open, naming it', async () => {
    const letGo = gate();
    const often = schedule('often', 'overlap', { schedule: '*/2 * * * * *' });
    const world = await site('overlap', [often], {
      pace: { deadline: 120 },
      copy: async ({ backupName }, options) => {
        await letGo.passed(options.signal);
        return copied(backupName);
      },
    });
    await converge('overlap', [often]);
    await eventually('a run and two slots that are skipped', async () => {
      const outcomes = (await recordsOf(world, 'often')).map(({ outcome }) => outcome);
      return outcomes.filter((outcome) => outcome === 'skipped').length >= 2;
    });
    await converge('overlap', [], ['often']);
    const records = await recordsOf(world, 'often');
    const ran = records.filter(({ outcome }) => outcome === 'ran');
    expect(ran).toHaveLength(1);
    const [{ backupName, slot }] = ran as [SlotRecord];
    expect(backupName).toBe(slotBackupName('often', new Date(slot)));
    for (const skipped of records.filter(({ outcome }) => outcome === 'skipped')) {
      expect(skipped.backupName).toBe(backupName);
      expect(skipped.reason).toContain(`"${backupName}" has not ended`);
    }
    letGo.open();
    await eventually('the end of the Backup', () => world.outcomes.get(backupName!)?.phase === 'completed');
  }, 60_000);

  it('that were due while no worker was there: the newest runs, the others are missed', async () => {
    const often = schedule('lonely', 'lonely', { schedule: '*/2 * * * * *' });
    const world = await site('lonely', [often]);
    await converge('lonely', [often]);
    await Promise.all(running.map((instance) => instance.stop()));
    running = [];
    await new Promise((resolve) => setTimeout(resolve, 7_000));
    await temporal.client.schedule.getHandle(walkeep.scheduleId('default', 'lonely')).pause();
    running.push(
      await startInstance({ connection: temporal.nativeConnection }, world, {
        cluster: 'lonely',
        instance: 'lonely-1',
        schedules: () => [often],
      }),
    );
    await eventually(
      'every slot to have an outcome',
      async () => (await recordsOf(world, 'lonely')).length >= 3,
    );
    await eventually('the runs to end', async () => {
      const { count } = await temporal.client.workflow.count(
        `WorkflowType = 'scheduledBackup' AND ExecutionStatus = 'Running' AND WorkflowId STARTS_WITH 'scheduledbackup/default/lonely'`,
      );
      return count === 0;
    });
    await converge('lonely', [], ['lonely']);
    const outcomes = (await recordsOf(world, 'lonely')).map(({ outcome }) => outcome);
    // What was decided before the worker stopped may be a run of its own.
    expect(outcomes.slice(1).filter((outcome) => outcome === 'ran').length).toBeLessThanOrEqual(1);
    expect(outcomes.filter((outcome) => outcome === 'missed').length).toBeGreaterThanOrEqual(2);
  }, 60_000);

  it('that nothing began are recorded by the audit as missed, told once, and the newest is begun', async () => {
    const often = schedule('audited', 'audited', { schedule: '*/3 * * * * *' });
    const world = await site('audited', [often]);
    await converge('audited', [often]);
    await temporal.client.schedule.getHandle(walkeep.scheduleId('default', 'audited')).pause('somebody');
    const since = new Date();
    await new Promise((resolve) => setTimeout(resolve, 9_500));
    const until = new Date();
    const input = {
      namespace: 'default',
      cluster: 'audited',
      manifest: clusterManifest('audited'),
      schedule: often,
      since: since.toISOString(),
      until: until.toISOString(),
    };
    const news = await activity('audited', 'auditSlots', input);
    expect(news.length).toBeGreaterThanOrEqual(2);
    expect(news.every(({ outcome }) => outcome === 'missed')).toBe(true);
    expect(await activity('audited', 'auditSlots', input)).toEqual([]);
    await eventually('a record of the newest', async () => {
      const records = await recordsOf(world, 'audited');
      const newest = records.at(-1);
      return newest !== undefined && !news.some(({ slot }) => slot === newest.slot);
    });
    const slots = (await recordsOf(world, 'audited')).map(({ slot }) => slot);
    expect(new Set(slots).size).toBe(slots.length);
    await converge('audited', [], ['audited']);
  }, 60_000);
});
