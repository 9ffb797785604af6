import {
  ActivityCancellationType,
  CancellationScope,
  getExternalWorkflowHandle,
  isCancellation,
  log,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  sleep,
  TemporalFailure,
  workflowInfo,
} from '@temporalio/workflow';
import type { ClusterActivities, ClusterFacts } from '../activities/cluster.ts';
import type {
  RestoreVerificationActivities,
  VerificationReference,
  VerifyOutcome,
  VerifyRequest,
} from '../activities/restore-verification.ts';
import { parseDuration } from '../core/duration.ts';
import { messageOf } from '../core/errors.ts';
import type { Verification } from '../core/verification.ts';
import type { ScheduledVerificationManifest } from '../manifests/scheduled-verification.ts';
import { failure, failureOf, FORESEEN, troubleOf, type Trouble } from './failures.ts';
import { parseRestoreVerificationInput } from './inputs.ts';
import * as walkeep from './interface.ts';
import { makeFindable } from './search-attributes.ts';
import { verificationPage } from './verification-page.ts';

type Request = ReturnType<typeof parseRestoreVerificationInput>;

interface Run {
  phase: walkeep.VerificationStatus['phase'];
  attempt: number;
  queue?: string;
  trouble?: string;
  verification?: Verification;
  error?: string;
}

const DEFAULT_WAIT_FOR_WORKER_SECONDS = 600;
/** Each downloads a backup again: what has failed so often needs a person. */
const MOST_ATTEMPTS = 3;
/** Beyond its deadline a verification still stops its server, removes its directory and answers. */
const GRACE_MS = 10 * 60_000;
const DEFAULT_DEADLINE = '6h';
/** Of a verification by hand. */
const DEFAULT_CHECKS: VerifyRequest['checks'] = {
  manifest: true,
  pageChecksums: true,
  amcheck: false,
  queries: [],
};

/**
 * Restores a backup into scratch space, replays WAL to the target, starts PostgreSQL there in isolation, checks it, and
 * cleans up. The result is the evidence, which the repository keeps too: `verified`; `damaged`, and what; or
 * `not-tried`, and why, which says nothing about the backup.
 */
export async function restoreVerification(input: walkeep.RestoreVerificationInput): Promise<Verification> {
  const request = parseRestoreVerificationInput(input);
  const startedAt = Date.now();
  const run: Run = { phase: 'waiting-for-worker', attempt: 0 };
  let facts: ClusterFacts | undefined;
  setHandler(walkeep.verificationStatusQuery, () => statusOf(run), {
    description: 'How the verification stands, and its evidence when it has ended.',
  });
  const become = (next: Partial<Run>) => {
    Object.assign(run, next);
    setCurrentDetails(verificationPage(request, run));
    if (next.phase) makeFindable(facts?.instance.searchAttributes ?? false, { phase: next.phase });
  };
  become({});

  const own = walkeep.clusterQueue(request.namespace, request.cluster);
  let rules: ScheduledVerificationManifest['spec'] | undefined;
  try {
    facts = await firstLook(request, own);
    makeFindable(facts.instance.searchAttributes, {
      cluster: request.cluster,
      namespace: request.namespace,
      operation: 'verification',
    });
    become({ phase: 'planning' });
    rules = await findRules(request, own);
    const queue = request.queue ?? rules?.queue ?? own;
    become({ queue });
    const found = await attempts(request, facts, rules, run, become, { queue, startedAt });
    run.verification = found;
  } catch (error) {
    // A bug in this code fails the workflow task: corrected code goes on from here.
    if (!(error instanceof TemporalFailure)) throw error;
    if (isCancellation(error)) {
      become({ phase: 'ended', error: 'cancelled' });
      throw error;
    }
    const trouble = troubleOf(error, run.queue ?? own) ?? unforeseen(error);
    // What people have to correct fails the run; what could not be tried is a finding.
    if (['cluster-unknown', 'input-invalid'].includes(trouble.code)) {
      become({ phase: 'ended', error: trouble.message });
      throw failureOf(trouble);
    }
    run.verification = notTried(request, rules, facts, trouble, startedAt);
  }
  return CancellationScope.nonCancellable(() => conclude(request, facts, run, become));
}

function statusOf({ phase, verification, error }: Run): walkeep.VerificationStatus {
  return { phase, ...(verification && { verification }), ...(error !== undefined && { error }) };
}

/** Loads the applied manifest from whichever worker of the cluster answers. */
async function firstLook({ namespace, cluster, waitForWorkerSeconds }: Request, taskQueue: string) {
  const { loadCluster } = proxyActivities<ClusterActivities>({
    taskQueue,
    summary: 'load the applied manifest',
    scheduleToStartTimeout: (waitForWorkerSeconds ?? DEFAULT_WAIT_FOR_WORKER_SECONDS) * 1000,
    startToCloseTimeout: '30 seconds',
  });
  return loadCluster({ namespace, cluster });
}

