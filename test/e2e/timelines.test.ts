import { rmSync } from 'node:fs';
import { beforeAll, expect, it } from 'vitest';
import { idsUpTo, readCanary, startCanary } from '../support/canary.ts';
import type { Postgres } from '../support/postgres.ts';
import { startTemporal } from '../support/temporal.ts';
import { describeEachMajor, type Major } from '../support/tools.ts';
import {
  archiveBy,
  createMachine,
  missingWal,
  startSite,
  type BackupStatus,
  type Restored,
  type Site,
} from '../support/walkeep.ts';

const MINUTE = 60_000;

/** A moment in a gap of a canary, after its commit `after`. */
interface Moment {
  readonly after: number;
  readonly at: string;
}

/**
 * A primary and its standby, backed up from the standby. Then the standby is promoted while the primary goes on for a
 * while, unseen: two timelines grow side by side in one archive. In the end both servers are gone.
 */
interface Story {
  readonly site: Site;
  readonly backups: Readonly<Record<'idle' | 'busy' | 'promoted', BackupStatus>>;
  /** WAL that was not in the repository when its backup was said to be complete. */
  readonly missing: readonly string[];
  /** What the standby itself had archived when its backups were complete. */
  readonly archivedByStandby: number;
  readonly beforeFork: Moment;
  /** The old primary's rows that the standby had when it was promoted. */
  readonly atFork: readonly number[];
  /** Of the old primary, after the fork. */
  readonly onOld: Moment;
  /** Of the promoted standby's own canary, `canary_2`. */
  readonly onNew: Moment;
  readonly allOnNew: number;
}

describeEachMajor(
  'two timelines in one archive, and backups from a standby',
  (major) => {
    let story: Story;
    beforeAll(async () => {
      story = await tellStory(major);
    }, 3 * MINUTE);

    async function restored(
      args: readonly string[],
      look: (server: Restored) => Promise<void>,
    ): Promise<void> {
      const server = await story.site.restore(...args);
      await look(server);
      await server.remove();
    }
    const hasSecondCanary = async (server: Restored): Promise<boolean> =>
      (await server.psql(`SELECT FROM pg_class WHERE relname = 'canary_2'`)).length > 0;

    it('B1: prefer-standby takes it there, and its WAL comes from the primary’s archiver, idle or not', () => {
      const { idle, busy, promoted } = story.backups;
      for (const backup of [idle, busy]) {
        expect(backup).toMatchObject({ phase: 'completed', instanceID: { podName: 'main-2' } });
        expect(backup.endWal).toMatch(/^00000001/);
      }
      expect(story.missing).toEqual([]);
      expect(story.archivedByStandby).toBe(0);
      expect(promoted).toMatchObject({ phase: 'completed', instanceID: { podName: 'main-2' } });
      expect(promoted.endWal).toMatch(/^00000002/);
    });

    it('A4, A7: both timelines and the history between them are archived', () => {
      const files = story.site.repository.walFiles();
      expect(files).toContain('00000002.history');
      const after = (timeline: string) => files.filter((name) => name.startsWith(timeline)).length;
      expect(after('00000001')).toBeGreaterThan(1);
      expect(after('00000002')).toBeGreaterThan(1);
    });

    it('C4, O2: a moment before the fork, from the standby’s backup', async () => {
      await restored(['--target-time', story.beforeFork.at], async (server) => {
        expect(server.plan.backupId).toBe(story.backups.busy.backupId);
        expect(await readCanary(server)).toEqual(idsUpTo(story.beforeFork.after));
        expect(await hasSecondCanary(server)).toBe(false);
      });
    });

    it('C4, O2: a moment on the old timeline, after the fork: what only the old primary had', async () => {
      const { after, at } = story.onOld;
      await restored(['--target-time', at, '--target-timeline', '1'], async (server) => {
        expect(server.plan.targetTimeline).toBe(1);
        expect(after).toBeGreaterThan(story.atFork.length);
        expect(await readCanary(server)).toEqual(idsUpTo(after));
        expect(await hasSecondCanary(server)).toBe(false);
        // 2 is taken, as the archive tells.
        expect(server.recovery.timeline).toBe(3);
      });
    });

    it('C4, O2: a moment on the new timeline: the common past, then only what the new primary had', async () => {
      const { after, at } = story.onNew;
      await restored(['--target-time', at], async (server) => {
        expect(server.plan).toMatchObject({ targetTimeline: 2, backupId: story.backups.busy.backupId });
        expect(await readCanary(server)).toEqual(story.atFork);
        expect(await readCanary(server, 'canary_2')).toEqual(idsUpTo(after));
      });
    });

    it('C4, O2: the newest state, from the backup of the new timeline', async () => {
      await restored([], async (server) => {
        expect(server.plan).toMatchObject({ targetTimeline: 2, backupId: story.backups.promoted.backupId });
        expect(await readCanary(server)).toEqual(story.atFork);
        expect(await readCanary(server, 'canary_2')).toEqual(idsUpTo(story.allOnNew));
      });
    });
  },
  [15],
);

async function tellStory(major: Major): Promise<Story> {
  const temporal = await startTemporal();
  const site = await startSite({ temporal, major, compression: { wal: 'gzip', data: 'gzip' } });
  const primary = site.postgres;
  const standby = await primary.createStandby();
  const machine = createMachine({ temporal, postgres: standby });
  const worker = await machine.startWorker({
    cluster: site.cluster,
    instance: 'main-2',
    pgdata: standby.dataDirectory,
  });
  await worker.waitUntilReady();
  await archiveBy(machine, site.cluster, standby);

  const idle = await site.backup('idle', '--target', 'prefer-standby');
  const missing = missingWal(site, idle);
  const canary = await startCanary(primary);
  await canary.waitFor(5);
  const busy = await site.backup('busy', '--target', 'prefer-standby');
  missing.push(...missingWal(site, busy));
  const [archiver] = await standby.psql<{ count: number }>(
    'SELECT archived_count::int AS count FROM pg_stat_archiver',
  );
  await canary.waitFor(canary.commits.length + 2);
  const beforeFork = momentIn(canary);
  await canary.waitFor(canary.commits.length + 2);

  await standby.promote();
  const atFork = await readCanary(standby);
  const second = await startCanary(standby, { table: 'canary_2' });
  await canary.waitFor(Math.max(canary.commits.length, atFork.length) + 3);
  const onOld = momentIn(canary);
  await second.waitFor(3);
  const onNew = momentIn(second);
  await canary.waitFor(onOld.after + 2);
  await primary.waitUntilArchived(await primary.switchWal());
  await canary.stop();
  await lose(primary);
  await site.worker.process.kill9();

  await second.waitFor(onNew.after + 2);
  const promoted: BackupStatus = await machine.json(
    'backup',
    site.cluster,
    '--name',
    'promoted',
    '--immediate-checkpoint',
    '--wait',
  );
  await second.waitFor(second.commits.length + 2);
  const allOnNew = (await second.stop()).length;
  await standby.waitUntilArchived(await standby.switchWal());
  await lose(standby);
  await worker.process.kill9();
  return {
    site,
    backups: { idle, busy, promoted },
    missing,
    archivedByStandby: archiver?.count ?? -1,
    beforeFork,
    atFork,
    onOld,
    onNew,
    allOnNew,
  };
}

function momentIn(canary: { readonly commits: readonly unknown[]; momentAfter(id: number): Date }): Moment {
  const after = canary.commits.length;
  return { after, at: canary.momentAfter(after).toISOString() };
}

async function lose(server: Postgres): Promise<void> {
  await server.kill9();
  rmSync(server.dataDirectory, { recursive: true });
}
