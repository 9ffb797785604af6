import {
  cutReport,
  type ArchiveDamage,
  type AuditReport,
  type RepairRound,
  type WalRepair,
} from '../core/audit.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { AuditProgress, AuditRequest } from '../operations/audit-archive.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import { attached, type AskServer } from './attached.ts';
import type { ClusterReference } from './cluster.ts';

/** One step of an audit, with the manifest its run began with. */
export interface AuditReference extends ClusterReference {
  readonly manifest: ClusterManifest;
  /** With `step` it names the work in the worker's process. */
  readonly runId: string;
  readonly step: string;
}

export interface AuditArchiveInput extends AuditReference {
  readonly read: AuditRequest['read'];
  /** What became of the damages of an audit before. */
  readonly round?: RepairRound;
  readonly readBefore?: number;
}

export interface RepairWalInput extends AuditReference {
  readonly instance: string;
  readonly damages: readonly ArchiveDamage[];
}

export interface RepairProgress {
  readonly phase: 'repairing';
  readonly done: number;
  readonly total: number;
}

/** Whole operations, bound to the manifest's repository and this worker's data directory. */
export interface AuditPorts {
  readonly jobs: JobRegistry;
  readonly askServer: AskServer;
  audit(
    input: AuditArchiveInput,
    options: { signal: AbortSignal; onProgress: (progress: AuditProgress) => void },
  ): Promise<AuditReport>;
  repair(
    input: RepairWalInput,
    options: { signal: AbortSignal; onProgress: (progress: RepairProgress) => void },
  ): Promise<WalRepair[]>;
}

/** The steps of a WAL audit. Each may run twice: looking changes nothing, and what was sent again is there. */
export function createWalAuditActivities(ports: AuditPorts) {
  const keyOf = ({ namespace, cluster, runId, step }: AuditReference) =>
    `audit/${namespace}/${cluster}/${runId}/${step}`;
  return {
    /** Looks at the whole archive; any worker that reaches the repository can do it. Keeps the report there. */
    async auditArchive(input: AuditArchiveInput): Promise<AuditReport> {
      const job = ports.jobs.startOrAttach<AuditProgress, AuditReport>({
        key: keyOf(input),
        subject: `audit/${input.namespace}/${input.cluster}`,
        run: (signal, onProgress) => ports.audit(input, { signal, onProgress }),
      });
      return cutReport(await attached(job, ports.askServer));
    },

    /** Sends again what is missing or damaged, from this instance's `pg_wal`. What is not here is not named. */
    async repairWal(input: RepairWalInput): Promise<WalRepair[]> {
      const job = ports.jobs.startOrAttach<RepairProgress, WalRepair[]>({
        key: keyOf(input),
        subject: `wal-repair/${input.namespace}/${input.cluster}`,
        run: (signal, onProgress) => ports.repair(input, { signal, onProgress }),
      });
      return cutRepairs(await attached(job, ports.askServer));
    },
  };
}

const MAX_REPAIRS = 60;

/** What is not told of is found by the audit that follows. */
function cutRepairs(repairs: readonly WalRepair[]): WalRepair[] {
  return repairs.slice(0, MAX_REPAIRS).map(({ detail, ...repair }) => ({
    ...repair,
    ...(detail !== undefined && { detail: detail.slice(0, 300) }),
  }));
}

export type WalAuditActivities = ReturnType<typeof createWalAuditActivities>;
