import { BackupError } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';

/** What an instance is at this moment; `absent` has no data directory (yet), `unknown` could not be asked. */
export type InstanceRole = 'primary' | 'standby' | 'unknown' | 'absent';

/** What a worker says of itself and its PostgreSQL. */
export interface InstanceFacts {
  readonly instance: string;
  readonly role: InstanceRole;
  /** The host's name, for people. */
  readonly host: string;
  /** walkeep's version. */
  readonly version: string;
  /** The manifest this worker holds; both absent when it holds none. */
  readonly revision?: number;
  readonly fingerprint?: string;
  /** Whether walkeep's search attributes exist in this namespace. */
  readonly searchAttributes: boolean;
}

/** How often things happen; the worker's choice, so that a test can be quick. All in seconds. */
export interface Pace {
  /** Heartbeat timeout of long activities: how late a dead worker is noticed. */
  readonly heartbeat: number;
  /** Wait before the second attempt of a backup; doubles up to `backoffMaximum`. */
  readonly backoff: number;
  readonly backoffMaximum: number;
  /** From the start of a Backup to its failure, whatever happens. */
  readonly deadline: number;
  /** How many attempts may fail. Waiting for a worker or for another backup is no attempt. */
  readonly attempts: number;
  /** How long WAL of the backup may take to arrive in the repository. */
  readonly walDeadline: number;
  /** Between two reports of archiving; a change is reported at once. */
  readonly archivingReport: number;
}

/** What a workflow knows after its first look at the cluster. */
export interface ClusterFacts {
  readonly manifest: ClusterManifest;
  readonly revision: number;
  /** Who answered. */
  readonly instance: InstanceFacts;
  readonly pace: Pace;
}

export interface ClusterReference {
  readonly namespace: string;
  readonly cluster: string;
}

export interface StoreManifestInput extends ClusterReference {
  readonly manifest: ClusterManifest;
  readonly revision: number;
}

/** What these activities need of the worker's process. */
export interface ClusterPorts {
  readManifest(
    cluster: ClusterReference,
  ): Promise<{ manifest: ClusterManifest; revision: number } | undefined>;
  writeManifest(input: StoreManifestInput): Promise<void>;
  instanceFacts(): Promise<InstanceFacts>;
  readonly pace: Pace;
}

/** The applied manifest and who holds it. */
export function createClusterActivities(ports: ClusterPorts) {
  return {
    /**
     * The manifest that was applied last, from this worker's state directory.
     *
     * @throws BackupError `cluster-unknown` when this worker holds none
     */
    async loadCluster(cluster: ClusterReference): Promise<ClusterFacts> {
      const stored = await ports.readManifest(cluster);
      if (!stored) {
        throw new BackupError(
          'cluster-unknown',
          `no manifest of the cluster "${cluster.namespace}/${cluster.cluster}" was applied yet`,
        );
      }
      return {
        ...stored,
        instance: await ports.instanceFacts(),
        pace: ports.pace,
      };
    },

    /** Keeps the manifest in this worker's state directory, whence archiving and recovery read it without Temporal. */
    async storeManifest(input: StoreManifestInput): Promise<InstanceFacts> {
      await ports.writeManifest(input);
      return ports.instanceFacts();
    },

    /** What this worker's instance is at this moment. */
    async describeInstance(_cluster: ClusterReference): Promise<InstanceFacts> {
      return ports.instanceFacts();
    },
  };
}

export type ClusterActivities = ReturnType<typeof createClusterActivities>;
