import { BackupError } from '../core/errors.ts';
import { BARMAN_PARAMETERS, BARMAN_PLUGIN, objectStoreReference } from '../manifests/barman-plugin.ts';
import { closestName } from '../manifests/closest-name.ts';
import {
  externalClusterSchema,
  reviewExternalClusters,
  type ExternalCluster,
  type Plugin,
} from '../manifests/external-cluster.ts';
import { nameFault } from '../manifests/fields.ts';
import { serverNameFault } from '../manifests/object-store-location.ts';
import type { BarmanObjectStore } from '../manifests/object-store.ts';
import { formatPath, show, type FieldPath } from '../manifests/problem.ts';
import type { StateDirectory } from '../operations/state-directory.ts';

const EXAMPLE = '{"name": …, "barmanObjectStore": {…}}';

/**
 * The `source` of a restore that is the place itself, as an entry of `externalClusters`.
 *
 * @throws BackupError `input-invalid` naming the field
 */
export function parseSource(source: Readonly<Record<string, unknown>>): ExternalCluster {
  const parsed = externalClusterSchema.safeParse(source);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const steps = (issue?.path ?? []).map((step) => (typeof step === 'number' ? step : String(step)));
    throw refused(
      steps,
      issue?.message ?? 'is not valid',
      `write it as an entry of externalClusters: ${EXAMPLE}`,
    );
  }
  const fault = reviewExternalClusters([parsed.data], []).find(({ severity }) => severity === 'error');
  // The review counts entries; here is only one.
  if (fault) throw refused(fault.path.slice(1), fault.message, fault.fix || undefined);
  requireOnePlace(parsed.data);
  return parsed.data;
}

/** A Cluster with both is warned that the plugin counts; nobody reads warnings here, and the two may be two archives. */
function requireOnePlace({ plugin, barmanObjectStore }: ExternalCluster): void {
  if (!barmanObjectStore || !plugin?.enabled) return;
  throw refused(
    [],
    'holds "plugin" and "barmanObjectStore": which of the two archives is meant can\'t be told',
    'keep one: "barmanObjectStore" with destinationPath and serverName, or the plugin if its ObjectStore is applied on the host of the worker',
  );
}

/**
 * Where to read from for an entry: its `barmanObjectStore`, which in a manifest that was applied is what its ObjectStore said;
 * without one what the ObjectStore says that was applied on this host.
 *
 * @param cluster that is restored: by the plugin's own rule its folder is read where no `serverName` is given
 * @throws BackupError `input-invalid` saying what to write instead
 */
export async function storeOfSource(
  entry: ExternalCluster,
  { cluster, namespace }: { readonly cluster: string; readonly namespace: string },
  objectStores: StateDirectory['objectStores'],
): Promise<BarmanObjectStore> {
  if (entry.barmanObjectStore) return entry.barmanObjectStore;
  if (!entry.plugin) {
    throw refused([], `${show(entry.name)} has no repository to restore from`, `give one: ${EXAMPLE}`);
  }
  requireBarmanPlugin(entry.plugin);
  const { objectStore, serverName = cluster } = objectStoreReference(entry.plugin) ?? { objectStore: '' };
  const store = (await objectStores.read(namespace, objectStore))?.manifest;
  if (store) return { ...store.spec.configuration, serverName };
  throw refused(
    ['plugin', 'parameters', 'barmanObjectName'],
    `ObjectStore ${show(objectStore)} is not applied on the host of this worker in namespace ${namespace}`,
    `give what it says instead of the plugin: "barmanObjectStore": {"destinationPath": …, "serverName": ${JSON.stringify(serverName)}}; or apply its manifest on this host`,
  );
}

/** Nobody reads warnings here: what a manifest is warned of is refused. */
function requireBarmanPlugin({ name, enabled, parameters }: Plugin): void {
  if (name !== BARMAN_PLUGIN) {
    const message = `walkeep runs no plugins, and recovers by none but ${show(BARMAN_PLUGIN)}; got ${show(name)}`;
    throw refused(['plugin', 'name'], message, `give the repository as "barmanObjectStore": ${EXAMPLE}`);
  }
  if (!enabled) throw refused(['plugin', 'enabled'], 'is false: there is nothing to restore from by it');
  for (const given of Object.keys(parameters)) {
    if (BARMAN_PARAMETERS.includes(given)) continue;
    const closest = closestName(given, BARMAN_PARAMETERS);
    const advice =
      closest === undefined ? `there are: ${BARMAN_PARAMETERS.join(', ')}` : `did you mean "${closest}"?`;
    throw refused(['plugin', 'parameters', given], 'is no parameter of it', advice);
  }
  const { barmanObjectName = '', serverName = '' } = parameters;
  const at = (parameter: string) => ['plugin', 'parameters', parameter];
  if (barmanObjectName === '')
    throw refused(at('barmanObjectName'), 'names no ObjectStore', `or give the repository: ${EXAMPLE}`);
  const nameless = nameFault(barmanObjectName);
  if (nameless) throw refused(at('barmanObjectName'), nameless.message, nameless.fix);
  const unfit = serverName === '' ? undefined : serverNameFault(serverName);
  if (unfit) throw refused(at('serverName'), unfit.message, unfit.fix);
}

function refused(path: FieldPath, message: string, hint?: string): BackupError {
  return new BackupError('input-invalid', `restore: field "${formatPath(['source', ...path])}": ${message}`, {
    ...(hint !== undefined && { hint }),
  });
}
