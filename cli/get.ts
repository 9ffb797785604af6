import { Command, Option } from 'commander';
import { setTimeout as delay } from 'node:timers/promises';
import { stringify } from 'yaml';
import type { ListedBackup } from '../core/backup-list.ts';
import { BackupError, messageOf } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { withoutObjectStores } from '../manifests/with-object-stores.ts';
import {
  clusterStatusQuery,
  clusterWorkflowId,
  SEARCH_ATTRIBUTE,
  WORKFLOW,
  type ClusterStatus,
} from '../workflows/interface.ts';
import { exitCodeFor } from './exit-codes.ts';
import { getObjectStores } from './get-object-stores.ts';
import { getScheduledBackups } from './get-schedules.ts';
import { getVerifications } from './get-verifications.ts';
import { findCluster, listClusters, withHost, type Host } from './host.ts';
import { findBackups, phaseOf, requireNamed, type KnownBackups, type NamedBackup } from './known-backups.ts';
import { namespaceOption, outputOption, stateOption } from './options.ts';
import { formatAge, formatTable, note, printable } from './output.ts';

interface GetOptions {
  readonly namespace: string;
  readonly selector?: string;
  readonly output?: 'json' | 'yaml' | 'wide' | 'name';
  readonly watch?: true;
  readonly state?: string;
}

/** `walkeep get` */
export function getCommand(): Command {
  return new Command('get')
    .summary('list clusters, backups, object stores, schedules or verifications')
    .addCommand(getBackups())
    .addCommand(getClusters())
    .addCommand(getObjectStores())
    .addCommand(getScheduledBackups())
    .addCommand(getVerifications());
}

function getBackups(): Command {
  return new Command('backups')
    .alias('backup')
    .summary('what can be restored, and what is being done')
    .description(
      'Lists backups: the record from the repository, and what runs or waits from Temporal. Either is enough by itself.',
    )
    .argument('[name]', 'only this one')
    .addOption(namespaceOption())
    .addOption(new Option('-l, --selector <selector>', 'cnpg.io/cluster=NAME'))
    .addOption(outputOption(['json', 'yaml', 'wide', 'name']))
    .option('-w, --watch', 'go on, and print what changes')
    .addOption(stateOption())
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep get backups\n  walkeep get backups -l cnpg.io/cluster=production-postgres -o wide\n' +
        '  walkeep get backups -o json | jq -r \'.items[] | select(.status.phase == "completed") | .status.backupId\'\n',
    )
    .action(async (name: string | undefined, options: GetOptions) => {
      const cluster = clusterOf(options.selector);
      await withHost(options, async (host) => {
        if (options.watch) return watchBackups(host, name, cluster, options);
        const { backups, unread } = await list(host, name, cluster, options, note);
        // An incomplete list is shown, and is no success: scripts decide by it what there is.
        if (unread !== undefined) process.exitCode = exitCodeFor(unread);
        if (backups.length === 0 && isTable(options.output)) {
          if (unread === undefined) note(`No backups found in namespace ${options.namespace}.`);
          return;
        }
        process.stdout.write(formatBackups(backups, options.output, name !== undefined));
      });
    });
}

/** The cluster a label selector asks for. */
function clusterOf(selector: string | undefined): string | undefined {
  if (selector === undefined) return undefined;
  const match = /^cnpg\.io\/cluster==?([a-z0-9][a-z0-9.-]*)$/.exec(selector);
  if (match) return match[1];
  throw new BackupError('usage', `can't select by "${selector}"`, { hint: 'write -l cnpg.io/cluster=NAME' });
}

async function list(
  host: Host,
  name: string | undefined,
  cluster: string | undefined,
  options: GetOptions,
  tell: (text: string) => void,
): Promise<KnownBackups> {
  const known = await findBackups(host, options.namespace, cluster);
  for (const source of known.silent) tell(`walkeep: not asked: ${source}`);
  return name === undefined ? known : { backups: requireNamed(known, options.namespace, name), silent: [] };
}

const WATCH_MS = 2_000;

