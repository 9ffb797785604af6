import { policyOf } from '../manifests/desire.ts';
import { judgeObjectives, rpoSeconds } from '../core/objectives.ts';
import { whyNothing } from '../core/sweep-report.ts';
import type { ClusterStatus, KnownBackup } from './interface.ts';
import { nextRunsOf } from './keeper-agenda.ts';
import { unmadeHolds } from './keeper-holds.ts';
import { desireOf, instancesBehind, type KeeperState, type QueuedBackup } from './keeper-state.ts';

/** The answer to `status`. @param now milliseconds since 1970 */
export function statusOf(state: KeeperState, namespace: string, now: number): ClusterStatus {
  const { manifest, revision, instances, archiving, lastSuccessfulBackup, lastFailedBackup } = state;
  const { audit, lastVerification, lastSweep } = state;
  const rpo = audit && rpoSeconds(audit, archiving, now);
  return {
    namespace,
    cluster: manifest.metadata.name,
    revision,
    instances,
    backups: [...state.backups.map(asKnown), ...state.ended.toReversed().map(asKnown)],
    ...(lastSuccessfulBackup !== undefined && { lastSuccessfulBackup }),
    ...(lastFailedBackup !== undefined && { lastFailedBackup }),
    ...(archiving && { archiving }),
    ...(audit && { audit }),
    ...(lastVerification && { lastVerification }),
    ...(lastSweep && { lastSweep }),
    ...(rpo !== undefined && { rpoSeconds: rpo, rpoAt: rfc3339(now) }),
    nextRuns: nextRunsOf(state, now),
    problems: problemsOf(state, now),
  };
}

/** What needs a person: whatever happens or does not happen, time alone brings it up. */
export function problemsOf(state: KeeperState, now: number): string[] {
  const { archiving, instances, manifest, ended } = state;
  const problems: string[] = [];
  const name = manifest.metadata.name;
  if (instances.length === 0) {
    problems.push(`no worker of "${name}" has reported yet: start walkeep worker next to the database`);
  }
  if (!manifest.spec.backup?.barmanObjectStore) {
    problems.push(`"${name}" has no spec.backup.barmanObjectStore: nothing is archived or backed up`);
  }
  if (archiving?.health === 'failing') {
    problems.push(
      `WAL archiving fails on ${archiving.instance}: ${archiving.lastError ?? 'see the worker’s log'}`,
    );
  }
  for (const behind of instancesBehind(state)) {
    problems.push(`${behind.instance} does not hold the applied manifest yet (revision ${state.revision})`);
  }
  const last = ended.at(-1);
  if (last?.phase === 'failed')
    problems.push(`the last Backup, "${last.name}", failed: ${last.error ?? 'no reason given'}`);
  return [
    ...problems,
    ...deletionProblems(state),
    ...archiveProblems(state),
    ...scheduleProblems(state),
    ...unmetObjectives(state, now),
  ];
}

/** Why what is to be kept may not be known, or could not be told to the repository. */
function deletionProblems({ heldProblem, agenda, ended }: KeeperState): string[] {
  const late = ended.flatMap(({ name, holdProblem }) =>
    holdProblem === undefined ? [] : [`the hold of Backup "${name}" came too late: ${holdProblem}`],
  );
  if (agenda?.holdProblem !== undefined && unmadeHolds({ ended }).length > 0)
    late.push(`a hold is not placed yet, so nothing is deleted: ${agenda.holdProblem}`);
  return heldProblem === undefined ? late : [`nothing is deleted: ${heldProblem}`, ...late];
}

function archiveProblems({ audit, lastVerification, lastSweep }: KeeperState): string[] {
  const problems: string[] = [];
  for (const { kind, first, last, count, repair } of audit?.damages ?? []) {
    if (repair === 'repaired') continue;
    const which = count === 1 ? first : `${first} to ${last} (${count} segments)`;
    problems.push(`the archive has a hole: ${which} ${kind === 'missing' ? 'missing' : 'damaged'}`);
  }
  if (lastVerification?.result === 'damaged') {
    const { backupId = 'a backup', error = 'see its report', id } = lastVerification;
    problems.push(`the verification ${id} found ${backupId} damaged: ${error}`);
  }
  if (lastVerification?.result === 'not-tried')
    problems.push(`the last verification could not be tried: ${lastVerification.error ?? 'see its report'}`);
  if (lastSweep?.refused !== undefined)
    problems.push(`the last sweep deleted nothing: ${whyNothing(lastSweep.refused)}`);
  return problems;
}

function scheduleProblems({ agenda }: KeeperState): string[] {
  return Object.entries(agenda?.schedules ?? {}).flatMap(([name, { problem, last }]) => [
    ...(problem === undefined ? [] : [`ScheduledBackup "${name}": ${problem}`]),
    ...(last?.outcome === 'missed'
      ? [`ScheduledBackup "${name}" missed its run of ${last.slot}: ${last.reason ?? 'nobody ran it'}`]
      : []),
  ]);
}

/** The watchdog: it looks at the ages of what there is, not at whether somebody was to make it. */
function unmetObjectives(state: KeeperState, now: number): string[] {
  const { audit, archiving, bornAt } = state;
  if (bornAt === undefined || !state.manifest.spec.backup?.barmanObjectStore) return [];
  return judgeObjectives({
    objectives: policyOf(desireOf(state)).objectives,
    ...(audit && { audit }),
    ...(archiving && { archiving }),
    ...(state.lastSuccessfulBackup !== undefined && { lastBackupAt: state.lastSuccessfulBackup }),
    ...(state.lastVerification?.result === 'verified' && { lastProvenAt: state.lastVerification.endedAt }),
    now,
    since: bornAt,
  });
}

function rfc3339(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');
}

function asKnown(backup: KnownBackup | QueuedBackup): KnownBackup {
  const { name, phase, startedAt } = backup;
  return {
    name,
    phase,
    ...(startedAt !== undefined && { startedAt }),
    ...('backupId' in backup && backup.backupId !== undefined && { backupId: backup.backupId }),
    ...('stoppedAt' in backup && backup.stoppedAt !== undefined && { stoppedAt: backup.stoppedAt }),
    ...('error' in backup && backup.error !== undefined && { error: backup.error }),
  };
}
