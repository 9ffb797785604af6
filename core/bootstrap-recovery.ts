import { BackupError } from './errors.ts';
import type { RecoveryTarget } from './recovery.ts';

/** What of a Cluster manifest says how it comes into being; `ClusterManifest` has this shape. */
export interface BootstrappedCluster<Store> {
  readonly metadata: { readonly name: string; readonly namespace?: string | undefined };
  readonly spec: {
    readonly bootstrap?:
      | {
          readonly recovery?:
            | {
                readonly source?: string | undefined;
                readonly backup?: { readonly name: string } | undefined;
                readonly volumeSnapshots?: unknown;
                readonly recoveryTarget?: RecoveryTarget | undefined;
              }
            | undefined;
        }
      | undefined;
    readonly externalClusters: readonly {
      readonly name: string;
      readonly barmanObjectStore?: Store | undefined;
    }[];
  };
}

/** Where a bootstrap reads from, and where it ends. */
export type BootstrapRecovery<Store> =
  | {
      readonly from: 'store';
      readonly barmanObjectStore: Store;
      /** The folder when the store names none: the name of the external cluster. */
      readonly serverName: string;
      readonly target: RecoveryTarget;
    }
  | {
      /** A Backup object of the namespace says which cluster and backup it is. */
      readonly from: 'backup';
      readonly backupName: string;
      readonly target: RecoveryTarget;
    };

/**
 * What `bootstrap.recovery` of a Cluster asks for, in the words of a restore.
 *
 * @throws BackupError `manifest-invalid` when it has none or names what is not there; `not-yet` for volume snapshots
 */
export function bootstrapRecovery<Store>(cluster: BootstrappedCluster<Store>): BootstrapRecovery<Store> {
  const { name } = cluster.metadata;
  const recovery = cluster.spec.bootstrap?.recovery;
  if (recovery === undefined) {
    throw new BackupError('manifest-invalid', `Cluster ${name} has no spec.bootstrap.recovery`, {
      hint: 'add bootstrap.recovery with source or backup, or name the source on the command line',
    });
  }
  if (recovery.volumeSnapshots !== undefined) {
    throw new BackupError('not-yet', `Cluster ${name}: a recovery from volume snapshots is not done yet`);
  }
  const target = recovery.recoveryTarget ?? {};
  if (recovery.backup !== undefined)
    return {
      from: 'backup',
      backupName: recovery.backup.name,
      target: fromBackup(target, recovery.backup.name),
    };
  const source = cluster.spec.externalClusters.find((entry) => entry.name === recovery.source);
  if (source?.barmanObjectStore === undefined) {
    throw new BackupError(
      'manifest-invalid',
      `Cluster ${name}: external cluster "${recovery.source ?? ''}" has no barmanObjectStore to recover from`,
    );
  }
  return { from: 'store', barmanObjectStore: source.barmanObjectStore, serverName: source.name, target };
}

/** `backup.name` chooses the backup, unless the target names one itself. */
function fromBackup(target: RecoveryTarget, backupName: string): RecoveryTarget {
  return target.backupID === undefined ? { ...target, backupID: backupName } : target;
}
