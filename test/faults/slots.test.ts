/**
 * A schedule by a real worker, Temporal and PostgreSQL, under the faults of the matrix in turn: at the end every slot has
 * one outcome, and those that ran have one Backup.
 */
import { readdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, it } from 'vitest';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { clusterManifest } from '../support/walkeep.ts';
import { startFaultSite, startFaultyWorker, type FaultSite, type FaultyWorker } from './site.ts';

const MINUTE = 60_000;
const EVERY_S = 4;
const SCHEDULE = {
  apiVersion: 'postgresql.cnpg.io/v1',
  kind: 'ScheduledBackup',
  metadata: { name: 'often' },
  spec: { schedule: `*/${EVERY_S} * * * * *`, cluster: { name: 'main' } },
};

interface Slot {
  readonly slot: string;
  readonly outcome: 'ran' | 'skipped' | 'missed';
  readonly backupName?: string;
}

describeWith('temporal', 'the slots of a schedule', () => {
  let temporal: TemporalServer;
  let site: FaultSite;
  let worker: FaultyWorker;
  let cluster: object;

  async function startWorker(environment: NodeJS.ProcessEnv = {}): Promise<FaultyWorker> {
    const { machine, cluster, postgres } = site;
    const about = { machine, temporal, cluster, instance: 'main-1', pgdata: postgres.dataDirectory };
    return startFaultyWorker({ ...about, postgres: postgres.environment, environment });
  }

  function slots(): Slot[] {
    const folder = join(site.directory, 'main', 'walkeep', 'slots', 'often');
    return readdirSync(folder)
      .filter((name) => /^\d{14}\.json$/.test(name))
      .toSorted()
      .map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')) as Slot);
  }
  const ran = () => slots().filter(({ outcome }) => outcome === 'ran').length;
  /** Until two more slots have run: whatever was broken has healed. */
  async function untilItRunsAgain(): Promise<void> {
    const before = ran();
    await until('the schedule to run again', () => ran() >= before + 2, { timeoutMs: 90_000 });
  }

  beforeAll(async () => {
    temporal = await startTemporal();
    site = await startFaultSite({
      temporal,
      major: 15,
      segmentSizeMiB: 4,
      compression: { wal: 'gzip', data: 'gzip' },
    });
    const store = site.barmanObjectStore;
    cluster = clusterManifest('main', {
      backup: { barmanObjectStore: { ...store, data: { compression: 'gzip', immediateCheckpoint: true } } },
    });
    await site.worker.stop();
    worker = await startWorker();
    await worker.waitUntilReady();
    await site.machine.apply(cluster, SCHEDULE);
    await until('the first slot to run', () => site.repository.recordedBackups().length > 0, {
      timeoutMs: MINUTE,
    });
  }, 3 * MINUTE);

  it(
    'F6, fault 1, 2, 3: the worker killed, stopped and replaced: the schedule goes on',
    async () => {
      await worker.process.stop('SIGKILL');
      await sleep(2 * EVERY_S * 1000);
      worker = await startWorker();
      await untilItRunsAgain();
      worker.process.signal('SIGSTOP');
      await sleep(2 * EVERY_S * 1000);
      worker.process.signal('SIGCONT');
      await untilItRunsAgain();
      await worker.process.stop('SIGTERM', 40_000);
      worker = await startWorker();
      await untilItRunsAgain();
    },
    5 * MINUTE,
  );

  it(
    'F6, fault 5, 6: PostgreSQL killed and away for some slots: their Backups fail or wait, the next ones run',
    async () => {
      await site.postgres.kill9();
      await sleep(2 * EVERY_S * 1000);
      await site.postgres.start();
      await untilItRunsAgain();
    },
    3 * MINUTE,
  );

  it(
    'F6, fault 16: the store away while slots are due: what could not be decided is decided in the end',
    async () => {
      const away = `${site.directory}.away`;
      renameSync(site.directory, away);
      await sleep(3 * EVERY_S * 1000);
      renameSync(away, site.directory);
      await untilItRunsAgain();
    },
    3 * MINUTE,
  );

  it(
    'F6, F5, fault 13: Temporal stopped and started: the newest slot is made up for, the others are missed',
    async () => {
      await temporal.kill9();
      await sleep(4 * EVERY_S * 1000);
      await temporal.start();
      await untilItRunsAgain();
    },
    3 * MINUTE,
  );

  it(
    'F6, F5, fault 14: Temporal’s state lost: nothing runs until apply, which rebuilds the schedule too',
    async () => {
      await temporal.kill9();
      temporal.deleteState();
      await temporal.start();
      // Nothing but the Cluster is applied: its schedule is known to the worker that stored it.
      await site.machine.apply(cluster);
      await untilItRunsAgain();
    },
    3 * MINUTE,
  );

  it(
    'F6, fault 36: a second starter of a slot’s run takes no second Backup',
    async () => {
      const done = backupNames().findLast((name) => name.startsWith('often-')) ?? '';
      expect(slots().find(({ backupName }) => backupName === done)?.outcome).toBe('ran');
      // Whoever asks for it again, by hand or because Temporal forgot it, is told how it ended.
      await site.machine.walkeep('backup', 'main', '--name', done, '--wait');
      expect(backupNames().filter((name) => name === done)).toHaveLength(1);
    },
    2 * MINUTE,
  );

  it(
    'F6: every slot since the first has one outcome, and every Backup is that of one slot that ran',
    async () => {
      await site.machine.succeed('delete', 'scheduledbackup', 'often');
      const end = Date.now();
      const missing = () => {
        const all = slots().map(({ slot }) => Date.parse(slot));
        const known = new Set(all);
        const expected: number[] = [];
        for (let at = all[0] ?? 0; at < end - 2 * EVERY_S * 1000; at += EVERY_S * 1000) expected.push(at);
        return expected.filter((at) => !known.has(at)).map((at) => new Date(at).toISOString());
      };
      await until('every slot to have an outcome', () => missing().length === 0, { timeoutMs: MINUTE }).catch(
        () => {},
      );
      expect(missing()).toEqual([]);
      const names = backupNames().filter((name) => name.startsWith('often-'));
      expect(names.length).toBeGreaterThan(5);
      expect(new Set(names).size).toBe(names.length);
      const told = new Set(
        slots().flatMap(({ outcome, backupName }) => (outcome === 'ran' ? [backupName] : [])),
      );
      for (const name of names) expect(told).toContain(name);
      expect(ran()).toBeGreaterThan(10);
    },
    3 * MINUTE,
  );

  /** Of all recorded backups, from their own records. */
  function backupNames(): string[] {
    return site.repository.recordedBackups().flatMap((id) => {
      const text = readFileSync(join(site.directory, 'main', 'base', id, 'backup.info'), 'utf8');
      return /^backup_name=(.*)$/m.exec(text)?.[1] ?? [];
    });
  }
});
