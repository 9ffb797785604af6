import path from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';
import {
  agentSocketPath,
  createClusterArchiveSource,
  createWalFetcher,
} from '../operations/cluster-archive.ts';
import { JobRegistry } from '../operations/job-registry.ts';
import { readBesides } from '../operations/declared.ts';
import { createMetrics } from '../operations/metrics.ts';
import { createSecretResolver } from '../operations/secret-resolver.ts';
import { findStateDirectory, openStateDirectory } from '../operations/state-directory.ts';
import { connectionFromEnvironment } from '../postgres/connection.ts';
import { readControlData } from '../postgres/control-data.ts';
import { Archiver } from './archiver.ts';
import { createBackupPorts } from './backup-ports.ts';
import { serveHealth } from './http.ts';
import { Instance } from './instance.ts';
import { createLog } from './log.ts';
import { DEFAULT_METRICS, environmentOf, type WorkerOptions } from './options.ts';
import { keeperPaceFrom } from './pace.ts';
import { watchProtection } from './protection-watch.ts';
import { watchStore } from './store-watch.ts';
import type { TemporalSide } from './temporal-side.ts';

/** A worker that runs. */
export interface RunningWorker {
  /** Of the archiving agent, where there is one. */
  readonly socketPath?: string;
  /** Where metrics and health are served, if the port was free. */
  healthAddress(): string | undefined;
  /** Lets what runs end within its time, archiving last. */
  stop(): Promise<void>;
}

/** What the agent may take to answer what it was asked, after everything else has stopped. */
const AGENT_DRAIN_MS = 20_000;

/**
 * Starts the worker next to a PostgreSQL. The order is a promise: first what archiving needs, which is this host and
 * the store; then health; and only then anything of Temporal, which may be away for ever. It stops in the reverse
 * order.
 *
 * @throws BackupError `config-invalid` when what it was told can't be
 */
export async function runWorker(options: WorkerOptions): Promise<RunningWorker> {
  const { namespace, cluster, instance, pgdata, version } = options;
  const environment = environmentOf(options);
  const log = createLog({ namespace, cluster, instance }, environment['WALKEEP_LOG_LEVEL']);
  const stopping = new AbortController();
  let temporal: TemporalSide | undefined;
  let broken: string | undefined;
  const askServer = async () => {
    if (!temporal) throw new Error('there is no connection to Temporal yet');
    await temporal.askServer();
  };

  const stateDirectory = path.resolve(options.stateDirectory ?? (await findStateDirectory(environment)));
  const state = openStateDirectory(stateDirectory);
  const resolver = createSecretResolver({ stateDirectory, environment });
  const postgres = () => connectionFromEnvironment(environment);
  const jobs = new JobRegistry();
  const identity = new Instance({
    instance,
    pgdata,
    version,
    postgres,
    manifest: () => state.clusters.read(namespace, cluster),
    besides: () => readBesides(state, namespace, cluster),
    keeperPace: keeperPaceFrom(environment),
    hasSearchAttributes: () => temporal?.searchAttributes ?? false,
  });

  const source = createClusterArchiveSource({ state, resolver, namespace, cluster });
  // The directory's real path decides; until there is one, it is not known.
  const socketPath = () => agentSocketPath(state.runDirectory, pgdata);
  const archiver = new Archiver({
    instance,
    pgdata,
    agent: () => ({
      socketPath: socketPath(),
      pgdata,
      source,
      fetch: createWalFetcher({
        state,
        resolver,
        namespace,
        cluster,
        pgdata,
        source,
        alert: (message) => log.warn(message),
      }),
    }),
    hasDataDirectory: () => identity.hasDataDirectory(),
    role: () => identity.recentRole(),
    log,
  });
  await archiver.start();

  const backups = createBackupPorts({
    pgdata,
    version,
    environment,
    resolver,
    jobs,
    askServer,
    log,
    postgres,
  });
  const protection = watchProtection({
    manifest: () => state.clusters.read(namespace, cluster),
    resolver,
    log,
  });
  const store = watchStore({
    manifest: () => state.clusters.read(namespace, cluster),
    resolver,
    identity: () => readControlData(pgdata),
    hasDataDirectory: () => identity.hasDataDirectory(),
    log,
  });
  const healthy = () => archiver.running || !identity.hasDataDirectory();
  const connected = () => temporal?.connected ?? false;
  const registry = createMetrics({
    version,
    labels: { namespace, cluster, instance },
    health: () => ({ healthy: healthy(), temporalConnected: connected() }),
    database: {
      archive: () => archiver.status(),
      backups: backups.counts,
      protection: () => protection.ages(),
    },
  });
  const details = () => ({
    archiving: archiver.running
      ? 'listening'
      : identity.hasDataDirectory()
        ? 'not running'
        : 'no data directory yet',
    temporal: connected() ? 'connected' : (broken ?? 'away'),
    running: jobs.running(),
  });
  const health = await serveHealth(
    options.metrics ?? DEFAULT_METRICS,
    { registry, health: () => ({ healthy: healthy(), ready: connected(), details: details() }) },
    log,
  );

  try {
    // Loaded only now: nothing of Temporal, not even a native module that does not fit this host, keeps WAL waiting.
    const { startTemporalSide } = await import('./temporal-side.ts');
    temporal = startTemporalSide({
      options,
      environment,
      state,
      resolver,
      jobs,
      identity,
      archiver,
      backups: backups.ports,
      socketPath,
      stopping: stopping.signal,
      log,
    });
  } catch (error) {
    broken = `could not be started: ${messageOf(error)}`;
    log.error({ error }, 'Temporal’s part could not be started; archiving goes on without it');
  }

  return {
    get socketPath() {
      return socketPath();
    },
    healthAddress: () => health.address(),
    async stop() {
      log.info({ running: jobs.running() }, 'stopping');
      stopping.abort();
      protection.stop();
      store.stop();
      await temporal?.stop();
      await jobs.stopAll(new BackupError('backup-interrupted', 'the worker stops'));
      await health.close();
      // Last: PostgreSQL may still be archiving.
      await archiver.stop(AGENT_DRAIN_MS);
      log.info('stopped');
    },
  };
}
