import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import type { RecoveryTarget } from '../../core/recovery.ts';
import { idsUpTo, readCanary, startCanary, type Commit } from '../support/canary.ts';
import { createPostgres, openPostgres, type Postgres } from '../support/postgres.ts';
import { createTestArchive, type TestArchive } from '../support/restored.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeEachMajor, type Major } from '../support/tools.ts';

/** A story with a backup in its middle: rows before it, rows after it, a restore point, a deleted server. */
interface Story {
  readonly archive: TestArchive;
  readonly commits: readonly Commit[];
  /** The id of a row that was committed after the backup, with rows behind it. */
  readonly middle: number;
  readonly moment: string;
  readonly restorePointAfter: number;
  readonly backupId: string;
  readonly tablespace: string;
}

async function tellStory(major: Major): Promise<Story> {
  const archive = createTestArchive();
  const postgres = await createPostgres({ major, archiveCommand: archive.archiveCommand });
  const tablespace = join(makeTempDir('ts'), 'space é b');
  mkdirSync(tablespace);
  giveToServerUser(tablespace);
  await postgres.psql(`CREATE TABLESPACE "Ts é" LOCATION '${tablespace}'`);
  await postgres.psql(`CREATE TABLE elsewhere TABLESPACE "Ts é" AS SELECT generate_series(1, 5000) AS n`);
  await postgres.psql(`CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS n`);
  const canary = await startCanary(postgres);
  await canary.waitFor(5);
  const { backupId } = await archive.takeBackup(postgres, { jobs: 2 });
  const after = canary.commits.length;
  await canary.waitFor(after + 6);
  const middle = after + 3;
  const moment = canary.momentAfter(middle).toISOString();
  await postgres.psql(`SELECT pg_create_restore_point('before the migration')`);
  const restorePointAfter = canary.commits.length;
  await canary.waitFor(restorePointAfter + 6);
  // Several segments, so that one can be missing before the last.
  for (let i = 0; i < 3; i += 1) {
    await postgres.switchWal();
    await canary.waitFor(canary.commits.length + 2);
  }
  const commits = await canary.stop();
  const last = await postgres.switchWal();
  await postgres.waitUntilArchived(last);
  await postgres.kill9();
  rmSync(postgres.dataDirectory, { recursive: true });
  // The original locations are free again, as after the loss of a machine.
  for (const name of readdirSync(tablespace)) rmSync(join(tablespace, name), { recursive: true });
  return { archive, commits, middle, moment, restorePointAfter, backupId, tablespace };
}

