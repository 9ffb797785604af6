import type { BackupStatus } from '../core/backup-status.ts';
import { LIMITS } from './keeper-limits.ts';
import type { EndedBackup, KeeperState } from './keeper-state.ts';

/**
 * Backups whose run could not write into the repository how they ended, such as one that failed because it was denied access.
 * It does not come back, so the keeper writes it once the repository takes it.
 */
export function unwrittenOutcomes({ ended }: Pick<KeeperState, 'ended'>): string[] {
  return ended.flatMap(({ name, unwritten }) => (unwritten ? [name] : []));
}

/**
 * The names of those that are not forgotten until they are written. When there are too many, those go first that nobody
 * applied: a manifest can be applied again and would run again, the name of a schedule's Backup never comes back.
 */
export function outcomesToKeep({ ended }: Pick<KeeperState, 'ended'>): ReadonlySet<string> {
  const open = ended.filter(({ unwritten }) => unwritten);
  const isApplied = ({ fingerprint }: EndedBackup) => fingerprint !== '';
  const leastFirst = [...open.filter((one) => !isApplied(one)), ...open.filter(isApplied)];
  return new Set(leastFirst.slice(-LIMITS.unwritten).map(({ name }) => name));
}

/** As the run would have written it, as far as the keeper was told. */
export function outcomeOf({
  name,
  phase,
  method = 'barmanObjectStore',
  backupId,
  startedAt,
  stoppedAt,
  error,
}: EndedBackup): BackupStatus {
  return {
    phase,
    method,
    backupName: name,
    ...(backupId !== undefined && { backupId }),
    ...(startedAt !== undefined && { startedAt }),
    ...(stoppedAt !== undefined && { stoppedAt }),
    ...(error !== undefined && { error }),
  };
}

/** It is in the repository. */
export function noteWritten(state: KeeperState, name: string): KeeperState {
  const next = giveUpOutcome(state, name);
  if (next.agenda === undefined) return next;
  const { outcomesNotBefore: _when, outcomeFailures: _before, ...agenda } = next.agenda;
  return { ...next, agenda };
}

/** It can never be written; the others are still to be. */
export function giveUpOutcome(state: KeeperState, name: string): KeeperState {
  return { ...state, ended: state.ended.map((one) => (one.name === name ? withoutMark(one) : one)) };
}

/** The state of a keeper that was never told of any. */
export function withoutUnwritten(state: KeeperState): KeeperState {
  return { ...state, ended: state.ended.map(withoutMark) };
}

function withoutMark({ unwritten: _unwritten, method: _method, ...one }: EndedBackup): EndedBackup {
  return one;
}
