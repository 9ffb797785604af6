import { BackupError, isBackupError } from '../core/errors.ts';
import type { Besides, HeldBesides } from '../manifests/desire.ts';
import type { BackupPolicyManifest } from '../manifests/backup-policy.ts';
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
): Promise<Besides> {
  const { problem, ...besides } = await readHeld(state, namespace, cluster);
  if (problem === undefined) return besides;
  throw new BackupError('config-invalid', problem, {
    hint: 'apply it again: without its rules nothing is decided, and nothing is deleted',
  });
}

/** As `readBesides`, with a problem in the place of what can't be read. */
export async function readHeld(
  state: StateDirectory,
  namespace: string,
  cluster: string,
): Promise<HeldBesides> {
  const [policy, schedules, verifications] = await Promise.all([
    readPolicy(state, namespace, cluster),
    state.scheduledBackups.list(namespace),
    state.scheduledVerifications.list(namespace),
  ]);
  return {
    ...policy,
    schedules: manifests(schedules).filter(({ spec }) => spec.cluster.name === cluster),
    verifications: manifests(verifications).filter(({ spec }) => spec.cluster.name === cluster),
  };
}

/**
 * One that waits here for the cluster, else its keeper's: whenever a keeper stores something, what waited is handed over,
 * so what waits is newer. One that can't be read may be the cluster's.
 */
async function readPolicy(
  state: StateDirectory,
  namespace: string,
  cluster: string,
): Promise<{ policy?: BackupPolicyManifest; problem?: string }> {
  const waiting = await state.backupPolicies.list(namespace);
  const newest = waitingFor(waiting, cluster);
  if (newest) return { policy: newest };
  const own = (await state.clusterPolicies.list(namespace)).find(({ name }) => name === cluster);
  if (own?.applied) return { policy: own.applied.manifest.policy };
  const damaged = own ?? waiting.find(({ applied }) => applied === undefined);
  if (damaged) {
    const which = own ? `of the cluster "${cluster}"` : `"${damaged.name}"`;
    const why = damaged.problem ?? 'it is damaged';
    return { problem: `the BackupPolicy ${which} kept on this host can't be read: ${why}` };
  }
  return {};
}

function waitingFor(
  waiting: readonly Listed<BackupPolicyManifest>[],
  cluster: string,
): BackupPolicyManifest | undefined {
  return manifests(waiting).find(({ spec }) => spec.clusters.includes(cluster));
}

/** Keeps a cluster's policy apart from those of others that this directory serves. */
export async function keepPolicy(
  state: StateDirectory,
  namespace: string,
  cluster: string,
  policy: BackupPolicyManifest,
): Promise<void> {
  await saveOver(state.clusterPolicies, { metadata: { namespace, name: cluster }, policy });
}

/** Makes true what the keeper declares about a cluster: keeps it, and removes what was declared before and is not among it. */
export async function storeBesides(
  state: StateDirectory,
  namespace: string,
  cluster: string,
  wanted: Besides,
): Promise<void> {
  if (wanted.policy) await keepPolicy(state, namespace, cluster, wanted.policy);
  for (const schedule of wanted.schedules) await saveOver(state.scheduledBackups, schedule);
  for (const verification of wanted.verifications) await saveOver(state.scheduledVerifications, verification);

  if (!wanted.policy) await state.clusterPolicies.remove(namespace, cluster);
  await takeFromWaiting(state, namespace, cluster, wanted.policy?.metadata.name);
  const held = await readHeld(state, namespace, cluster);
  await forget(state.scheduledBackups, held.schedules, wanted.schedules);
  await forget(state.scheduledVerifications, held.verifications, wanted.verifications);
}

/** A policy that waited for this cluster waits no longer; it stays for the others it names. */
export async function takeFromWaiting(
  state: StateDirectory,
  namespace: string,
  cluster: string,
  replaced?: string,
): Promise<void> {
  const shelf = state.backupPolicies;
  for (const { name, applied } of await shelf.list(namespace)) {
    if (!applied) {
      if (name === replaced) await shelf.remove(namespace, name);
      continue;
    }
    const { manifest } = applied;
    if (!manifest.spec.clusters.includes(cluster)) continue;
    const others = manifest.spec.clusters.filter((one) => one !== cluster);
    await (others.length === 0
      ? shelf.remove(namespace, name)
      : shelf.save({ ...manifest, spec: { ...manifest.spec, clusters: others } }));
  }
}

/**
 * What was applied on this host while its cluster had no keeper. Where a worker has stored the cluster in this directory
 * its schedules and verifications lie among the worker's, and the keeper asks that for them.
 */
export async function readWaiting(
  state: StateDirectory,
  namespace: string,
  cluster: string,
): Promise<Besides> {
  const isWorkers = (await state.clusters.list(namespace)).some(({ name }) => name === cluster);
  if (!isWorkers) return readBesides(state, namespace, cluster);
  const policy = waitingFor(await state.backupPolicies.list(namespace), cluster);
  return { ...(policy && { policy }), schedules: [], verifications: [] };
}

/** What waited was handed over: here it would only grow old. */
export async function forgetWaiting(
  state: StateDirectory,
  namespace: string,
  cluster: string,
): Promise<void> {
  const { schedules, verifications } = await readWaiting(state, namespace, cluster);
  await forget(state.scheduledBackups, schedules, []);
  await forget(state.scheduledVerifications, verifications, []);
  await takeFromWaiting(state, namespace, cluster);
}

interface Named {
  readonly metadata: { readonly namespace: string; readonly name: string };
}

/** The keeper knows what was declared: a damaged file is replaced. */
async function saveOver<Manifest extends Named>(
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
