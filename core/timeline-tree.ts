import { formatLsn, type Lsn } from './lsn.ts';
import { historyFileName, timelinePath, type TimelineStep, type TimelineSwitch } from './timeline.ts';

/** A timeline that one went through, and where the way to `timeline` left it. */
export interface Departure {
  readonly timeline: number;
  readonly leftAt: Lsn;
}

/** How the timelines of an archive descend from each other. */
export interface TimelineTree {
  /** All that something is known of, ascending. */
  readonly timelines: readonly number[];
  /** Histories, also of timelines whose own file is missing, where that of a descendant tells it. */
  readonly histories: ReadonlyMap<number, readonly TimelineSwitch[]>;
  /** The way to a timeline, oldest first; only itself when nothing is known of its ancestors. */
  pathOf(timeline: number): readonly TimelineStep[];
  /** Every timeline that descends from this one, children or further, and where the way to it left this one. */
  descendantsOf(timeline: number): readonly Departure[];
  /** What can't be known, or contradicts itself; whole phrases. */
  readonly doubts: readonly string[];
}

/**
 * @param used timelines that objects are there of
 */
export function growTimelineTree(
  histories: ReadonlyMap<number, readonly TimelineSwitch[]>,
  used: Iterable<number>,
): TimelineTree {
  const doubts: string[] = [];
  const known = new Map(histories);
  const mentioned = new Set([...used, ...histories.keys()]);
  // ascending: what a timeline's own file says stands before what those of its descendants say
  for (const [timeline, switches] of [...histories].toSorted(([a], [b]) => a - b)) {
    doubts.push(...impossible(timeline, switches));
    for (const [index, { timeline: ancestor }] of switches.entries()) {
      mentioned.add(ancestor);
      const before = switches.slice(0, index);
      const other = known.get(ancestor);
      if (other === undefined) {
        if (ancestor !== 1) known.set(ancestor, before);
        else if (before.length > 0) doubts.push(contradiction(timeline, ancestor));
      } else if (!areEqual(other, before)) doubts.push(contradiction(timeline, ancestor));
    }
  }
  const timelines = [...mentioned].toSorted((a, b) => a - b);
  for (const timeline of timelines) {
    // An archive may begin with any timeline: of the lowest nothing precedes that could be needed.
    if (timeline === 1 || timeline === timelines[0] || known.has(timeline)) continue;
    doubts.push(
      `there are objects of timeline ${timeline} but no ${historyFileName(timeline)}, so what it descends from is unknown`,
    );
  }
  const descendants = new Map<number, Departure[]>();
  for (const timeline of timelines) {
    for (const { timeline: ancestor, switchedAt } of known.get(timeline) ?? []) {
      const departures = descendants.get(ancestor) ?? [];
      departures.push({ timeline, leftAt: switchedAt });
      descendants.set(ancestor, departures);
    }
  }
  return {
    timelines,
    histories: known,
    pathOf: (timeline) => timelinePath(timeline, known.get(timeline) ?? []),
    descendantsOf: (timeline) => descendants.get(timeline) ?? [],
    doubts,
  };
}

function impossible(timeline: number, switches: readonly TimelineSwitch[]): string[] {
  const file = historyFileName(timeline);
  for (const [index, step] of switches.entries()) {
    const next = switches[index + 1];
    if (step.timeline >= (next?.timeline ?? timeline))
      return [`${file} names timeline ${step.timeline} among the ancestors of an older one`];
    if (next !== undefined && next.switchedAt < step.switchedAt) {
      return [
        `${file} leaves timeline ${next.timeline} at ${formatLsn(next.switchedAt)}, before it began at ${formatLsn(step.switchedAt)}`,
      ];
    }
  }
  return [];
}

function contradiction(timeline: number, ancestor: number): string {
  return `${historyFileName(timeline)} tells another descent of timeline ${ancestor} than the rest of the archive`;
}

function areEqual(a: readonly TimelineSwitch[], b: readonly TimelineSwitch[]): boolean {
  return (
    a.length === b.length &&
    a.every((step, index) => step.timeline === b[index]?.timeline && step.switchedAt === b[index].switchedAt)
  );
}
