import type { Postgres } from './postgres.ts';

const MiB = 1024 * 1024;
const SEED_BYTES = 16 * MiB;
const TABLE_BYTES = 128 * MiB;

/** What compresses like random bytes, or like rows: numbers, names, notes and padding, to about a fifth with gzip. */
export type Content = 'random' | 'rows';

/**
 * Fills a server with about `bytes` of tables of 128 MiB, which hold 16 MiB over and over: more than any codec looks
 * back, and soon made.
 */
export async function fillDatabase(server: Postgres, bytes: number, content: Content): Promise<void> {
  const rows = Math.floor(SEED_BYTES / 1024);
  await server.psql(
    content === 'random'
      ? `create table seed (b bytea); alter table seed alter b set storage plain;
         insert into seed select (select decode(string_agg(md5(g::text || n || random()), ''), 'hex') from generate_series(1, 62) n)
           from generate_series(1, ${rows}) g`
      : `create table seed as select g as id, random() as part, repeat(md5((g % 1000)::text), 3) as name,
           md5(g::text) || md5(random()::text) as note, rpad('', 740, 'row ' || g % 17) as padding
           from generate_series(1, ${rows}) g`,
  );
  for (let table = 1, rest = bytes - SEED_BYTES; rest > 0; table++, rest -= TABLE_BYTES) {
    const copies = Math.ceil(Math.min(rest, TABLE_BYTES) / SEED_BYTES);
    await server.psql(`create table fill_${table} as select seed.* from seed, generate_series(1, ${copies})`);
  }
  await server.psql('checkpoint');
}
