/**
 * A schedule by a real worker, Temporal, PostgreSQL and S3 under the faults that slots.test.ts has not. One story: each
 * test goes on where the one before ended. In the end every slot has one outcome, and each that ran has one Backup that
 * ended once.
 */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { beforeAll, expect, it } from 'vitest';
import { WORKFLOW, WORKFLOW_QUEUE } from '../../workflows/interface.ts';
import type { Commit } from '../support/canary.ts';
import { archiveAll, requireCommits } from '../support/oracles.ts';
import { freePort, runSuccessfully, startProcess } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { clusterManifest } from '../support/walkeep.ts';
import { createClock, faketimeLibrary } from './clock.ts';
import { evaluateIn } from './inspector.ts';
import { startKeyedSite, type KeyedSite } from './keyed-site.ts';
import { startLink, type Link } from './link.ts';
import { oldCode } from './old-code.ts';
import { startFaultyWorker, untilStopped, type FaultyWorker } from './site.ts';
import { SHORT_POLICY, walNames } from './sweeping.ts';

const EVERY_S = 4;
const SLOTS_MS = (count: number): number => count * EVERY_S * 1000;
const SCHEDULE = {
  apiVersion: 'postgresql.cnpg.io/v1',
  kind: 'ScheduledBackup',
  metadata: { name: 'often' },
  spec: { schedule: `*/${EVERY_S} * * * * *`, cluster: { name: 'main' } },
};
const library = faketimeLibrary();

interface Slot {
  readonly slot: string;
  readonly outcome: 'ran' | 'skipped' | 'missed';
  readonly backupName?: string;
}

