import type { Command } from 'commander';
import { BackupError } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { formatProblem, hasErrors, loadManifests } from '../manifests/load.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { readManifestSources } from '../operations/read-manifests.ts';
import { openReference, referenceTo } from '../operations/recovery-file.ts';
import type { Repository } from '../repository/repository.ts';
import { findCluster, type Host } from './host.ts';
import { namedRepository, requireOneNaming, type NamingFlags } from './named-repository.ts';
import { knownObjectStores } from './object-stores.ts';
import { namespaceOption, parseClusterArgument, stateOption } from './options.ts';
import { note } from './output.ts';

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
  requireOneNaming(flags);
  const named = argument === undefined ? undefined : parseClusterArgument(argument);
  const namespace = named?.namespace ?? flags.namespace;
  if (flags.repository !== undefined) {
    const serverName = flags.serverName ?? named?.cluster;
    if (serverName === undefined)
      throw new BackupError('usage', '--repository needs --server-name: the folder of the cluster in it');
    const { store, warning } = namedRepository(flags.repository, flags.endpointUrl, process.env);
    if (warning !== undefined) note(`walkeep: ${warning}`);
    const repository = await openReference(referenceTo(store, serverName, namespace), host.resolver);
    return { repository, destinationPath: store.destinationPath, isNamed: true };
  }
  if (named === undefined && flags.filename.length === 0) {
    throw new BackupError('usage', 'which repository is not said', {
      hint: 'name an applied Cluster, or give -f MANIFEST, or --repository URL --server-name NAME',
    });
  }
  const manifest =
    flags.filename.length > 0
      ? await clusterFromFiles(host, flags.filename, named?.cluster, namespace)
      : (await findCluster(host, namespace, named?.cluster ?? '')).manifest;
  return {
    repository: await openClusterRepository(manifest, host.resolver),
    destinationPath: manifest.spec.backup?.barmanObjectStore?.destinationPath ?? '',
  };
}

async function clusterFromFiles(
  host: Host,
  files: readonly string[],
  wanted: string | undefined,
  namespace: string,
): Promise<ClusterManifest> {
  const sources = await readManifestSources(files, readStandardInput);
  const objectStores = await knownObjectStores(host.state);
  const { documents, problems } = loadManifests(sources, { now: new Date(), objectStores });
  for (const problem of problems) if (problem.severity !== 'note') note(formatProblem(problem));
  if (hasErrors(problems)) throw new BackupError('manifest-invalid', 'the manifest was refused');
  const clusters = documents.flatMap((document) => (document.kind === 'Cluster' ? [document.manifest] : []));
  const fitting =
    wanted === undefined
      ? clusters
      : clusters.filter(({ metadata }) => metadata.name === wanted && metadata.namespace === namespace);
  const [cluster] = fitting;
  if (cluster !== undefined && fitting.length === 1) return cluster;
  const names = clusters.map(({ metadata }) => metadata.name).join(', ') || 'none';
  throw new BackupError(
    'usage',
    `${fitting.length > 1 ? 'several Clusters are' : `no Cluster${wanted ? ` ${wanted}` : ''} is`} in ${files.join(', ')} (there are: ${names})`,
    { hint: 'name the one that is meant' },
  );
}

async function readStandardInput(): Promise<Uint8Array> {
  const pieces: Buffer[] = [];
  for await (const piece of process.stdin) pieces.push(Buffer.from(piece as Uint8Array));
  return Buffer.concat(pieces);
}
