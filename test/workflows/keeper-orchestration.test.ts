import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { WithStartWorkflowOperation, type WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { Worker } from '@temporalio/worker';
import type { BackupStatus } from '../../core/backup-status.ts';
import { BackupError } from '../../core/errors.ts';
import { backupPolicySchema } from '../../manifests/backup-policy.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { scheduledVerificationSchema } from '../../manifests/scheduled-verification.ts';
import * as walkeep from '../../workflows/interface.ts';
import { newKeeper } from '../../workflows/keeper-state.ts';
import {
  backupManifest,
  clusterManifest,
  emptyAudit,
  eventually,
  gate,
  newWorld,
  startInstance,
  startTemporal,
  marksOf,
  workflowBundle,
  type FakeInstance,
  type RunningInstance,
  type World,
} from './fake-cluster.ts';

let temporal: TestWorkflowEnvironment;
let running: RunningInstance[] = [];
const keepers: string[] = [];

beforeAll(async () => {
  temporal = await startTemporal();
}, 60_000);
afterAll(async () => {
  await temporal?.teardown();
});
afterEach(async () => {
  for (const name of keepers.splice(0)) {
    for (const id of [
      walkeep.clusterWorkflowId('default', name),
      walkeep.walArchivingWorkflowId('default', name),
      walkeep.auditWorkflowId('default', name),
      walkeep.sweepWorkflowId('default', name),
    ]) {
      await handleOf(id)
        .terminate()
        .catch(() => {});
    }
  }
  await Promise.all(running.map((instance) => instance.stop()));
  running = [];
});

function handleOf(workflowId: string): WorkflowHandle {
  return temporal.client.workflow.getHandle(workflowId);
}

async function instance(world: World, fake: FakeInstance): Promise<void> {
  running.push(await startInstance({ connection: temporal.nativeConnection }, world, fake));
}

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

function schedule(name: string, cluster: string, text: string, more: Record<string, unknown> = {}) {
  return scheduledBackupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'ScheduledBackup',
    metadata: { name },
    spec: { schedule: text, cluster: { name: cluster }, ...more },
  });
}

function policy(name: string, cluster: string, spec: Record<string, unknown> = {}) {
  return backupPolicySchema.parse({
    apiVersion: 'walkeep.io/v1',
    kind: 'BackupPolicy',
    metadata: { name },
    spec: { clusters: [cluster], ...spec },
  });
}

function scheduleOf(name: string) {
  return temporal.client.schedule.getHandle(walkeep.scheduleId('default', name));
}

const exists = (name: string) =>
  scheduleOf(name)
    .describe()
    .then(
      () => true,
      () => false,
    );

