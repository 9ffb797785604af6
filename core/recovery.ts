import { BackupError } from './errors.ts';
import { formatLsn, parseLsn, type Lsn } from './lsn.ts';
import {
  isOutlived,
  offPath,
  pathTo,
  reachOf,
  type Candidate,
  type Path,
  type PlannedTail,
  type Reach,
  type WalFacts,
} from './recovery-path.ts';
import {
  describeTarget,
  isGiven,
  needsBackup,
  parseTarget,
  targetSettings,
  valueOf,
  type RecoveryTarget,
  type Target,
  type TargetKind,
} from './recovery-target.ts';
import { formatMicros, parseTargetTime, toMicros } from './target-time.ts';
import { describePath, historyFileName, type TimelineStep } from './timeline.ts';

export type { PlannedTail } from './recovery-path.ts';
export type { RecoveryTarget, TargetKind } from './recovery-target.ts';

/** What a recovery needs to know about a backup; `BackupInfo` has this shape. */
export interface RecoveryBackup {
  readonly backupId: string;
  readonly backupName?: string | undefined;
  readonly status: string;
  readonly beginTime?: Date | undefined;
  readonly endTime?: Date | undefined;
  readonly beginLsn?: Lsn | undefined;
  readonly endLsn?: Lsn | undefined;
  readonly timeline?: number | undefined;
  readonly systemId?: string | undefined;
  readonly segmentSize: number;
  readonly parentBackupId?: string | undefined;
  readonly snapshots?: boolean | undefined;
  /** Why its record or its parts can't be used at all. */
  readonly problem?: string | undefined;
  /** Of a `problem` that is nothing but a tar no listing shows: its name. */
  readonly notListed?: string | undefined;
}

/** What the records of the WAL say about the end of a path, when somebody has read them. */
export interface PathEndRecords {
  /** The last file of the path: a segment, or what `tail` names. */
  readonly file: string;
  /** The newest commit or abort, RFC 3339. */
  readonly newestCommit?: string | undefined;
  /** Where the last whole record begins. */
  readonly lastRecordLsn?: string | undefined;
}

export interface RecoveryFacts extends WalFacts {
  readonly backups: readonly RecoveryBackup[];
  /** The system identifier the archive belongs to, when it is known. */
  readonly systemId?: string | undefined;
  readonly target: RecoveryTarget;
  /** Recover up to a hole as if the archive ended there. */
  readonly acceptEnd?: boolean | undefined;
  readonly endRecords?: readonly PathEndRecords[] | undefined;
  /** Milliseconds since 1970. */
  readonly now: number;
}

export interface PlannedStep {
  readonly timeline: number;
  readonly beginsAt: string;
  readonly endsAt?: string;
}

/** How a target is reached. Plain JSON: LSNs, times and segment numbers are strings. */
export interface RecoveryPlan {
  readonly version: 1;
  readonly backupId: string;
  readonly backupName?: string;
  readonly backupTimeline: number;
  readonly backupBeginLsn: string;
  readonly backupEndLsn: string;
  readonly backupEndTime: string;
  readonly target: { readonly kind: TargetKind; readonly value?: string; readonly inclusive: boolean };
  readonly targetTimeline: number;
  readonly timelinePath: readonly PlannedStep[];
  readonly segmentSize: number;
  readonly firstSegment: string;
  /** The last segment of the path that can be read without a gap. */
  readonly lastSegment: string;
  /** The first position that can no longer be read; an upper bound when it lies in an uncut `tail`. */
  readonly lastLsn: string;
  /** How many segments there are to replay at most. */
  readonly walSegments: number;
  readonly tail?: PlannedTail;
  /** A segment of the path that is missing although a later one is there. */
  readonly hole?: { readonly missing: string; readonly next: string };
  /** What ends the recovery, for people. */
  readonly endsAt: string;
  /** The hole is accepted as the end: `wal-fetch` answers "absent" there. */
  readonly acceptsEnd: boolean;
  /** The newest commit that is within reach, when it is known. */
  readonly newestCommit?: string;
  /** `recovery_target*` as PostgreSQL is to have them. */
  readonly settings: Readonly<Record<string, string>>;
  readonly reasons: readonly string[];
  readonly warnings: readonly string[];
  readonly excluded: readonly { readonly backupId: string; readonly reason: string }[];
}

