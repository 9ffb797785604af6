import { isTimezone } from './cron.ts';
import { formatDuration } from './duration.ts';
import { cautiousNow, compareClocks, floodOf } from './retention-clocks.ts';
import type { PlannedBackup, RetentionBackup, RetentionFacts, RetentionPlan } from './retention-facts.ts';
import { judgeBackups, type Judged } from './retention-keeps.ts';
import { planWal, type WalNeed } from './retention-need.ts';
import { doubtsAboutRecords, standingOf, type CountedBackup, type Standing } from './retention-records.ts';
import { applyRules, describeRules, type RuledBackups } from './retention-rules.ts';
import { timelineOf } from './segment.ts';
import { growTimelineTree, type TimelineTree } from './timeline-tree.ts';

export type {
  PlannedBackup,
  RetentionBackup,
  RetentionFacts,
  RetentionPlan,
  RetentionRules,
  WalHold,
} from './retention-facts.ts';

/** More backups than this, and more than half of them, are not given up while backups have stopped. */
const MASS_COUNT = 10;
const DOUBTS_SHOWN = 5;

/**
 * Decides what is kept, and why: a reason for every backup and every range of WAL. It deletes nothing. A sweep executes
 * the plan, a dry run prints it.
 *
 * A backup stays if anything keeps it: the Cluster's window, a rule of its BackupPolicy, barman's `keep`, a hold, its
 * age below the grace period. What nothing keeps gets a tombstone, and is deleted when the grace period is over and
 * still nothing keeps it. Whatever is doubtful refuses the whole plan: then nothing is marked and nothing deleted.
 */
export function planRetention(given: RetentionFacts): RetentionPlan {
  const facts = { ...given, backups: newestFirst(given.backups) };
  const tree = growTimelineTree(facts.histories, usedTimelines(facts));
  const clocks = compareClocks(facts);
  const standings = new Map(
    facts.backups.map((backup) => [backup, standingOf(backup, facts, tree, clocks.suspect)]),
  );
  const counted = [...standings.values()].flatMap((standing) =>
    standing.kind === 'counted' ? [standing.counted] : [],
  );
  const hasRules = facts.windowMs !== undefined || facts.policy !== undefined;
  if (!hasRules && facts.undecidable === undefined) return keepAll(facts, tree, standings);

  const impossible = impossibleFacts(facts);
  const doubts = [
    ...(facts.undecidable === undefined ? [] : [facts.undecidable]),
    ...impossible,
    ...(facts.doubts ?? []),
    ...doubtsAboutRecords(facts, tree),
    ...tree.doubts,
    ...clocks.doubts,
    ...nothingToKeep(counted, facts),
  ];
  const canCount = impossible.length === 0 && clocks.doubts.length === 0;
  const ruled = canCount ? applyRules(counted, facts, tree) : NOTHING_RULED;
  const judged = judgeBackups(standings, facts, counted, ruled);
  const decided = doubts.length === 0 ? decideAll(judged, facts) : [];
  doubts.push(...tooMuchAtOnce(decided, counted, facts));
  const backups = doubts.length === 0 ? decided : judged.map((one) => undecided(one, doubts));
  const refused = doubts.length === 0 ? {} : { refused: refusalOf(doubts) };
  return {
    ...refused,
    backups,
    ...planWal(facts, tree, needsOf(backups, standings), refused.refused ?? unknownNeed(standings)),
    warnings: [...clocks.warnings, ...warningsAbout(judged, backups, facts)],
  };
}

const NOTHING_RULED: RuledBackups = { reasons: new Map(), since: new Map() };

function usedTimelines(facts: RetentionFacts): Set<number> {
  return new Set([
    ...facts.backups.flatMap(({ timeline }) => (timeline === undefined ? [] : [timeline])),
    ...facts.segments.timelines(),
    ...[...(facts.partials ?? []), ...(facts.labels ?? [])].map(timelineOf),
    ...facts.youngFrom.keys(),
    ...(facts.walHolds ?? []).map(({ timeline }) => timeline),
  ]);
}

// ---- what forbids everything ------------------------------------------------------------------------------------------

function impossibleFacts(facts: RetentionFacts): string[] {
  const { now, storeNow, graceMs, deadlineMs, windowMs, policy, backups } = facts;
  const isMoment = (value: number) => Number.isFinite(value) && Math.abs(value) < 8e15;
  const isSpan = (value: number) => isMoment(value) && value >= 0;
  const doubts: string[] = [];
  if (!isMoment(now) || !isMoment(storeNow ?? now)) doubts.push('the time is not known');
  const spans = [graceMs, deadlineMs, windowMs ?? 0, ...backups.map(({ markGraceMs }) => markGraceMs ?? 0)];
  if (!spans.every(isSpan) || windowMs === 0)
    doubts.push('the grace period, the deadline of a backup or the window is no span of time');
  if (policy !== undefined && !isTimezone(policy.timezone))
    doubts.push(`there is no time zone "${policy.timezone}"`);
  return doubts;
}

