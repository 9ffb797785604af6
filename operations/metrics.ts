import { Counter, Gauge, Registry, type Metric } from 'prom-client';
import type { ProtectionAges } from './protection-ages.ts';
import type { WalAgentStatus } from './wal-agent.ts';

/** What the metrics are read from, at the moment they are asked for. Nothing here depends on Temporal. */
export interface MetricsSources {
  readonly version: string;
  /** On every value: namespace, cluster and instance, where there is one. */
  readonly labels: Readonly<Record<string, string>>;
  readonly health: () => { readonly healthy: boolean; readonly temporalConnected: boolean };
  /** Only of a worker next to a PostgreSQL. */
  readonly database?: DatabaseSources;
}

interface DatabaseSources {
  /** `undefined` while no agent runs: no data directory yet. */
  readonly archive: () => Promise<WalAgentStatus | undefined>;
  readonly backups: () => BackupCounts;
  /** What the repository says, whoever wrote it; `undefined` before it was read. */
  readonly protection?: () => ProtectionAges | undefined;
}

/** Base backups that this process has taken since it started. Times in ms since 1970. */
export interface BackupCounts {
  readonly running: number;
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly completed: number;
  readonly failed: number;
  readonly lastCompletedAt?: number;
  readonly lastFailedAt?: number;
}

/** A registry of its own: names begin with `walkeep_`, every value has the labels. */
export function createMetrics(sources: MetricsSources): Registry {
  const registry = new Registry();
  registry.setDefaultLabels(sources.labels);
  gauge(registry, 'walkeep_build_info', 'version of this worker', ['version'], (metric) =>
    metric.set({ version: sources.version }, 1),
  );
  gauge(registry, 'walkeep_healthy', '1 when the worker does what it is there for', [], (metric) =>
    metric.set(sources.health().healthy ? 1 : 0),
  );
  gauge(registry, 'walkeep_temporal_connected', '1 while the worker is connected to Temporal', [], (metric) =>
    metric.set(sources.health().temporalConnected ? 1 : 0),
  );
  if (sources.database) {
    backupMetrics(registry, sources.database);
    archiveMetrics(registry, sources.database);
    if (sources.database.protection) protectionMetrics(registry, sources.database.protection);
  }
  return registry;
}

function backupMetrics(registry: Registry, { backups }: DatabaseSources): void {
  gauge(registry, 'walkeep_backups_running', 'base backups that are copied at this moment', [], (metric) =>
    metric.set(backups().running),
  );
  gauge(registry, 'walkeep_backup_progress_bytes', 'of the base backup that runs', ['kind'], (metric) => {
    const { doneBytes, totalBytes } = backups();
    metric.set({ kind: 'done' }, doneBytes);
    metric.set({ kind: 'total' }, totalBytes);
  });
  counter(
    registry,
    'walkeep_backup_copies_total',
    'copies that ended since the worker started',
    ['outcome'],
    (metric) => {
      metric.inc({ outcome: 'completed' }, backups().completed);
      metric.inc({ outcome: 'failed' }, backups().failed);
    },
  );
  gauge(
    registry,
    'walkeep_backup_last_success_timestamp_seconds',
    'end of the last good copy here; 0: none yet',
    [],
    (metric) => metric.set((backups().lastCompletedAt ?? 0) / 1000),
  );
  gauge(
    registry,
    'walkeep_backup_last_failure_timestamp_seconds',
    'end of the last failed copy here; 0: none yet',
    [],
    (metric) => metric.set((backups().lastFailedAt ?? 0) / 1000),
  );
}

/** What an alert needs to see that nothing happens any more: it needs neither a schedule nor Temporal. */
function protectionMetrics(registry: Registry, ages: () => ProtectionAges | undefined): void {
  const times = [
    ['newest_backup', 'end of the newest backup in the repository that counts', 'newestBackupAt'],
    ['newest_proof', 'end of the newest verification that succeeded', 'newestProvenAt'],
    ['protection_read', 'when the repository was looked at last', 'readAt'],
  ] as const;
  for (const [name, help, field] of times) {
    gauge(
      registry,
      `walkeep_${name}_timestamp_seconds`,
      `${help}; absent: none, or not known yet`,
      [],
      (metric) => {
        const at = ages()?.[field];
        // 0 would be an age of decades.
        if (at === undefined) metric.remove();
        else metric.set(at / 1000);
      },
    );
  }
}