async function watchBackups(
  host: Host,
  name: string | undefined,
  cluster: string | undefined,
  options: GetOptions,
) {
  const shown = new Map<string, string>();
  const told = new Set<string>();
  let first = true;
  for (;;) {
    const { backups } = await list(host, first ? name : undefined, cluster, options, (text) => {
      if (!told.has(text)) note(text);
      told.add(text);
    });
    const changed = backups.filter((backup) => {
      if (name !== undefined && backup.name !== name) return false;
      const key = `${backup.cluster}/${backup.name}`;
      const state = JSON.stringify(backup.status);
      const isNew = shown.get(key) !== state;
      shown.set(key, state);
      return isNew;
    });
    if (changed.length > 0 || first) {
      const text = formatBackups(changed, options.output, false);
      process.stdout.write(first || !isTable(options.output) ? text : text.slice(text.indexOf('\n') + 1));
    }
    first = false;
    await delay(WATCH_MS);
  }
}

function isTable(output: GetOptions['output']): boolean {
  return output === undefined || output === 'wide';
}

const HEADERS = ['NAME', 'AGE', 'CLUSTER', 'METHOD', 'PHASE', 'ERROR'] as const;
const WIDE = ['BACKUP ID', 'BEGIN WAL', 'END WAL', 'STARTED', 'ENDED', 'KEEP'] as const;

function formatBackups(
  backups: readonly NamedBackup[],
  output: GetOptions['output'],
  single: boolean,
): string {
  const now = new Date();
  switch (output) {
    case 'json':
      return `${JSON.stringify(single ? asObject(backups[0]) : asList(backups), undefined, 2)}\n`;
    case 'yaml':
      return stringify(single ? asObject(backups[0]) : asList(backups));
    case 'name':
      return backups.map(({ name }) => `backup.postgresql.cnpg.io/${printable(name)}\n`).join('');
    case 'wide':
      return formatTable(
        [...HEADERS.slice(0, 5), ...WIDE, 'ERROR'],
        backups.map((backup) => [
          ...cells(backup, now).slice(0, 5),
          backup.status.backupId ?? '',
          backup.status.beginWal ?? '',
          backup.status.endWal ?? '',
          backup.status.startedAt ?? '',
          backup.status.stoppedAt ?? '',
          backup.keep ?? '',
          errorOf(backup),
        ]),
      );
    case undefined:
      return formatTable(
        HEADERS,
        backups.map((backup) => cells(backup, now)),
      );
  }
}

function cells(backup: ListedBackup, now: Date): string[] {
  const { startedAt } = backup.status;
  const age = startedAt === undefined ? '' : formatAge(new Date(startedAt), now);
  return [backup.name, age, backup.cluster, backup.method, phaseOf(backup), errorOf(backup)];
}

function errorOf({ status, problem }: ListedBackup): string {
  return (status.error ?? problem ?? '').replaceAll(/\s+/g, ' ');
}

function asList(backups: readonly NamedBackup[]): unknown {
  return { apiVersion: 'v1', kind: 'List', items: backups.map(asObject) };
}

/** As `kubectl get backup -o json` has it. Hand-made Backups carry the cluster's label too, so that selectors find them. */
function asObject(backup: NamedBackup | undefined): unknown {
  if (!backup) return undefined;
  const { labels, annotations, ownerReferences } = backup.metadata ?? {};
  const noted = { ...annotations, ...(backup.keep && { 'walkeep.io/keep': backup.keep }) };
  return {
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'Backup',
    metadata: {
      name: backup.name,
      namespace: backup.namespace,
      labels: { ...labels, 'cnpg.io/cluster': backup.cluster },
      ...(backup.status.startedAt !== undefined && { creationTimestamp: backup.status.startedAt }),
      ...(Object.keys(noted).length > 0 && { annotations: noted }),
      ...(ownerReferences && { ownerReferences }),
    },
    spec: { cluster: { name: backup.cluster }, method: backup.method },
    status: backup.status,
  };
}

interface ListedCluster {
  readonly namespace: string;
  readonly name: string;
  readonly manifest?: ClusterManifest;
  readonly status?: ClusterStatus;
}

function getClusters(): Command {
  return new Command('clusters')
    .alias('cluster')
    .summary('the applied clusters')
    .argument('[name]', 'only this one')
    .addOption(namespaceOption())
    .addOption(outputOption(['json', 'yaml', 'wide', 'name']))
    .addOption(stateOption())
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep get clusters\n  walkeep get clusters -n production -o wide\n',
    )
    .action(async (name: string | undefined, options: GetOptions) => {
      await withHost(options, async (host) => {
        const clusters = await readClusters(host, options.namespace, name);
        if (clusters.length === 0 && isTable(options.output)) {
          return note(`No clusters found in namespace ${options.namespace}.`);
        }
        process.stdout.write(formatClusters(clusters, options.output, name !== undefined));
      });
    });
}

