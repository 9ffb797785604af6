import { CancellationScope, condition, isCancellation, log, setHandler } from '@temporalio/workflow';
import type { CopyControl } from '../activities/control.ts';
import { isBackupError } from '../core/errors.ts';
import { parseRate } from '../core/rate.ts';
import { failure } from './failures.ts';
import * as walkeep from './interface.ts';

/** An update answers when the copy was told, or after this time: it is told as soon as it can hear. */
const ANSWER_AFTER = '15 seconds';

/**
 * What operators want of one Backup while it runs, and how its copy hears of it. A signal is for who does not wait; an update of the same name answers with what is wanted now.
 */
export class BackupControl {
  #wanted: CopyControl | undefined;
  /** The version the copy that runs was told. */
  #told = 0;
  #copying = false;
  readonly #onChange: () => void;
  readonly #hasEnded: () => boolean;

  constructor({ onChange, hasEnded }: { onChange: () => void; hasEnded: () => boolean }) {
    this.#onChange = onChange;
    this.#hasEnded = hasEnded;
  }

  /** Before the first `await` of the workflow. Takes what operators say from here on, and at once what came before the first line of the workflow. */
  listen(): void {
    const pause = () => this.#want({ paused: true });
    const resume = () => this.#want({ paused: false });
    const throttle = (input: walkeep.ThrottleInput) => this.#want({ maxBytesPerSecond: rateOf(input) });
    const answer = (want: () => CopyControl) => async () => this.#answer(want());
    const refuse = { validator: () => this.#requireRunning() };

    setHandler(walkeep.pauseSignal, () => void pause(), { description: WHAT.pause });
    setHandler(walkeep.pauseUpdate, answer(pause), { ...refuse, description: WHAT.pause });
    setHandler(walkeep.resumeSignal, () => void resume(), { description: WHAT.resume });
    setHandler(walkeep.resumeUpdate, answer(resume), { ...refuse, description: WHAT.resume });
    setHandler(walkeep.throttleSignal, (input) => ignoringBadInput(() => throttle(input)), {
      description: WHAT.throttle,
    });
    setHandler(walkeep.throttleUpdate, async (input) => this.#answer(throttle(input)), {
      validator: (input) => {
        this.#requireRunning();
        rateOf(input);
      },
      description: WHAT.throttle,
    });
  }

  /** `undefined` when nobody ever wanted anything. */
  get wanted(): CopyControl | undefined {
    return this.#wanted;
  }

  get paused(): boolean {
    return this.#wanted?.paused ?? false;
  }

  /**
   * Runs a copy, whose input carries what is `wanted` now, and tells it each later wish.
   *
   * @param tell reaches the process of the copy
   */
  async during<Result>(
    copy: () => Promise<Result>,
    tell: (wish: CopyControl) => Promise<unknown>,
  ): Promise<Result> {
    this.#told = this.#wanted?.version ?? 0;
    this.#copying = true;
    const telling = new CancellationScope();
    void telling
      .run(async () => {
        for (;;) {
          await condition(() => this.#untold() !== undefined);
          const wish = this.#untold();
          if (wish) await this.#tell(wish, tell);
        }
      })
      .catch(() => {});
    try {
      return await copy();
    } finally {
      this.#copying = false;
      telling.cancel();
    }
  }

  async #tell(wish: CopyControl, tell: (wish: CopyControl) => Promise<unknown>): Promise<void> {
    try {
      await tell(wish);
    } catch (error) {
      if (isCancellation(error)) throw error;
      // The worker is away: the next attempt of the activity asks what is wanted.
      log.warn('the copy could not be told what is wanted of it', { wish });
    }
    this.#told = wish.version;
  }

  #untold(): CopyControl | undefined {
    const wish = this.#wanted;
    return wish && wish.version > this.#told ? wish : undefined;
  }

  #want(change: Partial<walkeep.ControlState>): CopyControl {
    const before = this.#wanted ?? { paused: false, version: 0 };
    const after = { ...before, ...change };
    const same = after.paused === before.paused && after.maxBytesPerSecond === before.maxBytesPerSecond;
    if (same || this.#hasEnded()) return before;
    this.#wanted = { ...after, version: before.version + 1 };
    this.#onChange();
    return this.#wanted;
  }

  async #answer({ version, ...state }: CopyControl): Promise<walkeep.ControlState> {
    const told = () => !this.#copying || this.#told >= version;
    await condition(told, ANSWER_AFTER, { summary: 'wait until the copy was told' });
    return state;
  }

  #requireRunning(): void {
    if (this.#hasEnded())
      throw failure('input-invalid', 'this Backup has ended', 'there is nothing to control any more');
  }
}

const WHAT = {
  pause: 'Reads nothing more until resumed; PostgreSQL stays in backup mode, and the deadline comes nearer.',
  resume: 'Goes on after a pause.',
  throttle: 'Another rate: {"maxRate": "20MiB/s"}; null is no limit.',
} as const;

/** @returns bytes a second, `null` for no limit @throws ApplicationFailure `input-invalid` */
function rateOf(input: walkeep.ThrottleInput): number | null {
  // People type it: anything may come.
  const maxRate: unknown = (input as Partial<walkeep.ThrottleInput> | null | undefined)?.maxRate;
  if (maxRate === null) return null;
  try {
    if (typeof maxRate === 'string') return parseRate(maxRate);
  } catch (error) {
    if (!isBackupError(error)) throw error;
  }
  throw failure(
    'input-invalid',
    `throttle: field "maxRate": expected a rate or null, got ${JSON.stringify(maxRate) ?? 'nothing'}`,
    'write {"maxRate": "20MiB/s"}, at least 1KiB/s, or {"maxRate": null} for no limit',
  );
}

/** A signal can't be refused, and must not end the run. */
function ignoringBadInput(handle: () => unknown): void {
  try {
    handle();
  } catch (error) {
    log.warn(`a signal was passed over: ${String(error)}`);
  }
}
