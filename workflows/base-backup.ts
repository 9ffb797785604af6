import {
  ActivityCancellationType,
  CancellationScope,
  condition,
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
import type { BackupReference, BaseBackupActivities, CopiedBackupInput } from '../activities/base-backup.ts';
import type { ClusterActivities, ClusterFacts, InstanceFacts, Pace } from '../activities/cluster.ts';
import type { BackupStatus } from '../core/backup-status.ts';
import { isTerminalPhase } from '../core/backup-status.ts';
import { messageOf } from '../core/errors.ts';
import { backupNameOf } from './backup-name.ts';
import { backupPage } from './backup-page.ts';
import { backupCandidates, mayTakeBackup } from './choose-instance.ts';
import { FORESEEN, failure, failureOf, troubleOf, type Trouble } from './failures.ts';
import { parseBaseBackupInput, requireBackupName } from './inputs.ts';
import * as walkeep from './interface.ts';
import { makeFindable } from './search-attributes.ts';

type Request = ReturnType<typeof parseBaseBackupInput> & {
  readonly backupName: string;
  /** When this run began to work, in ms: a run of a `--cron` chain exists long before. */
  readonly startedAt: number;
};

/** What the run knows of itself; what its query and its page show. */
interface Run {
  status: BackupStatus;
  attempt: number;
  instance?: string;
  /** The last attempt's failure, while another one is awaited. */
  trouble?: string;
  /** The keeper's answer, once it came. */
  peers?: readonly InstanceFacts[];
}

const DEFAULT_WAIT_FOR_WORKER_SECONDS = 120;

/**
 * Takes one base backup and returns the Backup's status. It is recorded only when all WAL that makes it restorable is
 * in the repository too. A Backup has one name and ends once: starting another run with the name of one that was
 * completed returns its status and does nothing.
 *
 * An attempt begins anew, under an id of its own, whenever what failed may pass; which instance takes it is decided
 * each time. Worker restarts and outages of Temporal are no attempts: the activity attaches to the work again.
 */
export async function baseBackup(input: walkeep.BaseBackupInput): Promise<BackupStatus> {
  const parsed = parseBaseBackupInput(input);
  const startedAt = Date.now();
  const backupName = parsed.name ?? backupNameOf(parsed.cluster, workflowInfo(), new Date(startedAt));
  requireBackupName(backupName, parsed);
  const request: Request = { ...parsed, backupName, startedAt };
  const run: Run = {
    status: { phase: 'pending', method: request.method, backupName },
    attempt: 0,
  };
  const show = () => setCurrentDetails(backupPage(request, run));
  setHandler(
    walkeep.backupStatusQuery,
    () => ({
      ...run.status,
      attempt: run.attempt,
      ...(run.instance !== undefined && { instance: run.instance }),
    }),
    { description: 'The Backup’s status in CloudNativePG’s form, with the attempt and its instance.' },
  );
  setHandler(walkeep.instancesSignal, (peers) => void (run.peers = peers), {
    description: 'The keeper’s answer: the instances it knows.',
  });
  let reports = 0;
  setHandler(walkeep.reportSignal, () => void reports++, {
    description: 'The keeper asks how the Backup stands.',
  });
  show();

  let facts: ClusterFacts | undefined;
  const telling = new CancellationScope();
  void telling
    .run(async () => {
      for (let told = 0; ; told = reports) {
        await condition(() => reports > told);
        await tellKeeper(request, run.status);
      }
    })
    .catch(() => {});

  try {
    facts = await firstLook(request);
    makeFindable(facts.instance.searchAttributes, {
      cluster: request.cluster,
      namespace: request.namespace,
      operation: 'backup',
      backup: request.backupName,
      phase: run.status.phase,
    });
    const earlier = await clusterWork(request, facts.pace).findOutcome(referenceOf(request, facts));
    if (!earlier) requireMethod(request);
    run.status = earlier ?? (await attempts(request, facts, run, show));
  } catch (error) {
    // A bug in this code fails the workflow task, not the Backup: corrected code goes on from here.
    if (!(error instanceof TemporalFailure)) throw error;
    const ended = isCancellation(error)
      ? error
      : asFailure(error, walkeep.clusterQueue(request.namespace, request.cluster));
    await CancellationScope.nonCancellable(async () => {
      run.status = {
        ...run.status,
        phase: 'failed',
        error: isCancellation(error) ? 'cancelled' : messageOf(ended),
        stoppedAt: now(),
      };
      if (facts) await writeDown(request, facts, run.status);
      await conclude(request, facts, run, show);
    });
    throw ended;
  } finally {
    telling.cancel();
  }
  await CancellationScope.nonCancellable(() => conclude(request, facts, run, show));
  if (run.status.phase === 'completed') return run.status;
  throw failure(
    'already-exists',
    `the Backup "${request.backupName}" has failed before: ${run.status.error ?? 'no reason was recorded'}`,
    'a Backup ends once: take another one under a new name',
  );
}

function requireMethod({ method, backupName }: Request): void {
  if (method === 'barmanObjectStore') return;
  throw failure(
    'not-yet',
    `Backup "${backupName}": method ${method} is not done yet`,
    'write method: barmanObjectStore',
  );
}

/** Loads the applied manifest from whichever worker of the cluster answers. */
async function firstLook(request: Request): Promise<ClusterFacts> {
  const queue = walkeep.clusterQueue(request.namespace, request.cluster);
  const { loadCluster } = proxyActivities<ClusterActivities>({
    taskQueue: queue,
    summary: 'load the applied manifest',
    scheduleToStartTimeout: (request.waitForWorkerSeconds ?? DEFAULT_WAIT_FOR_WORKER_SECONDS) * 1000,
    startToCloseTimeout: '30 seconds',
  });
  try {
    return await loadCluster({ namespace: request.namespace, cluster: request.cluster });
  } catch (error) {
    throw asFailure(error, queue);
  }
}

/** Attempts until one succeeds, nothing that can pass is left, or the deadline comes. */
async function attempts(
  request: Request,
  facts: ClusterFacts,
  run: Run,
  show: () => void,
): Promise<BackupStatus> {
  const { pace } = facts;
  const deadline = request.startedAt + pace.deadline * 1000;
  run.status = { ...run.status, ...identityOf(facts) };
  for (let wait = pace.backoff; ; wait = Math.min(wait * 2, pace.backoffMaximum)) {
    try {
      return await oneAttempt(request, facts, run, show, deadline);
    } catch (error) {
      const trouble = troubleOf(error, run.instance ?? request.cluster) ?? unforeseen(error);
      const over = Date.now() + wait * 1000 >= deadline;
      // Waiting for a worker or for another backup is no failed attempt: only time ends it.
      if (['worker-missing', 'backup-in-progress'].includes(trouble.code))
        run.attempt = Math.max(0, run.attempt - 1);
      if (!trouble.retryable || over || run.attempt >= pace.attempts) throw failureOf(trouble);
      run.trouble = trouble.message;
      run.status = {
        phase: 'pending',
        method: request.method,
        backupName: request.backupName,
        ...identityOf(facts),
      };
      makeFindable(facts.instance.searchAttributes, { phase: 'pending' });
      show();
      log.warn(`attempt failed, another follows in ${wait} s: ${trouble.message}`, { code: trouble.code });
      await sleep(wait * 1000, { summary: `wait before another attempt: ${trouble.code}` });
    }
  }
}

/** Choose, copy, confirm, record. What was copied and can't be recorded is removed again. */
async function oneAttempt(
  request: Request,
  facts: ClusterFacts,
  run: Run,
  show: () => void,
  deadline: number,
): Promise<BackupStatus> {
  run.attempt += 1;
  const target = request.target ?? facts.manifest.spec.backup?.target ?? 'prefer-standby';
  const instance = await chooseInstance(request, facts, run, target);
  run.instance = instance;
  run.status = { ...run.status, phase: 'running', startedAt: now(), instanceID: { podName: instance } };
  delete run.trouble;
  makeFindable(facts.instance.searchAttributes, { phase: 'running' });
  show();
  await tellKeeper(request, run.status);

  const backup = referenceOf(request, facts);
  const copied = await copyWork(request, facts.pace, instance, deadline).copyBackup({
    ...backup,
    instance,
    attempt: run.attempt,
    runId: workflowInfo().firstExecutionRunId,
    immediateCheckpoint:
      request.immediateCheckpoint ??
      facts.manifest.spec.backup?.barmanObjectStore?.data?.immediateCheckpoint ??
      false,
  });
  const work = clusterWork(request, facts.pace);
  try {
    run.status = { ...run.status, phase: 'finalizing', backupId: copied.backupId };
    show();
    const input: CopiedBackupInput = { ...backup, instance, copied, walDeadline: facts.pace.walDeadline };
    await confirm(request, facts, input);
    return await work.recordBackup(input);
  } catch (error) {
    await CancellationScope.nonCancellable(() =>
      work.discardBackup({ ...backup, backupId: copied.backupId }),
    ).catch(
      // The sweep removes what an attempt left behind; the failure that matters is the other one.
      (problem: unknown) => log.warn(`could not discard ${copied.backupId}: ${String(problem)}`),
    );
    throw error;
  }
}

/** On the machine of the copy, whose server can be asked to close its segment; when that is gone, wherever it can be done. */
async function confirm(request: Request, facts: ClusterFacts, input: CopiedBackupInput): Promise<void> {
  const here = walkeep.instanceQueue(request.namespace, request.cluster, input.instance);
  try {
    await clusterWork(request, facts.pace, here).confirmBackup(input);
  } catch (error) {
    if (troubleOf(error, here)?.code !== 'worker-missing') throw error;
    await clusterWork(request, facts.pace).confirmBackup(input);
  }
}

/** Asks the instances in the order of preference what they are now, and takes the first that fits. */
async function chooseInstance(
  request: Request,
  facts: ClusterFacts,
  run: Run,
  target: walkeep.BackupTarget,
): Promise<string> {
  const known = await knownInstances(request, run);
  const candidates = backupCandidates(
    [...known.filter((peer) => peer.instance !== facts.instance.instance), facts.instance],
    target,
  );
  let trouble: Trouble | undefined;
  const seen: string[] = [];
  for (const { instance } of candidates) {
    const queue = walkeep.instanceQueue(request.namespace, request.cluster, instance);
    const { describeInstance } = proxyActivities<ClusterActivities>({
      taskQueue: queue,
      summary: `ask ${instance} what it is`,
      scheduleToStartTimeout: Math.min(30, request.waitForWorkerSeconds ?? 30) * 1000,
      startToCloseTimeout: '30 seconds',
      scheduleToCloseTimeout: '1 minute',
    });
    try {
      const asked = await describeInstance({ namespace: request.namespace, cluster: request.cluster });
      if (mayTakeBackup(asked, target)) return instance;
      seen.push(`${instance} is ${asked.role}`);
    } catch (error) {
      trouble = troubleOf(error, queue) ?? unforeseen(error);
      seen.push(`${instance}: ${trouble.message}`);
    }
  }
  if (trouble?.code === 'worker-missing' && seen.length === 1) throw failureOf(trouble);
  throw failure(
    'postgres-unavailable',
    `no instance can take a backup with target ${target}: ${seen.join('; ') || 'none has a database'}`,
  );
}

/** The keeper knows all instances; without a keeper there is the one that answered. */
async function knownInstances(request: Request, run: Run): Promise<readonly InstanceFacts[]> {
  delete run.peers;
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

/** Work that any instance of the cluster can do. Its foreseen, passing failures are retried where they happen. */
function clusterWork(request: Request, pace: Pace, instanceQueue?: string) {
  return proxyActivities<BaseBackupActivities>({
    taskQueue: instanceQueue ?? walkeep.clusterQueue(request.namespace, request.cluster),
    summary: request.backupName,
    ...(instanceQueue !== undefined && { scheduleToStartTimeout: '5 minutes' }),
    startToCloseTimeout: (pace.walDeadline + 600) * 1000,
    scheduleToCloseTimeout: (pace.walDeadline + 3600) * 1000,
    heartbeatTimeout: pace.heartbeat * 1000,
    retry: { initialInterval: '2 seconds', maximumInterval: '1 minute' },
  });
}

function copyWork(request: Request, pace: Pace, instance: string, deadline: number) {
  const remaining = Math.max(1_000, deadline - Date.now());
  return proxyActivities<BaseBackupActivities>({
    activityId: 'base-backup',
    taskQueue: walkeep.instanceQueue(request.namespace, request.cluster, instance),
    summary: `copy ${request.cluster} on ${instance}`,
    scheduleToStartTimeout: Math.min(remaining, 600_000),
    scheduleToCloseTimeout: remaining,
    heartbeatTimeout: pace.heartbeat * 1000,
    // A cancelled backup has ended when PostgreSQL is out of backup mode and the uploads are gone.
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    // What is foreseen comes back here at once, where another instance can be chosen; restarts of workers and
    // outages of the server are cured by attaching again.
    retry: { initialInterval: '1 second', maximumInterval: '1 minute', nonRetryableErrorTypes: FORESEEN },
  });
}

/** The outcome record that outlives Temporal; a run that can't write it still ends. */
async function writeDown(request: Request, facts: ClusterFacts, status: BackupStatus): Promise<void> {
  const { recordOutcome } = proxyActivities<BaseBackupActivities>({
    taskQueue: walkeep.clusterQueue(request.namespace, request.cluster),
    summary: 'write down how it ended',
    startToCloseTimeout: '1 minute',
    scheduleToCloseTimeout: '5 minutes',
    heartbeatTimeout: facts.pace.heartbeat * 1000,
  });
  try {
    await recordOutcome({ ...referenceOf(request, facts), status });
  } catch (error) {
    log.warn(`the outcome could not be written into the repository: ${String(error)}`);
  }
}

async function conclude(
  request: Request,
  facts: ClusterFacts | undefined,
  run: Run,
  show: () => void,
): Promise<void> {
  delete run.trouble;
  makeFindable(facts?.instance.searchAttributes ?? false, { phase: run.status.phase });
  show();
  await tellKeeper(request, run.status);
}

async function tellKeeper(request: Request, status: BackupStatus): Promise<void> {
  try {
    await keeper(request).signal(walkeep.backupSignal, { backupName: request.backupName, status });
  } catch (error) {
    if (isCancellation(error)) throw error;
    // No keeper: the run was started by hand, or Temporal lost it. The repository has the record.
    if (isTerminalPhase(status.phase)) log.info('no keeper was there to be told');
  }
}

function keeper(request: Request) {
  return getExternalWorkflowHandle(walkeep.clusterWorkflowId(request.namespace, request.cluster));
}

function referenceOf(request: Request, facts: ClusterFacts): BackupReference {
  return {
    namespace: request.namespace,
    cluster: request.cluster,
    backupName: request.backupName,
    manifest: facts.manifest,
  };
}

/** Where the backup goes, as CloudNativePG shows it. */
function identityOf(facts: ClusterFacts): Partial<BackupStatus> {
  const store = facts.manifest.spec.backup?.barmanObjectStore;
  return {
    ...(store && {
      destinationPath: store.destinationPath,
      serverName: store.serverName ?? facts.manifest.metadata.name,
    }),
    ...(store?.endpointURL !== undefined && { endpointURL: store.endpointURL }),
    online: true,
  };
}

function asFailure(error: unknown, queue: string): unknown {
  const trouble = troubleOf(error, queue);
  return trouble ? failureOf(trouble) : error;
}

function unforeseen(error: unknown): Trouble {
  if (!(error instanceof TemporalFailure)) throw error;
  const message = (error.cause ?? error).message;
  return { code: 'backup-interrupted', message, hint: 'see the worker’s log', retryable: true };
}

function now(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}
