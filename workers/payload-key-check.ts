import type { Payload, PayloadCodec } from '@temporalio/common';
import { isBackupError, messageOf } from '../core/errors.ts';
import { WORKFLOW } from '../workflows/interface.ts';
import { isEncrypted } from './payload-codec.ts';

/** The few calls this needs; both of Temporal's connections have them. */
interface WorkflowService {
  listWorkflowExecutions(request: { namespace: string; query: string; pageSize: number }): Promise<{
    executions?: { execution?: { workflowId?: string | null; runId?: string | null } | null }[] | null;
  }>;
  getWorkflowExecutionHistory(request: {
    namespace: string;
    execution: { workflowId: string; runId: string };
    maximumPageSize: number;
  }): Promise<{
    history?: {
      events?:
        | {
            workflowExecutionStartedEventAttributes?: {
              input?: { payloads?: Payload[] | null } | null;
            } | null;
          }[]
        | null;
    } | null;
  }>;
}

const KEEPERS = 5;

/**
 * Makes sure that this process can read what the others of its fleet write, before it writes anything itself: a signal
 * that is encrypted with a key nobody else has would stop the run that it is for. Looks at some keepers; one of them
 * that can be read is enough, since a single one may have been started by somebody with a wrong key.
 *
 * @throws BackupError `secret-missing` when there are encrypted keepers and none can be read
 */
export async function requireSharedKey(
  service: WorkflowService,
  namespace: string,
  codec: PayloadCodec,
): Promise<void> {
  let refusal: unknown;
  for (const execution of await listKeepers(service, namespace)) {
    const payloads = await firstInput(service, namespace, execution);
    if (!payloads.some(isEncrypted)) continue;
    try {
      await codec.decode(payloads);
      return;
    } catch (error) {
      if (!isBackupError(error, 'secret-missing')) throw error;
      refusal = error;
    }
  }
  if (refusal !== undefined) throw refusal;
}

async function listKeepers(service: WorkflowService, namespace: string) {
  const { executions } = await service.listWorkflowExecutions({
    namespace,
    query: `WorkflowType = '${WORKFLOW.cluster}' AND ExecutionStatus = 'Running'`,
    pageSize: KEEPERS,
  });
  return (executions ?? []).flatMap(({ execution }) =>
    execution?.workflowId && execution.runId
      ? [{ workflowId: execution.workflowId, runId: execution.runId }]
      : [],
  );
}

async function firstInput(
  service: WorkflowService,
  namespace: string,
  execution: { workflowId: string; runId: string },
): Promise<Payload[]> {
  try {
    const { history } = await service.getWorkflowExecutionHistory({
      namespace,
      execution,
      maximumPageSize: 1,
    });
    return history?.events?.[0]?.workflowExecutionStartedEventAttributes?.input?.payloads ?? [];
  } catch (error) {
    // It was deleted since it was listed.
    if (/not found/i.test(messageOf(error))) return [];
    throw error;
  }
}
