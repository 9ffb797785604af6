import type {
  BackupReference,
  BaseBackupPorts,
  CopiedBackupInput,
  CopyBackupInput,
  RecordOutcomeInput,
} from '../activities/base-backup.ts';
import type { BackupStatus } from '../core/backup-status.ts';
import { BackupError, isBackupError } from '../core/errors.ts';
import { formatLsn } from '../core/lsn.ts';
import { parseRate } from '../core/rate.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { encryptionOf } from '../manifests/object-store-arguments.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import type { BackupCounts } from '../operations/metrics.ts';
import { codecOf, openRepository, resolveClusterAccess } from '../operations/open-repository.ts';
import { unlessRotated } from '../operations/rotated-secret.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import {
  confirmBackup,
  copyBackup,
  discardBackup,
  recordBackup,
  type BackupPorts,
  type Progress,
  type TakeBackupInput,
} from '../operations/take-backup.ts';
import type { ConnectionSettings } from '../postgres/connection.ts';
import type { BackupInfo } from '../repository/backup-info.ts';
import { listBackups } from '../repository/catalogue.ts';
import { readOutcome, writeOutcome } from '../repository/outcome.ts';
import type { Repository } from '../repository/repository.ts';
import type { Log } from './log.ts';
import { findPrimary } from './primary.ts';

export interface BackupWorkerPorts {
  readonly pgdata: string;
  readonly version: string;
  readonly environment: NodeJS.ProcessEnv;
  readonly resolver: SecretResolver;
  readonly jobs: JobRegistry;
  readonly askServer: () => Promise<void>;
  readonly log: Log;
  readonly postgres: () => ConnectionSettings;
}

/** The operations of a backup, bound to this host's PostgreSQL, its secrets, and the repository a manifest names. */
export function createBackupPorts(worker: BackupWorkerPorts): {
  ports: BaseBackupPorts;
  counts: () => BackupCounts;
} {
  const counter = new CopyCounter();

  /** Everything is opened for one step and closed after it, so that rotated secrets are used from the next one on. */
  const withRepository = async <Result>(
    { manifest }: { manifest: ClusterManifest },
    work: (ports: BackupPorts, repository: Repository) => Promise<Result>,
  ): Promise<Result> => {
    const access = await resolveClusterAccess(manifest, worker.resolver);
    const repository = openRepository(access);
    try {
      const ports = {
        postgres: worker.postgres(),
        store: access.config,
        repository: async () => repository,
        walkeepVersion: worker.version,
      };
      return await work(ports, repository);
    } catch (error) {
      const resolve = () => resolveClusterAccess(manifest, worker.resolver);
      throw await unlessRotated(error, access, resolve, 'backup-interrupted');
    } finally {
      await repository.close();
    }
  };
  const withServer = async (ports: BackupPorts): Promise<BackupPorts> => {
    const primary = await findPrimary(ports.postgres, worker.environment, worker.log);
    return primary ? { ...ports, primary } : ports;
  };

  const ports: BaseBackupPorts = {
    jobs: worker.jobs,
    askServer: worker.askServer,

    findOutcome: (backup, signal) =>
      withRepository(backup, (_, repository) => findOutcome(repository, backup, signal)),

    copy: (input, { signal, onProgress, wishes }) =>
      counter.count(onProgress, (report) =>
        withRepository(input, async (opened) =>
          copyBackup(await withServer(opened), takeBackupInput(input, worker.pgdata), {
            signal,
            onProgress: report,
            wishes,
          }),
        ),
      ),

    confirm: ({ copied, walDeadline, ...input }, signal) =>
      withRepository(input, async (opened) =>
        confirmBackup(await withServer(opened), copied, { signal, deadlineMs: walDeadline * 1000 }),
      ),

    record: (input, signal) =>
      withRepository(input, async (opened, repository) => {
        await requireNameFree(repository, input, signal);
        return {
          ...(await recordBackup(opened, input.copied, { signal })),
          ...placeOf(input, repository),
        };
      }),

    discard: (backup, backupId) => withRepository(backup, (opened) => discardBackup(opened, backupId)),

    writeOutcome: (input, signal) =>
      withRepository(input, (_, repository) => saveOutcome(repository, input, signal)),
  };
  return { ports, counts: () => counter.counts() };
}

/** What the manifest says about base backups, with this instance's data directory. */
export function takeBackupInput(input: CopyBackupInput, pgdata: string): TakeBackupInput {
  const store = input.manifest.spec.backup?.barmanObjectStore;
  const { compression, jobs = 2 } = store?.data ?? {};
  const encryption = encryptionOf(store, 'data');
  const { limits } = input;
  return {
    cluster: input.cluster,
    namespace: input.namespace,
    instance: input.instance,
    backupName: input.backupName,
    immediateCheckpoint: input.immediateCheckpoint,
    // What the policy says holds for all that a cluster does; the manifest says what this store is good at.
    jobs: limits?.jobs ?? jobs,
    ...(limits?.maxRate && { maxBytesPerSecond: parseRate(limits.maxRate) }),
    ...(limits && { nice: limits.nice }),
    codec: codecOf(compression),
    ...(encryption === undefined ? {} : { encryption }),
    ...(store?.tags === undefined ? {} : { tags: store.tags }),
    pgdata,
  };
}

/**
 * How a Backup of this name ended: by its outcome, or by the record of the backup itself, which counts more. So the
 * loss of everything but the repository makes nothing run twice.
 */
