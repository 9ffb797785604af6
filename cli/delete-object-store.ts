import { BackupError } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { objectStoreReferences } from '../manifests/object-store-references.ts';
import { requireYes } from './confirm.ts';
import type { Host } from './host.ts';
import { askKeeper, refuseUnheard } from './keeper-answer.ts';
import { knownClusters } from './keepers.ts';
import { note } from './output.ts';

export interface ObjectStoreToDelete {
  readonly namespace: string;
  readonly name: string;
  readonly yes: boolean;
}

/**
 * Takes an ObjectStore back from this host, which is the only place where one is kept: keepers and workers hold its words as
 * a part of their Cluster, and what is stored at its destination is touched by nobody.
 *
 * @returns whether there was one
 * @throws BackupError `usage` naming the places of Clusters that refer to it; `worker-missing` when a keeper does not say
 *   whether its does. Nothing was changed then
 */
export async function removeObjectStore(host: Host, asked: ObjectStoreToDelete): Promise<boolean> {
  const { namespace, name } = asked;
  const shelf = host.state.objectStores;
  // By its name: one whose file is damaged is to be taken back, too.
  if (!(await shelf.list(namespace)).some((one) => one.name === name)) return false;
  const { declared, left } = await findReferring(host, asked);
  if (declared.length > 0) {
    throw new BackupError(
      'usage',
      `ObjectStore "${name}" is referred to by ${declared.join(', ')}; nothing was changed`,
      { hint: 'apply these Clusters without it first, or take them back: walkeep delete cluster NAME' },
    );
  }
  await requireForgotten(left, asked);
  await shelf.remove(namespace, name);
  note(
    `walkeep: nothing stored was touched. Another host on which ${name} was applied keeps it until it is taken back there`,
  );
  return true;
}

/** @returns the places that refer to it: of Clusters with a keeper, and of those that only this host remembers */
async function findReferring(
  host: Host,
  { namespace, name }: ObjectStoreToDelete,
): Promise<{ declared: string[]; left: string[] }> {
  const declared: string[] = [];
  const left: string[] = [];
  for (const cluster of await knownClusters(host, await host.temporal(), namespace)) {
    const answer = await askKeeper(host, namespace, cluster);
    if (answer.keeper === 'answers') declared.push(...placesOf(answer.desire.cluster, name));
    else if (answer.keeper === 'none') {
      const kept = (await host.state.clusters.read(namespace, cluster))?.manifest;
      if (kept) left.push(...placesOf(kept, name));
    } else
      refuseUnheard(
        answer,
        `it is not known whether ${cluster} refers to ObjectStore "${name}"; nothing was changed`,
      );
  }
  return { declared, left };
}

function placesOf(cluster: ClusterManifest, objectStore: string): string[] {
  return objectStoreReferences(cluster)
    .filter((reference) => reference.objectStore === objectStore)
    .map(({ external }) => {
      const entry = external === undefined ? '' : ` (externalClusters "${external}")`;
      return `Cluster ${cluster.metadata.name}${entry}`;
    });
}

/** A Cluster that was taken back is kept by its worker, since archiving goes on; so is one whose keeper was lost. */
async function requireForgotten(left: readonly string[], { name, yes }: ObjectStoreToDelete): Promise<void> {
  if (left.length === 0) return;
  const what = `${left.join(', ')} on this host, without a keeper, refers to ObjectStore "${name}": what is archived there goes on, and applying it again takes the ObjectStore's manifest, too`;
  if (yes) note(`walkeep: ${what}`);
  const question = {
    what,
    unasked: `${what}; nothing was changed, since nobody is here to be asked`,
    hint: 'add --yes',
    declined: 'nothing was changed',
  };
  await requireYes(question, yes);
}
