import { join } from 'node:path';
import type { AuditPorts } from '../activities/wal-audit.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { auditArchive } from '../operations/audit-archive.ts';
import { openArchiveTarget } from '../operations/cluster-archive.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { repairWal } from '../operations/repair-wal.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import { readControlData } from '../postgres/control-data.ts';
import type { Log } from './log.ts';

export interface AuditWorkerPorts {
  readonly instance: string;
  /** May be missing: an instance that waits for a restore has no WAL of its own. */
  readonly pgdata: string;
  readonly hasDataDirectory: () => boolean;
  readonly resolver: SecretResolver;
  readonly jobs: JobRegistry;
  readonly askServer: () => Promise<void>;
  readonly log: Log;
}

/** Audits and repairs, bound to the repository a manifest names and to this host's `pg_wal`. */
export function createAuditPorts(worker: AuditWorkerPorts): AuditPorts {
  return {
    jobs: worker.jobs,
    askServer: worker.askServer,

    async audit({ manifest, read, round, readBefore }, options) {
      const repository = await openClusterRepository(manifest, worker.resolver);
      try {
        return await auditArchive(repository, { read, round, readBefore }, options);
      } finally {
        await repository.close();
      }
    },

    async repair({ manifest, damages }, { signal, onProgress }) {
      if (!worker.hasDataDirectory()) return [];
      return repairFrom(worker, manifest, (ports) =>
        repairWal(ports, damages, {
          signal,
          onProgress: (done, total) => onProgress({ phase: 'repairing', done, total }),
        }),
      );
    },
  };
}

/** The same storage, keys and identity as `wal-push` has here. */
async function repairFrom<Result>(
  { instance, pgdata, resolver, log }: AuditWorkerPorts,
  manifest: ClusterManifest,
  work: (ports: Parameters<typeof repairWal>[0]) => Promise<Result>,
): Promise<Result> {
  const { repository, storage } = await openArchiveTarget(manifest, resolver);
  try {
    return await work({
      ...storage,
      instance,
      repository: () => Promise.resolve(repository),
      pgWalDirectory: join(pgdata, 'pg_wal'),
      identity: () => readControlData(pgdata),
      alert: (message) => log.warn({ instance }, message),
    });
  } finally {
    await repository.close();
  }
}