describe('the keeper', () => {
  it('F6: makes schedules true, changes them, takes them away, and with the cluster all of them', async () => {
    const world = newWorld();
    await instance(world, { cluster: 'plan', instance: 'plan-1' });
    const daily = schedule('plan-daily', 'plan', '0 0 2 * * *');
    const applied = await apply('plan', {
      cluster: clusterManifest('plan'),
      scheduledBackups: [daily, schedule('plan-weekly', 'plan', '0 0 3 * * 0')],
    });
    expect(applied.objects.map(({ kind, outcome }) => `${kind} ${outcome}`)).toEqual([
      'Cluster created',
      'ScheduledBackup created',
      'ScheduledBackup created',
    ]);
    await eventually('both are there', async () => (await exists('plan-daily')) && exists('plan-weekly'));
    const { nextRuns = [] } = await status('plan');
    expect(nextRuns.some(({ what }) => what.includes('plan-daily'))).toBe(true);

    const again = await apply('plan', { scheduledBackups: [daily] });
    expect(again.objects[0]?.outcome).toBe('unchanged');
    await apply('plan', {
      scheduledBackups: [schedule('plan-daily', 'plan', '0 0 2 * * *', { suspend: true })],
    });
    await eventually('it is paused', async () => (await scheduleOf('plan-daily').describe()).state.paused);

    const removed = await apply('plan', { remove: [{ kind: 'ScheduledBackup', name: 'plan-daily' }] });
    expect(removed.objects[0]?.outcome).toBe('deleted');
    await eventually('it is gone', async () => !(await exists('plan-daily')));
    expect(await exists('plan-weekly')).toBe(true);

    // A sweep that runs is ended with it.
    await apply('plan', { policy: policy('plan-p', 'plan') });
    const sweep = await temporal.client.workflow.start(walkeep.WORKFLOW.retentionSweep, {
      workflowId: walkeep.sweepWorkflowId('default', 'plan'),
      taskQueue: 'nobody',
      args: [{ cluster: 'plan' }],
    });
    const besides = () => world.manifests.get('plan-1:default/plan')?.besides;
    await eventually('the worker has the schedule', () => besides()?.policy !== undefined);
    await handleOf(walkeep.clusterWorkflowId('default', 'plan')).cancel();
    await eventually('the other is gone, too', async () => !(await exists('plan-weekly')));
    await eventually(
      'its worker forgets what was planned, and keeps the policy',
      () => besides()?.schedules.length === 0 && besides()?.policy?.metadata.name === 'plan-p',
    );
    await eventually('the sweep is asked to end', async () => {
      const { events } = await sweep.fetchHistory();
      return (events ?? []).some((event) => event.workflowExecutionCancelRequestedEventAttributes);
    });
    await sweep.terminate();
  });

  it('F2: writes how a Backup ended that was denied access to the repository, once that is granted', async () => {
    const world = newWorld();
    const written: string[] = [];
    let isDenied = true;
    const denied = () => new BackupError('access-denied', 'the key may not write');
    await instance(world, {
      cluster: 'denied',
      instance: 'denied-1',
      copy: () => Promise.reject(denied()),
      backup: {
        writeOutcome: async ({ backupName, status: { phase, error, startedAt, stoppedAt } }) => {
          // Its run is denied, and the keeper is not.
          if (isDenied) {
            isDenied = false;
            throw denied();
          }
          written.push(`${backupName} ${phase}: ${error ?? ''}`);
          expect([startedAt ?? stoppedAt, stoppedAt]).not.toContain(undefined);
        },
      },
    });
    await apply('denied', {
      cluster: clusterManifest('denied'),
      backups: [backupManifest('by-hand', 'denied')],
    });
    await eventually('the keeper has written it', () => written.length > 0);
    expect(written).toEqual(['by-hand failed: the key may not write']);
    const run = handleOf(walkeep.backupWorkflowId('default', 'by-hand'));
    expect((await run.describe()).status.name).toBe('FAILED');
    expect((await status('denied')).backups).toMatchObject([{ name: 'by-hand', phase: 'failed' }]);
    // Once: what comes next finds nothing to do.
    await apply('denied', { cluster: clusterManifest('denied', { instances: 2 }) });
    await eventually('it went on', async () => (await status('denied')).revision === 2);
    expect(written).toHaveLength(1);
    // Marked, so that a worker of an older version in between is no harm.
    const keeperId = walkeep.clusterWorkflowId('default', 'denied');
    const history = await handleOf(keeperId).fetchHistory();
    expect(marksOf(history)).toContain('outcomes');
    await Worker.runReplayHistory({ workflowBundle: await workflowBundle() }, history, keeperId);
  });

  it('F2: what a Backup told while the repository was asked for it stays, and is written', async () => {
    const world = newWorld();
    const asked = gate();
    await instance(world, {
      cluster: 'mute',
      instance: 'mute-1',
      facts: { keeperPace: { look: 0.2 } },
      backup: {
        findOutcome: async (_backup, signal) => {
          world.story.push('asked');
          await asked.passed(signal);
          return undefined;
        },
      },
    });
    const manifest = clusterManifest('mute');
    const begun = { fingerprint: 'f', method: 'barmanObjectStore', phase: 'running', begun: true } as const;
    keepers.push('mute');
    const keeper = await temporal.client.workflow.start(walkeep.WORKFLOW.cluster, {
      workflowId: walkeep.clusterWorkflowId('default', 'mute'),
      taskQueue: walkeep.WORKFLOW_QUEUE,
      // Carried on; the run of its Backup is gone.
      args: [manifest, { ...newKeeper(manifest), backups: [{ name: 'b', ...begun }] }],
    });
    await eventually('the repository is asked', () => world.story.includes('asked'));
    const failed: BackupStatus = { phase: 'failed', error: 'denied', stoppedAt: '2026-11-24T02:00:00Z' };
    await keeper.signal(walkeep.backupSignal, { backupName: 'b', status: failed, unwritten: true });
    await eventually('it is heard', async () => (await status('mute')).backups[0]?.phase === 'failed');
    asked.open();
    await eventually('it is written', () => world.outcomes.has('b'));
    expect(world.outcomes.get('b')).toEqual({ method: 'barmanObjectStore', backupName: 'b', ...failed });
    expect((await status('mute')).backups).toMatchObject([{ name: 'b', error: 'denied' }]);
  });

  it('F2: an outcome that can never be written keeps no other one waiting', async () => {
    const world = newWorld();
    const tried: string[] = [];
    await instance(world, {
      cluster: 'stuck',
      instance: 'stuck-1',
      backup: {
        writeOutcome: async ({ backupName }) => {
          tried.push(backupName);
          if (backupName === 'unreadable')
            throw new BackupError('format-invalid', 'unreadable.json is not a record of walkeep');
        },
      },
    });
    const manifest = clusterManifest('stuck');
    const failed = { fingerprint: 'f', phase: 'failed', error: 'denied', held: '', unwritten: true } as const;
    const ended = ['unreadable', 'b'].map((name) => ({ name, ...failed }));
    keepers.push('stuck');
    await temporal.client.workflow.start(walkeep.WORKFLOW.cluster, {
      workflowId: walkeep.clusterWorkflowId('default', 'stuck'),
      taskQueue: walkeep.WORKFLOW_QUEUE,
      args: [manifest, { ...newKeeper(manifest), ended }],
    });
    await eventually('both were tried', () => tried.includes('b'));
    expect(tried).toEqual(['unreadable', 'b']);
  });

  it('F6: a schedule that was applied takes a Backup at its time, and the keeper hears of the slot', async () => {
    const world = newWorld();
    await instance(world, { cluster: 'often', instance: 'often-1' });
    await apply('often', {
      cluster: clusterManifest('often'),
      scheduledBackups: [schedule('often-s', 'often', '*/2 * * * * *')],
    });
    await eventually('one is taken', () => world.story.some((line) => line.includes('copy often-s-')));
    await eventually('the keeper lists it', async () =>
      (await status('often')).backups.some(
        ({ name, phase }) => name.startsWith('often-s-') && phase === 'completed',
      ),
    );
    await apply('often', { remove: [{ kind: 'ScheduledBackup', name: 'often-s' }] });
  });

  it('a policy reaches every worker, a second one is refused, and a removed one is forgotten', async () => {
    const world = newWorld();
    await instance(world, { cluster: 'ruled', instance: 'ruled-1' });
    await apply('ruled', {
      cluster: clusterManifest('ruled'),
      policy: policy('p', 'ruled', { attempts: { maximum: 2 } }),
    });
    const held = () => world.manifests.get('ruled-1:default/ruled')?.besides?.policy?.spec.attempts.maximum;
    await eventually('the worker has it', () => held() === 2);
    await expect(apply('ruled', { policy: policy('q', 'ruled') })).rejects.toMatchObject({
      cause: { message: expect.stringContaining('has the BackupPolicy "p" already') as string },
    });
    await apply('ruled', { remove: [{ kind: 'BackupPolicy', name: 'p' }] });
    await eventually('it is forgotten', () => held() === undefined);
  });

  it('D3, F5: a keeper that is begun anew with the Cluster alone takes over what its workers hold, the newest of it', async () => {
    const world = newWorld();
    const held = (keepLast: number, more: object = {}) => ({
      policy: policy('p', 'lost', { retention: { keepLast } }),
      schedules: [schedule('lost-s', 'lost', '0 0 2 * * *')],
      verifications: [],
      ...more,
    });
    const store = (name: string, revision: number, besides: ReturnType<typeof held>) =>
      world.manifests.set(`${name}:default/lost`, { manifest: clusterManifest('lost'), revision, besides });
    store('lost-1', 3, held(5));
    store('lost-2', 7, held(99));
    await instance(world, { cluster: 'lost', instance: 'lost-1', facts: { keeperPace: { sweep: 1 } } });
    await apply('lost', { cluster: clusterManifest('lost', { instances: 2 }) });
    const keepLast = async () => {
      const desire = await handleOf(walkeep.clusterWorkflowId('default', 'lost')).query(walkeep.desireQuery);
      return desire.policy?.spec.retention.keepLast;
    };
    await eventually('it is taken over', async () => (await keepLast()) === 5);
    await eventually('with its schedule', () => exists('lost-s'));
    await instance(world, { cluster: 'lost', instance: 'lost-2', queues: ['instance'] });
    const second = running.at(-1)!;
    await handleOf(walkeep.clusterWorkflowId('default', 'lost')).signal(
      walkeep.instanceSignal,
      second.facts(),
    );
    await eventually('what is newer counts', async () => (await keepLast()) === 99);
    const of = (name: string) => world.manifests.get(`${name}:default/lost`);
    await eventually('both hold it', () =>
      ['lost-1', 'lost-2'].every(
        (name) =>
          of(name)?.manifest.spec.instances === 2 &&
          of(name)?.besides?.policy?.spec.retention.keepLast === 99,
      ),
    );
    expect(await exists('lost-s')).toBe(true);
    // What was taken back stays away, whoever comes with it.
    await apply('lost', { remove: [{ kind: 'BackupPolicy', name: 'p' }] });
    store('lost-2', 500, held(99));
    await handleOf(walkeep.clusterWorkflowId('default', 'lost')).signal(
      walkeep.instanceSignal,
      second.facts(),
    );
    await eventually('it is replaced', () => of('lost-2')?.besides?.policy === undefined);
    await apply('lost', { remove: [{ kind: 'ScheduledBackup', name: 'lost-s' }] });
  });

  it('D3: a worker that was away is asked when it comes, though others were told several revisions meanwhile', async () => {
    const world = newWorld();
    const besides = {
      policy: policy('p', 'away', { retention: { keepLast: 99 } }),
      schedules: [schedule('away-s', 'away', '0 0 2 * * *')],
      verifications: [],
    };
    world.manifests.set('away-1:default/away', { manifest: clusterManifest('away'), revision: 3, besides });
    await instance(world, { cluster: 'away', instance: 'away-2' });
    for (const instances of [1, 2, 3, 4])
      await apply('away', { cluster: clusterManifest('away', { instances }) });
    const of = (name: string) => world.manifests.get(`${name}:default/away`);
    await eventually('the other one holds it', () => (of('away-2')?.revision ?? 0) >= 4);
    await instance(world, { cluster: 'away', instance: 'away-1', queues: ['instance'] });
    const late = running.at(-1)!;
    await handleOf(walkeep.clusterWorkflowId('default', 'away')).signal(walkeep.instanceSignal, late.facts());
    await eventually('both hold what it held', () =>
      ['away-1', 'away-2'].every(
        (name) =>
          of(name)?.manifest.spec.instances === 4 &&
          of(name)?.besides?.policy?.spec.retention.keepLast === 99 &&
          of(name)?.besides?.schedules.length === 1,
      ),
    );
    await apply('away', { remove: [{ kind: 'ScheduledBackup', name: 'away-s' }] });
  });

  it('D3, F3: a keeper of 0.1.0, carried on by new code, takes over what waited on its worker', async () => {
    const world = newWorld();
    const besides = { policy: policy('p', 'up'), schedules: [], verifications: [] };
    const manifest = clusterManifest('up');
    world.manifests.set('up-1:default/up', { manifest, revision: 1, besides });
    await instance(world, { cluster: 'up', instance: 'up-1' });
    const { bornAt: _born, ...carried } = newKeeper(manifest);
    keepers.push('up');
    // As 0.1.0 left it, which had never heard of schedules.
    await temporal.client.workflow.start(walkeep.WORKFLOW.cluster, {
      workflowId: walkeep.clusterWorkflowId('default', 'up'),
      taskQueue: walkeep.WORKFLOW_QUEUE,
      args: [manifest, carried],
    });
    await eventually('it is taken over', async () => {
      const desire = await handleOf(walkeep.clusterWorkflowId('default', 'up')).query(walkeep.desireQuery);
      return desire.policy?.metadata.name === 'p' && desire.doubt === undefined;
    });
    expect(world.manifests.get('up-1:default/up')?.besides?.policy?.metadata.name).toBe('p');
  });

  it('D3: nothing is swept, and nothing forgotten, while a worker can not read the policy it holds', async () => {
    const world = newWorld();
    const problem = 'the BackupPolicy "p" kept on this host can’t be read';
    let isDamaged = true;
    const besides = { schedules: [], verifications: [] };
    await instance(world, {
      cluster: 'torn',
      instance: 'torn-1',
      // What can't be read is not held.
      facts: { keeperPace: { sweep: 1 }, fingerprint: '' },
      clusterPorts: { readHeld: async () => (isDamaged ? { ...besides, problem } : besides) },
    });
    world.manifests.set('torn-1:default/torn', {
      manifest: clusterManifest('torn', { instances: 2 }),
      revision: 4,
    });
    await apply('torn', { cluster: clusterManifest('torn'), backups: [backupManifest('torn-b', 'torn')] });
    await eventually('the Backup is done', () => world.outcomes.get('torn-b')?.phase === 'completed');
    await eventually('it is shown', async () => (await status('torn')).problems.join().includes(problem));
    const { doubt } = await handleOf(walkeep.clusterWorkflowId('default', 'torn')).query(walkeep.desireQuery);
    expect(doubt).toBe(problem);
    expect(world.story.filter((line) => line.includes('sweep'))).toEqual([]);
    expect(world.manifests.get('torn-1:default/torn')?.besides).toBeUndefined();
    // Whoever knows the policy applies it again.
    isDamaged = true;
    await apply('torn', { policy: policy('p', 'torn', { retention: { keepLast: 3 } }) });
    await eventually(
      'the worker holds it',
      () => world.manifests.get('torn-1:default/torn')?.besides?.policy !== undefined,
    );
    await eventually('sweeps begin', () => world.story.some((line) => line.includes('plan a sweep')));
  });

  it('D1: no sweep is begun while a hold that was asked for is not placed', async () => {
    const world = newWorld();
    await instance(world, {
      cluster: 'holds',
      instance: 'holds-1',
      facts: { keeperPace: { sweep: 1 } },
      activities: {
        holdBackup: async () => {
          world.story.push('hold: it is tried');
          throw ApplicationFailure.nonRetryable('the store is away', 'access-denied');
        },
      },
    });
    const plain = backupManifest('holds-b', 'holds');
    const annotated = (text: string) => ({
      ...plain,
      metadata: { ...plain.metadata, annotations: { 'walkeep.io/hold': text } },
    });
    await apply('holds', { cluster: clusterManifest('holds'), backups: [annotated('')] });
    await eventually('it is shown', async () =>
      (await status('holds')).problems.join().includes('holds-b: the store is away'),
    );
    const desire = () => handleOf(walkeep.clusterWorkflowId('default', 'holds')).query(walkeep.desireQuery);
    expect((await desire()).doubt).toContain('the hold of Backup "holds-b"');
    await sleep(2_500);
    expect(world.story.filter((line) => line.includes('sweep'))).toEqual([]);
    expect(world.story.filter((line) => line.startsWith('hold: '))).toHaveLength(1);
  });

  it('D1: a hold that came too late is told, and keeps no sweep waiting for ever', async () => {
    const world = newWorld();
    await instance(world, {
      cluster: 'late',
      instance: 'late-1',
      activities: {
        holdBackup: async () => {
          throw ApplicationFailure.nonRetryable('it is being deleted already', 'backup-unusable');
        },
      },
    });
    const plain = backupManifest('late-b', 'late');
    const held = { ...plain, metadata: { ...plain.metadata, annotations: { 'walkeep.io/hold': 'why' } } };
    await apply('late', { cluster: clusterManifest('late'), backups: [held] });
    await eventually('it is shown', async () =>
      (await status('late')).problems.join().includes('"late-b" came too late: it is being deleted'),
    );
    await eventually('it is swept', () => world.story.some((line) => line.includes('plan a sweep')));
  });

  it('after a Backup it audits the archive and sweeps, and shows what they found', async () => {
    const world = newWorld();
    await instance(world, {
      cluster: 'cycle',
      instance: 'cycle-1',
      audit: { audit: async () => emptyAudit({ segments: 42 }) },
    });
    await apply('cycle', {
      cluster: clusterManifest('cycle'),
      backups: [backupManifest('cycle-b', 'cycle')],
    });
    await eventually('the audit is known', async () => (await status('cycle')).audit?.segments === 42);
    await eventually('the sweep ran', async () => world.story.some((line) => line.includes('sweep')));
  });

  it('D1: a Backup that is annotated with a hold is held when it has ended, and released with the annotation', async () => {
    const world = newWorld();
    await instance(world, { cluster: 'held', instance: 'held-1' });
    const plain = backupManifest('held-b', 'held');
    const annotated = {
      ...plain,
      metadata: { ...plain.metadata, annotations: { 'walkeep.io/hold': 'before the migration' } },
    };
    await apply('held', { cluster: clusterManifest('held'), backups: [annotated] });
    await eventually('it is held', () => world.story.includes('held-1: hold held-b'));
    expect((await apply('held', { backups: [annotated] })).objects[0]?.outcome).toBe('unchanged');
    expect((await apply('held', { backups: [plain] })).objects[0]?.outcome).toBe('configured');
    await eventually('it is released', () => world.story.includes('held-1: release held-b'));
    expect(world.story.filter((line) => line.includes('copy'))).toHaveLength(1);
  });

  it('A6: a hole that nobody can fill asks for a Backup by itself, once', async () => {
    const world = newWorld();
    await instance(world, {
      cluster: 'holey',
      instance: 'holey-1',
      facts: { keeperPace: { audit: 2, sweep: 3600, missed: 60 } },
      audit: { audit: async () => emptyAudit({ needsBackup: true }) },
    });
    await apply('holey', { cluster: clusterManifest('holey') });
    await eventually('a Backup was taken', () =>
      world.story.some((line) => line.includes('copy holey-gap-')),
    );
    await eventually('and two more audits passed', async () => {
      const history = await handleOf(walkeep.clusterWorkflowId('default', 'holey')).fetchHistory();
      const begun = (history.events ?? []).filter(
        (event) =>
          event.startChildWorkflowExecutionInitiatedEventAttributes?.workflowType?.name === 'walAudit',
      );
      return begun.length >= 3;
    });
    expect(world.story.filter((line) => line.includes('copy holey-gap-'))).toHaveLength(1);
  });

  it('starts a verification when it is due, and the phase tells whether something needs a person', async () => {
    const world = newWorld();
    await instance(world, { cluster: 'proof', instance: 'proof-1' });
    const verification = scheduledVerificationSchema.parse({
      apiVersion: 'walkeep.io/v1',
      kind: 'ScheduledVerification',
      metadata: { name: 'proof-v' },
      spec: { schedule: '*/3 * * * * *', cluster: { name: 'proof' } },
    });
    await apply('proof', { cluster: clusterManifest('proof'), verifications: [verification] });
    const id = walkeep.verificationWorkflowId('default', 'proof', 'proof-v');
    await eventually('it is started', () =>
      handleOf(id)
        .describe()
        .then(
          () => true,
          () => false,
        ),
    );
    await eventually('the keeper can be found by its phase', async () => {
      const { typedSearchAttributes } = await handleOf(
        walkeep.clusterWorkflowId('default', 'proof'),
      ).describe();
      return ['protected', 'needs-attention'].includes(
        typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.phase) ?? '',
      );
    });
    await apply('proof', { remove: [{ kind: 'ScheduledVerification', name: 'proof-v' }] });
    await handleOf(id)
      .terminate()
      .catch(() => {});
  });
});
