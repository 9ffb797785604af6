import { Worker } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import { createThrottle, joinThrottle, throttled, type Throttle } from '../../streams/throttle.ts';

const NEVER = new AbortController().signal;
const PIECE = 64 * 1024;

/** Bytes that pass in `ms`. */
async function passIn(ms: number, throttle: Throttle): Promise<number> {
  const over = AbortSignal.timeout(ms);
  let passed = 0;
  while (!over.aborted) {
    await throttle.take(PIECE, over).then(
      () => (passed += PIECE),
      () => {},
    );
  }
  return passed;
}

describe('a throttle', () => {
  it('lets everything pass, and the bytes stay the same, when there is no limit', async () => {
    const pieces = [1, 2, 3].map((n) => Buffer.alloc(PIECE, n));
    const out = await collectBytes(throttled(piecesOf(...pieces), createThrottle(), NEVER), 2 ** 30);
    expect(Buffer.concat(pieces).equals(out)).toBe(true);
  });

  it('never passes more than the rate and its bounded error, and not much less', async () => {
    const bytesPerSecond = 8 * 2 ** 20;
    const passed = await passIn(1_500, createThrottle({ paused: false, bytesPerSecond }));
    expect(passed).toBeLessThanOrEqual(bytesPerSecond * 1.7 + PIECE);
    expect(passed).toBeGreaterThan(bytesPerSecond * 1.5 * 0.7);
  });

  it('is one for all who joined: together they have the rate', async () => {
    const bytesPerSecond = 8 * 2 ** 20;
    const { memory } = createThrottle({ paused: false, bytesPerSecond });
    const passed = await Promise.all([1, 2, 3, 4].map(() => passIn(1_500, joinThrottle(memory))));
    const sum = passed.reduce((a, b) => a + b);
    expect(sum).toBeLessThanOrEqual(bytesPerSecond * 1.7 + 4 * PIECE);
    expect(sum).toBeGreaterThan(bytesPerSecond * 1.5 * 0.7);
  });

  it('holds threads together as well', async () => {
    const bytesPerSecond = 4 * 2 ** 20;
    const throttle = createThrottle({ paused: true, bytesPerSecond });
    const program = fileURLToPath(new URL('./throttle-thread.ts', import.meta.url));
    const threads = [1, 2, 3].map(
      () => new Worker(program, { workerData: { memory: throttle.memory, piece: PIECE } }),
    );
    const counts = [0, 0, 0];
    threads.forEach((thread, n) => thread.on('message', (bytes: number) => (counts[n] = bytes)));
    await Promise.all(threads.map((thread) => new Promise((resolve) => thread.once('online', resolve))));
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(counts).toEqual([0, 0, 0]);
    const began = performance.now();
    throttle.set({ paused: false, bytesPerSecond });
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    throttle.set({ paused: true, bytesPerSecond });
    const seconds = (performance.now() - began) / 1000;
    await new Promise((resolve) => setTimeout(resolve, 300));
    const sum = counts.reduce((a, b) => a + b);
    await Promise.all(threads.map((thread) => thread.terminate()));
    expect(sum).toBeLessThanOrEqual(bytesPerSecond * (seconds + 0.1) + 3 * PIECE);
    expect(sum).toBeGreaterThan(bytesPerSecond * seconds * 0.5);
  }, 20_000);

  it('paused, nothing passes; resumed, it goes on at once', async () => {
    const throttle = createThrottle({ paused: true });
    let passed = false;
    const taking = throttle.take(PIECE, NEVER).then(() => (passed = true));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(passed).toBe(false);
    throttle.set({ paused: false });
    await taking;
    expect(passed).toBe(true);
  });

  it('a new rate counts at once, also for who waits for a turn at the old one', async () => {
    const throttle = createThrottle({ paused: false, bytesPerSecond: 1024 });
    await throttle.take(2 ** 20, NEVER);
    const began = performance.now();
    // A quarter of an hour away at the old rate.
    const taking = throttle.take(PIECE, NEVER);
    throttle.set({ paused: false });
    await taking;
    expect(performance.now() - began).toBeLessThan(2_000);
  });

  it.for([{ paused: true }, { paused: false, bytesPerSecond: 1024 }])(
    'an abort ends the waiting (%o)',
    async (wish) => {
      const throttle = createThrottle(wish);
      const stop = new AbortController();
      const waiting = throttle.take(2 ** 20, stop.signal).then(() => throttle.take(2 ** 20, stop.signal));
      stop.abort(new Error('no longer wanted'));
      await expect(waiting).rejects.toThrow('no longer wanted');
    },
  );
});
