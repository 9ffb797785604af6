import { Command, Option } from 'commander';
import path from 'node:path';
import { BackupError } from '../core/errors.ts';
import { DEFAULT_METRICS } from '../workers/options.ts';
import { namespaceOption, parseClusterArgument, stateOption } from './options.ts';
import { walkeepVersion } from './version.ts';

interface WorkerCommandOptions {
  readonly cluster: { readonly namespace?: string; readonly cluster: string };
  readonly namespace: string;
  readonly instance: string;
  readonly pgdata: string;
  readonly state?: string;
  readonly secrets?: string;
  readonly metrics: { readonly host: string; readonly port: number };
  readonly grace: number;
}

/** `walkeep worker` */
export function workerCommand(): Command {
  return new Command('worker')
    .summary('run the worker next to a PostgreSQL')
    .description(
      'Archives the WAL of one PostgreSQL, takes its backups and restores into its data directory. It runs on the\n' +
        'machine of the database as the owner of the data directory, and works without Temporal: whatever archiving and\n' +
        'recovery need is on this host.',
    )
    .addOption(
      new Option('--cluster <name>', 'cluster, as NAME or NAMESPACE/NAME')
        .env('WALKEEP_CLUSTER')
        .argParser(parseClusterArgument)
        .makeOptionMandatory(),
    )
    .addOption(namespaceOption())
    .addOption(
      new Option('--instance <name>', 'name of this instance in the cluster')
        .env('WALKEEP_INSTANCE')
        .makeOptionMandatory(),
    )
    .addOption(
      new Option('--pgdata <directory>', 'data directory; for a recovery one that is empty or new')
        .env('PGDATA')
        .makeOptionMandatory(),
    )
    .addOption(stateOption())
    .addOption(
      new Option('--secrets <directory>', 'secrets as Kubernetes mounts them: <directory>/<name>/<key>').env(
        'WALKEEP_SECRETS_DIR',
      ),
    )
    .addOption(
      new Option('--metrics <address>', 'where /metrics, /healthz and /readyz are served')
        .env('WALKEEP_METRICS')
        .argParser(parseAddress)
        .default(DEFAULT_METRICS, `${DEFAULT_METRICS.host}:${DEFAULT_METRICS.port}`),
    )
    .addOption(
      new Option('--grace <seconds>', 'time that running work has after SIGTERM')
        .argParser(parseSeconds)
        .default(10),
    )
    .addHelpText(
      'after',
      '\nPostgreSQL is found by libpq’s environment (PGHOST, PGPORT, PGUSER, PGPASSFILE, PGSERVICE …), Temporal by its own\n' +
        '(TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_PROFILE, temporal.toml). Logs are JSON lines on standard error.\n' +
        '\nExamples:\n' +
        '  walkeep worker --cluster production-postgres --instance production-postgres-1 --pgdata /var/lib/postgresql/17/main\n' +
        '  walkeep worker --cluster restored --instance restored-1 --pgdata /srv/restored    waits for a restore\n',
    )
    .action(run);
}

async function run(options: WorkerCommandOptions): Promise<void> {
  if (!/^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$/.test(options.instance)) {
    throw new BackupError(
      'usage',
      `not a name of an instance: "${options.instance}" (letters, digits, "-", "." and "_")`,
    );
  }
  // Loading Temporal takes longer than saying what is wrong.
  const { runWorker } = await import('../workers/main.ts');
  const worker = await runWorker({
    namespace: options.cluster.namespace ?? options.namespace,
    cluster: options.cluster.cluster,
    instance: options.instance,
    pgdata: path.resolve(options.pgdata),
    metrics: options.metrics,
    graceMs: options.grace * 1000,
    environment: process.env,
    version: walkeepVersion(),
    ...(options.state !== undefined && { stateDirectory: options.state }),
    ...(options.secrets !== undefined && { secretsDirectory: options.secrets }),
  });
  await signalled();
  await worker.stop();
}

/** Resolves at the first signal that asks to end; later ones change nothing, the work ends in its own order. */
async function signalled(): Promise<void> {
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGQUIT'] as const) process.on(signal, () => resolve());
  });
}

/** `HOST:PORT`, `[::1]:PORT`, `:PORT` or `PORT`. */
function parseAddress(text: string): { host: string; port: number } {
  const match = /^(?:(?:\[([0-9A-Fa-f:]+)\]|([^:[\]]*)):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65_535) throw new BackupError('usage', `expected HOST:PORT, got "${text}"`);
  return { host: match[1] ?? (match[2] || DEFAULT_METRICS.host), port };
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (Number.isFinite(seconds) && seconds >= 0) return seconds;
  throw new BackupError('usage', `expected a number of seconds, got "${text}"`);
}
