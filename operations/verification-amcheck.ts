import pg from 'pg';
import { messageOf } from '../core/errors.ts';
import type { VerificationCheck } from '../core/verification.ts';
import { asSuperuser, listDatabases, type Sessions } from './verification-sessions.ts';

const NAMED = 5;
/** Of each kind, in each database, besides the catalogue's. */
const SAMPLE = 25;

interface Finding {
  readonly object: string;
  readonly text: string;
}

interface Tally {
  relations: number;
  readonly findings: Finding[];
  readonly unable: string[];
}

/**
 * Looks with PostgreSQL's `amcheck` whether tables and B-tree indexes of the copy are consistent in themselves. The
 * extension is created in the copy.
 *
 * @param how `sample`: the catalogue, and some relations of each database, others in every verification · `full`: all of
 *   them, and whether every row is in its indexes
 * @param seed chooses the sample
 */
export async function checkRelations(
  sessions: Sessions,
  how: 'sample' | 'full',
  seed: string,
): Promise<VerificationCheck> {
  const name = 'amcheck';
  const began = performance.now();
  const tally: Tally = { relations: 0, findings: [], unable: [] };
  const databases = await listDatabases(sessions);
  for (const database of databases) {
    const missing = await asSuperuser(sessions, database, (client) =>
      checkDatabase(client, database, how, seed, tally),
    );
    if (missing !== undefined) return { name, result: 'skipped', detail: missing };
    if (tally.findings.length > 0 && how === 'sample') break;
  }
  const seconds = Math.round(performance.now() - began) / 1000;
  const [first] = tally.findings;
  if (first) {
    const told = tally.findings.slice(0, NAMED).map(({ object, text }) => `${object}: ${text}`);
    const more = tally.findings.length > NAMED ? `; and ${tally.findings.length - NAMED} more` : '';
    return { name, result: 'failed', object: first.object, detail: told.join('; ') + more, seconds };
  }
  const unable =
    tally.unable.length === 0 ? '' : `; not looked at: ${tally.unable.slice(0, NAMED).join('; ')}`;
  return {
    name,
    result: 'passed',
    detail: `${tally.relations} relations in ${databases.length} databases (${how})${unable}`,
    seconds,
  };
}

interface Relation {
  readonly oid: string;
  readonly name: string;
  readonly kind: 'index' | 'table';
}

/** @returns why it could not be done at all, or `undefined` */
async function checkDatabase(
  client: pg.Client,
  database: string,
  how: 'sample' | 'full',
  seed: string,
  tally: Tally,
): Promise<string | undefined> {
  const schema = await amcheckSchema(client);
  if (schema === undefined) return 'the extension amcheck is not installed on this host';
  const prefix = pg.escapeIdentifier(schema);
  const { rows } = await client.query<Relation & Record<string, string>>(RELATIONS, [
    how === 'full' ? null : String(SAMPLE),
    seed,
  ]);
  for (const relation of rows) {
    const object = `${database}: ${relation.name}`;
    try {
      if (relation.kind === 'index') {
        await client.query(`select ${prefix}.bt_index_check($1::oid::regclass, $2::boolean)`, [
          relation.oid,
          String(how === 'full'),
        ]);
      } else {
        const found = await client.query<{ blkno: string; msg: string }>(
          `select blkno, msg from ${prefix}.verify_heapam($1::oid::regclass) limit 3`,
          [relation.oid],
        );
        for (const { blkno, msg } of found.rows)
          tally.findings.push({ object, text: `block ${blkno}: ${msg}` });
      }
      tally.relations += 1;
    } catch (error) {
      const text = messageOf(error).replaceAll(/\s+/g, ' ').slice(0, 300);
      if (/^(?:XX|58030)/.test(sqlState(error))) tally.findings.push({ object, text });
      else if (sqlState(error) === '') throw error;
      else tally.unable.push(`${object}: ${text}`);
    }
  }
  return undefined;
}

/** Where the extension is; it is created where it was not. @returns `undefined` when this host does not have it */
async function amcheckSchema(client: pg.Client): Promise<string | undefined> {
  const find = () =>
    client.query<{ schema: string }>(
      "select n.nspname as schema from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'amcheck'",
    );
  const present = (await find()).rows[0];
  if (present) return present.schema;
  const available = await client.query("select from pg_available_extensions where name = 'amcheck'");
  if (available.rowCount === 0) return undefined;
  await client.query('create extension amcheck schema pg_catalog');
  return (await find()).rows[0]?.schema;
}

/** Valid B-tree indexes and tables that are on disk and logged; the sample changes with the seed. */
const RELATIONS = `
  with candidates as (
    select c.oid, n.nspname, c.relname, case c.relkind when 'i' then 'index' else 'table' end as kind,
           n.nspname in ('pg_catalog', 'pg_toast') as of_catalog
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      join pg_am a on a.oid = c.relam
      left join pg_index i on i.indexrelid = c.oid
     where c.relpersistence = 'p'
       and (c.relkind = 'i' and a.amname = 'btree' and i.indisvalid and i.indisready
            or c.relkind in ('r', 't', 'm') and a.amname = 'heap')
  ), numbered as (
    select *, row_number() over (partition by kind, of_catalog order by md5(oid::text || $2)) as number from candidates
  )
  select oid::text as oid, kind, format('%I.%I', nspname, relname) as name from numbered
   where $1::int is null or of_catalog and nspname = 'pg_catalog' or number <= $1::int
   order by of_catalog desc, kind, oid`;

function sqlState(error: unknown): string {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return '';
}
