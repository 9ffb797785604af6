import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { formatLsn } from '../../core/lsn.ts';
import { formatPostgresTime } from '../../core/target-time.ts';
import { scanSegment, type UnfinishedRecord } from '../../postgres/wal-records.ts';
import { createPostgres } from '../support/postgres.ts';
import { describeEachMajor } from '../support/tools.ts';

describeEachMajor('the records of WAL', (major) => {
  it('C4: are those that pg_waldump sees: as many, the last of them, and the newest commit', async () => {
    const postgres = await createPostgres({
      major,
      segmentSizeMiB: 1,
      config: { wal_keep_size: '1GB', max_prepared_transactions: 5 },
    });
    await postgres.psql('CREATE TABLE wide (id bigint PRIMARY KEY, text text)');
    for (let round = 0; round < 20; round += 1) {
      // Many records, some over several pages, and full page images: they cross pages and segments everywhere.
      await postgres.psql(
        `INSERT INTO wide SELECT g, repeat(md5(g::text), g % 300) FROM generate_series(${round * 1000}, ${round * 1000 + 300}) g`,
      );
      await postgres.psql(`BEGIN; UPDATE wide SET text = 'x' WHERE id % 7 = 0; ROLLBACK`);
      await postgres.psql(
        `BEGIN; DELETE FROM wide WHERE id = ${round * 1000}; PREPARE TRANSACTION 'p${round}'`,
      );
      await postgres.psql(`COMMIT PREPARED 'p${round}'`);
      if (round % 4 === 3) await postgres.switchWal();
      if (round % 5 === 2) await postgres.psql('CHECKPOINT');
    }
    await postgres.psql(`SELECT pg_logical_emit_message(true, 'x', repeat('large ', 400000))`);
    await postgres.psql('CREATE TABLE small AS SELECT 1 AS n');
    await postgres.stop();

    const directory = join(postgres.dataDirectory, 'pg_wal');
    const segments = readdirSync(directory)
      .filter((name) => /^[0-9A-F]{24}$/.test(name))
      .toSorted();
    let unfinished: UnfinishedRecord | undefined;
    let compared = 0;
    for (const name of segments) {
      const bytes = readFileSync(join(directory, name));
      // Recycled segments hold pages of an earlier name.
      let scanned;
      try {
        scanned = scanSegment(bytes, unfinished);
      } catch {
        break;
      }
      const dump = await postgres
        .run('pg_waldump', ['--path', directory, name, name])
        .catch((error: unknown) => String(error));
      const lines = dump.split('\n').filter((line) => line.startsWith('rmgr:'));
      if (lines.length === 0) continue;
      const times = lines.flatMap((line) => {
        const found =
          /^rmgr: Transaction .* desc: (?:COMMIT|ABORT)(?:_PREPARED)? (?:\d+: )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC/.exec(
            line,
          );
        return found ? [found[1] as string] : [];
      });
      // pg_waldump begins with the first record that begins in the segment, and can't finish the last in one file.
      const own = scanSegment(bytes);
      const last = /lsn: ([0-9A-F]+\/[0-9A-F]+)/.exec(lines.at(-1) as string)?.[1] as string;
      expect(own.records, name).toBe(lines.length);
      expect(own.lastRecordLsn === undefined ? '' : pad(formatLsn(own.lastRecordLsn)), name).toBe(pad(last));
      const newest = times.toSorted().at(-1);
      const ours =
        own.newestCommit === undefined ? undefined : formatPostgresTime(own.newestCommit).replace('+00', '');
      expect(ours?.padEnd(26, '0'), name).toBe(newest);
      if (unfinished) expect(scanned.records, name).toBe(own.records + (scanned.records === 0 ? 0 : 1));
      unfinished = scanned.unfinished;
      compared += 1;
    }
    expect(compared).toBeGreaterThan(6);
  });
});

function pad(lsn: string): string {
  const [high = '', low = ''] = lsn.split('/');
  return `${high.padStart(8, '0')}/${low.padStart(8, '0')}`;
}
