import { msLeft, newPace, observe, resumed, type MeasuredPace } from '../core/eta.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { createThrottle } from '../streams/throttle.ts';
import type { CopyWish, Progress } from './backup-ports.ts';
import type { Wishes } from './job-registry.ts';

export interface CopyPaceOptions {
  /** Where no operator says otherwise. */
  readonly maxBytesPerSecond?: number | undefined;
  readonly wishes?: Wishes<CopyWish> | undefined;
  readonly onProgress: (progress: Progress) => void;
}

type Moved = Pick<Progress, 'doneBytes' | 'totalBytes' | 'storedBytes'>;

const PROGRESS_INTERVAL_MS = 250;

/** How fast one copy may go and does go, and what is told of it. */
export class CopyPace {
  readonly #options: CopyPaceOptions;
  readonly #throttle = createThrottle();
  readonly #stopListening: () => void;
  #paused = false;
  #measured: MeasuredPace = newPace(performance.now());
  #phase: Progress['phase'] = 'starting';
  #moved: Moved = { doneBytes: 0, totalBytes: 0, storedBytes: 0 };
  #reportedAt: number | undefined;
  #wake: () => void = () => {};

  constructor(options: CopyPaceOptions) {
    this.#options = options;
    this.#stopListening = options.wishes?.listen((wish) => this.#apply(wish)) ?? (() => {});
    this.#apply(options.wishes?.latest);
  }

  /** What the threads that read are given. */
  get memory(): SharedArrayBuffer {
    return this.#throttle.memory;
  }

  /** Resolves when nobody wants the copy to pause. @throws the signal's reason */
  async untilWanted(signal: AbortSignal): Promise<void> {
    while (this.#paused) {
      await unlessAborted(new Promise<void>((resolve) => (this.#wake = resolve)), signal);
    }
  }

  /** Tells where the copy is: at once when the phase is another, else a few times a second. */
  report(phase: Progress['phase'], moved: Partial<Moved> = {}): void {
    const now = performance.now();
    if (phase === 'copying' && this.#phase !== 'copying') this.#measured = newPace(now);
    const isNews = phase !== this.#phase || this.#reportedAt === undefined;
    this.#phase = phase;
    const doneBytes = moved.doneBytes ?? this.#moved.doneBytes;
    // Files grow and shrink while they are read: never more than all.
    const totalBytes = Math.max(moved.totalBytes ?? this.#moved.totalBytes, doneBytes);
    this.#moved = { doneBytes, totalBytes, storedBytes: moved.storedBytes ?? this.#moved.storedBytes };
    if (phase === 'copying' && !this.#paused) this.#measured = observe(this.#measured, now, doneBytes);
    if (isNews || now - (this.#reportedAt ?? 0) >= PROGRESS_INTERVAL_MS) this.#send(now);
  }

  end(): void {
    this.#stopListening();
  }

  #apply(wish: CopyWish | undefined): void {
    const limit = wish?.maxBytesPerSecond;
    const bytesPerSecond = limit === undefined ? this.#options.maxBytesPerSecond : (limit ?? undefined);
    const paused = wish?.paused ?? false;
    this.#throttle.set({ paused, bytesPerSecond });
    if (paused === this.#paused) return;
    this.#paused = paused;
    this.#measured = resumed(this.#measured, performance.now());
    if (!paused) this.#wake();
    this.#send(performance.now());
  }

  #send(now: number): void {
    this.#reportedAt = now;
    // Whatever is past reading is past being held up.
    const mayPause = this.#phase === 'starting' || this.#phase === 'copying';
    const paused = this.#paused && mayPause;
    const { bytesPerSecond } = this.#measured;
    const measures = this.#phase === 'copying' && bytesPerSecond !== undefined;
    const left = measures && !paused ? msLeft(this.#measured, this.#moved.totalBytes) : undefined;
    this.#options.onProgress({
      phase: paused ? 'paused' : this.#phase,
      ...this.#moved,
      ...(measures && { bytesPerSecond: paused ? 0 : Math.round(bytesPerSecond) }),
      ...(left !== undefined && { eta: new Date(Date.now() + left).toISOString() }),
    });
  }
}