/** The ScheduledVerification that was named. @throws ApplicationFailure `input-invalid` when it is not applied */
async function findRules(
  { namespace, cluster, scheduledVerification: name }: Request,
  taskQueue: string,
): Promise<ScheduledVerificationManifest['spec'] | undefined> {
  if (name === undefined) return undefined;
  const { loadVerificationRules } = proxyActivities<RestoreVerificationActivities>({
    taskQueue,
    summary: `load the rules of ${name}`,
    scheduleToStartTimeout: '10 minutes',
    startToCloseTimeout: '30 seconds',
  });
  const manifest = await loadVerificationRules({ namespace, name });
  if (manifest?.spec.cluster.name === cluster) return manifest.spec;
  const what = manifest ? `is of the cluster "${manifest.spec.cluster.name}"` : 'is not applied';
  throw failure(
    'input-invalid',
    `restoreVerification: field "scheduledVerification": the ScheduledVerification "${namespace}/${name}" ${what}`,
    'apply it, or leave the field out',
  );
}

/** Attempts until one comes to a finding, nothing that can pass is left, or the time is over. */
async function attempts(
  request: Request,
  facts: ClusterFacts,
  rules: ScheduledVerificationManifest['spec'] | undefined,
  run: Run,
  become: (next: Partial<Run>) => void,
  { queue, startedAt }: { queue: string; startedAt: number },
): Promise<Verification> {
  const deadlineAt = startedAt + parseDuration(rules?.deadline ?? DEFAULT_DEADLINE);
  const most = Math.min(MOST_ATTEMPTS, facts.policy?.attempts.maximum ?? MOST_ATTEMPTS);
  let readBefore = 0;
  for (let wait = facts.pace.backoff; ; wait = Math.min(wait * 2, facts.pace.backoffMaximum)) {
    become({ phase: 'verifying', attempt: run.attempt + 1 });
    const outcome = await oneAttempt(request, facts, rules, {
      queue,
      startedAt,
      deadlineAt,
      attempt: run.attempt,
    });
    const { verification, mayTryAgain } = outcome;
    readBefore += verification.storedBytes ?? 0;
    const isOver = run.attempt >= most || Date.now() + wait * 1000 >= deadlineAt;
    if (!mayTryAgain || isOver) {
      // What failed attempts have read counts for the budget of the day.
      return readBefore > 0 ? { ...verification, storedBytes: readBefore } : verification;
    }
    const trouble = verification.error ?? verification.result;
    become({ trouble });
    log.warn(`attempt failed, another follows in ${wait} s: ${trouble}`);
    await sleep(wait * 1000, { summary: 'wait before another attempt' });
  }
}

async function oneAttempt(
  request: Request,
  facts: ClusterFacts,
  rules: ScheduledVerificationManifest['spec'] | undefined,
  {
    queue,
    startedAt,
    deadlineAt,
    attempt,
  }: { queue: string; startedAt: number; deadlineAt: number; attempt: number },
): Promise<VerifyOutcome> {
  const { runId } = workflowInfo();
  const remaining = Math.max(1000, deadlineAt - Date.now());
  const { verifyBackup } = proxyActivities<RestoreVerificationActivities>({
    activityId: attempt === 1 ? 'verify' : `verify-${attempt}`,
    taskQueue: queue,
    summary: `restore and check ${request.backup ?? rules?.backup ?? 'the latest backup'}`,
    scheduleToStartTimeout: Math.min(
      remaining,
      (request.waitForWorkerSeconds ?? DEFAULT_WAIT_FOR_WORKER_SECONDS) * 1000,
    ),
    scheduleToCloseTimeout: remaining + GRACE_MS,
    heartbeatTimeout: facts.pace.heartbeat * 1000,
    // A cancelled verification has ended when its server has, and its directory is gone.
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    // Restarts of workers and outages of Temporal are cured by attaching, or by beginning anew.
    retry: { initialInterval: '1 second', maximumInterval: '1 minute', nonRetryableErrorTypes: FORESEEN },
  });
  const verifyRequest = {
    ...requestOf(request, facts, rules, runId, startedAt),
    deadline: `${Math.ceil(remaining / 1000)}s`,
  };
  try {
    return await verifyBackup({ ...referenceOf(request, facts), request: verifyRequest, attempt, runId });
  } catch (error) {
    const trouble = troubleOf(error, queue) ?? unforeseen(error);
    const verification = notTried(request, rules, facts, trouble, startedAt);
    return {
      verification,
      mayTryAgain:
        trouble.retryable && trouble.code !== 'deadline-exceeded' && trouble.code !== 'worker-missing',
    };
  }
}

