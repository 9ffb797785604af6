import { z } from 'zod';
import { BARMAN_PLUGIN, isBarmanPlugin } from './barman-plugin.ts';
import { flag, plainText, secretKeySelector, textMap } from './fields.ts';
import { barmanObjectStoreSchema, reviewObjectStore } from './object-store.ts';
import { serverNameFault } from './object-store-location.ts';
import { show, type FieldPath, type Finding } from './problem.ts';

/** A CNPG-I plugin of a cluster. */
export const pluginSchema = z.object({
  name: plainText,
  enabled: flag.default(true),
  isWALArchiver: flag.default(false),
  parameters: textMap.default({}),
});
export type Plugin = z.infer<typeof pluginSchema>;

/** Connection parameters that can not be secret; the others are dropped, since manifests travel into workflows. */
const KEPT_PARAMETERS = ['host', 'hostaddr', 'port', 'user', 'dbname', 'sslmode', 'target_session_attrs'];

/** An entry of `spec.externalClusters`: another cluster, or the repository of one, to recover from. */
export const externalClusterSchema = z.object({
  name: plainText,
  connectionParameters: textMap
    .transform((all) =>
      Object.fromEntries(Object.entries(all).filter(([key]) => KEPT_PARAMETERS.includes(key))),
    )
    .optional(),
  sslCert: secretKeySelector.optional(),
  sslKey: secretKeySelector.optional(),
  sslRootCert: secretKeySelector.optional(),
  password: secretKeySelector.optional(),
  barmanObjectStore: barmanObjectStoreSchema.optional(),
  plugin: pluginSchema.optional(),
});
export type ExternalCluster = z.infer<typeof externalClusterSchema>;

/** The rules of `spec.externalClusters`. */
export function reviewExternalClusters(entries: readonly ExternalCluster[], path: FieldPath): Finding[] {
  return entries.flatMap((entry, index) => {
    const here = [...path, index];
    const findings: Finding[] = [];
    const fault = serverNameFault(entry.name);
    if (fault) findings.push({ path: [...here, 'name'], ...fault, severity: 'error' });
    const first = entries.findIndex((other) => other.name === entry.name);
    if (first < index) {
      const message = `${show(entry.name)} is the name of entry ${first} too`;
      findings.push({ path: [...here, 'name'], message, fix: 'give each its own name', severity: 'error' });
    }
    if (!entry.connectionParameters && !entry.barmanObjectStore && !entry.plugin) {
      const message = `external cluster ${show(entry.name)} has nothing to reach it by`;
      const fix = 'add barmanObjectStore (its repository), connectionParameters, or plugin';
      findings.push({ path: here, message, fix, severity: 'error' });
    }
    if (entry.barmanObjectStore) {
      findings.push(...reviewObjectStore(entry.barmanObjectStore, [...here, 'barmanObjectStore'], 'read'));
    }
    if (entry.plugin?.name === BARMAN_PLUGIN && !entry.plugin.enabled) {
      const message = `plugin ${show(entry.plugin.name)} is switched off: nothing is recovered by it`;
      const fix = 'remove its "enabled: false", or the plugin';
      findings.push({ path: [...here, 'plugin'], message, fix, severity: 'warning' });
    } else if (entry.plugin && !isBarmanPlugin(entry.plugin)) {
      const message = `plugin ${show(entry.plugin.name)} is accepted; walkeep runs no plugins, and recovers by none but the Barman plugin's ObjectStores`;
      const fix = 'give barmanObjectStore, if there is a repository as barman-cloud writes it';
      findings.push({ path: [...here, 'plugin'], message, fix, severity: 'warning' });
    }
    return findings;
  });
}
