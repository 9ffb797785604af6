import { resolve } from 'node:path';
import { BackupError, isBackupError } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { createSecretResolver, type SecretResolver } from '../operations/secret-resolver.ts';
import {
  findStateDirectory,
  openStateDirectory,
  type StateDirectory,
} from '../operations/state-directory.ts';
import { clusterWorkflowId, manifestQuery, type StoredManifest } from '../workflows/interface.ts';
import { connectTemporal, type TemporalClient } from './temporal-client.ts';

/** What a command finds on the host where it runs, and Temporal, which is connected only when something asks for it. */
export interface Host {
  readonly state: StateDirectory;
  readonly resolver: SecretResolver;
  /** @throws BackupError `temporal-unavailable`; asked again, it answers the same */
  temporal(): Promise<TemporalClient>;
  close(): Promise<void>;
}

/** Opens the state directory of this host; nothing is written. */
export async function openHost(options: { readonly state?: string } = {}): Promise<Host> {
  const stateDirectory =
    options.state === undefined ? await findStateDirectory(process.env) : resolve(options.state);
  let temporal: Promise<TemporalClient> | undefined;
  return {
    state: openStateDirectory(stateDirectory),
    resolver: createSecretResolver({ stateDirectory, environment: process.env }),
    temporal: () => (temporal ??= connectTemporal()),
    close: async () => {
      await temporal?.then((client) => client.close()).catch(() => undefined);
    },
  };
}

/** Runs `work` with a host and lets go of everything after it. */
export async function withHost<Result>(
  options: { readonly state?: string },
  work: (host: Host) => Promise<Result>,
): Promise<Result> {
  const host = await openHost(options);
  try {
    return await work(host);
  } finally {
    await host.close();
  }
}

/**
 * The applied Cluster: as this host keeps it, else as its keeper in Temporal holds it.
 *
 * @throws BackupError `cluster-unknown` when neither knows it
 */
export async function findCluster(host: Host, namespace: string, name: string): Promise<StoredManifest> {
  const applied = await host.state.clusters.read(namespace, name);
  if (applied) return { manifest: applied.manifest, revision: applied.revision };
  let why = 'and Temporal knows no keeper of it';
  try {
    const temporal = await host.temporal();
    return await temporal.call(
      'ask for the manifest',
      (client) => client.workflow.getHandle(clusterWorkflowId(namespace, name)).query(manifestQuery),
      5_000,
    );
  } catch (error) {
    if (isBackupError(error, 'temporal-unavailable')) why = `and ${error.message}`;
  }
  throw new BackupError('cluster-unknown', `no Cluster ${namespace}/${name} is applied on this host, ${why}`);
}

/** The applied Clusters this host can name: its own, by namespace (all of them without one). */
export async function listClusters(host: Host, namespace?: string): Promise<ClusterManifest[]> {
  const listed = await host.state.clusters.list(namespace);
  return listed.flatMap(({ applied }) => (applied ? [applied.manifest] : []));
}
