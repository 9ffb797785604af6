import { BackupError, messageOf } from '../core/errors.ts';
import { clusterWorkflowId, WORKFLOW } from '../workflows/interface.ts';
import { listClusters, type Host } from './host.ts';
import type { TemporalClient } from './temporal-client.ts';

/** Some thousands of keepers take a while to list. */
const LIST_MS = 60_000;

/**
 * The clusters of a namespace that have a keeper, all that Temporal lists, and those this host knows. What began within the
 * last moments may not be listed yet.
 *
 * @throws BackupError `temporal-unavailable` when Temporal does not list them: nothing may be concluded from a part
 */
export async function knownClusters(
  host: Host,
  temporal: Pick<TemporalClient, 'call'>,
  namespace: string,
): Promise<string[]> {
  const names = new Set((await listClusters(host, namespace)).map(({ metadata }) => metadata.name));
  const prefix = clusterWorkflowId(namespace, '');
  try {
    await temporal.call(
      'list the keepers',
      async (client) => {
        const query = `WorkflowType = '${WORKFLOW.cluster}' AND ExecutionStatus = 'Running'`;
        for await (const { workflowId } of client.workflow.list({ query })) {
          if (workflowId.startsWith(prefix)) names.add(workflowId.slice(prefix.length));
        }
      },
      LIST_MS,
    );
  } catch (cause) {
    throw new BackupError(
      'temporal-unavailable',
      `Temporal does not list the keepers, so it is not known which clusters there are: ${messageOf(cause)}; nothing was changed`,
      { cause, hint: 'try again, by a key that has the right to list workflows' },
    );
  }
  return [...names].toSorted();
}

/** The same as far as it can be told: for what is only a warning more, and no ground to refuse. */
export async function knownClustersAtBest(
  host: Host,
  temporal: Pick<TemporalClient, 'call'>,
  namespace: string,
): Promise<string[]> {
  return knownClusters(host, temporal, namespace).catch(async () =>
    (await listClusters(host, namespace)).map(({ metadata }) => metadata.name).toSorted(),
  );
}