function nothingToKeep(counted: readonly CountedBackup[], { backups, systemId }: RetentionFacts): string[] {
  if (backups.length === 0) return ['there is no backup'];
  if (counted.length === 0) return ['no backup can be restored'];
  if (systemId === undefined || counted.some(({ system }) => system === systemId)) return [];
  return [`no backup of system ${systemId}, which the archive belongs to, can be restored`];
}

/** A flood of new backups, or many that would go while no new ones come. */
function tooMuchAtOnce(
  decided: readonly PlannedBackup[],
  counted: readonly CountedBackup[],
  facts: RetentionFacts,
): string[] {
  const going = new Set(
    decided.flatMap(({ decision, backupId }) =>
      decision === 'mark' || decision === 'delete' ? [backupId] : [],
    ),
  );
  if (going.size === 0) return [];
  const flood = floodOf(facts);
  if (flood !== undefined) return [flood];
  const { windowMs } = facts;
  const lost = counted.filter(
    ({ backup }) => backup.tombstonedAt === undefined && going.has(backup.backupId),
  );
  if (windowMs === undefined || lost.length <= MASS_COUNT || lost.length * 2 <= counted.length) return [];
  const newest = counted.reduce((max, { recorded, stored }) => Math.max(max, recorded, stored), -Infinity);
  if (newest >= cautiousNow(facts) - windowMs) return [];
  return [
    `${lost.length} of ${counted.length} backups would go at once, and none is younger than the window of ${formatDuration(windowMs)}: backups have stopped, or the clock is wrong`,
  ];
}

function refusalOf(doubts: readonly string[]): string {
  const shown = doubts.slice(0, DOUBTS_SHOWN).join('; ');
  const more = doubts.length - DOUBTS_SHOWN;
  return `nothing is deleted: ${shown}${more > 0 ? `; and ${more} more` : ''}`;
}

function undecided({ backup, keeps }: Judged, doubts: readonly string[]): PlannedBackup {
  const { backupId } = backup;
  const own = doubts.filter((doubt) => doubt.startsWith(`backup ${backupId}`));
  if (keeps.length > 0 && own.length === 0) return { backupId, decision: 'keep', reasons: keeps };
  const why = own.length > 0 ? own : ['nothing is deleted while something is in doubt'];
  return { backupId, decision: 'undecided', reasons: [...keeps, ...why] };
}

/** CNPG's meaning of no retention policy: everything stays. */
function keepAll(
  facts: RetentionFacts,
  tree: TimelineTree,
  standings: ReadonlyMap<RetentionBackup, Standing>,
): RetentionPlan {
  const reason = 'there is no retentionPolicy and no BackupPolicy: everything is kept';
  const backups = facts.backups.map((backup): PlannedBackup => {
    const { backupId, tombstonedAt } = backup;
    if (backup.deletionBegan === true) {
      const reasons = ['its deletion began while there was a policy; without one nothing is deleted'];
      return { backupId, decision: 'undecided', reasons };
    }
    const takeBack = tombstonedAt === undefined ? {} : ({ takeBack: true } as const);
    return { backupId, decision: 'keep', reasons: [reason], ...takeBack };
  });
  const wal = planWal(facts, tree, needsOf(backups, standings), reason);
  return { backups, ...wal, warnings: [] };
}

// ---- the decision -----------------------------------------------------------------------------------------------------

function decideAll(judged: readonly Judged[], facts: RetentionFacts): PlannedBackup[] {
  const backups = judged.map(({ backup }) => backup);
  return dieWithChildren(
    judged.map((one) => decide(one, facts)),
    backups,
  );
}

function decide({ backup, standing, keeps }: Judged, facts: RetentionFacts): PlannedBackup {
  const { backupId, tombstonedAt, markGraceMs = 0, lock } = backup;
  if (standing.kind === 'deleting') {
    const began = 'its deletion has begun, and what is left of it can not be restored';
    const holdsBack = [...keeps, ...(lock === undefined ? [] : [lock.why])];
    const decision = holdsBack.length === 0 ? 'delete' : 'undecided';
    return { backupId, decision, reasons: [...holdsBack, began] };
  }
  if (keeps.length > 0) {
    const takeBack = tombstonedAt === undefined ? {} : ({ takeBack: true } as const);
    return { backupId, decision: 'keep', reasons: keeps, ...takeBack };
  }
  const why = whyItMayGo(backup, standing, facts);
  const now = cautiousNow(facts);
  if (tombstonedAt === undefined && facts.graceMs > 0)
    return { backupId, decision: 'mark', reasons: [why], dueAt: now + facts.graceMs };
  // With a policy that is lost its grace period is lost too: what was marked under a longer one has that time.
  const dueAt = (tombstonedAt?.getTime() ?? now) + Math.max(facts.graceMs, markGraceMs);
  const promised =
    markGraceMs > facts.graceMs
      ? [`it was marked under a grace period of ${formatDuration(markGraceMs)}`]
      : [];
  // not `dueAt > now`: a tombstone without a readable time must not be due
  if (!(dueAt <= now)) return { backupId, decision: 'wait', reasons: [why, ...promised], dueAt };
  const over = tombstonedAt === undefined ? [] : [`its tombstone of ${tombstonedAt.toISOString()} is due`];
  if (lock === undefined) return { backupId, decision: 'delete', reasons: [why, ...over] };
  // with all its WAL: half a backup is none (D7)
  const lockEnd = lock.untilMs === undefined ? {} : { dueAt: lock.untilMs };
  return { backupId, decision: 'wait', reasons: [lock.why, why, ...over], ...lockEnd };
}

