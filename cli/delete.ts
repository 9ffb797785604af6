import { Command } from 'commander';
import { BackupError } from '../core/errors.ts';
import {
  clusterStatusQuery,
  clusterWorkflowId,
  desireQuery,
  scheduleId,
  type RemovedObject,
} from '../workflows/interface.ts';
import { applyToKeeper, RESOURCE } from './apply.ts';
import { EXIT } from './exit-codes.ts';
import { listClusters, withHost, type Host } from './host.ts';
import { namespaceOption, stateOption } from './options.ts';
import { note } from './output.ts';

interface DeleteOptions {
  readonly namespace: string;
  readonly state?: string;
  readonly cluster?: string;
}

const KINDS: ReadonlyMap<string, RemovedObject['kind'] | 'Cluster'> = new Map([
  ['scheduledbackup', 'ScheduledBackup'],
  ['scheduledbackups', 'ScheduledBackup'],
  ['scheduledverification', 'ScheduledVerification'],
  ['scheduledverifications', 'ScheduledVerification'],
  ['backuppolicy', 'BackupPolicy'],
  ['backuppolicies', 'BackupPolicy'],
  ['cluster', 'Cluster'],
  ['clusters', 'Cluster'],
]);

/** `walkeep delete KIND NAME` */
export function deleteCommand(): Command {
  return new Command('delete')
    .summary('take back a ScheduledBackup, ScheduledVerification, BackupPolicy or Cluster')
    .description(
      'Takes back what was applied. Backups and WAL in the repository are never touched by it: without a schedule no\n' +
        'more backups are taken, without a policy no rule of it deletes any more.',
    )
    .argument('<kind>', 'scheduledbackup, scheduledverification, backuppolicy or cluster')
    .argument('<name>', 'its name')
    .option('--cluster <name>', 'the cluster it belongs to, where that is not known on this host')
    .addOption(namespaceOption())
    .addOption(stateOption())
    .action(async (kind: string, name: string, options: DeleteOptions) => {
      process.exitCode = await withHost(options, (host) => remove(host, kind, name, options));
    });
}

async function remove(host: Host, kindText: string, name: string, options: DeleteOptions): Promise<number> {
  const kind = KINDS.get(kindText.toLowerCase());
  if (!kind) {
    throw new BackupError('usage', `there is nothing to delete of the kind "${kindText}"`, {
      hint: 'write scheduledbackup, scheduledverification, backuppolicy or cluster; for backups see walkeep sweep',
    });
  }
  if (kind === 'Cluster') return removeCluster(host, name, options.namespace);
  const clusters =
    options.cluster === undefined ? await clustersOf(host, kind, name, options) : [options.cluster];
  let deleted = false;
  for (const cluster of clusters) {
    const temporal = await host.temporal();
    const result = await applyToKeeper(temporal, options.namespace, cluster, { remove: [{ kind, name }] });
    deleted ||= result?.objects.some(({ outcome }) => outcome === 'deleted') ?? false;
  }
  // What only this host keeps, for a cluster that was never applied, goes as well.
  deleted = (await forgetHere(host, kind, name, options.namespace)) || deleted;
  if (!deleted) {
    throw new BackupError('usage', `there is no ${kind} "${name}" in namespace ${options.namespace}`, {
      hint: 'walkeep get shows what there is; name its cluster with --cluster if this host does not know it',
    });
  }
  process.stdout.write(`${RESOURCE[kind]}/${name} deleted\n`);
  return EXIT.ok;
}

async function forgetHere(
  host: Host,
  kind: RemovedObject['kind'],
  name: string,
  namespace: string,
): Promise<boolean> {
  const shelf = {
    ScheduledBackup: host.state.scheduledBackups,
    ScheduledVerification: host.state.scheduledVerifications,
    BackupPolicy: host.state.backupPolicies,
  }[kind];
  const isHere = (await shelf.read(namespace, name).catch(() => undefined)) !== undefined;
  if (isHere) await shelf.remove(namespace, name);
  return isHere;
}

/** The clusters that have it: as this host knows, as Temporal's Schedule says, or as the keepers of this host's clusters do. */
async function clustersOf(
  host: Host,
  kind: RemovedObject['kind'],
  name: string,
  { namespace }: DeleteOptions,
): Promise<string[]> {
  const found = new Set<string>();
  if (kind === 'BackupPolicy') {
    const held = await host.state.backupPolicies.read(namespace, name);
    for (const cluster of held?.manifest.spec.clusters ?? []) found.add(cluster);
  } else {
    const shelf =
      kind === 'ScheduledBackup' ? host.state.scheduledBackups : host.state.scheduledVerifications;
    const held = await shelf.read(namespace, name);
    if (held) found.add(held.manifest.spec.cluster.name);
  }
  if (found.size === 0 && kind === 'ScheduledBackup') {
    const cluster = await clusterOfSchedule(host, namespace, name);
    if (cluster !== undefined) found.add(cluster);
  }
  if (found.size > 0) return [...found];
  for (const { metadata } of await listClusters(host, namespace)) {
    if (await keeperHas(host, namespace, metadata.name, kind, name)) found.add(metadata.name);
  }
  return [...found];
}

async function clusterOfSchedule(host: Host, namespace: string, name: string): Promise<string | undefined> {
  const temporal = await host.temporal();
  const memo = await temporal
    .call('look at the schedule', (client) =>
      client.schedule
        .getHandle(scheduleId(namespace, name))
        .describe()
        .then((description) => description.memo),
    )
    .catch(() => undefined);
  const cluster = memo?.['cluster'];
  return typeof cluster === 'string' ? cluster : undefined;
}

async function keeperHas(
  host: Host,
  namespace: string,
  cluster: string,
  kind: RemovedObject['kind'],
  name: string,
): Promise<boolean> {
  const temporal = await host.temporal();
  const desire = await temporal
    .call(
      'ask the keeper',
      (client) => client.workflow.getHandle(clusterWorkflowId(namespace, cluster)).query(desireQuery),
      5_000,
    )
    .catch(() => undefined);
  if (!desire) return false;
  if (kind === 'BackupPolicy') return desire.policy?.metadata.name === name;
  const list = kind === 'ScheduledBackup' ? desire.schedules : desire.verifications;
  return list.some(({ metadata }) => metadata.name === name);
}

/** The keeper takes its schedules away with it. Archiving is PostgreSQL's and goes on; what is stored stays. */
async function removeCluster(host: Host, name: string, namespace: string): Promise<number> {
  const temporal = await host.temporal();
  const handle = temporal.client.workflow.getHandle(clusterWorkflowId(namespace, name));
  const status = await temporal
    .call('ask the keeper', () => handle.query(clusterStatusQuery), 5_000)
    .catch(() => undefined);
  if (!status) {
    throw new BackupError(
      'cluster-unknown',
      `no keeper of ${namespace}/${name} answers: nothing was changed`,
    );
  }
  await temporal.call('end the keeper', () => handle.cancel());
  process.stdout.write(`${RESOURCE.Cluster}/${name} deleted\n`);
  note(
    `walkeep: no more backups of ${name} are taken and none is deleted. WAL is archived as long as PostgreSQL's ` +
      'archive_command asks for it; all that is in the repository stays and can be restored',
  );
  return EXIT.ok;
}
