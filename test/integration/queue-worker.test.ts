import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { freePort, type Process, startProcess } from '../support/processes.ts';
import { serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeEachMajor, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { startSite, type Site } from '../support/walkeep.ts';

const QUEUES = ['proofs', 'deletion'];

describeEachMajor(
  'a worker of queues, without a PostgreSQL and without an applied manifest',
  (major) => {
    let temporal: TemporalServer;
    let site: Site;
    let worker: Process;
    let metrics: string;

    beforeAll(async () => {
      temporal = await startTemporal();
      site = await startSite({ temporal, major });
      await site.backup('there-before');
      metrics = `127.0.0.1:${await freePort()}`;
      const sdkMetrics = `127.0.0.1:${await freePort()}`;
      const queues = [...QUEUES, ...QUEUES].flatMap((queue) => ['--queue', queue]);
      worker = startProcess(
        join(repositoryRoot, 'scripts/walkeep'),
        ['worker', ...queues, '--metrics', metrics, '--temporal-metrics', sdkMetrics],
        {
          user: serverUser,
          env: { ...process.env, ...temporal.environment, WALKEEP_STATE: makeTempDir('state') },
        },
      );
      await until('it to be ready', async () => (await fetch(`http://${metrics}/readyz`)).ok, {
        timeoutMs: 60_000,
      });
      const served = await (await fetch(`http://${sdkMetrics}/metrics`)).text();
      expect(served).toContain('temporal_');
    });

    async function run(type: string, workflowId: string, input: object): Promise<unknown> {
      const named = ['--type', type, '--task-queue', 'walkeep', '--workflow-id', workflowId];
      const answer = await temporal.cli(
        'workflow',
        'execute',
        ...named,
        '--input',
        JSON.stringify(input),
        '-o',
        'json',
      );
      return (JSON.parse(answer) as { result: unknown }).result;
    }
    /** Whether this worker did something in a run: every event says who. */
    const hadAHand = async (workflowId: string): Promise<boolean> =>
      (await temporal.cli('workflow', 'show', '-w', workflowId, '-o', 'json')).includes('proofs+deletion@');

    it('polls its queues and no other', async () => {
      const pollers = async (queue: string): Promise<string> =>
        temporal.cli('task-queue', 'describe', '--task-queue', queue, '-o', 'json');
      for (const queue of QUEUES)
        await until(`a poller of ${queue}`, async () => (await pollers(queue)).includes('proofs+deletion@'));
      expect(await pollers('walkeep')).not.toContain('proofs+deletion@');
      const text = await (await fetch(`http://${metrics}/metrics`)).text();
      expect(text).toMatch(/walkeep_temporal_connected\{queues="proofs,deletion"\} 1/);
      expect(text).not.toContain('walkeep_archive');
    });

    it('C6: proves a backup with nothing but what comes with the work', async () => {
      const workflowId = 'verification/default/main/elsewhere';
      const found = await run('restoreVerification', workflowId, {
        cluster: 'main',
        queue: 'proofs',
        scratchDirectory: makeTempDir('scratch'),
      });
      expect(found, JSON.stringify(found)).toMatchObject({ result: 'verified' });
      expect(await hadAHand(workflowId)).toBe(true);
    });

    it('sweeps where the policy says', async () => {
      await site.machine.apply({
        apiVersion: 'walkeep.io/v1',
        kind: 'BackupPolicy',
        metadata: { name: 'elsewhere' },
        spec: { clusters: ['main'], retention: { queue: 'deletion' } },
      });
      const workflowId = 'sweep/default/main/elsewhere';
      // What was applied reaches the cluster's worker a moment later.
      await until('a sweep elsewhere', async () => {
        const report = await run('retentionSweep', workflowId, { cluster: 'main', dryRun: true });
        expect(report).toMatchObject({ dryRun: true });
        return hadAHand(workflowId);
      });
    });

    it('F2: ends in order', async () => {
      expect(await worker.stop('SIGTERM', 60_000)).toMatchObject({ code: 0 });
    });
  },
  [15],
);
