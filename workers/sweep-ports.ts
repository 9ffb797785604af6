import { hostname } from 'node:os';
import type { ClusterReference } from '../activities/cluster.ts';
import type { RetentionSweepPorts, SweepInput } from '../activities/retention-sweep.ts';
import { fingerprint } from '../core/fingerprint.ts';
import { policyOf, type Desire } from '../manifests/desire.ts';
import { sweepRules, type SweepRules } from '../operations/gather-retention.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import { openRepository, resolveClusterAccess } from '../operations/open-repository.ts';
import { wasRotated } from '../operations/rotated-secret.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import { planSweep, sweep } from '../operations/sweep.ts';
import type { Repository } from '../repository/repository.ts';
import type { DesireAnswer } from '../workflows/interface.ts';

export interface SweepWorkerPorts {
  readonly resolver: SecretResolver;
  readonly jobs: JobRegistry;
  readonly askServer: () => Promise<void>;
  /** @returns what the cluster's keeper declares now; `undefined`: it has none @throws when a keeper does not answer */
  readonly askKeeper: (cluster: ClusterReference) => Promise<DesireAnswer | undefined>;
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
}: SweepWorkerPorts): RetentionSweepPorts {
  return {
    jobs,
    askServer,
    async plan(input, signal) {
      const declared = await declaredFor(input, askKeeper);
      return withRepository(declared, resolver, (repository, rules) =>
        planSweep(repository, rules, { signal }),
      );
    },
    async perform(input, { signal, onProgress }) {
      const declared = await declaredFor(input, askKeeper);
      return withRepository(declared, resolver, (repository, rules) =>
        sweep(repository, rules, {
          signal,
          onProgress,
          holder: `the run ${input.runId} of sweep/${input.namespace}/${input.cluster} on ${hostname()}`,
          stillDeclared: async () => whatChanged(declared, await answerOf(askKeeper, input)),
        }),
      );
    },
  };
}

/** What is declared, and why nothing may be decided by it. */
interface Declared {
  readonly desire: Pick<Desire, 'cluster' | 'policy'>;
  readonly doubt?: string;
  readonly print?: string;
}

async function declaredFor(
  { manifest, policy: _told, ...reference }: SweepInput,
  askKeeper: SweepWorkerPorts['askKeeper'],
): Promise<Declared> {
  const answer = await askKeeper(reference);
  if (answer) return { desire: answer, print: printOf(answer), ...doubtOf(answer) };
  const doubt = `the Cluster ${reference.namespace}/${reference.cluster} is not applied any more, so nobody declares what may be deleted`;
  return { desire: { cluster: manifest }, doubt };
}

function doubtOf({ doubt }: DesireAnswer): Pick<Declared, 'doubt'> {
  return doubt === undefined ? {} : { doubt };
}

/** While it deletes, a keeper that does not answer is no news: what it said at the beginning was minutes ago. */
async function answerOf(
  askKeeper: SweepWorkerPorts['askKeeper'],
  reference: ClusterReference,
): Promise<DesireAnswer | 'gone' | 'silent'> {
  return askKeeper(reference).then(
    (answer) => answer ?? 'gone',
    () => 'silent',
  );
}

function whatChanged(before: Declared, now: DesireAnswer | 'gone' | 'silent'): string | undefined {
  if (now === 'silent') return undefined;
  if (now === 'gone') return 'the Cluster was deleted meanwhile';
  if (now.doubt !== undefined) return now.doubt;
  return printOf(now) === before.print
    ? undefined
    : 'what is declared has changed meanwhile; the next sweep goes by it';
}

/** Of all that decides what stays. */
function printOf({ cluster, policy }: Pick<Desire, 'cluster' | 'policy'>): string {
  return fingerprint({ cluster, policy });
}

async function withRepository<Result>(
  { desire, doubt }: Declared,
  resolver: SecretResolver,
  work: (repository: Repository, rules: SweepRules) => Promise<Result>,
): Promise<Result> {
  const rules = {
    ...sweepRules(desire.cluster, policyOf(desire), desire.policy !== undefined),
    ...(doubt !== undefined && { doubt }),
  };
  const resolve = () => resolveClusterAccess(desire.cluster, resolver);
  for (;;) {
    const access = await resolve();
    const repository = openRepository(access);
    try {
      return await work(repository, rules);
    } catch (error) {
      // A key that was replaced meanwhile is no reason to give up: what was begun is finished with the new one.
      if (!(await wasRotated(error, access, resolve))) throw error;
    } finally {
      await repository.close();
    }
  }
}
