import { getExternalWorkflowHandle, TemporalFailure } from '@temporalio/workflow';
import type { InstanceFacts } from '../activities/cluster.ts';
import type { BackupStatus } from '../core/backup-status.ts';
import type { BackupControl } from './backup-control.ts';
import type { Trouble } from './failures.ts';
import type { parseBaseBackupInput } from './inputs.ts';
import { clusterWorkflowId } from './interface.ts';
import type { Permits, Turn } from './permits.ts';

/** What one run was asked for. */
export type BackupRequest = ReturnType<typeof parseBaseBackupInput> & {
  readonly backupName: string;
  /** When this run began to work, in ms: a run of a `--cron` chain exists long before. */
  readonly startedAt: number;
};

/** What the run knows of itself; what its query and its page show. */
export interface BackupRun {
  status: BackupStatus;
  attempt: number;
  instance?: string;
  /** The last attempt's failure, while another one is awaited. */
  trouble?: string;
  /** The keeper's answer, once it came. */
  peers?: readonly InstanceFacts[];
  /** Why its BackupPolicy, if there is one, does not count: the defaults do. */
  policyProblem?: string;
  /** Where it waits for its turn among other backups. */
  turn?: Turn;
  readonly control: BackupControl;
  readonly permits: Permits;
}

/** The cluster's keeper, which may not be there. */
export function keeperOf(request: Pick<BackupRequest, 'namespace' | 'cluster'>) {
  return getExternalWorkflowHandle(clusterWorkflowId(request.namespace, request.cluster));
}

/** A failure that nobody foresaw, as one that may pass. @throws what is no failure of Temporal: a bug */
export function unforeseen(error: unknown): Trouble {
  if (!(error instanceof TemporalFailure)) throw error;
  const message = (error.cause ?? error).message;
  return { code: 'backup-interrupted', message, hint: 'see the worker’s log', retryable: true };
}
