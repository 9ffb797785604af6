import { mergeBackups, type ListedBackup } from '../core/backup-list.ts';
import { isTerminalPhase, type BackupStatus } from '../core/backup-status.ts';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { formatLsn } from '../core/lsn.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import type { BackupInfo } from '../repository/backup-info.ts';
import { listOutcomes } from '../repository/backup-record.ts';
import { listBackups, type CatalogueEntry } from '../repository/catalogue.ts';
import {
  backupStatusQuery,
  clusterStatusQuery,
  clusterWorkflowId,
  SEARCH_ATTRIBUTE,
  WORKFLOW,
  type CopyProgress,
  type KnownBackup,
  type RunningBackupStatus,
} from '../workflows/interface.ts';
import type { BackupMetadata } from '../repository/outcome.ts';
import { findCluster, listClusters, type Host } from './host.ts';
import { knownClustersAtBest } from './keepers.ts';
import { progressOf } from './progress.ts';
import type { TemporalClient } from './temporal-client.ts';

/** A Backup with what its object carried beside its name, as far as its outcome says. */
export interface NamedBackup extends ListedBackup {
  readonly metadata?: BackupMetadata;
}

/** Backups from everywhere they can be known from, and what could not be asked. */
export interface KnownBackups {
  readonly backups: readonly NamedBackup[];
  /** One sentence for each source that did not answer: the list may lack what only it knows. */
  readonly silent: readonly string[];
  /** Why a repository could not be read. It is the record: a list without it proves no absence. */
  readonly unread?: unknown;
}

const READ_MS = 60_000;
const ASK_MS = 4_000;

/** The record (repositories) and the motion (Temporal), of one cluster or of all in a namespace. */
export async function findBackups(host: Host, namespace: string, cluster?: string): Promise<KnownBackups> {
  const silent: string[] = [];
  const { manifests, unknown } =
    cluster === undefined
      ? await manifestsOf(host, namespace)
      : { manifests: await manifestOf(host, namespace, cluster), unknown: [] };
  // Side by side: a store that does not answer is waited for, and several would be one after the other.
  const read = await Promise.allSettled(manifests.map((manifest) => readRecorded(host, manifest)));
  const recorded = read.flatMap((one) => (one.status === 'fulfilled' ? one.value : []));
  let unread: unknown;
  for (const { name, reason } of unknown) {
    unread ??= reason;
    silent.push(`the manifest of ${name}: ${adviceOf(reason)}`);
  }
  for (const [index, one] of read.entries()) {
    if (one.status === 'fulfilled') continue;
    unread ??= one.reason;
    silent.push(`the repository of ${manifests[index]?.metadata.name ?? ''}: ${adviceOf(one.reason)}`);
  }
  let moving: ListedBackup[] = [];
  try {
    moving = await readMoving(host, namespace, cluster, [
      ...manifests.map(({ metadata }) => metadata.name),
      ...unknown.map(({ name }) => name),
    ]);
  } catch (error) {
    silent.push(`Temporal: ${messageOf(error)}`);
  }
  const carried = new Map(recorded.map((backup) => [keyOf(backup), backup.metadata]));
  const backups = mergeBackups(recorded, moving).map((backup): NamedBackup => {
    const metadata = carried.get(keyOf(backup));
    return metadata ? { ...backup, metadata } : backup;
  });
  return { backups, silent, ...(unread !== undefined && { unread }) };
}

function keyOf({ namespace, cluster, name }: ListedBackup): string {
  return `${namespace}/${cluster}/${name}`;
}

/** The phase as people read it: CloudNativePG's words, and `running, paused`. */
export function phaseOf({ status }: ListedBackup): string {
  const paused = !isTerminalPhase(status.phase) && (status as Partial<RunningBackupStatus>).control?.paused;
  return paused ? `${status.phase}, paused` : status.phase;
}

/** How far a backup that runs has come, as its worker said last. */
export function progressIn({ status }: ListedBackup): CopyProgress | undefined {
  return (status as Partial<RunningBackupStatus>).progress;
}

function adviceOf(error: unknown): string {
  return isBackupError(error) ? `${error.message}; ${error.hint}` : messageOf(error);
}

/**
 * The backups of that name or id.
 *
 * @throws BackupError `backup-unknown` when every repository says so; else why one could not be asked
 */
