import { Context } from '@temporalio/activity';
import type { Verification } from '../core/verification.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { PolicySpec } from '../manifests/desire.ts';
import type { ScheduledVerificationManifest } from '../manifests/scheduled-verification.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import type { VerifyOutcome, VerifyProgress, VerifyRequest } from '../operations/verify-backup.ts';
import { attached, type AskServer } from './attached.ts';
import { beatWhile } from './beat-while.ts';
import type { ClusterReference } from './cluster.ts';

export type { VerifyOutcome, VerifyRequest } from '../operations/verify-backup.ts';

/** A cluster with the manifest the run began with: a worker elsewhere holds none. */
export interface VerificationReference extends ClusterReference {
  readonly manifest: ClusterManifest;
  readonly policy?: PolicySpec;
}

export interface VerifyBackupInput extends VerificationReference {
  readonly request: VerifyRequest;
  /** With the run it names the work in the worker's process. */
  readonly attempt: number;
  readonly runId: string;
}

export interface RecordVerificationInput extends VerificationReference {
  readonly verification: Verification;
}

/** What these activities need of the worker's process. */
export interface RestoreVerificationPorts {
  readonly jobs: JobRegistry;
  readonly askServer: AskServer;
  /** From the worker's state directory. */
  findRules(namespace: string, name: string): Promise<ScheduledVerificationManifest | undefined>;
  verify(
    input: VerifyBackupInput,
    options: { signal: AbortSignal; onProgress: (progress: VerifyProgress) => void },
  ): Promise<VerifyOutcome>;
  record(input: RecordVerificationInput, signal: AbortSignal): Promise<void>;
}

/** Proof by restore, in steps that may each run twice. */
export function createRestoreVerificationActivities(ports: RestoreVerificationPorts) {
  return {
    /** The ScheduledVerification as this worker's host keeps it; `null` when it keeps none of that name. */
    async loadVerificationRules(input: {
      readonly namespace: string;
      readonly name: string;
    }): Promise<ScheduledVerificationManifest | null> {
      return (await ports.findRules(input.namespace, input.name)) ?? null;
    },

    /**
     * Restores, starts and checks, and removes all of it again. It comes to evidence whatever happens; what is stored
     * of it is for `recordVerification`. A second attempt in this process attaches to the first; one elsewhere removes
     * what a killed one left behind.
     */
    async verifyBackup(input: VerifyBackupInput): Promise<VerifyOutcome> {
      const run = `verification/${input.namespace}/${input.cluster}/${input.runId}`;
      const job = ports.jobs.startOrAttach<VerifyProgress, VerifyOutcome>({
        key: `${run}/${input.attempt}`,
        subject: run,
        run: (signal, onProgress) => ports.verify(input, { signal, onProgress }),
      });
      return attached(job, ports.askServer);
    },

    /** Writes the evidence into the repository. Writing the same again changes nothing. */
    async recordVerification(input: RecordVerificationInput): Promise<void> {
      await beatWhile(ports.record(input, Context.current().cancellationSignal));
    },
  };
}

export type RestoreVerificationActivities = ReturnType<typeof createRestoreVerificationActivities>;
