import { Context, type Info } from '@temporalio/activity';
import type { BackupStatus } from '../core/backup-status.ts';
import { BackupError } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { PolicySpec } from '../manifests/desire.ts';
import type { CopiedBackup, Progress } from '../operations/take-backup.ts';
import type { JobRegistry, Wishes } from '../operations/job-registry.ts';
import type { BackupMetadata } from '../repository/outcome.ts';
import { attached, type AskServer } from './attached.ts';
import { beatWhile } from './beat-while.ts';
import type { ClusterReference } from './cluster.ts';
import { copyKey, wantedNow, type CopyControl } from './control.ts';

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
  /** The policy's. Absent in runs of 0.1.0. */
  readonly limits?: PolicySpec['limits'];
  /** What was wanted of the copy when it was scheduled. */
  readonly control?: CopyControl;
}

export interface CopiedBackupInput extends BackupReference {
  /** Who copied. */
  readonly instance: string;
  readonly copied: CopiedBackup;
  /** How long WAL may take to arrive, in seconds. */
  readonly walDeadline: number;
  readonly metadata?: BackupMetadata;
}

export interface RecordOutcomeInput extends BackupReference {
  readonly status: BackupStatus;
  /** Kept with the outcome. */
  readonly metadata?: BackupMetadata;
}

/** Whole operations, bound to this worker's PostgreSQL and the manifest's repository. */
export interface BaseBackupPorts {
  readonly jobs: JobRegistry;
  readonly askServer: AskServer;
  findOutcome(backup: BackupReference, signal: AbortSignal): Promise<BackupStatus | undefined>;
  copy(
    input: CopyBackupInput,
    options: {
      signal: AbortSignal;
      onProgress: (progress: Progress) => void;
      wishes: Wishes<CopyControl>;
    },
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
      const { info } = Context.current();
      const wish = info.attempt > 1 ? newest(input.control, await wantedNow()) : input.control;
      const ms = msUntilDeadline(info);
      const job = ports.jobs.startOrAttach<Progress, CopiedBackup, CopyControl>({
        key: copyKey(input),
        subject: `backup/${input.namespace}/${input.backupName}`,
        wish,
        run: (jobSignal, onProgress, wishes) =>
          untilDeadline(ms, jobSignal, input, (signalOfBoth) =>
            ports.copy(input, { signal: signalOfBoth, onProgress, wishes }),
          ),
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
      const { copied: _copied, walDeadline: _walDeadline, instance: _instance, ...backup } = input;
      await ports.writeOutcome({ ...backup, status }, signal());
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

/** What an attempt has left to clean up in before the server gives it up. */
const CLEAN_UP_MS = 10_000;

/** Of this attempt, until a little before the server's; `undefined` where it has none. */
function msUntilDeadline(info: Info): number | undefined {
  const { scheduleToCloseTimeoutMs, scheduledTimestampMs, currentAttemptScheduledTimestampMs } = info;
  if (!scheduleToCloseTimeoutMs) return undefined;
  // The server's clock alone: this host's may be another.
  const left = scheduleToCloseTimeoutMs - (currentAttemptScheduledTimestampMs - scheduledTimestampMs);
  return Math.max(0, left - Math.min(CLEAN_UP_MS, left / 20));
}

/**
 * Ends the work at the deadline, whoever is attached: an attempt that the server gave up only leaves, and a copy that
 * is paused or slow would hold PostgreSQL in backup mode with nobody waiting for it.
 */
async function untilDeadline<Result>(
  ms: number | undefined,
  stop: AbortSignal,
  { backupName }: CopyBackupInput,
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  // A timer can't count further than 24 days.
  if (ms === undefined || ms >= 2 ** 31) return work(stop);
  const over = new AbortController();
  const timer = setTimeout(
    () => over.abort(new BackupError('deadline-exceeded', `the copy of ${backupName} did not end in time`)),
    ms,
  );
  try {
    return await work(AbortSignal.any([stop, over.signal]));
  } finally {
    clearTimeout(timer);
  }
}

function newest(a: CopyControl | undefined, b: CopyControl | undefined): CopyControl | undefined {
  return a && b ? (a.version >= b.version ? a : b) : (a ?? b);
}

export type BaseBackupActivities = ReturnType<typeof createBaseBackupActivities>;
