import type { BackupStatus } from '../core/backup-status.ts';
import type { EndedBackup, KeeperState } from './keeper-state.ts';

/**
 * Backups whose run could not write into the repository how they ended, such as one that failed because it was denied access.
 * It does not come back, so the keeper writes it once the repository takes it.
 */
export function unwrittenOutcomes({ ended }: Pick<KeeperState, 'ended'>): string[] {
  return ended.flatMap(({ name, unwritten }) => (unwritten ? [name] : []));
}

/** As the run would have written it, as far as the keeper was told. */
export function outcomeOf({ name, phase, backupId, startedAt, stoppedAt, error }: EndedBackup): BackupStatus {
  return {
    phase,
    method: 'barmanObjectStore',
    backupName: name,
    ...(backupId !== undefined && { backupId }),
    ...(startedAt !== undefined && { startedAt }),
    ...(stoppedAt !== undefined && { stoppedAt }),
    ...(error !== undefined && { error }),
  };
}

export function noteWritten(state: KeeperState, name: string): KeeperState {
  const ended = state.ended.map((one): EndedBackup => {
    if (one.name !== name) return one;
    const { unwritten: _done, ...rest } = one;
    return rest;
  });
  if (state.agenda === undefined) return { ...state, ended };
  const { outcomesNotBefore: _when, outcomeFailures: _before, ...agenda } = state.agenda;
  return { ...state, ended, agenda };
}
