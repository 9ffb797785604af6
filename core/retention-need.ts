import { groupBy } from './group-by.ts';
import { formatLsn, type Lsn } from './lsn.ts';
import type {
  PlannedHistory,
  PlannedSegmentFile,
  PlannedWal,
  RetentionFacts,
  RetentionPlan,
} from './retention-facts.ts';
import { waysOut } from './retention-records.ts';
import { segmentName, segmentNumber, timelineOf } from './segment.ts';
import { historyFileName } from './timeline.ts';
import type { TimelineTree } from './timeline-tree.ts';

/** What a backup that stays needs of the WAL. */
export interface WalNeed {
  readonly backupId: string;
  readonly timeline: number;
  readonly beginLsn: Lsn;
  /** Given: it is kept to be restored by itself, and needs no WAL after this. */
  readonly onlyTo?: Lsn;
}

/** Segments that stay, and why; `last` is absent when all that follow stay too. */
interface Stay {
  readonly first: bigint;
  readonly last?: bigint;
  readonly reason: string;
  /** A backup needs it, and all that follows. */
  readonly isNeed?: true;
}

type WalPlan = Pick<RetentionPlan, 'wal' | 'partials' | 'labels' | 'histories'>;

/**
 * What of the WAL stays: for each backup that stays everything from its begin on, on its timeline and on all that
 * descend from it at or after its begin, with their histories (D1); what is held or young; and what may be in use.
 *
 * @param needs of every backup that isn't deleted
 * @param everything why no WAL may go, if so
 */
export function planWal(
  facts: RetentionFacts,
  tree: TimelineTree,
  needs: readonly WalNeed[],
  everything?: string,
): WalPlan {
  const stays = everything === undefined ? staysOf(facts, tree, needs) : undefined;
  const of = (timeline: number): readonly Stay[] =>
    stays === undefined ? [{ first: 0n, reason: everything ?? '' }] : (stays.get(timeline) ?? []);
  const wal = facts.segments.timelines().flatMap((timeline) => splitRanges(timeline, of(timeline), facts));
  const partials = (facts.partials ?? []).map((segment): PlannedSegmentFile => {
    const timeline = timelineOf(segment);
    const number = segmentNumber(segment, facts.segments.segmentSize);
    const stay = of(timeline).find(({ first, last = number }) => first <= number && number <= last);
    const decision = stay === undefined ? 'delete' : 'keep';
    return { segment, timeline, decision, reason: stay?.reason ?? uselessOn(timeline, of(timeline), facts) };
  });
  const left = new Set([
    ...needs.map(({ timeline }) => timeline),
    ...(facts.walHolds ?? []).map(({ timeline }) => timeline),
    ...[...wal, ...partials].flatMap(({ decision, timeline }) => (decision === 'keep' ? [timeline] : [])),
  ]);
  return { wal, partials, ...planAnnals(facts, tree, left, everything) };
}

/** By timeline: ascending, not overlapping. */
function staysOf(
  facts: RetentionFacts,
  tree: TimelineTree,
  needs: readonly WalNeed[],
): ReadonlyMap<number, readonly Stay[]> {
  const size = BigInt(facts.segments.segmentSize);
  const stays = new Map<number, Stay[]>();
  const add = (timeline: number, stay: Stay) => {
    const known = stays.get(timeline);
    if (known === undefined) stays.set(timeline, [stay]);
    else known.push(stay);
  };
  const onward = needs.filter(({ onlyTo }) => onlyTo === undefined);
  addNeeds(onward, size, tree, add);
  for (const need of needs) if (need.onlyTo !== undefined) addAlone(need, need.onlyTo, facts, tree, add);
  for (const { timeline, from, why } of facts.walHolds ?? []) {
    add(timeline, { first: from, reason: why });
    for (const departure of tree.descendantsOf(timeline))
      if (departure.leftAt / size >= from) add(departure.timeline, { first: from, reason: why });
  }
  for (const [timeline, first] of facts.youngFrom)
    add(timeline, { first, reason: 'it was stored within the grace period, or follows what was' });
  addUnled(
    onward,
    facts,
    tree,
    (timeline) => stays.get(timeline)?.some(({ isNeed }) => isNeed) === true,
    add,
  );
  return new Map([...stays].map(([timeline, some]) => [timeline, withoutOverlap(some)]));
}

type Add = (timeline: number, stay: Stay) => void;

/** The oldest backup of a timeline speaks for all of it: what the others need begins later. */
function addNeeds(onward: readonly WalNeed[], size: bigint, tree: TimelineTree, add: Add): void {
  for (const [timeline, needs] of groupBy(onward, (need) => need.timeline)) {
    const oldest = needs.reduce((a, b) => (b.beginLsn < a.beginLsn ? b : a));
    const first = oldest.beginLsn / size;
    const which = `backup ${oldest.backupId}, which begins at ${formatLsn(oldest.beginLsn)}`;
    const others = needs.length === 1 ? '' : `, and ${needs.length - 1} later ones`;
    add(timeline, { first, reason: `${which}${others} need it or what follows`, isNeed: true });
    for (const departure of tree.descendantsOf(timeline)) {
      if (departure.leftAt < oldest.beginLsn) continue;
      const reason = `${which} on timeline ${timeline}${others} can be recovered along timeline ${departure.timeline}`;
      add(departure.timeline, { first, reason, isNeed: true });
    }
  }
}

