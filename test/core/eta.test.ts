import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { msLeft, newPace, observe, resumed, type MeasuredPace } from '../../core/eta.ts';

const MiB = 2 ** 20;

/** Looks every 250 ms at something that moves at these rates (bytes a second), one look each. */
function moving(rates: readonly number[], from: MeasuredPace = newPace(0)): MeasuredPace {
  return rates.reduce((pace, rate) => observe(pace, pace.at + 250, pace.doneBytes + rate / 4), from);
}

describe('the measured pace', () => {
  it('is the rate of what moves evenly, and the time left follows from it', () => {
    const pace = moving(Array.from({ length: 40 }, () => 200 * MiB));
    expect(pace.bytesPerSecond).toBeCloseTo(200 * MiB, 0);
    expect(msLeft(pace, pace.doneBytes + 400 * MiB)).toBeCloseTo(2000, 0);
  });

  it('says nothing before it can', () => {
    expect(msLeft(newPace(0), 1000)).toBeUndefined();
    expect(observe(newPace(0), 10, 500).bytesPerSecond).toBeUndefined();
    expect(msLeft(moving([0, 0, 0]), 1000)).toBeUndefined();
  });

  it('follows another rate within half a minute', () => {
    const pace = moving(
      Array.from({ length: 120 }, () => 10 * MiB),
      moving(Array.from({ length: 120 }, () => 200 * MiB)),
    );
    expect(pace.bytesPerSecond).toBeLessThan(20 * MiB);
  });

  it('always lies between the slowest and the fastest that was seen, whatever is read again', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            ms: fc.integer({ min: 1, max: 5_000 }),
            rate: fc.integer({ min: 1, max: 1e9 }),
            back: fc.boolean(),
          }),
          { minLength: 1 },
        ),
        (steps) => {
          let pace = newPace(0, 1e13);
          for (const { ms, rate, back } of steps) {
            const at = pace.at + ms;
            pace = back
              ? observe(pace, at, pace.doneBytes - 1)
              : observe(pace, at, pace.doneBytes + (rate * ms) / 1000);
          }
          if (pace.bytesPerSecond === undefined) return;
          const rates = steps.filter(({ back }) => !back).map(({ rate }) => rate);
          expect(pace.bytesPerSecond).toBeLessThanOrEqual(Math.max(...rates) * 1.01);
          expect(pace.bytesPerSecond).toBeGreaterThanOrEqual(Math.min(...rates) * 0.99);
        },
      ),
    );
  });

  it('a pause is no slowness', () => {
    const before = moving(Array.from({ length: 40 }, () => 50 * MiB));
    const after = moving([50 * MiB], resumed(before, before.at + 3_600_000));
    expect(after.bytesPerSecond).toBeCloseTo(50 * MiB, 0);
  });
});
