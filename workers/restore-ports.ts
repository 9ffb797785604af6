import { existsSync, readdirSync } from 'node:fs';
import type { Caps } from '../activities/cluster.ts';
import type { RestorePorts, RestoreRequest } from '../activities/restore.ts';
import { bootstrapRecovery } from '../core/bootstrap-recovery.ts';
import { BackupError } from '../core/errors.ts';
import type { RecoveryTarget } from '../core/recovery.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { ExternalCluster } from '../manifests/external-cluster.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import { holdForRestore } from '../operations/hold-backup.ts';
import { openRepository, type RepositoryAccess } from '../operations/open-repository.ts';
import {
  openReference,
  RECOVERY_FILE,
  referenceTo,
  resolveReference,
  type RepositoryReference,
} from '../operations/recovery-file.ts';
import { planFromRepository } from '../operations/recovery-plan.ts';
import { RESTORE_MARKER } from '../operations/restore-targets.ts';
import { unlessRotated } from '../operations/rotated-secret.ts';
import { restore, type RestoredBackup } from '../operations/restore.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import type { StateDirectory } from '../operations/state-directory.ts';
import { recoveryCommandLine } from '../operations/wal-command-lines.ts';
import { readOutcome } from '../repository/outcome.ts';
import type { Repository } from '../repository/repository.ts';
import { parseSource, storeOfSource } from './restore-source.ts';

export interface RestoreWorkerPorts {
  readonly instance: string;
  readonly pgdata: string;
  readonly state: StateDirectory;
  readonly resolver: SecretResolver;
  readonly secretsDirectory?: string;
  readonly socketPath: () => string;
  readonly jobs: JobRegistry;
  readonly askServer: () => Promise<void>;
  /** How many backups may run at once where a restore reads; absent: no cap. */
  readonly caps?: (store: Readonly<Record<string, unknown>>) => Caps | undefined;
}

interface Source {
  readonly reference: RepositoryReference;
  readonly target: RecoveryTarget;
}

/** Recoveries into this worker's data directory. */
export function createRestorePorts(worker: RestoreWorkerPorts): RestorePorts {
  const withSource = async <Result>(
    request: RestoreRequest,
    work: (source: Source & { readonly access: RepositoryAccess }, repository: Repository) => Promise<Result>,
  ): Promise<Result> => {
    const source = await findSource(worker, request);
    const access = await resolveReference(source.reference, worker.resolver);
    const repository = openRepository(access);
    try {
      return await work({ ...source, access }, repository);
    } catch (error) {
      const resolve = () => resolveReference(source.reference, worker.resolver);
      throw await unlessRotated(error, access, resolve, 'restore-interrupted');
    } finally {
      await repository.close();
    }
  };
  return {
    jobs: worker.jobs,
    askServer: worker.askServer,

    targetState: async () => (isFree(worker.pgdata) ? 'empty' : 'occupied'),

    plan: (request, signal) =>
      withSource(request, async ({ target, reference }, repository) => {
        const plan = await planFromRepository(
          repository,
          { target, acceptEnd: request.acceptEnd },
          { signal },
        );
        const caps = worker.caps?.(reference.barmanObjectStore);
        return { plan, sourceUrl: repository.url, ...(caps && { caps }) };
      }),

    perform: (request, { plan, sourceUrl }, { signal, onProgress }) =>
      withSource(request, async ({ access, reference }, repository) => {
        const { secretsDirectory } = worker;
        const restoreCommand = recoveryCommandLine({
          recoveryFile: RECOVERY_FILE,
          stateDirectory: worker.state.root,
          secretsDirectory,
          socketPath: worker.socketPath(),
        });
        const held = await holdForRestore(repository, plan.backupId, worker.pgdata, signal);
        let restored: RestoredBackup;
        try {
          restored = await restore(
            { repository, store: access.config, restoreCommand, reference },
            { plan, targetDirectory: worker.pgdata, tablespaces: request.tablespaces },
            { signal, onProgress },
          );
        } catch (error) {
          await held.release();
          throw error;
        }
        // The recovery still reads WAL.
        await held.renew();
        return {
          backupId: restored.backupId,
          sourceUrl,
          targetTimeline: plan.targetTimeline,
          endsAt: plan.endsAt,
          instance: worker.instance,
          targetDirectory: restored.targetDirectory,
          files: restored.files,
          contentBytes: restored.contentBytes,
          storedBytes: restored.storedBytes,
          isVerified: restored.isVerified,
          warnings: [...(held.warning === undefined ? [] : [held.warning]), ...restored.warnings].slice(
            0,
            20,
          ),
        };
      }),
  };
}

