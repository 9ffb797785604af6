import type { Client } from '@temporalio/client';
import type { ClusterReference } from '../activities/cluster.ts';
import { BackupError, messageOf } from '../core/errors.ts';
import { clusterWorkflowId, desireQuery, type DesireAnswer } from '../workflows/interface.ts';

const DEADLINE_MS = 15_000;

/**
 * What the keeper of a cluster declares at this moment.
 *
 * @returns `undefined` when no keeper of it runs
 * @throws BackupError `temporal-unavailable` when one runs and does not answer, or Temporal does not
 */
export async function askKeeper(
  client: Client,
  { namespace, cluster }: ClusterReference,
): Promise<DesireAnswer | undefined> {
  const workflowId = clusterWorkflowId(namespace, cluster);
  const handle = client.workflow.getHandle(workflowId);
  try {
    return await client.withDeadline(Date.now() + DEADLINE_MS, async () => {
      // One that has ended would still answer, from what it knew then.
      const { status } = await handle.describe();
      return status.name === 'RUNNING' ? handle.query(desireQuery) : undefined;
    });
  } catch (error) {
    if (error instanceof Error && error.name === 'WorkflowNotFoundError') return undefined;
    throw new BackupError(
      'temporal-unavailable',
      `${workflowId}, which says what may be deleted, did not answer: ${messageOf(error)}`,
      { cause: error, hint: 'nothing is deleted until it answers; it is asked again' },
    );
  }
}
