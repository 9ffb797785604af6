import type { BackupManifest } from '../manifests/backup.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { LoadedDocument } from '../manifests/load.ts';
import type { ApplyInput } from '../workflows/interface.ts';

type Of<Kind extends LoadedDocument['kind']> = Extract<LoadedDocument, { kind: Kind }>['manifest'];

/** What is to be done, by whom: secrets stay here, each keeper gets its cluster and that cluster's Backups. */
export interface ApplyPlan {
  readonly secrets: readonly Of<'Secret'>[];
  readonly keepers: readonly {
    readonly namespace: string;
    readonly cluster: string;
    readonly input: ApplyInput;
  }[];
  /** ObjectStores are kept on this host, for Clusters that refer to them later. */
  readonly kept: readonly LoadedDocument[];
}

interface KeeperPlan {
  readonly namespace: string;
  readonly cluster: string;
  manifest?: ClusterManifest;
  policy?: Of<'BackupPolicy'>;
  readonly backups: BackupManifest[];
  readonly scheduledBackups: Of<'ScheduledBackup'>[];
  readonly verifications: Of<'ScheduledVerification'>[];
}

/** Each document with those that do something about it. */
export function planOf(documents: readonly LoadedDocument[]): ApplyPlan {
  const keepers = new Map<string, KeeperPlan>();
  const keeperOf = (namespace: string, cluster: string): KeeperPlan => {
    const id = `${namespace}/${cluster}`;
    const found = keepers.get(id) ?? {
      namespace,
      cluster,
      backups: [],
      scheduledBackups: [],
      verifications: [],
    };
    keepers.set(id, found);
    return found;
  };
  const secrets: Of<'Secret'>[] = [];
  const kept: LoadedDocument[] = [];
  for (const document of documents) {
    const { namespace } = document.manifest.metadata;
    switch (document.kind) {
      case 'Secret':
        secrets.push(document.manifest);
        break;
      case 'Cluster':
        keeperOf(namespace, document.manifest.metadata.name).manifest = document.manifest;
        break;
      case 'Backup':
        keeperOf(namespace, document.manifest.spec.cluster.name).backups.push(document.manifest);
        break;
      case 'ScheduledBackup':
        keeperOf(namespace, document.manifest.spec.cluster.name).scheduledBackups.push(document.manifest);
        break;
      case 'ScheduledVerification':
        keeperOf(namespace, document.manifest.spec.cluster.name).verifications.push(document.manifest);
        break;
      case 'BackupPolicy':
        for (const cluster of document.manifest.spec.clusters)
          keeperOf(namespace, cluster).policy = document.manifest;
        break;
      case 'ObjectStore':
        kept.push(document);
        break;
    }
  }
  return {
    secrets,
    kept,
    keepers: [...keepers.values()].map(({ namespace, cluster, manifest, policy, ...lists }) => ({
      namespace,
      cluster,
      input: {
        ...(manifest && { cluster: manifest }),
        ...(policy && { policy }),
        ...Object.fromEntries(Object.entries(lists).filter(([, list]) => list.length > 0)),
      },
    })),
  };
}