/** Nothing is there, or what an interrupted restore left: that may be begun anew. */
function isFree(pgdata: string): boolean {
  if (!existsSync(pgdata)) return true;
  const names = readdirSync(pgdata).filter((name) => name !== 'lost+found');
  return names.length === 0 || names.includes(RESTORE_MARKER);
}

/** From where and to when: the place itself, a name, or what the target's own manifest says. */
async function findSource(worker: RestoreWorkerPorts, request: RestoreRequest): Promise<Source> {
  const { source, namespace, cluster, recoveryTarget: target = {} } = request;
  if (typeof source === 'object') return externalSource(worker, parseSource(source), request);
  const own = (await worker.state.clusters.read(namespace, cluster))?.manifest;
  if (source === undefined) return bootstrapSource(worker, request, own);
  const external = own?.spec.externalClusters.find((entry) => entry.name === source);
  if (external) return externalSource(worker, external, request);
  const applied = await worker.state.clusters.read(namespace, source);
  if (applied) return { reference: archiveOf(applied.manifest), target };
  throw new BackupError(
    'cluster-unknown',
    `"${source}" is neither in externalClusters of "${namespace}/${cluster}" nor applied on this host`,
    {
      hint: 'apply its manifest here, or give the source as {"name": …, "barmanObjectStore": {…}}',
    },
  );
}

async function bootstrapSource(
  worker: RestoreWorkerPorts,
  { namespace, cluster, recoveryTarget }: RestoreRequest,
  own: ClusterManifest | undefined,
): Promise<Source> {
  if (!own) {
    throw new BackupError(
      'input-invalid',
      `restore: field "source": not given, and no manifest of "${namespace}/${cluster}" is applied on this host`,
      {
        hint: 'name the cluster to restore from, or apply a manifest with bootstrap.recovery',
      },
    );
  }
  const recovery = bootstrapRecovery(own);
  const target = recoveryTarget ?? recovery.target;
  if (recovery.from === 'store') {
    return { reference: referenceTo(recovery.barmanObjectStore, recovery.serverName, namespace), target };
  }
  const origin = await clusterOfBackup(worker, namespace, recovery.backupName);
  return {
    reference: archiveOf(origin),
    target: { ...target, backupID: target.backupID ?? recovery.backupName },
  };
}

async function externalSource(
  worker: RestoreWorkerPorts,
  entry: ExternalCluster,
  { namespace, cluster, recoveryTarget: target = {} }: RestoreRequest,
): Promise<Source> {
  const store = await storeOfSource(entry, { cluster, namespace }, worker.state.objectStores);
  return { reference: referenceTo(store, entry.name, namespace), target };
}

/** Where a cluster archives to. */
function archiveOf({ metadata, spec }: ClusterManifest): RepositoryReference {
  const store = spec.backup?.barmanObjectStore;
  if (store) return referenceTo(store, metadata.name, metadata.namespace);
  throw new BackupError(
    'manifest-invalid',
    `Cluster "${metadata.name}" has no spec.backup.barmanObjectStore to restore from`,
  );
}

/** `bootstrap.recovery.backup` names a Backup; of which cluster it is, its manifest or its outcome tells. */
async function clusterOfBackup(
  worker: RestoreWorkerPorts,
  namespace: string,
  backupName: string,
): Promise<ClusterManifest> {
  const known = (await worker.state.clusters.list(namespace)).flatMap(({ applied }) =>
    applied ? [applied.manifest] : [],
  );
  const declared = (await worker.state.backups.read(namespace, backupName))?.manifest.spec.cluster.name;
  for (const manifest of known.filter(
    ({ metadata }) => declared === undefined || metadata.name === declared,
  )) {
    if (declared !== undefined || (await hasOutcome(worker, manifest, backupName))) return manifest;
  }
  throw new BackupError(
    'backup-unknown',
    `no cluster that is applied on this host has a Backup "${backupName}"`,
    {
      hint: 'name the repository instead: bootstrap.recovery.source with an entry of externalClusters',
    },
  );
}

async function hasOutcome(
  worker: RestoreWorkerPorts,
  manifest: ClusterManifest,
  backupName: string,
): Promise<boolean> {
  if (!manifest.spec.backup?.barmanObjectStore) return false;
  const repository = await openReference(archiveOf(manifest), worker.resolver);
  try {
    return (await readOutcome(repository, backupName, AbortSignal.timeout(30_000))) !== undefined;
  } finally {
    await repository.close();
  }
}