interface Usable {
  readonly backup: Candidate;
  readonly reach: Reach;
}

interface Excluded {
  readonly backupId: string;
  readonly reason: string;
  /** Of a reason that is nothing but a file no listing shows. */
  readonly notListed?: string;
}

/**
 * Chooses the base backup and the way along the timelines that lead to a target, or says why there are none and
 * which moments can be reached instead. It touches nothing: a restore executes the plan.
 *
 * The newest backup that ended before the target is taken; it has the least to replay. Whatever can be known
 * beforehand is refused here, because PostgreSQL would find it out only after hours of replay.
 *
 * @throws BackupError `target-unreachable` naming the nearest moments; `wal-hole` when the way to the end has a hole
 *   that was not accepted; `backup-unknown`, `backup-unusable`; `usage` for contradictory targets
 */
export function planRecovery(facts: RecoveryFacts): RecoveryPlan {
  const target = parseTarget(facts.target);
  const { candidates, excluded } = completeBackups(facts);
  const warnings: string[] = [];
  const wanted = namedBackup(facts, candidates, excluded);
  if (candidates.length === 0) throw nothingToRestore(excluded);
  if (wanted === undefined && needsBackup(target)) throw backupRequired(target, candidates);

  const path = choosePath(facts, candidates, target, wanted, warnings);
  const usable = usableBackups(facts, path, candidates, excluded);
  const chosen = chooseBackup(facts, target, path, usable, excluded, wanted);
  const { backup, reach } = chosen;
  const records = facts.endRecords?.find((end) => end.file === (reach.tail?.file ?? reach.last));
  refuseWhatLiesBeyond(facts, target, path, chosen, usable, records);

  const tail = reach.tail === undefined ? {} : { tail: reach.tail };
  if (reach.hole !== undefined && target.kind !== 'end') {
    warnings.push(
      `${reach.hole.missing} is missing from the archive (${reach.hole.next} is there): if the target lies behind it, PostgreSQL stops there without promoting`,
    );
  }
  if (path.isRootless) {
    warnings.push(
      `the history of timeline ${path.timeline} is not in the archive; only what was written on it can be used`,
    );
  }
  return {
    version: 1,
    backupId: backup.backupId,
    ...(backup.backupName === undefined ? {} : { backupName: backup.backupName }),
    backupTimeline: backup.timeline,
    backupBeginLsn: formatLsn(backup.beginLsn),
    backupEndLsn: formatLsn(backup.endLsn),
    backupEndTime: backup.endTime.toISOString(),
    target: { kind: target.kind, ...valueOf(target), inclusive: target.inclusive },
    targetTimeline: path.timeline,
    timelinePath: path.steps.map(plainStep),
    segmentSize: facts.segments.segmentSize,
    firstSegment: reach.first,
    lastSegment: reach.last ?? reach.first,
    lastLsn: formatLsn(reach.end),
    walSegments: reach.count,
    ...tail,
    ...(reach.hole === undefined ? {} : { hole: reach.hole }),
    endsAt: describeEnd(target, reach),
    acceptsEnd: reach.hole !== undefined && facts.acceptEnd === true,
    ...(records?.newestCommit === undefined ? {} : { newestCommit: records.newestCommit }),
    // A number makes PostgreSQL want that timeline's history file; the backup's own timeline needs none.
    settings: targetSettings(
      target,
      path.isRootless && backup.timeline === path.timeline ? 'current' : String(path.timeline),
    ),
    reasons: reasonsFor(facts, target, path, chosen, wanted),
    warnings,
    excluded: excluded.map(({ backupId, reason }) => ({ backupId, reason })),
  };
}

// ---- the backups ------------------------------------------------------------------------------------------------------