describeWith(['temporal', 'versitygw'], 'the slots of a schedule, under faults', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: KeyedSite;
  let link: Link;
  let worker: FaultyWorker;
  let cluster: object;
  let root: string;
  let commits: readonly Commit[];
  let inspectorPort: number;
  /** Without an outcome when Temporal's state was lost: nobody knows of them any more. */
  let forgotten: readonly string[] = [];

  async function startWorker(environment: NodeJS.ProcessEnv = {}): Promise<void> {
    const { machine, postgres } = site;
    inspectorPort = await freePort();
    worker = await startFaultyWorker({
      machine,
      temporal,
      cluster: 'main',
      instance: 'main-1',
      pgdata: postgres.dataDirectory,
      postgres: {
        ...postgres.environment,
        PGHOST: '127.0.0.1',
        PGPORT: String(link.port),
        PGCONNECT_TIMEOUT: '2',
      },
      environment: { NODE_OPTIONS: `--inspect=127.0.0.1:${inspectorPort}`, ...environment },
    });
    await worker.waitUntilReady();
  }

  function slots(): Slot[] {
    const folder = join(root, 'walkeep', 'slots', 'often');
    if (!existsSync(folder)) return [];
    return readdirSync(folder)
      .filter((name) => /^\d{14}\.json$/.test(name))
      .toSorted()
      .map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')) as Slot);
  }
  const ran = () =>
    slots().flatMap(({ outcome, backupName = '' }) => (outcome === 'ran' ? [backupName] : []));
  const phaseOf = (name: string): string | undefined => {
    const path = join(root, 'walkeep', 'outcomes', `${name}.json`);
    if (!existsSync(path)) return undefined;
    return (JSON.parse(readFileSync(path, 'utf8')) as { status: { phase: string } }).status.phase;
  };
  /** What Temporal knows of Backups without an outcome: one that failed because the store refused it could not write one. */
  const withoutOutcome = async () => {
    const names = ran().filter((name) => phaseOf(name) === undefined && !forgotten.includes(name));
    const statusOf = async (name: string) =>
      client.workflow
        .getHandle(`backup/default/${name}`)
        .describe()
        .then(
          ({ status }) => status.name,
          () => 'not begun',
        );
    return Promise.all(names.map(async (name) => ({ name, status: await statusOf(name) })));
  };
  /** Until a slot that is due from now on has run, and its Backup is complete. */
  async function untilItRunsAgain(): Promise<void> {
    const before = new Set(ran());
    const isComplete = () => ran().some((name) => !before.has(name) && phaseOf(name) === 'completed');
    await until('a Backup of a new slot to be complete', isComplete, { timeoutMs: 120_000, everyMs: 200 });
  }
  /** Names of all recorded backups, from their own records. */
  const recorded = () =>
    readdirSync(join(root, 'base')).flatMap((id) => {
      const path = join(root, 'base', id, 'backup.info');
      return existsSync(path) ? (/^backup_name=(.*)$/m.exec(readFileSync(path, 'utf8'))?.[1] ?? []) : [];
    });
  /** Days on which attempts were begun, by the clocks of their workers. */
  const claimDays = () => {
    const attempts = join(root, 'walkeep', 'attempts');
    return readdirSync(attempts)
      .filter((name) => /^\d{8}T\d{6}\.json$/.test(name))
      .map(
        (name) => (JSON.parse(readFileSync(join(attempts, name), 'utf8')) as { claimedAt: string }).claimedAt,
      )
      .map((time) => time.slice(0, 10));
  };
  const untilOneCopies = () =>
    until('a Backup to hold its session', async () => {
      const query = `SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'walkeep backup%'`;
      return (await site.postgres.psql(query)).length > 0;
    });

  beforeAll(async () => {
    temporal = await startTemporal();
    client = await temporal.client();
    site = await startKeyedSite({
      temporal,
      major: 15,
      segmentSizeMiB: 4,
      compression: { wal: 'gzip', data: 'gzip' },
      tcp: true,
    });
    root = join(site.s3.directory, site.s3.bucket, 'deep', 'main');
    link = await startLink(site.postgres.port);
    await site.worker.stop();
    await startWorker();
    // From here on nobody writes: the database is idle.
    await site.canary.waitFor(5);
    commits = await archiveAll(site.canary, site.postgres);
    const { barmanObjectStore: store } = site;
    cluster = clusterManifest('main', {
      backup: { barmanObjectStore: { ...store, data: { compression: 'gzip', immediateCheckpoint: true } } },
    });
    const policy = structuredClone(SHORT_POLICY);
    policy.spec.retention.keepLast = 3;
    await site.machine.apply(cluster, policy, SCHEDULE);
    await untilItRunsAgain();
  });

  it('F6, fault 11, 26, 37: an idle database, a hole in its archive, and sweeps meanwhile', async () => {
    const wals = join(root, 'wals');
    const isSegment = (name: string) => /[/][0-9A-F]{24}(\.gz)?$/.test(name);
    const [oldest = ''] = readdirSync(wals, { recursive: true }).map(String).filter(isSegment).toSorted();
    rmSync(join(wals, oldest));
    for (let round = 0; round < 2; round += 1) {
      await client.workflow.execute(WORKFLOW.retentionSweep, {
        workflowId: 'sweep/default/main',
        workflowIdConflictPolicy: 'USE_EXISTING',
        taskQueue: WORKFLOW_QUEUE,
        args: [{ cluster: 'main' }],
      });
      await untilItRunsAgain();
    }
  });

  it('F6, fault 18, 19: three in ten requests refused, and answers that are reset in the middle', async () => {
    site.weather.become({ refused: 0.3, reset: 0.02 });
    await untilItRunsAgain();
    expect(site.weather.counts().refused).toBeGreaterThan(5);
    site.weather.become({});
  });

  it('F6, fault 4, 8, 12: its event loop blocked, sessions killed and idle ones ended, a burst of WAL', async () => {
    const { postgres } = site;
    await untilOneCopies();
    await evaluateIn(inspectorPort, `for (const end = Date.now() + ${SLOTS_MS(2)}; Date.now() < end; );`);
    await untilItRunsAgain();
    await postgres.psql(`ALTER SYSTEM SET idle_session_timeout = '1s'`);
    await postgres.reload();
    await untilOneCopies();
    await postgres.psql(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'walkeep%'`,
    );
    await postgres.psql('CREATE TABLE burst AS SELECT generate_series(1, 1000000) AS id; DROP TABLE burst');
    await untilItRunsAgain();
    await postgres.psql('ALTER SYSTEM RESET idle_session_timeout');
    await postgres.reload();
  });

  it('F6, fault 34: no way to the server for two slots', async () => {
    link.cut('reset');
    await sleep(SLOTS_MS(2));
    link.mend();
    await untilItRunsAgain();
  });

  it('F6, fault 16, 21, 38: the store refuses everything, the credential expires, the secret is rotated', async () => {
    site.weather.become({ refused: 1 });
    await sleep(SLOTS_MS(2));
    site.weather.become({ expiresAfter: 0 });
    await sleep(SLOTS_MS(2));
    site.weather.become({});
    await untilItRunsAgain();
    await untilOneCopies();
    await site.rotateKey();
    await untilItRunsAgain();
  });

  it('F6, fault 7: the server is promoted in mid-backup', async () => {
    const { postgres } = site;
    await untilOneCopies();
    await postgres.stop('immediate');
    const signal = join(postgres.dataDirectory, 'standby.signal');
    writeFileSync(signal, '');
    giveToServerUser(signal);
    await postgres.start();
    await postgres.promote();
    await untilItRunsAgain();
    expect(walNames(root)).toContain('00000002.history');
  });

  it.skipIf(library === undefined)(
    'F6, fault 35: its clock two days ahead, and two days behind: slots are those of Temporal’s clock (needs libfaketime)',
    async () => {
      const clock = await createClock(library ?? '');
      await worker.process.stop('SIGTERM', 40_000);
      await startWorker(clock.environment);
      for (const days of [2, -2, 0]) {
        clock.set(`${days < 0 ? '' : '+'}${days}d`);
        await sleep(1_500);
        const day = new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);
        await untilItRunsAgain();
        // Ids of backups never go back, but who took one says when, by the clock of the worker.
        expect(claimDays()).toContain(day);
      }
      const now = Date.now();
      expect(slots().filter(({ slot }) => Date.parse(slot) > now + 1_000)).toEqual([]);
    },
  );

  it('F6, fault 36: a second start of the run of each of the newest slots finds its outcome, and takes no Backup', async () => {
    const some = slots().slice(-3);
    for (const { slot, outcome, backupName } of some) {
      const again = client.workflow.execute(WORKFLOW.scheduledBackup, {
        // As a Schedule names it: the due time is told by it.
        workflowId: `scheduledbackup/default/often-${slot}`,
        workflowIdConflictPolicy: 'USE_EXISTING',
        taskQueue: WORKFLOW_QUEUE,
        args: [{ cluster: 'main', scheduledBackup: 'often' }],
      });
      const told = await again.catch(() => ({ phase: 'failed' }));
      expect(told).toMatchObject(outcome === 'ran' ? { phase: phaseOf(backupName ?? '') } : { outcome });
      const now = slots().filter((one) => one.slot === slot);
      expect(now).toMatchObject([{ outcome, ...(backupName !== undefined && { backupName }) }]);
    }
    const names = recorded();
    expect(names).toEqual([...new Set(names)]);
  });

  it('F6, F3, F5, fault 14, 15: Temporal’s state lost, applied to older code, which is replaced in mid-backup', async () => {
    await worker.process.stop('SIGTERM', 40_000);
    const open = await withoutOutcome();
    expect(open.filter(({ status }) => status !== 'FAILED').length).toBeLessThan(2);
    forgotten = open.map(({ name }) => name);
    await temporal.kill9();
    temporal.deleteState();
    await temporal.start();
    const program = join(oldCode(), 'scripts/walkeep');
    const { machine, postgres } = site;
    const env = {
      ...process.env,
      ...postgres.environment,
      ...temporal.environment,
      WALKEEP_STATE: machine.state,
    };
    const args = ['worker', '--cluster', 'main', '--instance', 'main-1', '--pgdata', postgres.dataDirectory];
    const old = startProcess(program, [...args, '--grace', '2'], {
      user: serverUser,
      env: { ...env, WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' },
    });
    await until('it to be connected', () => old.output().includes('connected to Temporal'), {
      timeoutMs: 60_000,
    });
    const file = join(makeTempDir('manifest'), 'all.yaml');
    writeFileSync(file, JSON.stringify(cluster));
    giveToServerUser(file);
    await runSuccessfully(program, ['apply', '-f', file], { user: serverUser, env });
    const manual = await client.workflow.start(WORKFLOW.scheduledBackup, {
      workflowId: 'by-hand',
      taskQueue: WORKFLOW_QUEUE,
      args: [{ cluster: 'main' }],
    });
    await untilStopped(old);
    await old.kill9();
    await startWorker();
    expect(await manual.result()).toMatchObject({ phase: 'completed' });
    await machine.apply(cluster, SCHEDULE);
    await untilItRunsAgain();
  });

  it('F6: every slot since the first has one outcome, and each that ran has one Backup, which ended once', async () => {
    await site.machine.succeed('delete', 'scheduledbackup', 'often');
    const end = Date.now();
    const missing = () => {
      const known = new Set(slots().map(({ slot }) => Date.parse(slot)));
      const expected: number[] = [];
      for (let at = Math.min(...known); at < end - SLOTS_MS(2); at += SLOTS_MS(1)) expected.push(at);
      return expected.filter((at) => !known.has(at)).map((at) => new Date(at).toISOString());
    };
    await until('every slot to have an outcome', () => missing().length === 0, { timeoutMs: 60_000 }).catch(
      () => expect(missing()).toEqual([]),
    );
    const names = ran();
    expect(new Set(names).size).toBe(names.length);
    expect(names.length).toBeGreaterThan(10);
    const unended = async () => (await withoutOutcome()).filter(({ status }) => status !== 'FAILED');
    await until('every Backup to have ended', async () => (await unended()).length === 0, {
      timeoutMs: 60_000,
    }).catch(async () => expect(await unended()).toEqual([]));
    const taken = recorded().filter((name) => name.startsWith('often-'));
    expect(new Set(taken).size).toBe(taken.length);
    for (const name of taken) {
      expect(names).toContain(name);
      expect(phaseOf(name)).toBe('completed');
    }
  });

  it('O2: the newest of them is restored: every commit is there', async () => {
    await site.postgres.waitUntilArchived(await site.postgres.switchWal());
    const restored = await site.restore();
    const rows = await restored.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await restored.remove();
  });
});
