import { Command } from 'commander';
import { BackupError } from '../core/errors.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { requireKeepable, requireSpared } from '../operations/spare-backup.ts';
import { readCatalogue, type CatalogueEntry } from '../repository/catalogue.ts';
import { releaseKeep, writeKeep, type Keep } from '../repository/keeps.ts';
import type { Repository } from '../repository/repository.ts';
import { findCluster, withHost } from './host.ts';
import { namespaceOption, parseClusterArgument, stateOption } from './options.ts';

interface KeepFlags {
  readonly namespace: string;
  readonly state?: string;
  readonly standalone?: true;
}

const DEADLINE_MS = 120_000;

/** `walkeep keep CLUSTER BACKUP` */
export function keepCommand(): Command {
  return new Command('keep')
    .summary('keep a backup from every retention, until it is released')
    .description(
      "Puts barman's keep on a backup, as barman-cloud-backup-keep does: no retention deletes it, neither walkeep's nor\n" +
        'that of barman-cloud or CloudNativePG. It needs the repository only. A backup that a sweep which died left as\n' +
        'being deleted, with its data, is one again then.',
    )
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .argument('<backup>', 'the id or the name of the backup')
    .option('--standalone', 'keep only the WAL it needs to be consistent, not all that follows it')
    .addOption(namespaceOption())
    .addOption(stateOption())
    .addHelpText('after', '\nExamples:\n  walkeep keep production-postgres before-migration\n')
    .action(async (cluster: string, backup: string, flags: KeepFlags) => {
      await withBackup(cluster, backup, flags, async (repository, { backupId }, signal) => {
        const keep: Keep = flags.standalone ? 'standalone' : 'full';
        await requireKeepable(repository, backupId, signal);
        await writeKeep(repository, backupId, keep, signal);
        await requireSpared(repository, backupId, signal);
        process.stdout.write(`backup ${backupId} is kept (${keep})\n`);
      });
    });
}

/** `walkeep release CLUSTER BACKUP` */
export function releaseCommand(): Command {
  return new Command('release')
    .summary('take a keep back: retention decides again')
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .argument('<backup>', 'the id or the name of the backup')
    .addOption(namespaceOption())
    .addOption(stateOption())
    .action(async (cluster: string, backup: string, flags: KeepFlags) => {
      await withBackup(cluster, backup, flags, async (repository, { backupId, keep }, signal) => {
        await releaseKeep(repository, backupId, signal);
        process.stdout.write(keep ? `backup ${backupId} is released\n` : `backup ${backupId} was not kept\n`);
      });
    });
}

async function withBackup(
  argument: string,
  backup: string,
  flags: KeepFlags,
  work: (repository: Repository, entry: CatalogueEntry, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { cluster, namespace = flags.namespace } = parseClusterArgument(argument);
  await withHost(flags, async (host) => {
    const { manifest } = await findCluster(host, namespace, cluster);
    const repository = await openClusterRepository(manifest, host.resolver);
    const signal = AbortSignal.timeout(DEADLINE_MS);
    try {
      await work(repository, requireOne(await readCatalogue(repository, signal), backup, repository), signal);
    } finally {
      await repository.close();
    }
  });
}

function requireOne(entries: readonly CatalogueEntry[], backup: string, { url }: Repository): CatalogueEntry {
  const found = entries.filter(({ backupId, info }) => backupId === backup || info?.backupName === backup);
  const [one] = found;
  if (!one) throw new BackupError('backup-unknown', `there is no backup "${backup}" in ${url}`);
  if (found.length > 1) {
    const ids = found.map(({ backupId }) => backupId).join(', ');
    throw new BackupError('usage', `several backups are called "${backup}": ${ids}`, { hint: 'give the id' });
  }
  // as stock: what is not done can't be kept
  if (one.info?.status !== 'DONE') {
    throw new BackupError(
      'backup-unusable',
      `backup ${one.backupId} can't be kept: it is not a completed backup`,
    );
  }
  return one;
}
