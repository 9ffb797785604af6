import { BackupError } from '../core/errors.ts';
import {
  clusterWorkflowId,
  desireQuery,
  type ApplyInput,
  type ApplyResult,
  type DesireAnswer,
  type RemovedObject,
} from '../workflows/interface.ts';
import type { Host } from './host.ts';
import { knownClustersAtBest } from './keepers.ts';
import type { TemporalClient } from './temporal-client.ts';

/**
 * What a new keeper took over from workers that held it of an earlier one: nobody is to find that out by surprise.
 * Nothing when the keeper does not answer.
 */
export async function takenOver(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  { objects }: ApplyResult,
): Promise<RemovedObject[]> {
  const desire = await desireOf(temporal, namespace, cluster);
  const named = new Set(objects.map(({ kind, name }) => `${kind}/${name}`));
  const list = (kind: RemovedObject['kind'], held: readonly { metadata: { name: string } }[]) =>
    held.map(({ metadata: { name } }): RemovedObject => ({ kind, name }));
  return [
    ...list('BackupPolicy', desire?.policy ? [desire.policy] : []),
    ...list('ScheduledBackup', desire?.schedules ?? []),
    ...list('ScheduledVerification', desire?.verifications ?? []),
  ].filter(({ kind, name }) => !named.has(`${kind}/${name}`));
}

/**
 * A cluster that a policy names no longer would be left with other rules without a word, and its backups with them.
 *
 * @throws BackupError `manifest-invalid` naming a cluster that has the policy and is not among those it names
 */
export async function refuseDropping(
  host: Host,
  temporal: TemporalClient,
  keepers: readonly { readonly namespace: string; readonly input: ApplyInput }[],
): Promise<void> {
  const policies = new Map(
    keepers.flatMap(({ namespace, input: { policy } }) =>
      policy ? [[`${namespace}/${policy.metadata.name}`, { namespace, policy }] as const] : [],
    ),
  );
  for (const { namespace, policy } of policies.values()) {
    const { name } = policy.metadata;
    const listed = new Set(policy.spec.clusters);
    for (const cluster of await knownClustersAtBest(host, temporal, namespace)) {
      if (listed.has(cluster)) continue;
      const desire = await desireOf(temporal, namespace, cluster);
      if (desire?.policy?.metadata.name !== name) continue;
      throw new BackupError(
        'manifest-invalid',
        `BackupPolicy "${name}": field "spec.clusters" no longer names "${cluster}", which goes by it; nothing was applied`,
        {
          hint: `name it, or take the policy back from it first: walkeep delete backuppolicy ${name} --cluster ${cluster}`,
        },
      );
    }
  }
}

function desireOf(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
): Promise<DesireAnswer | undefined> {
  return temporal
    .call(
      'ask the keeper',
      (client) => client.workflow.getHandle(clusterWorkflowId(namespace, cluster)).query(desireQuery),
      5_000,
    )
    .catch(() => undefined);
}
