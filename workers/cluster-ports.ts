import type { ClusterPorts, ClusterReference, InstanceFacts } from '../activities/cluster.ts';
import { BackupError, isBackupError } from '../core/errors.ts';
import type { Desire } from '../manifests/desire.ts';
import { forgetBesides, readBesides } from '../operations/declared.ts';
import type { ManifestShelf, StateDirectory } from '../operations/state-directory.ts';
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
    readBesides: ({ namespace, cluster }) => readBesides(state, namespace, cluster),
    async writeManifest({ manifest, revision, besides, ...reference }) {
      requireOwn(reference, own);
      // The cluster last: what reports that it holds a revision holds all of it.
      if (besides) await storeBesides(state, reference, besides);
      const saved = await state.clusters.save(manifest, { revision });
      log.info({ revision: saved.revision, outcome: saved.outcome }, 'manifest stored');
    },
    instanceFacts: facts,
    pace: (policy) => paceFrom(environment, policy),
  };
}

async function storeBesides(
  state: StateDirectory,
  { namespace, cluster }: ClusterReference,
  besides: Omit<Desire, 'cluster'>,
): Promise<void> {
  if (besides.policy) await saveOver(state.backupPolicies, besides.policy);
  for (const schedule of besides.schedules) await saveOver(state.scheduledBackups, schedule);
  for (const verification of besides.verifications)
    await saveOver(state.scheduledVerifications, verification);
  await forgetBesides(state, namespace, cluster, besides);
}

/** The keeper knows what was declared: a damaged file is replaced. */
async function saveOver<Manifest extends { readonly metadata: { namespace: string; name: string } }>(
  shelf: ManifestShelf<Manifest>,
  manifest: Manifest,
): Promise<void> {
  try {
    await shelf.save(manifest);
  } catch (error) {
    if (!isBackupError(error, 'config-invalid')) throw error;
    await shelf.remove(manifest.metadata.namespace, manifest.metadata.name);
    await shelf.save(manifest);
  }
}

function requireOwn(asked: ClusterReference, own: ClusterReference): void {
  if (asked.namespace === own.namespace && asked.cluster === own.cluster) return;
  throw new BackupError(
    'config-invalid',
    `this worker serves "${own.namespace}/${own.cluster}", not "${asked.namespace}/${asked.cluster}"`,
  );
}
