import { join } from 'node:path';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { formatLsn } from '../../core/lsn.ts';
import { openBackupSession } from '../../postgres/backup-session.ts';
import { connect, connectionFromEnvironment, disconnect, refusePooler } from '../../postgres/connection.ts';
import { parseControlData, readControlData } from '../../postgres/control-data.ts';
import { findDamagedPages, parseRelationFile } from '../../postgres/page-checksum.ts';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import { describeEachMajor } from '../support/tools.ts';
import { until } from '../support/wait.ts';

const signal = new AbortController().signal;
const open = (
  server: Postgres,
  change: { watchIntervalMs?: number; watchDeadlineMs?: number; lockKey?: string } = {},
) =>
  openBackupSession(connectionFromEnvironment(server.environment), {
    lockKey: 'n/c',
    pgdata: server.dataDirectory,
    applicationName: 'walkeep test',
    signal,
    ...change,
  });

async function backend(server: Postgres): Promise<number | undefined> {
  const rows = await server.psql<{ pid: number }>(
    `select pid from pg_stat_activity where application_name = 'walkeep test'`,
  );
  return rows[0]?.pid;
}

describeEachMajor('a data directory', (major) => {
  it('B4: its control file reads as pg_controldata reads it, and all its pages have the checksums we compute', async () => {
    const server = await createPostgres({ major, archiveCommand: 'true', segmentSizeMiB: 4 });
    await server.psql('create table t as select g, md5(g::text) from generate_series(1, 10000) g');
    await server.psql('vacuum t');
    await server.stop();
    const control = await readControlData(server.dataDirectory);
    const said = new Map(
      (await server.run('pg_controldata', ['-D', server.dataDirectory])).split('\n').map((line) => {
        const colon = line.indexOf(':');
        return [line.slice(0, colon), line.slice(colon + 1).trim()] as const;
      }),
    );
    expect({
      'Database system identifier': control.systemId,
      'pg_control version number': String(control.pgControlVersion),
      'Catalog version number': String(control.catalogVersion),
      'Database cluster state': control.state,
      'Latest checkpoint location': formatLsn(control.checkpointLsn),
      "Latest checkpoint's REDO location": formatLsn(control.redoLsn),
      "Latest checkpoint's TimeLineID": String(control.timeline),
      'Minimum recovery ending location': formatLsn(control.minRecoveryLsn),
      "Min recovery ending loc's timeline": String(control.minRecoveryTimeline),
      'Database block size': String(control.blockSize),
      'Blocks per segment of large relation': String(control.segmentBlocks),
      'Bytes per WAL segment': String(control.segmentSize),
    }).toEqual(Object.fromEntries([...said].filter(([name]) => COMPARED.has(name))));
    expect(control.dataChecksums).toBe(said.get('Data page checksum version') !== '0');

    let files = 0;
    for (const folder of [
      'global',
      ...readdirSync(join(server.dataDirectory, 'base')).map((db) => `base/${db}`),
    ]) {
      for (const name of readdirSync(join(server.dataDirectory, folder))) {
        const relation = parseRelationFile(`${folder}/${name}`, control.segmentBlocks);
        if (!relation) continue;
        files += 1;
        expect(
          findDamagedPages(readFileSync(join(server.dataDirectory, folder, name)), relation.firstBlock, 8192),
          name,
        ).toEqual([]);
      }
    }
    expect(files).toBeGreaterThan(100);
  });

  it('B4: a control file whose checksum is wrong is read again, and refused when it stays so', async () => {
    const server = await createPostgres({ major, archiveCommand: 'true' });
    await server.stop();
    const path = join(server.dataDirectory, 'global/pg_control');
    const whole = readFileSync(path);
    const torn = Buffer.from(whole);
    torn[100]! ^= 1;
    expect(() => parseControlData(torn)).toThrow('checksum');
    writeFileSync(path, torn);
    const reading = readControlData(server.dataDirectory);
    setTimeout(() => writeFileSync(path, whole), 50);
    expect((await reading).state).toBe('shut down');
  });
});

