import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Verification } from '../../core/verification.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { startSite, type Site } from '../support/walkeep.ts';

const QUERY = JSON.stringify({ database: 'postgres', sql: 'select sum(n) from kept', expect: '6' });

describe('walkeep verify', () => {
  let site: Site;
  let temporal: TemporalServer;
  let scratch: string;
  beforeAll(async () => {
    temporal = await startTemporal();
    site = await startSite({ temporal, major: 15, compression: { wal: 'gzip', data: 'gzip' } });
    await site.postgres.psql('CREATE TABLE kept AS SELECT generate_series(1, 2) AS n');
    await site.backup('proved');
    await site.postgres.psql('INSERT INTO kept VALUES (3)');
    await site.postgres.waitUntilArchived(await site.postgres.switchWal());
    scratch = join(makeTempDir('scratch'), 's');
  });

  it('C6: by the workflow, next to the database: verified, recorded, listed, and nothing is left', async () => {
    const found = await site.machine.json<Verification>(
      'verify',
      site.cluster,
      '--scratch',
      scratch,
      '--query',
      QUERY,
    );
    expect(found).toMatchObject({ result: 'verified', backupName: 'proved', instance: 'main-1' });
    expect(readdirSync(scratch)).toEqual([]);
    const { items } = await site.machine.json<{ items: Verification[] }>(
      'get',
      'verifications',
      site.cluster,
    );
    expect(items).toEqual([found]);
    const table = await site.machine.succeed('get', 'verifications');
    expect(table).toMatch(/^ID +AGE +CLUSTER +BACKUP +TARGET +RESULT +RTO +RPO +ERROR\n/);
    expect(table).toContain(found.id);
  });

  it('C6: a wrong answer ends with 10; a place on the database’s own disk is not tried and ends with 1', async () => {
    const wrong = QUERY.replace('"6"', '"7"');
    const damaged = await site.machine.walkeep(
      'verify',
      site.cluster,
      '--scratch',
      scratch,
      '--query',
      wrong,
    );
    expect(damaged.code).toBe(10);
    expect(damaged.stdout).toMatch(/: damaged\n/);
    expect(damaged.stdout).toContain('expected "7", the answer is "6"');
    const unplaced = await site.machine.walkeep('verify', site.cluster);
    expect(unplaced.code).toBe(1);
    expect(unplaced.stdout).toMatch(/: not-tried\n/);
    expect(unplaced.stdout).toContain('scratch.directory');
  });

  it('F5: with Temporal and every worker gone, on this host, from the repository alone', async () => {
    await site.worker.stop();
    await temporal.stop();
    const found = await site.machine.json<Verification>(
      'verify',
      site.cluster,
      '--scratch',
      scratch,
      '--query',
      QUERY,
    );
    expect(found.error).toBeUndefined();
    expect(found).toMatchObject({ result: 'verified', backupName: 'proved' });
    expect(readdirSync(scratch)).toEqual([]);
    const { items } = await site.machine.json<{ items: Verification[] }>('get', 'verifications');
    expect(items.map(({ result }) => result)).toEqual(['verified', 'not-tried', 'damaged', 'verified']);
  });
});
