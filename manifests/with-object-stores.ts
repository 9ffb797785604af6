import { isBarmanPlugin, objectStoreReference } from './barman-plugin.ts';
import type { ClusterManifest } from './cluster.ts';
import { ownReference } from './object-store-references.ts';
import type { ObjectStoreManifest } from './object-store-resource.ts';

type Backup = NonNullable<ClusterManifest['spec']['backup']>;

/** Where to look for the ObjectStores of the Cluster's namespace. */
export type FindObjectStore = (name: string) => ObjectStoreManifest | undefined;

/**
 * The Cluster with what the ObjectStores it refers to say, in the words of `barmanObjectStore`: that is all that counts from here on. The
 * references stay, so that another version of an ObjectStore can take the place of this one. What is not found stays as it is.
 */
export function withObjectStores(cluster: ClusterManifest, find: FindObjectStore): ClusterManifest {
  const { spec } = cluster;
  const own = ownReference(cluster);
  const store = own && find(own.objectStore);
  return {
    ...cluster,
    spec: {
      ...spec,
      ...(store && { backup: backupTo(store, own.serverName, spec.backup) }),
      externalClusters: spec.externalClusters.map((entry) => {
        const reference = objectStoreReference(entry.plugin);
        const from = reference && find(reference.objectStore);
        if (!from) return entry;
        // The plugin's own rule, and not that of barmanObjectStore, whose default is the name of the entry.
        const serverName = reference.serverName ?? cluster.metadata.name;
        return { ...entry, barmanObjectStore: { ...from.spec.configuration, serverName } };
      }),
    },
  };
}

/** `retentionPolicy` of the Cluster is that of `barmanObjectStore` and has no part in it. */
function backupTo(
  store: ObjectStoreManifest,
  serverName: string | undefined,
  given: Backup | undefined,
): Backup {
  const { retentionPolicy, configuration } = store.spec;
  const { retentionPolicy: _other, barmanObjectStore: _earlier, ...rest } = given ?? EMPTY;
  return {
    ...rest,
    barmanObjectStore: { ...configuration, ...(serverName !== undefined && { serverName }) },
    ...(retentionPolicy !== undefined && { retentionPolicy }),
  };
}

const EMPTY: Backup = { target: 'prefer-standby' };

/**
 * Without the plugin where `barmanObjectStore` was written beside it: that one counts, and no ObjectStore may take its place. So
 * in what is kept, a reference always says where the `barmanObjectStore` beside it came from.
 */
export function withoutIdlePlugin(cluster: ClusterManifest): ClusterManifest {
  if (!cluster.spec.backup?.barmanObjectStore) return cluster;
  const plugins = cluster.spec.plugins.filter((plugin) => !isBarmanPlugin(plugin));
  return { ...cluster, spec: { ...cluster.spec, plugins } };
}

/** A kept Cluster as a person writes it: what its ObjectStores say stands in them alone. */
export function withoutObjectStores(cluster: ClusterManifest): ClusterManifest {
  const { backup, ...spec } = cluster.spec;
  const { barmanObjectStore: _store, retentionPolicy: _policy, ...rest } = backup ?? EMPTY;
  const own = ownReference(cluster);
  const kept = own ? rest : backup;
  const isEmpty = kept?.volumeSnapshot === undefined && own !== undefined && rest.target === EMPTY.target;
  return {
    ...cluster,
    spec: {
      ...spec,
      ...(kept && !isEmpty && { backup: kept }),
      externalClusters: spec.externalClusters.map((entry) => {
        if (!objectStoreReference(entry.plugin)) return entry;
        const { barmanObjectStore: _from, ...written } = entry;
        return written;
      }),
    },
  };
}