const COMPARED = new Set([
  'Database system identifier',
  'pg_control version number',
  'Catalog version number',
  'Database cluster state',
  'Latest checkpoint location',
  "Latest checkpoint's REDO location",
  "Latest checkpoint's TimeLineID",
  'Minimum recovery ending location',
  "Min recovery ending loc's timeline",
  'Database block size',
  'Blocks per segment of large relation',
  'Bytes per WAL segment',
]);

describeEachMajor(
  'a connection',
  (major) => {
    it('over TCP goes on in plain text where the server has no TLS, unless TLS is required', async () => {
      const server = await createPostgres({ major, archiveCommand: 'true', tcp: true });
      const env = { ...server.environment, PGHOST: '127.0.0.1', HOME: '/nowhere' };
      const options = { applicationName: 'walkeep test', signal };
      const client = await connect(connectionFromEnvironment(env), options);
      await refusePooler(client);
      const { rows } = await client.query(
        `select current_setting('search_path') as path, inet_server_port() as port`,
      );
      expect(rows).toEqual([{ path: 'pg_catalog,pg_temp', port: server.port }]);
      await disconnect(client);
      const required = connect(connectionFromEnvironment({ ...env, PGSSLMODE: 'require' }), options);
      await expect(required).rejects.toMatchObject({
        code: 'postgres-unavailable',
        message: expect.stringContaining('does not support SSL'),
      });
      const unknown = connect(connectionFromEnvironment({ ...env, PGUSER: 'nobody-here' }), options);
      await expect(unknown).rejects.toMatchObject({ code: 'postgres-denied' });
      const nowhere = connect(connectionFromEnvironment({ ...env, PGDATABASE: 'nowhere' }), options);
      await expect(nowhere).rejects.toMatchObject({
        code: 'config-invalid',
        hint: expect.stringContaining('PGDATABASE'),
      });
    });
  },
  [15],
);

describeEachMajor(
  'a backup session',
  (major) => {
    it('B3: outlives every time-out of its role, and leaves nothing behind', async () => {
      const server = await createPostgres({ major, archiveCommand: 'true' });
      await server.psql(`
      alter role postgres set idle_session_timeout = '200ms';
      alter role postgres set idle_in_transaction_session_timeout = '200ms';
      alter role postgres set lock_timeout = '200ms';
      alter role postgres set statement_timeout = '200ms'`);
      if (major >= 17) await server.psql(`alter role postgres set transaction_timeout = '200ms'`);
      const session = await open(server, { watchIntervalMs: 60_000 });
      const begun = await session.start('test', { immediateCheckpoint: true });
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      const stopped = await session.stop();
      expect(stopped.endLsn).toBeGreaterThan(begun.beginLsn);
      expect(stopped.endTime.getTime()).toBeGreaterThan(begun.beginTime.getTime());
      expect(stopped.backupLabel).toContain('LABEL: test');
      await session.close();
      await until('the session to end', async () => (await backend(server)) === undefined);
    });

    it('F1: a second one of the same cluster is refused, one of another cluster is not', async () => {
      const server = await createPostgres({ major, archiveCommand: 'true' });
      const first = await open(server);
      await expect(open(server)).rejects.toMatchObject({
        code: 'backup-in-progress',
        message: expect.stringContaining('walkeep test'),
      });
      await (await open(server, { lockKey: 'n/other' })).close();
      await first.close();
      await (await open(server)).close();
    });

    it('B3: a server that falls silent is taken for lost', async () => {
      const server = await createPostgres({ major, archiveCommand: 'true' });
      const session = await open(server, { watchIntervalMs: 50, watchDeadlineMs: 300 });
      await session.start('test', { immediateCheckpoint: true });
      const pid = (await backend(server))!;
      process.kill(pid, 'SIGSTOP');
      try {
        await until('it to be noticed', () => session.signal.aborted, { timeoutMs: 5_000 });
        expect(session.signal.reason).toMatchObject({
          code: 'backup-interrupted',
          message: expect.stringContaining('no answer'),
        });
      } finally {
        process.kill(pid, 'SIGCONT');
      }
      await session.close();
      await until('the session to end', async () => (await backend(server)) === undefined);
    });
  },
  [15, 17],
);
