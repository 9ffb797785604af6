import { hostname } from 'node:os';
import type { RestoreVerificationPorts } from '../activities/restore-verification.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import type { StateDirectory } from '../operations/state-directory.ts';
import { verifyCluster } from '../operations/verify-cluster.ts';
import { writeVerification } from '../repository/verifications.ts';

export interface VerificationWorkerPorts {
  readonly state: StateDirectory;
  readonly resolver: SecretResolver;
  readonly environment: NodeJS.ProcessEnv;
  readonly jobs: JobRegistry;
  readonly askServer: () => Promise<void>;
  /** A worker next to a PostgreSQL names it: the scratch space is not to be on that one's disk. */
  readonly options: {
    readonly instance?: string;
    readonly pgdata?: string;
    readonly version: string;
  };
}

/** Verifications on this worker's host, of the repository that a manifest names. */
export function createVerificationPorts(worker: VerificationWorkerPorts): RestoreVerificationPorts {
  const { state, resolver, environment, jobs, askServer, options: own } = worker;
  return {
    jobs,
    askServer,

    findRules: async (namespace, name) =>
      (await state.scheduledVerifications.read(namespace, name))?.manifest,

    verify: ({ manifest, request }, options) =>
      verifyCluster(
        {
          resolver,
          stateDirectory: state.root,
          secretsDirectory: environment['WALKEEP_SECRETS_DIR'],
          pgdata: own.pgdata,
          binDirectory: environment['WALKEEP_POSTGRES_BIN'],
          instance: own.instance ?? hostname(),
          walkeepVersion: own.version,
        },
        manifest,
        request,
        options,
      ),

    async record({ manifest, verification }, signal) {
      const repository = await openClusterRepository(manifest, resolver);
      try {
        await writeVerification(repository, verification, signal);
      } finally {
        await repository.close();
      }
    },
  };
}
