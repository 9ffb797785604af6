import type { Lsn } from './lsn.ts';
import type { RecoveryBackup } from './recovery.ts';
import {
  offPath,
  pathTo,
  reachOf,
  type Candidate,
  type Path,
  type Reach,
  type WalFacts,
} from './recovery-path.ts';
import { SegmentRanges } from './segment-ranges.ts';
import { segmentName, segmentNumber, timelineOf, type SegmentName } from './segment.ts';

/** What is recorded of backups and WAL, as far as it says what can be recovered. */
export interface WindowFacts extends WalFacts {
  readonly backups: readonly RecoveryBackup[];
  /** The system identifier the archive belongs to, when it is known. */
  readonly systemId?: string | undefined;
}

/**
 * Positions on the way to one timeline that can all be recovered to: from where its first backup ended up to
 * `reach.end`, which is the first that can not be read.
 */
export interface RecoverableStretch {
  readonly timeline: number;
  /** Ascending by where they end; at least one. */
  readonly backups: readonly Candidate[];
  /** From the last of them. */
  readonly reach: Reach;
}

/** Segments of a way that some backup begins, which are not there although a later one of it is. */
export interface MissingWal {
  readonly timeline: number;
  readonly first: bigint;
  readonly last: bigint;
  /** The next one that is there. */
  readonly next: SegmentName;
}

/** The backups that are complete by their own records, as `planRecovery` judges them (the properties hold both together). */
export function completeBackups({ backups, systemId, segments }: WindowFacts): Candidate[] {
  return backups.flatMap((backup) => {
    const { backupId, backupName, timeline, beginLsn, endLsn, endTime } = backup;
    const isForeign = systemId !== undefined && backup.systemId !== undefined && systemId !== backup.systemId;
    const isUsable =
      backup.problem === undefined &&
      backup.status === 'DONE' &&
      backup.parentBackupId === undefined &&
      backup.snapshots !== true &&
      !isForeign &&
      backup.segmentSize === segments.segmentSize;
    if (!isUsable || timeline === undefined || beginLsn === undefined || endLsn === undefined || !endTime)
      return [];
    return endLsn > beginLsn ? [{ backupId, backupName, timeline, beginLsn, endLsn, endTime }] : [];
  });
}

/**
 * Everything that can be recovered to without passing a hole, for every known timeline: a position lies in a stretch
 * of a timeline exactly when `planRecovery` reaches it there without `acceptEnd`. Ascending by timeline and position.
 */
export function recoverableStretches(facts: WindowFacts): RecoverableStretch[] {
  const backups = completeBackups(facts).toSorted(byEnd);
  return knownTimelines(facts, backups).flatMap((timeline) => {
    const path = pathTo(timeline, facts);
    const stretches = new Map<Lsn, { timeline: number; backups: Candidate[]; reach: Reach }>();
    for (const backup of backups) {
      if (offPath(backup, path) !== undefined) continue;
      const reach = reachOf(backup, path, facts);
      if (reach.end < backup.endLsn) continue;
      // What leads to the same place lies in one stretch: between them there is no hole.
      const known = stretches.get(reach.end) ?? { timeline, backups: [], reach };
      known.backups.push(backup);
      stretches.set(reach.end, { ...known, reach });
    }
    return [...stretches.values()].toSorted((a, b) =>
      byEnd(a.backups[0] as Candidate, b.backups[0] as Candidate),
    );
  });
}

/**
 * The stretches without those that lie, whole and with the same content, in one of a timeline that descends from
 * theirs: what people are shown.
 */
export function distinctStretches(
  stretches: readonly RecoverableStretch[],
  facts: WindowFacts,
): RecoverableStretch[] {
  const isWithin = (inner: RecoverableStretch, outer: RecoverableStretch) => {
    if (outer.timeline === inner.timeline) return false;
    const step = pathTo(outer.timeline, facts).steps.find(({ timeline }) => timeline === inner.timeline);
    const shared = step?.endsAt;
    return (
      shared !== undefined &&
      inner.reach.end <= shared &&
      inner.reach.end <= outer.reach.end &&
      beginOf(outer) <= beginOf(inner)
    );
  };
  return stretches.filter((inner) => !stretches.some((outer) => isWithin(inner, outer)));
}

/** Where a stretch begins: the end of its first backup. */
export function beginOf({ backups }: RecoverableStretch): Lsn {
  return (backups[0] as Candidate).endLsn;
}

/**
 * What is missing of every way that a complete backup begins, behind the oldest such backup. Which of them a recovery
 * would need depends on where it is to go; each of them ends some window (A6). Ascending.
 */
export function missingWal(facts: WindowFacts): MissingWal[] {
  const { segments } = facts;
  const backups = completeBackups(facts);
  const missing = new SegmentRanges(segments.segmentSize);
  const nextOf = new Map<string, SegmentName>();
  for (const timeline of knownTimelines(facts, backups)) {
    for (const hole of holesOf(pathTo(timeline, facts), backups, segments)) {
      missing.addRange(hole.timeline, hole);
      nextOf.set(`${hole.timeline}/${hole.last}`, hole.next);
    }
  }
  return missing.timelines().flatMap((timeline) =>
    missing.rangesOf(timeline).map(({ first, last }) => ({
      timeline,
      first,
      last,
      next: nextOf.get(`${timeline}/${last}`) as SegmentName,
    })),
  );
}

