import { Context } from '@temporalio/activity';
import type { ControlState } from '../workflows/interface.ts';
import type { ClusterReference } from './cluster.ts';

/** What is wanted of a copy, with the number of the wish: an older one never undoes a newer. */
export interface CopyControl extends ControlState {
  readonly version: number;
}

/** Which piece of work of a Backup's run. */
export interface CopyReference extends ClusterReference {
  readonly backupName: string;
  readonly runId: string;
  readonly attempt: number;
}

export interface ControlBackupInput extends CopyReference {
  readonly control: CopyControl;
}

export interface ControlPorts {
  /** Tells the work of that key, now or when it begins. @returns whether it runs in this process */
  control(key: string, control: CopyControl): boolean;
}

/** Names a copy in the worker's process. */
export function copyKey({ namespace, backupName, runId, attempt }: CopyReference): string {
  return `copy/${namespace}/${backupName}/${runId}/${attempt}`;
}

/** Nothing but cancellation reaches a running activity: these are short, and talk to the work in this process. */
export function createControlActivities(ports: ControlPorts) {
  return {
    /** Hands what is wanted to the copy. Telling it twice changes nothing. */
    async controlBackup(input: ControlBackupInput): Promise<{ readonly reached: boolean }> {
      return { reached: ports.control(copyKey(input), input.control) };
    },
  };
}

export type ControlActivities = ReturnType<typeof createControlActivities>;

const ASK_MS = 3_000;

/**
 * What this activity's workflow wants at this moment. An attempt's input says what was wanted when the first one was
 * scheduled; a later one may run in a process that heard nothing of what was said since.
 *
 * @returns `undefined` when nothing was ever wanted, or the workflow does not answer in time
 */
export async function wantedNow(): Promise<CopyControl | undefined> {
  try {
    const { client, info } = Context.current();
    if (!info.workflowExecution) return undefined;
    const { workflowId, runId } = info.workflowExecution;
    const status = await client.withDeadline(Date.now() + ASK_MS, () =>
      client.workflow.getHandle(workflowId, runId).query<{ control?: CopyControl }>('status'),
    );
    return status.control;
  } catch {
    // No worker for workflows at this moment, or none at all: what is wanted will be told again when it changes.
    return undefined;
  }
}
