import { join } from 'node:path';
import { expect, it } from 'vitest';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import { runProcess } from '../support/processes.ts';
import { describeEachMajor, type Major, postgresBin, repositoryRoot } from '../support/tools.ts';

describeEachMajor('scripts/grants.sql', (major) => {
  it('S4: makes a role that can back up, and is no superuser, as often as it is run', async () => {
    const server = await createPostgres({ major });
    for (let run = 1; run <= 2; run += 1) {
      expect(await applyGrants(major, server, 'role=odd "name"')).toMatchObject({ code: 0 });
    }

    const client = await server.connect();
    await client.query('SET SESSION AUTHORIZATION "odd ""name"""');
    expect((await client.query('SHOW is_superuser')).rows).toEqual([{ is_superuser: 'off' }]);
    await client.query(`SELECT pg_backup_start('x', true)`);
    await client.query('SELECT * FROM pg_backup_stop(false)');
    await client.query(`SELECT pg_switch_wal(), pg_create_restore_point('here')`);
    const { rows } = await client.query(`SELECT current_setting('data_directory') AS directory`);
    expect(rows).toEqual([{ directory: server.dataDirectory }]);
    await expect(client.query('SELECT FROM pg_authid')).rejects.toThrow('permission denied');
    await expect(client.query('CHECKPOINT')).rejects.toThrow(/permission denied|must be/);
    await client.end();
  });

  it('S4: allows checkpoints only where that was asked for', async () => {
    const server = await createPostgres({ major });
    expect(await applyGrants(major, server, 'checkpoint=on')).toMatchObject({ code: 0 });
    await server.psql('SET SESSION AUTHORIZATION walkeep; CHECKPOINT');
  });

  it('leaves a superuser as it is, and says so', async () => {
    const server = await createPostgres({ major });
    const outcome = await applyGrants(major, server, 'role=postgres');
    expect(outcome.code).toBe(3);
    expect(outcome.stderr).toContain('postgres is a superuser');
    expect(await server.psql(`SELECT rolsuper FROM pg_roles WHERE rolname = 'postgres'`)).toEqual([
      { rolsuper: true },
    ]);
  });
});

function applyGrants(major: Major, { environment }: Postgres, variable: string) {
  const file = join(repositoryRoot, 'scripts/grants.sql');
  return runProcess(join(postgresBin(major), 'psql'), ['-X', '-v', variable, '-f', file], {
    env: { ...process.env, ...environment },
  });
}
