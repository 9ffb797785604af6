import {
  BARMAN_PARAMETERS,
  isBarmanPlugin,
  objectStoreReference,
  type ObjectStoreReference,
} from './barman-plugin.ts';
import { closestName } from './closest-name.ts';
import { reviewCluster, type ClusterManifest } from './cluster.ts';
import type { Plugin } from './external-cluster.ts';
import { nameFault } from './fields.ts';
import { serverNameFault } from './object-store-location.ts';
import { show, type Fault, type FieldPath, type Finding } from './problem.ts';

/** A place in a Cluster that refers to an ObjectStore. */
export interface PlacedReference extends ObjectStoreReference {
  /** Of the plugin. */
  readonly path: FieldPath;
  /** The entry of `externalClusters` whose repository it is; without one it is the cluster's own. */
  readonly external?: string;
  /** Whether the manifest holds what the ObjectStore says. */
  readonly isResolved: boolean;
}

/** What `spec.plugins` refers to: where the cluster's own WAL and backups go. */
export function ownReference({ spec }: ClusterManifest): PlacedReference | undefined {
  const index = spec.plugins.findIndex((plugin) => objectStoreReference(plugin) !== undefined);
  const reference = objectStoreReference(spec.plugins[index]);
  const isResolved = spec.backup?.barmanObjectStore !== undefined;
  return reference && { ...reference, path: ['spec', 'plugins', index], isResolved };
}

/** Every ObjectStore that a Cluster refers to, by place. */
export function objectStoreReferences(cluster: ClusterManifest): PlacedReference[] {
  const own = ownReference(cluster);
  const external = cluster.spec.externalClusters.flatMap((entry, index) => {
    const reference = objectStoreReference(entry.plugin);
    const path = ['spec', 'externalClusters', index, 'plugin'];
    const isResolved = entry.barmanObjectStore !== undefined;
    return reference ? [{ ...reference, path, external: entry.name, isResolved }] : [];
  });
  return [...(own ? [own] : []), ...external];
}

/** What is wrong with a Cluster's references by themselves, whatever ObjectStores there are. */
export function reviewReferences({ spec }: ClusterManifest): Finding[] {
  const placed = [
    ...spec.plugins.map((plugin, index) => ({ plugin, path: ['spec', 'plugins', index] })),
    ...spec.externalClusters.flatMap(({ plugin }, index) =>
      plugin ? [{ plugin, path: ['spec', 'externalClusters', index, 'plugin'] }] : [],
    ),
  ].filter(({ plugin }) => isBarmanPlugin(plugin));
  const [first, second] = placed.filter(({ path }) => path[1] === 'plugins');
  const findings = placed.flatMap(({ plugin, path }) => reviewParameters(plugin, path));
  if (first && second) {
    const message = `${show(second.plugin.name)} is there twice; which ObjectStore is meant can't be told`;
    findings.push({ path: second.path, message, fix: 'keep one of the two', severity: 'error' });
  }
  return findings;
}

function reviewParameters({ name, isWALArchiver, parameters }: Plugin, path: FieldPath): Finding[] {
  const here = [...path, 'parameters'];
  const findings: Finding[] = [];
  for (const given of Object.keys(parameters)) {
    if (BARMAN_PARAMETERS.includes(given)) continue;
    const closest = closestName(given, BARMAN_PARAMETERS);
    if (closest !== undefined) {
      // Without it another folder would be written to, or read.
      const message = `is no parameter of ${name}`;
      findings.push({
        path: [...here, given],
        message,
        fix: `did you mean "${closest}"?`,
        severity: 'error',
      });
      continue;
    }
    const message = `is no parameter of ${name} that walkeep knows, and is left aside`;
    const fix = `there are: ${BARMAN_PARAMETERS.join(', ')}`;
    findings.push({ path: [...here, given], message, fix, severity: 'warning' });
  }
  const { barmanObjectName = '', serverName = '' } = parameters;
  const add = (parameter: string, fault: Fault | undefined) => {
    if (fault) findings.push({ path: [...here, parameter], ...fault, severity: 'error' });
  };
  if (serverName !== '') add('serverName', serverNameFault(serverName));
  if (barmanObjectName !== '') {
    add('barmanObjectName', nameFault(barmanObjectName));
    return findings;
  }
  // CNPG's plugin is listed without a store in clusters that are recovered by it and archive nothing.
  const isNeeded = isWALArchiver || path[1] === 'externalClusters';
  const message = `names no ObjectStore${isNeeded ? '' : ': nothing is archived or backed up by it'}`;
  const fix = 'add parameters: {barmanObjectName: OBJECT STORE}';
  findings.push({ path, message, fix, severity: isNeeded ? 'error' : 'warning' });
  return findings;
}

/** The rules of a Cluster as a person writes it: what its ObjectStores say does not stand in it as well. */
export function reviewWrittenCluster(cluster: ClusterManifest): Finding[] {
  return [...reviewCluster(cluster), ...reviewReferences(cluster), ...reviewBothWays(cluster)];
}

/** What a person wrote both ways: in the plugin's words, and as `barmanObjectStore`. */
function reviewBothWays({ spec }: ClusterManifest): Finding[] {
  const findings: Finding[] = [];
  spec.plugins.forEach((plugin, index) => {
    if (!spec.backup?.barmanObjectStore || !isBarmanPlugin(plugin)) return;
    const path = ['spec', 'plugins', index];
    if (plugin.isWALArchiver) {
      const message = `plugin ${show(plugin.name)} is the WAL archiver, and barmanObjectStore is too`;
      const fix = 'remove spec.backup.barmanObjectStore: its ObjectStore says the same; or remove the plugin';
      findings.push({ path, message, fix, severity: 'error' });
      return;
    }
    const message =
      'spec.backup.barmanObjectStore is where WAL and backups go; CNPG would archive by this plugin as well, walkeep does not';
    const fix = 'keep one of the two';
    findings.push({ path, message, fix, severity: 'warning' });
  });
  spec.externalClusters.forEach((entry, index) => {
    if (!entry.barmanObjectStore || !objectStoreReference(entry.plugin)) return;
    const path = ['spec', 'externalClusters', index, 'barmanObjectStore'];
    const message = 'is left aside: CNPG recovers by the plugin of this entry, and so does walkeep';
    findings.push({ path, message, fix: 'keep one of the two', severity: 'warning' });
  });
  return findings;
}

/** The references of a manifest that came without its ObjectStores: what they say has to stand in it. */
export function reviewUnresolved(cluster: ClusterManifest): Finding[] {
  return objectStoreReferences(cluster)
    .filter(({ isResolved }) => !isResolved)
    .map(({ objectStore, path, external }) => ({
      path,
      message: `refers to the ObjectStore ${show(objectStore)}, which is not known here`,
      fix: `give ${external === undefined ? 'spec.backup.barmanObjectStore' : 'barmanObjectStore beside it'} with what the ObjectStore says as well, or use walkeep apply with both manifests`,
      severity: 'error' as const,
    }));
}
