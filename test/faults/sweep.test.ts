/**
 * Sweeps by a real worker, Temporal and PostgreSQL, under the faults that sweep-and-proof.test.ts has not. Two stories,
 * over a directory and over S3: each test goes on where the one before ended, and after each fault what was to go is
 * gone, or nothing is, and what stays can be restored.
 */
import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { archiveAll, requireCommits } from '../support/oracles.ts';
import type { Commit } from '../support/canary.ts';
import { freePort, runProcess, runSuccessfully, startProcess } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith, toolPath } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { createClock, faketimeLibrary } from './clock.ts';
import { createHost, expectRefusal } from './host.ts';
import { evaluateIn } from './inspector.ts';
import { startKeyedSite, type KeyedSite } from './keyed-site.ts';
import { startLink, type Link } from './link.ts';
import { oldCode } from './old-code.ts';
import {
  startFaultSite,
  startFaultyWorker,
  untilStopped,
  type FaultSite,
  type FaultyWorker,
} from './site.ts';
import { SHORT_POLICY, sweepsOf, walNames, whileAwake, type Sweeping } from './sweeping.ts';

const SITE = {
  major: 15,
  segmentSizeMiB: 4,
  compression: { wal: 'gzip', data: 'gzip' },
} as const;
/** Between the data of a backup and its WAL and record, in every sweep of a worker. */
const IN_THE_MIDDLE = Array.from({ length: 40 }, (_, at) => `sweep.data-deleted:stop:${at + 1}`).join(',');
const library = faketimeLibrary();

