import {
  ActivityCancellationType,
  condition,
  getExternalWorkflowHandle,
  isCancellation,
  log,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  TemporalFailure,
  workflowInfo,
} from '@temporalio/workflow';
import type { ClusterActivities, ClusterFacts, InstanceFacts } from '../activities/cluster.ts';
import type { AuditArchiveInput, RepairWalInput, WalAuditActivities } from '../activities/wal-audit.ts';
import { openDamages, type AuditReport, type RepairRound, type WalRepair } from '../core/audit.ts';
import { messageOf } from '../core/errors.ts';
import { auditPage, type AuditPhase } from './audit-page.ts';
import { failureOf, troubleOf } from './failures.ts';
import { parseWalAuditInput } from './inputs.ts';
import * as walkeep from './interface.ts';
import { makeFindable } from './search-attributes.ts';

type Request = ReturnType<typeof parseWalAuditInput>;

/** What the run knows of itself; what its page shows. */
interface Run {
  phase: AuditPhase;
  report?: AuditReport;
  error?: string;
  /** The keeper's answer, once it came. */
  peers?: readonly InstanceFacts[];
}

const DEFAULT_WAIT_FOR_WORKER_SECONDS = 120;
/** Told of in the report; more are repaired all the same. */
const MAX_REPAIRS = 60;

/**
 * Looks at the archive of a cluster: which moments can be restored to, which WAL is missing or damaged. What is broken
 * is sent again from the `pg_wal` of the primary or of a standby, and looked at once more. What nobody has any more
 * ends the window there; the report says whether a base backup is needed, and the keeper takes it.
 */
export async function walAudit(input: walkeep.WalAuditInput): Promise<AuditReport> {
  const request = parseWalAuditInput(input);
  const run: Run = { phase: 'waiting-for-worker' };
  setHandler(walkeep.instancesSignal, (peers) => void (run.peers = peers), {
    description: 'The keeper’s answer: the instances it knows.',
  });
  setCurrentDetails(auditPage(request, run));
  const queue = walkeep.clusterQueue(request.namespace, request.cluster);
  try {
    const facts = await firstLook(request);
    const become = (phase: AuditPhase) => {
      run.phase = phase;
      makeFindable(facts.instance.searchAttributes, { phase });
      setCurrentDetails(auditPage(request, run));
    };
    makeFindable(facts.instance.searchAttributes, {
      cluster: request.cluster,
      namespace: request.namespace,
      operation: 'audit',
    });
    become('auditing');
    run.report = await auditWork(request, facts, 'look at the archive').auditArchive({
      ...reference(request, facts, 'audit'),
      read: request.read,
    });
    if (request.repair && openDamages(run.report.damages).length > 0) {
      become('repairing');
      const round = await repairEverywhere(request, facts, run.report, run);
      become('auditing-again');
      run.report = await lookAgain(request, facts, run.report, round);
    }
    become(openDamages(run.report.damages).length > 0 ? 'damaged' : 'whole');
    await tellKeeper(request, run.report);
    return run.report;
  } catch (error) {
    if (!(error instanceof TemporalFailure)) throw error;
    if (isCancellation(error)) throw error;
    const trouble = troubleOf(error, queue);
    run.phase = 'failed';
    run.error = trouble?.message ?? messageOf(error);
    setCurrentDetails(auditPage(request, run));
    throw trouble ? failureOf(trouble) : error;
  }
}

/** Loads the applied manifest from whichever worker of the cluster answers. */
async function firstLook({ namespace, cluster }: Request): Promise<ClusterFacts> {
  const { loadCluster } = proxyActivities<ClusterActivities>({
    taskQueue: walkeep.clusterQueue(namespace, cluster),
    summary: 'load the applied manifest',
    scheduleToStartTimeout: DEFAULT_WAIT_FOR_WORKER_SECONDS * 1000,
    startToCloseTimeout: '30 seconds',
  });
  return loadCluster({ namespace, cluster });
}

/** Asks one instance after the other for what is still broken, the primary first. */
async function repairEverywhere(
  request: Request,
  facts: ClusterFacts,
  report: AuditReport,
  run: Run,
): Promise<RepairRound> {
  const repairs: WalRepair[] = [];
  const unasked: { instance: string; reason: string }[] = [];
  for (const instance of await askableInstances(request, facts, run)) {
    const open = stillOpen(report, repairs);
    if (open.length === 0) break;
    const queue = walkeep.instanceQueue(request.namespace, request.cluster, instance);
    try {
      const done = await repairWork(queue, facts, instance).repairWal({
        ...reference(request, facts, `repair/${instance}`),
        instance,
        damages: open,
      } satisfies RepairWalInput);
      for (const { outcome, first, last } of done)
        log.warn(`${first}${last === first ? '' : ` to ${last}`}: ${outcome} on ${instance}`);
      repairs.push(...done);
    } catch (error) {
      const trouble = troubleOf(error, queue);
      if (!trouble && !(error instanceof TemporalFailure)) throw error;
      unasked.push({ instance, reason: (trouble?.message ?? messageOf(error)).slice(0, 300) });
    }
  }
  return { repairs: repairs.slice(0, MAX_REPAIRS), unasked };
}

