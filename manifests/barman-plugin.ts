/** CloudNativePG's plugin whose ObjectStores walkeep knows; it runs none. */
export const BARMAN_PLUGIN = 'barman-cloud.cloudnative-pg.io';

/** The plugin's parameters that say where an archive is. */
export const BARMAN_PARAMETERS: readonly string[] = ['barmanObjectName', 'serverName'];

/** Which ObjectStore holds an archive, and in which folder. */
export interface ObjectStoreReference {
  /** Name of an ObjectStore in the Cluster's namespace. */
  readonly objectStore: string;
  readonly serverName?: string;
}

interface ConfiguredPlugin {
  readonly name: string;
  readonly enabled: boolean;
  readonly parameters: Readonly<Record<string, string>>;
}

/** Whether it is the Barman plugin, and switched on. */
export function isBarmanPlugin(plugin: ConfiguredPlugin): boolean {
  return plugin.name === BARMAN_PLUGIN && plugin.enabled;
}

/** What the Barman plugin's parameters refer to; `undefined` for other plugins and without `barmanObjectName`. */
export function objectStoreReference(plugin: ConfiguredPlugin | undefined): ObjectStoreReference | undefined {
  if (!plugin || !isBarmanPlugin(plugin)) return undefined;
  const { barmanObjectName = '', serverName = '' } = plugin.parameters;
  if (barmanObjectName === '') return undefined;
  return { objectStore: barmanObjectName, ...(serverName !== '' && { serverName }) };
}

/** How a backup is taken: `plugin` with the Barman plugin means what `barmanObjectStore` means. */
export function methodOf<Method extends string>(spec: {
  readonly method: Method;
  readonly pluginConfiguration?: { readonly name: string } | undefined;
}): Method | 'barmanObjectStore' {
  const byBarman = spec.method === 'plugin' && spec.pluginConfiguration?.name === BARMAN_PLUGIN;
  return byBarman ? 'barmanObjectStore' : spec.method;
}
