import { fileURLToPath } from 'node:url';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { bundleWorkflowCode, DefaultLogger, Worker, type InjectedSinks } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as walkeep from '../../workflows/interface.ts';
import { capacityQuery } from '../../workflows/permits.ts';
import { eventually, startTemporal } from './fake-cluster.ts';
import type { CopySinks, simulated, SimulatedInput } from './simulated-backup.ts';

const CLUSTERS = 300;
const CAP = 8;

describe('a fleet under a cap', () => {
  let temporal: TestWorkflowEnvironment;
  let worker: Worker;
  let run: Promise<void>;
  const copying = { backup: new Set<string>(), restore: new Set<string>() };
  const began: { workflowId: string; at: number }[] = [];
  let most = 0;
  let tooMany = 0;

  beforeAll(async () => {
    temporal = await startTemporal();
    const sinks: InjectedSinks<CopySinks> = {
      copies: {
        begin: {
          fn(_info, { workflowId, kind }) {
            copying[kind].add(workflowId);
            began.push({ workflowId, at: Date.now() });
            most = Math.max(most, copying.backup.size);
            if (kind === 'backup' && copying.backup.size > CAP) tooMany += 1;
          },
          callDuringReplay: false,
        },
        end: {
          fn: (_info, { workflowId, kind }) => void copying[kind].delete(workflowId),
          callDuringReplay: false,
        },
      },
    };
    worker = await Worker.create({
      connection: temporal.nativeConnection,
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowBundle: await bundleWorkflowCode({
        workflowsPath: fileURLToPath(new URL('./simulated-backup.ts', import.meta.url)),
        logger: new DefaultLogger('ERROR'),
      }),
      sinks,
      shutdownGraceTime: 200,
    });
    run = worker.run();
  }, 60_000);
  afterAll(async () => {
    worker?.shutdown();
    await run;
    await temporal?.teardown();
  });

  const start = (n: number | 'now', kind: SimulatedInput['kind'], copyMs: number) =>
    temporal.client.workflow.start<typeof simulated>('simulated', {
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowId: `${kind}/default/cluster-${n}`,
      args: [{ kind, perStore: CAP, copyMs }],
    });

  it('F1, F4: 300 clusters due in the same minute: never above 8, none starved, a restore within 5 s', async () => {
    const handles = await Promise.all(
      Array.from({ length: CLUSTERS }, (_, n) => start(n, 'backup', 100 + (n % 7) * 30)),
    );
    await eventually('a good part of the backups', () => began.length > 60, 60_000);
    const askedAt = Date.now();
    const restore = await start('now', 'restore', 500);
    await restore.result();
    const restored = began.find(({ workflowId }) => workflowId.startsWith('restore/'));
    expect((restored?.at ?? Infinity) - askedAt).toBeLessThan(5_000);
    await Promise.all(handles.map((handle) => handle.result()));

    expect(tooMany).toBe(0);
    expect(most).toBe(CAP);
    expect(new Set(began.map(({ workflowId }) => workflowId)).size).toBe(CLUSTERS + 1);
    const id = walkeep.capacityWorkflowId('store/fleet');
    const queue = temporal.client.workflow.getHandle(id);
    await eventually('all places to be free', async () => {
      const { holders, waiting, granted } = await queue.query(capacityQuery);
      return holders.length === 0 && waiting.length === 0 && granted === CLUSTERS + 1;
    });
    // F4: whatever the fleet's size, no history grows with it.
    let runs = 0;
    for await (const { runId } of temporal.client.workflow.list({ query: `WorkflowId = '${id}'` })) {
      const { events } = await temporal.client.workflow.getHandle(id, runId).fetchHistory();
      expect(events?.length).toBeLessThan(2_000);
      runs += 1;
    }
    expect(runs).toBeGreaterThan(1);
  }, 120_000);
});
