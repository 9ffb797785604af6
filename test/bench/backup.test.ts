/** The benchmark of scripts/bench, which says how long and what of it runs; no part of scripts/test. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { CODECS, type Codec } from '../../streams/codec.ts';
import type { MeasuredOrder } from '../operations/measured-child.ts';
import { inputFor } from '../operations/take-backup-bench.ts';
import { fillDatabase } from '../support/made-database.ts';
import { measured, starterEnvironment, type Measured } from '../support/measure.ts';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import { serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { availableMajors, postgresBin, toolPath } from '../support/tools.ts';
import { PLACES, startPlace, type Place, type PlaceName } from './places.ts';

/** One measurement. */
export interface BenchRow {
  /** `memory`: the parts of a backup of made files, without PostgreSQL. */
  readonly what: 'backup' | 'restore' | 'memory';
  readonly tool: 'walkeep' | 'barman-cloud' | 'pg_basebackup';
  readonly place: PlaceName;
  readonly codec: Codec;
  readonly sizeMiB: number;
  /** Of `memory`; the others are half and half. */
  readonly content?: 'random' | 'rows';
  readonly wallSeconds: number;
  readonly cpuSeconds: number;
  readonly peakMiB: number;
  readonly peakProcessMiB: number;
}

const CHILD = fileURLToPath(new URL('../operations/measured-child.ts', import.meta.url));
const JOBS = 4;
const MiB = 1024 * 1024;
const SIZE_MIB = Number(process.env['WALKEEP_BENCH_MIB'] ?? 256);
const WANTED = new Set((process.env['WALKEEP_BENCH_CODECS'] ?? 'lz4').split(','));
const REPORT = process.env['WALKEEP_BENCH_REPORT'];
const BARMAN_FLAGS: Partial<Record<Codec, readonly string[]>> = {
  none: [],
  gzip: ['--gzip'],
  lz4: ['--lz4'],
};
/** Nothing is archived: the backup's WAL is put into the repository from there. */
const KEEPS_WAL = { wal_keep_size: '512MB', max_wal_size: '4GB' };
const MINUTES_30 = 1_800_000;

describe('the benchmark', () => {
  it(
    'measures backups and restores of two sizes, and what others take for the same',
    async () => {
      const rows: BenchRow[] = [];
      // The smaller one is for the memory alone: does it follow the size?
      for (const sizeMiB of [SIZE_MIB / 4, SIZE_MIB]) {
        const [major] = availableMajors();
        const server = await createPostgres({ major: major!, archiveCommand: 'true', config: KEEPS_WAL });
        await fillDatabase(server, (sizeMiB * MiB) / 2, 'random');
        await server.psql('alter table seed rename to seed_random');
        await server.psql(renameFilled());
        await fillDatabase(server, (sizeMiB * MiB) / 2, 'rows');
        for (const name of PLACES) {
          const place = await startPlace(name);
          for (const codec of CODECS.filter((one) => WANTED.has(one))) {
            const bench = { rows, server, name, place, codec, sizeMiB };
            await measureOurs(bench);
            if (sizeMiB === SIZE_MIB) await measurePeers(bench);
            if (REPORT !== undefined) writeFileSync(REPORT, JSON.stringify(rows, null, 2));
          }
        }
        await server.stop('immediate');
      }
      expect(rows.length).toBeGreaterThanOrEqual(2 * PLACES.length);
    },
    MINUTES_30,
  );
});

interface Bench {
  readonly rows: BenchRow[];
  readonly server: Postgres;
  readonly name: PlaceName;
  readonly place: Place;
  readonly codec: Codec;
  readonly sizeMiB: number;
}

async function measureOurs({ rows, server, name, place, codec, sizeMiB }: Bench): Promise<void> {
  const folder = `walkeep-${codec}-${sizeMiB}`;
  const env = { ...process.env, ...starterEnvironment() };
  const run = (order: Pick<MeasuredOrder, 'backup' | 'restore'>) =>
    measured(process.execPath, [CHILD], {
      input: JSON.stringify({ store: place.store, server: folder, ...order }),
      user: serverUser,
      servers: [server.pid],
      env,
    });
  const add = (what: BenchRow['what'], result: Measured) =>
    rows.push(row({ what, tool: 'walkeep', place: name, codec, sizeMiB }, result));
  const input = inputFor(server, { jobs: JOBS, codec, maxPartBytes: 128 * MiB });
  add('backup', await run({ backup: { environment: server.environment, input } }));
  if (sizeMiB < SIZE_MIB) return;
  const targetDirectory = join(makeTempDir('target'), 'data');
  add('restore', await run({ restore: { targetDirectory, jobs: JOBS } }));
}

async function measurePeers({ rows, server, name, place, codec, sizeMiB }: Bench): Promise<void> {
  const servers = [server.pid];
  const flags = BARMAN_FLAGS[codec];
  if (place.barman && flags) {
    const { options, url, environment } = place.barman;
    const env = { PATH: process.env['PATH'], ...environment, ...server.environment };
    const program = join(toolPath('barman'), 'barman-cloud-backup');
    const args = [...options, ...flags, '--immediate-checkpoint', '-J', String(JOBS), url, `barman-${codec}`];
    const result = await measured(program, args, { env, user: serverUser, servers });
    rows.push(row({ what: 'backup', tool: 'barman-cloud', place: name, codec, sizeMiB }, result));
  }
  if (name === 'directory' && codec === 'gzip') {
    const target = join(makeTempDir('basebackup'), 'base.tar.gz');
    const line = `pg_basebackup --pgdata=- --format=tar --wal-method=none --checkpoint=fast | gzip -6 > ${target}`;
    const env = { ...server.environment, PATH: `${postgresBin(server.major)}:${process.env['PATH'] ?? ''}` };
    const result = await measured('bash', ['-o', 'pipefail', '-c', line], { env, user: serverUser, servers });
    rows.push(row({ what: 'backup', tool: 'pg_basebackup', place: name, codec, sizeMiB }, result));
  }
}

type Key = Pick<BenchRow, 'what' | 'tool' | 'place' | 'codec' | 'sizeMiB'>;

function row(key: Key, { wallSeconds, cpuSeconds, peakMiB, peakProcessMiB }: Measured): BenchRow {
  return { ...key, wallSeconds, cpuSeconds, peakMiB, peakProcessMiB };
}

/** So that the tables of the next filling have names. */
function renameFilled(): string {
  return `do $$ declare t text; begin for t in select relname from pg_class where relname like 'fill\\_%' loop
    execute format('alter table %I rename to %I', t, 'random_' || t); end loop; end $$`;
}
