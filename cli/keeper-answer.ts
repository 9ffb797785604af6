import { BackupError, isBackupError, messageOf, type ErrorCode } from '../core/errors.ts';
import { clusterWorkflowId, desireQuery, type DesireAnswer } from '../workflows/interface.ts';
import type { Host } from './host.ts';

/**
 * What came of asking the keeper of a cluster what is declared: `none`: there is none, or it has ended; `silent`: it
 * runs, or may, and did not answer; `away`: Temporal could not be asked.
 */
export type KeeperAnswer =
  | { readonly keeper: 'answers'; readonly desire: DesireAnswer }
  | { readonly keeper: 'none' }
  | { readonly keeper: 'silent'; readonly why: string }
  | { readonly keeper: 'away'; readonly why: string; readonly code: ErrorCode };

/** A worker that has just been started is given its first questions after seconds. */
const ANSWER_MS = 15_000;

/** Asks the keeper that runs: one that has ended would answer as well, from what it knew then. */
export async function askKeeper(host: Host, namespace: string, cluster: string): Promise<KeeperAnswer> {
  const workflowId = clusterWorkflowId(namespace, cluster);
  try {
    const temporal = await host.temporal();
    const handle = temporal.client.workflow.getHandle(workflowId);
    const { status } = await temporal.call('look for the keeper', () => handle.describe());
    if (status.name !== 'RUNNING') return { keeper: 'none' };
    return await temporal
      .call('ask the keeper', () => handle.query(desireQuery), ANSWER_MS)
      .then(
        (desire): KeeperAnswer => ({ keeper: 'answers', desire }),
        (error: unknown): KeeperAnswer => ({
          keeper: 'silent',
          why: `${workflowId} runs and does not answer: ${messageOf(error)}`,
        }),
      );
  } catch (error) {
    if (isBackupError(error)) return { keeper: 'away', why: error.message, code: error.code };
    if (error instanceof Error && error.name === 'WorkflowNotFoundError') return { keeper: 'none' };
    // Such as a right that is missing: that is no word about whether one runs.
    return { keeper: 'silent', why: `Temporal does not say whether ${workflowId} runs: ${messageOf(error)}` };
  }
}

/** @throws BackupError `worker-missing` | `temporal-unavailable` for who did not answer; nothing was done then */
export function refuseUnheard(
  answer: Exclude<KeeperAnswer, { keeper: 'answers' | 'none' }>,
  undone: string,
): never {
  if (answer.keeper === 'away') throw new BackupError(answer.code, `${answer.why}: ${undone}`);
  throw new BackupError('worker-missing', `${answer.why}: ${undone}`, {
    hint: 'start walkeep worker, or try again',
  });
}
