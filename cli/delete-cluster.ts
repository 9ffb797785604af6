import type { WorkflowExecutionDescription } from '@temporalio/client';
import { setTimeout as delay } from 'node:timers/promises';
import { BackupError, isBackupError } from '../core/errors.ts';
import { createScheduleService } from '../workers/schedule-ports.ts';
import { clusterWorkflowId, scheduleId, sweepWorkflowId } from '../workflows/interface.ts';
import { EXIT } from './exit-codes.ts';
import type { Host } from './host.ts';
import { note } from './output.ts';
import { RESOURCE } from './resource-lines.ts';
import type { TemporalClient } from './temporal-client.ts';

const POLL_MS = 500;

/**
 * Ends the keeper of a cluster and takes away what would go on without it: Temporal's Schedules, and a sweep that runs.
 * Archiving is PostgreSQL's and goes on; what is stored stays.
 *
 * @param waitMs how long the keeper and a sweep are given to end
 * @throws BackupError `cluster-unknown` when there is nothing to end; `worker-missing` when the keeper has not ended yet
 */
export async function removeCluster(
  host: Host,
  namespace: string,
  name: string,
  { waitMs = 60_000 }: { readonly waitMs?: number } = {},
): Promise<number> {
  const temporal = await host.temporal();
  const cluster = { namespace, cluster: name };
  const gone = new Set<string>();
  const until = Date.now() + waitMs;
  const sweepId = sweepWorkflowId(namespace, name);
  let sweep: Run | undefined;
  const takeAway = async () => {
    sweep = (await cancelSweep(temporal, sweepId)) ?? sweep;
    for (const id of await deleteSchedules(host, temporal, cluster)) gone.add(`the Schedule ${id}`);
  };
  const workflowId = clusterWorkflowId(namespace, name);
  const keeper = await findRunning(temporal, workflowId);
  if (keeper) {
    await cancelRun(temporal, workflowId);
    // Before it has ended: with no worker it does not end, and these would wait for one.
    await takeAway().catch(() => undefined);
  }
  const ended = !keeper || (await waitForEnd(temporal, workflowId, keeper, until));
  // And after it: until its end it may have begun a sweep, or have made a Schedule.
  await takeAway();
  if (!keeper && gone.size === 0 && !sweep) {
    throw new BackupError(
      'cluster-unknown',
      `no keeper of ${namespace}/${name} runs, and Temporal has no Schedule of it: nothing was changed`,
      { hint: `walkeep get clusters -n ${namespace} lists what there is` },
    );
  }
  let goesOn = false;
  if (sweep) {
    // What it deletes at this very moment it still deletes: it has ended when its lease is released.
    goesOn = !(await waitForEnd(temporal, sweepId, sweep, until));
    if (!goesOn) gone.add('a sweep that ran');
  }
  if (gone.size > 0) note(`walkeep: ended with it: ${[...gone].join(', ')}`);
  if (goesOn)
    note(
      `walkeep: ${sweepId} was told to end and has not yet: until then it may delete what it has begun with`,
    );
  if (!ended) throw notEnded(workflowId, waitMs);
  process.stdout.write(`${RESOURCE.Cluster}/${name} deleted\n`);
  note(
    `walkeep: no more backups of ${name} are begun${goesOn ? '' : ' and none is deleted'}. WAL is archived as long as PostgreSQL's ` +
      'archive_command asks for it; all that is in the repository stays and can be restored',
  );
  return EXIT.ok;
}

function notEnded(workflowId: string, waitMs: number): BackupError {
  return new BackupError(
    'worker-missing',
    `${workflowId} was told to end and has not within ${waitMs / 1000} s, most likely because no worker is there: ` +
      'no Schedule begins backups any more, but what waits in it is not taken back yet',
    {
      hint: 'start walkeep worker: it ends by itself then, with nothing more to do; or look at it in the Web UI',
    },
  );
}

// ---- the keeper ----------------------------------------------------------------------------------------------------

interface Run {
  readonly runId: string;
  /** The same for all runs that continue it. */
  readonly firstRunId: string;
}

/** The run that goes on now; `undefined` when none does. */
async function findRunning(temporal: TemporalClient, workflowId: string): Promise<Run | undefined> {
  const handle = temporal.client.workflow.getHandle(workflowId);
  return temporal
    .call(`look at ${workflowId}`, () => handle.describe())
    .then(runningIn, (error: unknown) => {
      if (isNotFound(error)) return undefined;
      throw error;
    });
}

function runningIn({ status, runId, raw }: WorkflowExecutionDescription): Run | undefined {
  if (status.name !== 'RUNNING') return undefined;
  return { runId, firstRunId: raw.workflowExecutionInfo?.firstRunId || runId };
}

/**
 * @param until in ms since 1970
 * @returns whether it ended; one that was applied anew meanwhile is another one, and is left alone
 */
async function waitForEnd(
  temporal: TemporalClient,
  workflowId: string,
  told: Run,
  until: number,
): Promise<boolean> {
  let { runId } = told;
  try {
    for (; ; await delay(POLL_MS)) {
      const now = await findRunning(temporal, workflowId);
      if (now?.firstRunId !== told.firstRunId) return true;
      if (now.runId !== runId) await cancelRun(temporal, workflowId);
      runId = now.runId;
      if (Date.now() >= until) return false;
    }
  } catch (error) {
    if (!isBackupError(error, 'temporal-unavailable')) throw error;
    throw new BackupError(
      'temporal-unavailable',
      `${error.message}; ${workflowId} was told to end, which goes on without this command`,
      { cause: error, hint: 'run the same again when Temporal answers: it says whether all has ended' },
    );
  }
}

// ---- what would go on without it -----------------------------------------------------------------------------------

/** @returns the one that ran and was told to end */
async function cancelSweep(temporal: TemporalClient, workflowId: string): Promise<Run | undefined> {
  const running = await findRunning(temporal, workflowId);
  if (running) await cancelRun(temporal, workflowId);
  return running;
}

/** @returns their ids. Those of others, whatever their names are, stay as they are. */
async function deleteSchedules(
  host: Host,
  temporal: TemporalClient,
  cluster: { readonly namespace: string; readonly cluster: string },
): Promise<string[]> {
  const { namespace } = cluster;
  const service = createScheduleService(temporal.client);
  const listed = await temporal.call('list the Schedules', () => service.list(cluster));
  // A list may be behind; this host may know better.
  const known = (await host.state.scheduledBackups.list(namespace)).map(({ name }) => name);
  const ids: string[] = [];
  for (const name of new Set([...listed, ...known])) {
    const deleted = await temporal.call('delete the Schedules', async () => {
      const owner = (await service.find(namespace, name))?.owner;
      if (owner?.namespace !== namespace || owner.cluster !== cluster.cluster) return false;
      await service.delete(namespace, name);
      return true;
    });
    if (deleted) ids.push(scheduleId(namespace, name));
  }
  return ids;
}

/** Asks it to end; one that has ended already is as good. */
async function cancelRun(temporal: TemporalClient, workflowId: string): Promise<void> {
  try {
    await temporal.call(`end ${workflowId}`, (client) => client.workflow.getHandle(workflowId).cancel());
  } catch (error) {
    if (!isNotFound(error)) throw error;
  }
}

function isNotFound(error: unknown): boolean {
  return error instanceof Error && error.name === 'WorkflowNotFoundError';
}