export function requireNamed(
  { backups, unread }: KnownBackups,
  namespace: string,
  name: string,
): NamedBackup[] {
  const found = backups.filter((backup) => backup.name === name || backup.status.backupId === name);
  if (found.length > 0) return found;
  const absent = `there is no Backup "${name}" in namespace ${namespace}`;
  if (unread === undefined) throw new BackupError('backup-unknown', absent);
  const code = isBackupError(unread) ? unread.code : 'store-unavailable';
  throw new BackupError(code, `whether there is a Backup "${name}" is not known: ${messageOf(unread)}`, {
    cause: unread,
    ...(isBackupError(unread) && { hint: unread.hint }),
  });
}

async function manifestOf(host: Host, namespace: string, cluster: string): Promise<ClusterManifest[]> {
  return [(await findCluster(host, namespace, cluster)).manifest];
}

/** A cluster that has a keeper, which does not say its manifest: where its backups are is not known. */
interface UnknownManifest {
  readonly name: string;
  readonly reason: unknown;
}

/** Of this host, and of every cluster that was applied elsewhere and has a keeper: a list without theirs would be a part. */
async function manifestsOf(
  host: Host,
  namespace: string,
): Promise<{ readonly manifests: ClusterManifest[]; readonly unknown: readonly UnknownManifest[] }> {
  const manifests = await listClusters(host, namespace);
  const here = new Set(manifests.map(({ metadata }) => metadata.name));
  let others: readonly string[] = [];
  try {
    const known = await knownClustersAtBest(host, await host.temporal(), namespace);
    others = known.filter((name) => !here.has(name));
  } catch {
    // That Temporal is away is said where it is asked for what runs.
  }
  const asked = await Promise.allSettled(others.map((name) => findCluster(host, namespace, name)));
  const unknown: UnknownManifest[] = [];
  for (const [index, one] of asked.entries()) {
    if (one.status === 'fulfilled') manifests.push(one.value.manifest);
    else unknown.push({ name: others[index] ?? '', reason: one.reason });
  }
  return { manifests, unknown };
}

async function readRecorded(host: Host, manifest: ClusterManifest): Promise<NamedBackup[]> {
  if (!manifest.spec.backup?.barmanObjectStore) return [];
  const repository = await openClusterRepository(manifest, host.resolver);
  const signal = AbortSignal.timeout(READ_MS);
  const { namespace, name: cluster } = manifest.metadata;
  try {
    const [entries, outcomes] = await Promise.all([
      listBackups(repository, signal),
      listOutcomes(repository, signal),
    ]);
    const destination = manifest.spec.backup.barmanObjectStore;
    const fromCatalogue = entries.map((entry): ListedBackup =>
      listedEntry(entry, namespace, cluster, destination, repository.server),
    );
    const named = new Set(fromCatalogue.map(({ name }) => name));
    const carried = new Map(outcomes.map(({ backupName, metadata }) => [backupName, metadata]));
    const withMetadata = (backup: ListedBackup): NamedBackup => {
      const metadata = carried.get(backup.name);
      return metadata ? { ...backup, metadata } : backup;
    };
    const failed = outcomes
      .filter(({ backupName, status }) => !named.has(backupName) && status['phase'] !== 'completed')
      .map((outcome): ListedBackup => ({
        namespace,
        cluster,
        name: outcome.backupName,
        method: 'barmanObjectStore',
        status: asStatus(outcome.status),
        heardFrom: 'repository',
      }));
    return [...fromCatalogue, ...failed].map(withMetadata);
  } finally {
    await repository.close();
  }
}

function listedEntry(
  entry: CatalogueEntry,
  namespace: string,
  cluster: string,
  destination: { readonly destinationPath: string; readonly endpointURL?: string | undefined },
  serverName: string,
): ListedBackup {
  const { info, backupId, problem, keep } = entry;
  return {
    namespace,
    cluster,
    name: info?.backupName ?? backupId,
    method: 'barmanObjectStore',
    status: info
      ? statusOf(info, destination, serverName)
      : { phase: 'failed', backupId, error: problem ?? 'unreadable record' },
    heardFrom: 'repository',
    ...(keep && { keep }),
    ...(problem !== undefined && { problem }),
  };
}

