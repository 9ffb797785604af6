import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  contentOf,
  fillWithTablespaces,
  type Content,
  type TestTablespace,
} from '../support/barman-cases.ts';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import type { Major } from '../support/tools.ts';
import { until } from '../support/wait.ts';

/** A PostgreSQL that is backed up again and again; what it archives lies in a directory, for whoever puts it where. */
export interface Source {
  readonly postgres: Postgres;
  readonly tablespaces: readonly TestTablespace[];
  /** Every archived file as PostgreSQL had it. */
  readonly ledger: string;
  readonly systemId: string;
  timeline(): Promise<number>;
  /** Names in the ledger, histories first, then as they were archived. */
  archived(): string[];
  /** Waits until this file was archived. */
  waitFor(name: string): Promise<void>;
  /** Rows that tell how far a recovery came. */
  writeChapter(chapter: string): Promise<void>;
  /** Ends the segment and waits for it. @returns what there is now */
  close(): Promise<Content>;
  /** The same server goes on with a new timeline, as after a failover. */
  promote(): Promise<void>;
}

export async function openSource(major: Major, withTablespaces: boolean): Promise<Source> {
  const ledger = makeTempDir('ledger');
  const archiveCommand = `test ! -f ${ledger}/%f && cp "%p" ${ledger}/.%f.tmp && mv ${ledger}/.%f.tmp ${ledger}/%f`;
  const postgres = await createPostgres({ major, archiveCommand });
  const tablespaces = withTablespaces ? await fillWithTablespaces(postgres) : [];
  await postgres.psql(`
    create table matrix (id int generated always as identity, chapter text);
    create table filler as select g as id, repeat(md5(g::text), 4) as t from generate_series(1, 20000) g`);
  const [row] = await postgres.psql<{ id: string }>(
    'select system_identifier::text as id from pg_control_system()',
  );
  const waitFor = async (name: string): Promise<void> => {
    await until(`${name} to be archived`, () => existsSync(join(ledger, name)), { timeoutMs: 60_000 });
  };
  return {
    postgres,
    tablespaces,
    ledger,
    systemId: row?.id ?? '',
    async timeline() {
      const [at] = await postgres.psql<{ timeline: number }>(
        'select timeline_id as timeline from pg_control_checkpoint()',
      );
      return at?.timeline ?? 0;
    },
    archived() {
      const names = readdirSync(ledger)
        .filter((name) => !name.startsWith('.'))
        .toSorted();
      const isHistory = (name: string) => name.endsWith('.history');
      return [...names.filter(isHistory), ...names.filter((name) => !isHistory(name))];
    },
    waitFor,
    async writeChapter(chapter) {
      await postgres.psql(`
        insert into matrix (chapter) select '${chapter}' from generate_series(1, 100);
        update filler set t = reverse(t) where id % 97 = 0;
        delete from matrix where id % 7 = 0`);
    },
    async close() {
      const content = await contentOf(postgres);
      await waitFor(await postgres.switchWal());
      return content;
    },
    async promote() {
      await postgres.stop();
      const path = join(postgres.dataDirectory, 'standby.signal');
      writeFileSync(path, '');
      giveToServerUser(path);
      await postgres.start();
      await postgres.promote();
    },
  };
}
