import { unlessAborted } from '../streams/abortable.ts';

/** Locks can be switched on for a bucket that exists. */
const BELIEVED_MS = 5 * 60_000;

interface Asked<T> {
  readonly at: number;
  readonly answer: Promise<T>;
  readonly stop: AbortController;
  waiting: number;
  isOver: boolean;
}

/**
 * Asks once for all who want to know, and believes the answer for five minutes. A failure is nobody's answer: the next one
 * asks again. Each waits with a signal of its own: who gives up leaves the question to the others, and it is given up
 * when nobody waits any more.
 *
 * @param ask may look at an example that the asker has (`by`): the answer is for all
 * @param now milliseconds from any beginning, for tests
 */
export function believed<T, Subject extends readonly unknown[] = []>(
  ask: (signal: AbortSignal, ...by: Subject) => Promise<T>,
  now: () => number = () => performance.now(),
): (signal: AbortSignal, ...by: Subject) => Promise<T> {
  let held: Asked<T> | undefined;
  const forget = (asked: Asked<T>) => {
    if (held === asked) held = undefined;
  };
  const begin = (by: Subject): Asked<T> => {
    const stop = new AbortController();
    const asked: Asked<T> = { at: now(), answer: ask(stop.signal, ...by), stop, waiting: 0, isOver: false };
    asked.answer.then(
      () => (asked.isOver = true),
      () => {
        asked.isOver = true;
        forget(asked);
      },
    );
    return asked;
  };

  return async (signal, ...by) => {
    signal.throwIfAborted();
    if (held === undefined || now() - held.at >= BELIEVED_MS) held = begin(by);
    const asked = held;
    asked.waiting += 1;
    try {
      return await unlessAborted(asked.answer, signal);
    } finally {
      asked.waiting -= 1;
      if (asked.waiting === 0 && !asked.isOver) {
        // first, so that nobody comes to a question that is being given up
        forget(asked);
        asked.stop.abort(signal.reason);
      }
    }
  };
}
