import { BackupError } from './errors.ts';
import { formatLsn, toLsn, type Lsn } from './lsn.ts';
import type { SegmentRanges } from './segment-ranges.ts';
import { segmentName, type SegmentName } from './segment.ts';
import { timelinePath, type TimelineStep, type TimelineSwitch } from './timeline.ts';

/** What an archive holds beside backups. */
export interface WalFacts {
  readonly histories: ReadonlyMap<number, readonly TimelineSwitch[]>;
  readonly segments: SegmentRanges;
  /** Segments that are in the archive as `.partial`, without that ending. */
  readonly partials?: readonly SegmentName[] | undefined;
}

/** A file served under the name of the segment it is a part of, because the segment itself was never archived. */
export interface PlannedTail {
  /** What PostgreSQL asks for. */
  readonly segment: string;
  /** The archived file: the same, or its `.partial`. */
  readonly file: string;
  /** Bytes from this offset on belong to another timeline and are zeroed, as PostgreSQL does when it branches off. */
  readonly cutAtOffset?: number;
}

/** A backup that is complete by its own record. */
export interface Candidate {
  readonly backupId: string;
  readonly backupName?: string | undefined;
  readonly timeline: number;
  readonly beginLsn: Lsn;
  readonly endLsn: Lsn;
  readonly endTime: Date;
}

/** How far the WAL leads from a backup along a path. */
export interface Reach {
  readonly first: SegmentName;
  readonly last?: SegmentName;
  readonly end: Lsn;
  readonly missing: SegmentName;
  readonly hole?: { readonly missing: SegmentName; readonly next: SegmentName };
  readonly tail?: PlannedTail;
  readonly count: number;
}

/** A way along the timelines. */
export interface Path {
  readonly timeline: number;
  readonly steps: readonly TimelineStep[];
  /** There is no history file, so nothing is known of its ancestors. */
  readonly isRootless: boolean;
}

/** The way to a timeline, as far as its history is known. */
export function pathTo(timeline: number, facts: WalFacts): Path {
  const switches = facts.histories.get(timeline);
  return {
    timeline,
    steps: timelinePath(timeline, switches ?? []),
    isRootless: timeline !== 1 && switches === undefined,
  };
}

/** Whether nothing of a timeline is archived while its parent has whole segments beyond the branch: see the warning. */
export function isOutlived(path: Path, facts: WalFacts): boolean {
  const [parent, last] = path.steps.slice(-2);
  if (parent === undefined || last === undefined || facts.segments.newest(path.timeline) !== undefined)
    return false;
  const branch = last.beginsAt / BigInt(facts.segments.segmentSize);
  return facts.segments.firstFrom(parent.timeline, branch + 1n) !== undefined;
}

/** Why a backup does not lead to the end of a path; `undefined` when it does. */
export function offPath(backup: Candidate, path: Path): string | undefined {
  const step = path.steps.find(({ timeline }) => timeline === backup.timeline);
  if (step === undefined) {
    return `it was taken on timeline ${backup.timeline}, which is not on the way to timeline ${path.timeline}`;
  }
  if (step.endsAt !== undefined && backup.endLsn > step.endsAt) {
    return (
      `it was taken on timeline ${backup.timeline} and ended at ${formatLsn(backup.endLsn)}, ` +
      `after the way to timeline ${path.timeline} had left it at ${formatLsn(step.endsAt)}`
    );
  }
  if (backup.beginLsn < step.beginsAt) {
    return `it began at ${formatLsn(backup.beginLsn)}, before its timeline ${backup.timeline} did (${formatLsn(step.beginsAt)})`;
  }
  return undefined;
}

/**
 * Follows the segments PostgreSQL will ask for: of each number, that of the newest timeline of the path which had
 * begun by then (it contains the parent's records up to the switch).
 */
