import { WithStartWorkflowOperation, WorkflowUpdateFailedError } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { BackupError, ERRORS, isBackupError, type ErrorCode } from '../core/errors.ts';
import {
  applyUpdate,
  clusterStatusQuery,
  clusterWorkflowId,
  previewQuery,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type ApplyInput,
  type ApplyResult,
} from '../workflows/interface.ts';
import { note } from './output.ts';
import type { TemporalClient } from './temporal-client.ts';

const UPDATE_MS = 30_000;

/** @returns `undefined` when only Backups were given and no keeper of their cluster runs */
export async function applyToKeeper(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  input: ApplyInput,
): Promise<ApplyResult | undefined> {
  const workflowId = clusterWorkflowId(namespace, cluster);
  try {
    return await temporal.call(
      `apply to ${workflowId}`,
      (client) =>
        input.cluster === undefined
          ? client.workflow.getHandle(workflowId).executeUpdate(applyUpdate, { args: [input] })
          : client.workflow.executeUpdateWithStart(applyUpdate, {
              args: [input],
              startWorkflowOperation: new WithStartWorkflowOperation(WORKFLOW.cluster, {
                workflowId,
                taskQueue: WORKFLOW_QUEUE,
                args: [input.cluster],
                workflowIdConflictPolicy: 'USE_EXISTING',
                staticSummary: `keeper of ${namespace}/${cluster}`,
              }),
            }),
      UPDATE_MS,
    );
  } catch (error) {
    if (input.cluster === undefined && isNotFound(error)) return undefined;
    throw explained(error, `${namespace}/${cluster}`);
  }
}

function isNotFound(error: unknown): boolean {
  return error instanceof Error && error.name === 'WorkflowNotFoundError';
}

/**
 * What the keeper would answer.
 *
 * @returns `undefined` when none runs
 * @throws BackupError `manifest-invalid` with what it would refuse
 */
export async function previewByKeeper(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  input: ApplyInput,
): Promise<ApplyResult | undefined> {
  const handle = temporal.client.workflow.getHandle(clusterWorkflowId(namespace, cluster));
  try {
    return await temporal.call(
      'ask the keeper',
      async () => {
        // one that has ended would still answer, from what it knew then
        const { status } = await handle.describe();
        return status.name === 'RUNNING' ? handle.query(previewQuery, input) : undefined;
      },
      10_000,
    );
  } catch (error) {
    if (isNotFound(error)) return undefined;
    if (error instanceof Error && error.name === 'QueryRejectedError') return undefined;
    if (!(error instanceof Error) || error.name !== 'QueryNotRegisteredError') throw error;
    // the client's name for every query that failed: only one that nobody handles says so
    if (/did not register a handler/.test(error.message)) return undefined;
    throw new BackupError('manifest-invalid', error.message, { cause: error });
  }
}

const HELD_MS = 10_000;

/**
 * Until a worker, of this host if there is one, holds the manifest on its disk: what people run after `apply`, such as
 * `archive-command`, reads it there. It is applied all the same when nobody takes it in time.
 */
export async function waitUntilHeld(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  revision: number,
): Promise<void> {
  const handle = temporal.client.workflow.getHandle(clusterWorkflowId(namespace, cluster));
  const isHeld = async (): Promise<boolean> => {
    try {
      const { instances } = await temporal.call('ask', () => handle.query(clusterStatusQuery), 5_000);
      const here = instances.filter(({ host }) => host === hostname());
      return (here.length > 0 ? here : instances).some(({ revision: held = 0 }) => held >= revision);
    } catch {
      return false; // as good as nobody there; what follows will say it better
    }
  };
  for (const deadline = Date.now() + HELD_MS; Date.now() < deadline; await delay(100)) {
    if (await isHeld()) return;
  }
  note(
    `walkeep: no worker has stored the manifest of ${namespace}/${cluster} yet; that follows when one reports`,
  );
}

/** What the keeper refused, as the failure it was; a call that nobody took up most likely lacks a worker. */
function explained(error: unknown, cluster: string): unknown {
  if (error instanceof WorkflowUpdateFailedError && error.cause instanceof ApplicationFailure) {
    const { type, message, details } = error.cause;
    const [hint] = details ?? [];
    const code =
      type !== undefined && type !== null && type in ERRORS ? (type as ErrorCode) : 'manifest-invalid';
    return new BackupError(code, message, { cause: error, ...(typeof hint === 'string' && { hint }) });
  }
  if (isBackupError(error, 'temporal-unavailable')) {
    return new BackupError(
      'worker-missing',
      `nobody took up the manifest of ${cluster} within ${UPDATE_MS / 1000} s`,
      {
        cause: error,
        hint: 'start walkeep worker next to the database, then apply again; what was taken up is not lost, and applying twice does no harm',
      },
    );
  }
  return error;
}
