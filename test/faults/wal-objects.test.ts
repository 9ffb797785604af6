/** Faults 26, 28 and 30 with real servers: WAL that is missing, foreign, or finds no room. */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { confirmBackup, copyBackup, recordBackup } from '../../operations/take-backup.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import {
  createBench,
  inputFor,
  leftovers,
  NEVER,
  SERVER,
  type BackupBench,
} from '../operations/take-backup-bench.ts';
import { startCanary, type Commit } from '../support/canary.ts';
import { archiveAll, mountSmall, requireCommits, requireNothingLeft } from '../support/oracles.ts';
import { createPostgres, openPostgres, type Postgres } from '../support/postgres.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { until } from '../support/wait.ts';
import { makeSegment } from '../support/wal-segment.ts';
import { createHost, giveAll, type Host } from './host.ts';

const SEGMENT_MIB = 4;

describe('WAL in the archive', () => {
  let bench: BackupBench;
  let server: Postgres;
  let host: Host;
  let commits: readonly Commit[];
  let recorded: string;

  beforeAll(async () => {
    bench = createBench();
    server = await createPostgres({
      major: 15,
      archiveCommand: bench.archiveCommand,
      segmentSizeMiB: SEGMENT_MIB,
    });
    host = createHost();
    await host.cluster({ name: SERVER, destinationPath: `file://${bench.directory}` });
    const canary = await startCanary(server);
    const ports = bench.ports(server);
    const copied = await copyBackup(ports, inputFor(server), { signal: NEVER });
    await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 30_000 });
    await recordBackup(ports, copied, { signal: NEVER });
    recorded = copied.backupId;
    for (let round = 0; round < 4; round++) {
      await canary.waitFor(canary.commits.length + 3);
      await server.waitUntilArchived(await server.switchWal());
    }
    commits = await archiveAll(canary, server);
    await giveAll(bench.directory);
  });

  const pathOf = (segment: string) => join(bench.directory, SERVER, 'wals', segment.slice(0, 16), segment);
  const segments = () =>
    readdirSync(join(bench.directory, SERVER, 'wals', '0000000100000000'))
      .filter((name) => /^[0-9A-F]{24}$/.test(name))
      .toSorted();
  const foreign = (segment: string) =>
    makeSegment(segment, { systemId: '4711', segmentSize: SEGMENT_MIB << 20 });
  const listed = async () => (await listBackups(bench.repository, NEVER)).map(({ backupId }) => backupId);

  /** Restores everything there is, and starts the recovery. */
  async function launch(...args: string[]): Promise<Postgres> {
    const target = join(makeTempDir('target'), 'data');
    const restored = await host.walkeep('restore', SERVER, '-D', target, ...args);
    expect(restored, restored.stderr).toMatchObject({ code: 0 });
    return openPostgres({ major: 15, dataDirectory: target });
  }
  async function requireRecovered(recovering: Postgres): Promise<void> {
    await recovering.start();
    await recovering.waitUntilPromoted();
    const rows = await recovering.psql<{ id: string }>('SELECT id FROM canary ORDER BY id');
    requireCommits(
      rows.map(({ id }) => id),
      commits,
    );
    await recovering.stop();
  }

  it.for([
    { why: 'fault 26: gone from the archive', spoil: (path: string) => rmSync(path), code: 'wal-missing' },
    {
      why: 'fault 28: of another system',
      spoil: (path: string, name: string) => writeFileSync(path, foreign(name)),
      code: 'wal-foreign',
    },
    {
      why: 'fault 27: cut',
      spoil: (path: string) => writeFileSync(path, Buffer.alloc(8192)),
      code: 'object-damaged',
    },
  ])('B1, $why, the WAL of a backup keeps it from counting', async ({ spoil, code }) => {
    const ports = bench.ports(server);
    const copied = await copyBackup(ports, inputFor(server, { backupName: code }), { signal: NEVER });
    await until('its WAL', () => existsSync(pathOf(copied.endWal)));
    await until('the archiver to be done', async () => {
      const [row] = await server.psql<{ last: string }>(
        'SELECT last_archived_wal AS last FROM pg_stat_archiver',
      );
      return (row?.last ?? '') >= copied.endWal;
    });
    const aside = join(makeTempDir('aside'), 'segment');
    copyFileSync(pathOf(copied.beginWal), aside);
    spoil(pathOf(copied.beginWal), copied.beginWal);
    const confirming = confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 1_500 });
    await expect(confirming).rejects.toMatchObject({
      code,
      message: expect.stringContaining(copied.beginWal),
    });
    expect(await listed()).toEqual([recorded]);
    expect(await leftovers(server)).toEqual({ sessions: 0, locks: 0, slots: 0 });
    copyFileSync(aside, pathOf(copied.beginWal));
    await giveAll(bench.directory);
  });

  it('B1, fault 26: a backup does not mind a hole before it', async () => {
    const [first = ''] = segments();
    renameSync(pathOf(first), `${pathOf(first)}.away`);
    const ports = bench.ports(server);
    const copied = await copyBackup(ports, inputFor(server, { backupName: 'behind' }), { signal: NEVER });
    await confirmBackup(ports, copied, { signal: NEVER, deadlineMs: 30_000 });
    renameSync(`${pathOf(first)}.away`, pathOf(first));
    await giveAll(bench.directory);
  });

  it('C3, O2, fault 28: a segment of another system stops a recovery; with the right one back it goes on', async () => {
    const recovering = await launch('--backup-id', recorded);
    const name = segments().at(-3) ?? '';
    renameSync(pathOf(name), `${pathOf(name)}.away`);
    writeFileSync(pathOf(name), foreign(name));
    await giveAll(bench.directory);
    expect((await recovering.launch().ended).code).not.toBe(0);
    expect(recovering.log()).toMatch(new RegExp(`walkeep: wal-fetch: wal-foreign: .*${name}`));
    expect(existsSync(join(recovering.dataDirectory, 'recovery.signal'))).toBe(true);
    renameSync(`${pathOf(name)}.away`, pathOf(name));
    await requireRecovered(recovering);
  });

  it('C3, O2, fault 30: a pg_wal without room stops a recovery, which goes on when there is some', async ({
    skip,
  }) => {
    const small = mountSmall(SEGMENT_MIB * 2 - 1);
    if (!small) return skip('no tmpfs can be mounted here');
    const recovering = await launch('--backup-id', recorded);
    const auto = join(recovering.dataDirectory, 'postgresql.auto.conf');
    // By itself it waits for room for two minutes.
    writeFileSync(auto, readFileSync(auto, 'utf8').replaceAll(' wal-fetch ', ' wal-fetch --deadline 4 '));
    const wal = join(recovering.dataDirectory, 'pg_wal');
    // One segment has room there, two have not.
    renameSync(wal, `${wal}.empty`);
    mkdirSync(wal);
    execFileSync('mount', ['--bind', small.directory, wal]);
    try {
      mkdirSync(join(wal, 'archive_status'));
      await giveAll(wal);
      giveToServerUser(wal);
      writeFileSync(join(wal, 'ballast'), Buffer.alloc((SEGMENT_MIB << 20) - 4096 * 4));
      const ended = await recovering.launch().ended;
      expect(ended.code).not.toBe(0);
      expect(existsSync(join(recovering.dataDirectory, 'recovery.signal'))).toBe(true);
      expect(recovering.log()).toMatch(/walkeep: wal-fetch: .*(no room|ENOSPC|disk-full)/);
      // Nothing half stays in the way.
      expect(
        readdirSync(wal).filter((name) => name.startsWith('xlogtemp') || name === 'RECOVERYXLOG'),
      ).toEqual([]);
      rmSync(join(wal, 'ballast'));
      small.grow(256);
      await requireRecovered(recovering);
    } finally {
      await recovering.stop('immediate').catch(() => undefined);
      execFileSync('umount', ['--lazy', wal]);
    }
  });

  it('B3, O3, fault 30: a store without room ends a backup, and nothing of it is left at the server or in the store', async ({
    skip,
  }) => {
    const small = mountSmall(3);
    if (!small) return skip('no tmpfs can be mounted here');
    const directory = join(small.directory, 'r');
    mkdirSync(directory);
    const store = { kind: 'file', directory } as const;
    const repository = createRepository(openStore(store), SERVER);
    const ports = { ...bench.ports(server), store, repository: async () => repository };
    const copying = copyBackup(ports, inputFor(server, { codec: 'none' }), { signal: NEVER });
    await expect(copying).rejects.toMatchObject({
      code: 'store-full',
      retryable: true,
      hint: expect.stringContaining('make room'),
    });
    await requireNothingLeft({ postgres: server, stores: [directory] });
    expect(await listBackups(repository, NEVER)).toEqual([]);
    expect(
      readdirSync(directory, { recursive: true })
        .map(String)
        .filter((name) => name.endsWith('.tar')),
    ).toEqual([]);
  });
});
