import { isTerminalPhase, type BackupStatus } from './backup-status.ts';

/** A Backup as lists show it, wherever it was heard of. */
export interface ListedBackup {
  readonly namespace: string;
  readonly cluster: string;
  readonly name: string;
  readonly method: string;
  readonly status: BackupStatus;
  /** `repository`: the record of what can be restored; `motion`: what Temporal says is being done. */
  readonly heardFrom: 'repository' | 'motion';
  /** barman's keep annotation. */
  readonly keep?: 'full' | 'standalone';
  /** Why the record can't be used, when it can't. */
  readonly problem?: string;
}

/**
 * One list of what the repository records and what Temporal knows. The record wins where a Backup has ended: it is
 * what can be restored. What still moves is shown as it moves. Oldest first; what never started comes last.
 */
export function mergeBackups(
  recorded: readonly ListedBackup[],
  moving: readonly ListedBackup[],
): ListedBackup[] {
  const byName = new Map<string, ListedBackup>();
  const key = (backup: ListedBackup) => `${backup.namespace}/${backup.cluster}/${backup.name}`;
  for (const backup of [...moving, ...recorded]) {
    const other = byName.get(key(backup));
    const replaces =
      other === undefined ||
      !isTerminalPhase(other.status.phase) ||
      (isTerminalPhase(backup.status.phase) && backup.status.phase !== 'failed');
    if (replaces) byName.set(key(backup), backup);
  }
  return [...byName.values()].toSorted((a, b) => compare(began(a), began(b)) || compare(a.name, b.name));
}

function began(backup: ListedBackup): string {
  return backup.status.startedAt ?? '9999';
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
