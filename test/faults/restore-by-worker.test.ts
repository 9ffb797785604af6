/**
 * Faults 1–4, 13 and 14 for a restore by a real worker and Temporal, struck in the middle of unpacking: the repository
 * is read through a proxy that lets so few bytes pass that there is time.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { afterEach, beforeAll, expect, it } from 'vitest';
import type { Commit } from '../support/canary.ts';
import { archiveAll, requireCommits, requireNothingLeft } from '../support/oracles.ts';
import { openPostgres } from '../support/postgres.ts';
import { freePort } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import {
  restoreStatusQuery,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type RestoreOutcome,
} from '../../workflows/interface.ts';
import { evaluateIn } from './inspector.ts';
import { startProxy, type Proxy } from './proxy.ts';
import { startFaultSite, startFaultyWorker, type FaultSite, type FaultyWorker } from './site.ts';

/** A backup of about 4 MB takes some 15 s. */
const SLOW_BYTES_PER_SECOND = 250_000;

describeWith(['temporal', 'versitygw'], 'a restore by a worker', () => {
  let temporal: TemporalServer;
  let client: Client;
  let site: FaultSite;
  let proxy: Proxy;
  let commits: readonly Commit[];
  let before: readonly string[];
  let worker: FaultyWorker | undefined;
  let target: string;

  beforeAll(async () => {
    temporal = await startTemporal();
    client = await temporal.client();
    site = await startFaultSite({
      temporal,
      major: 15,
      segmentSizeMiB: 4,
      store: 's3',
      compression: { wal: 'gzip', data: 'gzip' },
    });
    await site.canary.waitFor(5);
    await site.backup('nightly');
    commits = await archiveAll(site.canary, site.postgres);
    await site.worker.stop();
    await site.postgres.stop();
    proxy = await startProxy(String(site.barmanObjectStore['endpointURL']));
    before = contents();
  }, 180_000);

  afterEach(() => {
    // C5: a restore only reads.
    expect(contents()).toEqual(before);
  });

  const contents = () => [...site.repository.backupFolders(), ...site.repository.walFiles()];

  const startWorker = async (environment: NodeJS.ProcessEnv = {}): Promise<FaultyWorker> => {
    const about = {
      machine: site.machine,
      temporal,
      cluster: 'reborn',
      instance: 'reborn-1',
      pgdata: target,
    };
    worker = await startFaultyWorker({ ...about, environment });
    return worker;
  };

  /** A worker of its own with an empty place, a slow way, and a restore that has begun to unpack. */
  async function beginRestore(name: string, environment: NodeJS.ProcessEnv = {}) {
    target = join(makeTempDir('target'), 'data');
    proxy.limit(SLOW_BYTES_PER_SECOND);
    await startWorker(environment);
    const start = async () =>
      client.workflow.start(WORKFLOW.restore, {
        workflowId: `restore/default/${name}`,
        taskQueue: WORKFLOW_QUEUE,
        args: [
          {
            cluster: 'reborn',
            source: {
              name: site.cluster,
              barmanObjectStore: { ...site.barmanObjectStore, endpointURL: proxy.url },
            },
          },
        ],
      });
    const handle = await start();
    await untilUnpacking();
    return { handle, start };
  }
  const files = () =>
    existsSync(join(target, 'base')) ? readdirSync(join(target, 'base'), { recursive: true }).length : 0;
  const untilUnpacking = () => until('files to appear', () => files() > 20, { timeoutMs: 60_000 });

  /** A dead worker is noticed after two minutes; an operator who does not want to wait does this. */
  const shortenHeartbeat = (name: string) =>
    temporal.cli(
      'activity',
      'update-options',
      '-w',
      `restore/default/${name}`,
      '-a',
      'restore',
      '--heartbeat-timeout',
      '4s',
    );

  /** Lets the rest through, and looks at what came of it: O2 and O3. */
  async function requireRestored(handle: { result(): Promise<unknown> }): Promise<void> {
    proxy.limit();
    expect((await handle.result()) as RestoreOutcome).toMatchObject({
      outcome: 'restored',
      isVerified: true,
    });
    await worker?.process.stop('SIGTERM', 40_000);
    await requireNothingLeft({ states: [site.machine.state], dataDirectories: [target] });
    const postgres = await openPostgres({ major: 15, dataDirectory: target });
    await postgres.start();
    await postgres.waitUntilPromoted();
    const rows = await postgres.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await postgres.stop();
  }
  const isStartable = () => existsSync(join(target, 'global/pg_control'));

  it('C2, F2, O2, fault 1, 3: its worker killed, the next one restarted: begun anew in the same place, and whole', async () => {
    const { handle } = await beginRestore('killed');
    await shortenHeartbeat('killed');
    // Served, and yet nobody applied it.
    const unknown = await site.machine.walkeep('backup', 'reborn', '--wait');
    expect(unknown).toMatchObject({
      code: 4,
      stderr: expect.stringMatching(/walkeep: .*"default\/reborn".*; apply the manifest/),
    });
    await worker?.process.kill9();
    expect(isStartable()).toBe(false);
    const next = await startWorker();
    await until(
      'it to begin anew',
      () => /"activity":"performRestore"|restoring/.test(next.process.output()) || files() > 0,
      { timeoutMs: 60_000 },
    );
    await next.waitUntilReady();
    await sleep(6_000);
    expect((await next.process.stop('SIGTERM', 40_000)).code).toBe(0);
    expect(isStartable()).toBe(false);
    await startWorker();
    await requireRestored(handle);
  });

  it('F2, O2, fault 2, 4: stopped, and then its event loop blocked, beyond the heartbeat: the work goes on and is taken once', async () => {
    const port = await freePort();
    const { handle } = await beginRestore('frozen', { NODE_OPTIONS: `--inspect=127.0.0.1:${port}` });
    await shortenHeartbeat('frozen');
    worker?.process.signal('SIGSTOP');
    await sleep(7_000);
    worker?.process.signal('SIGCONT');
    await sleep(2_000);
    await evaluateIn(port, 'for (const end = Date.now() + 7000; Date.now() < end; );');
    await requireRestored(handle);
  });

  it('F5, O2, fault 13: Temporal away in the middle: the restore goes on, and the run ends by itself', async () => {
    const { handle } = await beginRestore('outage');
    await temporal.kill9();
    const had = files();
    proxy.limit(4 * SLOW_BYTES_PER_SECOND);
    await until('more files', () => files() > had, { timeoutMs: 30_000 });
    await temporal.start();
    await requireRestored(handle);
  });

  it('F5, O2, fault 14: Temporal’s state lost in the middle: the same restore asked for again ends whole', async () => {
    const { start } = await beginRestore('lost');
    // Nobody is attached to the work any more, and it must not be over before it is asked for again.
    proxy.limit(SLOW_BYTES_PER_SECOND / 2.5);
    await temporal.kill9();
    temporal.deleteState();
    await temporal.start();
    await worker?.waitUntilReady();
    const handle = await start();
    const isRestoring = async () => (await handle.query(restoreStatusQuery)).phase === 'restoring';
    await until('the second one to take over', isRestoring, { timeoutMs: 60_000, everyMs: 500 });
    await sleep(2_000);
    await requireRestored(handle);
    // C1: and never a second time over what is there by now.
    await startWorker();
    await expect(client.workflow.getHandle((await start()).workflowId).result()).rejects.toMatchObject({
      cause: { type: 'directory-not-empty' },
    });
    await worker?.process.stop('SIGTERM', 40_000);
  });
});
