import { Command } from 'commander';
import { checkCluster, type CheckItem } from '../operations/check-cluster.ts';
import { agentSocketPath } from '../operations/cluster-archive.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { archiveCommandLine } from '../operations/wal-command-lines.ts';
import { connect, connectionFromEnvironment } from '../postgres/connection.ts';
import { readAgentStatus } from './agent-status.ts';
import { formatCheckItems } from './check-items.ts';
import { EXIT } from './exit-codes.ts';
import { findCluster, withHost, type Host } from './host.ts';
import { namespaceOption, outputOption, parseClusterArgument, stateOption } from './options.ts';
import { readOrchestration } from './orchestration.ts';

interface CheckOptions {
  readonly namespace: string;
  readonly pgdata?: string;
  readonly state?: string;
  readonly output?: 'json';
}

/** `walkeep check CLUSTER` */
export function checkCommand(): Command {
  return new Command('check')
    .summary('check, item by item, that a cluster is protected, and say what to do')
    .description(
      'Looks at the repository, PostgreSQL (by its own environment: PGHOST, PGPORT, PGUSER, …), the worker and Temporal.\n' +
        'Changes nothing. Run it on the host of the database. Exit code 11 when there is a problem.',
    )
    .argument('<cluster>', 'NAME or NAMESPACE/NAME')
    .addOption(namespaceOption())
    .option('--pgdata <directory>', 'the data directory (default: as PostgreSQL says)')
    .addOption(stateOption())
    .addOption(outputOption(['json']))
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep check production-postgres\n  walkeep check production-postgres -o json\n',
    )
    .action(async (argument: string, options: CheckOptions) => {
      const reference = parseClusterArgument(argument);
      await withHost(options, async (host) => {
        const items = await check(host, reference.namespace ?? options.namespace, reference.cluster, options);
        process.stdout.write(
          options.output === 'json'
            ? `${JSON.stringify(items, undefined, 2)}\n`
            : formatCheckItems(items, 'this cluster is not protected as it should be'),
        );
        if (items.some(({ state }) => state === 'problem')) process.exitCode = EXIT.findings;
      });
    });
}

async function check(
  host: Host,
  namespace: string,
  cluster: string,
  options: CheckOptions,
): Promise<CheckItem[]> {
  const { manifest } = await findCluster(host, namespace, cluster);
  const signal = AbortSignal.timeout(120_000);
  const settings = connectionFromEnvironment(process.env);
  const connectPostgres = () => connect(settings, { applicationName: 'walkeep check', signal });
  const pgdata = options.pgdata ?? process.env['PGDATA'] ?? (await askDataDirectory(connectPostgres));
  const secretsDirectory = process.env['WALKEEP_SECRETS_DIR'];
  const socketPath = agentSocketPath(host.state.runDirectory, pgdata ?? '');
  return checkCluster(
    {
      manifest,
      openRepository: () => openClusterRepository(manifest, host.resolver),
      connectPostgres,
      agentStatus: () => readAgentStatus(socketPath),
      orchestration: () => readOrchestration(host, namespace, cluster),
      archiveCommands:
        pgdata === undefined
          ? []
          : [
              archiveCommandLine({
                namespace,
                cluster,
                pgdata,
                stateDirectory: host.state.root,
                secretsDirectory: secretsDirectory === '' ? undefined : secretsDirectory,
                socketPath,
              }),
            ],
      now: new Date(),
    },
    signal,
  );
}

async function askDataDirectory(
  connectPostgres: () => ReturnType<typeof connect>,
): Promise<string | undefined> {
  try {
    const client = await connectPostgres();
    try {
      const { rows } = await client.query<{ setting: string }>(
        `select setting from pg_catalog.pg_settings where name = 'data_directory'`,
      );
      return rows[0]?.setting;
    } finally {
      await client.end();
    }
  } catch {
    // The check of PostgreSQL itself says why.
    return undefined;
  }
}