function requestOf(
  request: Request,
  facts: ClusterFacts,
  rules: ScheduledVerificationManifest['spec'] | undefined,
  runId: string,
  startedAt: number,
): Omit<VerifyRequest, 'deadline'> {
  const limits = facts.policy?.limits;
  return {
    id: evidenceId(startedAt, runId),
    seed: runId,
    namespace: request.namespace,
    cluster: request.cluster,
    ...(request.scheduledVerification !== undefined && { name: request.scheduledVerification }),
    backup: request.backup ?? rules?.backup ?? 'latest',
    target: request.target ?? rules?.target ?? 'end',
    checks: { ...DEFAULT_CHECKS, ...rules?.checks, ...request.checks },
    // Somebody who starts one by hand wants it now.
    readBudget: rules ? rules.readBudget : null,
    scratch: {
      directory: request.scratchDirectory ?? rules?.scratch.directory ?? null,
      minFree: rules?.scratch.minFree ?? '20%',
    },
    ...(limits && { nice: limits.nice }),
    ...(limits?.jobs != null && { jobs: limits.jobs }),
  };
}

/** A time first, so that the order of names is that of time; the run makes it the only one of its second. */
function evidenceId(startedAt: number, runId: string): string {
  const time = new Date(startedAt).toISOString().replaceAll(/[-:]|\.\d+Z$/g, '');
  return `${time}-${runId.replaceAll('-', '').slice(-6)}`;
}

function referenceOf(
  { namespace, cluster }: Request,
  { manifest, policy }: ClusterFacts,
): VerificationReference {
  return { namespace, cluster, manifest, ...(policy && { policy }) };
}

/** Evidence of a verification that never came to a worker, or back from one. */
function notTried(
  request: Request,
  rules: ScheduledVerificationManifest['spec'] | undefined,
  facts: ClusterFacts | undefined,
  { message, hint }: Trouble,
  startedAt: number,
): Verification {
  const target = request.target ?? rules?.target ?? 'end';
  return {
    version: 1,
    id: evidenceId(startedAt, workflowInfo().runId),
    ...(request.scheduledVerification !== undefined && { name: request.scheduledVerification }),
    namespace: request.namespace,
    cluster: request.cluster,
    result: 'not-tried',
    startedAt: new Date(startedAt).toISOString(),
    endedAt: new Date(Date.now()).toISOString(),
    host: '',
    instance: '',
    target: { kind: typeof target === 'string' ? target : 'explicit' },
    walkeepVersion: facts?.instance.version ?? '',
    checks: [],
    error: `${message}; ${hint}`.slice(0, 500),
    warnings: [],
  };
}

/** Writes the evidence down, tells the keeper, and gives it. */
async function conclude(
  request: Request,
  facts: ClusterFacts | undefined,
  run: Run,
  become: (next: Partial<Run>) => void,
): Promise<Verification> {
  become({ phase: 'recording' });
  delete run.trouble;
  const found = run.verification as Verification;
  const verification = facts ? await record(request, facts, found) : found;
  become({ phase: 'ended', verification });
  makeFindable(facts?.instance.searchAttributes ?? false, {
    phase: verification.result,
    ...(verification.backupId !== undefined && { backup: verification.backupId }),
  });
  await tellKeeper(request, verification);
  return verification;
}

/** By a worker of the cluster, which has the key to write; a run that can't record its evidence still has it. */
async function record(
  request: Request,
  facts: ClusterFacts,
  verification: Verification,
): Promise<Verification> {
  const { recordVerification } = proxyActivities<RestoreVerificationActivities>({
    taskQueue: walkeep.clusterQueue(request.namespace, request.cluster),
    summary: 'write the evidence down',
    scheduleToStartTimeout: '10 minutes',
    startToCloseTimeout: '2 minutes',
    scheduleToCloseTimeout: '30 minutes',
    heartbeatTimeout: facts.pace.heartbeat * 1000,
    retry: { initialInterval: '2 seconds', maximumInterval: '1 minute' },
  });
  try {
    await recordVerification({ ...referenceOf(request, facts), verification });
    return verification;
  } catch (error) {
    const why = `the evidence could not be written into the repository: ${messageOf(error instanceof Error ? (error.cause ?? error) : error)}`;
    log.warn(why);
    return { ...verification, warnings: [...verification.warnings, why.slice(0, 500)] };
  }
}

async function tellKeeper({ namespace, cluster }: Request, verification: Verification): Promise<void> {
  try {
    await getExternalWorkflowHandle(walkeep.clusterWorkflowId(namespace, cluster)).signal(
      walkeep.verificationSignal,
      verification,
    );
  } catch (error) {
    if (isCancellation(error)) throw error;
    // No keeper: it was started by hand, or Temporal lost it. The repository has the evidence.
    log.info('no keeper was there to be told');
  }
}

function unforeseen(error: unknown): Trouble {
  if (!(error instanceof TemporalFailure)) throw error;
  const message = (error.cause ?? error).message;
  return { code: 'restore-interrupted', message, hint: 'see the worker’s log', retryable: true };
}
