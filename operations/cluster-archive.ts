import { createHash } from 'node:crypto';
import { existsSync, realpathSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { BackupError } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { encryptionOf } from '../manifests/object-store-arguments.ts';
import type { Repository } from '../repository/repository.ts';
import { createArchiveSource, type ArchiveSource, type ArchiveTarget } from './archive-source.ts';
import { fetchWal, type FetchedWal, type FetchPlan } from './fetch-wal.ts';
import { codecOf, openClusterRepository } from './open-repository.ts';
import { openReference, readRecoveryFile, RECOVERY_FILE, type RecoveryFile } from './recovery-file.ts';
import type { SecretResolver } from './secret-resolver.ts';
import { requireCluster, type StateDirectory } from './state-directory.ts';

/** Which cluster, as it is applied on this host. */
export interface ClusterArchivePorts {
  readonly state: StateDirectory;
  readonly resolver: SecretResolver;
  readonly namespace: string;
  readonly cluster: string;
}

/** Where a cluster's WAL goes, as the manifest applied on this host says at each moment. */
export function createClusterArchiveSource({
  state,
  resolver,
  namespace,
  cluster,
}: ClusterArchivePorts): ArchiveSource {
  return createArchiveSource(async () => {
    const { manifest, revision, appliedAt } = await requireCluster(state, namespace, cluster);
    return {
      revision: String(revision),
      key: `${revision} ${appliedAt}`,
      open: () => openArchiveTarget(manifest, resolver),
    };
  });
}

/** @throws BackupError `manifest-invalid` | `secret-missing` | `not-yet` */
export async function openArchiveTarget(
  manifest: ClusterManifest,
  resolver: SecretResolver,
): Promise<Omit<ArchiveTarget, 'revision'>> {
  const repository = await openClusterRepository(manifest, resolver);
  const store = manifest.spec.backup?.barmanObjectStore;
  const { maxParallel = 1, compression } = store?.wal ?? {};
  const encryption = encryptionOf(store, 'wal');
  return {
    repository,
    maxParallel,
    storage: {
      codec: codecOf(compression),
      ...(encryption === undefined ? {} : { encryption }),
      ...(store?.tags === undefined ? {} : { tags: store.tags }),
      ...(store?.historyTags === undefined ? {} : { historyTags: store.historyTags }),
    },
  };
}

/**
 * The agent's socket for a data directory. It depends on nothing else, so that the line in PostgreSQL's settings
 * finds it whatever the instance is called; it is short, since a socket's path may have 107 bytes.
 */
export function agentSocketPath(runDirectory: string, pgdata: string): string {
  const name = createHash('sha256')
    .update(realPath(resolve(pgdata)))
    .digest('hex')
    .slice(0, 12);
  return join(runDirectory, `wal-${name}.sock`);
}

/** Of a directory that may not be there yet: a restore will make it. */
function realPath(path: string): string {
  if (existsSync(path) || path === dirname(path)) return realpathSync(path);
  return join(realPath(dirname(path)), basename(path));
}

/** Where a recovery's WAL comes from, and what its plan allows. */
export interface FetchSource {
  readonly repository: Repository;
  readonly plan?: FetchPlan;
}

/** @throws BackupError `config-invalid` | `secret-missing` | `not-yet` */
export async function openRecoverySource(file: RecoveryFile, resolver: SecretResolver): Promise<FetchSource> {
  const repository = await openReference(file.repository, resolver);
  return { repository, ...(file.plan && { plan: file.plan }) };
}

/**
 * How an agent fetches for the data directory it serves: by the plan of the recovery that is going on in it, or, for
 * a standby, from the cluster's own archive.
 */
export function createWalFetcher(
  ports: ClusterArchivePorts & {
    readonly pgdata: string;
    readonly source: ArchiveSource;
    readonly alert?: (message: string) => void;
  },
): (fileName: string, destination: string, options: { readonly signal: AbortSignal }) => Promise<FetchedWal> {
  let recovery: { readonly text: string; readonly source: Promise<FetchSource> } | undefined;
  const open = async (): Promise<FetchSource & { readonly asksAgain?: boolean }> => {
    // what a restore left lies there for ever; it counts only while its recovery goes on
    const isRecovery = existsSync(join(ports.pgdata, 'recovery.signal'));
    const file = isRecovery ? await readRecoveryFile(join(ports.pgdata, RECOVERY_FILE)) : undefined;
    if (isRecovery && !file) {
      // moved away, or a recovery by hand: only the line in restore_command knows from where
      throw new BackupError('not-yet', `${ports.pgdata} is in a recovery without ${RECOVERY_FILE}`, {
        hint: 'the full client in restore_command fetches by itself',
      });
    }
    if (!file) return { repository: (await ports.source.current()).repository, asksAgain: true };
    const text = JSON.stringify(file);
    if (recovery?.text !== text) {
      recovery = { text, source: openRecoverySource(file, ports.resolver) };
      recovery.source.catch(() => (recovery = undefined));
    }
    return recovery.source;
  };
  return async (fileName, destination, options) => {
    const { repository, plan, asksAgain = false } = await open();
    const { alert } = ports;
    const from = { repository: () => Promise.resolve(repository), plan, asksAgain, alert };
    return fetchWal(from, fileName, destination, options);
  };
}
