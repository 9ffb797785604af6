/**
 * Fault 34: the connection between the worker and its PostgreSQL is cut, everything else is well. Fault 35: the clocks
 * of both are days off, jump in the middle of a backup, and stand in a zone whose clocks are being changed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { startCanary } from '../support/canary.ts';
import { archiveAll, requireCommits, requireNothingLeft } from '../support/oracles.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import type { BackupStatus } from '../support/walkeep.ts';
import { createClock, faketimeLibrary, type Clock } from './clock.ts';
import { startLink, type Link } from './link.ts';
import {
  keepAwake,
  startFaultSite,
  startFaultyWorker,
  untilStopped,
  type FaultSite,
  type FaultyWorker,
} from './site.ts';

/** A site with a directory, whose worker can be replaced by one with another environment. */
async function startPlace(options: { tcp?: boolean } = {}) {
  const temporal: TemporalServer = await startTemporal();
  const client: Client = await temporal.client();
  const site: FaultSite = await startFaultSite({
    temporal,
    major: 15,
    segmentSizeMiB: 4,
    compression: { wal: 'gzip', data: 'gzip' },
    ...options,
  });
  await site.worker.stop();
  let worker: FaultyWorker | undefined;
  return {
    site,
    worker: () => worker as FaultyWorker,
    async replaceWorker(environment: NodeJS.ProcessEnv, postgres = site.postgres.environment): Promise<void> {
      await worker?.process.stop('SIGTERM', 40_000);
      const { machine, cluster } = site;
      const pgdata = site.postgres.dataDirectory;
      const about = { machine, temporal, cluster, instance: `${cluster}-1`, pgdata };
      worker = await startFaultyWorker({ ...about, postgres, environment });
      await worker.waitUntilReady();
    },
    async beginBackup(name: string) {
      await site.machine.succeed('backup', site.cluster, '--name', name, '--immediate-checkpoint');
      return () => client.workflow.getHandle(`backup/default/${name}`).result() as Promise<BackupStatus>;
    },
    archiveOne: async () => site.postgres.waitUntilArchived(await site.postgres.switchWal()),
    async requireSound(): Promise<void> {
      const store = openStore({ kind: 'file', directory: site.directory });
      await site.ledger.requireKept(createRepository(store, site.cluster));
      // No call for a segment failed: archiving needs neither this connection nor the clock.
      expect(site.ledger.refused()).toEqual([]);
      await requireNothingLeft({
        postgres: site.postgres,
        stores: [site.directory],
        states: [site.machine.state],
        dataDirectories: [site.postgres.dataDirectory],
        expectedPids: worker ? [worker.process.pid] : [],
      });
    },
  };
}
type Place = Awaited<ReturnType<typeof startPlace>>;

