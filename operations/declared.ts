import { BackupError } from '../core/errors.ts';
import type { Desire } from '../manifests/desire.ts';
import type { Listed, ManifestShelf, StateDirectory } from './state-directory.ts';

/**
 * What is declared about a cluster besides itself, as this host's state directory has it.
 *
 * @throws BackupError `config-invalid` when a BackupPolicy can't be read: without its rules too much would be deleted
 */
export async function readBesides(
  state: StateDirectory,
  namespace: string,
  cluster: string,
): Promise<Omit<Desire, 'cluster'>> {
  const [policies, schedules, verifications] = await Promise.all([
    state.backupPolicies.list(namespace),
    state.scheduledBackups.list(namespace),
    state.scheduledVerifications.list(namespace),
  ]);
  const [damaged] = policies.filter(({ applied }) => applied === undefined);
  if (damaged) {
    throw new BackupError(
      'config-invalid',
      `the BackupPolicy "${damaged.name}" kept on this host can't be read: ${damaged.problem ?? 'it is damaged'}`,
      { hint: 'apply it again: without its rules nothing is decided, and nothing is deleted' },
    );
  }
  const policy = manifests(policies).find(({ spec }) => spec.clusters.includes(cluster));
  return {
    ...(policy && { policy }),
    schedules: manifests(schedules).filter(({ spec }) => spec.cluster.name === cluster),
    verifications: manifests(verifications).filter(({ spec }) => spec.cluster.name === cluster),
  };
}

/** Removes what was declared about a cluster before and is not among `wanted`. A policy of other clusters stays theirs. */
export async function forgetBesides(
  state: StateDirectory,
  namespace: string,
  cluster: string,
  wanted: Omit<Desire, 'cluster'>,
): Promise<void> {
  const held = await readBesides(state, namespace, cluster);
  if (held.policy && held.policy.metadata.name !== wanted.policy?.metadata.name) {
    const others = held.policy.spec.clusters.filter((name) => name !== cluster);
    const shelf = state.backupPolicies;
    await (others.length === 0
      ? shelf.remove(namespace, held.policy.metadata.name)
      : shelf.save({ ...held.policy, spec: { ...held.policy.spec, clusters: others } }));
  }
  await forget(state.scheduledBackups, held.schedules, wanted.schedules);
  await forget(state.scheduledVerifications, held.verifications, wanted.verifications);
}

interface Named {
  readonly metadata: { readonly namespace: string; readonly name: string };
}

async function forget<Manifest extends Named>(
  shelf: ManifestShelf<Manifest>,
  held: readonly Manifest[],
  wanted: readonly Manifest[],
): Promise<void> {
  const names = new Set(wanted.map(({ metadata }) => metadata.name));
  for (const { metadata } of held)
    if (!names.has(metadata.name)) await shelf.remove(metadata.namespace, metadata.name);
}

function manifests<Manifest>(listed: readonly Listed<Manifest>[]): Manifest[] {
  return listed.flatMap(({ applied }) => (applied ? [applied.manifest] : []));
}
