import {
  CancellationScope,
  ActivityCancellationType,
  condition,
  continueAsNew,
  getExternalWorkflowHandle,
  isCancellation,
  patched,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { ClusterActivities, InstanceFacts, Pace } from '../activities/cluster.ts';
import type { ArchiveReport, WalArchivingActivities } from '../activities/wal-archiving.ts';
import { archivingPage } from './archiving-page.ts';
import { archivingInstance } from './choose-instance.ts';
import { failureOf, troubleOf, type Trouble } from './failures.ts';
import { parseWalArchivingInput } from './inputs.ts';
import * as walkeep from './interface.ts';
import { makeFindable } from './search-attributes.ts';

/** What one run hands to the next when it continues as new. */
export interface ArchivingState {
  readonly instances: readonly InstanceFacts[];
  readonly report?: ArchiveReport;
  readonly pace: Pace;
  readonly searchAttributes: boolean;
}

const CONTINUE_AFTER_EVENTS = 1_000;

/**
 * Shows how WAL archiving of a cluster stands, and tells the keeper. It does not archive: the worker does, with or
 * without Temporal. It watches the primary's worker, and another one when the keeper says that roles have changed.
 *
 * @param carried only given by the workflow itself, when it continues as new
 */
export async function walArchiving(
  input: walkeep.WalArchivingInput,
  carried?: ArchivingState,
): Promise<void> {
  const request = parseWalArchivingInput(input);
  let instances = carried?.instances ?? [];
  let report = carried?.report;
  let trouble: Trouble | undefined;
  let watching: CancellationScope | undefined;
  let watched: string | undefined;
  // Asked first, so that a run of older code goes on with the id it had.
  const isNumbered = patched('observer-ids');
  let observers = 0;
  setHandler(walkeep.archivingQuery, () => report ?? null, {
    description: 'The newest report of the archiver.',
  });
  setHandler(
    walkeep.instancesSignal,
    (named) => {
      instances = named;
      if (archivingInstance(named) !== watched) watching?.cancel();
    },
    { description: 'The keeper names the instances and their roles.' },
  );
  const show = () => setCurrentDetails(archivingPage(request, report, trouble?.message));
  show();

  const first = carried ?? (await firstLook(request));
  if (instances.length === 0) instances = first.instances;
  makeFindable(first.searchAttributes, {
    cluster: request.cluster,
    namespace: request.namespace,
    operation: 'archiving',
  });

  while (!mustContinue()) {
    watched = archivingInstance(instances) ?? '';
    const scope = new CancellationScope();
    watching = scope;
    try {
      const seen = report?.instance === watched && !trouble ? report : undefined;
      observers += 1;
      const activityId = isNumbered ? `archive-${observers}` : 'archive';
      report = await scope.run(() =>
        observe(request, first.pace, { instance: watched ?? '', seen, activityId }),
      );
      trouble = undefined;
      instances = instances.map((one) =>
        one.instance === report?.instance ? { ...one, role: report.role } : one,
      );
    } catch (error) {
      // The roles have changed: look elsewhere. A cancel of the whole run is not caught.
      if (isCancellation(error) && !CancellationScope.current().consideredCancelled) continue;
      trouble = troubleOf(error, walkeep.instanceQueue(request.namespace, request.cluster, watched));
      if (!trouble) throw error;
      show();
      const known = instances;
      await condition(() => instances !== known, '10 minutes', { summary: `wait: ${trouble.code}` });
      continue;
    } finally {
      watching = undefined;
    }
    show();
    await getExternalWorkflowHandle(walkeep.clusterWorkflowId(request.namespace, request.cluster))
      .signal(walkeep.archivingSignal, report)
      .catch((error: unknown) => {
        if (isCancellation(error)) throw error;
      });
  }
  const { pace, searchAttributes } = first;
  await continueAsNew<typeof walArchiving>(input, {
    instances,
    pace,
    searchAttributes,
    ...(report && { report }),
  });
}

async function firstLook(request: { cluster: string; namespace: string }): Promise<ArchivingState> {
  const queue = walkeep.clusterQueue(request.namespace, request.cluster);
  const { loadCluster } = proxyActivities<ClusterActivities>({
    taskQueue: queue,
    summary: 'load the applied manifest',
    scheduleToStartTimeout: '10 minutes',
    startToCloseTimeout: '30 seconds',
  });
  try {
    const { instance, pace } = await loadCluster(request);
    return { instances: [instance], pace, searchAttributes: instance.searchAttributes };
  } catch (error) {
    const trouble = troubleOf(error, queue);
    throw trouble ? failureOf(trouble) : error;
  }
}

interface Observation {
  readonly instance: string;
  readonly seen: ArchiveReport | undefined;
  /** Another one each time: the observer before may not have ended when the next begins. */
  readonly activityId: string;
}

async function observe(
  request: { cluster: string; namespace: string },
  pace: Pace,
  { instance, seen, activityId }: Observation,
): Promise<ArchiveReport> {
  const { observeArchiving } = proxyActivities<WalArchivingActivities>({
    activityId,
    taskQueue: walkeep.instanceQueue(request.namespace, request.cluster, instance),
    summary: `observe the archiver on ${instance}`,
    scheduleToStartTimeout: '10 minutes',
    startToCloseTimeout: (pace.archivingReport + 600) * 1000,
    scheduleToCloseTimeout: (pace.archivingReport + 3600) * 1000,
    // Beats are paid for: three in this time.
    heartbeatTimeout: '15 minutes',
    // It only looks, so nothing has to be waited for.
    cancellationType: ActivityCancellationType.TRY_CANCEL,
  });
  return observeArchiving({
    ...request,
    instance,
    reportSeconds: pace.archivingReport,
    ...(seen && { seen: { health: seen.health, role: seen.role } }),
  });
}

function mustContinue(): boolean {
  const { historyLength, continueAsNewSuggested } = workflowInfo();
  return historyLength >= CONTINUE_AFTER_EVENTS || continueAsNewSuggested;
}
