/**
 * Fault 7: the standby that is being backed up is promoted, the old primary is rewound, and later promoted again. One
 * story with two hosts, each with a worker and a state of its own; the oracles O1 and O3 follow every turn, O2 the last.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import { afterEach, beforeAll, expect, it } from 'vitest';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import type { ClusterStatus } from '../../workflows/interface.ts';
import { startCanary, type Canary, type Commit } from '../support/canary.ts';
import { createLedger, requireCommits, requireNothingLeft, type Ledger } from '../support/oracles.ts';
import type { Postgres } from '../support/postgres.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { createMachine, type BackupStatus, type Machine } from '../support/walkeep.ts';
import {
  keepAwake,
  startFaultSite,
  startFaultyWorker,
  untilStopped,
  type FaultSite,
  type FaultyWorker,
} from './site.ts';

/** An instance of the cluster with its host. */
interface Member {
  readonly instance: string;
  readonly machine: Machine;
  readonly postgres: Postgres;
  worker: FaultyWorker;
}

/** Makes a server that was shut down in order a standby of another. */
function follow(server: Postgres, primary: string): void {
  server.configure({ primary_conninfo: primary, recovery_target_timeline: 'latest' });
  const signal = join(server.dataDirectory, 'standby.signal');
  writeFileSync(signal, '');
  giveToServerUser(signal);
}

