import { condition, isCancellation, patched, proxyActivities, workflowInfo } from '@temporalio/workflow';
import type { ClusterActivities, ClusterFacts, InstanceFacts } from '../activities/cluster.ts';
import { keeperOf, unforeseen, type BackupRequest, type BackupRun } from './backup-run.ts';
import { backupCandidates, mayTakeBackup } from './choose-instance.ts';
import { failure, failureOf, troubleOf, type Trouble } from './failures.ts';
import * as walkeep from './interface.ts';
import { wantsOf, type HeldPermits } from './permits.ts';

/** An answer to "what are you?" is taken for true this long. */
const FRESH_MS = 10_000;

/**
 * The instance that takes this attempt, with a place among the backups that share its host or its store, where these
 * are limited. A turn may come after hours: then the instances are asked again.
 */
export async function instanceInTurn(
  request: BackupRequest,
  facts: ClusterFacts,
  run: BackupRun,
  show: () => void,
  { target, deadline }: { target: walkeep.BackupTarget; deadline: number },
): Promise<{ instance: string; permits?: HeldPermits }> {
  for (;;) {
    const { instance, host } = await chooseInstance(request, facts, run, target);
    const wants = wantsOf(facts.caps, host);
    // Whoever has no caps has none of this in its history.
    if (wants.length === 0 || !patched('capacity')) return { instance };
    const permits = await run.permits.acquire(wants, {
      kind: 'backup',
      deadline,
      expiresAt: deadline + 5 * 60_000,
      onTurn: (turn) => {
        if (turn) run.turn = turn;
        else delete run.turn;
        show();
      },
    });
    if (permits.waitedMs < FRESH_MS) return { instance, permits };
    try {
      const again = await chooseInstance(request, facts, run, target);
      if (again.instance === instance) return { instance, permits };
    } catch (error) {
      await permits.release();
      throw error;
    }
    await permits.release();
  }
}

/**
 * Asks the instances in the order of preference what they are now, and takes the first that fits. What the keeper
 * knows may be old: a standby that was promoted since is taken only when no other standby is there.
 */
async function chooseInstance(
  request: BackupRequest,
  facts: ClusterFacts,
  run: BackupRun,
  target: walkeep.BackupTarget,
): Promise<InstanceFacts> {
  const known = await knownInstances(request, run);
  const candidates = backupCandidates(
    [...known.filter((peer) => peer.instance !== facts.instance.instance), facts.instance],
    target,
  );
  let trouble: Trouble | undefined;
  const seen: string[] = [];
  let primary: InstanceFacts | undefined;
  for (const [index, { instance }] of candidates.entries()) {
    if (primary && candidates[index]?.role === 'unknown') break;
    const queue = walkeep.instanceQueue(request.namespace, request.cluster, instance);
    const { describeInstance } = proxyActivities<ClusterActivities>({
      taskQueue: queue,
      summary: `ask ${instance} what it is`,
      scheduleToStartTimeout: Math.min(30, request.waitForWorkerSeconds ?? 30) * 1000,
      startToCloseTimeout: '30 seconds',
      scheduleToCloseTimeout: '1 minute',
    });
    try {
      const asked = await describeInstance({ namespace: request.namespace, cluster: request.cluster });
      if (mayTakeBackup(asked, target)) {
        if (target === 'primary' || asked.role === 'standby') return asked;
        primary ??= asked;
        // What the keeper knows nothing of is not worth waiting for.
        const next = candidates[index + 1];
        if (!next || next.role === 'unknown' || !patched('ask-on')) return primary;
      }
      seen.push(`${instance} is ${asked.role}`);
    } catch (error) {
      trouble = troubleOf(error, queue) ?? unforeseen(error);
      seen.push(`${instance}: ${trouble.message}`);
    }
  }
  if (primary) return primary;
  if (trouble?.code === 'worker-missing' && seen.length === 1) throw failureOf(trouble);
  throw failure(
    'postgres-unavailable',
    `no instance can take a backup with target ${target}: ${seen.join('; ') || 'none has a database'}`,
  );
}

/** The keeper knows all instances; without a keeper there is the one that answered. */
async function knownInstances(request: BackupRequest, run: BackupRun): Promise<readonly InstanceFacts[]> {
  delete run.peers;
  try {
    await keeperOf(request).signal(walkeep.whoIsThereSignal, { replyTo: workflowInfo().workflowId });
  } catch (error) {
    if (isCancellation(error)) throw error;
    return [];
  }
  await condition(() => run.peers !== undefined, '10 seconds', {
    summary: 'wait for the keeper to name the instances',
  });
  return run.peers ?? [];
}
