import { hostname } from 'node:os';
import type { ClusterReference } from '../activities/cluster.ts';
import type { RetentionSweepPorts, SweepInput } from '../activities/retention-sweep.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import { openRepository, resolveClusterAccess } from '../operations/open-repository.ts';
import { rememberPolicy, rulesFor, type DeclaredNow } from '../operations/policy-memory.ts';
import { wasRotated } from '../operations/rotated-secret.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import { DeclarationWatch, type Heard } from '../operations/sweep-declared.ts';
import { planSweep, sweep } from '../operations/sweep.ts';
import type { Repository } from '../repository/repository.ts';
import type { DesireAnswer } from '../workflows/interface.ts';

export interface SweepWorkerPorts {
  readonly resolver: SecretResolver;
  readonly jobs: JobRegistry;
  readonly askServer: () => Promise<void>;
  /** @returns what the cluster's keeper declares now; `undefined`: it has none @throws when a keeper does not answer */
  readonly askKeeper: (cluster: ClusterReference) => Promise<DesireAnswer | undefined>;
  /** In ms, from any beginning: how long a keeper has been silent. */
  readonly now?: () => number;
}

/**
 * Sweeps of the repository that a manifest names, with the keys of this worker, by the rules that hold now: what the
 * workflow was begun with may be old by the time, and other workers may hold what is older still.
 */
export function createSweepPorts({
  resolver,
  jobs,
  askServer,
  askKeeper,
  now,
}: SweepWorkerPorts): RetentionSweepPorts {
  return {
    jobs,
    askServer,
    async plan(input, signal) {
      const declared = await declaredFor(input, askKeeper);
      return withRepository(declared, resolver, async (repository) => {
        const planned = await planSweep(repository, await rulesFor(repository, declared, signal), { signal });
        // Also when there is nothing to do: once the policy is lost it is too late.
        if (!input.dryRun) await rememberPolicy(repository, declared, planned.report, signal);
        return planned;
      });
    },
    async perform(input, { signal, onProgress }) {
      const declared = await declaredFor(input, askKeeper);
      const watch = new DeclarationWatch(declared.desire, now);
      return withRepository(declared, resolver, async (repository) =>
        sweep(repository, await rulesFor(repository, declared, signal), {
          signal,
          onProgress,
          holder: `the run ${input.runId} of sweep/${input.namespace}/${input.cluster} on ${hostname()}`,
          stillDeclared: async () => watch.whatChanged(await answerOf(askKeeper, input)),
        }),
      );
    },
  };
}

async function declaredFor(
  { manifest, policy: _told, ...reference }: SweepInput,
  askKeeper: SweepWorkerPorts['askKeeper'],
): Promise<DeclaredNow> {
  const answer = await askKeeper(reference);
  if (answer) {
    const { doubt, removed, unplaced: _held, ...desire } = answer;
    return { desire, ...(doubt !== undefined && { doubt }), ...(removed && { removed }) };
  }
  const doubt = `the Cluster ${reference.namespace}/${reference.cluster} is not applied any more, so nobody declares what may be deleted`;
  return { desire: { cluster: manifest }, doubt };
}

/** While it deletes, a keeper that does not answer is no news for some minutes: it may be between two workers. */
async function answerOf(
  askKeeper: SweepWorkerPorts['askKeeper'],
  reference: ClusterReference,
): Promise<Heard> {
  return askKeeper(reference).then(
    (answer) => answer ?? 'gone',
    () => 'silent',
  );
}

async function withRepository<Result>(
  { desire }: DeclaredNow,
  resolver: SecretResolver,
  work: (repository: Repository) => Promise<Result>,
): Promise<Result> {
  const resolve = () => resolveClusterAccess(desire.cluster, resolver);
  for (;;) {
    const access = await resolve();
    const repository = openRepository(access);
    try {
      return await work(repository);
    } catch (error) {
      // A key that was replaced meanwhile is no reason to give up: what was begun is finished with the new one.
      if (!(await wasRotated(error, access, resolve))) throw error;
    } finally {
      await repository.close();
    }
  }
}
