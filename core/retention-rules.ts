import { calendarOf, type Period } from './calendar-period.ts';
import { formatDuration } from './duration.ts';
import { groupBy } from './group-by.ts';
import { offPath, pathTo } from './recovery-path.ts';
import { cautiousNow, type Clocks } from './retention-clocks.ts';
import type { KeepRules, RetentionFacts } from './retention-facts.ts';
import type { CountedBackup } from './retention-records.ts';
import type { TimelineTree } from './timeline-tree.ts';

/** What the rules keep. */
export interface RuledBackups {
  /** Every rule that keeps a backup, by its id; whole phrases. */
  readonly reasons: ReadonlyMap<string, readonly string[]>;
  /**
   * Of each system identifier, the earliest time of what the window, `keepLast` and `minimum` keep: the stretch of
   * time that is kept without gaps.
   */
  readonly since: ReadonlyMap<string, number>;
}

type Clock = keyof Clocks;
/** Every rule is applied by each clock, and what either keeps stays: none alone can make a backup old. */
const CLOCKS: readonly Clock[] = ['recorded', 'stored'];

/** Tells of each backup that a rule keeps, and whether the rule keeps a stretch of time without gaps. */
type Keep = (counted: CountedBackup, reason: string, isStretch: boolean) => void;

const CALENDAR: readonly { rule: 'daily' | 'weekly' | 'monthly' | 'yearly'; period: Period }[] = [
  { rule: 'daily', period: 'day' },
  { rule: 'weekly', period: 'week' },
  { rule: 'monthly', period: 'month' },
  { rule: 'yearly', period: 'year' },
];

/** Applies the Cluster's window and the BackupPolicy's rules to the backups that count. */
export function applyRules(
  counted: readonly CountedBackup[],
  facts: RetentionFacts,
  tree: TimelineTree,
): RuledBackups {
  const reasons = new Map<string, string[]>();
  const since = new Map<string, number>();
  const systems = groupBy(counted, ({ system }) => system);
  for (const clock of CLOCKS) {
    const keep: Keep = (backup, reason, isStretch) => {
      addReason(reasons, backup.backupId, reason, clock);
      if (!isStretch) return;
      const time = Math.min(backup.recorded, backup.stored);
      since.set(backup.system, Math.min(time, since.get(backup.system) ?? time));
    };
    const newestFirst = newestFirstBy(counted, clock);
    for (const [system, backups] of systems) {
      const ordered = newestFirstBy(backups, clock);
      if (facts.windowMs !== undefined) keepWindow(ordered, clock, facts, tree, keep);
      keepMinimum(ordered, facts.policy?.minimum ?? 1, system, keep);
    }
    if (facts.policy === undefined) continue;
    const calendar = calendarOf(facts.policy.timezone);
    keepByRules(newestFirst, facts.policy, undefined, clock, calendar, keep);
    for (const [schedule, rules] of Object.entries(facts.policy.schedules)) {
      const ofSchedule = newestFirst.filter(({ backup }) => backup.schedule === schedule);
      keepByRules(ofSchedule, rules, schedule, clock, calendar, keep);
    }
  }
  return { reasons, since };
}

function addReason(reasons: Map<string, string[]>, backupId: string, reason: string, clock: Clock): void {
  const known = reasons.get(backupId) ?? [];
  reasons.set(backupId, known);
  if (clock === 'recorded') known.push(reason);
  else if (!known.includes(reason)) known.push(`${reason} (by the time it was stored)`);
}

/** By time; of equal times the WAL decides. The id is only there so that the order is always the same. */
function newestFirstBy(counted: readonly CountedBackup[], clock: Clock): CountedBackup[] {
  return counted.toSorted(
    (a, b) =>
      b[clock] - a[clock] ||
      b.timeline - a.timeline ||
      (a.endLsn < b.endLsn ? 1 : a.endLsn > b.endLsn ? -1 : 0) ||
      (a.backupId < b.backupId ? 1 : -1),
  );
}

