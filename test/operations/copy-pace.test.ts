import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { CopyWish, Progress } from '../../operations/backup-ports.ts';
import { CopyPace } from '../../operations/copy-pace.ts';
import type { Wishes } from '../../operations/job-registry.ts';

const MiB = 2 ** 20;

/** An operator: says something, and the copy hears it. */
function operator(): Wishes<CopyWish> & { say(wish: Omit<CopyWish, 'version'>): void } {
  let listener: (wish: CopyWish) => void = () => {};
  let version = 0;
  return {
    latest: undefined,
    listen(heard) {
      listener = heard;
      return () => (listener = () => {});
    },
    say: (wish) => listener({ ...wish, version: ++version }),
  };
}

describe('the pace of a copy', () => {
  beforeEach(() => void vi.useFakeTimers({ now: Date.parse('2026-11-24T02:00:00Z') }));
  afterEach(() => void vi.useRealTimers());

  function copy() {
    const told: Progress[] = [];
    const wishes = operator();
    const pace = new CopyPace({ wishes, onProgress: (progress) => told.push(progress) });
    return { told, wishes, pace, last: () => told.at(-1) };
  }

  it('tells rate and end, and at most four times a second', () => {
    const { told, pace, last } = copy();
    pace.report('starting');
    for (let n = 0; n <= 100; n += 1) {
      pace.report('copying', { doneBytes: n * 10 * MiB, totalBytes: 3_000 * MiB, storedBytes: 0 });
      vi.advanceTimersByTime(100);
    }
    expect(told.length).toBeLessThan(45);
    expect(last()).toMatchObject({ phase: 'copying', bytesPerSecond: 100 * MiB });
    // 2 000 MiB at 100 MiB/s.
    const eta = Date.parse(last()?.eta ?? '');
    expect(Math.abs(eta - Date.parse('2026-11-24T02:00:30Z'))).toBeLessThan(1_000);
  });

  it('a pause is told at once, has no end in sight, and leaves the rate what it was', () => {
    const { wishes, pace, last } = copy();
    for (let n = 0; n <= 20; n += 1) {
      pace.report('copying', { doneBytes: n * 25 * MiB, totalBytes: 3_000 * MiB, storedBytes: 0 });
      vi.advanceTimersByTime(250);
    }
    wishes.say({ paused: true });
    expect(last()).toMatchObject({ phase: 'paused', doneBytes: 500 * MiB, bytesPerSecond: 0 });
    expect(last()).not.toHaveProperty('eta');
    vi.advanceTimersByTime(3_600_000);
    wishes.say({ paused: false });
    expect(last()).toMatchObject({ phase: 'copying', bytesPerSecond: 100 * MiB });
  });

  it('paused before it began, it begins when it is wanted; a cancel ends the waiting', async () => {
    const { wishes, pace, last } = copy();
    wishes.say({ paused: true });
    expect(last()?.phase).toBe('paused');
    let begun = false;
    const waiting = pace.untilWanted(new AbortController().signal).then(() => (begun = true));
    await Promise.resolve();
    expect(begun).toBe(false);
    wishes.say({ paused: false });
    await waiting;
    wishes.say({ paused: true });
    await expect(pace.untilWanted(AbortSignal.abort(new Error('cancelled')))).rejects.toThrow('cancelled');
  });

  it('what ends is not paused any more', () => {
    const { wishes, pace, last } = copy();
    pace.report('stopping', { doneBytes: 5, totalBytes: 5 });
    wishes.say({ paused: true });
    expect(last()?.phase).toBe('stopping');
  });
});
