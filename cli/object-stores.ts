import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { fingerprint } from '../core/fingerprint.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { LoadedDocument } from '../manifests/load.ts';
import { objectId } from '../manifests/metadata.ts';
import type { ObjectStoreManifest } from '../manifests/object-store-resource.ts';
import { objectStoreReferences } from '../manifests/object-store-references.ts';
import { withObjectStores } from '../manifests/with-object-stores.ts';
import type { StateDirectory } from '../operations/state-directory.ts';
import { clusterWorkflowId, manifestQuery, WORKFLOW, type ApplyInput } from '../workflows/interface.ts';
import { listClusters, type Host } from './host.ts';
import { note } from './output.ts';
import type { TemporalClient } from './temporal-client.ts';

/** The ObjectStores that were applied on this host. One whose file is damaged is as good as none: whatever needs it says so. */
export async function knownObjectStores(state: StateDirectory): Promise<ObjectStoreManifest[]> {
  return (await state.objectStores.list()).flatMap(({ applied }) => (applied ? [applied.manifest] : []));
}

/**
 * The Clusters that refer to `stores`, as their keepers hold them, with what the ObjectStores say now in the place of what they
 * said when the Cluster was applied.
 *
 * @param stores those that are being applied; the others a Cluster refers to are this host's, or stay as they are
 * @param except `namespace/name` of Clusters that are being applied themselves
 * @throws BackupError `temporal-unavailable`; which clusters there are is not known then
 */
async function clustersReferringTo(
  host: Host,
  temporal: TemporalClient,
  stores: readonly ObjectStoreManifest[],
  except: ReadonlySet<string>,
): Promise<ClusterManifest[]> {
  const namespaces = new Set(stores.map(({ metadata }) => metadata.namespace));
  const applied = new Map(
    [...(await knownObjectStores(host.state)), ...stores].map((store) => [idOf(store), store]),
  );
  const ids = [...(await clusterIds(host, temporal))].filter((id) => !except.has(id)).toSorted();
  const found: ClusterManifest[] = [];
  for (const id of ids) {
    const [namespace = '', name = ''] = id.split('/');
    if (!namespaces.has(namespace)) continue;
    const held = await heldManifest(host, temporal, namespace, name);
    const isMeant = ({ objectStore }: { readonly objectStore: string }) =>
      stores.some((store) => idOf(store) === `${namespace}/${objectStore}`);
    if (held && objectStoreReferences(held).some(isMeant))
      found.push(withObjectStores(held, (store) => applied.get(`${namespace}/${store}`)));
    const kept = held ? undefined : (await host.state.clusters.read(namespace, name))?.manifest;
    if (kept && objectStoreReferences(kept).some(isMeant))
      note(`walkeep: ${id} refers to it and has no keeper: apply the Cluster again, too`);
  }
  return found;
}

/** What `apply` would say of an ObjectStore. */
export async function saveWouldSay(
  state: StateDirectory,
  manifest: ObjectStoreManifest,
): Promise<'created' | 'configured' | 'unchanged'> {
  const before = await state.objectStores.read(manifest.metadata.namespace, manifest.metadata.name);
  if (!before) return 'created';
  return fingerprint(before.manifest) === fingerprint(manifest) ? 'unchanged' : 'configured';
}

/** @returns `undefined` when it is away */
export async function temporalIfThere(host: Host): Promise<TemporalClient | undefined> {
  try {
    return await host.temporal();
  } catch (error) {
    if (isBackupError(error, 'temporal-unavailable')) return undefined;
    throw error;
  }
}

interface Plan {
  readonly kept: readonly LoadedDocument[];
  readonly keepers: readonly KeeperInput[];
}

interface KeeperInput {
  readonly namespace: string;
  readonly cluster: string;
  readonly input: ApplyInput;
}

/**
 * The plan of an apply, with the Clusters besides that refer to its ObjectStores: what those say now is to reach them.
 *
 * @param ask `undefined` where Temporal may be away: then nothing is known of other Clusters
 */
export async function withReferringClusters<Whole extends Plan>(
  host: Host,
  plan: Whole,
  ask: (host: Host) => Promise<TemporalClient | undefined>,
): Promise<Whole> {
  const stores = plan.kept.flatMap(({ kind, manifest }) => (kind === 'ObjectStore' ? [manifest] : []));
  if (stores.length === 0) return plan;
  const temporal = await ask(host);
  if (!temporal) {
    note('walkeep: Temporal is away: it is not known which other Clusters refer to these ObjectStores');
    return plan;
  }
  const keepers = new Map<string, KeeperInput>(
    plan.keepers.map((one) => [`${one.namespace}/${one.cluster}`, one]),
  );
  const given = [...keepers].flatMap(([id, { input }]) => (input.cluster ? [id] : []));
  for (const cluster of await clustersReferringTo(host, temporal, stores, new Set(given))) {
    const { namespace, name } = cluster.metadata;
    const id = objectId(cluster.metadata);
    keepers.set(id, { namespace, cluster: name, input: { ...keepers.get(id)?.input, cluster } });
  }
  return { ...plan, keepers: [...keepers.values()] };
}

function idOf({ metadata }: ObjectStoreManifest): string {
  return objectId(metadata);
}

/** Those of this host, and all that have a keeper: lists are a moment late, so that one alone could miss a new one. */
async function clusterIds(host: Host, temporal: TemporalClient): Promise<Set<string>> {
  const ids = new Set((await listClusters(host)).map(({ metadata }) => objectId(metadata)));
  await temporal.call('list the keepers', async (client) => {
    const query = `WorkflowType = '${WORKFLOW.cluster}' AND ExecutionStatus = 'Running'`;
    for await (const { workflowId } of client.workflow.list({ query })) {
      const [, namespace, name] = workflowId.split('/');
      if (namespace !== undefined && name !== undefined) ids.add(`${namespace}/${name}`);
    }
  });
  return ids;
}

const ASK_MS = 10_000;

/** @returns `undefined` when no keeper runs */
async function heldManifest(
  host: Host,
  temporal: TemporalClient,
  namespace: string,
  name: string,
): Promise<ClusterManifest | undefined> {
  const handle = temporal.client.workflow.getHandle(clusterWorkflowId(namespace, name));
  try {
    return await temporal.call(
      `ask the keeper of ${namespace}/${name}`,
      async () => {
        const { status } = await handle.describe();
        return status.name === 'RUNNING' ? (await handle.query(manifestQuery)).manifest : undefined;
      },
      ASK_MS,
    );
  } catch (error) {
    if (error instanceof Error && error.name === 'WorkflowNotFoundError') return undefined;
    if (isBackupError(error, 'temporal-unavailable')) {
      throw new BackupError(
        'worker-missing',
        `the keeper of ${namespace}/${name} does not say whether it refers to an ObjectStore that is being applied`,
        { cause: error, hint: 'start walkeep worker, then apply again; nothing was changed' },
      );
    }
    note(`walkeep: the keeper of ${namespace}/${name} was not asked for its manifest: ${messageOf(error)}`);
    return undefined;
  }
}
