import { formatLsn, toLsn } from './lsn.ts';
import { offPath, pathTo, reachOf, type Candidate, type WalFacts } from './recovery-path.ts';
import { cautiousNow, clocksOf, type Clocks } from './retention-clocks.ts';
import type { RetentionBackup, RetentionFacts } from './retention-facts.ts';
import type { TimelineTree } from './timeline-tree.ts';

/** A full backup that can be restored as far as is known: only such ones count, for any rule. */
export interface CountedBackup extends Candidate, Clocks {
  readonly backup: RetentionBackup;
  /** The system identifier; of old records without one, a word for that. */
  readonly system: string;
}

/** What a backup is for retention. */
export type Standing =
  | { readonly kind: 'counted'; readonly counted: CountedBackup }
  /** It is recorded as done, and yet nobody may rely on it. */
  | { readonly kind: 'uncounted'; readonly why: string }
  /** It has no end yet: it runs, or what took it died a short time ago. */
  | { readonly kind: 'running' }
  /** It failed, or died long ago. */
  | { readonly kind: 'dead'; readonly why: string }
  | { readonly kind: 'deleting' };

const UNKNOWN_SYSTEM = 'without an identifier';

export function systemOf(backup: RetentionBackup): string {
  return backup.systemId ?? UNKNOWN_SYSTEM;
}

/**
 * What each record says is contradictory or not said, so that nobody knows what it needs: whole phrases.
 */
export function doubtsAboutRecords(facts: RetentionFacts, tree: TimelineTree): string[] {
  const doubts: string[] = [];
  const seen = new Set<string>();
  for (const backup of facts.backups) {
    if (seen.has(backup.backupId)) doubts.push(`backup ${backup.backupId} is listed twice`);
    seen.add(backup.backupId);
    const doubt = backup.problem ?? doubtAboutRecord(backup, facts, tree);
    if (doubt !== undefined) doubts.push(`backup ${backup.backupId}: ${doubt}`);
  }
  return doubts;
}

function doubtAboutRecord(
  backup: RetentionBackup,
  facts: RetentionFacts,
  tree: TimelineTree,
): string | undefined {
  const { timeline, beginLsn, endLsn, endTime } = backup;
  if (backup.status !== 'DONE') return undefined;
  if (timeline === undefined || beginLsn === undefined || endLsn === undefined || endTime === undefined)
    return 'its record is DONE and does not say where and when it began and ended';
  if (endLsn <= beginLsn) {
    return `its record is contradictory: it begins at ${formatLsn(beginLsn)} and ends at ${formatLsn(endLsn)}`;
  }
  if (backup.segmentSize !== facts.segments.segmentSize) {
    return `its segments have ${backup.segmentSize} bytes, those of the archive ${facts.segments.segmentSize}`;
  }
  const timelineBegin = tree.pathOf(timeline).at(-1)?.beginsAt ?? toLsn(0n);
  if (beginLsn < timelineBegin) {
    return `it begins at ${formatLsn(beginLsn)}, before its timeline ${timeline} did (${formatLsn(timelineBegin)})`;
  }
  return undefined;
}

/**
 * @param suspect why the clocks of a backup are not believed, by its id
 */
export function standingOf(
  backup: RetentionBackup,
  facts: RetentionFacts,
  tree: TimelineTree,
  suspect: ReadonlyMap<string, string>,
): Standing {
  if (backup.deletionBegan === true) return { kind: 'deleting' };
  if (backup.status !== 'DONE') return unfinished(backup, facts);
  const why = suspect.get(backup.backupId) ?? uselessness(backup);
  if (why !== undefined) return { kind: 'uncounted', why };
  const { backupId, timeline, beginLsn, endLsn, endTime } = backup;
  if (timeline === undefined || beginLsn === undefined || endLsn === undefined || endTime === undefined)
    return { kind: 'uncounted', why: 'its record does not say where and when it began and ended' };
  const clocks = clocksOf(backup, endTime);
  const counted = { backup, backupId, timeline, beginLsn, endLsn, endTime, ...clocks };
  const missing = missingWal(counted, facts, tree);
  if (missing !== undefined) return { kind: 'uncounted', why: missing };
  return { kind: 'counted', counted: { ...counted, system: systemOf(backup) } };
}

function unfinished(backup: RetentionBackup, facts: RetentionFacts): Standing {
  if (backup.status === 'FAILED') return { kind: 'dead', why: 'it failed' };
  const newest = Math.max(...timesOf(backup));
  // without any time nobody knows how long it has been running
  const hasTime = Number.isFinite(newest);
  if (!hasTime || newest > cautiousNow(facts) - facts.deadlineMs - facts.graceMs) return { kind: 'running' };
  return { kind: 'dead', why: `its status is ${backup.status}, and what took it has died` };
}

/** The moments that a record has, milliseconds since 1970. */
export function timesOf({ beginTime, endTime, storedAt }: RetentionBackup): number[] {
  return [beginTime, endTime, storedAt].flatMap((time) => (time === undefined ? [] : [time.getTime()]));
}

function uselessness(backup: RetentionBackup): string | undefined {
  if (backup.problem !== undefined) return backup.problem;
  if (backup.damage !== undefined) return backup.damage;
  if (backup.snapshots === true) return 'it consists of volume snapshots, which are not in the repository';
  if (backup.parentBackupId !== undefined) return `it is incremental, on ${backup.parentBackupId}`;
  return undefined;
}

/** Why it can't be restored for lack of WAL; `undefined` when it can, on its own timeline or on one that left it later. */
function missingWal(candidate: Candidate, facts: RetentionFacts, tree: TimelineTree): string | undefined {
  const wal: WalFacts = { ...facts, histories: tree.histories };
  const own = pathTo(candidate.timeline, wal);
  if (offPath(candidate, own) !== undefined) return 'it is not on its own timeline';
  const reach = reachOf(candidate, own, wal);
  if (reach.end >= candidate.endLsn) return undefined;
  const leadsOn = waysOut(candidate, facts.segments.segmentSize, tree).some((timeline) => {
    const path = pathTo(timeline, wal);
    return offPath(candidate, path) === undefined && reachOf(candidate, path, wal).end >= candidate.endLsn;
  });
  return leadsOn
    ? undefined
    : `the WAL written while it was taken is incomplete: ${reach.missing} is missing`;
}

/** Timelines that hold the last segment of a backup as well: they left its own within that segment, after its end. */
export function waysOut(
  { timeline, endLsn }: Pick<Candidate, 'timeline' | 'endLsn'>,
  segmentSize: number,
  tree: TimelineTree,
): number[] {
  const size = BigInt(segmentSize);
  const last = (endLsn - 1n) / size;
  return tree
    .descendantsOf(timeline)
    .filter(({ leftAt }) => leftAt >= endLsn && leftAt / size === last)
    .map((departure) => departure.timeline);
}
