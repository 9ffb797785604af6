import { hostname } from 'node:os';
import type { RetentionSweepPorts, SweepInput } from '../activities/retention-sweep.ts';
import { defaultPolicy } from '../manifests/desire.ts';
import { sweepRules, type SweepRules } from '../operations/gather-retention.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import { planSweep, sweep } from '../operations/sweep.ts';
import type { Repository } from '../repository/repository.ts';

export interface SweepWorkerPorts {
  readonly resolver: SecretResolver;
  readonly jobs: JobRegistry;
  readonly askServer: () => Promise<void>;
}

/** Sweeps of the repository that a manifest names, with the keys of this worker. */
export function createSweepPorts({ resolver, jobs, askServer }: SweepWorkerPorts): RetentionSweepPorts {
  return {
    jobs,
    askServer,
    plan: (input, signal) =>
      withRepository(input, resolver, (repository, rules) => planSweep(repository, rules, { signal })),
    perform: (input, { signal, onProgress }) =>
      withRepository(input, resolver, (repository, rules) =>
        sweep(repository, rules, {
          signal,
          onProgress,
          holder: `the run ${input.runId} of sweep/${input.namespace}/${input.cluster} on ${hostname()}`,
        }),
      ),
  };
}

async function withRepository<Result>(
  { manifest, policy, hasPolicy }: SweepInput,
  resolver: SecretResolver,
  work: (repository: Repository, rules: SweepRules) => Promise<Result>,
): Promise<Result> {
  const repository = await openClusterRepository(manifest, resolver);
  try {
    return await work(
      repository,
      sweepRules(
        manifest,
        policy ?? defaultPolicy(manifest.metadata.name),
        hasPolicy && policy !== undefined,
      ),
    );
  } finally {
    await repository.close();
  }
}
