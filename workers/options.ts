import type { Pace } from '../activities/cluster.ts';

/** What `walkeep worker` is told. */
export interface WorkerOptions {
  readonly namespace: string;
  readonly cluster: string;
  readonly instance: string;
  readonly pgdata: string;
  /** The state directory; by default the one of this host. */
  readonly stateDirectory?: string;
  /** Where metrics and health are served. */
  readonly metrics?: { readonly host: string; readonly port: number };
  /** Directory that holds secrets as Kubernetes mounts them. */
  readonly secretsDirectory?: string;
  /** Time that running activities have after SIGTERM, in ms. */
  readonly graceMs?: number;
  readonly environment: NodeJS.ProcessEnv;
  /** walkeep's. */
  readonly version: string;
}

/** Prometheus' usual exporter of PostgreSQL has 9187. */
export const DEFAULT_METRICS = { host: '127.0.0.1', port: 9188 } as const;

/** After SIGTERM: below what service managers wait before they kill (systemd 90 s, Kubernetes 30 s). */
export const DEFAULT_GRACE_MS = 10_000;

/** How often things happen when nobody says otherwise; a BackupPolicy's defaults. Seconds. */
const PACE: Pace = {
  heartbeat: 60,
  backoff: 60,
  backoffMaximum: 30 * 60,
  deadline: 12 * 3600,
  attempts: 5,
  walDeadline: 15 * 60,
  archivingReport: 3600,
};

/** `WALKEEP_PACE` (JSON, seconds) changes single values: for tests, and for people who know why. */
export function paceFrom(environment: NodeJS.ProcessEnv): Pace {
  const text = environment['WALKEEP_PACE'];
  if (!text) return PACE;
  const given: unknown = JSON.parse(text);
  if (typeof given !== 'object' || given === null) return PACE;
  const known = Object.entries(given).filter(
    ([name, value]) => name in PACE && typeof value === 'number' && value > 0,
  );
  return { ...PACE, ...Object.fromEntries(known) };
}
