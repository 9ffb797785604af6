import { formatDuration } from './duration.ts';
import { groupBy } from './group-by.ts';
import type { RetentionBackup, RetentionFacts } from './retention-facts.ts';

/** When a backup ended by its record, and when the store received it: two clocks that need not agree. */
export interface Clocks {
  /** Milliseconds since 1970, both. */
  readonly recorded: number;
  /** As `recorded` where the store doesn't tell. */
  readonly stored: number;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Between two clocks that are set: object stores refuse requests from clocks that are off by more. */
export const CLOCK_TOLERANCE_MS = 15 * MINUTE;
/** Between times that were recorded: a change to summer time must not stop retention. */
export const RECORD_TOLERANCE_MS = 2 * HOUR;
/** What a time without a zone may be off: places are up to 14 hours from UTC. */
const ZONE_TOLERANCE_MS = 14 * HOUR;
/** From here on backups were stored so long after their end that the repository must have been copied. */
const COPIED_AFTER_MS = 7 * DAY;

/** More backups than this within a day are looked at for being a flood. */
export const FLOOD_COUNT = 10;
/** A flood is so many times what came on the busiest day before. */
export const FLOOD_FACTOR = 3;

export function clocksOf(backup: RetentionBackup, endTime: Date): Clocks {
  const recorded = endTime.getTime();
  return { recorded, stored: backup.storedAt?.getTime() ?? recorded };
}

/** The moment that counts where early is dangerous: of two clocks the one that is behind. */
export function cautiousNow({ now, storeNow }: Pick<RetentionFacts, 'now' | 'storeNow'>): number {
  return Math.min(now, storeNow ?? now);
}

export interface ClockFindings {
  /** Whole phrases; each forbids all deletions. */
  readonly doubts: readonly string[];
  /** Why the times of backups that somebody keeps are not believed, by id: they don't count, and are in nobody's way. */
  readonly suspect: ReadonlyMap<string, string>;
  readonly warnings: readonly string[];
}

/**
 * Holds the clocks against each other: this host's against the store's, records against the moment they were stored and
 * against the order of the WAL. One that goes wrong by days would make old what is new.
 *
 * A backup with a contradictory time stops retention until it is deleted by hand, or somebody puts barman's `keep` on
 * it: then it stays, and is not counted.
 */
export function compareClocks(facts: RetentionFacts): ClockFindings {
  const doubts: string[] = [];
  const suspect = new Map<string, string>();
  const { now, storeNow } = facts;
  if (storeNow !== undefined && Math.abs(now - storeNow) > CLOCK_TOLERANCE_MS) {
    doubts.push(
      `the clock of this host (${textOf(now)}) and that of the store (${textOf(storeNow)}) differ by ${formatDuration(Math.abs(now - storeNow))}`,
    );
  }
  const blamed: { readonly backupId: string; readonly why: string }[] = [];
  const blame = (backup: RetentionBackup, why: string) => {
    if (backup.keep === undefined) blamed.push({ backupId: backup.backupId, why });
    else suspect.set(backup.backupId, why);
  };
  let isAhead = false;
  for (const backup of facts.backups) {
    const found = contradictionIn(backup, Math.max(now, storeNow ?? now));
    if (found === undefined) continue;
    // One with a keep on it was looked at by somebody: it stops nothing.
    if (found.isAhead && backup.keep === undefined) isAhead = true;
    blame(backup, found.why);
  }
  const concerned = new Set(blamed.map(({ backupId }) => backupId));
  for (const [backup, earlier] of disorder(facts.backups.filter(({ backupId }) => !suspect.has(backupId)))) {
    const [first, other] =
      backup.keep === undefined && earlier.keep !== undefined ? [earlier, backup] : [backup, earlier];
    // Which of the two is wrong is not known.
    concerned.add(first.backupId).add(other.backupId);
    blame(
      first,
      `by its times it ended ${first === backup ? 'before' : 'after'} backup ${other.backupId}, by the order of the WAL it is the other way round`,
    );
  }
  if (isAhead && storeNow === undefined) {
    doubts.push(
      `this host's clock (${textOf(now)}) may be behind: look at it before anything else, a clock that is makes good backups seem to be of the future`,
    );
  }
  const advice = adviceOn(concerned.size, doubts.length > 0 || storeNow === undefined);
  doubts.push(...blamed.map(({ backupId, why }) => `backup ${backupId}: ${why}${advice}`));
  return { doubts, suspect, warnings: copied(facts.backups) };
}

/** Nobody is told to delete a backup that may be good: it takes one alone, and a clock that nothing speaks against. */
function adviceOn(count: number, isClockInDoubt: boolean): string {
  if (isClockInDoubt) return '';
  return count === 1
    ? ' (delete it by hand, or put a keep on it)'
    : ' (compare the clocks of the hosts first, and delete none by hand; with a keep on it, it is not counted)';
}

interface Contradiction {
  readonly why: string;
  /** Whether it is a time that has not come yet, by the clocks there are. */
  readonly isAhead?: boolean;
}

function contradictionIn(backup: RetentionBackup, now: number): Contradiction | undefined {
  const zone = backup.hasTimesWithoutZone === true ? ZONE_TOLERANCE_MS : 0;
  const { beginTime, endTime, storedAt } = backup;
  for (const [what, time, tolerance] of [
    ['began', beginTime, zone],
    ['ended', endTime, zone],
    ['was stored', storedAt, 0],
  ] as const) {
    if (time !== undefined && !(time.getTime() <= now + CLOCK_TOLERANCE_MS + tolerance))
      return { why: `it ${what} in the future, at ${textOf(time.getTime())}`, isAhead: true };
  }
  if (
    beginTime !== undefined &&
    endTime !== undefined &&
    beginTime.getTime() > endTime.getTime() + RECORD_TOLERANCE_MS
  ) {
    return {
      why: `it began at ${textOf(beginTime.getTime())}, and ended before that, at ${textOf(endTime.getTime())}`,
    };
  }
  if (
    endTime !== undefined &&
    storedAt !== undefined &&
    endTime.getTime() > storedAt.getTime() + RECORD_TOLERANCE_MS + zone
  ) {
    return {
      why: `it ended at ${textOf(endTime.getTime())}, and was stored before that, at ${textOf(storedAt.getTime())}`,
    };
  }
  return undefined;
}

/** Backups of which an earlier one, by the WAL of their timeline, ended later by its time; each with that one. */
function disorder(backups: readonly RetentionBackup[]): [RetentionBackup, RetentionBackup][] {
  const found: [RetentionBackup, RetentionBackup][] = [];
  const lines = groupBy(
    backups.filter(({ status }) => status === 'DONE'),
    ({ systemId, timeline }) => `${systemId} ${timeline}`,
  );
  for (const line of lines.values()) {
    let latest: RetentionBackup | undefined;
    for (const backup of line.toSorted(byEnd)) {
      const time = backup.endTime?.getTime();
      if (time === undefined || backup.endLsn === undefined) continue;
      const latestTime = latest?.endTime?.getTime() ?? -Infinity;
      const zone = backup.hasTimesWithoutZone || latest?.hasTimesWithoutZone ? ZONE_TOLERANCE_MS : 0;
      if (latest !== undefined && latestTime > time + RECORD_TOLERANCE_MS + zone)
        found.push([backup, latest]);
      else if (latestTime <= time) latest = backup;
    }
  }
  return found;
}

function byEnd(a: RetentionBackup, b: RetentionBackup): number {
  return (a.endLsn ?? 0n) < (b.endLsn ?? 0n) ? -1 : (a.endLsn ?? 0n) > (b.endLsn ?? 0n) ? 1 : 0;
}

function copied(backups: readonly RetentionBackup[]): string[] {
  const late = backups.filter(
    ({ endTime, storedAt }) =>
      endTime !== undefined &&
      storedAt !== undefined &&
      storedAt.getTime() > endTime.getTime() + COPIED_AFTER_MS,
  );
  if (late.length === 0) return [];
  return [
    `${late.length} backups were stored more than ${formatDuration(COPIED_AFTER_MS)} after they ended, as when a repository is copied: each stays as long as either of its times keeps it`,
  ];
}

/**
 * Whether far more backups came within a day than ever before. Whoever can add backups could otherwise use up what
 * rules keep with worthless ones; and a runaway schedule must not cost the old ones.
 *
 * @returns a whole phrase; `undefined` when there is no flood
 */
export function floodOf(facts: RetentionFacts): string | undefined {
  const now = cautiousNow(facts);
  const days = new Map<number, number>();
  for (const { status, storedAt, endTime } of facts.backups) {
    const time = (storedAt ?? endTime)?.getTime();
    if (status !== 'DONE' || time === undefined) continue;
    const day = Math.max(0, Math.floor((now - time) / DAY));
    days.set(day, (days.get(day) ?? 0) + 1);
  }
  const today = days.get(0) ?? 0;
  days.delete(0);
  const busiest = Math.max(1, ...days.values());
  if (today <= FLOOD_COUNT || today <= FLOOD_FACTOR * busiest) return undefined;
  return `${today} backups came within a day, and never more than ${busiest} on a day before: nothing goes until that day is over`;
}

function textOf(time: number): string {
  return Number.isFinite(time) && Math.abs(time) <= 8.64e15 ? new Date(time).toISOString() : String(time);
}
