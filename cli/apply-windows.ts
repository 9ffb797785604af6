import { keepsLess, type DeletionRules } from '../core/retention-policy.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { ownReference } from '../manifests/object-store-references.ts';
import { readHeld } from '../operations/declared.ts';
import type { ApplyInput } from '../workflows/interface.ts';
import { requireYes } from './confirm.ts';
import type { Host } from './host.ts';
import { askKeeper, refuseUnheard } from './keeper-answer.ts';
import { note } from './output.ts';

interface Applying {
  readonly namespace: string;
  readonly cluster: string;
  readonly input: ApplyInput;
}

/**
 * Asks before Clusters get a `retentionPolicy` that keeps less than theirs of now, be it their own or that of an ObjectStore
 * they refer to, in whose manifest none of them is named.
 *
 * @param yes whether it was said already
 * @throws BackupError `usage` when nobody says yes, `worker-missing` when it can't be told; nothing was changed then
 */
export async function requireShorterWindows(
  host: Host,
  keepers: readonly Applying[],
  yes: boolean,
): Promise<void> {
  const what = await shorterWindows(host, keepers, yes);
  if (what === undefined) return;
  if (yes) note(`walkeep: ${what}`);
  const question = {
    what,
    unasked: `${what}; nothing was applied, since nobody is here to be asked`,
    hint: 'add --yes to apply it; walkeep sweep CLUSTER --dry-run shows which backups there are',
    declined: 'nothing was applied',
  };
  await requireYes(question, yes);
}

/** Says what apply would ask about. A keeper that does not answer is passed over. */
export async function tellShorterWindows(host: Host, keepers: readonly Applying[]): Promise<void> {
  const what = await shorterWindows(host, keepers, true);
  if (what !== undefined) note(`walkeep: ${what}. That is asked about first; a script says --yes`);
}

async function shorterWindows(
  host: Host,
  keepers: readonly Applying[],
  mayBeUnheard: boolean,
): Promise<string | undefined> {
  const shorter: string[] = [];
  for (const { namespace, cluster, input } of keepers) {
    if (!input.cluster) continue;
    const before = await rulesBefore(host, namespace, cluster, mayBeUnheard);
    if (!before) continue;
    const after = {
      window: windowOf(input.cluster),
      hasPolicy: before.hasPolicy || input.policy !== undefined,
    };
    if (keepsLess(before, after))
      shorter.push(
        `${cluster}${sourceOf(input.cluster)}: ${before.window ?? 'none'} -> ${after.window ?? 'none'}`,
      );
  }
  if (shorter.length === 0) return undefined;
  return (
    `retentionPolicy keeps less than before (${shorter.join('; ')}): backups that no rule keeps any more are marked by ` +
    'the next sweep, and deleted after the grace period'
  );
}

/** @returns `undefined` for a cluster that nobody knows yet */
async function rulesBefore(
  host: Host,
  namespace: string,
  cluster: string,
  mayBeUnheard: boolean,
): Promise<DeletionRules | undefined> {
  const answer = await askKeeper(host, namespace, cluster);
  if (answer.keeper === 'answers')
    return { window: windowOf(answer.desire.cluster), hasPolicy: answer.desire.policy !== undefined };
  const listed = await host.state.clusters.list(namespace);
  const here = listed.find(({ name }) => name === cluster)?.applied;
  if (here) {
    const { policy } = await readHeld(host.state, namespace, cluster);
    return { window: windowOf(here.manifest), hasPolicy: policy !== undefined };
  }
  if (answer.keeper === 'none' || mayBeUnheard) return undefined;
  return refuseUnheard(
    answer,
    `it is not known whether the retentionPolicy of ${cluster} keeps less than before; nothing was applied`,
  );
}

function windowOf({ spec }: ClusterManifest): string | undefined {
  return spec.backup?.retentionPolicy;
}

function sourceOf(cluster: ClusterManifest): string {
  const reference = ownReference(cluster);
  return reference === undefined ? '' : ` (of ObjectStore "${reference.objectStore}")`;
}
