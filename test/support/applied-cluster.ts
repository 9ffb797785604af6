import { CNPG_API, clusterSchema } from '../../manifests/cluster.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';

export interface TestCluster {
  readonly name: string;
  readonly namespace?: string;
  readonly destinationPath: string;
  readonly walCompression?: string;
  readonly maxParallel?: number;
  /** Further fields of `barmanObjectStore`. */
  readonly objectStore?: Readonly<Record<string, unknown>>;
}

/** Applies a Cluster to a state directory, as `walkeep apply` does. */
export async function applyTestCluster(stateDirectory: string, cluster: TestCluster): Promise<void> {
  const { name, namespace = 'default', destinationPath, walCompression, maxParallel, objectStore } = cluster;
  const manifest = clusterSchema.parse({
    apiVersion: CNPG_API,
    kind: 'Cluster',
    metadata: { name, namespace },
    spec: {
      instances: 1,
      storage: { size: '1Gi' },
      backup: {
        barmanObjectStore: {
          destinationPath,
          wal: {
            ...(walCompression !== undefined && { compression: walCompression }),
            ...(maxParallel !== undefined && { maxParallel }),
          },
          ...objectStore,
        },
      },
    },
  });
  await openStateDirectory(stateDirectory).clusters.save(manifest);
}
