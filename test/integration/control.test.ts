import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { beforeAll, expect, it } from 'vitest';
import * as walkeep from '../../workflows/interface.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { missingWal, startSite, type BackupStatus, type Site } from '../support/walkeep.ts';

const MINUTE = 60_000;
const MiB = 2 ** 20;
/** What a Backup object carries beside its name. */
const CARRIED = {
  labels: { 'cnpg.io/scheduled-backup': 'nightly' },
  annotations: { team: 'payments' },
  ownerReferences: [
    { apiVersion: 'postgresql.cnpg.io/v1', kind: 'ScheduledBackup', name: 'nightly', controller: true },
  ],
};

interface KnownBackup {
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly status: Readonly<Record<string, string>>;
}

/** One story on real servers: each test goes on where the one before ended. */
describeWith('temporal', 'control of a real backup', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: Site;

  const pid = () => site.worker.process.pid;
  /** Bytes the worker's process has read, from files and elsewhere. */
  const bytesRead = () => Number(/rchar: (\d+)/.exec(readFileSync(`/proc/${pid()}/io`, 'utf8'))?.[1]);
  const sessions = () =>
    site.postgres.psql<{ pid: number }>(
      `SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'walkeep backup%'`,
    );
  const rateOver = async (ms: number) => {
    const [before, began] = [bytesRead(), performance.now()];
    await sleep(ms);
    return ((bytesRead() - before) / (performance.now() - began)) * 1000;
  };
  /** A Backup that begins slowly, so that there is time to look. */
  const begin = (name: string, maxRate: string) =>
    client.workflow.signalWithStart(walkeep.WORKFLOW.baseBackup, {
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowId: walkeep.backupWorkflowId('default', name),
      args: [{ cluster: site.cluster, name, immediateCheckpoint: true, ...CARRIED }],
      signal: walkeep.throttleSignal,
      signalArgs: [{ maxRate }],
    });
  const copying = () =>
    until('bytes to move', async () => (await sessions()).length === 1 && (await rateOver(500)) > 2 * MiB, {
      timeoutMs: MINUTE,
    });

  beforeAll(async () => {
    temporal = await startTemporal();
    client = await temporal.client();
    site = await startSite({ temporal, major: 15 });
    await site.postgres.psql(
      `CREATE TABLE ledger AS SELECT g, repeat(md5(g::text), 30) AS t FROM generate_series(1, 250000) g`,
    );
    // No hint bits and no autovacuum later, so no WAL: what the worker reads from here on is the backup's.
    await site.postgres.psql('VACUUM (FREEZE) ledger');
    await site.postgres.psql('ALTER TABLE ledger SET (autovacuum_enabled = off)');
    await site.postgres.psql('CHECKPOINT');
    await site.postgres.waitUntilArchived(await site.postgres.switchWal(), 2 * MINUTE);
  }, 3 * MINUTE);

  it('throttled from the beginning: the rate is kept, by threads that give way', async () => {
    await begin('held', '12MiB/s');
    await copying();
    const rate = await rateOver(5_000);
    expect(rate).toBeGreaterThan(12 * MiB * 0.7);
    expect(rate).toBeLessThan(12 * MiB * 1.3);
    const nice = readdirSync(`/proc/${pid()}/task`).map((task) => {
      const stat = readFileSync(`/proc/${pid()}/task/${task}/stat`, 'utf8');
      return Number(stat.slice(stat.lastIndexOf(')')).split(' ')[17]);
    });
    // The policy's default, for the threads of the copy (one has the large table, the other may have ended) and no other.
    expect([1, 2]).toContain(nice.filter((value) => value >= 10).length);
    expect(Math.min(...nice)).toBeLessThan(10);
  });

  it('describe shows how far it is and when it ends', async () => {
    const text = await until(
      'progress to be told',
      async () => {
        const out = await site.machine.succeed('describe', 'backup', 'held');
        return /Progress:.*MiB\/s.*left/.test(out) ? out : undefined;
      },
      { timeoutMs: MINUTE },
    );
    expect(text).toMatch(/Progress: +[\d.]+ MiB of \d+ MiB, \d+ %, [\d.]+ MiB\/s, about \d+ (s|min) left/);
    expect(text).toMatch(/Rate limit: +12.0 MiB\/s/);
  });

  it('B3: paused, no bytes move, the session is alive, and lists say so', async () => {
    const [session] = await sessions();
    expect(await site.machine.succeed('pause', 'held')).toBe('backup/held paused, at most 12.0 MiB/s\n');
    await sleep(500);
    expect(await rateOver(4_000)).toBeLessThan(MiB / 4);
    expect(await sessions()).toEqual([session]);
    expect(await site.machine.succeed('get', 'backups')).toMatch(/held .*running, paused/);
    expect(site.repository.recordedBackups()).toEqual([]);
  });

  it('B1, O2: resumed at another rate it completes, and restores', async () => {
    const [row] = await site.postgres.psql<{ n: number; sum: string }>(
      'SELECT count(*)::int AS n, sum(hashtext(t))::text AS sum FROM ledger',
    );
    await site.machine.succeed('throttle', 'held', '30MiB/s');
    expect(await rateOver(1_000)).toBeLessThan(MiB);
    expect(await site.machine.json('resume', 'held')).toEqual({
      paused: false,
      maxBytesPerSecond: 30 * MiB,
    });
    await site.machine.succeed('throttle', 'held', 'none');
    const status = (await client.workflow
      .getHandle(walkeep.backupWorkflowId('default', 'held'))
      .result()) as BackupStatus;
    expect(status).toMatchObject({ phase: 'completed', backupName: 'held' });
    expect(missingWal(site, status)).toEqual([]);
    const restored = await site.restore();
    expect(
      await restored.psql('SELECT count(*)::int AS n, sum(hashtext(t))::text AS sum FROM ledger'),
    ).toEqual([row]);
    await restored.remove();
    const ended = await site.machine.walkeep('pause', 'held');
    expect(ended.code).toBe(4);
    expect(ended.stderr).toContain('no Backup "held" runs');
  });

  it('B3, O3: cancelled while it is paused: clean, and recorded as cancelled', async () => {
    await begin('dropped', '8MiB/s');
    await copying();
    await site.machine.succeed('pause', 'dropped');
    expect(await site.machine.succeed('cancel', 'dropped', '--wait')).toBe('backup/dropped cancelled\n');
    expect(await sessions()).toEqual([]);
    expect(await site.postgres.psql(`SELECT 1 FROM pg_locks WHERE locktype = 'advisory'`)).toEqual([]);
    expect(site.repository.backupFolders()).toEqual(site.repository.recordedBackups());
    expect(site.repository.recordedBackups()).toHaveLength(1);
    const known = await site.machine.json<KnownBackup>('get', 'backup', 'dropped');
    expect(known.status).toMatchObject({ phase: 'failed', error: 'cancelled' });
  });

  it('what the Backup object carried is shown as CloudNativePG has it, however it ended', async () => {
    for (const name of ['held', 'dropped']) {
      const { metadata } = await site.machine.json<KnownBackup>('get', 'backup', name);
      expect(metadata).toMatchObject({
        name,
        labels: { ...CARRIED.labels, 'cnpg.io/cluster': site.cluster },
        annotations: CARRIED.annotations,
        ownerReferences: CARRIED.ownerReferences,
      });
      expect(await site.machine.succeed('describe', 'backup', name)).toMatch(
        /Owners: +ScheduledBackup\/nightly/,
      );
    }
  });

  it('F2: paused before it began, it does not disturb PostgreSQL; then it is like any other', async () => {
    const handle = await client.workflow.signalWithStart(walkeep.WORKFLOW.baseBackup, {
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowId: walkeep.backupWorkflowId('default', 'later'),
      args: [{ cluster: site.cluster, name: 'later', immediateCheckpoint: true }],
      signal: walkeep.pauseSignal,
    });
    await until('the copy to be there', async () => {
      const { control, phase } = await handle.query(walkeep.backupStatusQuery);
      return phase === 'running' && control?.paused;
    });
    await sleep(2_000);
    expect(await sessions()).toEqual([]);
    await site.machine.succeed('resume', 'later');
    expect(await handle.result()).toMatchObject({ phase: 'completed' });
  });
});