describeWith('temporal', 'a cluster whose roles change', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: FaultSite;
  let one: Member;
  let two: Member;
  let ledger: Ledger;
  const ledgers: Ledger[] = [];
  const commits = new Map<string, readonly Commit[]>();
  const completed: BackupStatus[] = [];

  const startWorker = (member: Omit<Member, 'worker'>, environment: NodeJS.ProcessEnv = {}) =>
    startFaultyWorker({
      machine: member.machine,
      temporal,
      cluster: site.cluster,
      instance: member.instance,
      pgdata: member.postgres.dataDirectory,
      postgres: member.postgres.environment,
      environment,
    });
  async function replaceWorker(member: Member, environment: NodeJS.ProcessEnv = {}): Promise<void> {
    await member.worker.process.stop('SIGTERM', 40_000);
    member.worker = await startWorker(member, environment);
    await member.worker.waitUntilReady();
  }
  async function beginBackup(name: string) {
    await one.machine.succeed('backup', site.cluster, '--name', name, '--immediate-checkpoint');
    return () => client.workflow.getHandle(`backup/default/${name}`).result() as Promise<BackupStatus>;
  }
  const status = () =>
    client.workflow.getHandle(`cluster/default/${site.cluster}`).query<ClusterStatus>('status');
  const role = async (member: Member) =>
    (await status()).instances.find(({ instance }) => instance === member.instance)?.role;
  const archiveOne = async ({ postgres }: Member) => postgres.waitUntilArchived(await postgres.switchWal());
  const wals = (prefix: string) => site.repository.walFiles().filter((name) => name.startsWith(prefix));

  /** Its own line, with its own ledger: that of its primary came along with the data directory. */
  async function archiveBy(member: Member): Promise<void> {
    const { dataDirectory } = member.postgres;
    const line = await until('the manifest to be on this host', () =>
      member.machine.succeed('archive-command', '--cluster', site.cluster, '--pgdata', dataDirectory),
    );
    const command = /^archive_command = '(.*)'$/m.exec(line)?.[1]?.replaceAll("''", "'") ?? '';
    expect(command).not.toBe('');
    ledger = createLedger();
    ledgers.push(ledger);
    member.postgres.configure({ archive_command: ledger.around(command) });
    if (member.postgres.isRunning()) await member.postgres.reload();
  }

  /** What was acknowledged, and has reached the other server: the next primary has all of it. */
  async function endCanary(canary: Canary, table: string, primary: Member): Promise<void> {
    commits.set(table, await canary.stop());
    await until('the standby to have replayed all', async () => {
      const [row] = await primary.postgres.psql<{ behind: boolean }>(
        'SELECT coalesce(bool_or(replay_lsn < pg_current_wal_lsn()), true) AS behind FROM pg_stat_replication',
      );
      return row?.behind === false;
    });
  }

  beforeAll(async () => {
    temporal = await startTemporal();
    client = await temporal.client();
    site = await startFaultSite({
      temporal,
      major: 15,
      segmentSizeMiB: 4,
      compression: { wal: 'gzip', data: 'gzip' },
      config: { wal_keep_size: '512MB', checkpoint_timeout: '30s' },
    });
    ledgers.push(site.ledger);
    one = {
      instance: `${site.cluster}-1`,
      machine: site.machine,
      postgres: site.postgres,
      worker: { process: site.worker.process, waitUntilReady: () => site.worker.waitUntilReady() },
    };
    const standby = await site.postgres.createStandby();
    const member = {
      instance: `${site.cluster}-2`,
      machine: createMachine({ temporal, postgres: standby }),
      postgres: standby,
    };
    two = {
      ...member,
      worker: await startWorker(member, { WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' }),
    };
    await two.worker.waitUntilReady();
    await archiveBy(two);
    await until('the keeper to know the standby', async () => (await role(two)) === 'standby', {
      timeoutMs: 60_000,
    });
  }, 180_000);

  afterEach(async () => {
    const repository = createRepository(openStore({ kind: 'file', directory: site.directory }), site.cluster);
    for (const each of ledgers) {
      await each.requireKept(repository);
      expect(each.refused().every((code) => code >= 1 && code <= 125)).toBe(true);
    }
    const running = [one, two].filter(({ postgres }) => postgres.isRunning());
    await requireNothingLeft({
      postgres: running.map(({ postgres }) => postgres),
      states: [one.machine.state, two.machine.state],
      dataDirectories: running.map(({ postgres }) => postgres.dataDirectory),
      expectedPids: [one.worker.process.pid, two.worker.process.pid],
    });
    expect(site.repository.recordedBackups()).toHaveLength(completed.length);
  });

  it('B6, A4, fault 7: the standby is promoted in mid-backup, the primary dead: an honest retry, and archiving follows', async () => {
    const ended = await beginBackup('promoted');
    // prefer-standby: it is the standby's worker that copies.
    await untilStopped(two.worker.process);
    await endCanary(site.canary, 'canary', one);
    await one.postgres.kill9();
    await two.postgres.promote();
    // What the next timeline needs is there before anything of it, though the worker is still stopped.
    keepAwake(two.worker.process);
    const taken = await ended();
    expect(taken).toMatchObject({ phase: 'completed', instanceID: { podName: two.instance } });
    completed.push(taken);
    // The first attempt was on timeline 1, and counts for nothing.
    expect(taken.beginWal.slice(0, 8)).toBe('00000002');
    expect(site.repository.backupFolders()).toEqual(site.repository.recordedBackups());
    await archiveOne(two);
    expect(wals('00000002')[0]).toBe('00000002.history');
    expect(wals('00000002').length).toBeGreaterThan(1);
  });

  it('A4, A6, B6, fault 7: archiving follows the primary without a hole; the old one is rewound in mid-backup and archives nothing', async () => {
    // A worker that starts says what it is at once; one that runs looks every half minute.
    await replaceWorker(two, { WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' });
    const canary = await startCanary(two.postgres, { table: 'canary_two' });
    const ended = await beginBackup('rewound');
    await untilStopped(two.worker.process);
    const { dataDirectory } = one.postgres;
    const { PGHOST, PGPORT } = two.postgres.environment;
    await one.postgres.run('pg_rewind', [
      `--target-pgdata=${dataDirectory}`,
      `--source-server=host=${PGHOST} port=${PGPORT} user=postgres dbname=postgres`,
      '--write-recovery-conf',
      '--no-sync',
    ]);
    // pg_rewind brought the other's settings along.
    one.postgres.configure({
      port: one.postgres.port,
      unix_socket_directories: one.postgres.socketDirectory,
    });
    await archiveBy(one);
    await one.postgres.start();
    keepAwake(two.worker.process);
    const taken = await ended();
    expect(taken).toMatchObject({ phase: 'completed', instanceID: { podName: two.instance } });
    completed.push(taken);
    await canary.waitFor(5);
    await archiveOne(two);
    expect(ledger.confirmed()).toEqual([]);
    await endCanary(canary, 'canary_two', two);
    await until(
      'archiving to be observed on the new primary',
      async () => {
        const { archiving } = await status();
        return archiving?.instance === two.instance && archiving.health === 'working';
      },
      { timeoutMs: 90_000, everyMs: 500 },
    );
    const checked = await two.machine.walkeep('check', site.cluster);
    expect(checked.stdout + checked.stderr).not.toMatch(/hole|missing/);
  });

  it('B6, A4, fault 7: a switchover under load in mid-backup: the retry is on the new standby, on the third timeline', async () => {
    await replaceWorker(two);
    await replaceWorker(one, { WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' });
    await until('the keeper to know the standby', async () => (await role(one)) === 'standby', {
      timeoutMs: 60_000,
    });
    const ended = await beginBackup('switched');
    await untilStopped(one.worker.process);
    await two.postgres.psql('CREATE TABLE ballast AS SELECT generate_series(1, 100000) AS n');
    await two.postgres.stop();
    await one.postgres.promote();
    // A standby begins where its primary had its last checkpoint: before that a backup of it would be on two timelines.
    await one.postgres.psql('CHECKPOINT');
    const canary = await startCanary(one.postgres, { table: 'canary_one' });
    const { PGHOST, PGPORT } = one.postgres.environment;
    follow(two.postgres, `host=${PGHOST} port=${PGPORT} user=postgres`);
    await two.postgres.start();
    keepAwake(one.worker.process);
    const taken = await ended();
    completed.push(taken);
    expect(taken.phase).toBe('completed');
    expect(taken.beginWal.slice(0, 8)).toBe('00000003');
    expect(taken.instanceID?.podName).toBe(two.instance);
    expect(site.repository.backupFolders()).toEqual(site.repository.recordedBackups());
    await canary.waitFor(canary.commits.length + 5);
    commits.set('canary_one', await canary.stop());
    await archiveOne(one);
    expect(wals('00000003')[0]).toBe('00000003.history');
  });

  it('O1, O2, C4, fault 7: each backup restores, over three timelines, to every commit that was acknowledged', async () => {
    for (const { backupId } of completed) {
      const restored = await site.restore('--backup-id', backupId);
      expect(restored.recovery.state).toBe('promoted');
      expect(restored.plan.targetTimeline).toBe(3);
      for (const [table, acknowledged] of commits) {
        const rows = await restored.psql<{ id: string }>(`SELECT id FROM ${table} ORDER BY id`);
        requireCommits(
          rows.map(({ id }) => id),
          acknowledged,
        );
      }
      await restored.remove();
    }
  });
});
