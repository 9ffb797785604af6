import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { WorkflowFailedError } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { SweepInput } from '../../activities/retention-sweep.ts';
import { BackupError } from '../../core/errors.ts';
import type { SweepReport } from '../../core/sweep-report.ts';
import { defaultPolicy } from '../../manifests/desire.ts';
import { withinPayload } from '../../operations/sweep-report.ts';
import * as walkeep from '../../workflows/interface.ts';
import { sweepPage } from '../../workflows/sweep-page.ts';
import {
  clusterManifest,
  eventually,
  newWorld,
  startInstance,
  startTemporal,
  type World,
} from './fake-cluster.ts';

const POLICY = {
  ...defaultPolicy('pg'),
  retention: { ...defaultPolicy('pg').retention, queue: 'walkeep/deleters' },
};

function aReport(more: Partial<SweepReport> = {}): SweepReport {
  return {
    dryRun: true,
    at: '2026-11-24T10:00:00Z',
    backups: [
      { backupId: '20261124T020000', decision: 'keep', reasons: ['among the last 7'] },
      { backupId: '20261101T020000', decision: 'delete', reasons: ['no rule keeps it'], sizeBytes: 5 },
    ],
    wal: [
      {
        timeline: 1,
        first: '000000010000000000000001',
        last: '000000010000000000000009',
        count: 9,
        decision: 'delete',
        reason: 'no backup needs it',
      },
    ],
    leftovers: [],
    warnings: [],
    counts: { kept: 1, marked: 0, waiting: 0, deletedBackups: 1, deletedWal: 9, deletedBytes: 5 },
    ...more,
  };
}

