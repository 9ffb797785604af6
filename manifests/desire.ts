import { fingerprint } from '../core/fingerprint.ts';
import { backupPolicySchema, WALKEEP_API, type BackupPolicyManifest } from './backup-policy.ts';
import type { ClusterManifest } from './cluster.ts';
import type { ScheduledBackupManifest } from './scheduled-backup.ts';
import type { ScheduledVerificationManifest } from './scheduled-verification.ts';

/** What a BackupPolicy says, with its defaults. */
export type PolicySpec = BackupPolicyManifest['spec'];

/** All that is declared about one cluster and lasts. Backups are not among it: they are done once. */
export interface Desire {
  readonly cluster: ClusterManifest;
  readonly policy?: BackupPolicyManifest;
  /** By name. */
  readonly schedules: readonly ScheduledBackupManifest[];
  /** By name. */
  readonly verifications: readonly ScheduledVerificationManifest[];
}

/** What is declared about a cluster beside itself. */
export type Besides = Omit<Desire, 'cluster'>;

/** What a worker holds of it, as far as that can be read. */
export interface HeldBesides extends Besides {
  /** Why there may be more: a whole phrase that names the object. */
  readonly problem?: string;
}

/** The policy of a cluster that has none: the defaults. */
export function defaultPolicy(cluster: string): PolicySpec {
  return backupPolicySchema.parse({
    apiVersion: WALKEEP_API,
    kind: 'BackupPolicy',
    metadata: { name: cluster },
    spec: { clusters: [cluster] },
  }).spec;
}

/** What counts for a cluster: its policy, or the defaults. */
export function policyOf(desire: Pick<Desire, 'cluster' | 'policy'>): PolicySpec {
  return desire.policy?.spec ?? defaultPolicy(desire.cluster.metadata.name);
}

/** Equal for equal declarations. That of a Cluster alone is the Cluster's own. */
export function desireFingerprint(desire: Desire): string {
  const { cluster, policy, schedules, verifications } = desire;
  const alone = policy === undefined && schedules.length === 0 && verifications.length === 0;
  if (alone) return fingerprint(cluster);
  return fingerprint({
    cluster,
    ...(policy && { policy }),
    schedules: byName(schedules),
    verifications: byName(verifications),
  });
}

function byName<Named extends { readonly metadata: { readonly name: string } }>(
  named: readonly Named[],
): Named[] {
  return named.toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
}
