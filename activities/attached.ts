import { Context } from '@temporalio/activity';
import { setTimeout as delay } from 'node:timers/promises';
import type { Job } from '../operations/job-registry.ts';
import { beatIntervalMs } from './beat.ts';

/** Asks the Temporal server for a sign of life; rejects when none comes within a few seconds. */
export type AskServer = () => Promise<void>;

/**
 * Waits for a job that belongs to the process and reports its progress by heartbeats.
 *
 * Only what an operator or the service manager wants (cancel, pause, shutdown) stops the job. An attempt that the
 * server has given up (`timedOut`, `notFound`, `reset`) is deaf from then on: it leaves, the job goes on, and the next
 * attempt attaches to it. A result that is handed over while the server is away would be lost, so the attempt keeps
 * beating until the server answers.
 */
export async function attached<Progress, Result>(
  job: Job<Progress, Result>,
  askServer: AskServer,
): Promise<Result> {
  const context = Context.current();
  const startedAt = Date.now();
  let nextBeatAt = 0;
  const beatWhenDue = () => {
    if (Date.now() < nextBeatAt) return;
    context.heartbeat({ version: 1, ...job.progress });
    nextBeatAt = Date.now() + beatIntervalMs(Date.now() - startedAt, context.info.heartbeatTimeoutMs);
  };
  while (!job.settled) {
    beatWhenDue();
    await pause(
      job.changed(),
      Math.max(50, Math.min(1_000, nextBeatAt - Date.now())),
      context.cancellationSignal,
    );
    await leaveIfCancelled(job, context);
  }
  while (!(await answers(askServer))) {
    beatWhenDue();
    await pause(undefined, 1_000, context.cancellationSignal);
    await leaveIfCancelled(job, context);
  }
  return job.outcome();
}

async function leaveIfCancelled(job: Job<unknown, unknown>, context: Context): Promise<void> {
  if (!context.cancellationSignal.aborted) return;
  const why = context.cancellationDetails;
  const wanted = why?.cancelRequested || why?.paused || why?.workerShutdown;
  if (wanted) await job.stop(context.cancellationSignal.reason);
  throw context.cancellationSignal.reason;
}

async function answers(askServer: AskServer): Promise<boolean> {
  try {
    await askServer();
    return true;
  } catch {
    return false;
  }
}

/** Until news, the time is over, or the attempt is cancelled; leaves no timer behind. */
async function pause(news: Promise<void> | undefined, ms: number, cancelled: AbortSignal): Promise<void> {
  const over = new AbortController();
  const stop = () => over.abort();
  if (cancelled.aborted) return;
  cancelled.addEventListener('abort', stop, { once: true });
  try {
    const timer = delay(ms, undefined, { signal: over.signal }).catch(() => {});
    await (news ? Promise.race([news, timer]) : timer);
  } finally {
    cancelled.removeEventListener('abort', stop);
    over.abort();
  }
}
