import { closestName } from './closest-name.ts';
import { reviewOwnArchive, type ClusterManifest } from './cluster.ts';
import type { Entry, LoadedDocument } from './load.ts';
import { objectId } from './metadata.ts';
import { objectStoreReferences, type PlacedReference } from './object-store-references.ts';
import type { ObjectStoreManifest } from './object-store-resource.ts';
import { show, type Finding } from './problem.ts';
import { withObjectStores, withoutIdlePlugin } from './with-object-stores.ts';

/**
 * The documents of a set, each Cluster with what its ObjectStores say. What can't be found, and what that makes of the
 * Cluster, is reported.
 *
 * @param known applied earlier; what the set has goes before
 */
export function resolveObjectStores(
  entries: readonly Entry[],
  known: readonly ObjectStoreManifest[],
): LoadedDocument[] {
  const stores = new Map(known.map((store) => [objectId(store.metadata), store]));
  for (const { document } of entries) {
    if (document.kind === 'ObjectStore') stores.set(objectId(document.manifest.metadata), document.manifest);
  }
  return entries.map(({ document, report }) => {
    if (document.kind !== 'Cluster') return document;
    const { manifest, findings } = resolve(document.manifest, stores);
    findings.forEach(report);
    return { ...document, manifest };
  });
}

function resolve(written: ClusterManifest, stores: ReadonlyMap<string, ObjectStoreManifest>) {
  const { namespace } = written.metadata;
  const find = (name: string) => stores.get(`${namespace}/${name}`);
  const cluster = withoutIdlePlugin(written);
  const manifest = withObjectStores(cluster, find);
  const findings = objectStoreReferences(cluster).flatMap((reference) => {
    const store = find(reference.objectStore);
    return store ? describe(cluster, reference, store) : [notFound(reference, namespace, [...stores.keys()])];
  });
  // Only together with the ObjectStores does it show what is archived where.
  if (reviewOwnArchive(written, RECOVERY).length === 0)
    findings.push(...reviewOwnArchive(manifest, RECOVERY));
  return { manifest, findings };
}

const RECOVERY = ['spec', 'bootstrap', 'recovery'];

function describe(
  { metadata }: ClusterManifest,
  { objectStore, serverName, external, path }: PlacedReference,
  { spec }: ObjectStoreManifest,
): Finding[] {
  const where = `${spec.configuration.destinationPath} (server ${show(serverName ?? metadata.name)}), as ObjectStore ${show(objectStore)} says`;
  if (external === undefined) {
    const retention = spec.retentionPolicy === undefined ? '' : `; kept for ${spec.retentionPolicy}`;
    const message = `WAL and backups go to ${where}${retention}`;
    return [{ path, message, fix: '', severity: 'note' }];
  }
  if (serverName !== undefined)
    return [{ path, message: `${show(external)} is read from ${where}`, fix: '', severity: 'note' }];
  const message = `names no serverName, so the folder of this new cluster is read: ${where}; CNPG does the same`;
  const fix = `add parameters.serverName: the name of the cluster that wrote there, such as "${external}"`;
  return [{ path, message, fix, severity: 'warning' }];
}

function notFound(
  { objectStore, path }: PlacedReference,
  namespace: string,
  ids: readonly string[],
): Finding {
  const here = ids.flatMap((id) => (id.startsWith(`${namespace}/`) ? [id.slice(namespace.length + 1)] : []));
  const closest = closestName(objectStore, here);
  const elsewhere = ids.find((id) => id.endsWith(`/${objectStore}`));
  const advice =
    closest !== undefined
      ? `did you mean "${closest}"?`
      : elsewhere !== undefined
        ? `there is ${elsewhere}: an ObjectStore and its Clusters share a namespace`
        : 'give its manifest with -f too, or apply it on this host first';
  return {
    path: [...path, 'parameters', 'barmanObjectName'],
    message: `ObjectStore ${show(objectStore)} is neither in this set nor applied on this host in namespace ${namespace}`,
    fix: advice,
    severity: 'error',
  };
}
