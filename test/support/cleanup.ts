import { afterAll } from 'vitest';

type CleanUp = () => void | Promise<void>;

const pending: CleanUp[] = [];

/** Runs `action` when the tests of this file are over, whether they passed or not; the newest first. */
export function onCleanUp(action: CleanUp): void {
  pending.push(action);
}

afterAll(async () => {
  const failures: unknown[] = [];
  for (let action = pending.pop(); action; action = pending.pop()) {
    try {
      await action();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0)
    throw new AggregateError(failures, `cleaning up failed: ${failures.map(String).join('; ')}`);
}, 120_000);
