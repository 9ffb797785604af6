import {
  ActivityCancellationType,
  allHandlersFinished,
  CancellationScope,
  condition,
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
import type { ClusterActivities, ClusterFacts, Pace } from '../activities/cluster.ts';
import type { ControlActivities, CopyReference } from '../activities/control.ts';
import type { BackupStatus } from '../core/backup-status.ts';
import { isTerminalPhase } from '../core/backup-status.ts';
import { messageOf } from '../core/errors.ts';
import type { CopiedBackup } from '../operations/take-backup.ts';
import { BackupControl } from './backup-control.ts';
import { backupNameOf } from './backup-name.ts';
import { instanceInTurn } from './backup-instance.ts';
import { backupPage } from './backup-page.ts';
import { keeperOf, unforeseen, type BackupRequest, type BackupRun } from './backup-run.ts';
import { FORESEEN, failure, failureOf, troubleOf } from './failures.ts';
import { parseBaseBackupInput, requireBackupName } from './inputs.ts';
import * as walkeep from './interface.ts';
import { Permits } from './permits.ts';
import { makeFindable } from './search-attributes.ts';

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
  const request: BackupRequest = { ...parsed, backupName, startedAt };
  let facts: ClusterFacts | undefined;
  const control = new BackupControl({
    hasEnded: () => isTerminalPhase(run.status.phase),
    onChange: () => {
      if (run.status.phase === 'running')
        makeFindable(facts?.instance.searchAttributes ?? false, { phase: phaseOf(run) });
      show();
    },
  });
  const run: BackupRun = {
    status: { phase: 'pending', method: request.method, backupName },
    attempt: 0,
    control,
    permits: new Permits(),
  };
  const show = () => setCurrentDetails(backupPage(request, run));
  control.listen();
  setHandler(
    walkeep.backupStatusQuery,
    () => ({
      ...run.status,
      // Waiting for a turn is no attempt yet.
      attempt: run.turn ? run.attempt - 1 : run.attempt,
      ...(run.instance !== undefined && { instance: run.instance }),
      ...(control.wanted && { control: control.wanted }),
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
    if (facts.problem !== undefined) {
      run.policyProblem = facts.problem;
      show();
    }
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
      const isWritten = !facts || (await writeDown(request, facts, run.status));
      await conclude(request, facts, run, show, isWritten);
      await condition(allHandlersFinished);
    });
    throw ended;
  } finally {
    telling.cancel();
  }
  await CancellationScope.nonCancellable(() => conclude(request, facts, run, show));
  await condition(allHandlersFinished);
  if (run.status.phase === 'completed') return run.status;
  throw failure(
    'already-exists',
    `the Backup "${request.backupName}" has failed before: ${run.status.error ?? 'no reason was recorded'}`,
    'a Backup ends once: take another one under a new name',
  );
}

function requireMethod({ method, backupName }: BackupRequest): void {
  if (method === 'barmanObjectStore') return;
  throw failure(
    'not-yet',
    `Backup "${backupName}": method ${method} is not done yet`,
    'write method: barmanObjectStore',
  );
}