function archiveMetrics(registry: Registry, { archive }: DatabaseSources): void {
  counter(
    registry,
    'walkeep_archive_answers_total',
    'answers to archive_command and restore_command',
    ['answer'],
    async (metric) => {
      for (const [answer, count] of Object.entries((await archive())?.answers ?? {}))
        metric.inc({ answer }, count);
    },
  );
  counter(
    registry,
    'walkeep_archive_uploads_total',
    'WAL files stored, and uploads that failed',
    ['outcome'],
    async (metric) => {
      const uploads = (await archive())?.uploads;
      metric.inc({ outcome: 'stored' }, uploads?.files ?? 0);
      metric.inc({ outcome: 'failed' }, uploads?.failed ?? 0);
    },
  );
  counter(
    registry,
    'walkeep_archive_repaired_total',
    'copies in the archive that were damaged, and were replaced by what pg_wal has',
    [],
    async (metric) => metric.inc((await archive())?.uploads.repaired ?? 0),
  );
  counter(registry, 'walkeep_archive_bytes_total', 'bytes of WAL stored', ['kind'], async (metric) => {
    const uploads = (await archive())?.uploads;
    metric.inc({ kind: 'plain' }, uploads?.plainBytes ?? 0);
    metric.inc({ kind: 'stored' }, uploads?.storedBytes ?? 0);
  });
  gauge(
    registry,
    'walkeep_archive_waiting',
    'what PostgreSQL waits to have archived: the lag',
    ['kind'],
    async (metric) => {
      const waiting = (await archive())?.waiting;
      if (!waiting) return;
      metric.set({ kind: 'files' }, waiting.files);
      metric.set({ kind: 'segments' }, waiting.segments);
    },
  );
  gauge(
    registry,
    'walkeep_archive_last_success_timestamp_seconds',
    '0: none since the worker started',
    [],
    async (metric) => metric.set(secondsOf((await archive())?.lastArchived?.at)),
  );
  gauge(
    registry,
    'walkeep_archive_last_failure_timestamp_seconds',
    '0: none since the worker started',
    [],
    async (metric) => metric.set(secondsOf((await archive())?.lastFailure?.at)),
  );
  gauge(
    registry,
    'walkeep_archive_agent_running',
    '1 while the agent answers archive_command',
    [],
    async (metric) => metric.set((await archive()) ? 1 : 0),
  );
  registry.registerMetric(pushDurations(archive));
}

/** The agent counts durations itself; prom-client's own histogram can't take counts over. */
function pushDurations(archive: DatabaseSources['archive']): Metric {
  const name = 'walkeep_archive_push_duration_seconds';
  const snapshot = async () => {
    const latency = (await archive())?.pushLatency;
    const buckets = (latency?.upToMs ?? []).map((ms, index) => ({
      metricName: `${name}_bucket`,
      labels: { le: ms / 1000 },
      value: latency?.counts[index] ?? 0,
    }));
    const count = latency?.count ?? 0;
    return {
      name,
      help: 'from the question of archive_command to the answer',
      type: 'histogram',
      aggregator: 'sum',
      values: [
        ...buckets,
        { metricName: `${name}_bucket`, labels: { le: '+Inf' }, value: count },
        { metricName: `${name}_sum`, labels: {}, value: (latency?.sumMs ?? 0) / 1000 },
        { metricName: `${name}_count`, labels: {}, value: count },
      ],
    };
  };
  // All that a registry asks of a metric is its name and `get`.
  return { name, get: snapshot, reset: () => {} } as unknown as Metric;
}

function gauge<Label extends string>(
  registry: Registry,
  name: string,
  help: string,
  labelNames: readonly Label[],
  read: (metric: Gauge<Label>) => void | Promise<void>,
): void {
  const metric = new Gauge<Label>({
    name,
    help,
    labelNames: [...labelNames],
    registers: [],
    collect() {
      this.reset();
      return read(this);
    },
  });
  registry.registerMetric(metric);
}

function counter<Label extends string>(
  registry: Registry,
  name: string,
  help: string,
  labelNames: readonly Label[],
  read: (metric: Counter<Label>) => void | Promise<void>,
): void {
  const metric = new Counter<Label>({
    name,
    help,
    labelNames: [...labelNames],
    registers: [],
    collect() {
      // Counted elsewhere since the start of the process; here it is only shown.
      this.reset();
      return read(this);
    },
  });
  registry.registerMetric(metric);
}

function secondsOf(time: string | undefined): number {
  return time === undefined ? 0 : new Date(time).getTime() / 1000;
}