/** A damage of several segments is asked for again until all of them are settled: sending what is there twice is nothing. */
function stillOpen(report: AuditReport, repairs: readonly WalRepair[]): AuditReport['damages'] {
  const settled = (first: string, last: string) =>
    repairs
      .filter(({ outcome, first: from }) => outcome !== 'refused' && from >= first && from <= last)
      .reduce((sum, { count }) => sum + count, 0);
  return openDamages(report.damages).filter(({ first, last, count }) => settled(first, last) < count);
}

/** The keeper knows all instances; without a keeper there is the one that answered. */
async function askableInstances(request: Request, facts: ClusterFacts, run: Run): Promise<string[]> {
  const known = await knownInstances(request, run);
  const others = known.filter(({ instance }) => instance !== facts.instance.instance);
  const order = ['primary', 'standby', 'unknown'];
  return [facts.instance, ...others]
    .filter(({ role }) => order.includes(role))
    .toSorted((a, b) => order.indexOf(a.role) - order.indexOf(b.role) || (a.instance < b.instance ? -1 : 1))
    .map(({ instance }) => instance);
}

async function knownInstances(request: Request, run: Run): Promise<readonly InstanceFacts[]> {
  try {
    await keeper(request).signal(walkeep.whoIsThereSignal, { replyTo: workflowInfo().workflowId });
  } catch (error) {
    if (isCancellation(error)) throw error;
    return [];
  }
  await condition(() => run.peers !== undefined, '10 seconds', {
    summary: 'wait for the keeper to name the instances',
  });
  return run.peers ?? [];
}

/** What was sent again is read again; a report that can't be made anew still says what was done. */
async function lookAgain(
  request: Request,
  facts: ClusterFacts,
  before: AuditReport,
  round: RepairRound,
): Promise<AuditReport> {
  try {
    const input: AuditArchiveInput = {
      ...reference(request, facts, 'audit-again'),
      read: 'none',
      round,
      readBefore: before.segmentsRead,
    };
    return await auditWork(request, facts, 'look again at what was repaired').auditArchive(input);
  } catch (error) {
    if (!(error instanceof TemporalFailure) || isCancellation(error)) throw error;
    log.warn(`the archive could not be looked at again: ${messageOf(error)}`);
    const warnings = [...before.warnings, 'the archive could not be looked at again after the repair'];
    return { ...before, warnings };
  }
}

function reference({ namespace, cluster }: Request, { manifest }: ClusterFacts, step: string) {
  return { namespace, cluster, manifest, runId: workflowInfo().firstExecutionRunId, step };
}

function auditWork({ namespace, cluster }: Request, { pace }: ClusterFacts, summary: string) {
  return proxyActivities<WalAuditActivities>({
    taskQueue: walkeep.clusterQueue(namespace, cluster),
    summary,
    // `all` reads everything there is.
    scheduleToCloseTimeout: '2 days',
    heartbeatTimeout: pace.heartbeat * 1000,
    cancellationType: ActivityCancellationType.TRY_CANCEL,
    retry: { initialInterval: '5 seconds', maximumInterval: '5 minutes' },
  });
}

function repairWork(queue: string, { pace }: ClusterFacts, instance: string) {
  return proxyActivities<WalAuditActivities>({
    taskQueue: queue,
    summary: `ask ${instance} for what is missing or damaged`,
    // Whoever has not begun by then is not there; the others are asked.
    scheduleToStartTimeout: pace.heartbeat * 1000,
    scheduleToCloseTimeout: '2 hours',
    heartbeatTimeout: pace.heartbeat * 1000,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { initialInterval: '2 seconds', maximumInterval: '1 minute' },
  });
}

async function tellKeeper(request: Request, report: AuditReport): Promise<void> {
  try {
    await keeper(request).signal(walkeep.auditSignal, report);
  } catch (error) {
    if (isCancellation(error)) throw error;
    // It was started by hand; the repository has the report.
    log.info('no keeper was there to be told');
  }
}

function keeper({ namespace, cluster }: Request) {
  return getExternalWorkflowHandle(walkeep.clusterWorkflowId(namespace, cluster));
}
