import {
  ActivityCancellationType,
  isCancellation,
  log,
  patched,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  TemporalFailure,
  workflowInfo,
} from '@temporalio/workflow';
import type { Caps, ClusterActivities, InstanceFacts } from '../activities/cluster.ts';
import type { PlannedRestore, RestoreActivities, RestoreRequest } from '../activities/restore.ts';
import { messageOf } from '../core/errors.ts';
import { failureOf, troubleOf } from './failures.ts';
import { parseRestoreInput } from './inputs.ts';
import * as walkeep from './interface.ts';
import { factsTable } from './page.ts';
import { Permits, wantsOf, type HeldPermits } from './permits.ts';
import { makeFindable } from './search-attributes.ts';

const DEFAULT_WAIT_FOR_WORKER_SECONDS = 600;

/**
 * Restores into the data directory of one instance, on that machine, and leaves it ready to be started. It waits,
 * visibly, until a worker of the target cluster is there.
 */
export async function restore(input: walkeep.RestoreInput): Promise<walkeep.RestoreOutcome> {
  const request = parseRestoreInput(input);
  let status: walkeep.RestoreStatus = { phase: 'waiting-for-worker' };
  setHandler(walkeep.restoreStatusQuery, () => status, { description: 'How the restore stands.' });
  const permits = new Permits();
  const become = (next: Partial<walkeep.RestoreStatus>) => {
    status = { ...status, ...next };
    setCurrentDetails(page(request.cluster, status));
  };
  become({});

  let queue = walkeep.clusterQueue(request.namespace, request.cluster);
  try {
    const instance = await targetInstance(request);
    queue = walkeep.instanceQueue(request.namespace, request.cluster, instance.instance);
    become({ phase: 'planning', instance: instance.instance });
    makeFindable(instance.searchAttributes, {
      cluster: request.cluster,
      namespace: request.namespace,
      operation: 'restore',
    });
    const what: RestoreRequest = {
      namespace: request.namespace,
      cluster: request.cluster,
      instance: instance.instance,
      ...(request.source !== undefined && { source: request.source }),
      ...(request.recoveryTarget && { recoveryTarget: request.recoveryTarget }),
      ...(request.acceptEnd !== undefined && { acceptEnd: request.acceptEnd }),
      ...(request.tablespaces && { tablespaces: request.tablespaces }),
    };
    const work = restoreWork(queue);
    if (request.bootstrap && (await work.inspectTarget(what)) === 'occupied') {
      become({ phase: 'restored' });
      return { outcome: 'already-there' };
    }
    const planned: PlannedRestore = await work.planRestore(what);
    become({ phase: 'restoring', backupId: planned.plan.backupId, endsAt: planned.plan.endsAt });
    const { firstExecutionRunId: runId } = workflowInfo();
    const held = await aheadOfBackups(permits, planned.caps, instance.host);
    try {
      const result = await restoreCopy(queue, planned).performRestore({ ...what, planned, runId });
      become({ phase: 'restored' });
      return { outcome: 'restored', ...result };
    } finally {
      await held?.release();
    }
  } catch (error) {
    if (!(error instanceof TemporalFailure)) throw error;
    const trouble = troubleOf(error, queue);
    become({ phase: 'failed', error: trouble?.message ?? messageOf(error) });
    throw trouble ? failureOf(trouble) : error;
  }
}

const ASK_FOR_PLACE_MS = 20_000;
const LONGEST_RESTORE_MS = 7 * 86_400_000;

/**
 * Where backups are limited, a restore counts among them, and waits for none: its place is given at once, and if it is
 * not, it goes without.
 */
async function aheadOfBackups(
  permits: Permits,
  caps: Caps | undefined,
  host: string,
): Promise<HeldPermits | undefined> {
  const wants = wantsOf(caps, host);
  if (wants.length === 0 || !patched('capacity')) return undefined;
  try {
    const now = Date.now();
    return await permits.acquire(wants, {
      kind: 'restore',
      deadline: now + ASK_FOR_PLACE_MS,
      expiresAt: now + LONGEST_RESTORE_MS,
    });
  } catch (error) {
    if (isCancellation(error)) throw error;
    log.warn(`the restore goes without a place: ${String(error)}`);
    return undefined;
  }
}

async function targetInstance(request: ReturnType<typeof parseRestoreInput>): Promise<InstanceFacts> {
  const { namespace, cluster, instance } = request;
  const { describeInstance } = proxyActivities<ClusterActivities>({
    taskQueue:
      instance === undefined
        ? walkeep.clusterQueue(namespace, cluster)
        : walkeep.instanceQueue(namespace, cluster, instance),
    summary: 'wait for the worker of the target',
    scheduleToStartTimeout: (request.waitForWorkerSeconds ?? DEFAULT_WAIT_FOR_WORKER_SECONDS) * 1000,
    startToCloseTimeout: '30 seconds',
  });
  return describeInstance({ namespace, cluster });
}

function restoreWork(queue: string) {
  return proxyActivities<RestoreActivities>({
    taskQueue: queue,
    summary: 'plan the recovery',
    scheduleToStartTimeout: '10 minutes',
    startToCloseTimeout: '10 minutes',
    scheduleToCloseTimeout: '1 hour',
    heartbeatTimeout: '1 minute',
    retry: { initialInterval: '2 seconds', maximumInterval: '1 minute' },
  });
}

function restoreCopy(queue: string, { plan }: PlannedRestore) {
  return proxyActivities<RestoreActivities>({
    activityId: 'restore',
    taskQueue: queue,
    summary: `restore ${plan.backupId}, ${plan.endsAt}`,
    scheduleToStartTimeout: '1 hour',
    scheduleToCloseTimeout: '7 days',
    heartbeatTimeout: '2 minutes',
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { initialInterval: '5 seconds', maximumInterval: '1 minute' },
  });
}

function page(cluster: string, status: walkeep.RestoreStatus): string {
  return [
    `### Restore of ${cluster}: ${status.phase}`,
    factsTable([
      ['instance', status.instance],
      ['backup', status.backupId],
      ['end of recovery', status.endsAt],
      ['error', status.error],
    ]),
  ].join('\n');
}
