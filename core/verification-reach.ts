import { formatLsn, parseLsn } from './lsn.ts';
import type { RecoveryPlan } from './recovery.ts';
import { parseSegmentName, segmentAt, segmentStart } from './segment.ts';
import { formatMicros, parseTargetTime, type Micros } from './target-time.ts';

/** How far a recovery came, by PostgreSQL's own account. */
export interface Reached {
  /** Where the new timeline begins: behind the last record that was replayed. */
  readonly lsn: string;
  /** The timeline that was replayed to its end. */
  readonly timeline: number;
  /** Where the last record that was read begins; one that it stopped before was not replayed. */
  readonly lastRecordLsn?: string | undefined;
  /** The newest transaction that was replayed. */
  readonly lastTransaction?: Micros | undefined;
  /** Why it stopped before the WAL's end; its time is that of the transaction there. */
  readonly stop?: { readonly text: string; readonly time?: Micros } | undefined;
}

export interface ReachVerdict {
  readonly isRight: boolean;
  readonly detail: string;
  /** The WAL segment in which it ended too early. */
  readonly segment?: string;
}

/**
 * Whether a recovery ended where its plan says (C4). PostgreSQL takes a damaged record for the end of the WAL and opens
 * the database with what came before it: nothing but this comparison finds that out.
 *
 * @param plannedEnd where the last whole record of the plan's WAL begins, when somebody has read it
 */
export function judgeReach(
  plan: RecoveryPlan,
  plannedEnd: string | undefined,
  reached: Reached,
): ReachVerdict {
  const at = `LSN ${reached.lsn} on timeline ${reached.timeline}`;
  if (reached.timeline !== plan.targetTimeline) {
    return {
      isRight: false,
      detail: `it ended at ${at}, and timeline ${plan.targetTimeline} was to be reached`,
    };
  }
  switch (plan.target.kind) {
    case 'end':
      return judgeEnd(plan, plannedEnd, reached, at);
    case 'time':
      return judgeTime(plan, reached, at);
    case 'lsn':
      return judgeLsn(plan, reached, at);
    case 'xid':
    case 'name':
    case 'immediate':
      return reached.stop
        ? { isRight: true, detail: `${reached.stop.text}; ${at}` }
        : {
            isRight: false,
            detail: `the WAL came to its end before the target: ${at}`,
            segment: segmentOf(plan, reached),
          };
  }
}

function judgeEnd(
  plan: RecoveryPlan,
  plannedEnd: string | undefined,
  reached: Reached,
  at: string,
): ReachVerdict {
  const lsn = parseLsn(reached.lsn);
  const last = plannedEnd === undefined ? undefined : parseLsn(plannedEnd);
  // Without a look into the last segment it is only known that there is something in it.
  const least = last ?? segmentStart(parseSegmentName(plan.lastSegment), plan.segmentSize);
  if (lsn > least) {
    const known = last === undefined ? '' : `, behind the last record (${formatLsn(last)})`;
    return { isRight: true, detail: `the end of the archive: ${at}${known}` };
  }
  return {
    isRight: false,
    detail: `it ended at ${at}, and the WAL goes on to ${formatLsn(least)}: a record behind that place can't be read`,
    segment: segmentOf(plan, reached),
  };
}

function judgeTime(
  plan: RecoveryPlan,
  { lastTransaction, stop, ...reached }: Reached,
  at: string,
): ReachVerdict {
  const target = parseTargetTime(plan.target.value ?? '');
  const { inclusive } = plan.target;
  if (stop === undefined) {
    return {
      isRight: false,
      detail: `the WAL came to its end before the target: ${at}`,
      segment: segmentOf(plan, reached),
    };
  }
  const isBeyond = (time: Micros) => (inclusive ? time > target : time >= target);
  const last = lastTransaction === undefined ? 'none before it' : formatMicros(lastTransaction);
  const next = stop.time === undefined ? 'unknown' : formatMicros(stop.time);
  const gap = `the last transaction ended ${last}, the next one ${next}; ${at}`;
  if (lastTransaction !== undefined && isBeyond(lastTransaction)) {
    return { isRight: false, detail: `it went beyond ${formatMicros(target)}: ${gap}` };
  }
  if (stop.time !== undefined && !isBeyond(stop.time)) {
    return {
      isRight: false,
      detail: `it stopped before ${formatMicros(target)}: ${gap}`,
      segment: segmentOf(plan, reached),
    };
  }
  return { isRight: true, detail: `inside the gap of ${formatMicros(target)}: ${gap}` };
}

function judgeLsn(plan: RecoveryPlan, reached: Reached, at: string): ReachVerdict {
  const target = parseLsn(plan.target.value ?? '');
  const last = reached.lastRecordLsn === undefined ? undefined : parseLsn(reached.lastRecordLsn);
  // The first record at or behind the target is where it stops, after or before that record.
  const isRight = reached.stop !== undefined && (last === undefined || last >= target);
  return isRight
    ? { isRight, detail: `the target: ${at}` }
    : {
        isRight,
        detail: `it ended at ${at}, and ${formatLsn(target)} was the target`,
        segment: segmentOf(plan, reached),
      };
}

function segmentOf(plan: RecoveryPlan, { lsn, timeline }: Pick<Reached, 'lsn' | 'timeline'>): string {
  return segmentAt(timeline, parseLsn(lsn), plan.segmentSize);
}