/** Loads the applied manifest from whichever worker of the cluster answers. */
async function firstLook(request: BackupRequest): Promise<ClusterFacts> {
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
  request: BackupRequest,
  facts: ClusterFacts,
  run: BackupRun,
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
  request: BackupRequest,
  facts: ClusterFacts,
  run: BackupRun,
  show: () => void,
  deadline: number,
): Promise<BackupStatus> {
  run.attempt += 1;
  const target = request.target ?? facts.manifest.spec.backup?.target ?? 'prefer-standby';
  const { instance, permits } = await instanceInTurn(request, facts, run, show, { target, deadline });
  const backup = referenceOf(request, facts);
  const copied = await (async () => {
    try {
      run.instance = instance;
      run.status = { ...run.status, phase: 'running', startedAt: now(), instanceID: { podName: instance } };
      delete run.trouble;
      makeFindable(facts.instance.searchAttributes, { phase: phaseOf(run) });
      show();
      await tellKeeper(request, run.status);
      return await copyUnderControl(request, facts, run, { instance, deadline });
    } finally {
      // What is shared is used while data moves; waiting for WAL takes nothing from anybody.
      await permits?.release();
    }
  })();
  const work = clusterWork(request, facts.pace);
  try {
    run.status = { ...run.status, phase: 'finalizing', backupId: copied.backupId };
    show();
    const { walDeadline } = facts.pace;
    const input: CopiedBackupInput = { ...backup, instance, copied, walDeadline, ...metadataOf(request) };
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

/** Copies, and hands on what operators want meanwhile. */
function copyUnderControl(
  request: BackupRequest,
  { manifest, pace, policy }: ClusterFacts,
  { attempt, control }: BackupRun,
  { instance, deadline }: { instance: string; deadline: number },
): Promise<CopiedBackup> {
  const { namespace, cluster, backupName } = request;
  const { firstExecutionRunId: runId } = workflowInfo();
  const reference: CopyReference = { namespace, cluster, backupName, runId, attempt };
  const copy = () =>
    copyWork(request, pace, instance, deadline).copyBackup({
      ...reference,
      manifest,
      instance,
      immediateCheckpoint:
        request.immediateCheckpoint ??
        manifest.spec.backup?.barmanObjectStore?.data?.immediateCheckpoint ??
        false,
      ...(policy && { limits: policy.limits }),
      ...(control.wanted && { control: control.wanted }),
    });
  const { controlBackup } = controlWork(request, instance);
  return control.during(copy, (wish) => controlBackup({ ...reference, control: wish }));
}

/** On the machine of the copy, whose server can be asked to close its segment; when that is gone, wherever it can be done. */
async function confirm(request: BackupRequest, facts: ClusterFacts, input: CopiedBackupInput): Promise<void> {
  const here = walkeep.instanceQueue(request.namespace, request.cluster, input.instance);
  try {
    await clusterWork(request, facts.pace, here).confirmBackup(input);
  } catch (error) {
    if (troubleOf(error, here)?.code !== 'worker-missing') throw error;
    await clusterWork(request, facts.pace).confirmBackup(input);
  }
}

/** Work that any instance of the cluster can do. Its foreseen, passing failures are retried where they happen. */
function clusterWork(request: BackupRequest, pace: Pace, instanceQueue?: string) {
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

function controlWork(request: BackupRequest, instance: string) {
  return proxyActivities<ControlActivities>({
    taskQueue: walkeep.instanceQueue(request.namespace, request.cluster, instance),
    summary: 'tell the copy what is wanted of it',
    scheduleToStartTimeout: '15 seconds',
    startToCloseTimeout: '10 seconds',
    scheduleToCloseTimeout: '1 minute',
    cancellationType: ActivityCancellationType.TRY_CANCEL,
  });
}

function copyWork(request: BackupRequest, pace: Pace, instance: string, deadline: number) {
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

/** The outcome record that outlives Temporal; a run that can't write it still ends. @returns whether it was written */
async function writeDown(
  request: BackupRequest,
  facts: ClusterFacts,
  status: BackupStatus,
): Promise<boolean> {
  const { recordOutcome } = proxyActivities<BaseBackupActivities>({
    taskQueue: walkeep.clusterQueue(request.namespace, request.cluster),
    summary: 'write down how it ended',
    startToCloseTimeout: '1 minute',
    scheduleToCloseTimeout: '5 minutes',
    heartbeatTimeout: facts.pace.heartbeat * 1000,
  });
  try {
    await recordOutcome({ ...referenceOf(request, facts), status, ...metadataOf(request) });
    return true;
  } catch (error) {
    log.warn(`the outcome could not be written into the repository: ${String(error)}`);
    return false;
  }
}

async function conclude(
  request: BackupRequest,
  facts: ClusterFacts | undefined,
  run: BackupRun,
  show: () => void,
  isWritten = true,
): Promise<void> {
  delete run.trouble;
  makeFindable(facts?.instance.searchAttributes ?? false, { phase: run.status.phase });
  show();
  await tellKeeper(request, run.status, isWritten);
}

async function tellKeeper(request: BackupRequest, status: BackupStatus, isWritten = true): Promise<void> {
  try {
    const news = { backupName: request.backupName, status, ...(!isWritten && { unwritten: true as const }) };
    await keeperOf(request).signal(walkeep.backupSignal, news);
  } catch (error) {
    if (isCancellation(error)) throw error;
    // No keeper: the run was started by hand, or Temporal lost it. The repository has the record.
    if (isTerminalPhase(status.phase)) log.info('no keeper was there to be told');
  }
}

function referenceOf(request: BackupRequest, facts: ClusterFacts): BackupReference {
  return {
    namespace: request.namespace,
    cluster: request.cluster,
    backupName: request.backupName,
    manifest: facts.manifest,
  };
}

/** What the Backup object carried, for its outcome. */
function metadataOf({
  labels,
  annotations,
  ownerReferences,
}: BackupRequest): Pick<CopiedBackupInput, 'metadata'> {
  if (!labels && !annotations && !ownerReferences) return {};
  return {
    metadata: {
      ...(labels && { labels }),
      ...(annotations && { annotations }),
      ...(ownerReferences && { ownerReferences }),
    },
  };
}

/** The phase that makes a run findable: CloudNativePG's words, and `paused`. */
function phaseOf({ status, control }: BackupRun): string {
  return status.phase === 'running' && control.paused ? 'paused' : status.phase;
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

function now(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z');
}
