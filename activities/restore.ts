import { Context } from '@temporalio/activity';
import type { RecoveryPlan, RecoveryTarget } from '../core/recovery.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import { attached, type AskServer } from './attached.ts';
import { beatWhile } from './beat-while.ts';
import type { Caps, ClusterReference } from './cluster.ts';

/** Where a recovery reads from: the name of an external cluster or of an applied cluster, or the place itself. */
export type RestoreSource = string | Readonly<Record<string, unknown>>;

export interface RestoreRequest extends ClusterReference {
  readonly instance: string;
  /** `undefined`: as the target's own manifest says in `bootstrap.recovery`. */
  readonly source?: RestoreSource;
  readonly recoveryTarget?: RecoveryTarget;
  /** Recover up to a hole in the archive as if it ended there. */
  readonly acceptEnd?: boolean;
  /** Directories by tablespace name; the others go where they were. */
  readonly tablespaces?: Readonly<Record<string, string>>;
}

export interface PlannedRestore {
  readonly plan: RecoveryPlan;
  readonly sourceUrl: string;
  /** How many backups may run at once where this restore reads and works; absent: no cap. */
  readonly caps?: Caps;
}

export interface RestoreProgress {
  readonly phase: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface RestoreResult {
  readonly backupId: string;
  readonly sourceUrl: string;
  readonly targetTimeline: number;
  /** What ends the recovery, for people. */
  readonly endsAt: string;
  readonly instance: string;
  readonly targetDirectory: string;
  readonly files: number;
  readonly contentBytes: number;
  readonly storedBytes: number;
  /** Every part was compared with the sizes and hashes recorded when it was taken. */
  readonly isVerified: boolean;
  readonly warnings: readonly string[];
}

export interface RestorePorts {
  readonly jobs: JobRegistry;
  readonly askServer: AskServer;
  /** Whether this worker's data directory is free to be restored into. */
  targetState(): Promise<'empty' | 'occupied'>;
  plan(request: RestoreRequest, signal: AbortSignal): Promise<PlannedRestore>;
  perform(
    request: RestoreRequest,
    planned: PlannedRestore,
    options: { signal: AbortSignal; onProgress: (progress: RestoreProgress) => void },
  ): Promise<RestoreResult>;
}

/** A recovery into this worker's data directory. */
export function createRestoreActivities(ports: RestorePorts) {
  return {
    /** Whether there is already something in the data directory. */
    async inspectTarget(_request: RestoreRequest): Promise<'empty' | 'occupied'> {
      return ports.targetState();
    },

    /** What a restore would do. @throws BackupError `target-unreachable` naming the nearest moments */
    async planRestore(request: RestoreRequest): Promise<PlannedRestore> {
      const planned = await beatWhile(ports.plan(request, Context.current().cancellationSignal));
      return { ...planned, plan: withinPayload(planned.plan) };
    },

    /** Fetches, unpacks and writes the recovery settings. @throws BackupError `directory-not-empty` before any change */
    async performRestore(
      request: RestoreRequest & { readonly planned: PlannedRestore; readonly runId: string },
    ): Promise<RestoreResult> {
      const job = ports.jobs.startOrAttach<RestoreProgress, RestoreResult>({
        key: `restore/${request.namespace}/${request.cluster}/${request.runId}`,
        subject: `restore/${request.namespace}/${request.cluster}`,
        run: (signal, onProgress) => ports.perform(request, request.planned, { signal, onProgress }),
      });
      return attached(job, ports.askServer);
    },
  };
}

/** F4: what grows with the number of backups is cut; it is there for people, and the newest are first. */
function withinPayload(plan: RecoveryPlan): RecoveryPlan {
  return { ...plan, excluded: plan.excluded.slice(0, 20), warnings: plan.warnings.slice(0, 20) };
}

export type RestoreActivities = ReturnType<typeof createRestoreActivities>;
