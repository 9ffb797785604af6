import { WithStartWorkflowOperation, type Client } from '@temporalio/client';
import { setTimeout as delay } from 'node:timers/promises';
import type { InstanceFacts, Pace } from '../../activities/cluster.ts';
import type { Verification } from '../../core/verification.ts';
import {
  archiveReport,
  clusterManifest,
  newWorld,
  quiet,
  startInstance,
  type RunningInstance,
} from '../../test/workflows/fake-cluster.ts';
import * as walkeep from '../../workflows/interface.ts';
import { costOf, sumOf, type HistoryEvents, type RunCost } from './billable-actions.ts';
import type { Measured } from './cost-of-a-day.ts';
import { startQuietTemporal } from './quiet-temporal.ts';

/** No such thing within a measurement. */
const NEVER = 1_000_000;
const QUIET_MS = 1_500;

interface Run {
  readonly workflowId: string;
  readonly type: string;
  readonly events: HistoryEvents;
}

/** Runs the real workflows on a development server and counts. */
export async function measureCosts(): Promise<Measured> {
  quiet();
  const temporal = await startQuietTemporal();
  const { client, nativeConnection: connection } = temporal;
  const instances: RunningInstance[] = [];
  /** A cluster of its own for each measurement, so that nothing else of it happens meanwhile. */
  const begin = async (cluster: string, pace: Partial<Pace>): Promise<RunningInstance> => {
    const { sweep = NEVER, audit = NEVER, missed = NEVER, ...others } = pace;
    const facts = (): InstanceFacts => ({ ...instance.facts(), keeperPace: { sweep, audit, missed } });
    const instance: RunningInstance = await startInstance({ connection }, newWorld(), {
      cluster,
      instance: `${cluster}-1`,
      // One of the process does the workflows of all.
      queues: instances.length === 0 ? ['workflows', 'cluster', 'instance'] : ['cluster', 'instance'],
      pace: { archivingReport: NEVER, ...others },
      archiving: async () => archiveReport(`${cluster}-1`),
      clusterPorts: { instanceFacts: async () => facts() },
      activities: verificationActivities(cluster),
    });
    instances.push(instance);
    await client.workflow.executeUpdateWithStart(walkeep.applyUpdate, {
      args: [{ cluster: clusterManifest(cluster) }],
      startWorkflowOperation: new WithStartWorkflowOperation(walkeep.WORKFLOW.cluster, {
        workflowId: walkeep.clusterWorkflowId('default', cluster),
        taskQueue: walkeep.WORKFLOW_QUEUE,
        workflowIdConflictPolicy: 'USE_EXISTING',
        args: [clusterManifest(cluster)],
      }),
    });
    return { ...instance, facts };
  };

  try {
    const archivingReport = await each(client, 'reports', walkeep.archivingSignal.name, async () =>
      begin('reports', { archivingReport: 1 }),
    );
    const audit = await each(client, 'audits', walkeep.auditSignal.name, async () =>
      begin('audits', { audit: 3 }),
    );

    const still = await begin('backups', {});
    await settled(client, 'backups');
    const keeper = client.workflow.getHandle(walkeep.clusterWorkflowId('default', 'backups'));
    const idleSeconds = lastTimerSeconds((await keeper.fetchHistory()).events ?? []);
    const instanceReport = await difference(client, 'backups', async () => {
      await keeper.signal(walkeep.instanceSignal, still.facts());
    });
    const backup = await difference(client, 'backups', async () => {
      await runToItsEnd(client, walkeep.WORKFLOW.scheduledBackup, 'scheduled/default/backups');
    });
    const runs = await runsOf(client, 'backups');
    const itsRuns = runs.filter(
      ({ type }) => type === walkeep.WORKFLOW.baseBackup || type === walkeep.WORKFLOW.scheduledBackup,
    );
    const verification = await difference(client, 'backups', async () => {
      const workflowId = walkeep.verificationWorkflowId('default', 'backups', 'by-hand');
      await runToItsEnd(client, walkeep.WORKFLOW.restoreVerification, workflowId);
    });
    return {
      backup,
      backupEvents: sumOf(itsRuns.map(({ events }) => costOf(events))).events,
      audit,
      verification,
      archivingReport,
      instanceReport,
      idleSeconds,
    };
  } finally {
    await Promise.all(instances.map((instance) => instance.stop()));
    await temporal.stop();
  }
}