function completeBackups(facts: RecoveryFacts): { candidates: Candidate[]; excluded: Excluded[] } {
  const candidates: Candidate[] = [];
  const excluded: Excluded[] = [];
  for (const backup of facts.backups) {
    const reason = incompleteness(backup, facts);
    const { backupId, backupName, timeline, beginLsn, endLsn, endTime } = backup;
    if (reason !== undefined) {
      const { problem, notListed } = backup;
      excluded.push({ backupId, reason, ...(reason === problem && notListed && { notListed }) });
    } else if (
      timeline === undefined ||
      beginLsn === undefined ||
      endLsn === undefined ||
      endTime === undefined
    ) {
      excluded.push({ backupId, reason: 'its record does not say where and when it began and ended' });
    } else candidates.push({ backupId, backupName, timeline, beginLsn, endLsn, endTime });
  }
  return { candidates, excluded };
}

function incompleteness(backup: RecoveryBackup, facts: RecoveryFacts): string | undefined {
  if (backup.problem !== undefined) return backup.problem;
  if (backup.status === 'STARTED') return 'it is running, or what took it died';
  if (backup.status !== 'DONE') return `its status is ${backup.status}`;
  if (backup.parentBackupId !== undefined)
    return `it is incremental (on ${backup.parentBackupId}), which can't be restored yet`;
  if (backup.snapshots === true) return 'it consists of volume snapshots, which are not in the repository';
  if (facts.systemId !== undefined && backup.systemId !== undefined && facts.systemId !== backup.systemId) {
    return `it is of system ${backup.systemId}, the archive of ${facts.systemId}`;
  }
  if (backup.segmentSize !== facts.segments.segmentSize) {
    return `its segments have ${backup.segmentSize} bytes, those of the archive ${facts.segments.segmentSize}`;
  }
  if (backup.beginLsn !== undefined && backup.endLsn !== undefined && backup.endLsn <= backup.beginLsn) {
    return 'its record is contradictory: it ends before it begins';
  }
  return undefined;
}

type Wanted = { readonly end: 'newest' | 'oldest' } | { readonly backup: Candidate };

function namedBackup(
  facts: RecoveryFacts,
  candidates: readonly Candidate[],
  excluded: readonly Excluded[],
): Wanted | undefined {
  const name = facts.target.backupID;
  if (!isGiven(name)) return undefined;
  if (name === 'newest' || name === 'latest' || name === 'last') return { end: 'newest' };
  if (name === 'oldest' || name === 'first') return { end: 'oldest' };
  const found =
    candidates.find(({ backupId }) => backupId === name) ??
    candidates.findLast(({ backupName }) => backupName === name);
  if (found) return { backup: found };
  const known = facts.backups.find(({ backupId, backupName }) => backupId === name || backupName === name);
  if (!known) {
    throw new BackupError(
      'backup-unknown',
      `there is no backup "${name}" in the repository${listing(candidates)}`,
    );
  }
  const { reason, notListed } = whyExcluded(excluded, known.backupId);
  throw new BackupError(
    'backup-unusable',
    `backup ${name} can't be restored: ${reason}${listing(candidates)}`,
    { notListed },
  );
}

function whyExcluded(
  excluded: readonly Excluded[],
  id: string,
): { readonly reason: string; readonly notListed?: string } {
  return excluded.find(({ backupId }) => backupId === id) ?? { reason: 'unknown' };
}

function listing(candidates: readonly Candidate[]): string {
  if (candidates.length === 0) return '';
  const shown = candidates
    .slice(-5)
    .toReversed()
    .map((backup) => `${backup.backupId} (ended ${backup.endTime.toISOString()})`);
  const more = candidates.length > shown.length ? ` and ${candidates.length - shown.length} older` : '';
  return `; there are ${shown.join(', ')}${more}`;
}

function nothingToRestore(excluded: readonly Excluded[]): BackupError {
  const why = excluded
    .slice(0, 5)
    .map(({ backupId, reason }) => `${backupId}: ${reason}`)
    .join('; ');
  const message =
    excluded.length === 0 ? 'there is no backup in the repository' : `no backup can be restored (${why})`;
  return new BackupError('target-unreachable', message, {
    notListed: lastNotListed(excluded),
    hint: 'take a backup first: walkeep backup CLUSTER --wait',
  });
}

/** Of several backups that can't be used one is enough to doubt the listings. */
function lastNotListed(excluded: readonly Excluded[]): string | undefined {
  return excluded.findLast(({ notListed }) => notListed !== undefined)?.notListed;
}