/** Of each number from the oldest backup on, PostgreSQL asks for that of the newest timeline of the path begun by then. */
function holesOf(path: Path, backups: readonly Candidate[], segments: SegmentRanges): MissingWal[] {
  const size = BigInt(segments.segmentSize);
  const begins = backups
    .filter((backup) => offPath(backup, path) === undefined)
    .map(({ beginLsn }) => beginLsn / size);
  if (begins.length === 0) return [];
  const oldest = begins.reduce((least, begin) => (begin < least ? begin : least));
  const holes: MissingWal[] = [];
  let next: SegmentName | undefined;
  // From the end: a gap counts when something of the path is there behind it.
  for (const [index, step] of [...path.steps.entries()].toReversed()) {
    const begin = max(oldest, step.beginsAt / size);
    const leave = path.steps[index + 1]?.beginsAt;
    const ranges = segments.rangesOf(step.timeline);
    let end = leave === undefined ? ranges.at(-1)?.last : leave / size - 1n;
    if (end === undefined || end < begin) continue;
    for (const range of ranges.toReversed()) {
      if (range.first > end) continue;
      if (range.last < begin) break;
      if (next !== undefined && range.last < end)
        holes.push({ timeline: step.timeline, first: range.last + 1n, last: end, next });
      const first = max(range.first, begin);
      next = segmentName(step.timeline, first, segments.segmentSize);
      end = first - 1n;
    }
    if (next !== undefined && end >= begin)
      holes.push({ timeline: step.timeline, first: begin, last: end, next });
  }
  return holes.toReversed();
}

/**
 * Timelines that there is WAL or a backup of, and whose history is not there: where they come from is unknown. An
 * archive may begin with any timeline; of the oldest nothing precedes that could be needed.
 */
export function lostHistories(facts: WindowFacts): number[] {
  const used = new Set([
    ...facts.segments.timelines(),
    ...facts.backups.flatMap(({ timeline }) => (timeline === undefined ? [] : [timeline])),
  ]);
  const [, ...later] = [...used].toSorted((x, y) => x - y);
  return later.filter((timeline) => !facts.histories.has(timeline));
}

/**
 * Whether only a new base backup makes a window that is open at its end: backups were taken, and none of them leads to
 * the newest WAL any more. Where none was ever taken, nothing is broken.
 *
 * @param unusable segments that are in the archive and can't be used; `facts.segments` does not have them
 */
export function needsBaseBackup(facts: WindowFacts, unusable: SegmentRanges): boolean {
  if (!facts.backups.some(({ status }) => status === 'DONE')) return false;
  const tip = Math.max(0, ...facts.segments.timelines(), ...unusable.timelines());
  if (tip === 0) return false;
  const isOpen = ({ timeline, reach }: RecoverableStretch) =>
    timeline === tip && reach.hole === undefined && !hasSegment(unusable, reach.missing);
  return !recoverableStretches(facts).some(isOpen);
}

/** `segments` without those in `taken`. */
export function withoutSegments(segments: SegmentRanges, taken: SegmentRanges): SegmentRanges {
  const left = new SegmentRanges(segments.segmentSize);
  for (const timeline of segments.timelines()) {
    for (const { first, last } of segments.rangesOf(timeline)) {
      let begin = first;
      for (const hole of taken.rangesOf(timeline)) {
        if (hole.last < begin) continue;
        if (hole.first > last) break;
        if (hole.first > begin) left.addRange(timeline, { first: begin, last: hole.first - 1n });
        begin = hole.last + 1n;
      }
      if (begin <= last) left.addRange(timeline, { first: begin, last });
    }
  }
  return left;
}

/** Whether a segment, by its name, is among `segments`. */
export function hasSegment(segments: SegmentRanges, name: SegmentName): boolean {
  return segments.has(timelineOf(name), segmentNumber(name, segments.segmentSize));
}

function knownTimelines(facts: WindowFacts, backups: readonly Candidate[]): number[] {
  const known = new Set([
    ...facts.histories.keys(),
    ...facts.segments.timelines(),
    ...backups.map(({ timeline }) => timeline),
  ]);
  return [...known].toSorted((a, b) => a - b);
}

function byEnd(a: Candidate, b: Candidate): number {
  return a.endLsn < b.endLsn ? -1 : a.endLsn > b.endLsn ? 1 : 0;
}

const max = (a: bigint, b: bigint) => (a > b ? a : b);

/** Whether a recovery from some complete backup to some timeline would ask for this segment. */
export function isNeeded(facts: WindowFacts, name: SegmentName): boolean {
  const size = BigInt(facts.segments.segmentSize);
  const [timeline, number] = [timelineOf(name), segmentNumber(name, facts.segments.segmentSize)];
  const backups = completeBackups(facts);
  return knownTimelines(facts, backups).some((target) => {
    const path = pathTo(target, facts);
    const asked = path.steps.findLast(({ beginsAt }) => beginsAt / size <= number);
    if (asked?.timeline !== timeline) return false;
    return backups.some((backup) => backup.beginLsn / size <= number && offPath(backup, path) === undefined);
  });
}