async function runToItsEnd(client: Client, type: string, workflowId: string): Promise<void> {
  const input = { cluster: 'backups' };
  await client.workflow.execute(type, { taskQueue: walkeep.WORKFLOW_QUEUE, workflowId, args: [input] });
}

/** All runs of a cluster: its name is in every id. */
async function runsOf(client: Client, cluster: string): Promise<Run[]> {
  const runs: Run[] = [];
  for await (const { workflowId, runId, type } of client.workflow.list()) {
    if (!workflowId.includes(`/${cluster}`)) continue;
    const { events } = await client.workflow.getHandle(workflowId, runId).fetchHistory();
    runs.push({ workflowId, type, events: events ?? [] });
  }
  return runs;
}

const costOfRuns = (runs: readonly Run[]): RunCost => sumOf(runs.map(({ events }) => costOf(events)));

/** Waits until nothing happens any more. */
async function settled(client: Client, cluster: string): Promise<RunCost> {
  for (let before = -1; ;) {
    const cost = costOfRuns(await runsOf(client, cluster));
    if (cost.events === before && cost.events > 0) return cost;
    before = cost.events;
    await delay(QUIET_MS);
  }
}

/** What something costs, with all that follows of it. */
async function difference(client: Client, cluster: string, work: () => Promise<void>): Promise<RunCost> {
  const before = await settled(client, cluster);
  await work();
  return minus(await settled(client, cluster), before);
}

const ROUNDS = 4;

/**
 * What one round costs of something that comes again and again, and of which the keeper hears by this signal: from the
 * second on, since the first has what is done only once.
 */
async function each(
  client: Client,
  cluster: string,
  signalName: string,
  work: () => Promise<unknown>,
): Promise<RunCost> {
  await work();
  const heard = (runs: readonly Run[]): number =>
    runs
      .filter(({ type }) => type === walkeep.WORKFLOW.cluster)
      .flatMap(({ events }) => events)
      .filter((event) => event.workflowExecutionSignaledEventAttributes?.signalName === signalName).length;
  const reached = async (wanted: number): Promise<{ rounds: number; cost: RunCost }> => {
    for (;;) {
      const runs = await runsOf(client, cluster);
      const rounds = heard(runs);
      if (rounds >= wanted) return { rounds, cost: costOfRuns(runs) };
      await delay(100);
    }
  };
  const first = await reached(2);
  const last = await reached(first.rounds + ROUNDS);
  const total = minus(last.cost, first.cost);
  const rounds = last.rounds - first.rounds;
  return {
    events: Math.ceil(total.events / rounds),
    actions: Math.ceil((total.actions / rounds) * 10) / 10,
    byKind: total.byKind,
  };
}

function minus(after: RunCost, before: RunCost): RunCost {
  const kinds = Object.entries(after.byKind).map(
    ([kind, number]) => [kind, number - (before.byKind[kind] ?? 0)] as const,
  );
  return {
    events: after.events - before.events,
    actions: after.actions - before.actions,
    byKind: Object.fromEntries(kinds.filter(([, number]) => number > 0)),
  };
}

/** What the keeper of a cluster with nothing to do sleeps at most. */
function lastTimerSeconds(events: HistoryEvents): number {
  const [last] = events.flatMap(({ timerStartedEventAttributes: timer }) => (timer ? [timer] : [])).slice(-1);
  return Math.max(1, Number(last?.startToFireTimeout?.seconds ?? 86_400));
}

function verificationActivities(cluster: string): object {
  const verification: Verification = {
    version: 1,
    id: '20261124T020000',
    namespace: 'default',
    cluster,
    result: 'verified',
    startedAt: '2026-11-24T02:00:00Z',
    endedAt: '2026-11-24T02:10:00Z',
    host: 'test',
    instance: `${cluster}-1`,
    target: { kind: 'end' },
    walkeepVersion: '0',
    checks: [],
    warnings: [],
  };
  return {
    loadVerificationRules: async () => null,
    verifyBackup: async () => ({ verification, mayTryAgain: false }),
    recordVerification: async () => {},
  };
}
