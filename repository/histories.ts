import { historyFileName } from '../core/timeline.ts';
import { concurrently } from './concurrently.ts';
import type { Repository } from './repository.ts';
import { findWal, type WalObject } from './wal-object.ts';

/** So many timelines past each known one are asked for: a server just promoted has archived its history and no WAL. */
const AHEAD = 4;
/** Up to here every timeline is asked for; beyond, only those near WAL: a strange folder must not mean millions of questions. */
const MAX_EVERY = 1024;
const QUESTIONS_AT_ONCE = 8;

/**
 * The history files of the archive. They lie in its root, beside the folders of segments, and a listing of the root
 * would be one of everything: so each timeline is asked for by name.
 *
 * @param folders those of `walFolders`
 */
export async function* listHistories(
  r: Repository,
  folders: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<WalObject, void, void> {
  const asked = new Set<number>();
  let timelines = timelinesToAsk(folders);
  while (timelines.length > 0) {
    for (const timeline of timelines) asked.add(timeline);
    const found = await concurrently(timelines, QUESTIONS_AT_ONCE, (timeline) =>
      findWal(r, historyFileName(timeline), signal),
    );
    yield* found.flat();
    // each one that is there moves the horizon
    const known = timelines.filter((_, i) => (found[i] ?? []).length > 0);
    timelines = inOrder(known.flatMap(following)).filter((timeline) => !asked.has(timeline));
  }
}

function timelinesToAsk(folders: readonly string[]): number[] {
  const used = inOrder(folders.map((folder) => Number.parseInt(folder.slice(0, 8), 16)));
  const newestUsual = used.findLast((timeline) => timeline <= MAX_EVERY) ?? 1;
  const every = Array.from({ length: newestUsual }, (_, i) => i + 1);
  return inOrder([...every, ...used, ...[1, ...used].flatMap(following)]);
}

function following(timeline: number): number[] {
  const count = Math.min(AHEAD, 0xffff_ffff - timeline);
  return Array.from({ length: count }, (_, i) => timeline + 1 + i);
}

/** Each number once, the smallest first. */
function inOrder(numbers: readonly number[]): number[] {
  return [...new Set(numbers)].toSorted((a, b) => a - b);
}
