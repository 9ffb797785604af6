import { Context } from '@temporalio/activity';
import { beatIntervalMs } from './beat.ts';

/** Heartbeats while `work` goes on, for steps that take from moments to minutes; cancellation reaches them by their signal. */
export async function beatWhile<Result>(work: Promise<Result>): Promise<Result> {
  const context = Context.current();
  const startedAt = Date.now();
  let timer: NodeJS.Timeout | undefined;
  const beat = () => {
    context.heartbeat();
    timer = setTimeout(beat, beatIntervalMs(Date.now() - startedAt, context.info.heartbeatTimeoutMs));
  };
  beat();
  try {
    return await work;
  } finally {
    clearTimeout(timer);
  }
}
