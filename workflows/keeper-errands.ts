import {
  ApplicationFailure,
  getExternalWorkflowHandle,
  isCancellation,
  ParentClosePolicy,
  proxyActivities,
  startChild,
  WorkflowIdReusePolicy,
} from '@temporalio/workflow';
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import type { BaseBackupActivities } from '../activities/base-backup.ts';
import type { ClusterActivities } from '../activities/cluster.ts';
import type { HoldActivities } from '../activities/holds.ts';
import type { ScheduleActivities } from '../activities/schedules.ts';
import { isBackupError } from '../core/errors.ts';
import { clusterQueue, WORKFLOW_QUEUE } from './interface.ts';

/** Whose keeper it is. */
export interface Own {
  readonly namespace: string;
  readonly cluster: string;
}

/** Questions and small orders to a worker: one that is away is missed within a quarter of a minute. */
export function workerErrands(taskQueue: string, summary: string) {
  return proxyActivities<ClusterActivities>({
    taskQueue,
    summary,
    scheduleToStartTimeout: '15 seconds',
    startToCloseTimeout: '30 seconds',
    scheduleToCloseTimeout: '1 minute',
  });
}

/** What any worker of the cluster does with the repository or with Temporal's Schedules. */
export function clusterErrands({ namespace, cluster }: Own, summary: string) {
  return proxyActivities<ScheduleActivities>({
    taskQueue: clusterQueue(namespace, cluster),
    summary,
    scheduleToStartTimeout: '1 minute',
    startToCloseTimeout: '2 minutes',
    scheduleToCloseTimeout: '5 minutes',
  });
}

/** A hold in the repository. Few attempts: the keeper waits for them, and tries again by itself. */
export function holdErrands({ namespace, cluster }: Own, summary: string) {
  return proxyActivities<HoldActivities>({
    taskQueue: clusterQueue(namespace, cluster),
    summary,
    scheduleToStartTimeout: '1 minute',
    startToCloseTimeout: '2 minutes',
    scheduleToCloseTimeout: '5 minutes',
    retry: { maximumAttempts: 3 },
  });
}

/** How a Backup ended, as the repository has it. */
export function outcomeErrands({ namespace, cluster }: Own, backupName: string) {
  return proxyActivities<BaseBackupActivities>({
    taskQueue: clusterQueue(namespace, cluster),
    summary: `how ${backupName} ended`,
    scheduleToStartTimeout: '15 seconds',
    startToCloseTimeout: '1 minute',
    scheduleToCloseTimeout: '2 minutes',
  });
}

/**
 * Starts a workflow that outlives the keeper's run, or finds the one that runs already.
 *
 * @returns whether it was started; only then `onEnd` hears of its end
 */
export async function begin(
  { namespace, cluster }: Own,
  type: string,
  workflowId: string,
  input: object,
  onEnd: (error?: unknown) => void = ignore,
): Promise<boolean> {
  try {
    const child = await startChild(type, {
      workflowId,
      args: [input],
      taskQueue: WORKFLOW_QUEUE,
      parentClosePolicy: ParentClosePolicy.ABANDON,
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      staticSummary: `${type} of ${namespace}/${cluster}`,
    });
    void child.result().then(() => onEnd(), onEnd);
    return true;
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    return false;
  }
}

/** Asks it to end; one that has ended already is as good. */
export async function cancelWorkflow(workflowId: string): Promise<void> {
  await getExternalWorkflowHandle(workflowId).cancel().catch(ignore);
}

/** Refusals in Temporal's form, so that they fail the request and not the workflow task. */
export function refusing<Result>(decide: () => Result): Result {
  try {
    return decide();
  } catch (error) {
    if (isBackupError(error)) throw ApplicationFailure.nonRetryable(error.message, error.code, error.hint);
    throw error;
  }
}

export function rethrowCancellation(error: unknown): void {
  if (isCancellation(error)) throw error;
}

export function ignore(): void {}

/** RFC 3339, to the second. */
export function now(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}