/**
 * CNPG's window: what ended in it, and the newest that ended before it, without which its first moments are out of
 * reach. Of the latter each timeline needs its own that was in use within the window: one that branched off before
 * that backup ended can't be reached from it.
 */
function keepWindow(
  newestFirst: readonly CountedBackup[],
  clock: Clock,
  facts: RetentionFacts,
  tree: TimelineTree,
  keep: Keep,
): void {
  const begin = cautiousNow(facts) - (facts.windowMs ?? 0);
  const beginText = new Date(begin).toISOString();
  const before: CountedBackup[] = [];
  const inWindow = new Set<number>();
  for (const backup of newestFirst) {
    if (backup[clock] < begin) before.push(backup);
    else {
      keep(backup, `it ended in the recovery window, which begins at ${beginText}`, true);
      inWindow.add(backup.timeline);
    }
  }
  // A backup of a later timeline shows that the earlier ones had been left by then, unless there is newer WAL of them:
  // somebody may have gone back to one.
  const inUseAtBegin = before.reduce((newest, { timeline }) => Math.max(newest, timeline), 0);
  const opens = new Map<CountedBackup, number[]>();
  for (const timeline of tree.timelines) {
    const isInUse = inWindow.has(timeline) || (facts.lastStored?.get(timeline) ?? -Infinity) >= begin;
    if (timeline < inUseAtBegin && !isInUse) continue;
    const path = pathTo(timeline, { histories: tree.histories, segments: facts.segments });
    const opener = before.find((backup) => offPath(backup, path) === undefined);
    if (opener !== undefined) opens.set(opener, [...(opens.get(opener) ?? []), timeline]);
  }
  for (const [backup, timelines] of opens) {
    const way = opens.size > 1 ? ` on the way to timeline ${timelines.join(', ')}` : '';
    keep(backup, `it opens the recovery window: the newest that ended before ${beginText}${way}`, true);
  }
}

function keepMinimum(
  newestFirst: readonly CountedBackup[],
  minimum: number,
  system: string,
  keep: Keep,
): void {
  const count = Math.max(1, minimum);
  const which = count === 1 ? 'the newest' : `one of the newest ${count}`;
  for (const backup of newestFirst.slice(0, count))
    keep(backup, `it is ${which} that can be restored of system ${system}`, true);
}

function keepByRules(
  newestFirst: readonly CountedBackup[],
  rules: KeepRules,
  schedule: string | undefined,
  clock: Clock,
  calendar: (instant: number, period: Period) => string,
  keep: Keep,
): void {
  const { keepLast = 0 } = rules;
  const scope = schedule === undefined ? '' : ` of schedule ${schedule}`;
  for (const backup of newestFirst.slice(0, keepLast))
    keep(backup, `keepLast: it is one of the newest ${keepLast}${scope}`, schedule === undefined);
  for (const { rule, period } of CALENDAR) {
    const count = rules[rule] ?? 0;
    const seen = new Set<string>();
    for (const backup of newestFirst) {
      if (seen.size >= count) break;
      const name = calendar(backup[clock], period);
      if (seen.has(name)) continue;
      seen.add(name);
      keep(backup, `${rule}: it is the newest${scope} of ${name}`, false);
    }
  }
}

/** Whether a newer backup was restored successfully; newer by both clocks, and of the same system. */
export function hasProvenSuccessor(
  { system, recorded, stored }: Clocks & { readonly system: string },
  proven: readonly CountedBackup[],
): boolean {
  return proven.some(
    (other) => other.system === system && other.recorded > recorded && other.stored > stored,
  );
}

/** That nothing of what is declared keeps a backup, in a few words. */
export function describeRules({ windowMs, policy }: Pick<RetentionFacts, 'windowMs' | 'policy'>): string {
  const window = windowMs === undefined ? undefined : `the recovery window of ${formatDuration(windowMs)}`;
  if (policy === undefined) return `${window ?? 'nothing'} keeps it no longer`;
  return `${window === undefined ? '' : `${window} and `}the rules of the BackupPolicy keep it no longer`;
}
