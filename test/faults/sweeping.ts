/** Sweeps in the middle of which something breaks: a set that is to go, and what must be true of it afterwards. */
import { readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { expect } from 'vitest';
import type { SweepReport } from '../../core/sweep-report.ts';
import { planFromRepository } from '../../operations/recovery-plan.ts';
import { inspectBackups } from '../../repository/backup-parts.ts';
import { listBackups } from '../../repository/catalogue.ts';
import type { Repository } from '../../repository/repository.ts';
import { listGraves, listTombstones } from '../../repository/tombstones.ts';
import { WORKFLOW, WORKFLOW_QUEUE, type ClusterStatus } from '../../workflows/interface.ts';
import type { Process } from '../support/processes.ts';
import { until } from '../support/wait.ts';

const NEVER = new AbortController().signal;
const GRACE_S = 2;

/** One backup is kept, and what is marked is deleted two seconds later. */
export const SHORT_POLICY = {
  apiVersion: 'walkeep.io/v1',
  kind: 'BackupPolicy',
  metadata: { name: 'short' },
  spec: {
    clusters: ['main'],
    retention: {
      keepLast: 1,
      daily: 0,
      weekly: 0,
      monthly: 0,
      yearly: 0,
      minimum: 1,
      grace: `${GRACE_S}s`,
    },
  },
};

/** What the next sweep has to keep, and what it has to delete. */
export interface SweepSet {
  readonly kept: string;
  readonly doomed: readonly string[];
  /** First segments of what is to go. */
  readonly doomedWal: readonly string[];
}

export interface SweptPlace {
  readonly client: Client;
  readonly repository: () => Repository;
  /** Where the objects of the cluster are files. */
  readonly root: string;
}

export type Sweeping = ReturnType<typeof sweepsOf>;

/** The sweeps of the cluster `main`, by its workflow. */
export function sweepsOf({ client, repository, root }: SweptPlace) {
  const handle = () => client.workflow.getHandle('sweep/default/main');
  let taken = 0;

  const backups = async () =>
    (await listBackups(repository(), NEVER)).flatMap(({ info }) =>
      info?.status === 'DONE' ? [{ id: info.backupId, beginWal: String(info.beginWal) }] : [],
    );
  const result = async (): Promise<SweepReport> => (await handle().result()) as SweepReport;
  /** Starts it, or joins the one that the keeper began after a Backup. */
  const begin = async (): Promise<void> => {
    await client.workflow.start(WORKFLOW.retentionSweep, {
      workflowId: 'sweep/default/main',
      workflowIdConflictPolicy: 'USE_EXISTING',
      taskQueue: WORKFLOW_QUEUE,
      args: [{ cluster: 'main' }],
    });
  };
  const sweep = async (): Promise<SweepReport> => {
    await begin();
    return result();
  };
  const backup = async (): Promise<void> => {
    taken += 1;
    const name = `swept-${taken}`;
    await client.workflow.execute(WORKFLOW.baseBackup, {
      workflowId: `backup/default/${name}`,
      taskQueue: WORKFLOW_QUEUE,
      args: [{ cluster: 'main', name, immediateCheckpoint: true }],
    });
  };

  return {
    begin,
    result,
    sweep,
    keeper: () => client.workflow.getHandle('cluster/default/main').query<ClusterStatus>('status'),

    /** One more backup than the policy keeps, marked, its grace period over. */
    async makeDeletable(): Promise<SweepSet> {
      do await backup();
      while ((await backups()).length < 2);
      const all = await backups();
      // The one that was joined may have looked before the last Backup; and the first one is out of reach while it is young.
      const { kept, doomed } = await until('all but one to be marked', async () => {
        const { backups: judged } = await sweep();
        const decided = (...wanted: readonly string[]) =>
          judged.flatMap(({ decision, backupId }) => (wanted.includes(decision) ? [backupId] : []));
        const [newest = ''] = decided('keep');
        const marked = decided('mark', 'wait');
        return marked.length === all.length - 1 ? { kept: newest, doomed: marked } : undefined;
      });
      // What an attempt needs that began within a day, and has no backup, is out of reach; it may be running.
      makeOld(join(root, 'walkeep', 'attempts'), 3 * 86_400);
      await sleep(GRACE_S * 1000 + 300);
      const doomedWal = all.flatMap(({ id, beginWal }) => (doomed.includes(id) ? [beginWal] : []));
      return { kept, doomed, doomedWal };
    },

    /** D3: nothing went, and everything is restorable. */
    async requireUntouched({ kept, doomed }: SweepSet): Promise<void> {
      const all = [...doomed, kept].toSorted();
      expect((await backups()).map(({ id }) => id)).toEqual(all);
      for (const id of all) await requireRestorable(repository(), id);
    },

    /** D4: what was to go is gone with its WAL, what was to stay is all there is, and can be restored. */
    async requireSwept({ kept, doomed, doomedWal }: SweepSet): Promise<void> {
      const r = repository();
      expect((await backups()).map(({ id }) => id)).toEqual([kept]);
      expect([...(await inspectBackups(r, NEVER)).keys()]).toEqual([kept]);
      expect([...(await listGraves(r, NEVER))]).toEqual(expect.arrayContaining([...doomed]));
      expect([...(await listTombstones(r, NEVER)).keys()]).toEqual([]);
      const names = new Set(walNames(root));
      for (const name of doomedWal) expect(names).not.toContain(name);
      await requireRestorable(r, kept);
    },

    /** How often the step that deletes was begun in the newest run. */
    async attempts(): Promise<number> {
      const { events } = await handle().fetchHistory();
      const scheduled = new Set(
        (events ?? []).flatMap(({ eventId, activityTaskScheduledEventAttributes: about }) =>
          about?.activityType?.name === 'performSweep' ? [String(eventId)] : [],
        ),
      );
      return Math.max(
        0,
        ...(events ?? []).map(({ activityTaskStartedEventAttributes: about }) =>
          about && scheduled.has(String(about.scheduledEventId)) ? Number(about.attempt) : 0,
        ),
      );
    },

    /** As if the minute had passed after which the lease of somebody who died is over. */
    letLeaseRunOut(): void {
      makeOld(join(root, 'walkeep', 'leases', 'sweep'), 61);
    },
  };
}

function makeOld(folder: string, seconds: number): void {
  const then = Date.now() / 1000 - seconds;
  for (const name of readdirSync(folder)) utimesSync(join(folder, name), then, then);
}

async function requireRestorable(r: Repository, backupId: string): Promise<void> {
  const target = { backupID: backupId, targetImmediate: true };
  const plan = await planFromRepository(r, { target, readsWal: false }, { signal: NEVER });
  expect(plan.backupId).toBe(backupId);
}

/** Of archived files, without the suffix of their compression. */
export function walNames(root: string): string[] {
  return readdirSync(join(root, 'wals'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /^[0-9A-F]{8}/.test(entry.name))
    .map(({ name }) => name.replace(/\.(gz|zst|lz4)$/, ''))
    .toSorted();
}

/** Wakes a process that stops itself at failpoints, again and again until `work` has ended. */
export async function whileAwake<Result>(child: Process, work: Promise<Result>): Promise<Result> {
  const timer = setInterval(() => child.signal('SIGCONT'), 100);
  try {
    return await work;
  } finally {
    clearInterval(timer);
  }
}