describeEachMajor('restore', (major) => {
  let story: Story;
  beforeAll(async () => {
    story = await tellStory(major);
  });

  async function recovered(target: RecoveryTarget, options: { acceptEnd?: boolean } = {}): Promise<Postgres> {
    const directory = join(makeTempDir('space'), 'mapped');
    const { targetDirectory } = await story.archive.restore(target, {
      ...options,
      tablespaces: { 'Ts é': directory },
    });
    const postgres = await openPostgres({ major, dataDirectory: targetDirectory });
    await postgres.start();
    await postgres.waitUntilPromoted();
    return postgres;
  }

  it('C4, O2: to a time inside a gap: exactly the commits before it', async () => {
    const postgres = await recovered({ targetTime: story.moment });
    expect(await readCanary(postgres)).toEqual(idsUpTo(story.middle));
    await postgres.stop();
  });

  it('C4: to an LSN, inclusive', async () => {
    const postgres = await recovered({ targetLSN: (story.commits[story.middle - 1] as Commit).lsn });
    // The position is at or after the end of that commit's record; the next record of the canary is the next insert.
    expect((await readCanary(postgres)).length).toBe(story.middle);
    await postgres.stop();
  });

  it('C4: to a transaction id, inclusive and exclusive', async () => {
    const { xid } = story.commits[story.middle - 1] as Commit;
    const inclusive = await recovered({ targetXID: xid, backupID: 'newest' });
    expect(await readCanary(inclusive)).toEqual(idsUpTo(story.middle));
    await inclusive.stop();
    const exclusive = await recovered({ targetXID: xid, backupID: 'newest', exclusive: true });
    expect(await readCanary(exclusive)).toEqual(idsUpTo(story.middle - 1));
    await exclusive.stop();
  });

  it('C4: to a restore point, named by a backup id', async () => {
    const postgres = await recovered({ targetName: 'before the migration', backupID: story.backupId });
    const ids = await readCanary(postgres);
    // The canary writes on while the point is made: one commit may lie on either side.
    expect(ids.length).toBeGreaterThanOrEqual(story.restorePointAfter - 1);
    expect(ids.length).toBeLessThanOrEqual(story.restorePointAfter + 1);
    await postgres.stop();
  });

  it('C4: immediate: consistent, and no further', async () => {
    const postgres = await recovered({ targetImmediate: true, backupID: 'newest' });
    expect((await readCanary(postgres)).length).toBeLessThan(story.middle);
    await postgres.stop();
  });

  it('C4, C5, O2: to the end: every commit, the tablespace mapped, nothing of the source’s archive touched', async () => {
    const before = listing(story.archive.directory);
    const postgres = await recovered({});
    expect(await readCanary(postgres)).toEqual(idsUpTo(story.commits.length));
    const [row] = await postgres.psql<{ n: string }>('SELECT count(*) AS n FROM elsewhere');
    expect(row?.n).toBe('5000');
    expect(await postgres.psql('SELECT * FROM fleeting')).toEqual([]);
    const [link] = readdirSync(join(postgres.dataDirectory, 'pg_tblspc'));
    expect(readlinkSync(join(postgres.dataDirectory, 'pg_tblspc', link as string))).toContain('mapped');
    // A recovered server that writes and switches WAL reaches no archive.
    await postgres.psql('CREATE TABLE later AS SELECT 1 AS n');
    await postgres.switchWal();
    const [mode] = await postgres.psql<{ archive_mode: string }>('SHOW archive_mode');
    expect(mode?.archive_mode).toBe('off');
    await postgres.stop();
    expect(listing(story.archive.directory)).toEqual(before);
  });

  it('a tablespace goes where it was, when that is free', async () => {
    const { targetDirectory, tablespaces } = await story.archive.restore({});
    expect(tablespaces).toEqual([{ name: 'Ts é', directory: story.tablespace }]);
    expect(readdirSync(story.tablespace).some((name) => name.startsWith('PG_'))).toBe(true);
    // Now it is taken.
    await expect(story.archive.restore({})).rejects.toMatchObject({ code: 'directory-not-empty' });
    for (const name of readdirSync(story.tablespace))
      rmSync(join(story.tablespace, name), { recursive: true });
    expect(existsSync(join(targetDirectory, 'backup_label'))).toBe(true);
  });

  it('everything belongs to the owner of the place, and PGDATA is closed', async () => {
    const { targetDirectory } = await story.archive.restore(
      {},
      { tablespaces: { 'Ts é': join(makeTempDir('space'), 'm') } },
    );
    expect(statSync(targetDirectory).mode & 0o777).toBe(0o700);
    for (const name of [
      'global',
      'global/pg_control',
      'postgresql.auto.conf',
      'recovery.signal',
      'walkeep_recovery.json',
      'pg_wal/archive_status',
    ]) {
      expect(statSync(join(targetDirectory, name)).uid, name).toBe(serverUser?.uid ?? process.getuid?.());
    }
    expect(statSync(join(targetDirectory, 'walkeep_recovery.json')).mode & 0o777).toBe(0o600);
    expect(
      readdirSync(targetDirectory).filter((name) => name.includes('.walkeep') || name === 'tablespace_map'),
    ).toEqual([]);
  });

  it('C2: a label removed later makes the start fail', async () => {
    const { targetDirectory } = await story.archive.restore(
      {},
      { tablespaces: { 'Ts é': join(makeTempDir('space'), 'm') } },
    );
    unlinkSync(join(targetDirectory, 'backup_label'));
    const postgres = await openPostgres({ major, dataDirectory: targetDirectory });
    const process = postgres.launch();
    expect((await process.ended).code).not.toBe(0);
    expect(process.output()).toMatch(
      /could not locate (a valid|required) checkpoint record|invalid (primary )?checkpoint/,
    );
  });

  it('C3, fault 26: a hole is refused; accepted, everything before it is there', async () => {
    const [, , hole] = newestSegments(story);
    const path = walPath(story.archive, hole as string);
    renameSync(path, `${path}.away`);
    try {
      await expect(story.archive.restore({})).rejects.toMatchObject({
        code: 'wal-hole',
        message: expect.stringContaining(hole as string),
      });
      const postgres = await recovered({}, { acceptEnd: true });
      const ids = await readCanary(postgres);
      expect(ids).toEqual(idsUpTo(ids.length));
      expect(ids.length).toBeGreaterThan(story.middle);
      expect(ids.length).toBeLessThan(story.commits.length);
      await postgres.stop();
    } finally {
      renameSync(`${path}.away`, path);
    }
  });

  it('C3, fault 16: the store goes away in mid-recovery: PostgreSQL stops, is not promoted, and goes on later', async () => {
    const { targetDirectory } = await story.archive.restore(
      {},
      { tablespaces: { 'Ts é': join(makeTempDir('space'), 'm') } },
    );
    const postgres = await openPostgres({ major, dataDirectory: targetDirectory });
    const away = `${story.archive.directory}.away`;
    renameSync(story.archive.directory, away);
    try {
      const process = postgres.launch();
      expect((await process.ended).code).not.toBe(0);
      expect(existsSync(join(targetDirectory, 'recovery.signal'))).toBe(true);
    } finally {
      renameSync(away, story.archive.directory);
    }
    await postgres.start();
    await postgres.waitUntilPromoted();
    expect(await readCanary(postgres)).toEqual(idsUpTo(story.commits.length));
    await postgres.stop();
  });

  it('C4: a time after the last commit is refused, naming that commit', async () => {
    const last = story.commits.at(-1) as Commit;
    const refused = story.archive.plan({ targetTime: new Date(last.acknowledgedAt + 1000).toISOString() });
    await expect(refused).rejects.toMatchObject({
      code: 'target-unreachable',
      message: expect.stringContaining('newest transaction within reach'),
    });
    const plan = await story.archive.plan({});
    const newest = Date.parse(plan.newestCommit as string);
    expect(newest).toBeGreaterThanOrEqual(Math.floor(last.sentAt));
    expect(newest).toBeLessThanOrEqual(Math.ceil(last.acknowledgedAt));
  });

  it('C1: a target that is not empty is refused, and nothing in it is touched', async () => {
    const directory = makeTempDir('full');
    writeFileSync(join(directory, 'mine'), 'precious');
    await expect(story.archive.restore({}, { targetDirectory: directory })).rejects.toMatchObject({
      code: 'directory-not-empty',
    });
    expect(readdirSync(directory)).toEqual(['mine']);
  });

  it('E1, fault 25: a tar with a turned bit is refused, and the directory does not start', async () => {
    const parts = readdirSync(join(story.archive.directory, 'pg/base', story.backupId)).filter((name) =>
      name.startsWith('data'),
    );
    const path = join(story.archive.directory, 'pg/base', story.backupId, parts[0] as string);
    const bytes = readFileSync(path);
    const damaged = Buffer.from(bytes);
    damaged[Math.floor(bytes.length / 2)]! ^= 1;
    const targetDirectory = join(makeTempDir('damaged'), 'data');
    writeFileSync(path, damaged);
    try {
      await expect(
        story.archive.restore(
          {},
          { targetDirectory, tablespaces: { 'Ts é': join(makeTempDir('space'), 'm') } },
        ),
      ).rejects.toMatchObject({ code: 'object-damaged' });
    } finally {
      writeFileSync(path, bytes);
    }
    expect(existsSync(join(targetDirectory, 'global/pg_control'))).toBe(false);
    expect(existsSync(join(targetDirectory, 'backup_label'))).toBe(false);
  });
});

/** The last five segments, in order. */
function newestSegments({ archive }: Story): string[] {
  const wals = join(archive.directory, archive.server, 'wals');
  return readdirSync(wals)
    .filter((name) => /^[0-9A-F]{16}$/.test(name))
    .flatMap((folder) => readdirSync(join(wals, folder)))
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .toSorted()
    .slice(-5);
}

function walPath(archive: TestArchive, name: string): string {
  return join(archive.directory, archive.server, 'wals', name.slice(0, 16), name);
}

function listing(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .map((entry) => join(entry.parentPath, entry.name))
    .toSorted();
}
