import type { Orchestration } from '../operations/check-cluster.ts';
import { clusterQueue, clusterStatusQuery, clusterWorkflowId } from '../workflows/interface.ts';
import type { Host } from './host.ts';

/** Whether Temporal answers, a keeper runs and somebody polls the cluster's queue. */
export async function readOrchestration(
  host: Host,
  namespace: string,
  cluster: string,
): Promise<Orchestration> {
  const temporal = await host.temporal();
  const queue = clusterQueue(namespace, cluster);
  const pollers = await temporal.call('look at the queue', (client) =>
    client.workflowService.describeTaskQueue({
      namespace: temporal.temporalNamespace,
      taskQueue: { name: queue },
      // oxlint-disable-next-line typescript/no-unsafe-enum-assignment -- TASK_QUEUE_TYPE_ACTIVITY; the enum's package is not ours to depend on
      taskQueueType: 2,
    }),
  );
  const recent = (pollers.pollers ?? []).filter(({ lastAccessTime }) => {
    const seconds = Number(lastAccessTime?.seconds ?? 0);
    return Date.now() / 1000 - seconds < 120;
  });
  const keeper = await temporal
    .call('look at the keeper', (client) =>
      client.workflow.getHandle(clusterWorkflowId(namespace, cluster)).describe(),
    )
    .then(
      ({ status }) => status.name === 'RUNNING',
      (error: unknown) => {
        if (error instanceof Error && error.name === 'WorkflowNotFoundError') return false;
        throw error;
      },
    );
  return { address: temporal.address, workers: new Set(recent.map(({ identity }) => identity)).size, keeper };
}

/** The keeper's own account; `undefined` when it does not answer. */
export async function readKeeperStatus(host: Host, namespace: string, cluster: string) {
  return host
    .temporal()
    .then((temporal) =>
      temporal.call(
        'ask the keeper',
        (client) =>
          client.workflow.getHandle(clusterWorkflowId(namespace, cluster)).query(clusterStatusQuery),
        5_000,
      ),
    )
    .catch(() => undefined);
}
