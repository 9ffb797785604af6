import type { BackupStatus } from '../core/backup-status.ts';
import { bytesText, factsTable } from './page.ts';
import { turnText, type Turn } from './permits.ts';
import type { ControlState } from './interface.ts';

/** A Backup as the Web UI shows it under "current details". */
export function backupPage(
  request: { readonly backupName: string; readonly cluster: string; readonly namespace: string },
  run: {
    readonly status: BackupStatus;
    readonly attempt: number;
    readonly instance?: string;
    readonly trouble?: string;
    readonly policyProblem?: string;
    readonly turn?: Turn;
    readonly control: { readonly wanted: ControlState | undefined };
  },
): string {
  const { status, turn } = run;
  const { wanted } = run.control;
  const paused = wanted?.paused === true && (status.phase === 'running' || status.phase === 'pending');
  // Waiting for a turn is no attempt yet.
  const attempt = turn ? run.attempt - 1 : run.attempt;
  return [
    `### Backup ${request.backupName}: ${status.phase}${paused ? ', paused' : ''}`,
    factsTable([
      ['cluster', `${request.namespace}/${request.cluster}`],
      ['turn', turn && turnText(turn)],
      ['instance', run.instance],
      ['attempt', attempt > 0 ? attempt : undefined],
      ['paused', paused ? 'an operator wants it so; its deadline comes nearer' : undefined],
      ['rate limit', limitOf(wanted)],
      ['defaults hold', run.policyProblem],
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

/** Only where an operator said something; the policy's own limit is in the policy. */
function limitOf(wanted: ControlState | undefined): string | undefined {
  if (wanted?.maxBytesPerSecond === undefined) return undefined;
  return wanted.maxBytesPerSecond === null ? 'none' : `${bytesText(wanted.maxBytesPerSecond)}/s`;
}
