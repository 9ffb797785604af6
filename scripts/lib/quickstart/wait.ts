/** Waiting for what takes its time, with an end. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection } from '@temporalio/client';
import { StepFailed } from './commands.ts';

export interface Waiting {
  /** Whether it makes no sense to go on waiting. */
  readonly giveUp?: () => boolean;
  readonly timeoutMs?: number;
  readonly everyMs?: number;
  readonly advice?: string;
  readonly log?: string;
}

/** Asks until the answer is yes; an error is a no, a StepFailed the end. @throws StepFailed also when it takes too long */
export async function until(
  what: string,
  question: () => Promise<boolean> | boolean,
  waiting: Waiting = {},
): Promise<void> {
  const { giveUp = () => false, timeoutMs = 90_000, everyMs = 150, advice = 'try again', log } = waiting;
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    try {
      if (await question()) return;
    } catch (error) {
      if (error instanceof StepFailed) throw error;
    }
    if (giveUp()) throw new StepFailed(`waiting for ${what} is in vain`, advice, log);
    if (Date.now() > deadline)
      throw new StepFailed(`waited ${timeoutMs / 1000} s in vain for ${what}`, advice, log);
    await sleep(everyMs);
  }
}

/** Whether a Temporal server is ready for work, not only for connections. */
export async function answersTemporal(port: number): Promise<boolean> {
  const connection = await Connection.connect({ address: `127.0.0.1:${port}`, connectTimeout: 2_000 });
  try {
    await connection.workflowService.describeNamespace({ namespace: 'default' });
    return true;
  } finally {
    await connection.close();
  }
}