describeWith('temporal', 'the connection between worker and server', () => {
  let place: Place;
  let link: Link;
  let taken = 0;

  beforeAll(async () => {
    place = await startPlace({ tcp: true });
    link = await startLink(place.site.postgres.port);
  }, 180_000);
  afterEach(async () => {
    await place.requireSound();
    expect(place.site.repository.recordedBackups()).toHaveLength(taken);
    expect(place.site.repository.backupFolders()).toHaveLength(taken);
  });

  const throughLink = (environment: NodeJS.ProcessEnv = {}) =>
    place.replaceWorker(environment, {
      ...place.site.postgres.environment,
      PGHOST: '127.0.0.1',
      PGPORT: String(link.port),
      PGCONNECT_TIMEOUT: '2',
    });

  // Silence is noticed after a minute: scripts/soak waits for it.
  const ways = process.env['WALKEEP_OUTAGE_SECONDS'] === undefined ? ['reset'] : ['reset', 'silence'];
  it.for(ways as ('reset' | 'silence')[])(
    'B3, A5, fault 34: cut by %s in mid-backup, and it stays so: the Backup fails clean, and every segment is archived',
    async (how) => {
      await throughLink({ WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' });
      const ended = await place.beginBackup(`cut-by-${how}`);
      await untilStopped(place.worker().process);
      link.cut(how);
      keepAwake(place.worker().process);
      const end = Promise.allSettled([ended()]);
      await place.archiveOne();
      expect(await end).toMatchObject([
        { reason: { cause: { type: expect.stringMatching(/^postgres-unavailable$|^backup-interrupted$/) } } },
      ]);
      await place.archiveOne();
      link.mend();
    },
  );

  it('B3, fault 34: mended, the next backup completes', async () => {
    await throughLink();
    const ended = await place.beginBackup('mended');
    expect(await ended()).toMatchObject({ phase: 'completed' });
    taken += 1;
  });
});

const library = faketimeLibrary();
if (library === undefined)
  process.stderr.write(
    'skipped: fault 35 needs libfaketime, which neither this host has nor scripts/setup could bring\n',
  );
describe.skipIf(library === undefined)('clocks that are wrong (needs libfaketime)', () => {
  let place: Place;
  let clock: Clock;
  const names: string[] = [];

  const restartServer = async (): Promise<void> => {
    const { postgres } = place.site;
    await postgres.stop();
    // Children without an environment of their own get ours.
    Object.assign(process.env, clock.environment);
    const starting = postgres.start();
    for (const name of Object.keys(clock.environment)) delete process.env[name];
    await starting;
  };
  const now = async (): Promise<number> => {
    const [row] = await place.site.postgres.psql<{ ms: string }>(
      'SELECT extract(epoch FROM clock_timestamp()) * 1000 AS ms',
    );
    return Number(row?.ms);
  };
  const DAYS = 86_400_000;
  async function setClock(offset: string, aroundMs: number): Promise<void> {
    clock.set(offset);
    await until('the server to have that time', async () => Math.abs((await now()) - aroundMs) < 60_000);
  }
  async function back(name: string): Promise<BackupStatus> {
    const ended = await place.beginBackup(name);
    const status = await ended();
    expect(status).toMatchObject({ phase: 'completed' });
    names.push(name);
    return status;
  }

  beforeAll(async () => {
    place = await startPlace();
    clock = await createClock(library ?? '');
    await place.site.canary.stop();
    await restartServer();
    await place.replaceWorker(clock.environment);
  }, 180_000);
  afterEach(async () => {
    if (!place?.site.postgres.isRunning()) return;
    await place.requireSound();
    expect(place.site.repository.recordedBackups()).toHaveLength(names.length);
  });

  it('D6, B1, A1, fault 35: two days ahead, jumping four days back in mid-backup, two days behind: all is taken and archived', async () => {
    await setClock('+2d', Date.now() + 2 * DAYS);
    const ahead = await back('ahead');
    await place.archiveOne();
    await place.replaceWorker({ ...clock.environment, WALKEEP_FAILPOINT: 'backup.part-uploaded:stop' });
    const ended = await place.beginBackup('jumped');
    await untilStopped(place.worker().process);
    await setClock('-2d', Date.now() - 2 * DAYS);
    await sleep(1_500);
    keepAwake(place.worker().process);
    expect(await ended()).toMatchObject({ phase: 'completed' });
    names.push('jumped');
    const behind = await back('behind');
    // Ids go on in order, whatever the clock says: tools that sort by them see the newest last.
    expect(behind.backupId > ahead.backupId).toBe(true);
    expect(BigInt(`0x${behind.endWal}`) > BigInt(`0x${ahead.endWal}`)).toBe(true);
  });

  it('C4, O2, fault 35: a host with the right time restores to the end, from whichever of them it chooses', async () => {
    const canary = await startCanary(place.site.postgres, { table: 'canary_behind' });
    await canary.waitFor(3);
    const commits = await archiveAll(canary, place.site.postgres);
    for (const args of [[], ['--backup-id', 'jumped'], ['--backup-id', 'ahead']]) {
      const restored = await place.site.restore(...args);
      const rows = await restored.psql<{ id: string }>('SELECT id FROM canary_behind ORDER BY id');
      requireCommits(
        rows.map(({ id }) => id),
        commits,
      );
      await restored.remove();
    }
  });

  it('C4, O2, fault 35: a backup while the clocks of its zone are put back, and a moment in the hour that comes twice', async () => {
    // 01:00 UTC is the second 02:00 in Berlin on that day.
    const change = Date.parse('2026-10-25T01:00:00Z');
    const offset = Math.round((change - 8_000 - Date.now()) / 1000);
    await setClock(`${offset < 0 ? '' : '+'}${offset}`, change - 8_000);
    await place.site.postgres.psql(`ALTER SYSTEM SET timezone = 'Europe/Berlin'`);
    await place.site.postgres.reload();
    await place.replaceWorker({ ...clock.environment, TZ: 'Europe/Berlin' });
    await back('summer');
    const canary = await startCanary(place.site.postgres, { table: 'canary_twice', gapMs: 200 });
    await until('the clocks to be put back', async () => (await now()) > change + 1_000);
    await back('winter');
    await canary.waitFor(canary.commits.length + 5);
    const last = canary.commits.length - 3;
    const moment = canary.momentAfter(last);
    const commits = await archiveAll(canary, place.site.postgres);
    const berlin = moment
      .toISOString()
      .replace(/T(\d\d)/, (_, hour: string) => ` ${String(Number(hour) + 1).padStart(2, '0')}`);
    const restored = await place.site.restore('--target-time', berlin.replace('Z', '+01:00'));
    const rows = await restored.psql<{ id: string }>('SELECT id FROM canary_twice ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits.slice(0, last),
    );
    await restored.remove();
  });
});
