/**
 * Where a Backup stands, in CloudNativePG's words.
 *
 * @see cnpg-api `status.phase` of `postgresql.cnpg.io/v1` Backup
 */
export type BackupPhase = 'pending' | 'started' | 'running' | 'finalizing' | 'completed' | 'failed';

/** Whether nothing more will happen to a Backup in this phase. */
export function isTerminalPhase(phase: BackupPhase): boolean {
  return phase === 'completed' || phase === 'failed';
}

/**
 * The status of a Backup as CloudNativePG has it (`kubectl get backup -o yaml`): times are RFC 3339 in UTC with
 * seconds, LSNs PostgreSQL's spelling. Fields that are not known yet are absent.
 */
export interface BackupStatus {
  readonly phase: BackupPhase;
  readonly method?: string;
  /** `YYYYMMDDTHHMMSS`: one per attempt that produced a backup. */
  readonly backupId?: string;
  /** The Backup's own name, one per run. */
  readonly backupName?: string;
  readonly startedAt?: string;
  readonly stoppedAt?: string;
  readonly beginWal?: string;
  readonly endWal?: string;
  readonly beginLSN?: string;
  readonly endLSN?: string;
  readonly error?: string;
  readonly commandError?: string;
  readonly destinationPath?: string;
  readonly serverName?: string;
  readonly endpointURL?: string;
  readonly encryption?: string;
  /** PostgreSQL's major version. */
  readonly majorVersion?: number;
  readonly instanceID?: { readonly podName: string };
  readonly online?: boolean;
}
