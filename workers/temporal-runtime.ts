import { Runtime, type RuntimeOptions } from '@temporalio/worker';
import { messageOf } from '../core/errors.ts';
import { temporalLogger, type Log } from './log.ts';
import type { Address } from './options.ts';

/**
 * Sets Temporal's native part up, once a process: its logs go through ours, and signals are the caller's. Its own
 * metrics (`temporal_…`) are served where somebody asked for them; a port that is taken costs the metrics, not the
 * worker.
 */
export function installRuntime(log: Log, metrics?: Address): void {
  const options: RuntimeOptions = {
    logger: temporalLogger(log),
    shutdownSignals: [],
    telemetryOptions: { logging: { filter: { core: 'WARN', other: 'ERROR' }, forward: {} } },
  };
  if (metrics && installWithMetrics(options, metrics, log)) return;
  try {
    Runtime.install(options);
  } catch (error) {
    log.debug({ error }, 'the runtime of Temporal was installed before');
  }
}

function installWithMetrics(options: RuntimeOptions, { host, port }: Address, log: Log): boolean {
  const bindAddress = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const prometheus = {
    bindAddress,
    countersTotalSuffix: true,
    unitSuffix: true,
    useSecondsForDurations: true,
  };
  try {
    Runtime.install({
      ...options,
      telemetryOptions: { ...options.telemetryOptions, metrics: { prometheus } },
    });
    log.info({ address: bindAddress }, 'serving Temporal’s metrics');
    return true;
  } catch (error) {
    log.error(
      { reason: messageOf(error) },
      `Temporal’s metrics can not be served on ${bindAddress}; there are none until the worker is started again`,
    );
    return false;
  }
}