async function findOutcome(
  repository: Repository,
  backup: BackupReference,
  signal: AbortSignal,
): Promise<BackupStatus | undefined> {
  const outcome = await readOutcome(repository, backup.backupName, signal);
  // What we wrote ourselves; the record checks that it is an object, and nothing is decided by more than its phase.
  const status = outcome?.status as BackupStatus | undefined;
  if (status?.phase === 'completed') return status;
  const entries = await listBackups(repository, signal);
  const recorded = entries.find(
    ({ info }) => info?.backupName === backup.backupName && info.status === 'DONE',
  );
  return recorded?.info ? { ...statusOf(recorded.info), ...placeOf(backup, repository) } : status;
}

/**
 * A name counts once, also for two runs that were started under different workflow ids (F1).
 *
 * @throws BackupError `already-exists`
 */
async function requireNameFree(
  repository: Repository,
  { backupName, copied }: CopiedBackupInput,
  signal: AbortSignal,
): Promise<void> {
  const entries = await listBackups(repository, signal);
  const other = entries.find(
    ({ backupId, info }) =>
      info?.backupName === backupName && info.status === 'DONE' && backupId !== copied.backupId,
  );
  if (!other) return;
  throw new BackupError(
    'already-exists',
    `the Backup "${backupName}" was completed meanwhile, by another run, as ${other.backupId}`,
    { hint: 'nothing of this run was kept; a Backup has a name of its own' },
  );
}

function statusOf(info: BackupInfo): BackupStatus {
  return {
    phase: 'completed',
    backupId: info.backupId,
    ...(info.backupName !== undefined && { backupName: info.backupName }),
    ...(info.beginTime && { startedAt: inSeconds(info.beginTime) }),
    ...(info.endTime && { stoppedAt: inSeconds(info.endTime) }),
    ...(info.beginWal !== undefined && { beginWal: info.beginWal }),
    ...(info.endWal !== undefined && { endWal: info.endWal }),
    ...(info.beginLsn !== undefined && { beginLSN: formatLsn(info.beginLsn) }),
    ...(info.endLsn !== undefined && { endLSN: formatLsn(info.endLsn) }),
    ...(info.version !== undefined && { majorVersion: Math.floor(info.version / 10_000) }),
    online: true,
  };
}

/** Where the backup is and who took it, as CloudNativePG shows it. */
function placeOf(
  { manifest, ...input }: BackupReference & Partial<Pick<CopiedBackupInput, 'instance'>>,
  repository: Repository,
): Partial<BackupStatus> {
  const store = manifest.spec.backup?.barmanObjectStore;
  const encryption = encryptionOf(store, 'data');
  return {
    method: 'barmanObjectStore',
    serverName: repository.server,
    ...(store && { destinationPath: store.destinationPath }),
    ...(store?.endpointURL !== undefined && { endpointURL: store.endpointURL }),
    ...(encryption !== undefined && { encryption }),
    ...(input.instance !== undefined && { instanceID: { podName: input.instance } }),
  };
}

/** A name ends once: the first outcome stays, except that success, once recorded, wins over a failure. */
async function saveOutcome(
  repository: Repository,
  input: RecordOutcomeInput,
  signal: AbortSignal,
): Promise<void> {
  const { backupName, cluster, namespace, status, metadata } = input;
  const earlier = await readOutcome(repository, backupName, signal);
  if (earlier && (earlier.status['phase'] === 'completed' || status.phase !== 'completed')) return;
  const outcome = {
    version: 1 as const,
    backupName,
    cluster,
    namespace,
    status: { ...status },
    ...(metadata && { metadata }),
    recordedAt: new Date().toISOString(),
  };
  try {
    await writeOutcome(repository, outcome, { mode: earlier ? 'replace' : 'create', signal });
  } catch (error) {
    // Another attempt of the same step was faster.
    if (!isBackupError(error, 'already-exists')) throw error;
  }
}

/** What the metrics show of copies. */
class CopyCounter {
  readonly #running = new Set<{ progress?: Progress }>();
  #completed = 0;
  #failed = 0;
  #lastCompletedAt: number | undefined;
  #lastFailedAt: number | undefined;

  async count<Result>(
    onProgress: (progress: Progress) => void,
    copy: (report: (progress: Progress) => void) => Promise<Result>,
  ): Promise<Result> {
    const entry: { progress?: Progress } = {};
    this.#running.add(entry);
    try {
      const result = await copy((progress) => {
        entry.progress = progress;
        onProgress(progress);
      });
      this.#completed += 1;
      this.#lastCompletedAt = Date.now();
      return result;
    } catch (error) {
      this.#failed += 1;
      this.#lastFailedAt = Date.now();
      throw error;
    } finally {
      this.#running.delete(entry);
    }
  }

  counts(): BackupCounts {
    const progress = [...this.#running].map((entry) => entry.progress).filter((known) => known !== undefined);
    return {
      running: this.#running.size,
      doneBytes: progress.reduce((sum, { doneBytes }) => sum + doneBytes, 0),
      totalBytes: progress.reduce((sum, { totalBytes }) => sum + totalBytes, 0),
      completed: this.#completed,
      failed: this.#failed,
      ...(this.#lastCompletedAt !== undefined && { lastCompletedAt: this.#lastCompletedAt }),
      ...(this.#lastFailedAt !== undefined && { lastFailedAt: this.#lastFailedAt }),
    };
  }
}

/** RFC 3339 without a fraction, as Kubernetes has times. */
function inSeconds(time: Date): string {
  return `${time.toISOString().slice(0, 19)}Z`;
}
