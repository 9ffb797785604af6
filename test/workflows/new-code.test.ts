import { WithStartWorkflowOperation } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { Worker, type WorkflowBundle } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import * as walkeep from '../../workflows/interface.ts';
import {
  archiveReport,
  backupManifest,
  clusterManifest,
  copied,
  eventually,
  gate,
  marksOf,
  newWorld,
  startInstance,
  startTemporal,
  workflowBundle,
} from './fake-cluster.ts';
import { oldBundle } from './old-bundle.ts';

describe('restarted with new code in the middle', () => {
  let temporal: TestWorkflowEnvironment;
  let old: WorkflowBundle;

  beforeAll(async () => {
    [temporal, old] = await Promise.all([startTemporal(), oldBundle()]);
  }, 90_000);
  afterAll(async () => temporal?.teardown());

  /** How many patches a run has recorded. */
  async function patches(workflowId: string): Promise<number> {
    return marksOf(await temporal.client.workflow.getHandle(workflowId).fetchHistory()).length;
  }

  it('F3: the keeper, a Backup in its copy, and archiving go on with what they have begun', async () => {
    const { client } = temporal;
    const cluster = 'renewed';
    const world = newWorld();
    const held = gate();
    let health: walkeep.ArchiveHealth = 'working';
    const start = async (bundle?: WorkflowBundle) =>
      startInstance({ connection: temporal.nativeConnection }, world, {
        cluster,
        instance: `${cluster}-1`,
        pace: { archivingReport: 2 },
        archiving: async () => archiveReport(`${cluster}-1`, { health }),
        copy: async ({ backupName }, { signal }) => {
          if (backupName === 'long') await held.passed(signal);
          return copied(backupName);
        },
        ...(bundle && { bundle }),
      });
    const keeperId = walkeep.clusterWorkflowId('default', cluster);
    const keeper = client.workflow.getHandle(keeperId);
    const apply = async (...backups: string[]) =>
      client.workflow.executeUpdateWithStart(walkeep.applyUpdate, {
        args: [
          {
            cluster: clusterManifest(cluster),
            backups: backups.map((name) => backupManifest(name, cluster)),
          },
        ],
        startWorkflowOperation: new WithStartWorkflowOperation(walkeep.WORKFLOW.cluster, {
          workflowId: keeperId,
          taskQueue: walkeep.WORKFLOW_QUEUE,
          workflowIdConflictPolicy: 'USE_EXISTING',
          args: [clusterManifest(cluster)],
        }),
      });
    const phases = async (): Promise<Record<string, string>> => {
      const { backups } = await keeper.query(walkeep.clusterStatusQuery);
      return Object.fromEntries(backups.map(({ name, phase }) => [name, phase]));
    };

    const before = await start(old);
    await apply('short', 'long', 'queued');
    await eventually('the second Backup is copied', () =>
      world.story.some((line) => line.includes('copy long')),
    );
    await eventually('archiving is observed', async () =>
      Boolean((await keeper.query(walkeep.clusterStatusQuery)).archiving),
    );
    await before.stop();
    expect(await patches(keeperId)).toBe(0);

    const after = await start();
    held.open();
    await eventually('all Backups have ended', async () => {
      const known = await phases();
      return ['short', 'long', 'queued'].every((name) => known[name] === 'completed');
    });
    // Each was copied; the one in the middle again at most, since its worker was stopped.
    expect(world.story.filter((line) => line.includes('copy short'))).toHaveLength(1);
    expect(await apply('new')).toMatchObject({ objects: expect.arrayContaining([expect.anything()]) });
    await eventually(
      'a Backup of the new code has ended',
      async () => (await phases())['new'] === 'completed',
    );
    health = 'failing';
    await eventually('the keeper hears of archiving', async () =>
      (await keeper.query(walkeep.clusterStatusQuery)).problems.some((text) => /archiv/i.test(text)),
    );
    // No workflow task has failed, which would be tried again for ever.
    for (const id of [
      keeperId,
      ...['short', 'long', 'queued', 'new'].map((name) => walkeep.backupWorkflowId('default', name)),
    ]) {
      const history = await client.workflow.getHandle(id).fetchHistory();
      expect(history.events?.filter((event) => event.workflowTaskFailedEventAttributes)).toEqual([]);
      // The marks of patches come late in it: a worker that has forgotten it begins from the start.
      await Worker.runReplayHistory({ workflowBundle: await workflowBundle() }, history, id);
    }
    expect(await patches(keeperId)).toBeGreaterThan(0);
    await keeper.terminate();
    await client.workflow.getHandle(walkeep.walArchivingWorkflowId('default', cluster)).terminate();
    await after.stop();
  }, 90_000);

  it('F2, F3: an unwritten outcome that a worker of an older version heard of is written by the next one', async () => {
    const { client } = temporal;
    const cluster = 'unwritten';
    const world = newWorld();
    const written: string[] = [];
    let isDenied = true;
    const denied = () => new BackupError('access-denied', 'the key may not write');
    const start = async (bundle?: WorkflowBundle) =>
      startInstance({ connection: temporal.nativeConnection }, world, {
        cluster,
        instance: `${cluster}-1`,
        copy: () => Promise.reject(denied()),
        backup: {
          writeOutcome: async ({ backupName }) => {
            if (isDenied) throw denied();
            written.push(backupName);
          },
        },
        ...(bundle && { bundle }),
      });
    const keeperId = walkeep.clusterWorkflowId('default', cluster);
    const keeper = client.workflow.getHandle(keeperId);
    const before = await start(await oldBundle('outcomes'));
    await client.workflow.executeUpdateWithStart(walkeep.applyUpdate, {
      args: [{ cluster: clusterManifest(cluster), backups: [backupManifest('by-hand', cluster)] }],
      startWorkflowOperation: new WithStartWorkflowOperation(walkeep.WORKFLOW.cluster, {
        workflowId: keeperId,
        taskQueue: walkeep.WORKFLOW_QUEUE,
        workflowIdConflictPolicy: 'USE_EXISTING',
        args: [clusterManifest(cluster)],
      }),
    });
    await eventually('the Backup has failed', async () => {
      const { backups } = await keeper.query(walkeep.clusterStatusQuery);
      return backups.some(({ phase }) => phase === 'failed');
    });
    isDenied = false;
    await before.stop();
    expect(written).toEqual([]);

    const after = await start();
    await keeper.signal(walkeep.instanceSignal, after.facts());
    await eventually('the keeper has written it', () => written.length > 0);
    await keeper.signal(walkeep.instanceSignal, after.facts());
    const history = await keeper.fetchHistory();
    expect(marksOf(history)).toContain('outcomes');
    expect(history.events?.filter((event) => event.workflowTaskFailedEventAttributes)).toEqual([]);
    await Worker.runReplayHistory({ workflowBundle: await workflowBundle() }, history, keeperId);
    expect(written).toEqual(['by-hand']);
    await keeper.terminate();
    await client.workflow.getHandle(walkeep.walArchivingWorkflowId('default', cluster)).terminate();
    await after.stop();
  }, 90_000);
});
