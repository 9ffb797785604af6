import {
  CancellationScope,
  CancelledFailure,
  ChildWorkflowFailure,
  getExternalWorkflowHandle,
  isCancellation,
  log,
  ParentClosePolicy,
  proxyActivities,
  proxyLocalActivities,
  setCurrentDetails,
  sleep,
  startChild,
  TemporalFailure,
  WorkflowIdReusePolicy,
  workflowInfo,
} from '@temporalio/workflow';
import { defineSearchAttributeKey, WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import type { BaseBackupActivities } from '../activities/base-backup.ts';
import type {
  ConsideredSlot,
  ConsiderSlotInput,
  ScheduleActivities,
  ScheduleFacts,
  ScheduleLookup,
} from '../activities/schedules.ts';
import type { BackupStatus } from '../core/backup-status.ts';
import type { ErrorCode } from '../core/errors.ts';
import { CATCH_UP_MS, rfc3339, slotBackupName } from '../core/slots.ts';
import { failure, failureOf, troubleOf, type Trouble } from './failures.ts';
import { parseScheduledBackupInput, requireBackupName } from './inputs.ts';
import * as walkeep from './interface.ts';
import { scheduledBackupPage } from './scheduled-backup-page.ts';
import { slotBackupInput } from './scheduled-backup-child.ts';
import { makeFindable } from './search-attributes.ts';

type Request = ReturnType<typeof parseScheduledBackupInput> & {
  /** What the slots belong to: the ScheduledBackup, or the cluster where none is named. */
  readonly series: string;
  readonly cluster: string;
  /** RFC 3339, in whole seconds. */
  readonly slot: string;
  readonly isDueBySchedule: boolean;
};

interface Run {
  news?: walkeep.SlotNews;
  missed: readonly walkeep.SlotNews[];
  status?: BackupStatus;
  waitingFor?: string;
  trouble?: string;
}

type Decided = Extract<ConsideredSlot, { readonly news: unknown }>;

/** The server's own: the due time of a run that a Schedule began. */
const DUE_TIME = defineSearchAttributeKey('TemporalScheduledStartTime', 'DATETIME');
const LONGEST_WAIT_MS = 15 * 60_000;
/** What somebody has to correct first, and then it goes on; everything else that no retry cures ends the run. */
const CURABLE: readonly ErrorCode[] = [
  'access-denied',
  'bucket-missing',
  'secret-missing',
  'config-invalid',
  'cluster-unknown',
  'schedule-unknown',
];

/**
 * One slot of a schedule: decides whether a Backup is taken, records that once and for all in the repository, and then
 * takes it. A Schedule starts it, or a person, also with `--cron`: then the slot is the time the run began. It never
 * continues as new, since a chain of `--cron` would end with that.
 *
 * @returns the Backup's status, or why there is none
 */
export async function scheduledBackup(
  input: walkeep.ScheduledBackupInput,
): Promise<BackupStatus | walkeep.SlotNews> {
  // A run of `--cron` that is cancelled while it waits for its time begins at once: it is to do nothing.
  if (CancellationScope.current().consideredCancelled)
    throw new CancelledFailure('cancelled before it was due');
  const parsed = parseScheduledBackupInput(input);
  const series = parsed.scheduledBackup ?? parsed.cluster ?? '';
  const dueAt = dueTimeOf(walkeep.scheduleId(parsed.namespace, series));
  const slot = rfc3339(dueAt ?? new Date());
  const run: Run = { missed: [] };
  const shown = { ...parsed, series, slot };
  setCurrentDetails(scheduledBackupPage(shown, run));
  const cluster = parsed.cluster ?? (await clusterOf(parsed.namespace, series));
  const request: Request = { ...parsed, series, cluster, slot, isDueBySchedule: dueAt !== undefined };
  requireBackupName(slotBackupName(series, new Date(slot)), request);
  const show = () => setCurrentDetails(scheduledBackupPage(request, run));

  const { facts, decided } = await decide(request, run, show);
  run.news = decided.news;
  run.missed = decided.missed;
  show();
  await tellKeeper(request, [...decided.missed, decided.news]);
  const { news } = decided;
  makeFindable(facts.cluster.instance.searchAttributes, {
    phase: news.outcome,
    ...(news.outcome === 'ran' && news.backupName !== undefined && { backup: news.backupName }),
  });
  if (news.outcome !== 'ran') return news;
  run.status = await takeBackup(request, facts, news.backupName ?? slotBackupName(series, new Date(slot)));
  show();
  return run.status;
}

/** When the slot was due of a run that a Schedule began, or that was begun late in its stead: it has the same id. */
function dueTimeOf(schedule: string): Date | undefined {
  const { typedSearchAttributes, workflowId } = workflowInfo();
  const told = typedSearchAttributes.get(DUE_TIME);
  if (told || !workflowId.startsWith(`${schedule}-`)) return told;
  const text = workflowId.slice(schedule.length + 1);
  const slot = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(text) ? new Date(text) : undefined;
  return slot && slot.getTime() <= Date.now() ? slot : undefined;
}

/** Which cluster a ScheduledBackup is of, where the input does not say. */
async function clusterOf(namespace: string, name: string): Promise<string> {
  const { findSchedule } = proxyLocalActivities<ScheduleLookup>({
    summary: 'which cluster is it of?',
    startToCloseTimeout: '20 seconds',
    scheduleToCloseTimeout: '5 minutes',
  });
  try {
    return (await findSchedule({ namespace, scheduledBackup: name })).cluster;
  } catch (error) {
    throw asFailure(error, walkeep.WORKFLOW_QUEUE);
  }
}

/**
 * Decides, and waits for what that takes: a worker of the cluster, and the repository, into which the backup would go
 * as well. A slot waits until it is overtaken or too old; one that was never recorded is found as missed later.
 */
async function decide(
  request: Request,
  run: Run,
  show: () => void,
): Promise<{ readonly facts: ScheduleFacts; readonly decided: Decided }> {
  const deadline = Math.max(Date.parse(request.slot), workflowInfo().startTime.getTime()) + CATCH_UP_MS;
  for (let wait = 30_000; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
    run.waitingFor = `a worker of ${request.cluster}, on ${queueOf(request)}`;
    show();
    try {
      const facts = await work(request, 'load what was applied', deadline).loadSchedule({
        namespace: request.namespace,
        cluster: request.cluster,
        ...(request.scheduledBackup !== undefined && { scheduledBackup: request.scheduledBackup }),
      });
      const exists = facts.cluster.instance.searchAttributes;
      const { cluster, namespace } = request;
      makeFindable(exists, { cluster, namespace, operation: 'schedule', phase: 'deciding' });
      run.waitingFor = 'the repository';
      show();
      const decided = await consider(request, facts, deadline);
      delete run.waitingFor;
      delete run.trouble;
      return { facts, decided };
    } catch (error) {
      const trouble = troubleOf(error, queueOf(request)) ?? unforeseen(error);
      if (!mayBeCured(trouble, request) || Date.now() + wait >= deadline) throw failureOf(trouble);
      run.trouble = trouble.message;
      show();
      log.warn(`the slot can't be decided yet: ${trouble.message}`, { code: trouble.code });
      await sleep(wait, { summary: `wait before another look: ${trouble.code}` });
    }
  }
}

/** A person who named something that is not there wants to hear it at once; a Schedule may be ahead of a worker. */
function mayBeCured({ code, retryable }: Trouble, { isDueBySchedule }: Request): boolean {
  const isUnknown = code === 'cluster-unknown' || code === 'schedule-unknown';
  return isUnknown ? isDueBySchedule : retryable || CURABLE.includes(code);
}

async function consider(request: Request, facts: ScheduleFacts, deadline: number): Promise<Decided> {
  const input: ConsiderSlotInput = {
    namespace: request.namespace,
    cluster: request.cluster,
    manifest: facts.cluster.manifest,
    ...(facts.schedule && { schedule: facts.schedule }),
    slot: request.slot,
    ...(request.immediate && { immediate: true }),
    deadline: facts.cluster.pace.deadline,
  };
  const { considerSlot } = work(request, `decide about ${request.slot}`, deadline);
  let answer = await considerSlot(input);
  // More than once only when a Backup comes in between.
  for (let asked = 0; 'ask' in answer && asked < 5; asked += 1) {
    const isOpen = await isRunning(request, answer.ask);
    answer = await considerSlot({ ...input, asked: { backupName: answer.ask, isOpen } });
  }
  if ('ask' in answer) {
    throw failure(
      'backup-in-progress',
      `whether the Backup "${answer.ask}" has ended could not be found out`,
    );
  }
  return answer;
}

/** Only a run that is open takes signals. */
async function isRunning({ namespace }: Request, backupName: string): Promise<boolean> {
  try {
    await getExternalWorkflowHandle(walkeep.backupWorkflowId(namespace, backupName)).signal(
      walkeep.reportSignal,
    );
    return true;
  } catch (error) {
    if (isCancellation(error)) throw error;
    return false;
  }
}

/** The slot's Backup, begun or found. It goes on whatever becomes of this run, but is cancelled with it. */
async function takeBackup(request: Request, facts: ScheduleFacts, backupName: string): Promise<BackupStatus> {
  const workflowId = walkeep.backupWorkflowId(request.namespace, backupName);
  try {
    const child = await startChild(walkeep.WORKFLOW.baseBackup, {
      workflowId,
      args: [slotBackupInput(request, facts, backupName)],
      taskQueue: walkeep.WORKFLOW_QUEUE,
      parentClosePolicy: ParentClosePolicy.ABANDON,
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      staticSummary: `Backup ${backupName} of ${request.namespace}/${request.cluster}`,
    });
    return (await child.result()) as BackupStatus;
  } catch (error) {
    if (error instanceof WorkflowExecutionAlreadyStartedError) return endOf(request, facts, backupName);
    throw backupFailure(error, backupName);
  }
}

function backupFailure(error: unknown, backupName: string): unknown {
  if (!(error instanceof ChildWorkflowFailure)) return error;
  const { cause } = error;
  if (isCancellation(cause) || isCancellation(error)) {
    // Cancelled by itself, it must not end a chain of `--cron`.
    return CancellationScope.current().consideredCancelled
      ? error
      : failure('backup-interrupted', `the Backup "${backupName}" was cancelled`);
  }
  const trouble = troubleOf(cause, walkeep.WORKFLOW_QUEUE);
  return trouble
    ? failureOf({ ...trouble, message: `Backup "${backupName}": ${trouble.message}` })
    : failure('backup-interrupted', `the Backup "${backupName}" failed: ${cause?.message ?? error.message}`);
}

/** How a Backup ends that somebody else began. */
async function endOf(request: Request, facts: ScheduleFacts, backupName: string): Promise<BackupStatus> {
  for (let wait = 15_000; await isRunning(request, backupName); wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
    await sleep(wait, { summary: `${backupName} was begun already: wait for its end` });
  }
  const { findOutcome } = proxyActivities<BaseBackupActivities>({
    taskQueue: queueOf(request),
    summary: `how did ${backupName} end?`,
    startToCloseTimeout: '1 minute',
    scheduleToCloseTimeout: '1 hour',
    heartbeatTimeout: facts.cluster.pace.heartbeat * 1000,
  });
  const { namespace, cluster } = request;
  const { manifest } = facts.cluster;
  const status = await findOutcome({ namespace, cluster, backupName, manifest }).catch((error: unknown) => {
    throw asFailure(error, queueOf(request));
  });
  if (status?.phase === 'completed') return status;
  throw failure(
    'backup-interrupted',
    `the Backup "${backupName}" failed: ${status?.error ?? 'it left no outcome'}`,
  );
}

async function tellKeeper(request: Request, told: readonly walkeep.SlotNews[]): Promise<void> {
  if (request.scheduledBackup === undefined || request.immediate) return;
  const keeper = getExternalWorkflowHandle(walkeep.clusterWorkflowId(request.namespace, request.cluster));
  try {
    for (const news of told) await keeper.signal(walkeep.slotSignal, news);
  } catch (error) {
    if (isCancellation(error)) throw error;
    log.info('no keeper was there to be told');
  }
}

function work(request: Request, summary: string, deadline: number) {
  return proxyActivities<ScheduleActivities>({
    taskQueue: queueOf(request),
    summary,
    startToCloseTimeout: '2 minutes',
    scheduleToCloseTimeout: Math.max(60_000, deadline - Date.now()),
    // An answer that is lost with the server is asked for again this soon: the next slot may be near.
    heartbeatTimeout: '20 seconds',
    retry: { initialInterval: '2 seconds', maximumInterval: '1 minute' },
  });
}

function queueOf({ namespace, cluster }: Request): string {
  return walkeep.clusterQueue(namespace, cluster);
}

function asFailure(error: unknown, queue: string): unknown {
  const trouble = troubleOf(error, queue);
  return trouble ? failureOf(trouble) : error;
}

function unforeseen(error: unknown): Trouble {
  if (!(error instanceof TemporalFailure)) throw error;
  const message = (error.cause ?? error).message;
  return { code: 'deadline-exceeded', message, hint: 'see the worker’s log', retryable: true };
}
