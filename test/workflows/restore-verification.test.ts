import { WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { Worker } from '@temporalio/worker';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { failureInterceptor } from '../../activities/failure.ts';
import {
  createRestoreVerificationActivities,
  type RestoreVerificationPorts,
  type VerifyBackupInput,
} from '../../activities/restore-verification.ts';
import { BackupError } from '../../core/errors.ts';
import type { Verification } from '../../core/verification.ts';
import {
  scheduledVerificationSchema,
  type ScheduledVerificationManifest,
} from '../../manifests/scheduled-verification.ts';
import { JobRegistry } from '../../operations/job-registry.ts';
import type { VerifyOutcome } from '../../operations/verify-backup.ts';
import * as walkeep from '../../workflows/interface.ts';
import {
  clusterManifest,
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
let running: { stop(): Promise<void> }[] = [];

beforeAll(async () => {
  temporal = await startTemporal();
}, 60_000);
afterAll(async () => {
  await temporal?.teardown();
});
afterEach(async () => {
  await Promise.all(running.map((one) => one.stop()));
  running = [];
});

function evidence({ request }: VerifyBackupInput, more: Partial<Verification> = {}): Verification {
  return {
    version: 1,
    id: request.id,
    ...(request.name !== undefined && { name: request.name }),
    namespace: request.namespace,
    cluster: request.cluster,
    result: 'verified',
    startedAt: '2026-11-24T04:00:00Z',
    endedAt: '2026-11-24T04:01:00Z',
    host: 'test',
    instance: 'x-1',
    backupId: '20261124T020000',
    target: { kind: 'end' },
    rtoSeconds: 12,
    storedBytes: 100,
    walkeepVersion: '0',
    checks: [{ name: 'target', result: 'passed' }],
    warnings: [],
    ...more,
  };
}

interface Fake extends Omit<FakeInstance, 'activities'> {
  readonly verify?: RestoreVerificationPorts['verify'];
  readonly rules?: ScheduledVerificationManifest;
  readonly recordFails?: boolean;
}

/** Verifications as a worker has them, which tell what they were asked for. */
function portsOf(fake: Fake, jobs: JobRegistry) {
  const asked: VerifyBackupInput[] = [];
  const recorded: Verification[] = [];
  const ports: RestoreVerificationPorts = {
    jobs,
    askServer: async () => {},
    findRules: async (_, name) => (fake.rules?.metadata.name === name ? fake.rules : undefined),
    verify: async (input, options) => {
      asked.push(input);
      return fake.verify
        ? fake.verify(input, options)
        : { verification: evidence(input), mayTryAgain: false };
    },
    record: async ({ verification }) => {
      if (fake.recordFails) throw new BackupError('access-denied', 'the key may not write');
      recorded.push(verification);
    },
  };
  return { ports, asked, recorded };
}

async function instance(fake: Fake, world: World = worldWith(fake.cluster, fake.instance)) {
  const jobs = new JobRegistry();
  const { ports, asked, recorded } = portsOf(fake, jobs);
  const activities = createRestoreVerificationActivities(ports);
  const started: RunningInstance = await startInstance({ connection: temporal.nativeConnection }, world, {
    ...fake,
    activities,
  });
  running.push(started);
  return { asked, recorded, jobs, started };
}

function worldWith(cluster: string, name: string): World {
  const world = newWorld();
  world.manifests.set(`${name}:default/${cluster}`, { manifest: clusterManifest(cluster), revision: 1 });
  return world;
}

function rules(name: string, cluster: string, spec: object = {}): ScheduledVerificationManifest {
  return scheduledVerificationSchema.parse({
    apiVersion: 'walkeep.io/v1',
    kind: 'ScheduledVerification',
    metadata: { name, namespace: 'default' },
    spec: { cluster: { name: cluster }, schedule: '0 0 4 * * 0', ...spec },
  });
}

let starts = 0;
/** As a person starts it: nothing but JSON. */
async function start(input: unknown): Promise<WorkflowHandle> {
  starts += 1;
  return temporal.client.workflow.start(walkeep.WORKFLOW.restoreVerification, {
    taskQueue: walkeep.WORKFLOW_QUEUE,
    workflowId: walkeep.verificationWorkflowId('default', 'x', `test-${starts}`),
    args: [input],
  });
}

async function failureOf(handle: WorkflowHandle): Promise<ApplicationFailure> {
  const error: unknown = await handle.result().catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(WorkflowFailedError);
  const { cause } = error as WorkflowFailedError;
  expect(cause).toBeInstanceOf(ApplicationFailure);
  return cause as ApplicationFailure;
}

describe('restoreVerification', () => {
  it('C6: with nothing but the cluster it verifies the latest backup to the end, records the evidence and returns it', async () => {
    const { asked, recorded } = await instance({ cluster: 'alone', instance: 'alone-1' });
    const handle = await start({ cluster: 'alone', backup: null });
    const result = (await handle.result()) as Verification;
    expect(result).toMatchObject({ result: 'verified', cluster: 'alone' });
    expect(recorded).toEqual([result]);
    expect(asked).toHaveLength(1);
    expect(asked[0]?.request).toMatchObject({
      backup: 'latest',
      target: 'end',
      readBudget: null,
      checks: { manifest: true, pageChecksums: true, amcheck: false, queries: [] },
      scratch: { directory: null, minFree: '20%' },
    });
    expect(result.id).toMatch(/^\d{8}T\d{6}-[0-9a-f]{6}$/);
    expect(asked[0]?.manifest.metadata.name).toBe('alone');
    const described = await handle.describe();
    const attribute = (name: keyof typeof walkeep.SEARCH_ATTRIBUTE) =>
      described.typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE[name]);
    expect([attribute('operation'), attribute('phase'), attribute('backup')]).toEqual([
      'verification',
      'verified',
      '20261124T020000',
    ]);
    expect(await handle.query(walkeep.verificationStatusQuery)).toEqual({
      phase: 'ended',
      verification: result,
    });
  });

  it('the rules of a ScheduledVerification hold; what is given besides wins; another queue does the work', async () => {
    const jobs = new JobRegistry();
    const other = portsOf({ cluster: 'ruled', instance: 'other' }, jobs);
    const worker = await Worker.create({
      connection: temporal.nativeConnection,
      taskQueue: 'verifiers',
      activities: createRestoreVerificationActivities(other.ports),
      interceptors: { activity: [failureInterceptor()] },
    });
    const run = worker.run();
    running.push({
      async stop() {
        worker.shutdown();
        await run;
      },
    });
    const weekly = rules('weekly', 'ruled', {
      backup: 'stalest',
      target: 'random',
      queue: 'verifiers',
      readBudget: '30%',
      deadline: '2h',
      scratch: { directory: '/srv/scratch' },
      checks: { amcheck: 'sample', queries: [{ database: 'app', sql: 'select 1', expect: '1' }] },
    });
    const own = await instance({ cluster: 'ruled', instance: 'ruled-1', rules: weekly });
    const handle = await start({
      cluster: 'ruled',
      scheduledVerification: 'weekly',
      checks: { amcheck: 'full' },
      backup: 'oldest',
    });
    const result = (await handle.result()) as Verification;
    expect(own.asked).toEqual([]);
    expect(other.asked[0]?.request).toMatchObject({
      name: 'weekly',
      backup: 'oldest',
      target: 'random',
      readBudget: '30%',
      scratch: { directory: '/srv/scratch', minFree: '20%' },
      checks: { manifest: true, amcheck: 'full', queries: [{ database: 'app' }] },
    });
    expect(Number.parseInt(other.asked[0]?.request.deadline ?? '', 10)).toBeGreaterThan(7100);
    // By the cluster's own worker, which has the key to write.
    expect(own.recorded).toEqual([result]);
  });

  it('C6: damage is a finding: the run completes with it', async () => {
    const check = { name: 'hashes', result: 'failed', object: 'data.tar.gz', detail: 'wrong hash' } as const;
    const { recorded } = await instance({
      cluster: 'bad',
      instance: 'bad-1',
      verify: async (input) => ({
        verification: evidence(input, { result: 'damaged', checks: [check], error: 'hashes: wrong hash' }),
        mayTryAgain: false,
      }),
    });
    const result = (await (await start({ cluster: 'bad' })).result()) as Verification;
    expect(result).toMatchObject({ result: 'damaged', checks: [check] });
    expect(recorded).toEqual([result]);
  });

  it('C6: what may pass is tried again, three times at most; it ends as not tried, with all that was read', async () => {
    const { asked, recorded } = await instance({
      cluster: 'away',
      instance: 'away-1',
      verify: async (input) => ({
        verification: evidence(input, { result: 'not-tried', error: 'the store does not answer' }),
        mayTryAgain: true,
      }),
    });
    const result = (await (await start({ cluster: 'away' })).result()) as Verification;
    expect(result).toMatchObject({ result: 'not-tried', storedBytes: 300 });
    expect(asked.map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
    // The same backup and moment every time, under one id.
    expect(new Set(asked.map(({ request }) => `${request.seed} ${request.id}`)).size).toBe(1);
    expect(recorded).toEqual([result]);
  });

  it('C6: a failure that comes before any evidence is “not tried”, and says why', async () => {
    const { recorded } = await instance({
      cluster: 'keyless',
      instance: 'keyless-1',
      verify: async () => {
        throw new BackupError('secret-missing', 'secret "keys" is not here');
      },
    });
    const result = (await (await start({ cluster: 'keyless' })).result()) as Verification;
    expect(result).toMatchObject({
      result: 'not-tried',
      error: expect.stringContaining('secret "keys"') as unknown,
    });
    expect(recorded).toEqual([result]);
  });

  it('C6: no worker for the queue is “not tried”, and names it', async () => {
    const { recorded } = await instance({ cluster: 'lonely', instance: 'lonely-1' });
    const handle = await start({ cluster: 'lonely', queue: 'nobody-is-here', waitForWorkerSeconds: 1 });
    const result = (await handle.result()) as Verification;
    expect(result).toMatchObject({
      result: 'not-tried',
      error: expect.stringContaining('nobody-is-here') as unknown,
    });
    expect(recorded).toEqual([result]);
  });

  it('evidence that can’t be stored is the result all the same, and says so', async () => {
    await instance({ cluster: 'readonly', instance: 'readonly-1', recordFails: true });
    const result = (await (await start({ cluster: 'readonly' })).result()) as Verification;
    expect(result.result).toBe('verified');
    expect(result.warnings.join()).toContain('the key may not write');
  });

  it('F2: a worker that ends in the middle is replaced by another, which does it', async () => {
    const world = worldWith('moving', 'moving-1');
    const held = gate();
    const verify: RestoreVerificationPorts['verify'] = async (input, { signal, onProgress }) => {
      onProgress({ phase: 'restoring', doneBytes: 1, totalBytes: 2 });
      await held.passed(signal);
      return { verification: evidence(input), mayTryAgain: false };
    };
    const first = await instance({ cluster: 'moving', instance: 'moving-1', verify }, world);
    const handle = await start({ cluster: 'moving' });
    await eventually('the verification runs', () => first.asked.length === 1);
    running = [];
    await Promise.all([first.started.stop(), first.jobs.stopAll(new Error('the worker stops'))]);
    held.open();
    const second = await instance({ cluster: 'moving', instance: 'moving-1', verify }, world);
    const result = (await handle.result()) as Verification;
    expect(result.result).toBe('verified');
    expect(second.asked.map(({ attempt, request }) => [attempt, request.id])).toEqual([[1, result.id]]);
  });

  it('cancelled, it waits until the work has ended, and records nothing', async () => {
    let hasEnded = false;
    const { asked, recorded } = await instance({
      cluster: 'stopped',
      instance: 'stopped-1',
      verify: (_, { signal }) =>
        new Promise<VerifyOutcome>((_resolve, reject) => {
          signal.addEventListener('abort', () =>
            setTimeout(() => {
              hasEnded = true;
              reject(signal.reason as Error);
            }, 300),
          );
        }),
    });
    const handle = await start({ cluster: 'stopped' });
    await eventually('the verification runs', () => asked.length === 1);
    await handle.cancel();
    await expect(handle.result()).rejects.toBeInstanceOf(WorkflowFailedError);
    expect(hasEnded).toBe(true);
    expect((await handle.describe()).status.name).toBe('CANCELLED');
    expect(recorded).toEqual([]);
  });

  it.for([
    { input: { cluster: 7 }, says: 'field "cluster"' },
    { input: { cluster: 'x', target: 'soon' }, says: 'field "target"' },
    { input: { cluster: 'x', checks: { amchek: 'full' } }, says: 'amchek' },
    { input: { cluster: 'x', scratchDirectory: '/srv/../etc' }, says: 'field "scratchDirectory"' },
    {
      input: { cluster: 'x', target: { targetTime: '2026-01-01T00:00:00Z', targetLSN: '0/1' } },
      says: 'field "target"',
    },
  ])('refuses $input and names the field', async ({ input, says }) => {
    await instance({ cluster: 'x', instance: 'x-1' }, newWorld());
    const failure = await failureOf(await start(input));
    expect(failure.type).toBe('input-invalid');
    expect(failure.nonRetryable).toBe(true);
    expect(failure.message).toContain(says);
  });

  it('rules that are not applied, or of another cluster, are refused; so is a cluster nobody applied', async () => {
    await instance({ cluster: 'mine', instance: 'mine-1', rules: rules('theirs', 'another') });
    const missing = await failureOf(await start({ cluster: 'mine', scheduledVerification: 'nowhere' }));
    expect(missing).toMatchObject({
      type: 'input-invalid',
      message: expect.stringContaining('is not applied') as unknown,
    });
    const foreign = await failureOf(await start({ cluster: 'mine', scheduledVerification: 'theirs' }));
    expect(foreign.message).toContain('is of the cluster "another"');
    await instance(
      { cluster: 'unknown', instance: 'unknown-1', queues: ['cluster', 'instance'] },
      newWorld(),
    );
    expect((await failureOf(await start({ cluster: 'unknown' }))).type).toBe('cluster-unknown');
  });

  it('F4: what it puts into its history is small', async () => {
    await instance({ cluster: 'small', instance: 'small-1' });
    const handle = await start({ cluster: 'small' });
    await handle.result();
    const { events } = await handle.fetchHistory();
    expect(events?.length).toBeLessThan(60);
  });

  it('the keeper hears of the evidence', async () => {
    await instance({ cluster: 'kept', instance: 'kept-1' });
    const keeper = await temporal.client.workflow.start(walkeep.WORKFLOW.cluster, {
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowId: walkeep.clusterWorkflowId('default', 'kept'),
      args: [clusterManifest('kept')],
    });
    try {
      const result = (await (await start({ cluster: 'kept' })).result()) as Verification;
      await eventually('the keeper to know of it', async () => {
        const { lastVerification } = await keeper.query(walkeep.clusterStatusQuery);
        return lastVerification?.id === result.id;
      });
    } finally {
      await keeper.terminate();
    }
  });
});
