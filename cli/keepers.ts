import { clusterWorkflowId, WORKFLOW } from '../workflows/interface.ts';
import { listClusters, type Host } from './host.ts';
import type { TemporalClient } from './temporal-client.ts';

const MOST = 1_000;

/**
 * The clusters of a namespace that have a keeper, as Temporal lists them, and those this host knows. What began within
 * the last moments may not be listed yet.
 */
export async function knownClusters(
  host: Host,
  temporal: TemporalClient,
  namespace: string,
): Promise<string[]> {
  const names = new Set((await listClusters(host, namespace)).map(({ metadata }) => metadata.name));
  const prefix = clusterWorkflowId(namespace, '');
  await temporal
    .call('list the keepers', async (client) => {
      const query = `WorkflowType = '${WORKFLOW.cluster}' AND ExecutionStatus = 'Running'`;
      let seen = 0;
      for await (const { workflowId } of client.workflow.list({ query })) {
        if (workflowId.startsWith(prefix)) names.add(workflowId.slice(prefix.length));
        if ((seen += 1) >= MOST) break;
      }
    })
    // A right of its own: then this host's knowledge has to do.
    .catch(() => undefined);
  return [...names].toSorted();
}
