import type { BackupStatus } from '../core/backup-status.ts';
import { factsTable } from './page.ts';

/** A Backup as the Web UI shows it under "current details". */
export function backupPage(
  request: { readonly backupName: string; readonly cluster: string; readonly namespace: string },
  run: {
    readonly status: BackupStatus;
    readonly attempt: number;
    readonly instance?: string;
    readonly trouble?: string;
  },
): string {
  const { status } = run;
  return [
    `### Backup ${request.backupName}: ${status.phase}`,
    factsTable([
      ['cluster', `${request.namespace}/${request.cluster}`],
      ['instance', run.instance],
      ['attempt', run.attempt > 0 ? run.attempt : undefined],
      ['backup id', status.backupId],
      ['started', status.startedAt],
      ['stopped', status.stoppedAt],
      ['WAL', status.beginWal && `${status.beginWal} … ${status.endWal ?? ''}`],
      ['LSN', status.beginLSN && `${status.beginLSN} … ${status.endLSN ?? ''}`],
      ['repository', status.destinationPath && `${status.destinationPath} (${status.serverName ?? ''})`],
      ['error', status.error],
      ['last attempt failed with', run.trouble],
    ]),
    ...(status.phase === 'running'
      ? ['', 'Progress is in the heartbeats of the pending activity `base-backup`.']
      : []),
  ].join('\n');
}
