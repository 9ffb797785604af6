import type { ClusterPorts, ClusterReference, InstanceFacts } from '../activities/cluster.ts';
import { BackupError } from '../core/errors.ts';
import { readHeld, storeBesides } from '../operations/declared.ts';
import type { StateDirectory } from '../operations/state-directory.ts';
import type { Log } from './log.ts';
import { paceFrom } from './pace.ts';

export interface ClusterPortsParts {
  /** The cluster this worker serves. */
  readonly own: ClusterReference;
  readonly environment: NodeJS.ProcessEnv;
  readonly state: StateDirectory;
  readonly facts: () => Promise<InstanceFacts>;
  readonly log: Log;
}

/** What was declared about this worker's cluster, kept in its state directory. */
export function createClusterPorts({ own, environment, state, facts, log }: ClusterPortsParts): ClusterPorts {
  return {
    readManifest: ({ namespace, cluster }) => state.clusters.read(namespace, cluster),
    readHeld: ({ namespace, cluster }) => readHeld(state, namespace, cluster),
    async writeManifest({ manifest, revision, besides, ...reference }) {
      requireOwn(reference, own);
      // The cluster last: what reports that it holds a revision holds all of it.
      if (besides) await storeBesides(state, reference.namespace, reference.cluster, besides);
      const saved = await state.clusters.save(manifest, { revision });
      log.info({ revision: saved.revision, outcome: saved.outcome }, 'manifest stored');
    },
    instanceFacts: facts,
    pace: (policy) => paceFrom(environment, policy),
  };
}

function requireOwn(asked: ClusterReference, own: ClusterReference): void {
  if (asked.namespace === own.namespace && asked.cluster === own.cluster) return;
  throw new BackupError(
    'config-invalid',
    `this worker serves "${own.namespace}/${own.cluster}", not "${asked.namespace}/${asked.cluster}"`,
  );
}
