/** Sweeps of real stores: an S3 server and a directory, looked at by stock tools afterwards. */
import { readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { CreateMultipartUploadCommand, UploadPartCommand } from '@aws-sdk/client-s3';
import { beforeAll, describe, expect, it } from 'vitest';
import type { SweepReport } from '../../core/sweep-report.ts';
import { holdForRestore } from '../../operations/hold-backup.ts';
import { sweep } from '../../operations/sweep.ts';
import { inspectBackup, listBackups } from '../../repository/catalogue.ts';
import { releaseKeep, writeKeep } from '../../repository/keeps.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { listGraves } from '../../repository/tombstones.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { shareRepository, type SharedRepository } from '../support/barman-cases.ts';
import { startS3, type S3Server } from '../support/s3.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith } from '../support/tools.ts';
import {
  benchRules,
  keysOf,
  makeOld,
  NEVER,
  putBenchWal,
  putFourBackups,
  segmentsOf,
} from '../operations/sweep-bench.ts';

const OLD = 2 * 3_600_000;

const run = (r: Repository, keepLast = 2): Promise<SweepReport> =>
  sweep(r, benchRules({ keepLast }), { signal: NEVER, holder: 'test' });

/** Marks, lets the grace period pass, and deletes. */
async function sweepTwice(r: Repository, directory: string): Promise<SweepReport> {
  makeOld(directory, OLD);
  const marked = await run(r);
  expect(marked.counts).toMatchObject({ deletedBackups: 0 });
  makeOld(join(directory, 'walkeep', 'tombstones'), OLD);
  return run(r);
}

async function requireSwept(r: Repository, ids: readonly string[]): Promise<void> {
  expect((await listBackups(r, NEVER)).map(({ backupId }) => backupId)).toEqual(ids.slice(2));
  expect((await keysOf(r)).filter((key) => key.startsWith('base/'))).toHaveLength(6);
  expect(await segmentsOf(r)).toEqual(Array.from({ length: 20 }, (_, index) => index + 30));
  expect([...(await listGraves(r, NEVER))]).toEqual(ids.slice(0, 2));
}

describe('a directory', () => {
  it('D4: is swept, and no empty directory is left', async () => {
    const directory = makeTempDir('sweep');
    const r = createRepository(createFilesystemStore(directory), 'pg');
    const ids = await putFourBackups(r);
    await sweepTwice(r, join(directory, 'pg'));
    await requireSwept(r, ids);
    expect(readdirSync(join(directory, 'pg/base'))).toEqual(ids.slice(2));
    expect(readdirSync(join(directory, '.walkeep-tmp'))).toEqual([]);
  });

  it('D5: a restore that is running, and two days from its end, keeps its backup', async () => {
    const directory = makeTempDir('sweep');
    const r = createRepository(createFilesystemStore(directory), 'pg');
    const [oldest = ''] = await putFourBackups(r);
    makeOld(directory, OLD);
    const held = await holdForRestore(r, oldest, '/srv/restored', NEVER);
    await sweepTwice(r, join(directory, 'pg'));
    const [hold = ''] = readdirSync(join(directory, 'pg/walkeep/holds'));
    const almost = new Date(Date.now() - 47.9 * 3_600_000);
    utimesSync(join(directory, 'pg/walkeep/holds', hold), almost, almost);
    await run(r);
    expect((await inspectBackup(r, oldest, NEVER)).parts).toHaveLength(2);
    const over = new Date(Date.now() - 48.1 * 3_600_000);
    utimesSync(join(directory, 'pg/walkeep/holds', hold), over, over);
    await run(r);
    makeOld(join(directory, 'pg/walkeep/tombstones'), OLD);
    await run(r);
    expect((await inspectBackup(r, oldest, NEVER)).parts).toHaveLength(0);
    await held.release();
    await expect(holdForRestore(r, oldest, '/srv/restored', NEVER)).resolves.not.toHaveProperty('warning');
  });
});

describeWith(['versitygw', 'barman'], 'an S3 server', () => {
  let s3: S3Server;
  let count = 0;
  beforeAll(async () => {
    s3 = await startS3();
  });

  function open(): { shared: SharedRepository; directory: string } {
    const server = `swept-${++count}`;
    const shared = shareRepository(s3, server);
    return { shared, directory: join(s3.directory, s3.bucket, 'clusters/prod', server) };
  }

  const listedByBarman = async (shared: SharedRepository) => {
    const { code, stdout } = await shared.barman('barman-cloud-backup-list', ['--format', 'json']);
    expect(code).toBe(0);
    const { backups_list: list } = JSON.parse(stdout) as {
      backups_list: { backup_id: string; status?: string }[];
    };
    return list.map(({ backup_id: id }) => id).toSorted();
  };

  it('D4, E5: is swept, and stock tools list what is left, and nothing else', async () => {
    const { shared, directory } = open();
    const ids = await putFourBackups(shared.repository);
    expect(await listedByBarman(shared)).toEqual(ids);
    await sweepTwice(shared.repository, directory);
    await requireSwept(shared.repository, ids);
    expect(await listedByBarman(shared)).toEqual(ids.slice(2));
    expect(await shared.barman('barman-cloud-check-wal-archive')).toMatchObject({ code: 1 });
    const dryRun = await shared.barman('barman-cloud-backup-delete', ['--dry-run', '-r', 'REDUNDANCY 2']);
    expect(dryRun).toMatchObject({ code: 0 });
    expect(dryRun.stdout + dryRun.stderr).not.toContain('Skipping deletion of objects');
  });

  it('E5: what barman-cloud-backup-keep keeps is spared, and a keep of ours is one of barman’s', async () => {
    const { shared, directory } = open();
    const r = shared.repository;
    const [oldest = '', second = '', ...rest] = await putFourBackups(r);
    expect(
      await shared.barman('barman-cloud-backup-keep', ['--target', 'standalone'], [oldest]),
    ).toMatchObject({ code: 0 });
    await writeKeep(r, second, 'full', NEVER);
    expect((await shared.barman('barman-cloud-backup-keep', ['--status'], [second])).stdout).toContain(
      'full',
    );
    const report = await sweepTwice(r, directory);
    expect(report.counts).toMatchObject({ kept: 4, deletedBackups: 0 });
    await releaseKeep(r, second, NEVER);
    await sweepTwice(r, directory);
    expect(await listedByBarman(shared)).toEqual([oldest, ...rest]);
    expect((await segmentsOf(r)).slice(0, 3)).toEqual([10, 11, 30]);
  });

  it(
    'D3: more objects than a page and a batch hold are all seen and all deleted',
    { timeout: 240_000 },
    async () => {
      const { shared, directory } = open();
      const r = shared.repository;
      await putFourBackups(r, 4000);
      await putBenchWal(r, 1500, 3994);
      makeOld(directory, OLD);
      const report = await run(r);
      expect(report.counts).toMatchObject({ deletedWal: 2500, marked: 2 });
      expect(await segmentsOf(r)).toEqual(Array.from({ length: 40 }, (_, index) => index + 4000));
    },
  );

  it('O3, H9: uploads that nobody finishes are given up, once their time is over', async () => {
    const { shared, directory } = open();
    const r = shared.repository;
    await putFourBackups(r);
    makeOld(directory, OLD);
    const client = s3.client();
    const target = { Bucket: s3.bucket, Key: `clusters/prod/${r.server}/base/20270102T010203/data.tar` };
    const { UploadId } = await client.send(new CreateMultipartUploadCommand(target));
    await client.send(
      new UploadPartCommand({ ...target, UploadId, PartNumber: 1, Body: Buffer.alloc(1024) }),
    );
    client.destroy();
    const uploads = async () => {
      const found: string[] = [];
      for await (const { key } of r.store.unfinished?.(`${r.server}/`, { signal: NEVER }) ?? [])
        found.push(key);
      return found;
    };
    expect(await uploads()).toHaveLength(1);
    expect((await run(r)).leftovers).toEqual([]);
    expect(await uploads()).toHaveLength(1);
    const soon = { ...benchRules({ keepLast: 9 }), graceMs: 500, deadlineMs: 500 };
    await new Promise((resolve) => setTimeout(resolve, 2500));
    const report = await sweep(r, soon, { signal: NEVER, holder: 'test' });
    expect(report.leftovers.join()).toContain(`an upload of ${r.server}/base/20270102T010203/data.tar`);
    expect(await uploads()).toEqual([]);
  });
});
