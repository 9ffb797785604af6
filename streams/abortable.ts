/** An iteration that can be closed at any time, also while a piece is awaited. */
export interface Closable<T> extends AsyncIterableIterator<T, undefined, void> {
  return(): Promise<IteratorResult<T, undefined>>;
}

/**
 * `source`, given up at once when `signal` aborts or the iteration is closed, even while a piece is awaited that may
 * never come. The source is told to stop (`return`), but one that is stuck is not waited for.
 *
 * @throws the signal's reason
 */
export function abortable<T>(source: AsyncIterable<T>, signal: AbortSignal): Closable<T> {
  const iterator = source[Symbol.asyncIterator]();
  const done = { done: true, value: undefined } as const;
  let closed = false;
  let giveUp: ((last: IteratorResult<T, undefined>) => void) | undefined;

  async function stop() {
    if (closed) return;
    closed = true;
    const stopped = iterator.return?.();
    // behind a `next` that hangs, `return` would hang too
    if (giveUp === undefined) await stopped;
    else stopped?.catch(() => undefined);
    giveUp?.(done);
  }

  return {
    async next() {
      if (closed) return done;
      const closing = new Promise<IteratorResult<T, undefined>>((resolve) => {
        giveUp = resolve;
      });
      try {
        const step = await unlessAborted(Promise.race([iterator.next(), closing]), signal);
        giveUp = undefined;
        if (step.done !== true) return step;
        closed = true;
        return done;
      } catch (error) {
        // after an abort the source may still be busy; after its own error it is finished
        await stop();
        throw error;
      }
    },
    async return() {
      await stop();
      return done;
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

/**
 * What `promise` brings, or the signal's reason as soon as it aborts. The promise is left to itself then: its later
 * failure is not reported.
 */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    const settled = () => signal.removeEventListener('abort', onAbort);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(settled);
  });
}