/** A barman record as CloudNativePG shows it. Done means that both times are there and that barman says DONE. */
function statusOf(
  info: BackupInfo,
  destination: { readonly destinationPath: string; readonly endpointURL?: string | undefined },
  serverName: string,
): BackupStatus {
  const done = info.status === 'DONE';
  const running = info.status === 'STARTED' || info.status === 'EMPTY' || info.status === 'SYNCING';
  return {
    phase: done ? 'completed' : running ? 'running' : 'failed',
    method: 'barmanObjectStore',
    backupId: info.backupId,
    ...(info.backupName !== undefined && { backupName: info.backupName }),
    ...(info.beginTime && { startedAt: wholeSeconds(info.beginTime) }),
    ...(info.endTime && { stoppedAt: wholeSeconds(info.endTime) }),
    ...(info.beginWal !== undefined && { beginWal: info.beginWal }),
    ...(info.endWal !== undefined && { endWal: info.endWal }),
    ...(info.beginLsn !== undefined && { beginLSN: formatLsn(info.beginLsn) }),
    ...(info.endLsn !== undefined && { endLSN: formatLsn(info.endLsn) }),
    ...(info.error !== undefined && { error: info.error }),
    ...(info.version !== undefined && { majorVersion: Math.floor(info.version / 10_000) }),
    destinationPath: destination.destinationPath,
    serverName,
    ...(destination.endpointURL !== undefined && { endpointURL: destination.endpointURL }),
  };
}

function wholeSeconds(time: Date): string {
  return `${time.toISOString().slice(0, 19)}Z`;
}

/** An outcome's status was written by us, and read from a place where others may write. */
function asStatus(status: Readonly<Record<string, unknown>>): BackupStatus {
  const texts = Object.fromEntries(
    Object.entries(status).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
  const phase = texts['phase'];
  return { ...texts, phase: phase === 'completed' ? 'completed' : 'failed' };
}

async function readMoving(
  host: Host,
  namespace: string,
  cluster: string | undefined,
  clusters: readonly string[],
): Promise<ListedBackup[]> {
  const temporal = await host.temporal();
  const found: ListedBackup[] = [];
  // What the keepers remember: also what waits and what ended while the repository does not answer.
  for (const name of clusters) {
    const status = await temporal
      .call(
        'ask the keeper',
        (client) => client.workflow.getHandle(clusterWorkflowId(namespace, name)).query(clusterStatusQuery),
        ASK_MS,
      )
      .catch(() => undefined);
    for (const known of status?.backups ?? []) found.push(fromKeeper(known, namespace, name));
  }
  const running = await temporal.call('list running backups', async (client) => {
    const query = `WorkflowType = '${WORKFLOW.baseBackup}' AND ExecutionStatus = 'Running'`;
    const runs: { workflowId: string; cluster?: string; name: string; startTime: Date }[] = [];
    for await (const run of client.workflow.list({ query })) {
      const attributes = run.typedSearchAttributes;
      if (attributes.get(SEARCH_ATTRIBUTE.namespace) !== namespace) continue;
      const of = attributes.get(SEARCH_ATTRIBUTE.cluster);
      const name = attributes.get(SEARCH_ATTRIBUTE.backup);
      if (name === undefined) continue;
      runs.push({
        workflowId: run.workflowId,
        name,
        startTime: run.startTime,
        ...(of !== undefined && { cluster: of }),
      });
    }
    return runs;
  });
  for (const run of running) {
    if (cluster !== undefined && run.cluster !== cluster) continue;
    const [status, progress] = await Promise.all([
      temporal
        .call(
          'ask a backup',
          (client) => client.workflow.getHandle(run.workflowId).query(backupStatusQuery),
          ASK_MS,
        )
        .catch(() => undefined),
      readProgress(temporal, run.workflowId),
    ]);
    const told: BackupStatus = {
      ...(status ?? { phase: 'running' as const }),
      ...(progress && { progress }),
    };
    if (isTerminalPhase(told.phase)) continue;
    found.push({
      namespace,
      cluster: run.cluster ?? '',
      name: run.name,
      method: told.method ?? 'barmanObjectStore',
      status: { startedAt: wholeSeconds(run.startTime), ...told },
      heardFrom: 'motion',
    });
  }
  return found;
}

/** What the copy's heartbeats say: no query of the workflow shows it. */
async function readProgress(temporal: TemporalClient, workflowId: string): Promise<CopyProgress | undefined> {
  const report = await temporal
    .call(
      'look at a backup',
      async (client) => progressOf(client, await client.workflow.getHandle(workflowId).describe()),
      ASK_MS,
    )
    .catch(() => undefined);
  if (!report || report.totalBytes <= 0) return undefined;
  const { doneBytes, totalBytes, bytesPerSecond = 0, eta } = report;
  return { doneBytes, totalBytes, bytesPerSecond, ...(eta !== undefined && { eta }) };
}

function fromKeeper(known: KnownBackup, namespace: string, cluster: string): ListedBackup {
  const { name, ...status } = known;
  return { namespace, cluster, name, method: 'barmanObjectStore', status, heardFrom: 'motion' };
}