async function readClusters(host: Host, namespace: string, name?: string): Promise<ListedCluster[]> {
  if (name !== undefined) {
    const { manifest } = await findCluster(host, namespace, name);
    return [await withStatus(host, namespace, name, manifest)];
  }
  const found = new Map<string, ClusterManifest | undefined>();
  for (const manifest of await listClusters(host, namespace)) found.set(manifest.metadata.name, manifest);
  try {
    const temporal = await host.temporal();
    await temporal.call('list the keepers', async (client) => {
      const query = `WorkflowType = '${WORKFLOW.cluster}' AND ExecutionStatus = 'Running'`;
      for await (const run of client.workflow.list({ query })) {
        const id = run.workflowId.split('/');
        const of = run.typedSearchAttributes.get(SEARCH_ATTRIBUTE.namespace) ?? id[1];
        const cluster = id[2];
        if (of === namespace && cluster !== undefined && !found.has(cluster)) found.set(cluster, undefined);
      }
    });
  } catch (error) {
    note(`walkeep: not asked: Temporal: ${messageOf(error)}`);
  }
  const names = [...found.entries()].toSorted(([a], [b]) => (a < b ? -1 : 1));
  return Promise.all(names.map(([cluster, manifest]) => withStatus(host, namespace, cluster, manifest)));
}

async function withStatus(
  host: Host,
  namespace: string,
  name: string,
  manifest: ClusterManifest | undefined,
): Promise<ListedCluster> {
  const status = await host
    .temporal()
    .then((temporal) =>
      temporal.call(
        'ask the keeper',
        (client) => client.workflow.getHandle(clusterWorkflowId(namespace, name)).query(clusterStatusQuery),
        4_000,
      ),
    )
    .catch(() => undefined);
  return { namespace, name, ...(manifest && { manifest }), ...(status && { status }) };
}

function formatClusters(
  clusters: readonly ListedCluster[],
  output: GetOptions['output'],
  single: boolean,
): string {
  const objects = clusters.map(({ namespace, name, manifest, status }) => ({
    ...((manifest && withoutObjectStores(manifest)) ?? {
      apiVersion: 'postgresql.cnpg.io/v1',
      kind: 'Cluster',
      metadata: { name, namespace },
    }),
    ...(status && { status }),
  }));
  const all = single ? objects[0] : { apiVersion: 'v1', kind: 'List', items: objects };
  if (output === 'json') return `${JSON.stringify(all, undefined, 2)}\n`;
  if (output === 'yaml') return stringify(all);
  if (output === 'name') return clusters.map(({ name }) => `cluster.postgresql.cnpg.io/${name}\n`).join('');
  const rows = clusters.map(({ name, manifest, status }) => {
    const instances = status?.instances ?? [];
    const primary = instances.find(({ role }) => role === 'primary');
    const row = [
      name,
      String(instances.length),
      String(instances.filter(({ role }) => role === 'primary' || role === 'standby').length),
      stateOf(status),
      primary?.instance ?? '',
    ];
    return output === 'wide'
      ? [
          ...row,
          status?.lastSuccessfulBackup ?? '',
          manifest?.spec.backup?.barmanObjectStore?.destinationPath ?? '',
        ]
      : row;
  });
  const headers = ['NAME', 'INSTANCES', 'READY', 'STATUS', 'PRIMARY'];
  return formatTable(output === 'wide' ? [...headers, 'LAST BACKUP', 'DESTINATION'] : headers, rows);
}

/** One word or two for the table; `walkeep status` has the rest. */
function stateOf(status: ClusterStatus | undefined): string {
  if (!status) return 'unknown: no keeper answers';
  const health = status.archiving?.health;
  const archiving =
    health === undefined ? 'not archiving yet' : health === 'working' ? 'archiving' : `archiving ${health}`;
  return status.lastSuccessfulBackup === undefined ? `${archiving}, no backup yet` : archiving;
}
