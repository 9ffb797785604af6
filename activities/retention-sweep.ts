import { Context } from '@temporalio/activity';
import type { SweepReport } from '../core/sweep-report.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { PolicySpec } from '../manifests/desire.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import type { PlannedSweep, SweepProgress } from '../operations/sweep.ts';
import { withinPayload } from '../operations/sweep-report.ts';
import { attached, type AskServer } from './attached.ts';
import { beatWhile } from './beat-while.ts';
import type { ClusterReference } from './cluster.ts';

/** All that a worker needs to know, also one that holds no manifest: its queue may be that of the deleting key alone. */
export interface SweepInput extends ClusterReference {
  readonly manifest: ClusterManifest;
  /** The cluster's BackupPolicy, or the defaults. */
  readonly policy?: PolicySpec;
  /** Whether a BackupPolicy was applied: the defaults of nobody's policy delete nothing. */
  readonly hasPolicy: boolean;
  readonly dryRun: boolean;
}

export interface PerformSweepInput extends SweepInput {
  /** With the cluster it names the work in the worker's process. */
  readonly runId: string;
}

export interface RetentionSweepPorts {
  readonly jobs: JobRegistry;
  readonly askServer: AskServer;
  plan(input: SweepInput, signal: AbortSignal): Promise<PlannedSweep>;
  perform(
    input: PerformSweepInput,
    options: { signal: AbortSignal; onProgress: (progress: SweepProgress) => void },
  ): Promise<SweepReport>;
}

/** The two steps of a sweep. Both may run twice: whatever a dead one began, the next one finishes. */
export function createRetentionSweepActivities(ports: RetentionSweepPorts) {
  return {
    /** What a sweep would do. Nothing is marked or deleted by it. */
    async planSweep(input: SweepInput): Promise<PlannedSweep> {
      const { report, hasWork } = await beatWhile(ports.plan(input, Context.current().cancellationSignal));
      return { report: withinPayload(report), hasWork };
    },

    /** Marks, and deletes what is due, under the lease. @throws BackupError `lease-held` while somebody else sweeps */
    async performSweep(input: PerformSweepInput): Promise<SweepReport> {
      const job = ports.jobs.startOrAttach<SweepProgress, SweepReport>({
        key: `sweep/${input.namespace}/${input.cluster}/${input.runId}`,
        subject: `sweep/${input.namespace}/${input.cluster}`,
        run: (signal, onProgress) => ports.perform(input, { signal, onProgress }),
      });
      return withinPayload(await attached(job, ports.askServer));
    },
  };
}

export type RetentionSweepActivities = ReturnType<typeof createRetentionSweepActivities>;