function backupRequired(target: Target, candidates: readonly Candidate[]): BackupError {
  const what = { xid: 'a transaction id', name: 'a restore point', immediate: 'an immediate end' }[
    target.kind as 'xid'
  ];
  return new BackupError(
    'usage',
    `${what} says nothing about when, so the backup has to be chosen${listing(candidates)}`,
    {
      hint: 'give --backup-id ID (backupID in a manifest): one that ended before the target. "newest" and "oldest" are understood too',
    },
  );
}

// ---- the timelines ----------------------------------------------------------------------------------------------------

function knownTimelines(facts: RecoveryFacts, candidates: readonly Candidate[]): number[] {
  const known = new Set([
    ...facts.histories.keys(),
    ...facts.segments.timelines(),
    ...candidates.map(({ timeline }) => timeline),
  ]);
  return [...known].toSorted((a, b) => b - a);
}

function choosePath(
  facts: RecoveryFacts,
  candidates: readonly Candidate[],
  target: Target,
  wanted: Wanted | undefined,
  warnings: string[],
): Path {
  const asked = facts.target.targetTLI;
  const known = knownTimelines(facts, candidates);
  const backups = wanted && 'backup' in wanted ? [wanted.backup] : candidates;
  if (asked === 'current') {
    const newest =
      backups
        .filter((backup) => endedBefore(backup, target))
        .toSorted(byEnd)
        .at(-1) ?? backups.toSorted(byEnd).at(-1);
    return pathTo((newest as Candidate).timeline, facts);
  }
  if (isGiven(asked) && asked !== 'latest') {
    if (!/^[1-9]\d{0,9}$/.test(asked)) {
      throw new BackupError(
        'usage',
        `not a timeline: "${asked}" (expected latest, current or a number from 1)`,
      );
    }
    if (!known.includes(Number(asked))) {
      throw new BackupError(
        'target-unreachable',
        `timeline ${asked} is not in the archive; there are ${known.toReversed().join(', ')}`,
      );
    }
    return pathTo(Number(asked), facts);
  }
  for (const timeline of known) {
    const path = pathTo(timeline, facts);
    if (
      path.isRootless &&
      facts.segments.newest(timeline) !== undefined &&
      !candidates.some((backup) => backup.timeline === timeline)
    ) {
      throw lostHistory(timeline);
    }
    if (!backups.some((backup) => offPath(backup, path) === undefined)) {
      if (facts.segments.newest(timeline) !== undefined && !(wanted && 'backup' in wanted)) {
        warnings.push(`timeline ${timeline} is newer, but no backup leads to it`);
      }
      continue;
    }
    if (!candidates.some((backup) => backup.timeline === timeline) && isOutlived(path, facts)) {
      const branch = path.steps.at(-2);
      warnings.push(
        `the history of timeline ${timeline} branches off timeline ${branch?.timeline} at ${formatLsn(path.steps.at(-1)?.beginsAt as Lsn)}, ` +
          `but none of its WAL is archived, and timeline ${branch?.timeline} went on; --target-timeline ${timeline} would end at that point`,
      );
      continue;
    }
    return path;
  }
  // Every candidate's own timeline is known, and a backup is on the way to its own timeline unless its record lies.
  throw new BackupError(
    'target-unreachable',
    `no timeline leads on from ${backups.map(({ backupId }) => backupId).join(', ')}: the histories contradict the records`,
  );
}

/** Taken for absent, the recovery would end on an older timeline, and the later transactions be dropped silently. */
function lostHistory(timeline: number): BackupError {
  const file = historyFileName(timeline);
  return new BackupError(
    'target-unreachable',
    `there is WAL of timeline ${timeline} in the archive, but not its history (${file}), so where it comes from is unknown`,
    {
      notListed: file,
      hint: `archive ${file} again from a server that has it, or say which timeline is meant: --target-timeline`,
    },
  );
}

// ---- the choice -------------------------------------------------------------------------------------------------------

function byEnd(a: Candidate, b: Candidate): number {
  return a.endLsn < b.endLsn ? -1 : a.endLsn > b.endLsn ? 1 : 0;
}

