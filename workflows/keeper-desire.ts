import { BackupError } from '../core/errors.ts';
import { fingerprint } from '../core/fingerprint.ts';
import type { Desire } from '../manifests/desire.ts';
import type { AppliedObject, ApplyInput, RemovedObject } from './interface.ts';

/** How many of one kind a cluster may have. */
export const MOST = 10;

interface Named {
  readonly metadata: { readonly name: string };
  readonly spec: { readonly cluster: { readonly name: string } };
}

/**
 * What `apply` does to what is declared beside the Cluster, and what it answers for each object.
 *
 * @throws BackupError `manifest-invalid` when something can't be applied; then nothing is
 */
export function applyBesides(
  desire: Desire,
  input: ApplyInput,
): { readonly desire: Desire; readonly objects: readonly AppliedObject[] } {
  const cluster = desire.cluster.metadata.name;
  const objects: AppliedObject[] = [];
  let next = desire;
  for (const manifest of input.scheduledBackups ?? []) {
    requireCluster('ScheduledBackup', manifest, cluster);
    const { list, outcome } = put('ScheduledBackup', next.schedules, manifest);
    next = { ...next, schedules: list };
    objects.push({ kind: 'ScheduledBackup', name: manifest.metadata.name, outcome });
  }
  if (input.policy) {
    const { name } = input.policy.metadata;
    if (!input.policy.spec.clusters.includes(cluster))
      throw refused(`BackupPolicy "${name}": field "spec.clusters" does not name "${cluster}"`);
    const held = next.policy;
    if (held && held.metadata.name !== name) {
      throw new BackupError(
        'manifest-invalid',
        `BackupPolicy "${name}": "${cluster}" has the BackupPolicy "${held.metadata.name}" already, and a cluster has at most one`,
        { hint: `remove the other one first: walkeep delete backuppolicy ${held.metadata.name}` },
      );
    }
    objects.push({ kind: 'BackupPolicy', name, outcome: outcomeOf(held, input.policy) });
    next = { ...next, policy: input.policy };
  }
  for (const manifest of input.verifications ?? []) {
    requireCluster('ScheduledVerification', manifest, cluster);
    const { list, outcome } = put('ScheduledVerification', next.verifications, manifest);
    next = { ...next, verifications: list };
    objects.push({ kind: 'ScheduledVerification', name: manifest.metadata.name, outcome });
  }
  for (const removed of input.remove ?? []) {
    const { desire: without, outcome } = remove(next, removed);
    next = without;
    objects.push({ ...removed, outcome });
  }
  return { desire: next, objects };
}

function requireCluster(kind: string, { metadata, spec }: Named, cluster: string): void {
  if (spec.cluster.name === cluster) return;
  throw refused(
    `${kind} "${metadata.name}": field "spec.cluster.name": expected "${cluster}", got "${spec.cluster.name}"`,
  );
}

function put<Manifest extends Named>(
  kind: string,
  list: readonly Manifest[],
  manifest: Manifest,
): { readonly list: readonly Manifest[]; readonly outcome: AppliedObject['outcome'] } {
  const { name } = manifest.metadata;
  const held = list.find((one) => one.metadata.name === name);
  if (!held && list.length >= MOST) throw refused(`${kind} "${name}": a cluster has at most ${MOST}`);
  const others = list.filter((one) => one !== held);
  return {
    list: [...others, manifest].toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1)),
    outcome: outcomeOf(held, manifest),
  };
}

function outcomeOf(held: unknown, applied: unknown): AppliedObject['outcome'] {
  if (held === undefined) return 'created';
  return fingerprint(held) === fingerprint(applied) ? 'unchanged' : 'configured';
}

/** Taking back what is not there changes nothing. */
function remove(
  desire: Desire,
  { kind, name }: RemovedObject,
): { readonly desire: Desire; readonly outcome: 'deleted' | 'unchanged' } {
  const { policy, ...rest } = desire;
  const others = <Manifest extends { readonly metadata: { readonly name: string } }>(
    list: readonly Manifest[],
  ) => list.filter(({ metadata }) => metadata.name !== name);
  const next: Desire =
    kind === 'BackupPolicy'
      ? policy?.metadata.name === name
        ? rest
        : desire
      : kind === 'ScheduledBackup'
        ? { ...desire, schedules: others(desire.schedules) }
        : { ...desire, verifications: others(desire.verifications) };
  return { desire: next, outcome: fingerprint(next) === fingerprint(desire) ? 'unchanged' : 'deleted' };
}

function refused(message: string): BackupError {
  return new BackupError('manifest-invalid', message);
}
