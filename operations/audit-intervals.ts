import type { RecoverableInterval } from '../core/audit.ts';
import { beginOf, distinctStretches, type RecoverableStretch, type WindowFacts } from '../core/intervals.ts';
import { formatLsn } from '../core/lsn.ts';
import { planRecovery } from '../core/recovery.ts';
import type { Candidate } from '../core/recovery-path.ts';
import type { Repository } from '../repository/repository.ts';
import { findWal } from '../repository/wal.ts';
import { readPathEnd } from './path-end.ts';

/** Times are looked up for so many of the newest intervals; the others are told by their positions. */
const TIMED = 20;
/** WAL is read for the ends of so many. */
const READ = 3;

/**
 * The intervals of a report, ascending, and how far in time they go.
 *
 * @param stretches `recoverableStretches(facts)`
 * @throws what the store throws
 */
export async function reportIntervals(
  repository: Repository,
  facts: WindowFacts,
  stretches: readonly RecoverableStretch[],
  { readsWal, signal }: { readonly readsWal: boolean; readonly signal: AbortSignal },
): Promise<RecoverableInterval[]> {
  const shown = distinctStretches(stretches, facts);
  const intervals: RecoverableInterval[] = [];
  for (const [index, stretch] of shown.entries()) {
    const age = shown.length - index;
    const toTime =
      age > TIMED ? undefined : await endTime(repository, facts, stretch, age <= READ && readsWal, signal);
    const first = stretch.backups[0] as Candidate;
    intervals.push({
      timeline: stretch.timeline,
      backupId: first.backupId,
      fromLsn: formatLsn(beginOf(stretch)),
      toLsn: formatLsn(stretch.reach.end),
      fromTime: first.endTime.toISOString(),
      ...(toTime !== undefined && { toTime }),
      lastSegment: lastFile(stretch),
    });
  }
  return intervals;
}

function lastFile({ reach }: RecoverableStretch): string {
  return reach.tail?.file ?? reach.last ?? reach.first;
}

/** The newest commit when it is read, or else when the store got the last segment; never before the last backup's end. */
async function endTime(
  repository: Repository,
  facts: WindowFacts,
  stretch: RecoverableStretch,
  readsWal: boolean,
  signal: AbortSignal,
): Promise<string | undefined> {
  const newest = stretch.backups.at(-1) as Candidate;
  if (readsWal) {
    const target = { targetTLI: String(stretch.timeline) };
    const backups = facts.backups.filter(({ backupId }) => backupId === newest.backupId);
    const plan = planRecovery({ ...facts, backups, target, acceptEnd: true, now: 0 });
    const end = await readPathEnd(repository, plan, signal);
    if (end?.newestCommit !== undefined) return notBefore(newest.endTime, new Date(end.newestCommit));
  }
  const [object] = await findWal(repository, lastFile(stretch), signal);
  return object && notBefore(newest.endTime, object.modifiedAt);
}

/** At the end of a backup it can be restored, whatever was committed before. */
function notBefore(earliest: Date, time: Date): string {
  return (time > earliest ? time : earliest).toISOString();
}
