import { formatDuration } from './duration.ts';
import { cautiousNow, clocksOf } from './retention-clocks.ts';
import type { RetentionBackup, RetentionFacts } from './retention-facts.ts';
import { systemOf, timesOf, type CountedBackup, type Standing } from './retention-records.ts';
import { hasProvenSuccessor, type RuledBackups } from './retention-rules.ts';

/** A backup on its way to a decision. */
export interface Judged {
  readonly backup: RetentionBackup;
  readonly standing: Standing;
  /** Why it stays, whole phrases; empty when nothing keeps it. */
  readonly keeps: readonly string[];
}

/** Collects all that keeps each backup: rules, pins, its age, and what is built on it. */
export function judgeBackups(
  standings: ReadonlyMap<RetentionBackup, Standing>,
  facts: RetentionFacts,
  counted: readonly CountedBackup[],
  ruled: RuledBackups,
): Judged[] {
  const proven = counted.filter(({ backup }) => backup.provenAt !== undefined);
  return keepChains(
    [...standings].map(([backup, standing]) => judge(backup, standing, facts, proven, ruled)),
  );
}

function judge(
  backup: RetentionBackup,
  standing: Standing,
  facts: RetentionFacts,
  proven: readonly CountedBackup[],
  ruled: RuledBackups,
): Judged {
  if (standing.kind === 'deleting') {
    return { backup, standing, keeps: backup.hold === undefined ? [] : [`it is held: ${backup.hold}`] };
  }
  const keeps = [...pins(backup), ...(ruled.reasons.get(backup.backupId) ?? [])];
  const age = reachOfGrace(backup, standing, facts);
  if (age !== undefined) keeps.push(age);
  const stretch = standing.kind === 'counted' ? undefined : inStretch(backup, standing, facts, ruled);
  if (stretch !== undefined) keeps.push(stretch);
  if (keeps.length === 0 && backup.status === 'DONE' && facts.policy?.onlyWithProvenSuccessor === true) {
    const { endTime } = backup;
    const own = endTime && { system: systemOf(backup), ...clocksOf(backup, endTime) };
    if (own === undefined || !hasProvenSuccessor(own, proven))
      keeps.push('onlyWithProvenSuccessor: no newer backup has been restored successfully yet');
  }
  return { backup, standing, keeps };
}

function pins({ keep, hold, snapshots }: RetentionBackup): string[] {
  const reasons: string[] = [];
  if (keep !== undefined) reasons.push(`barman's annotation keeps it (${keep})`);
  if (hold !== undefined) reasons.push(`it is held: ${hold}`);
  if (snapshots === true) reasons.push('it consists of volume snapshots, which retention does not cover');
  return reasons;
}

/** What runs, and what is younger than the grace period, is out of reach from everywhere (D5). */
function reachOfGrace(
  backup: RetentionBackup,
  standing: Standing,
  facts: RetentionFacts,
): string | undefined {
  if (standing.kind === 'running') return 'it is running, or what took it died within its deadline';
  const times = timesOf(backup);
  if (times.length === 0) return 'its record has no time, so its age is not known';
  if (Math.max(...times) <= cautiousNow(facts) - facts.graceMs) return undefined;
  return `it is younger than the grace period of ${formatDuration(facts.graceMs)}`;
}

/** What doesn't count stays as long as the backups of its time do, and what failed is none of a window's business. */
function inStretch(
  backup: RetentionBackup,
  standing: Standing,
  { policy, systemId }: RetentionFacts,
  { since }: RuledBackups,
): string | undefined {
  if (standing.kind === 'dead' && policy === undefined)
    return `${standing.why}; a window says nothing of such backups, and barman leaves them to you`;
  const own = since.get(systemOf(backup));
  if (own === undefined && standing.kind === 'uncounted')
    return 'no backup of its system can be restored, so nothing of it is deleted';
  const begin = own ?? since.get(systemId ?? '') ?? Math.min(Infinity, ...since.values());
  if (Math.max(...timesOf(backup)) < begin) return undefined;
  const why = standing.kind === 'uncounted' || standing.kind === 'dead' ? standing.why : 'it has no end';
  return `it does not count (${why}), and stays as long as the backups of its time`;
}

/** A backup that others are built on stays with them. */
function keepChains(judged: readonly Judged[]): Judged[] {
  const byId = new Map(judged.map((one) => [one.backup.backupId, one]));
  const result = new Map(byId);
  for (const { backup, keeps } of judged) {
    if (keeps.length === 0) continue;
    const seen = new Set([backup.backupId]);
    for (
      let parent = byId.get(backup.parentBackupId ?? '');
      parent !== undefined && !seen.has(parent.backup.backupId);
      parent = byId.get(parent.backup.parentBackupId ?? '')
    ) {
      const id = parent.backup.backupId;
      seen.add(id);
      const known = result.get(id) ?? parent;
      if (known.standing.kind === 'deleting') continue;
      result.set(id, { ...known, keeps: [...known.keeps, `backup ${backup.backupId} is built on it`] });
    }
  }
  return [...result.values()];
}
