import { Context } from '@temporalio/activity';
import type { BackupStatus } from '../core/backup-status.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { CopiedBackup, Progress } from '../operations/take-backup.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import { attached, type AskServer } from './attached.ts';
import { beatWhile } from './beat-while.ts';
import type { ClusterReference } from './cluster.ts';

/** A Backup, with the manifest its run began with: every step of a run sees the same one. */
export interface BackupReference extends ClusterReference {
  readonly backupName: string;
  readonly manifest: ClusterManifest;
}

export interface CopyBackupInput extends BackupReference {
  readonly instance: string;
  /** The attempt's number within the run; with the run it names the work in the worker's process. */
  readonly attempt: number;
  readonly runId: string;
  readonly immediateCheckpoint: boolean;
}

export interface CopiedBackupInput extends BackupReference {
  /** Who copied. */
  readonly instance: string;
  readonly copied: CopiedBackup;
  /** How long WAL may take to arrive, in seconds. */
  readonly walDeadline: number;
}

export interface RecordOutcomeInput extends BackupReference {
  readonly status: BackupStatus;
}

/** Whole operations, bound to this worker's PostgreSQL and the manifest's repository. */
export interface BaseBackupPorts {
  readonly jobs: JobRegistry;
  readonly askServer: AskServer;
  findOutcome(backup: BackupReference, signal: AbortSignal): Promise<BackupStatus | undefined>;
  copy(
    input: CopyBackupInput,
    options: { signal: AbortSignal; onProgress: (progress: Progress) => void },
  ): Promise<CopiedBackup>;
  confirm(input: CopiedBackupInput, signal: AbortSignal): Promise<void>;
  record(input: CopiedBackupInput, signal: AbortSignal): Promise<BackupStatus>;
  discard(backup: BackupReference, backupId: string, signal: AbortSignal): Promise<void>;
  writeOutcome(input: RecordOutcomeInput, signal: AbortSignal): Promise<void>;
}

/** The steps of a base backup. Each may run twice: all are idempotent by the Backup's name or the attempt's id. */
export function createBaseBackupActivities(ports: BaseBackupPorts) {
  const signal = () => Context.current().cancellationSignal;
  return {
    /** How a Backup of this name ended, if one ever did; `null` if none did. Survives the loss of Temporal's state. */
    async findOutcome(backup: BackupReference): Promise<BackupStatus | null> {
      return (await beatWhile(ports.findOutcome(backup, signal()))) ?? null;
    },

    /** One attempt from `pg_backup_start` to `pg_backup_stop`, with everything uploaded. Nothing is listed yet. */
    async copyBackup(input: CopyBackupInput): Promise<CopiedBackup> {
      const job = ports.jobs.startOrAttach<Progress, CopiedBackup>({
        key: `copy/${input.namespace}/${input.backupName}/${input.runId}/${input.attempt}`,
        subject: `backup/${input.namespace}/${input.backupName}`,
        run: (jobSignal, onProgress) => ports.copy(input, { signal: jobSignal, onProgress }),
      });
      return attached(job, ports.askServer);
    },

    /** Waits for the backup's WAL in the repository and looks at its parts again. @throws BackupError `wal-missing` */
    async confirmBackup(input: CopiedBackupInput): Promise<void> {
      await beatWhile(ports.confirm(input, signal()));
    },

    /** Writes the record: from here on the backup is listed and can be restored. Recording twice changes nothing. */
    async recordBackup(input: CopiedBackupInput): Promise<BackupStatus> {
      const status = await beatWhile(ports.record(input, signal()));
      await ports.writeOutcome({ ...input, status }, signal());
      return status;
    },

    /** Removes what an attempt uploaded that will never be recorded. Removing nothing succeeds. */
    async discardBackup(input: BackupReference & { readonly backupId: string }): Promise<void> {
      await beatWhile(ports.discard(input, input.backupId, signal()));
    },

    /** Writes down how a Backup ended that has no record of its own: its name is used up. */
    async recordOutcome(input: RecordOutcomeInput): Promise<void> {
      await beatWhile(ports.writeOutcome(input, signal()));
    },
  };
}

export type BaseBackupActivities = ReturnType<typeof createBaseBackupActivities>;
