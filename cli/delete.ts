import { Command } from 'commander';
import { BackupError, isBackupError } from '../core/errors.ts';
import { createScheduleService } from '../workers/schedule-ports.ts';
import type { RemovedObject } from '../workflows/interface.ts';
import { applyToKeeper } from './apply-to-keeper.ts';
import { removeCluster } from './delete-cluster.ts';
import { removeObjectStore } from './delete-object-store.ts';
import { removePolicy } from './delete-policy.ts';
import { EXIT } from './exit-codes.ts';
import { withHost, type Host } from './host.ts';
import { askKeeper, refuseUnheard } from './keeper-answer.ts';
import { knownClusters } from './keepers.ts';
import { namespaceOption, stateOption } from './options.ts';
import { RESOURCE } from './resource-lines.ts';

interface DeleteOptions {
  readonly namespace: string;
  readonly state?: string;
  readonly cluster?: string;
  readonly yes?: true;
}

const KINDS: ReadonlyMap<string, RemovedObject['kind'] | 'Cluster' | 'ObjectStore'> = new Map([
  ['scheduledbackup', 'ScheduledBackup'],
  ['scheduledbackups', 'ScheduledBackup'],
  ['scheduledverification', 'ScheduledVerification'],
  ['scheduledverifications', 'ScheduledVerification'],
  ['backuppolicy', 'BackupPolicy'],
  ['backuppolicies', 'BackupPolicy'],
  ['cluster', 'Cluster'],
  ['clusters', 'Cluster'],
  ['objectstore', 'ObjectStore'],
  ['objectstores', 'ObjectStore'],
]);

/** `walkeep delete KIND NAME` */
export function deleteCommand(): Command {
  return new Command('delete')
    .summary('take back a ScheduledBackup, ScheduledVerification, BackupPolicy, Cluster or ObjectStore')
    .description(
      'Takes back what was applied. Backups and WAL in the repository are never touched by it: without a schedule no\n' +
        'more backups are taken, without a policy no rule of it deletes or keeps any more: beside a retentionPolicy of\n' +
        'the Cluster that is asked about first. An ObjectStore is taken back from this host, where it is kept, unless a\n' +
        'Cluster refers to it.',
    )
    .argument('<kind>', 'scheduledbackup, scheduledverification, backuppolicy, cluster or objectstore')
    .argument('<name>', 'its name')
    .option('--cluster <name>', 'the cluster it belongs to; of a policy, the only one it is taken back from')
    .option(
      '--yes',
      'do not ask before a window alone decides what is deleted, or about a Cluster without keeper',
    )
    .addOption(namespaceOption())
    .addOption(stateOption())
    .action(async (kind: string, name: string, options: DeleteOptions) => {
      process.exitCode = await withHost(options, (host) => remove(host, kind, name, options));
    });
}

async function remove(host: Host, kindText: string, name: string, options: DeleteOptions): Promise<number> {
  const { namespace, cluster, yes = false } = options;
  const kind = KINDS.get(kindText.toLowerCase());
  if (!kind) {
    throw new BackupError('usage', `there is nothing to delete of the kind "${kindText}"`, {
      hint: 'write scheduledbackup, scheduledverification, backuppolicy, cluster or objectstore; for backups see walkeep sweep',
    });
  }
  await requireTemporal(host);
  if (kind === 'Cluster') return removeCluster(host, namespace, name);
  const deleted =
    kind === 'BackupPolicy'
      ? await removePolicy(host, { namespace, name, yes, ...(cluster !== undefined && { cluster }) })
      : kind === 'ObjectStore'
        ? await removeObjectStore(host, { namespace, name, yes })
        : await removePlan(host, kind, name, options);
  if (!deleted) {
    throw new BackupError('usage', `there is no ${kind} "${name}" in namespace ${namespace}`, {
      hint:
        kind === 'ObjectStore'
          ? 'they are kept on the hosts where they were applied; walkeep get objectstores lists those of this one'
          : 'walkeep get shows what there is; name its cluster with --cluster if this host does not know it',
    });
  }
  process.stdout.write(`${RESOURCE[kind]}/${name} deleted\n`);
  return EXIT.ok;
}

/** Before anything changes. @throws BackupError `temporal-unavailable` */
async function requireTemporal(host: Host): Promise<void> {
  await host.temporal().catch((error: unknown) => {
    if (!isBackupError(error, 'temporal-unavailable')) throw error;
    const { code, message, hint } = error;
    throw new BackupError(code, `${message}, so nothing was changed`, { cause: error, hint });
  });
}

/** What runs by the clock, and belongs to one cluster. */
type PlanKind = Exclude<RemovedObject['kind'], 'BackupPolicy'>;

async function removePlan(
  host: Host,
  kind: PlanKind,
  name: string,
  { namespace, cluster: given }: DeleteOptions,
): Promise<boolean> {
  const here = await clusterHere(host, kind, namespace, name);
  const cluster = given ?? here ?? (await clusterElsewhere(host, kind, namespace, name));
  if (cluster === undefined) return false;
  const temporal = await host.temporal();
  const result = await applyToKeeper(temporal, namespace, cluster, { remove: [{ kind, name }] });
  const deleted = result?.objects.some(({ outcome }) => outcome === 'deleted') ?? false;
  // What only this host keeps, for a cluster that was never applied, goes as well.
  if (here === cluster) await shelfOf(host, kind).remove(namespace, name);
  return deleted || here === cluster;
}

function shelfOf(host: Host, kind: PlanKind) {
  return kind === 'ScheduledBackup' ? host.state.scheduledBackups : host.state.scheduledVerifications;
}

/** The cluster of one that this host keeps. */
async function clusterHere(
  host: Host,
  kind: PlanKind,
  namespace: string,
  name: string,
): Promise<string | undefined> {
  return (await shelfOf(host, kind).read(namespace, name))?.manifest.spec.cluster.name;
}

/** The cluster of one that was applied elsewhere: as Temporal's Schedule says, or as the keepers do. */
async function clusterElsewhere(
  host: Host,
  kind: PlanKind,
  namespace: string,
  name: string,
): Promise<string | undefined> {
  const temporal = await host.temporal();
  if (kind === 'ScheduledBackup') {
    const service = createScheduleService(temporal.client);
    const found = await temporal.call('look at the Schedule', () => service.find(namespace, name));
    if (found?.owner) return found.owner.cluster;
  }
  for (const cluster of await knownClusters(host, temporal, namespace)) {
    const answer = await askKeeper(host, namespace, cluster);
    if (answer.keeper === 'none') continue;
    if (answer.keeper !== 'answers')
      refuseUnheard(answer, `it is not known whether ${kind} "${name}" is its; nothing was changed`);
    const list = kind === 'ScheduledBackup' ? answer.desire.schedules : answer.desire.verifications;
    const isHeld = answer.desire.unplaced?.includes(`${kind}/${name}`) ?? false;
    if (isHeld || list.some(({ metadata }) => metadata.name === name)) return cluster;
  }
  return undefined;
}
