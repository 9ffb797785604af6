/** How fast something moves, smoothed; begun with `newPace`, told by `observe`. Times are in ms, of a clock that only advances. */
export interface MeasuredPace {
  readonly at: number;
  readonly doneBytes: number;
  /** `undefined` until enough time has passed to say. */
  readonly bytesPerSecond?: number;
}

/** What was seen this long ago counts about a third of what is seen now. */
const MEMORY_MS = 10_000;
/** Between two looks that are closer, chance decides. */
const SHORTEST_LOOK_MS = 200;

export function newPace(at: number, doneBytes = 0): MeasuredPace {
  return { at, doneBytes };
}

/**
 * The pace after another look. Bytes that are read again (a part begun anew) are no negative pace: the count goes on
 * from there.
 */
export function observe(pace: MeasuredPace, at: number, doneBytes: number): MeasuredPace {
  const passed = at - pace.at;
  if (doneBytes < pace.doneBytes) return { ...pace, at, doneBytes };
  if (passed < SHORTEST_LOOK_MS) return pace;
  const seen = ((doneBytes - pace.doneBytes) / passed) * 1000;
  const kept = pace.bytesPerSecond === undefined ? 0 : Math.exp(-passed / MEMORY_MS);
  return { at, doneBytes, bytesPerSecond: seen * (1 - kept) + (pace.bytesPerSecond ?? 0) * kept };
}

/** Forgets the time that passed while nothing was to move: a pause is no slowness. */
export function resumed(pace: MeasuredPace, at: number): MeasuredPace {
  return { ...pace, at };
}

/** How long the rest takes at this pace, in ms; `undefined` when that can't be said. */
export function msLeft(pace: MeasuredPace, totalBytes: number): number | undefined {
  if (pace.bytesPerSecond === undefined || totalBytes <= 0) return undefined;
  const rest = Math.max(0, totalBytes - pace.doneBytes);
  if (rest === 0) return 0;
  // Beyond a year nobody plans by it.
  const ms = (rest / pace.bytesPerSecond) * 1000;
  return ms < 365 * 86_400_000 ? ms : undefined;
}
