import { isBackupError } from '../core/errors.ts';
import type { BackupPolicyManifest } from '../manifests/backup-policy.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { applyToKeeper } from './apply-to-keeper.ts';
import { requireYes } from './confirm.ts';
import type { Host } from './host.ts';
import { askKeeper, refuseUnheard } from './keeper-answer.ts';
import { knownClusters } from './keepers.ts';
import { note } from './output.ts';

export interface PolicyToDelete {
  readonly namespace: string;
  readonly name: string;
  /** Only its is taken back. */
  readonly cluster?: string;
  readonly yes: boolean;
}

/** A cluster whose policy is to be taken back. */
interface Holder {
  readonly cluster: string;
  /** Otherwise only this host has the policy, for when the cluster is applied. */
  readonly hasKeeper: boolean;
  readonly manifest?: ClusterManifest;
}

/**
 * Takes a BackupPolicy back from all clusters that go by it, or from one.
 *
 * @returns whether there was one
 * @throws BackupError `usage` when a window would decide alone and nobody said yes, `worker-missing` when it can't be told
 *   who goes by it; nothing was changed then
 */
export async function removePolicy(host: Host, asked: PolicyToDelete): Promise<boolean> {
  const { namespace, name } = asked;
  const waiting = await readWaiting(host, asked);
  const holders = await findHolders(host, asked, waiting);
  await requireWindows(holders, asked);
  let deleted = false;
  for (const { cluster } of holders.filter(({ hasKeeper }) => hasKeeper)) {
    const remove = [{ kind: 'BackupPolicy' as const, name }];
    const result = await applyToKeeper(await host.temporal(), namespace, cluster, { remove });
    deleted ||= result?.objects.some(({ outcome }) => outcome === 'deleted') ?? false;
  }
  // Last: as long as it is here the same command finds it again.
  return (await forgetWaiting(host, waiting, asked)) || deleted;
}

/** What this host keeps of it, for clusters that are not applied yet. */
type Waiting = BackupPolicyManifest | 'damaged' | undefined;

async function readWaiting(host: Host, { namespace, name }: PolicyToDelete): Promise<Waiting> {
  try {
    return (await host.state.backupPolicies.read(namespace, name))?.manifest;
  } catch (error) {
    if (!isBackupError(error, 'config-invalid')) throw error;
    note(`walkeep: ${error.message}: which clusters it was for is not known`);
    return 'damaged';
  }
}

/** The clusters whose keepers have it, wherever they were applied, and those for which this host keeps it. */
async function findHolders(
  host: Host,
  { namespace, name, cluster: only }: PolicyToDelete,
  waiting: Waiting,
): Promise<Holder[]> {
  const named = new Set(waiting === 'damaged' ? [] : waiting?.spec.clusters);
  const clusters =
    only === undefined
      ? new Set([...(await knownClusters(host, await host.temporal(), namespace)), ...named])
      : [only];
  const alone = only === undefined ? '; --cluster takes it back from one alone' : '';
  const holders: Holder[] = [];
  for (const cluster of clusters) {
    const answer = await askKeeper(host, namespace, cluster);
    if (answer.keeper === 'silent' || answer.keeper === 'away')
      refuseUnheard(
        answer,
        `it is not known whether ${cluster} goes by BackupPolicy "${name}"; nothing was changed${alone}`,
      );
    if (answer.keeper === 'answers') {
      const { cluster: manifest, policy, unplaced = [] } = answer.desire;
      // One that only a worker holds keeps nothing back but deletion as a whole, so no window decides alone without it.
      if (unplaced.includes(`BackupPolicy/${name}`)) holders.push({ cluster, hasKeeper: true });
      else if (policy?.metadata.name === name) holders.push({ cluster, hasKeeper: true, manifest });
    } else if (named.has(cluster) || (waiting === 'damaged' && only === undefined)) {
      // A file that can't be read may name any.
      const manifest = (await host.state.clusters.read(namespace, cluster))?.manifest;
      holders.push({ cluster, hasKeeper: false, ...(manifest && { manifest }) });
    }
  }
  return holders;
}

/** Beside a window a policy only keeps more: without it what only it kept goes. Without a window nothing is deleted. */
async function requireWindows(holders: readonly Holder[], { name, yes }: PolicyToDelete): Promise<void> {
  const windows = holders.flatMap(({ cluster, manifest }) => {
    const window = manifest?.spec.backup?.retentionPolicy;
    return window === undefined ? [] : [`${window} of ${cluster}`];
  });
  if (windows.length === 0) return;
  const what =
    `without BackupPolicy "${name}" only the window decides (retentionPolicy: ${windows.join(', ')}): ` +
    'backups that only the policy kept are marked, and deleted after the grace period';
  if (yes) note(`walkeep: ${what}`);
  const question = {
    what,
    unasked: `${what}; nothing was changed, since nobody is here to be asked`,
    hint: 'add --yes; walkeep sweep CLUSTER --dry-run shows which backups the policy keeps',
    declined: 'nothing was changed',
  };
  await requireYes(question, yes);
}

/** With a cluster named it waits no longer for that one; it stays for the others it names. @returns whether there was one */
async function forgetWaiting(
  host: Host,
  waiting: Waiting,
  { namespace, name, cluster: only }: PolicyToDelete,
): Promise<boolean> {
  const shelf = host.state.backupPolicies;
  if (waiting === 'damaged') {
    if (only !== undefined) {
      note('walkeep: the file stays, for the other clusters it may name; without --cluster it is removed');
      return false;
    }
    await shelf.remove(namespace, name);
    return true;
  }
  if (!waiting || (only !== undefined && !waiting.spec.clusters.includes(only))) return false;
  const clusters = only === undefined ? [] : waiting.spec.clusters.filter((one) => one !== only);
  if (clusters.length === 0) await shelf.remove(namespace, name);
  else await shelf.save({ ...waiting, spec: { ...waiting.spec, clusters } });
  return true;
}