/** The backups on the path whose own WAL is there, ascending by where they end; the others are added to `excluded`. */
function usableBackups(
  facts: RecoveryFacts,
  path: Path,
  candidates: readonly Candidate[],
  excluded: Excluded[],
): Usable[] {
  const usable: Usable[] = [];
  for (const backup of candidates.toSorted(byEnd)) {
    const reason = offPath(backup, path);
    if (reason !== undefined) {
      excluded.push({ backupId: backup.backupId, reason });
      continue;
    }
    const reach = reachOf(backup, path, facts);
    if (reach.end < backup.endLsn) {
      excluded.push({
        backupId: backup.backupId,
        reason: `the WAL written while it was taken is incomplete: ${reach.missing} is missing`,
        notListed: reach.missing,
      });
    } else usable.push({ backup, reach });
  }
  return usable;
}

function endedBefore(backup: Candidate, target: Target): boolean {
  if (target.kind === 'time') return toMicros(backup.endTime) <= target.micros;
  return target.kind === 'lsn' ? backup.endLsn <= target.lsn : true;
}

function chooseBackup(
  facts: RecoveryFacts,
  target: Target,
  path: Path,
  usable: readonly Usable[],
  excluded: readonly Excluded[],
  wanted: Wanted | undefined,
): Usable {
  if (wanted && 'backup' in wanted) {
    const found = usable.find(({ backup }) => backup === wanted.backup);
    if (!found) {
      const { reason, notListed } = whyExcluded(excluded, wanted.backup.backupId);
      throw new BackupError(
        'backup-unusable',
        `backup ${wanted.backup.backupId} can't be restored to timeline ${path.timeline}: ${reason}`,
        { notListed },
      );
    }
    if (!endedBefore(found.backup, target)) throw beforeTheBackup(target, path, found.backup, usable);
    return found;
  }
  if (usable.length === 0) {
    const why = excluded
      .slice(-5)
      .map(({ backupId, reason }) => `${backupId}: ${reason}`)
      .join('; ');
    throw new BackupError('target-unreachable', `no backup leads to timeline ${path.timeline} (${why})`, {
      notListed: lastNotListed(excluded),
      hint: 'what is missing may still be on a server: archive it again from its pg_wal. Otherwise choose another --target-timeline, or take a new backup',
    });
  }
  const before = usable.filter(({ backup }) => endedBefore(backup, target));
  if (before.length === 0) throw beforeTheBackup(target, path, undefined, usable);
  const oldest = wanted?.end === 'oldest';
  if (!oldest) return before.at(-1) as Usable;
  // The oldest from which one gets as far as from any: an older one in front of a hole leads nowhere near.
  const farthest = before.reduce((best, { reach }) => (reach.end > best ? reach.end : best), 0n);
  return before.find(({ reach }) => reach.end === farthest) as Usable;
}

function beforeTheBackup(
  target: Target,
  path: Path,
  backup: Candidate | undefined,
  usable: readonly Usable[],
): BackupError {
  const earliest = (usable[0] as Usable).backup;
  const moment = (of: Candidate) =>
    target.kind === 'time' ? of.endTime.toISOString() : formatLsn(of.endLsn);
  const asked = `${target.kind === 'time' ? 'time' : 'LSN'} ${valueOf(target).value}`;
  if (backup !== undefined && endedBefore(earliest, target)) {
    const better = usable.filter((other) => endedBefore(other.backup, target)).at(-1) as Usable;
    return new BackupError(
      'target-unreachable',
      `${asked} is before the end of backup ${backup.backupId} (${moment(backup)}); backup ${better.backup.backupId} (ended ${moment(better.backup)}) leads there`,
    );
  }
  const from = backup ?? earliest;
  return new BackupError(
    'target-unreachable',
    `${asked} is before the earliest moment within reach on timeline ${path.timeline}: ${moment(from)}, the end of backup ${from.backupId}`,
  );
}

// ---- what lies beyond the end -----------------------------------------------------------------------------------------

