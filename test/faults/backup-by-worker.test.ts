/**
 * Faults 1–6, 10, 13, 14 and 16 with a real worker, Temporal and PostgreSQL, for backup and archive: one story, each
 * test goes on where the one before ended. The oracles O1 and O3 follow every fault, O2 comes at the end for all backups.
 */
import { existsSync, readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { afterEach, beforeAll, expect, it } from 'vitest';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { startCanary, type Canary, type Commit } from '../support/canary.ts';
import { archiveAll, requireCommits, requireNothingLeft } from '../support/oracles.ts';
import { freePort, type Outcome } from '../support/processes.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { backupManifest, type BackupStatus } from '../support/walkeep.ts';
import { evaluateIn } from './inspector.ts';
import {
  startFaultSite,
  keepAwake,
  startFaultyWorker,
  untilStopped,
  type FaultSite,
  type FaultyWorker,
} from './site.ts';

const MINUTE = 60_000;

describeWith('temporal', 'a backup and archiving by a worker', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: FaultSite;
  let worker: FaultyWorker;
  let canary: Canary;
  let unserved: Promise<Outcome>;
  const names: string[] = [];

  async function startWorker(environment: NodeJS.ProcessEnv = {}): Promise<FaultyWorker> {
    const { machine, cluster, postgres } = site;
    const about = { machine, temporal, cluster, instance: `${cluster}-1`, pgdata: postgres.dataDirectory };
    return startFaultyWorker({ ...about, postgres: postgres.environment, environment });
  }

  /** Replaces the worker that runs, in an orderly way. */
  async function replaceWorker(environment: NodeJS.ProcessEnv = {}): Promise<FaultyWorker> {
    await worker.process.stop('SIGTERM', 40_000);
    worker = await startWorker(environment);
    await worker.waitUntilReady();
    return worker;
  }

  /** Starts a Backup by the command line, which returns at once. @returns how to wait for its end */
  async function beginBackup(name: string, ...args: string[]) {
    await site.machine.succeed('backup', site.cluster, '--name', name, ...args);
    return () => client.workflow.getHandle(`backup/default/${name}`).result() as Promise<BackupStatus>;
  }
  const listed = () => site.repository.recordedBackups();
  const sessions = async () =>
    (await site.postgres.psql(`SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'walkeep backup%'`))
      .length;
  const archiveOne = async () => site.postgres.waitUntilArchived(await site.postgres.switchWal());
  const repository = () =>
    createRepository(openStore({ kind: 'file', directory: site.directory }), site.cluster);

  beforeAll(async () => {
    temporal = await startTemporal();
    client = await temporal.client();
    site = await startFaultSite({
      temporal,
      major: 15,
      segmentSizeMiB: 4,
      compression: { wal: 'gzip', data: 'gzip' },
      // a checkpoint that is spread gives a test time to strike
      config: { checkpoint_timeout: '30s', checkpoint_completion_target: 0.4 },
    });
    canary = site.canary;
    // It waits for two minutes, beside everything else.
    unserved = site.machine.walkeep('backup', 'nobody', '--wait');
    await site.worker.stop();
    worker = await startWorker();
    await worker.waitUntilReady();
  }, 3 * MINUTE);

  afterEach(async () => {
    // O1 and O3, after every fault. What a killed process left in the repository is the sweep's, by its age.
    if (!site?.postgres.isRunning()) return;
    await site.ledger.requireKept(repository());
    await requireNothingLeft({
      postgres: site.postgres,
      states: [site.machine.state],
      dataDirectories: [site.postgres.dataDirectory],
      expectedPids: [worker.process.pid],
    });
    // B2: a name is listed once
    expect(new Set(listed()).size).toBe(names.length);
  });

  it('F2, A2, fault 1: a worker killed before and after it stored a segment: PostgreSQL’s next call archives it', async () => {
    for (const place of ['push.before-store', 'push.stored-not-answered']) {
      await worker.process.stop('SIGTERM', 40_000);
      worker = await startWorker({ WALKEEP_FAILPOINT: `${place}:kill` });
      await until('the agent to listen', () => worker.process.output().includes('archiving agent listens'), {
        timeoutMs: 30_000,
      });
      const name = await site.postgres.switchWal();
      expect(await worker.process.ended, worker.process.output()).toMatchObject({ signal: 'SIGKILL' });
      await site.postgres.waitUntilArchived(name);
    }
    expect(site.ledger.refused().every((code) => code >= 1 && code <= 125)).toBe(true);
    worker = await startWorker();
    await worker.waitUntilReady();
  });

  it('F2, B2, fault 1: a backup whose worker is killed three times, at three places, is recorded once', async () => {
    await replaceWorker({ WALKEEP_FAILPOINT: 'backup.part-uploaded:kill' });
    const ended = await beginBackup('killed', '--immediate-checkpoint');
    for (const next of ['backup.stopped', 'backup.recorded']) {
      expect(await worker.process.ended).toMatchObject({ signal: 'SIGKILL' });
      expect(listed()).toHaveLength(names.length);
      worker = await startWorker({ WALKEEP_FAILPOINT: `${next}:kill` });
    }
    expect(await worker.process.ended).toMatchObject({ signal: 'SIGKILL' });
    worker = await startWorker();
    expect(await ended()).toMatchObject({ phase: 'completed', backupName: 'killed' });
    names.push('killed');
    expect(listed()).toHaveLength(names.length);
  });

  it('F2, A5, fault 2: a worker stopped beyond its heartbeat and woken up: one backup, and archiving goes on meanwhile', async () => {
    await replaceWorker({ WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' });
    const ended = await beginBackup('frozen', '--immediate-checkpoint');
    await untilStopped(worker.process);
    // PostgreSQL's client gives the agent up after seconds, and the full client archives.
    await archiveOne();
    const isGivenUp = async () => {
      const { raw } = await client.workflow.getHandle('backup/default/frozen').describe();
      return (raw.pendingActivities ?? []).some(({ attempt }) => (attempt ?? 0) > 1);
    };
    await until('Temporal to give the attempt up', isGivenUp, { timeoutMs: 60_000 });
    expect(listed()).toHaveLength(names.length);
    keepAwake(worker.process);
    expect(await ended()).toMatchObject({ phase: 'completed' });
    names.push('frozen');
    await archiveOne();
    // The next attempt found the work of the first: it was copied once.
    expect(site.repository.backupFolders().at(-1)).toBe(listed().at(-1));
  });

  it('F2, fault 3: a rolling restart in the middle of a backup: drained, begun anew, nothing left', async () => {
    await site.postgres.psql('CREATE TABLE ballast AS SELECT generate_series(1, 200000) AS n');
    const ended = await beginBackup('rolled');
    await until('the backup session', async () => (await sessions()) > 0);
    const old = worker;
    worker = await startWorker();
    const { code } = await old.process.stop('SIGTERM', 40_000);
    expect(code).toBe(0);
    await archiveOne();
    expect(await ended()).toMatchObject({ phase: 'completed' });
    names.push('rolled');
    // Drained: the attempt that was given up removed what it had uploaded.
    const folders = site.repository.backupFolders();
    const recorded = listed();
    expect(folders.filter((id) => id >= (recorded.at(-2) ?? '') && !recorded.includes(id))).toEqual([]);
  });

  it('F2, fault 4: the event loop blocked beyond the heartbeat, then out of memory: one backup', async () => {
    const port = await freePort();
    await replaceWorker({ NODE_OPTIONS: `--inspect=127.0.0.1:${port} --max-old-space-size=256` });
    await site.postgres.psql('INSERT INTO ballast SELECT generate_series(1, 100000)');
    const ended = await beginBackup('blocked');
    await until('the backup session', async () => (await sessions()) > 0);
    await evaluateIn(port, 'for (const end = Date.now() + 9000; Date.now() < end; );');
    await archiveOne();
    // The kernel's or Node's own end of memory: nothing of the process can be tidied up.
    const dead = worker;
    void evaluateIn(port, 'const hog = []; for (;;) hog.push(new Array(1e6).fill(Math.random()))').catch(
      () => undefined,
    );
    expect((await dead.process.ended).code).not.toBe(0);
    worker = await startWorker();
    expect(await ended()).toMatchObject({ phase: 'completed' });
    names.push('blocked');
    await archiveOne();
  });

  it('B3, fault 5: PostgreSQL killed in mid-backup, and it stays away: the Backup fails, and says why', async () => {
    const ended = await beginBackup('database-killed');
    await until('the backup session', async () => (await sessions()) > 0);
    await site.postgres.kill9();
    await expect(ended()).rejects.toMatchObject({
      cause: { type: 'postgres-unavailable', message: expect.stringContaining(site.cluster) },
    });
    expect(listed()).toHaveLength(names.length);
    const outcomes = readdirSync(join(site.directory, site.cluster, 'walkeep/outcomes'));
    expect(outcomes).toContain('database-killed.json');
    // What was acknowledged stays acknowledged.
    const before = await canary.stop();
    await site.postgres.start();
    const rows = await site.postgres.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      before,
      { possible: 1 },
    );
    await site.postgres.psql('ALTER TABLE canary RENAME TO canary_before');
    canary = await startCanary(site.postgres);
    await archiveOne();
  });

  it('B3, fault 6: with PostgreSQL stopped a backup fails in one line with its exit code, and archiving goes on later', async () => {
    await canary.stop();
    await site.postgres.stop();
    const { code, stderr } = await site.machine.walkeep(
      'backup',
      site.cluster,
      '--name',
      'database-stopped',
      '--wait',
    );
    expect(code, stderr).toBe(8);
    expect(stderr).toMatch(/no instance can take a backup/);
    expect(listed()).toHaveLength(names.length);
    await site.postgres.start();
    await site.postgres.psql('DROP TABLE canary');
    canary = await startCanary(site.postgres);
    await archiveOne();
  });

  it('B3, fault 8: sessions killed and idle ones ended after a second: a new attempt completes, archiving does not notice', async () => {
    for (const timeout of ['idle_session_timeout', 'idle_in_transaction_session_timeout'])
      await site.postgres.psql(`ALTER SYSTEM SET ${timeout} = '1s'`);
    await site.postgres.reload();
    const ended = await beginBackup('cut-off');
    await until('the backup session', async () => (await sessions()) > 0);
    await site.postgres.psql(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'walkeep%'`,
    );
    await archiveOne();
    expect(await ended()).toMatchObject({ phase: 'completed' });
    names.push('cut-off');
    for (const timeout of ['idle_session_timeout', 'idle_in_transaction_session_timeout'])
      await site.postgres.psql(`ALTER SYSTEM RESET ${timeout}`);
    await site.postgres.reload();
    // The attempt that was interrupted removed what it had uploaded.
    expect(site.repository.backupFolders().at(-1)).toBe(listed().at(-1));
  });

  it('B1, fault 10: with archive_mode off a backup is refused before anything is begun, and the line says what to do', async () => {
    await canary.stop();
    await site.postgres.psql(`ALTER SYSTEM SET archive_mode = 'off'`);
    await site.postgres.restart();
    const before = site.repository.backupFolders();
    const { code, stderr } = await site.machine.walkeep(
      'backup',
      site.cluster,
      '--name',
      'unsuitable',
      '--wait',
    );
    expect(code, stderr).toBe(8);
    expect(stderr).toMatch(/walkeep: .*archive_mode is off.*; .*archive_mode/);
    expect(site.repository.backupFolders()).toEqual(before);
    await site.postgres.psql(`ALTER SYSTEM RESET archive_mode`);
    await site.postgres.restart();
    await site.postgres.psql('DROP TABLE canary');
    canary = await startCanary(site.postgres);
    await archiveOne();
  });

  it('A5, fault 16: with the repository gone in mid-backup the Backup fails, WAL stays, and both heal', async () => {
    const ended = await beginBackup('store-gone');
    await until('the backup session', async () => (await sessions()) > 0);
    renameSync(site.directory, `${site.directory}.away`);
    try {
      await expect(ended()).rejects.toMatchObject({
        cause: { type: expect.stringMatching(/bucket-missing|store-unavailable/) },
      });
      const name = await site.postgres.switchWal();
      await until('a refusal', () => site.ledger.refused().length > 0, { timeoutMs: 60_000 });
      expect(existsSync(join(site.postgres.dataDirectory, 'pg_wal', name))).toBe(true);
      expect(site.ledger.confirmed()).not.toContain(name);
    } finally {
      renameSync(`${site.directory}.away`, site.directory);
    }
    expect(site.ledger.refused().every((code) => code >= 1 && code <= 125)).toBe(true);
    await archiveOne();
    const again = await beginBackup('store-back', '--immediate-checkpoint');
    expect(await again()).toMatchObject({ phase: 'completed' });
    names.push('store-back');
  });

  it('F5, fault 13: Temporal away in mid-backup: it is copied once, archiving goes on, and the run ends by itself', async () => {
    const ended = await beginBackup('outage');
    await until('the backup session', async () => (await sessions()) > 0);
    await temporal.kill9();
    await archiveOne();
    await until('the copy to end', async () => (await sessions()) === 0, { timeoutMs: 60_000 });
    await temporal.start();
    const before = site.repository.backupFolders().length;
    expect(await ended()).toMatchObject({ phase: 'completed' });
    names.push('outage');
    expect(site.repository.backupFolders()).toHaveLength(before);
  });

  it('of a cluster that nobody serves, a Backup fails in one line that says what is missing, outage or not', async () => {
    const { code, stdout, stderr } = await unserved;
    expect(code, stderr).toBe(5);
    expect(stdout).toBe('');
    expect(stderr.trim().split('\n').at(-1)).toMatch(
      /^walkeep: .*walkeep\/default\/nobody.*; start walkeep worker next to the database/,
    );
  });

  it('F5, fault 14: Temporal’s state lost in mid-backup: nothing counts twice, and apply brings everything back', async () => {
    const manifests = [...site.manifests, backupManifest('declared', site.cluster)];
    await site.machine.apply(...manifests);
    await until('the backup session', async () => (await sessions()) > 0, { timeoutMs: 60_000 });
    await temporal.kill9();
    temporal.deleteState();
    await temporal.start();
    await archiveOne();
    await worker.waitUntilReady();
    await site.machine.apply(...manifests);
    const phase = async () => {
      const status = await site.machine.json<{ status: BackupStatus }>('get', 'backups', 'declared');
      return status.status.phase === 'completed';
    };
    await until('the Backup to complete', phase, { timeoutMs: 90_000, everyMs: 1000 });
    names.push('declared');
    await sleep(1000);
    expect(listed()).toHaveLength(names.length);
    // Once more: it is not taken again.
    await site.machine.apply(...manifests);
    await sleep(2000);
    expect(listed()).toHaveLength(names.length);
  });

  it('O1, O2: every segment that was answered 0 is there, and each backup that counts restores to every commit', async () => {
    const commits: readonly Commit[] = await archiveAll(canary, site.postgres);
    expect((await site.ledger.requireKept(repository())).length).toBeGreaterThan(names.length);
    const backups = await site.machine.json<{
      items: { status: BackupStatus; metadata: { name: string } }[];
    }>('get', 'backups');
    const completed = backups.items.filter(({ status }) => status.phase === 'completed');
    expect(completed.map(({ metadata }) => metadata.name).toSorted()).toEqual(names.toSorted());
    await worker.process.stop('SIGTERM', 40_000);
    await site.postgres.stop();
    // The oldest replays everything that happened here; of the others it is enough that they become consistent.
    const [oldest, ...others] = completed.map(({ status }) => status.backupId).toSorted();
    const restored = await site.restore('--backup-id', oldest ?? '');
    const rows = await restored.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await restored.stop();
    const inTurn = async (ids: string[]) => {
      for (let id = ids.pop(); id !== undefined; id = ids.pop()) {
        const consistent = await site.restore('--backup-id', id, '--target-immediate');
        expect(consistent.recovery.state).toBe('promoted');
        await consistent.stop();
      }
    };
    await Promise.all([inTurn(others), inTurn(others)]);
  });
});
