import {
  ActivityCancellationType,
  getExternalWorkflowHandle,
  isCancellation,
  log,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  TemporalFailure,
  workflowInfo,
} from '@temporalio/workflow';
import type { ClusterActivities, ClusterFacts } from '../activities/cluster.ts';
import type { RetentionSweepActivities, SweepInput } from '../activities/retention-sweep.ts';
import { messageOf } from '../core/errors.ts';
import type { SweepReport } from '../core/sweep-report.ts';
import { failureOf, troubleOf } from './failures.ts';
import { parseRetentionSweepInput } from './inputs.ts';
import * as walkeep from './interface.ts';
import { makeFindable } from './search-attributes.ts';
import { sweepPage, type SweepPhase } from './sweep-page.ts';

const WAIT_FOR_WORKER = '10 minutes';
/** Each attempt is paid for, and a keeper or a store may be away for a day. */
const RETRY = { initialInterval: '5 seconds', maximumInterval: '15 minutes' } as const;

/**
 * Plans, shows the plan, and does it: marks what no rule keeps any more, and deletes what was marked a grace period ago
 * and still is not kept. What is deleted is decided once more, under the lease, where it is deleted; a run that is
 * interrupted anywhere is finished by the next one.
 */
export async function retentionSweep(input: walkeep.RetentionSweepInput): Promise<SweepReport> {
  const request = parseRetentionSweepInput(input);
  let report: SweepReport | undefined;
  let phase: SweepPhase = 'waiting-for-worker';
  let facts: ClusterFacts | undefined;
  setHandler(walkeep.sweepQuery, () => report ?? null, {
    description: 'The plan, and once it is done what was done.',
  });
  const become = (next: SweepPhase, error?: string) => {
    phase = next;
    setCurrentDetails(sweepPage(request, phase, report, error));
    // Each of these is an action that is paid for: so that the end can be found, and what takes long.
    if (facts && next !== 'planning') makeFindable(facts.instance.searchAttributes, { phase });
  };
  become(phase);

  const own = walkeep.clusterQueue(request.namespace, request.cluster);
  let queue = own;
  try {
    facts = await firstLook(request, own);
    queue = facts.policy?.retention.queue ?? own;
    const { namespace, cluster, dryRun } = request;
    makeFindable(facts.instance.searchAttributes, {
      namespace,
      cluster,
      operation: 'sweep',
      phase: 'planning',
    });
    const what: SweepInput = {
      ...request,
      manifest: facts.manifest,
      ...(facts.policy && { policy: facts.policy }),
      hasPolicy: facts.hasPolicy ?? false,
    };
    become('planning');
    const planned = await planning(queue, facts).planSweep(what);
    report = planned.report;
    if (!dryRun && planned.hasWork) {
      become('deleting');
      const { firstExecutionRunId: runId } = workflowInfo();
      report = await deleting(queue, facts, report).performSweep({ ...what, runId });
    } else report = { ...report, dryRun };
    become('done');
  } catch (error) {
    if (!(error instanceof TemporalFailure)) throw error;
    if (isCancellation(error)) throw error;
    const trouble = troubleOf(error, queue);
    const why = trouble?.message ?? messageOf(error.cause ?? error);
    become('failed', why);
    if (!request.dryRun) await tellKeeper(request, refused(report, why));
    throw trouble ? failureOf(trouble) : error;
  }
  if (!request.dryRun) await tellKeeper(request, report);
  return report;
}

type Request = ReturnType<typeof parseRetentionSweepInput>;

/** For the keeper: nothing was decided, and why. What was deleted before the failure is in the repository's graves. */
function refused(report: SweepReport | undefined, why: string): SweepReport {
  const none = { kept: 0, marked: 0, waiting: 0, deletedBackups: 0, deletedWal: 0, deletedBytes: 0 };
  const { kept, waiting } = report?.counts ?? none;
  return {
    dryRun: false,
    at: new Date().toISOString(),
    refused: why,
    backups: [],
    wal: [],
    leftovers: [],
    warnings: [],
    counts: { ...none, kept, waiting },
  };
}

/** Loads the applied manifest and policy from whichever worker of the cluster answers. */
async function firstLook({ namespace, cluster }: Request, taskQueue: string): Promise<ClusterFacts> {
  const { loadCluster } = proxyActivities<ClusterActivities>({
    taskQueue,
    summary: 'load the applied manifest',
    scheduleToStartTimeout: WAIT_FOR_WORKER,
    startToCloseTimeout: '30 seconds',
  });
  return loadCluster({ namespace, cluster });
}

/** A large repository takes minutes to list; one that does not answer is given an hour. */
function planning(taskQueue: string, { pace }: ClusterFacts) {
  return proxyActivities<RetentionSweepActivities>({
    taskQueue,
    summary: 'decide what stays',
    scheduleToStartTimeout: WAIT_FOR_WORKER,
    startToCloseTimeout: '1 hour',
    scheduleToCloseTimeout: '2 hours',
    heartbeatTimeout: pace.heartbeat * 1000,
    retry: RETRY,
  });
}

function deleting(taskQueue: string, { pace }: ClusterFacts, { counts }: SweepReport) {
  return proxyActivities<RetentionSweepActivities>({
    activityId: 'sweep',
    taskQueue,
    summary: `mark ${counts.marked}, delete ${counts.deletedBackups} backups and ${counts.deletedWal} segments`,
    scheduleToStartTimeout: WAIT_FOR_WORKER,
    scheduleToCloseTimeout: '1 day',
    heartbeatTimeout: pace.heartbeat * 1000,
    // A cancelled sweep has ended when its lease is released.
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: RETRY,
  });
}

async function tellKeeper({ namespace, cluster }: Request, report: SweepReport): Promise<void> {
  try {
    await getExternalWorkflowHandle(walkeep.clusterWorkflowId(namespace, cluster)).signal(
      walkeep.sweepSignal,
      // Its histories are long: it keeps what it decided in numbers, the lists are this run's.
      { ...report, backups: [], wal: [], leftovers: [] },
    );
  } catch (error) {
    if (isCancellation(error)) throw error;
    log.info('no keeper was there to be told');
  }
}