describeWith('temporal', 'a sweep by a worker', () => {
  let temporal: TemporalServer;
  let site: FaultSite;
  let link: Link;
  let worker: FaultyWorker;
  let sweeping: Sweeping;
  let commits: readonly Commit[];
  let root: string;

  async function startWorker(environment: NodeJS.ProcessEnv = {}): Promise<void> {
    const { machine, cluster, postgres } = site;
    const about = { machine, temporal, cluster, instance: 'main-1', pgdata: postgres.dataDirectory };
    const throughLink = {
      ...postgres.environment,
      PGHOST: '127.0.0.1',
      PGPORT: String(link.port),
      PGCONNECT_TIMEOUT: '2',
    };
    worker = await startFaultyWorker({ ...about, postgres: throughLink, environment });
    await worker.waitUntilReady();
  }
  const stopWorker = () => worker.process.stop('SIGTERM', 40_000);

  beforeAll(async () => {
    temporal = await startTemporal();
    site = await startFaultSite({ temporal, ...SITE, tcp: true });
    link = await startLink(site.postgres.port);
    root = join(site.directory, 'main');
    sweeping = sweepsOf({
      client: await temporal.client(),
      repository: () => createRepository(openStore({ kind: 'file', directory: site.directory }), 'main'),
      root,
    });
    await site.machine.apply(SHORT_POLICY);
    await site.worker.stop();
    await startWorker({ WALKEEP_FAILPOINT: IN_THE_MIDDLE });
    // From here on nobody writes.
    await site.canary.waitFor(5);
    commits = await archiveAll(site.canary, site.postgres);
  });

  it('D4, fault 8, 11, 12, 34: an idle database, no way to it, its sessions killed, a burst of WAL: the set goes', async () => {
    const set = await sweeping.makeDeletable();
    link.cut('reset');
    await sweeping.begin();
    await untilStopped(worker.process);
    const { postgres } = site;
    await postgres.psql(`ALTER SYSTEM SET idle_session_timeout = '1s'`);
    await postgres.reload();
    await postgres.psql(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'walkeep%'`,
    );
    await postgres.psql('CREATE TABLE burst AS SELECT generate_series(1, 1000000) AS id; DROP TABLE burst');
    await whileAwake(worker.process, sweeping.result());
    await sweeping.requireSwept(set);
    await postgres.psql('ALTER SYSTEM RESET idle_session_timeout');
    await postgres.reload();
    link.mend();
  });

  it('D4, A7, fault 7: the server is promoted in the middle: the set goes, and of the new timeline nothing', async () => {
    const set = await sweeping.makeDeletable();
    await sweeping.begin();
    await untilStopped(worker.process);
    const { postgres } = site;
    await postgres.stop('immediate');
    const signal = join(postgres.dataDirectory, 'standby.signal');
    writeFileSync(signal, '');
    giveToServerUser(signal);
    await postgres.start();
    await postgres.promote();
    await postgres.waitUntilArchived(await postgres.switchWal());
    const onNewTimeline = walNames(root).filter((name) => name.startsWith('00000002'));
    expect(onNewTimeline).toContain('00000002.history');
    await whileAwake(worker.process, sweeping.result());
    await sweeping.requireSwept(set);
    expect(walNames(root)).toEqual(expect.arrayContaining(onNewTimeline));
  });

  it('D1, D2, fault 26: with holes in the archive the same set goes, and everything behind them stays', async () => {
    const set = await sweeping.makeDeletable();
    const { postgres } = site;
    for (let count = 0; count < 3; count += 1) await postgres.waitUntilArchived(await postgres.switchWal());
    const [, hole = ''] = walNames(root)
      .filter((name) => /^00000002[0-9A-F]{16}$/.test(name))
      .toReversed();
    const path = join(
      root,
      'wals',
      readdirSync(join(root, 'wals'), { recursive: true })
        .map(String)
        .find((name) => name.includes(hole)) ?? '',
    );
    const aside = join(makeTempDir('aside'), hole);
    renameSync(path, aside);
    const before = walNames(root).filter((name) => name > set.kept && name.startsWith('00000002'));
    await sweeping.begin();
    await untilStopped(worker.process);
    await whileAwake(worker.process, sweeping.result());
    await sweeping.requireSwept(set);
    expect(walNames(root)).toEqual(expect.arrayContaining(before));
    renameSync(aside, path);
  });

  it('F1, F2, fault 4: its event loop blocked beyond the heartbeat, then out of memory: another worker finishes', async () => {
    const set = await sweeping.makeDeletable();
    await stopWorker();
    const port = await freePort();
    await startWorker({
      NODE_OPTIONS: `--inspect=127.0.0.1:${port} --max-old-space-size=256`,
      WALKEEP_FAILPOINT: 'sweep.data-deleted:stop',
    });
    // What happens at the failpoint instead of a signal.
    const block = 'for (const end = Date.now() + 8000; Date.now() < end; );';
    const fill = 'const hog = []; for (;;) hog.push(new Array(1e6).fill(Math.random()));';
    await evaluateIn(port, `process.kill = () => { ${block} ${fill} }; 0`);
    await sweeping.begin();
    expect((await worker.process.ended).code).not.toBe(0);
    sweeping.letLeaseRunOut();
    await startWorker();
    await sweeping.result();
    expect(await sweeping.attempts()).toBeGreaterThan(1);
    await sweeping.requireSwept(set);
  });

  it.skipIf(library === undefined)(
    'D3, D6, fault 35: two days ahead and two days behind nothing is deleted, and the keeper says why (needs libfaketime)',
    async () => {
      const clock = await createClock(library ?? '');
      const set = await sweeping.makeDeletable();
      // Behind, every backup is of the future before the store is asked for its time.
      for (const [offset, says] of [
        ['+2d', /the clock of this host .* and that of the store .* differ/],
        ['-2d', /it began in the future/],
      ] as const) {
        // One that jumps in the middle of a sweep ends its lease, which is another story.
        await stopWorker();
        clock.set(offset);
        await startWorker(clock.environment);
        const report = await sweeping.sweep();
        expect(report.refused).toMatch(says);
        expect(report.counts).toMatchObject({ marked: 0, deletedBackups: 0, deletedWal: 0 });
        await sweeping.requireUntouched(set);
        await until('the keeper to say so', async () =>
          (await sweeping.keeper()).problems.some(
            (text) => /the last sweep deleted nothing: /.test(text) && says.test(text),
          ),
        );
      }
      await stopWorker();
      await startWorker();
      await sweeping.sweep();
      await sweeping.requireSwept(set);
    },
  );

  it('F3, D4, fault 15: begun by older code, and finished by the code that replaces it', async () => {
    const set = await sweeping.makeDeletable();
    await stopWorker();
    // Older code can't go on with what newer code began: its keeper is of its own.
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
      env: { ...env, WALKEEP_FAILPOINT: 'sweep.data-deleted:stop' },
    });
    await until('it to be connected', () => old.output().includes('connected to Temporal'), {
      timeoutMs: 60_000,
    });
    const file = join(makeTempDir('manifest'), 'all.yaml');
    const documents = [...site.manifests, SHORT_POLICY].map((document) => JSON.stringify(document));
    writeFileSync(file, documents.join('\n---\n'));
    giveToServerUser(file);
    await runSuccessfully(program, ['apply', '-f', file], { user: serverUser, env });
    await sweeping.begin();
    await untilStopped(old);
    await old.kill9();
    sweeping.letLeaseRunOut();
    await startWorker();
    await sweeping.result();
    await sweeping.requireSwept(set);
  });

  it('O2: what stayed is restored to its end, over the promotion: every commit is there', async () => {
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

describeWith(['temporal', 'versitygw'], 'a sweep of a store that is not at its best', () => {
  let temporal: TemporalServer;
  let site: KeyedSite;
  let worker: FaultyWorker;
  let sweeping: Sweeping;
  let commits: readonly Commit[];

  beforeAll(async () => {
    temporal = await startTemporal();
    site = await startKeyedSite({ temporal, ...SITE });
    sweeping = sweepsOf({
      client: await temporal.client(),
      repository: () => site.openRepository(),
      root: join(site.s3.directory, site.s3.bucket, 'deep', 'main'),
    });
    await site.machine.apply(SHORT_POLICY);
    await site.worker.stop();
    const { machine, cluster, postgres } = site;
    worker = await startFaultyWorker({
      machine,
      temporal,
      cluster,
      instance: 'main-1',
      pgdata: postgres.dataDirectory,
      postgres: postgres.environment,
      environment: { WALKEEP_FAILPOINT: IN_THE_MIDDLE.replaceAll('data-deleted', 'before-deleting') },
    });
    await worker.waitUntilReady();
    await site.canary.waitFor(5);
    commits = await archiveAll(site.canary, postgres);
  });

  /** Until the sweep is about to say which backup it deletes. */
  async function beginAndStop(): Promise<void> {
    await sweeping.begin();
    await untilStopped(worker.process);
  }

  it('D4, E2, fault 18, 19: with resets in mid-body, and 503 or 429 for three in ten requests, the set goes, once', async () => {
    const set = await sweeping.makeDeletable();
    site.weather.become({ refused: 0.3, reset: 0.05 });
    await beginAndStop();
    await whileAwake(worker.process, sweeping.result());
    const { refused, reset } = site.weather.counts();
    expect(refused).toBeGreaterThan(3);
    expect(reset).toBeGreaterThan(0);
    site.weather.become({});
    await sweeping.requireSwept(set);
  });

  it('D3, fault 16: the store refuses everything: nothing is deleted, and once it is well again the set goes', async () => {
    const set = await sweeping.makeDeletable();
    await beginAndStop();
    site.weather.become({ refused: 1 });
    const ended = sweeping.result();
    await whileAwake(worker.process, sleep(6_000));
    await sweeping.requireUntouched(set);
    expect(site.weather.counts().refused).toBeGreaterThan(0);
    site.weather.become({});
    await ended;
    await sweeping.requireSwept(set);
  });

  it('D3, fault 21: the credential expires in the middle: nothing is deleted, the keeper says why, the next one goes on', async () => {
    const set = await sweeping.makeDeletable();
    await beginAndStop();
    site.weather.become({ expiresAfter: 0 });
    await expect(whileAwake(worker.process, sweeping.result())).rejects.toMatchObject({
      cause: { type: 'access-denied' },
    });
    await sweeping.requireUntouched(set);
    await until('the keeper to say so', async () =>
      /the last sweep deleted nothing: .*expired/i.test((await sweeping.keeper()).problems.join('\n')),
    );
    site.weather.become({});
    // It could not give it back.
    sweeping.letLeaseRunOut();
    await sweeping.begin();
    await whileAwake(worker.process, sweeping.result());
    await sweeping.requireSwept(set);
  });

  it('F2, fault 38: the secret is rotated in the middle, and the old key revoked: the set goes', async () => {
    const set = await sweeping.makeDeletable();
    await beginAndStop();
    await site.rotateKey();
    const ended = whileAwake(worker.process, sweeping.result());
    // The lease was taken with the old key, which can't give it back.
    await sleep(3_000);
    sweeping.letLeaseRunOut();
    await ended;
    await sweeping.requireSwept(set);
  });

  it('O2, O3, O5: what stayed is restored, nothing is left in the store, and barman-cloud lists the same', async () => {
    const restored = await site.restore();
    const rows = await restored.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await restored.remove();
    expect(await site.s3.unfinishedUploads()).toEqual([]);
    const { access, secret } = site.key();
    const words = `--cloud-provider aws-s3 --addressing-style path --format json --endpoint-url ${site.s3.endpointUrl}`;
    const barman = join(toolPath('barman'), 'barman-cloud-backup-list');
    if (!existsSync(barman)) return;
    const { code, stdout, stderr } = await runProcess(
      barman,
      [...words.split(' '), `s3://${site.s3.bucket}/deep`, 'main'],
      {
        env: {
          PATH: process.env['PATH'],
          AWS_ACCESS_KEY_ID: access,
          AWS_SECRET_ACCESS_KEY: secret,
          AWS_DEFAULT_REGION: 'us-east-1',
        },
      },
    );
    expect(code, stderr).toBe(0);
    const { backups_list: listed } = JSON.parse(stdout) as { backups_list: { backup_id: string }[] };
    expect(listed.map(({ backup_id: id }) => id)).toEqual([restored.plan.backupId]);
  });
});

describe('a sweep from a host that does not reach the store', () => {
  it.for([
    ['no-such-host.invalid:9000', /ENOTFOUND/],
    ['127.0.0.1:1', /ECONNREFUSED/],
  ] as const)('D3, fault 16: at %s: nothing is deleted, and one line says why', async ([address, says]) => {
    const host = createHost();
    await host.secret('keys', { ID: 'id', KEY: 'a-secret-value' });
    const key = (name: string) => ({ name: 'keys', key: name });
    await host.cluster({
      name: 'pg',
      destinationPath: 's3://backups/deep',
      objectStore: {
        endpointURL: `http://${address}`,
        s3Credentials: { accessKeyId: key('ID'), secretAccessKey: key('KEY') },
      },
    });
    const outcome = await host.walkeep('sweep', 'pg', '--local', '--yes');
    expectRefusal(outcome, { code: 6, says, todo: /endpointURL/ });
  });
});
