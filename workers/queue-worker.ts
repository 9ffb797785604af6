import path from 'node:path';
import { BackupError } from '../core/errors.ts';
import { JobRegistry } from '../operations/job-registry.ts';
import { createMetrics } from '../operations/metrics.ts';
import { createSecretResolver } from '../operations/secret-resolver.ts';
import { findStateDirectory, openStateDirectory } from '../operations/state-directory.ts';
import { serveHealth } from './http.ts';
import { createLog } from './log.ts';
import type { RunningWorker } from './main.ts';
import { DEFAULT_METRICS, environmentOf, type QueueWorkerOptions } from './options.ts';
import { startQueueSide } from './temporal-side.ts';

/**
 * Starts a worker without a PostgreSQL: it takes work from the queues it was told, such as deleting what retention let
 * go or verifying by restoring, where the credentials for that are. What it works on comes with each piece of work.
 */
export async function runQueueWorker(options: QueueWorkerOptions): Promise<RunningWorker> {
  const { queues, version } = options;
  const environment = environmentOf(options);
  const log = createLog({ queues: queues.join(',') }, environment['WALKEEP_LOG_LEVEL']);
  const stopping = new AbortController();
  const stateDirectory = path.resolve(options.stateDirectory ?? (await findStateDirectory(environment)));
  const jobs = new JobRegistry();
  const temporal = startQueueSide({
    options,
    environment,
    state: openStateDirectory(stateDirectory),
    resolver: createSecretResolver({ stateDirectory, environment }),
    jobs,
    stopping: stopping.signal,
    log,
  });
  const health = () => ({ healthy: true, temporalConnected: temporal.connected });
  const details = () => ({
    queues,
    temporal: temporal.connected ? 'connected' : 'away',
    running: jobs.running(),
  });
  const served = await serveHealth(
    options.metrics ?? DEFAULT_METRICS,
    {
      registry: createMetrics({ version, labels: { queues: queues.join(',') }, health }),
      health: () => ({ healthy: true, ready: temporal.connected, details: details() }),
    },
    log,
  );
  return {
    healthAddress: () => served.address(),
    async stop() {
      log.info({ running: jobs.running() }, 'stopping');
      stopping.abort();
      await temporal.stop();
      await jobs.stopAll(new BackupError('backup-interrupted', 'the worker stops'));
      await served.close();
      log.info('stopped');
    },
  };
}