/** Of a backup that is kept by itself: what was written while it was taken. */
function addAlone(
  { backupId, timeline, beginLsn }: WalNeed,
  endLsn: Lsn,
  facts: RetentionFacts,
  tree: TimelineTree,
  add: Add,
): void {
  const { segmentSize } = facts.segments;
  const last = endLsn / BigInt(segmentSize);
  const reason = `backup ${backupId}, kept by itself, needs it`;
  add(timeline, { first: beginLsn / BigInt(segmentSize), last, reason });
  for (const way of waysOut({ timeline, endLsn }, segmentSize, tree)) add(way, { first: last, last, reason });
}

/** A timeline that no backup leads to: the newest may be the one in use, its first backup still to come. */
function addUnled(
  onward: readonly WalNeed[],
  facts: RetentionFacts,
  tree: TimelineTree,
  isLedTo: (timeline: number) => boolean,
  add: Add,
): void {
  const newestBackedUp = onward.reduce((newest, { timeline }) => Math.max(newest, timeline), 0);
  const systems = new Set(facts.backups.map(({ systemId }) => systemId));
  for (const timeline of tree.timelines) {
    if (isLedTo(timeline)) continue;
    if (timeline > newestBackedUp)
      add(timeline, { first: 0n, reason: 'no backup leads to this timeline yet, and it is the newest' });
    else if (systems.size > 1)
      add(timeline, { first: 0n, reason: 'there are backups of several systems, and it may be of any' });
  }
}

/** Ascending. What a backup needs from somewhere on speaks for all that follows; what else stays, up to there. */
function withoutOverlap(stays: readonly Stay[]): Stay[] {
  const ascending = stays.toSorted(byFirst);
  const onward = ascending.filter(({ last }) => last === undefined);
  const main = onward.find(({ isNeed }) => isNeed) ?? onward[0];
  const result: Stay[] = [];
  let next = 0n;
  for (const stay of ascending) {
    const last = lower(stay.last, main === undefined ? undefined : main.first - 1n);
    const first = stay.first > next ? stay.first : next;
    if (stay === main || last === undefined || last < first) continue;
    result.push({ ...stay, first, last });
    next = last + 1n;
  }
  return main === undefined ? result : [...result, main];
}

function lower(a: bigint | undefined, b: bigint | undefined): bigint | undefined {
  return a === undefined || (b !== undefined && b < a) ? b : a;
}

function byFirst(a: Stay, b: Stay): number {
  return a.first < b.first ? -1 : a.first > b.first ? 1 : 0;
}

function splitRanges(timeline: number, stays: readonly Stay[], facts: RetentionFacts): PlannedWal[] {
  const planned: PlannedWal[] = [];
  let at = 0;
  const useless = uselessOn(timeline, stays, facts);
  for (const { first, last } of facts.segments.rangesOf(timeline)) {
    let next = first;
    while (next <= last) {
      while (at < stays.length && (stays[at]?.last ?? next) < next) at++;
      const stay = stays[at];
      const begins = stay === undefined || stay.first > last ? last + 1n : stay.first;
      if (begins > next) {
        planned.push({ timeline, first: next, last: begins - 1n, decision: 'delete', reason: useless });
        next = begins;
      } else {
        const end = stay?.last === undefined || stay.last > last ? last : stay.last;
        planned.push({ timeline, first: next, last: end, decision: 'keep', reason: stay?.reason ?? '' });
        next = end + 1n;
      }
    }
  }
  return planned;
}

function uselessOn(timeline: number, stays: readonly Stay[], { segments }: RetentionFacts): string {
  const rest = stays.find(({ last }) => last === undefined);
  if (rest === undefined) return `nothing that is kept can be recovered along timeline ${timeline}`;
  const name = segmentName(timeline, rest.first, segments.segmentSize);
  return `nothing that is kept needs what is before ${name}`;
}

/**
 * Histories and `.backup` files outlive the last object of their timeline and its descendants (A7). And a history stays
 * while there is anything of an older timeline: recovery looks for the next ones by number, and the first that is
 * missing ends its search, so that it would never find the one to follow.
 */
function planAnnals(
  facts: RetentionFacts,
  tree: TimelineTree,
  left: ReadonlySet<number>,
  everything: string | undefined,
): Pick<WalPlan, 'labels' | 'histories'> {
  const inUse = new Set(left);
  for (const timeline of left) for (const step of tree.pathOf(timeline)) inUse.add(step.timeline);
  const oldest = Math.min(...left);
  const fate = (timeline: number, isOver: boolean, stays: string) => {
    if (everything !== undefined) return { decision: 'keep', reason: everything } as const;
    if (!isOver) return { decision: 'keep', reason: stays } as const;
    const reason = `nothing of timeline ${timeline} and of what descends from it is left`;
    return { decision: 'delete', reason } as const;
  };
  const labels = (facts.labels ?? []).map((segment): PlannedSegmentFile => {
    const timeline = timelineOf(segment);
    const stays = `there is something of timeline ${timeline} or of what descends from it`;
    return { segment, timeline, ...fate(timeline, !inUse.has(timeline), stays) };
  });
  const histories = [...facts.histories.keys()]
    .toSorted((a, b) => a - b)
    .map((timeline): PlannedHistory => {
      const stays = inUse.has(timeline)
        ? `there is something of timeline ${timeline} or of what descends from it`
        : 'recovery along an older timeline looks for it';
      const isOver = !inUse.has(timeline) && timeline < oldest;
      return { name: historyFileName(timeline), timeline, ...fate(timeline, isOver, stays) };
    });
  return { labels, histories };
}
