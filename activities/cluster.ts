import { BackupError } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { policyOf, type Besides, type HeldBesides, type PolicySpec } from '../manifests/desire.ts';

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
  /** Whether it keeps what is declared beside the Cluster; workers of 0.1.0 don't. */
  readonly keepsBesides?: boolean;
  /** How often the keeper is to do things; only where this worker says otherwise. */
  readonly keeperPace?: Pick<Pace, 'sweep' | 'audit' | 'missed'> & { readonly look?: number };
}

/** An answer to "who is there?". */
export interface DescribedInstance extends InstanceFacts {
  /** What this worker holds of an earlier keeper; absent: it never held such things. */
  readonly held?: HeldBesides;
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
  // The keeper's, only where a worker says otherwise: between two sweeps, two audits, and how late a slot may be heard of.
  readonly sweep?: number;
  readonly audit?: number;
  readonly missed?: number;
}

/** What a workflow knows after its first look at the cluster. */
export interface ClusterFacts {
  readonly manifest: ClusterManifest;
  readonly revision: number;
  /** Who answered. */
  readonly instance: InstanceFacts;
  readonly pace: Pace;
  /** The cluster's BackupPolicy, or the defaults. Absent in histories of 0.1.0. */
  readonly policy?: PolicySpec;
  /** Whether a BackupPolicy was applied. */
  readonly hasPolicy?: boolean;
  /** Why there may be a policy all the same, in whose place the defaults stand: it can't be read. The Backup's page shows it. */
  readonly problem?: string;
  /** How many backups may run at once beside this one; absent: no cap. */
  readonly caps?: Caps;
}

/** Caps over a fleet, told to the workers that share something. */
export interface Caps {
  /** Of backups that write to the same place. */
  readonly perStore?: number;
  /** Of backups on the same host. */
  readonly perHost?: number;
  /** Names the place: equal for all clusters that write to it. */
  readonly store: string;
}

export interface ClusterReference {
  readonly namespace: string;
  readonly cluster: string;
}

export interface StoreManifestInput extends ClusterReference {
  readonly manifest: ClusterManifest;
  readonly revision: number;
  /** What is declared besides; what is not among it any more is forgotten. Absent: left as it is. */
  readonly besides?: Besides;
}

/** What these activities need of the worker's process. */
export interface ClusterPorts {
  readManifest(
    cluster: ClusterReference,
  ): Promise<{ manifest: ClusterManifest; revision: number } | undefined>;
  /** What is declared besides, as far as it can be read; absent where nothing ever is. */
  readHeld?(cluster: ClusterReference): Promise<HeldBesides>;
  writeManifest(input: StoreManifestInput): Promise<void>;
  instanceFacts(): Promise<InstanceFacts>;
  /** @param policy the cluster's, or the defaults */
  readonly pace: Pace | ((policy: PolicySpec) => Pace);
  /** How many backups may run at once beside those of `manifest`; `undefined`: no cap. */
  caps?(manifest: ClusterManifest): Caps | undefined;
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
      // What can't be read stops no backup. What may be deleted the keeper says, whoever sweeps.
      const besides = await ports.readHeld?.(cluster);
      const policy = policyOf({
        cluster: stored.manifest,
        ...(besides?.policy && { policy: besides.policy }),
      });
      const caps = ports.caps?.(stored.manifest);
      return {
        manifest: stored.manifest,
        revision: stored.revision,
        instance: await ports.instanceFacts(),
        pace: typeof ports.pace === 'function' ? ports.pace(policy) : ports.pace,
        policy,
        hasPolicy: besides?.policy !== undefined,
        ...(besides?.problem !== undefined && { problem: besides.problem }),
        ...(caps && { caps }),
      };
    },

    /** Keeps the manifest in this worker's state directory, whence archiving and recovery read it without Temporal. */
    async storeManifest(input: StoreManifestInput): Promise<InstanceFacts> {
      await ports.writeManifest(input);
      return ports.instanceFacts();
    },

    /** What this worker's instance is at this moment, and what it holds: with Temporal's state lost nobody else knows. */
    async describeInstance(cluster: ClusterReference): Promise<DescribedInstance> {
      const held = await ports.readHeld?.(cluster);
      return { ...(await ports.instanceFacts()), ...(held && { held }) };
    },
  };
}

export type ClusterActivities = ReturnType<typeof createClusterActivities>;