export function reachOf(backup: Candidate, path: Path, facts: WalFacts): Reach {
  const { segments } = facts;
  const size = BigInt(segments.segmentSize);
  const name = (timeline: number, number: bigint) => segmentName(timeline, number, segments.segmentSize);
  const first = backup.beginLsn / size;
  const from = path.steps.findIndex(({ timeline }) => timeline === backup.timeline);
  let last: { timeline: number; number: bigint } | undefined;
  let firstName: SegmentName | undefined;
  for (const [index, step] of path.steps.entries()) {
    if (index < from) continue;
    const next = path.steps[index + 1];
    const begin = index === from ? first : max(first, step.beginsAt / size);
    const leave = next === undefined ? undefined : next.beginsAt / size;
    if (leave !== undefined && begin >= leave) continue;
    firstName ??= name(step.timeline, begin);
    const contiguous = segments.lastContiguous(step.timeline, begin);
    if (contiguous !== undefined)
      last = {
        timeline: step.timeline,
        number: leave === undefined ? contiguous : min(contiguous, leave - 1n),
      };
    if (leave !== undefined && contiguous !== undefined && contiguous >= leave - 1n) continue;
    const missing = contiguous === undefined ? begin : contiguous + 1n;
    const later = laterOnPath(path.steps, index, missing, segments);
    const tail = later === undefined ? tailOf(path.steps, index, missing, facts) : undefined;
    const reached = tail ? tail.end : toLsn(missing * size);
    return {
      first: firstName,
      ...(last === undefined ? {} : { last: name(last.timeline, last.number) }),
      end: reached,
      missing: name(step.timeline, missing),
      ...(later === undefined ? {} : { hole: { missing: name(step.timeline, missing), next: later } }),
      ...(tail === undefined ? {} : { tail: tail.plan }),
      count: Number(missing - first) + (tail ? 1 : 0),
    };
  }
  throw new BackupError(
    'format-invalid',
    `backup ${backup.backupId} is not on the way to timeline ${path.timeline}`,
  );
}

/** The first segment behind `missing` that PostgreSQL would ask for along the path, if one is archived. */
function laterOnPath(
  steps: readonly TimelineStep[],
  from: number,
  missing: bigint,
  segments: SegmentRanges,
): SegmentName | undefined {
  const size = BigInt(segments.segmentSize);
  for (const [index, step] of steps.entries()) {
    if (index < from) continue;
    const next = steps[index + 1];
    const begin = max(missing + 1n, step.beginsAt / size);
    const found = segments.firstFrom(step.timeline, begin);
    if (found !== undefined && (next === undefined || found < next.beginsAt / size)) {
      return segmentName(step.timeline, found, segments.segmentSize);
    }
  }
  return undefined;
}

/**
 * What the archive holds of the segment after the last: its `.partial`, or the parent's segment up to the branch.
 * PostgreSQL archives both when it is promoted; without them the last commits before a failover would be left out.
 */
function tailOf(
  steps: readonly TimelineStep[],
  index: number,
  missing: bigint,
  facts: WalFacts,
): { plan: PlannedTail; end: Lsn } | undefined {
  const { segments, partials = [] } = facts;
  const size = BigInt(segments.segmentSize);
  const begin = missing * size;
  for (let at = index; at >= 0; at--) {
    const step = steps[at] as TimelineStep;
    const own = segmentName(step.timeline, missing, segments.segmentSize);
    const endsAt = step.endsAt ?? toLsn(begin + size);
    const file =
      at < index && segments.has(step.timeline, missing)
        ? own
        : partials.includes(own)
          ? `${own}.partial`
          : undefined;
    if (file !== undefined && endsAt > begin) {
      const end = min(endsAt, begin + size);
      const cut = end < begin + size ? { cutAtOffset: Number(end - begin) } : {};
      return { plan: { segment: own, file, ...cut }, end: toLsn(end) };
    }
    // An older timeline holds this segment only when the younger one began within it.
    if (step.beginsAt <= begin) return undefined;
  }
  return undefined;
}

const max = (a: bigint, b: bigint) => (a > b ? a : b);
const min = (a: bigint, b: bigint) => (a < b ? a : b);
