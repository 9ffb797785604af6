import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Asks again and again until `question` answers with something truthy, and returns that.
 * An answer that throws counts as no; the last one is the cause of the failure.
 *
 * @param what what is waited for, for the message
 */
export async function until<T>(
  what: string,
  question: () => Promise<T> | T,
  { timeoutMs = 30_000, everyMs = 50 }: { timeoutMs?: number; everyMs?: number } = {},
): Promise<NonNullable<T>> {
  const deadline = Date.now() + timeoutMs;
  let cause: unknown;
  for (;;) {
    try {
      const answer = await question();
      if (answer) return answer;
    } catch (error) {
      cause = error;
    }
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`, { cause });
    await sleep(everyMs);
  }
}
