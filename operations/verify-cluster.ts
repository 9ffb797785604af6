import { join } from 'node:path';
import { BackupError } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import {
  scheduledVerificationSchema,
  type ScheduledVerificationManifest,
} from '../manifests/scheduled-verification.ts';
import { WALKEEP_API } from '../manifests/backup-policy.ts';
import { openRepository, resolveClusterAccess } from './open-repository.ts';
import { RECOVERY_FILE, referenceTo } from './recovery-file.ts';
import type { SecretResolver } from './secret-resolver.ts';
import { verifyBackup, type VerifyOptions, type VerifyOutcome, type VerifyRequest } from './verify-backup.ts';
import { recoveryCommandLine } from './wal-command-lines.ts';

/** What a verification takes of the host it is done on. */
export interface VerificationHost {
  readonly resolver: SecretResolver;
  /** Scratch directories are below it, unless another place is given; `wal-fetch` finds keys there. */
  readonly stateDirectory: string;
  readonly secretsDirectory?: string | undefined;
  /** The data directory of the production server on this host, if there is one. */
  readonly pgdata?: string | undefined;
  /** Where PostgreSQL's programs are, when somebody has said it. */
  readonly binDirectory?: string | undefined;
  readonly instance: string;
  readonly walkeepVersion: string;
}

/** Verifies a backup of a cluster on this host. @throws as `verifyBackup`, and what opening its repository says */
export async function verifyCluster(
  host: VerificationHost,
  manifest: ClusterManifest,
  request: VerifyRequest,
  options: VerifyOptions,
): Promise<VerifyOutcome> {
  const store = manifest.spec.backup?.barmanObjectStore;
  const { name, namespace } = manifest.metadata;
  if (!store) {
    throw new BackupError(
      'manifest-invalid',
      `Cluster ${namespace}/${name} has no spec.backup.barmanObjectStore`,
    );
  }
  const access = await resolveClusterAccess(manifest, host.resolver);
  const repository = openRepository(access);
  const { stateDirectory, secretsDirectory, pgdata, binDirectory, instance, walkeepVersion } = host;
  try {
    return await verifyBackup(
      {
        repository,
        store: access.config,
        reference: referenceTo(store, name, namespace),
        restoreCommand: (socketPath) =>
          recoveryCommandLine({ recoveryFile: RECOVERY_FILE, stateDirectory, secretsDirectory, socketPath }),
        scratchRoot: join(stateDirectory, 'walkeep-scratch'),
        pgdata,
        binDirectory,
        instance,
        walkeepVersion,
      },
      request,
      options,
    );
  } finally {
    await repository.close();
  }
}

/** What a ScheduledVerification says that says nothing. */
export function defaultVerificationRules(cluster: string): ScheduledVerificationManifest['spec'] {
  return scheduledVerificationSchema.parse({
    apiVersion: WALKEEP_API,
    kind: 'ScheduledVerification',
    metadata: { name: 'by-hand' },
    spec: { cluster: { name: cluster }, schedule: '0 0 4 * * 0' },
  }).spec;
}
