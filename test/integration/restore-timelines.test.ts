import { existsSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import type { RecoveryTarget } from '../../core/recovery.ts';
import { createPostgres, openPostgres, type Postgres } from '../support/postgres.ts';
import { createTestArchive, type TestArchive } from '../support/restored.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { describeEachMajor } from '../support/tools.ts';

describeEachMajor('restore over a promotion', (major) => {
  let archive: TestArchive;
  let wals: string;

  // Timeline 1 with rows 1 and 2, of which 2 is in a segment that is only archived as .partial; timeline 2 with row 3.
  beforeAll(async () => {
    archive = createTestArchive();
    wals = join(archive.directory, archive.server, 'wals');
    const postgres = await createPostgres({ major, archiveCommand: archive.archiveCommand });
    await postgres.psql('CREATE TABLE told (row int)');
    await archive.takeBackup(postgres);
    await postgres.psql('INSERT INTO told VALUES (1)');
    await postgres.waitUntilArchived(await postgres.switchWal());
    await postgres.psql('INSERT INTO told VALUES (2)');
    // The server dies and comes back as a standby that is promoted: what a failover leaves in the archive.
    await postgres.stop('immediate');
    const signal = join(postgres.dataDirectory, 'standby.signal');
    writeFileSync(signal, '');
    giveToServerUser(signal);
    await postgres.start();
    await postgres.promote();
    await postgres.psql('INSERT INTO told VALUES (3)');
    await postgres.waitUntilArchived(await postgres.switchWal());
    await postgres.stop();
    rmSync(postgres.dataDirectory, { recursive: true });
  });

  async function rows(target: RecoveryTarget): Promise<{ rows: number[]; postgres: Postgres }> {
    const { targetDirectory } = await archive.restore(target);
    const postgres = await openPostgres({ major, dataDirectory: targetDirectory });
    await postgres.start();
    await postgres.waitUntilPromoted();
    const found = await postgres.psql<{ row: number }>('SELECT row FROM told ORDER BY row');
    await postgres.stop();
    return { rows: found.map(({ row }) => row), postgres };
  }

  it('C4: to the latest: over the switch to the newest timeline', async () => {
    expect(await archive.plan({})).toMatchObject({
      targetTimeline: 2,
      timelinePath: [{ timeline: 1 }, { timeline: 2 }],
    });
    const { rows: found, postgres } = await rows({});
    expect(found).toEqual([1, 2, 3]);
    expect(existsSync(join(postgres.dataDirectory, 'pg_wal/00000003.history'))).toBe(true);
  });

  it('C4: to the end of the older timeline, its .partial segment included', async () => {
    const plan = await archive.plan({ targetTLI: '1' });
    expect(plan.tail?.file).toMatch(/^0000000100000000000000[0-9A-F]{2}\.partial$/);
    expect((await rows({ targetTLI: '1' })).rows).toEqual([1, 2]);
  });

  it('C4: after a failover whose WAL is not archived yet: up to the switch, with nothing lost before it', async () => {
    const own = readdirSync(join(wals, '0000000200000000'));
    const away = join(archive.directory, 'away');
    renameSync(join(wals, '0000000200000000'), away);
    try {
      const plan = await archive.plan({});
      expect(plan).toMatchObject({ targetTimeline: 2, tail: { cutAtOffset: expect.any(Number) } });
      expect((await rows({})).rows).toEqual([1, 2]);
    } finally {
      renameSync(away, join(wals, '0000000200000000'));
    }
    expect(own.length).toBeGreaterThan(0);
  });

  it('C4: a lost history is not taken for the end: the older timeline is not silently the latest', async () => {
    renameSync(join(wals, '00000002.history'), join(archive.directory, 'history'));
    try {
      await expect(archive.plan({})).rejects.toMatchObject({
        message: expect.stringContaining('00000002.history'),
      });
      expect((await archive.plan({ targetTLI: '1' })).targetTimeline).toBe(1);
    } finally {
      renameSync(join(archive.directory, 'history'), join(wals, '00000002.history'));
    }
  });
});
