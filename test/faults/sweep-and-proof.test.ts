/**
 * Sweeps and verifications by a real worker, Temporal and PostgreSQL, under the faults of the matrix. One story: each
 * test goes on where the one before ended. After each fault what is left is what it should be, and can be restored.
 */
import { existsSync, readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { afterEach, beforeAll, expect, it } from 'vitest';
import type { Verification } from '../../core/verification.ts';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import {
  startFaultSite,
  startFaultyWorker,
  untilStopped,
  type FaultSite,
  type FaultyWorker,
} from './site.ts';
import { SHORT_POLICY, sweepsOf, whileAwake, type Sweeping } from './sweeping.ts';

const MINUTE = 60_000;

describeWith('temporal', 'sweeps and proofs by a worker', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: FaultSite;
  let worker: FaultyWorker;
  let sweeping: Sweeping;
  let scratch: string;

  async function startWorker(
    environment: NodeJS.ProcessEnv = {},
    instance = 'main-1',
  ): Promise<FaultyWorker> {
    const { machine, cluster, postgres } = site;
    const pgdata = instance === 'main-1' ? postgres.dataDirectory : join(makeTempDir('absent'), 'none');
    const about = { machine, temporal, cluster, instance, pgdata };
    return startFaultyWorker({ ...about, postgres: postgres.environment, environment });
  }

  async function replaceWorker(environment: NodeJS.ProcessEnv = {}): Promise<void> {
    if (worker.process.isRunning()) await worker.process.stop('SIGTERM', 40_000);
    worker = await startWorker(environment);
    await worker.waitUntilReady();
  }

  let verifications = 0;
  /** Starts a verification of the newest backup. @returns how to wait for its evidence */
  async function beginVerification(): Promise<() => Promise<Verification>> {
    verifications += 1;
    const workflowId = `verification/default/main/v${verifications}`;
    const input = { cluster: 'main', scratchDirectory: scratch };
    await client.workflow.start('restoreVerification', { workflowId, taskQueue: 'walkeep', args: [input] });
    return () => client.workflow.getHandle(workflowId).result() as Promise<Verification>;
  }
  const isUnpacking = () => existsSync(scratch) && readdirSync(scratch).length > 0;

  beforeAll(async () => {
    temporal = await startTemporal();
    client = await temporal.client();
    site = await startFaultSite({
      temporal,
      major: 15,
      segmentSizeMiB: 4,
      compression: { wal: 'gzip', data: 'gzip' },
    });
    scratch = makeTempDir('scratch');
    giveToServerUser(scratch);
    await site.machine.apply(SHORT_POLICY);
    const { directory } = site;
    sweeping = sweepsOf({
      client,
      repository: () => createRepository(openStore({ kind: 'file', directory }), 'main'),
      root: join(directory, 'main'),
    });
    await site.worker.stop();
    worker = await startWorker();
    await worker.waitUntilReady();
  }, 3 * MINUTE);

  afterEach(async () => {
    // O3: nothing of a verification is left
    if (!scratch) return;
    await until('the scratch directory to be empty', () => readdirSync(scratch).length === 0, {
      timeoutMs: MINUTE,
    });
  });

  it('C6, F2, fault 1, 2, 3: a verification whose worker is killed, stopped and replaced is done by the next one', async () => {
    await site.backup('proved');
    const ended = await beginVerification();
    await until('it to unpack', isUnpacking, { timeoutMs: MINUTE, everyMs: 10 });
    await worker.process.stop('SIGKILL');
    worker = await startWorker();
    await worker.waitUntilReady();
    expect(await ended()).toMatchObject({ result: 'verified' });

    const second = await beginVerification();
    await until('it to unpack', isUnpacking, { timeoutMs: MINUTE, everyMs: 10 });
    worker.process.signal('SIGSTOP');
    await sleep(8_000);
    worker.process.signal('SIGCONT');
    await replaceWorker();
    expect(await second()).toMatchObject({ result: 'verified' });
  });

  it('D4, F2, fault 1, 3: a worker killed in the middle of a sweep, and one that is replaced: the same set goes', async () => {
    const set = await sweeping.makeDeletable();
    await replaceWorker({ WALKEEP_FAILPOINT: 'sweep.data-deleted:kill' });
    await sweeping.begin();
    expect(await worker.process.ended).toMatchObject({ signal: 'SIGKILL' });
    sweeping.letLeaseRunOut();
    worker = await startWorker({ WALKEEP_FAILPOINT: 'sweep.before-delete-record:stop' });
    await untilStopped(worker.process);
    await whileAwake(worker.process, replaceWorker());
    await sweeping.result();
    await sweeping.requireSwept(set);
  });

  it('F1, fault 2, 37: a sweeper that is stopped beyond its heartbeat and its lease is fenced; another host finishes', async () => {
    const set = await sweeping.makeDeletable();
    await replaceWorker({ WALKEEP_FAILPOINT: 'sweep.before-delete-data:stop' });
    await sweeping.begin();
    await untilStopped(worker.process);
    const other = await startWorker({}, 'main-2');
    sweeping.letLeaseRunOut();
    await sweeping.result();
    // WAL that was young when the first one began may be left to the next one.
    await sweeping.sweep();
    await sweeping.requireSwept(set);
    await whileAwake(worker.process, sleep(4_000));
    await sweeping.requireSwept(set);
    await worker.process.stop('SIGKILL');
    worker = await startWorker();
    await worker.waitUntilReady();
    await other.process.stop('SIGTERM', 40_000);
  });

  it('F5, C6, fault 13: Temporal away in the middle of a verification and of a sweep: both end by themselves', async () => {
    const ended = await beginVerification();
    await temporal.kill9();
    await sleep(10_000);
    await temporal.start();
    expect(await ended()).toMatchObject({ result: 'verified' });
    const set = await sweeping.makeDeletable();
    await replaceWorker({ WALKEEP_FAILPOINT: 'sweep.before-delete-data:stop' });
    await sweeping.begin();
    await untilStopped(worker.process);
    await temporal.kill9();
    await whileAwake(worker.process, sleep(6_000));
    await temporal.start();
    await whileAwake(worker.process, sweeping.result());
    await sweeping.requireSwept(set);
    await whileAwake(worker.process, replaceWorker());
  });

  it('D3, C6, fault 16: the store away: nothing is deleted, nothing is called damaged, and both heal', async () => {
    const set = await sweeping.makeDeletable();
    const away = `${site.directory}.away`;
    renameSync(site.directory, away);
    let proof: Verification;
    try {
      const local = await site.machine.walkeep('sweep', 'main', '--local', '--yes');
      expect(local.code).not.toBe(0);
      proof = await (await beginVerification())();
    } finally {
      renameSync(away, site.directory);
    }
    expect(proof.result).toBe('not-tried');
    await sweeping.requireUntouched(set);
    await sweeping.sweep();
    await sweeping.requireSwept(set);
  });

  it('F1, fault 36: two sweepers at the same moment, by the command line and by the workflow: the set goes once', async () => {
    const set = await sweeping.makeDeletable();
    const [, local] = await Promise.all([
      sweeping.begin(),
      site.machine.walkeep('sweep', 'main', '--local', '--yes'),
    ]);
    await sweeping.result();
    // Whoever came second waited, or was refused and said who holds the lease.
    if (local.code !== 0) expect(local.stderr).toMatch(/sweep/);
    await sweeping.requireSwept(set);
  });

  it('C6, fault 5, 6: with PostgreSQL killed and away backups are swept and proved all the same', async () => {
    const set = await sweeping.makeDeletable();
    await site.postgres.kill9();
    await sweeping.sweep();
    expect(await (await beginVerification())()).toMatchObject({ result: 'verified' });
    await sweeping.requireSwept(set);
    await site.postgres.start();
  });

  it('F5, fault 14: Temporal’s state lost: nothing is deleted until the manifests are applied again', async () => {
    const set = await sweeping.makeDeletable();
    await temporal.kill9();
    temporal.deleteState();
    await temporal.start();
    // By hand, since there is no keeper that would begin one: the worker still holds what was applied.
    const report = await sweeping.sweep();
    expect(report.refused).toMatch(/the Cluster default\/main is not applied any more/);
    expect(report.counts).toMatchObject({ marked: 0, deletedBackups: 0, deletedWal: 0 });
    await sweeping.requireUntouched(set);
    await site.machine.apply(...site.manifests);
    await sweeping.sweep();
    await sweeping.requireSwept(set);
  });
});