function whyItMayGo(backup: RetentionBackup, standing: Standing, facts: RetentionFacts): string {
  const useless = standing.kind === 'uncounted' || standing.kind === 'dead' ? [standing.why] : [];
  const ended = backup.endTime === undefined ? [] : [`it ended at ${backup.endTime.toISOString()}`];
  return [...useless, ...ended, describeRules(facts)].join('; ');
}

/** Chains die from the end: what is built on a backup goes before it, or at the same time. */
function dieWithChildren(
  decided: readonly PlannedBackup[],
  backups: readonly RetentionBackup[],
): PlannedBackup[] {
  const result = new Map(decided.map((one) => [one.backupId, one]));
  const byId = new Map(backups.map((backup) => [backup.backupId, backup]));
  for (const { backupId, decision, dueAt } of decided) {
    if (decision === 'delete') continue;
    const seen = new Set<string>();
    const parentOf = (id: string) => byId.get(id)?.parentBackupId;
    for (let id = parentOf(backupId); id !== undefined && !seen.has(id); id = parentOf(id)) {
      seen.add(id);
      const parent = result.get(id);
      // what is half gone already is no use to anybody
      if (parent?.decision !== 'delete' || byId.get(id)?.deletionBegan === true) continue;
      const reasons = [...parent.reasons, `backup ${backupId}, which is built on it, has to go first`];
      const waiting = byId.get(id)?.tombstonedAt === undefined ? 'mark' : 'wait';
      result.set(id, { backupId: id, decision: waiting, reasons, ...(dueAt === undefined ? {} : { dueAt }) });
    }
  }
  return [...result.values()];
}

/** The order of the plan, and of all that it tells. */
function newestFirst(backups: readonly RetentionBackup[]): RetentionBackup[] {
  const timeOf = ({ endTime, beginTime, storedAt }: RetentionBackup) =>
    (endTime ?? beginTime ?? storedAt)?.getTime() ?? Infinity;
  return backups.toSorted((a, b) => {
    const [timeA, timeB] = [timeOf(a), timeOf(b)];
    if (timeA !== timeB) return timeB > timeA ? 1 : -1;
    return a.backupId < b.backupId ? 1 : -1;
  });
}

// ---- the WAL of what stays --------------------------------------------------------------------------------------------

function needsOf(
  planned: readonly PlannedBackup[],
  standings: ReadonlyMap<RetentionBackup, Standing>,
): WalNeed[] {
  const fates = new Map(planned.map((one) => [one.backupId, one]));
  return [...standings].flatMap(([backup, standing]): WalNeed[] => {
    const { backupId, timeline, beginLsn, endLsn } = backup;
    const fate = fates.get(backupId);
    if (fate === undefined || fate.decision === 'delete') return [];
    if (standing.kind === 'dead' && backup.keep === undefined && backup.hold === undefined) return [];
    if (timeline === undefined || beginLsn === undefined) return [];
    const need = { backupId, timeline, beginLsn };
    const isAlone = backup.keep === 'standalone' && fate.decision === 'keep' && fate.reasons.length === 1;
    return [isAlone && endLsn !== undefined ? { ...need, onlyTo: endLsn } : need];
  });
}

/** A backup that runs and does not say since where may need anything. */
function unknownNeed(standings: ReadonlyMap<RetentionBackup, Standing>): string | undefined {
  for (const [{ backupId, timeline, beginLsn }, { kind }] of standings) {
    if (kind === 'running' && (timeline === undefined || beginLsn === undefined))
      return `backup ${backupId} is running, and where it began is not known`;
  }
  return undefined;
}

// ---- what people should know ------------------------------------------------------------------------------------------

function warningsAbout(
  judged: readonly Judged[],
  planned: readonly PlannedBackup[],
  facts: RetentionFacts,
): string[] {
  const warnings: string[] = [];
  const snapshots = judged.filter(({ backup }) => backup.snapshots === true).length;
  if (snapshots > 0)
    warnings.push(`${snapshots} backups are volume snapshots, which retention does not cover`);
  const marked = planned.filter(({ decision }) => decision === 'mark').length;
  if (marked > MASS_COUNT && marked * 2 > planned.length) {
    warnings.push(
      `${marked} of ${planned.length} backups are marked at once: if that is not meant, change the policy within the grace period of ${formatDuration(facts.graceMs)}`,
    );
  }
  const dead = judged.filter(({ standing }) => standing.kind === 'dead').length;
  if (dead > 0 && facts.policy === undefined) {
    warnings.push(
      `${dead} backups failed or died; without a BackupPolicy their records and parts stay until somebody deletes them`,
    );
  }
  return warnings;
}
