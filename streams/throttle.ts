import { setTimeout as delay } from 'node:timers/promises';

/** What an operator wants of bytes that move. */
export interface ThrottleWish {
  readonly paused: boolean;
  /** All threads together; `undefined`: no limit. */
  readonly bytesPerSecond?: number | undefined;
}

/** Lets bytes pass when it is their turn. */
export interface Throttle {
  /** Resolves when `bytes` may pass. @throws the signal's reason */
  take(bytes: number, signal: AbortSignal): Promise<void>;
}

/** The throttle's owner: changes what is wanted, at any time, for all who joined. */
export interface ThrottleOwner extends Throttle {
  /** For `joinThrottle`, in this thread or another. */
  readonly memory: SharedArrayBuffer;
  set(wish: ThrottleWish): void;
}

// Places in the shared memory, 64 bits each.
const [EPOCH, RATE, PAUSED, NEXT_FREE] = [0, 1, 2, 3];
const WORDS = 4;
/** A change is noticed within this time, and so is an abort. */
const LOOK_EVERY_MS = 100;
/** Time that was lost between two pieces may be made up, up to this: timers are late by a millisecond or two. */
const BURST_NS = 100_000_000n;
const SECOND_NS = 1_000_000_000n;

/**
 * A token bucket in memory that threads share: all of them together pass at most the rate × (time + 0.1 s), and one
 * piece a thread. It costs an atomic operation a piece; nothing has to be sent when the rate changes.
 */
export function createThrottle(wish: ThrottleWish = { paused: false }): ThrottleOwner {
  const memory = new SharedArrayBuffer(WORDS * BigInt64Array.BYTES_PER_ELEMENT);
  const words = new BigInt64Array(memory);
  const owner = {
    ...joinThrottle(memory),
    memory,
    set({ paused, bytesPerSecond }: ThrottleWish) {
      Atomics.store(words, RATE, BigInt(Math.ceil(bytesPerSecond ?? 0)));
      Atomics.store(words, PAUSED, paused ? 1n : 0n);
      // Turns were given out at the old rate: whoever waits for one takes another.
      Atomics.store(words, NEXT_FREE, 0n);
      Atomics.add(words, EPOCH, 1n);
    },
  };
  owner.set(wish);
  return owner;
}

/** The same throttle, in whatever thread the memory was handed to. */
export function joinThrottle(memory: SharedArrayBuffer): Throttle {
  const words = new BigInt64Array(memory);

  /** @returns false when what is wanted changed meanwhile */
  async function waitUntil(turn: bigint, epoch: bigint, signal: AbortSignal): Promise<boolean> {
    for (;;) {
      const leftMs = Number(turn - process.hrtime.bigint()) / 1e6;
      if (leftMs <= 0) return true;
      await delay(Math.min(LOOK_EVERY_MS, leftMs), undefined, { signal }).catch(() => {});
      signal.throwIfAborted();
      if (Atomics.load(words, EPOCH) !== epoch) return false;
    }
  }

  return {
    async take(bytes, signal) {
      for (;;) {
        signal.throwIfAborted();
        const epoch = Atomics.load(words, EPOCH);
        if (Atomics.load(words, PAUSED) !== 0n) {
          await delay(LOOK_EVERY_MS, undefined, { signal }).catch(() => {});
          continue;
        }
        const rate = Atomics.load(words, RATE);
        if (rate <= 0n) return;
        const turn = reserve(words, (BigInt(bytes) * SECOND_NS) / rate);
        if (await waitUntil(turn, epoch, signal)) return;
      }
    },
  };
}

/** Takes the next free stretch of time, as long as the bytes need. @returns its beginning */
function reserve(words: BigInt64Array<SharedArrayBuffer>, lengthNs: bigint): bigint {
  for (;;) {
    const free = Atomics.load(words, NEXT_FREE);
    const earliest = process.hrtime.bigint() - BURST_NS;
    const turn = free > earliest ? free : earliest;
    if (Atomics.compareExchange(words, NEXT_FREE, free, turn + lengthNs) === free) return turn;
  }
}

/** The same pieces, each when it may pass. */
export async function* throttled(
  source: AsyncIterable<Uint8Array>,
  throttle: Throttle,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  for await (const piece of source) {
    await throttle.take(piece.length, signal);
    yield piece;
  }
}
