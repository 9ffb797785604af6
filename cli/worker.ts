import { Command, Option } from 'commander';
import path from 'node:path';
import { BackupError } from '../core/errors.ts';
import type { RunningWorker } from '../workers/main.ts';
import { DEFAULT_METRICS, type Address, type ProcessOptions } from '../workers/options.ts';
import { WORKFLOW_QUEUE } from '../workflows/interface.ts';
import { namespaceOption, parseAddress, parseClusterArgument, stateOption } from './options.ts';
import { signalled } from './signals.ts';
import { walkeepVersion } from '../repository/walkeep-version.ts';

interface WorkerCommandOptions {
  readonly cluster?: { readonly namespace?: string; readonly cluster: string };
  readonly namespace: string;
  readonly instance?: string;
  readonly pgdata?: string;
  readonly queue: readonly string[];
  readonly maxBackupsPerStore?: number;
  readonly maxBackupsPerHost?: number;
  readonly state?: string;
  readonly secrets?: string;
  readonly metrics: Address;
  readonly temporalMetrics?: Address;
  readonly grace: number;
}

/** `walkeep worker` */
export function workerCommand(): Command {
  return new Command('worker')
    .summary('run the worker next to a PostgreSQL')
    .description(
      'Archives the WAL of one PostgreSQL, takes its backups and restores into its data directory. It runs on the\n' +
        'machine of the database as the owner of the data directory, and works without Temporal: whatever archiving and\n' +
        'recovery need is on this host.\n\n' +
        'With --queue and without --cluster it needs no PostgreSQL: it deletes or verifies for clusters whose\n' +
        'BackupPolicy or ScheduledVerification names that queue.',
    )
    .addOption(
      new Option('--cluster <name>', 'cluster, as NAME or NAMESPACE/NAME')
        .env('WALKEEP_CLUSTER')
        .argParser(parseClusterArgument),
    )
    .addOption(namespaceOption())
    .addOption(
      new Option('--instance <name>', 'name of this instance in the cluster').env('WALKEEP_INSTANCE'),
    )
    .addOption(
      new Option('--pgdata <directory>', 'data directory; for a recovery one that is empty or new').env(
        'PGDATA',
      ),
    )
    .addOption(
      new Option('--queue <name>', 'a further task queue to take work from; may be given several times')
        .argParser((name: string, before: readonly string[]) => [...new Set([...before, parseQueue(name)])])
        .default([], 'none'),
    )
    .addOption(
      new Option('--max-backups-per-store <number>', 'how many backups may write to the same place at once')
        .env('WALKEEP_MAX_BACKUPS_PER_STORE')
        .argParser(parseCount),
    )
    .addOption(
      new Option('--max-backups-per-host <number>', 'how many backups may run on this host at once')
        .env('WALKEEP_MAX_BACKUPS_PER_HOST')
        .argParser(parseCount),
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
      new Option('--temporal-metrics <address>', 'where Temporal’s own metrics (temporal_…) are served')
        .env('WALKEEP_TEMPORAL_METRICS')
        .argParser(parseAddress),
    )
    .addOption(
      new Option('--grace <seconds>', 'time that running work has after SIGTERM')
        .argParser(parseSeconds)
        .default(10),
    )
    .addHelpText(
      'after',
      '\nPostgreSQL is found by libpq’s environment (PGHOST, PGPORT, PGUSER, PGPASSFILE, PGSERVICE …), Temporal by its own\n' +
        '(TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS_…, TEMPORAL_PROFILE, temporal.toml). With\n' +
        'WALKEEP_PAYLOAD_KEY_FILE all that Temporal stores is encrypted. Logs are JSON lines on standard error.\n' +
        '\nExamples:\n' +
        '  walkeep worker --cluster production-postgres --instance production-postgres-1 --pgdata /var/lib/postgresql/17/main\n' +
        '  walkeep worker --cluster restored --instance restored-1 --pgdata /srv/restored    waits for a restore\n' +
        '  walkeep worker --queue deletion                                                   no PostgreSQL: see BackupPolicy\n',
    )
    .action(run);
}

async function run(options: WorkerCommandOptions): Promise<void> {
  const shared: ProcessOptions = {
    queues: options.queue,
    metrics: options.metrics,
    graceMs: options.grace * 1000,
    caps: {
      ...(options.maxBackupsPerStore !== undefined && { perStore: options.maxBackupsPerStore }),
      ...(options.maxBackupsPerHost !== undefined && { perHost: options.maxBackupsPerHost }),
    },
    environment: process.env,
    version: walkeepVersion(),
    ...(options.temporalMetrics !== undefined && { temporalMetrics: options.temporalMetrics }),
    ...(options.state !== undefined && { stateDirectory: options.state }),
    ...(options.secrets !== undefined && { secretsDirectory: options.secrets }),
  };
  const worker = await start(options, shared);
  await signalled();
  await worker.stop();
}

/** Loading Temporal takes longer than saying what is wrong: the options are looked at first. */
async function start(options: WorkerCommandOptions, shared: ProcessOptions): Promise<RunningWorker> {
  const { cluster, queue } = options;
  const [first, ...others] = queue;
  if (cluster === undefined && first !== undefined) {
    const { runQueueWorker } = await import('../workers/queue-worker.ts');
    return runQueueWorker({ ...shared, queues: [first, ...others] });
  }
  const { instance, pgdata } = options;
  if (cluster === undefined || instance === undefined || pgdata === undefined) {
    const missing = Object.entries({ cluster, instance, pgdata }).filter(([, value]) => value === undefined);
    throw new BackupError('usage', `missing: ${missing.map(([name]) => `--${name}`).join(', ')}`, {
      hint: 'a worker has a PostgreSQL (--cluster, --instance, --pgdata) or is only for the queues it is told (--queue)',
    });
  }
  if (!/^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$/.test(instance)) {
    throw new BackupError(
      'usage',
      `not a name of an instance: "${instance}" (letters, digits, "-", "." and "_")`,
    );
  }
  const { runWorker } = await import('../workers/main.ts');
  return runWorker({
    ...shared,
    namespace: cluster.namespace ?? options.namespace,
    cluster: cluster.cluster,
    instance,
    pgdata: path.resolve(pgdata),
  });
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (Number.isFinite(seconds) && seconds >= 0) return seconds;
  throw new BackupError('usage', `expected a number of seconds, got "${text}"`);
}

function parseCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count > 0) return count;
  throw new BackupError('usage', `expected a number from 1, got "${text}"`);
}

/** A task queue of the operator's own: walkeep's have their workers. */
function parseQueue(name: string): string {
  if (name === WORKFLOW_QUEUE || name.startsWith(`${WORKFLOW_QUEUE}/`)) {
    throw new BackupError('usage', `the queue "${name}" is walkeep's own: choose a name like "deletion"`);
  }
  if (/^[\x21-\x7e]{1,200}$/.test(name)) return name;
  throw new BackupError('usage', `not a name of a task queue: "${name}" (1 to 200 visible characters)`);
}
