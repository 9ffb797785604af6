import path from 'node:path';

/** What every worker is told, wherever it runs. */
export interface ProcessOptions {
  /** The state directory; by default the one of this host. */
  readonly stateDirectory?: string;
  /** Where metrics and health are served. */
  readonly metrics?: Address;
  /** Where Temporal's own metrics are served; by default nowhere. */
  readonly temporalMetrics?: Address;
  /** Directory that holds secrets as Kubernetes mounts them. */
  readonly secretsDirectory?: string;
  /** Time that running activities have after SIGTERM, in ms. */
  readonly graceMs?: number;
  /** Further task queues to take work from: such as only needs the manifest that comes with it. */
  readonly queues?: readonly string[];
  /** How many backups may run at once in the whole fleet; no cap where nothing is said. */
  readonly caps?: FleetCaps;
  readonly environment: NodeJS.ProcessEnv;
  /** walkeep's. */
  readonly version: string;
}

/** What a worker next to a PostgreSQL is told. */
export interface WorkerOptions extends ProcessOptions {
  readonly namespace: string;
  readonly cluster: string;
  readonly instance: string;
  readonly pgdata: string;
}

/** What a worker without a PostgreSQL is told: the queues it is for. */
export interface QueueWorkerOptions extends ProcessOptions {
  readonly queues: readonly [string, ...string[]];
}

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** Caps on backups that run at once, over all clusters whose workers are told the same. */
export interface FleetCaps {
  /** Of those that write to the same place. */
  readonly perStore?: number;
  /** Of those on the same host. */
  readonly perHost?: number;
}

/** Prometheus' usual exporter of PostgreSQL has 9187. */
export const DEFAULT_METRICS: Address = { host: '127.0.0.1', port: 9188 };

/** After SIGTERM: below what service managers wait before they kill (systemd 90 s, Kubernetes 30 s). */
export const DEFAULT_GRACE_MS = 10_000;

/** The environment with what the options say in its place. */
export function environmentOf({ environment, secretsDirectory }: ProcessOptions): NodeJS.ProcessEnv {
  if (secretsDirectory === undefined) return environment;
  return { ...environment, WALKEEP_SECRETS_DIR: path.resolve(secretsDirectory) };
}
