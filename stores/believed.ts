/** Locks can be switched on for a bucket that exists. */
const BELIEVED_MS = 5 * 60_000;

/**
 * Asks once for all who want to know, and believes the answer for five minutes. A failure is nobody's answer: the next one
 * asks again.
 *
 * @param ask may look at an example that the asker has (`by`): the answer is for all
 * @param now milliseconds from any beginning, for tests
 */
export function believed<T, Subject extends readonly unknown[] = []>(
  ask: (signal: AbortSignal, ...by: Subject) => Promise<T>,
  now: () => number = () => performance.now(),
): (signal: AbortSignal, ...by: Subject) => Promise<T> {
  let held: { readonly at: number; readonly answer: Promise<T> } | undefined;
  return (signal, ...by) => {
    if (held !== undefined && now() - held.at < BELIEVED_MS) return held.answer;
    const asked = { at: now(), answer: ask(signal, ...by) };
    held = asked;
    asked.answer.catch(() => {
      if (held === asked) held = undefined;
    });
    return asked.answer;
  };
}
