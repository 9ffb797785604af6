import type { ClusterManifest } from './cluster.ts';
import type { SecretKeySelector } from './fields.ts';
import type { BarmanObjectStore } from './object-store.ts';
import type { FieldPath } from './problem.ts';

/** A place in a manifest that says where a secret value is. */
export interface SecretReference extends SecretKeySelector {
  readonly path: FieldPath;
}

/** Every secret value a Cluster needs for the stores walkeep opens for it. */
export function secretReferences({ spec }: ClusterManifest): SecretReference[] {
  const own = spec.backup?.barmanObjectStore;
  return [
    ...(own ? storeReferences(own, ['spec', 'backup', 'barmanObjectStore']) : []),
    ...spec.externalClusters.flatMap((entry, index) =>
      entry.barmanObjectStore
        ? storeReferences(entry.barmanObjectStore, ['spec', 'externalClusters', index, 'barmanObjectStore'])
        : [],
    ),
  ];
}

/** The secret values of one object store. */
export function storeReferences(store: BarmanObjectStore, path: FieldPath): SecretReference[] {
  const { endpointCA, s3Credentials, azureCredentials, googleCredentials } = store;
  const groups = { s3Credentials, azureCredentials, googleCredentials };
  const credentials = Object.entries(groups).flatMap(([group, fields]) =>
    Object.entries(fields ?? {}).flatMap(([field, value]) =>
      typeof value === 'object' ? [{ ...value, path: [...path, group, field] }] : [],
    ),
  );
  return [...(endpointCA ? [{ ...endpointCA, path: [...path, 'endpointCA'] }] : []), ...credentials];
}
