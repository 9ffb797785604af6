/** Locks can be switched on for a bucket that exists. */
const BELIEVED_MS = 5 * 60_000;

/**
 * Asks once for all who want to know, and believes the answer for five minutes. A failure is nobody's answer: the next one
 * asks again.
 *
 * @param now milliseconds from any beginning, for tests
 */
export function believed<T>(
  ask: (signal: AbortSignal) => Promise<T>,
  now: () => number = () => performance.now(),
): (signal: AbortSignal) => Promise<T> {
  let held: { readonly at: number; readonly answer: Promise<T> } | undefined;
  return (signal) => {
    if (held !== undefined && now() - held.at < BELIEVED_MS) return held.answer;
    const asked = { at: now(), answer: ask(signal) };
    held = asked;
    asked.answer.catch(() => {
      if (held === asked) held = undefined;
    });
    return asked.answer;
  };
}
