import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { idsUpTo, readCanary, startCanary, type Canary } from '../support/canary.ts';
import { openPostgres, type Postgres } from '../support/postgres.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeEachMajor } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import {
  archiveBy,
  backupManifest,
  clusterManifest,
  createMachine,
  restoreAndStart,
  startSite,
  type BackupStatus,
  type Machine,
  type Site,
  type Worker,
} from '../support/walkeep.ts';

const MINUTE = 60_000;

interface BackupList {
  readonly items: readonly { readonly metadata: { readonly name: string }; readonly status: BackupStatus }[];
}

interface CheckItem {
  readonly item: string;
  readonly state: string;
  readonly found: string;
}

/** One story, told in order: each test goes on where the one before ended. */
describeEachMajor(
  'Temporal alone, and without it',
  (major) => {
    let temporal: TemporalServer;
    let site: Site;
    let worker: Worker;
    let canary: Canary;
    let moment: { readonly after: number; readonly at: string };

    beforeAll(async () => {
      temporal = await startTemporal();
      site = await startSite({
        temporal,
        major,
        // A checkpoint that takes its time, though not a test's: there is a middle of a backup to be hit.
        config: { archive_timeout: '5min', checkpoint_timeout: '30s', checkpoint_completion_target: 0.3 },
        compression: { wal: 'gzip', data: 'gzip' },
      });
      ({ worker } = site);
      canary = await startCanary(site.postgres);
      await canary.waitFor(3);
    }, 3 * MINUTE);

    /** `temporal workflow start` with nothing but JSON, then `temporal workflow result`. */
    async function run(type: string, workflowId: string, input: object): Promise<unknown> {
      const given = ['--type', type, '--task-queue', 'walkeep', '--input', JSON.stringify(input)];
      await temporal.cli('workflow', 'start', '--workflow-id', workflowId, ...given);
      return result(workflowId);
    }
    /** Waits for the end of what the keeper starts, too. */
    async function result(workflowId: string): Promise<unknown> {
      await until(`${workflowId} to be there`, () => temporal.cli('workflow', 'describe', '-w', workflowId));
      const answer = JSON.parse(
        await temporal.cli('workflow', 'result', '--workflow-id', workflowId, '-o', 'json'),
      ) as { status: string; result: unknown };
      expect(answer.status).toBe('COMPLETED');
      return answer.result;
    }
    /** Deletes a workflow and its history; that takes the server a moment. */
    async function forget(workflowId: string): Promise<void> {
      await temporal.cli('workflow', 'delete', '--yes', '-w', workflowId);
      const isGone = () =>
        temporal.cli('workflow', 'describe', '-w', workflowId).then(
          () => false,
          () => true,
        );
      await until(`${workflowId} to be deleted`, isGone);
    }
    /** Name, phase and id of each backup, as the command line lists them. */
    const listed = async (): Promise<string[]> => {
      const { items } = await site.machine.json<BackupList>('get', 'backups');
      return items
        .map(({ metadata, status }) => `${metadata.name} ${status.phase} ${status.backupId}`)
        .toSorted();
    };
    const check = async (): Promise<{ code: number; items: CheckItem[] }> => {
      const { code, stdout } = await site.machine.walkeep('check', site.cluster, '-o', 'json');
      return { code, items: JSON.parse(stdout) as CheckItem[] };
    };
    /** Every moment up to the present is in the archive after this. */
    async function archiveAll(): Promise<void> {
      await canary.waitFor(canary.commits.length + 2);
      await site.postgres.waitUntilArchived(await site.postgres.switchWal());
    }
    async function nextMoment(): Promise<{ after: number; at: string }> {
      await canary.waitFor(canary.commits.length + 2);
      const after = canary.commits.length;
      const at = canary.momentAfter(after).toISOString();
      await archiveAll();
      return { after, at };
    }

    it('baseBackup started with nothing but JSON: its result is CloudNativePG’s status, its history shows it', async () => {
      const status = await run('baseBackup', 'backup/default/by-json', {
        cluster: 'main',
        immediateCheckpoint: true,
      });
      expect(status).toMatchObject({
        phase: 'completed',
        backupName: 'by-json',
        method: 'barmanObjectStore',
        beginWal: expect.stringMatching(/^00000001[0-9A-F]{16}$/),
        endLSN: expect.stringMatching(/^[0-9A-F]+\/[0-9A-F]+$/),
        instanceID: { podName: 'main-1' },
      });
      const { backupId } = status as BackupStatus;
      expect(site.repository.recordedBackups()).toEqual([backupId]);
      const history = await temporal.cli('workflow', 'show', '-w', 'backup/default/by-json', '-o', 'json');
      const { events } = JSON.parse(history) as { events: { eventType: string }[] };
      expect(events.at(-1)?.eventType).toBe('EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED');
      expect(await listed()).toEqual([`by-json completed ${backupId}`]);
    });

    it('restore started with nothing but JSON, on a machine that knows the place only: the rows of that moment', async () => {
      moment = await nextMoment();
      const target = await createTarget(temporal, 'by-hand');
      const restored = await run('restore', 'restore/default/by-hand', {
        cluster: 'by-hand',
        source: { name: site.cluster, barmanObjectStore: site.barmanObjectStore },
        recoveryTarget: { targetTime: moment.at },
      });
      expect(restored).toMatchObject({
        outcome: 'restored',
        targetDirectory: target.pgdata,
        isVerified: true,
      });
      const server = await target.open(major);
      expect(await readCanary(server)).toEqual(idsUpTo(moment.after));
      await server.stop();
      await target.worker.stop();
    });

    it('a Backup of a manifest is taken once, however often the manifest is applied', async () => {
      const backup = backupManifest('declared', site.cluster);
      expect(await site.machine.apply(...site.manifests, backup)).toEqual([
        'cluster.postgresql.cnpg.io/main unchanged',
        'backup.postgresql.cnpg.io/declared created',
      ]);
      await until(
        'the Backup to end',
        async () => (await listed()).some((line) => line.startsWith('declared completed')),
        { timeoutMs: MINUTE },
      );
      expect(await site.machine.apply(backup)).toEqual(['backup.postgresql.cnpg.io/declared unchanged']);
      expect(site.repository.backupFolders()).toHaveLength(2);
    });

    it('F1, fault 14: Temporal’s state lost in the middle of a Backup: applied again it is taken once, and nothing is held', async () => {
      const sessions = async (): Promise<number> =>
        (
          await site.postgres.psql(
            `SELECT FROM pg_stat_activity WHERE application_name LIKE 'walkeep backup%'`,
          )
        ).length;
      const backup = backupManifest('hit', site.cluster);
      await site.postgres.psql('CREATE TABLE dirty AS SELECT generate_series(1, 30000) AS n');
      await site.machine.apply(backup);
      await until('the backup to be under way', async () => (await sessions()) > 0);
      await temporal.kill9();
      temporal.deleteState();
      await temporal.start();
      await worker.waitUntilReady();
      await site.machine.apply(...site.manifests, backup);
      const status = (await result('backup/default/hit')) as BackupStatus;
      expect((await listed()).filter((line) => line.startsWith('hit '))).toEqual([
        `hit completed ${status.backupId}`,
      ]);
      expect(site.repository.recordedBackups()).toHaveLength(3);
      expect(await sessions()).toBe(0);
    });

    it('F5: with Temporal down a worker starts and archives, and check says what is what', async () => {
      const before = await listed();
      const healthy = await check();
      expect(healthy.items.filter(({ state }) => state === 'problem')).toEqual([]);
      expect(healthy.code).toBe(0);

      await temporal.kill9();
      await worker.stop();
      worker = await site.machine.startWorker({
        cluster: site.cluster,
        instance: 'main-1',
        pgdata: site.postgres.dataDirectory,
      });
      await archiveAll();
      expect(worker.process.output()).toMatch(/archiving agent listens/);
      expect(await worker.isReady()).toBe(false);

      const { items } = await check();
      const about = (word: RegExp) => items.filter(({ item }) => word.test(item));
      expect(about(/Temporal/i).map(({ state }) => state)).not.toContain('ok');
      for (const one of items)
        if (!/Temporal|worker of/i.test(one.item)) expect(one.state, JSON.stringify(one)).toBe('ok');
      // The record is the repository's.
      expect(await listed()).toEqual(before);
      const refused = await site.machine.walkeep('backup', site.cluster, '--wait');
      expect(refused.code).toBe(5);
      expect(refused.stderr).toMatch(/Temporal/);
    });

    it('F5: a restore needs neither Temporal nor a worker', async () => {
      const server = await restoreAndStart(
        site.machine,
        major,
        'restore',
        site.cluster,
        '--target-time',
        moment.at,
      );
      expect(await readCanary(server)).toEqual(idsUpTo(moment.after));
      await server.remove();
    });

    it('F5, F1: Temporal’s state deleted and the manifest applied again: nothing runs twice, nothing is lost', async () => {
      const before = await listed();
      const folders = site.repository.backupFolders();
      temporal.deleteState();
      await temporal.start();
      await worker.waitUntilReady();
      await site.machine.apply(...site.manifests, backupManifest('declared', site.cluster));
      const status = await result('backup/default/declared');
      expect(before).toContain(`declared completed ${(status as BackupStatus).backupId}`);
      expect(await listed()).toEqual(before);
      expect(site.repository.backupFolders()).toEqual(folders);
      await until('archiving to be watched again', async () => (await check()).code === 0);
      await archiveAll();
      const { phase } = await site.backup('afterwards');
      expect(phase).toBe('completed');
      expect(site.repository.backupFolders()).toHaveLength(folders.length + 1);
    });

    it('bootstrap.recovery drives a restore, which becomes a cluster with an archive of its own', async () => {
      const target = await createTarget(temporal, 'reborn');
      const manifest = clusterManifest('reborn', {
        bootstrap: {
          recovery: { source: site.cluster, recoveryTarget: { targetTime: moment.at } },
        },
        externalClusters: [{ name: site.cluster, barmanObjectStore: site.barmanObjectStore }],
        backup: { barmanObjectStore: site.barmanObjectStore },
      });
      await target.machine.apply(manifest);
      expect(await result('restore/default/reborn')).toMatchObject({ outcome: 'restored', isVerified: true });
      const server = await target.open(major);
      expect(await readCanary(server)).toEqual(idsUpTo(moment.after));

      // As the restore says: archiving has to be asked for.
      await archiveBy(target.machine, 'reborn', server);
      await server.psql('ALTER SYSTEM RESET archive_mode');
      await server.restart();
      const second = await startCanary(server, { table: 'canary_2' });
      await second.waitFor(2);
      const backup: BackupStatus = await target.machine.json(
        'backup',
        'reborn',
        '--name',
        'of-the-new-one',
        '--immediate-checkpoint',
        '--wait',
      );
      expect(backup).toMatchObject({ phase: 'completed', serverName: 'reborn' });
      expect(backup.beginWal).toMatch(/^00000002/);
      await second.waitFor(second.commits.length + 2);
      const commits = await second.stop();
      await server.waitUntilArchived(await server.switchWal());
      const again = await restoreAndStart(target.machine, major, 'restore', 'reborn');
      expect(again.plan).toMatchObject({ backupId: backup.backupId, targetTimeline: 2 });
      expect(await readCanary(again)).toEqual(idsUpTo(moment.after));
      expect(await readCanary(again, 'canary_2')).toEqual(idsUpTo(commits.length));
      await again.remove();

      // A cluster that is there is not restored once more, whatever Temporal has forgotten.
      expect(await target.machine.apply(manifest)).toEqual(['cluster.postgresql.cnpg.io/reborn unchanged']);
      for (const id of ['cluster/default/reborn', 'restore/default/reborn']) await forget(id);
      await target.machine.apply(manifest);
      expect(await result('restore/default/reborn')).toEqual({ outcome: 'already-there' });
      expect(await readCanary(server, 'canary_2')).toEqual(idsUpTo(commits.length));
      await canary.stop();
      await Promise.all([target.worker.stop(), worker.stop()]);
    });
  },
  [17],
);

/** A machine with a worker that waits for a restore into a directory that is not there yet. */
async function createTarget(
  temporal: TemporalServer,
  cluster: string,
): Promise<{
  machine: Machine;
  worker: Worker;
  pgdata: string;
  open: (major: Postgres['major']) => Promise<Postgres>;
}> {
  const sockets = makeTempDir('sock');
  const environment = { PGHOST: sockets, PGPORT: '5432', PGUSER: 'postgres', PGDATABASE: 'postgres' };
  const machine = createMachine({ temporal, postgres: { environment } });
  const pgdata = join(makeTempDir('target'), 'data');
  const worker = await machine.startWorker({ cluster, instance: `${cluster}-1`, pgdata });
  await worker.waitUntilReady();
  expect(existsSync(pgdata)).toBe(false);
  giveToServerUser(sockets);
  return {
    machine,
    worker,
    pgdata,
    async open(major) {
      const server = await openPostgres({ major, dataDirectory: pgdata });
      server.configure({ unix_socket_directories: `${server.socketDirectory}, ${sockets}` });
      await server.start();
      await server.waitUntilPromoted();
      return server;
    },
  };
}