function refuseWhatLiesBeyond(
  facts: RecoveryFacts,
  target: Target,
  path: Path,
  { backup, reach }: Usable,
  usable: readonly Usable[],
  records: PathEndRecords | undefined,
): void {
  const limit = reach.hole
    ? `${reach.hole.missing} is missing from the archive although ${reach.hole.next} is there`
    : `the archive ends with ${reach.tail?.file ?? reach.last}`;
  if (target.kind === 'end' && reach.hole !== undefined && facts.acceptEnd !== true) {
    const behind = usable.findLast((other) => other.reach.end > reach.end);
    throw new BackupError(
      'wal-hole',
      `the way from backup ${backup.backupId} to the end of timeline ${path.timeline} has a hole: ${limit}; what is before it ends at ${formatLsn(reach.end)}`,
      {
        notListed: reach.hole.missing,
        hint: behind
          ? `backup ${behind.backup.backupId} begins behind the hole and reaches ${formatLsn(behind.reach.end)}; or accept the earlier end with --accept-end`
          : 'accept that earlier end with --accept-end, or archive the missing segment if it still is in pg_wal of some server',
      },
    );
  }
  if (target.kind === 'lsn') {
    const lastRecord = records?.lastRecordLsn === undefined ? undefined : parseLsn(records.lastRecordLsn);
    if (target.lsn >= reach.end || (lastRecord !== undefined && target.lsn > lastRecord)) {
      const last =
        lastRecord === undefined
          ? `the last position within reach is before ${formatLsn(reach.end)}`
          : `the last record within reach begins at ${formatLsn(lastRecord)}`;
      throw new BackupError(
        'target-unreachable',
        `LSN ${formatLsn(target.lsn)} is beyond reach on timeline ${path.timeline}: ${last} (${limit})${elsewhere(facts, target.lsn, path)}`,
      );
    }
  }
  if (target.kind === 'time') {
    const newest = records?.newestCommit === undefined ? undefined : parseTargetTime(records.newestCommit);
    const isBeyond =
      newest === undefined
        ? target.micros > BigInt(facts.now) * 1000n
        : target.inclusive
          ? target.micros >= newest
          : target.micros > newest;
    if (isBeyond) {
      const what =
        newest === undefined
          ? `now is ${new Date(facts.now).toISOString()}`
          : `the newest transaction within reach ended at ${formatMicros(newest)}`;
      throw new BackupError(
        'target-unreachable',
        `time ${formatMicros(target.micros)} is beyond reach on timeline ${path.timeline}: ${what} (${limit})`,
        {
          hint: 'choose an earlier time, or leave the target out to recover everything there is',
        },
      );
    }
  }
}

/** Other timelines on which an LSN is archived, as advice. */
function elsewhere(facts: RecoveryFacts, lsn: Lsn, path: Path): string {
  const number = lsn / BigInt(facts.segments.segmentSize);
  const others = facts.segments
    .timelines()
    .filter((timeline) => timeline !== path.timeline && facts.segments.has(timeline, number));
  return others.length === 0 ? '' : `; timeline ${others.join(', ')} has it: --target-timeline`;
}

// ---- for people -------------------------------------------------------------------------------------------------------

function plainStep(step: TimelineStep): PlannedStep {
  return {
    timeline: step.timeline,
    beginsAt: formatLsn(step.beginsAt),
    ...(step.endsAt === undefined ? {} : { endsAt: formatLsn(step.endsAt) }),
  };
}

function describeEnd(target: Target, reach: Reach): string {
  if (target.kind !== 'end') return describeTarget(target);
  return reach.hole
    ? `the hole at ${reach.hole.missing}, accepted as the end`
    : `the end of the archive, ${formatLsn(reach.end)}`;
}

function reasonsFor(
  facts: RecoveryFacts,
  target: Target,
  path: Path,
  { backup, reach }: Usable,
  wanted: Wanted | undefined,
): string[] {
  const why =
    wanted === undefined
      ? target.kind === 'end'
        ? 'the newest that can be used'
        : 'the newest that ended before the target'
      : 'backup' in wanted
        ? 'asked for'
        : `the ${wanted.end} that can be used`;
  const asked = facts.target.targetTLI;
  const line = isGiven(asked) && asked !== 'latest' ? 'asked for' : 'the newest that a backup leads to';
  return [
    `backup ${backup.backupId}: ${why}`,
    `timeline ${path.timeline}: ${line}${path.steps.length > 1 ? ` (the way is ${describePath(path.steps)})` : ''}`,
    `WAL from ${reach.first} to ${reach.tail?.file ?? reach.last ?? reach.first} is in the archive without a gap`,
  ];
}
