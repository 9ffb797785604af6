/** Counts of durations, as Prometheus has them: `counts[i]` durations were at most `upToMs[i]`. */
export interface LatencyHistogram {
  /** Upper bounds in milliseconds, ascending. */
  readonly upToMs: readonly number[];
  /** Cumulative, one for each bound. */
  readonly counts: readonly number[];
  readonly count: number;
  readonly sumMs: number;
}

const UP_TO_MS = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000] as const;

/** Collects durations in milliseconds. */
export function createLatencies(): { add(ms: number): void; read(): LatencyHistogram } {
  const counts = UP_TO_MS.map(() => 0);
  let count = 0;
  let sumMs = 0;
  return {
    add(ms) {
      count += 1;
      sumMs += ms;
      for (const [index, limit] of UP_TO_MS.entries())
        if (ms <= limit) counts[index] = (counts[index] ?? 0) + 1;
    },
    read: () => ({ upToMs: UP_TO_MS, counts: [...counts], count, sumMs }),
  };
}
