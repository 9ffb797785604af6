import { Command } from 'commander';
import { stringify } from 'yaml';
import { BackupError } from '../core/errors.ts';
import { objectStoreReferences } from '../manifests/object-store-references.ts';
import type { ObjectStoreManifest } from '../manifests/object-store-resource.ts';
import { storeReferences } from '../manifests/secret-references.ts';
import type { Listed } from '../operations/state-directory.ts';
import { exitCodeFor } from './exit-codes.ts';
import { listClusters, withHost, type Host } from './host.ts';
import { namespaceOption, outputOption, stateOption } from './options.ts';
import { formatTable, note } from './output.ts';
import { RESOURCE } from './resource-lines.ts';

interface GetObjectStoresOptions {
  readonly namespace: string;
  readonly output?: 'json' | 'yaml' | 'wide' | 'name';
  readonly state?: string;
}

/** `walkeep get objectstores` */
export function getObjectStores(): Command {
  return new Command('objectstores')
    .alias('objectstore')
    .summary('the ObjectStores that were applied on this host')
    .argument('[name]', 'only this one')
    .addOption(namespaceOption())
    .addOption(outputOption(['json', 'yaml', 'wide', 'name']))
    .addOption(stateOption())
    .action(async (name: string | undefined, options: GetObjectStoresOptions) => {
      await withHost(options, async (host) => {
        const stores = await readStores(host, options.namespace, name);
        if (stores.length === 0 && (options.output === undefined || options.output === 'wide'))
          return note(`No ObjectStores found in namespace ${options.namespace}.`);
        process.stdout.write(await format(host, stores, options, name !== undefined));
      });
    });
}

async function readStores(host: Host, namespace: string, name?: string): Promise<ObjectStoreManifest[]> {
  const listed = (await host.state.objectStores.list(namespace)).filter(
    (one) => name === undefined || one.name === name,
  );
  listed.forEach(tellDamage);
  if (name !== undefined && listed.length === 0) {
    throw new BackupError('usage', `no ObjectStore ${namespace}/${name} was applied on this host`, {
      hint: 'walkeep get objectstores lists those that were',
    });
  }
  return listed.flatMap(({ applied }) => (applied ? [applied.manifest] : []));
}

/** An incomplete list is no success. */
function tellDamage({ name, applied, problem }: Listed<ObjectStoreManifest>): void {
  if (applied) return;
  note(`walkeep: the ObjectStore ${name} can't be read: ${problem ?? 'it is damaged'}`);
  process.exitCode = exitCodeFor(new BackupError('config-invalid', name));
}

async function format(
  host: Host,
  stores: readonly ObjectStoreManifest[],
  { namespace, output }: GetObjectStoresOptions,
  single: boolean,
): Promise<string> {
  const all = single ? stores[0] : { apiVersion: 'v1', kind: 'List', items: stores };
  if (output === 'json') return `${JSON.stringify(all, undefined, 2)}\n`;
  if (output === 'yaml') return stringify(all);
  if (output === 'name')
    return stores.map(({ metadata }) => `${RESOURCE.ObjectStore}/${metadata.name}\n`).join('');
  const clusters = await listClusters(host, namespace);
  const referring = (name: string) =>
    clusters
      .filter((cluster) => objectStoreReferences(cluster).some(({ objectStore }) => objectStore === name))
      .map(({ metadata }) => metadata.name);
  const isWide = output === 'wide';
  return formatTable(
    [
      'NAME',
      'DESTINATION',
      'RETENTION',
      'CLUSTERS HERE',
      ...(isWide ? ['ENDPOINT', 'WAL', 'DATA', 'SECRETS'] : []),
    ],
    stores.map(({ metadata, spec: { configuration, retentionPolicy } }) => [
      metadata.name,
      configuration.destinationPath,
      retentionPolicy ?? '',
      referring(metadata.name).join(', '),
      ...(isWide
        ? [
            configuration.endpointURL ?? '',
            configuration.wal.compression ?? 'none',
            configuration.data.compression ?? 'none',
            [...new Set(storeReferences(configuration, []).map(({ name }) => name))].join(', '),
          ]
        : []),
    ]),
  );
}
