import { accessSync, constants } from 'node:fs';
import { join, resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { BackupError } from '../core/errors.ts';
import { agentSocketPath } from '../operations/cluster-archive.ts';
import {
  findStateDirectory,
  openStateDirectory,
  requireCluster,
  type StateDirectory,
} from '../operations/state-directory.ts';
import type { WalCommandRequest } from '../operations/wal-command-lines.ts';
import { namespaceOption, parseClusterArgument, stateOption } from './options.ts';

/** Which server on this host a line is for. */
export interface PlaceOptions {
  readonly cluster?: string;
  readonly namespace: string;
  readonly pgdata?: string;
  readonly state?: string;
}

export function addPlaceOptions(command: Command): Command {
  return command
    .option('--cluster <name>', 'NAME or NAMESPACE/NAME (default: the only one applied on this host)')
    .addOption(namespaceOption())
    .addOption(new Option('--pgdata <directory>', 'the data directory').env('PGDATA'))
    .addOption(stateOption());
}

/** @throws BackupError `usage` | `cluster-unknown` */
export async function findPlace(options: PlaceOptions): Promise<WalCommandRequest> {
  const { pgdata, state } = options;
  if (pgdata === undefined) {
    throw new BackupError('usage', 'the data directory is not known', {
      hint: 'give --pgdata DIR, or set PGDATA',
    });
  }
  const stateDirectory = state === undefined ? await findStateDirectory(process.env) : resolve(state);
  const directory = openStateDirectory(stateDirectory);
  const { namespace, cluster } = await findCluster(directory, options);
  const secrets = process.env['WALKEEP_SECRETS_DIR'];
  return {
    namespace,
    cluster,
    pgdata: resolve(pgdata),
    stateDirectory,
    secretsDirectory: secrets === undefined || secrets === '' ? undefined : resolve(secrets),
    socketPath: agentSocketPath(directory.runDirectory, resolve(pgdata)),
  };
}

async function findCluster(
  state: StateDirectory,
  { cluster, namespace }: PlaceOptions,
): Promise<{ namespace: string; cluster: string }> {
  if (cluster !== undefined) {
    const found = { namespace, ...parseClusterArgument(cluster) };
    await requireCluster(state, found.namespace, found.cluster);
    return found;
  }
  const [only, ...others] = await state.clusters.list();
  if (only && others.length === 0) return { namespace: only.namespace, cluster: only.name };
  const names = [only, ...others].flatMap((entry) => (entry ? [`${entry.namespace}/${entry.name}`] : []));
  throw new BackupError(
    'cluster-unknown',
    names.length === 0
      ? 'no Cluster is applied on this host'
      : `several Clusters are applied here: ${names.join(', ')}`,
    {
      hint:
        names.length === 0 ? 'apply its manifest first: walkeep apply -f FILE' : 'choose one with --cluster',
    },
  );
}

/** Whether the shell client will find curl, by the search path of whoever runs this. */
export function hasCurl(): boolean {
  return (process.env['PATH'] ?? '').split(':').some((directory) => {
    try {
      accessSync(join(directory, 'curl'), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