describe('retentionSweep', () => {
  let env: TestWorkflowEnvironment;
  let world: World;
  let stops: (() => Promise<void>)[] = [];
  let count = 0;

  beforeAll(async () => {
    env = await startTemporal();
  });
  afterEach(async () => {
    for (const stop of stops) await stop();
    stops = [];
  });
  afterAll(() => env?.teardown());

  async function start(fake: Partial<Parameters<typeof startInstance>[2]> = {}): Promise<string> {
    world = newWorld();
    const cluster = `pg${++count}`;
    world.manifests.set(`${cluster}-1:default/${cluster}`, {
      manifest: clusterManifest(cluster),
      revision: 1,
    });
    const running = await startInstance({ connection: env.nativeConnection }, world, {
      cluster,
      instance: `${cluster}-1`,
      ...fake,
    });
    stops.push(() => running.stop());
    return cluster;
  }

  const begin = (cluster: string, more: Partial<walkeep.RetentionSweepInput> = {}) =>
    env.client.workflow.start(walkeep.WORKFLOW.retentionSweep, {
      workflowId: walkeep.sweepWorkflowId('default', cluster),
      taskQueue: walkeep.WORKFLOW_QUEUE,
      args: [{ cluster, ...more }],
    });

  it('shows the plan, deletes, and returns what was done, started with {"cluster": …} alone', async () => {
    const inputs: SweepInput[] = [];
    const cluster = await start({
      sweep: {
        plan: async (input) => {
          inputs.push(input);
          return { report: aReport(), hasWork: true };
        },
        perform: async (input, { onProgress }) => {
          inputs.push(input);
          onProgress({ phase: 'deleting', deletedBackups: 0, deletedWal: 0, deletedBytes: 0 });
          return aReport({ dryRun: false });
        },
      },
    });
    const handle = await begin(cluster);
    expect(await handle.result()).toMatchObject({
      dryRun: false,
      counts: { deletedBackups: 1, deletedWal: 9 },
    });
    expect(await handle.query(walkeep.sweepQuery)).toMatchObject({ dryRun: false });
    expect(inputs).toHaveLength(2);
    expect(inputs[1]).toMatchObject({ cluster, namespace: 'default', dryRun: false, hasPolicy: false });
    expect(inputs[1]?.manifest.metadata.name).toBe(cluster);
    const described = await handle.describe();
    expect(described.typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.operation)).toBe('sweep');
    expect(described.typedSearchAttributes.get(walkeep.SEARCH_ATTRIBUTE.phase)).toBe('done');
    const { events } = await handle.fetchHistory();
    expect(events?.length).toBeLessThan(60);
    const pauses = (events ?? []).flatMap(({ activityTaskScheduledEventAttributes: scheduled }) =>
      /^(plan|perform)Sweep$/.test(scheduled?.activityType?.name ?? '')
        ? [Number(scheduled?.retryPolicy?.maximumInterval?.seconds)]
        : [],
    );
    // Each attempt is an action: what is not answered for a day is asked some hundred times.
    expect(pauses).toEqual([900, 900]);
  });

  it('D4: a dry run deletes nothing, and neither does a run with nothing to do', async () => {
    const cluster = await start({
      sweep: {
        plan: async () => ({ report: aReport(), hasWork: true }),
        perform: () => Promise.reject(new Error('no')),
      },
    });
    expect(await (await begin(cluster, { dryRun: true })).result()).toMatchObject({ dryRun: true });
    for (const stop of stops.splice(0)) await stop();
    const idle = await start();
    expect(await (await begin(idle)).result()).toMatchObject({ dryRun: false });
    expect(world.story).toEqual([`${idle}-1: plan a sweep`]);
  });

  it('S6: what deletes runs on the queue that the policy names', async () => {
    const seen: SweepInput[] = [];
    const cluster = await start({
      clusterPorts: {
        readHeld: async () => ({ policy: { spec: POLICY } as never, schedules: [], verifications: [] }),
      },
      sweep: { plan: () => Promise.reject(new Error('the archiver can not delete')) },
    });
    const deleters = newWorld();
    const running = await startInstance({ connection: env.nativeConnection }, deleters, {
      cluster,
      instance: 'deleter',
      queues: [],
      moreQueues: ['walkeep/deleters'],
      sweep: {
        plan: async (input) => {
          seen.push(input);
          return { report: aReport(), hasWork: true };
        },
      },
    });
    stops.push(() => running.stop());
    await (await begin(cluster)).result();
    expect(deleters.story).toEqual(['deleter: sweep']);
    expect(seen[0]).toMatchObject({ hasPolicy: true, policy: { retention: { queue: 'walkeep/deleters' } } });
  });

  it('F1: waits for the lease of another one, and then does its work', async () => {
    let tried = 0;
    const cluster = await start({
      sweep: {
        plan: async () => ({ report: aReport(), hasWork: true }),
        perform: async () => {
          tried += 1;
          if (tried === 1) throw new BackupError('lease-held', 'the lease on sweep is taken');
          return aReport({ dryRun: false });
        },
      },
    });
    expect(await (await begin(cluster)).result()).toMatchObject({ dryRun: false });
    expect(tried).toBe(2);
  });

  it('D3: tells the keeper what it did, and why it did nothing', async () => {
    let fails = false;
    const cluster = await start({
      sweep: {
        plan: async () => {
          if (fails) throw new BackupError('access-denied', 'the key may not list');
          return { report: aReport({ refused: 'the clocks differ' }), hasWork: false };
        },
      },
    });
    const keeper = await env.client.workflow.start(walkeep.WORKFLOW.cluster, {
      workflowId: walkeep.clusterWorkflowId('default', cluster),
      taskQueue: walkeep.WORKFLOW_QUEUE,
      args: [clusterManifest(cluster)],
    });
    const lastRefusal = async () => (await keeper.query(walkeep.clusterStatusQuery)).lastSweep?.refused;
    await (await begin(cluster)).result();
    await eventually('the keeper knows', async () => (await lastRefusal()) === 'the clocks differ');
    fails = true;
    const failed = (await begin(cluster)).result();
    await expect(failed).rejects.toBeInstanceOf(WorkflowFailedError);
    await expect(failed).rejects.toMatchObject({ cause: { type: 'access-denied', nonRetryable: true } });
    await eventually('the keeper knows', async () => (await lastRefusal()) === 'the key may not list');
    await keeper.terminate();
  });

  it('refuses an input it does not know, naming the field', async () => {
    const cluster = await start();
    const failed = (await begin(cluster, { dryrun: true } as never)).result();
    await expect(failed).rejects.toMatchObject({ cause: { type: 'input-invalid' } });
  });
});

describe('the page of a sweep', () => {
  it('shows each backup with its fate and why, and the WAL', () => {
    const page = sweepPage(
      { namespace: 'default', cluster: 'pg', dryRun: true },
      'done',
      aReport({ warnings: ['one | thing'] }),
    );
    expect(page).toContain('| 20261101T020000 |  | delete | no rule keeps it |');
    expect(page).toContain(
      '| 000000010000000000000001 … 000000010000000000000009 | 9 | delete | no backup needs it |',
    );
    expect(page).toContain('### Dry run of a sweep of pg: done');
  });

  it('F4: stays small, however many backups there are', () => {
    const backups = Array.from({ length: 20_000 }, (_, index) => ({
      backupId: `2026${String(index).padStart(4, '0')}T000000`,
      decision: index === 19_999 ? ('delete' as const) : ('keep' as const),
      reasons: ['r'.repeat(2000), 's'.repeat(2000)],
    }));
    const cut = withinPayload(
      aReport({ backups, warnings: Array.from({ length: 500 }, () => 'w'.repeat(900)) }),
    );
    expect(JSON.stringify(cut).length).toBeLessThan(48 * 1024);
    expect(cut.backups.some(({ decision }) => decision === 'delete')).toBe(true);
    expect(cut.warnings[0]).toContain('leaves out');
  });
});
