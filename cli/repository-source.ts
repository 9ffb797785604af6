import type { Command } from 'commander';
import { BackupError } from '../core/errors.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { openReference } from '../operations/recovery-file.ts';
import type { Repository } from '../repository/repository.ts';
import { clusterFromFiles } from './cluster-files.ts';
import { findCluster, type Host } from './host.ts';
import { namedReference, type NamingFlags } from './named-repository.ts';
import { namespaceOption, parseClusterArgument, stateOption } from './options.ts';

/** The flags by which a repository is named, with a cluster or without any. */
export interface RepositoryFlags extends NamingFlags {
  readonly namespace: string;
  readonly state?: string;
}

/** A repository, and how it was named. */
export interface FoundRepository {
  readonly repository: Repository;
  /** As the manifest or the command line spells it. */
  readonly destinationPath: string;
  /** By the command line alone: nobody else says that there is such a repository. */
  readonly isNamed?: true;
}

/** Adds the flags to a command, as `walkeep restore` has them. */
export function addRepositoryOptions(command: Command): Command {
  return command
    .addOption(namespaceOption())
    .option(
      '-f, --filename <file>',
      'manifest with the Cluster; - is standard input',
      (value: string, before: readonly string[]) => [...before, value],
      [],
    )
    .option('--repository <url>', 'the repository itself, without any manifest; see walkeep restore --help')
    .option('--server-name <name>', 'with --repository: the folder below it (default: CLUSTER)')
    .option(
      '--endpoint-url <url>',
      'with --repository: the address of an S3 server, another one of Google or Azure',
    )
    .addOption(stateOption());
}

/** @throws BackupError `usage` when it is not said which, and what opening says */
export async function openNamedRepository(
  host: Host,
  argument: string | undefined,
  flags: RepositoryFlags,
): Promise<FoundRepository> {
  const named = argument === undefined ? undefined : parseClusterArgument(argument);
  const namespace = named?.namespace ?? flags.namespace;
  const byFlags = namedReference(flags, { namespace, cluster: named?.cluster });
  if (byFlags) {
    const { reference, destinationPath } = byFlags;
    return { repository: await openReference(reference, host.resolver), destinationPath, isNamed: true };
  }
  if (named === undefined && flags.filename.length === 0) {
    throw new BackupError('usage', 'which repository is not said', {
      hint: 'name an applied Cluster, or give -f MANIFEST, or --repository URL --server-name NAME',
    });
  }
  const { manifest } =
    flags.filename.length > 0
      ? await clusterFromFiles(host.state, flags.filename, { namespace, cluster: named?.cluster })
      : await findCluster(host, namespace, named?.cluster ?? '');
  return {
    repository: await openClusterRepository(manifest, host.resolver),
    destinationPath: manifest.spec.backup?.barmanObjectStore?.destinationPath ?? '',
  };
}
