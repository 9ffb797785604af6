/** Issue 3, "Shown by" 6: what a user meets when something was set up wrongly. Each is refused, and nothing changes. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { backupPrefix, walKey } from '../../repository/layout.ts';
import { claimOwner } from '../../repository/owner.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { dataMembers, putBackup } from '../support/hand-made-backup.ts';
import { mountSmall, pictureOf } from '../support/oracles.ts';
import { freePort, type Outcome } from '../support/processes.ts';
import { startS3, type S3Server } from '../support/s3.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith } from '../support/tools.ts';
import { makeSegment, MiB, SYSTEM_ID } from '../support/wal-segment.ts';
import { createHost, createPgWal, expectRefusal, giveAll, nth, type Host } from './host.ts';

const { signal } = new AbortController();
const keys = (secret: string, [id, key] = ['ID', 'KEY']) => ({
  s3Credentials: { accessKeyId: { name: secret, key: id }, secretAccessKey: { name: secret, key } },
});

/** A target of a restore that is not there yet, in a directory of its own. */
function newTarget(): string {
  return join(makeTempDir('target'), 'data');
}

describeWith('versitygw', 'a store that can’t be used', () => {
  let host: Host;
  let s3: S3Server;
  let pgdata: string;

  beforeAll(async () => {
    [s3, pgdata] = await Promise.all([startS3(), createPgWal([4])]);
    host = createHost();
    const { accessKeyId: ID, secretAccessKey: KEY, endpointUrl: endpointURL } = s3;
    await host.secret('right', { ID, KEY });
    await host.secret('wrong', { ID, KEY: 'not-the-secret-of-this-key' });
    await host.secret('stranger', { ID: 'nobody', KEY });
    await host.secret('half', { ID });
    const place = (name: string, objectStore: object, destinationPath = 's3://backups/pg') =>
      host.cluster({ name, destinationPath, objectStore: { endpointURL, ...objectStore } });
    await place('unreachable', { ...keys('right'), endpointURL: `http://127.0.0.1:${await freePort()}` });
    await place('unnamed', { ...keys('right'), endpointURL: 'http://no-such-host.invalid:9000' });
    await place('wrong-key', keys('wrong'));
    await place('unknown-key', keys('stranger'));
    await place('no-bucket', keys('right'), 's3://no-such-bucket/pg');
    await place('no-secret', keys('nowhere'));
    await place('half-secret', keys('half'));
  });

  it.concurrent.for([
    {
      cluster: 'unreachable',
      says: /ECONNREFUSED \(http:\/\/127\.0\.0\.1:\d+\)/,
      todo: /start the store, or correct endpointURL/,
      code: 6,
    },
    { cluster: 'unnamed', says: /(ENOTFOUND|EAI_AGAIN) \(http:\/\/no-such-host/, todo: /DNS/, code: 6 },
    { cluster: 'wrong-key', says: /SignatureDoesNotMatch/, todo: /correct the secret/, code: 6 },
    { cluster: 'unknown-key', says: /XAdminUserNotFound/, todo: /knows no such access key id/, code: 6 },
    {
      cluster: 'no-bucket',
      says: /NoSuchBucket/,
      todo: /create the bucket at http.*or correct destinationPath/,
      code: 6,
    },
    {
      cluster: 'no-secret',
      says: /no secret "nowhere" with key "(ID|KEY)"/,
      todo: /walkeep create secret generic nowhere/,
      code: 7,
    },
    {
      cluster: 'half-secret',
      says: /secret "half" has no key "KEY"; it holds ID/,
      todo: /walkeep create secret generic half/,
      code: 7,
    },
  ])(
    '$cluster: restore, list, check, wal-push and wal-fetch say so, and nothing changes',
    async ({ cluster, says, todo, code }) => {
      const target = newTarget();
      const places = [s3.directory, host.state, pgdata, target];
      const before = pictureOf(...places);
      const [restore, list, describeOne, check, push, fetch] = await Promise.all([
        host.walkeep('restore', cluster, '-D', target),
        host.walkeep('get', 'backups', '-l', `cnpg.io/cluster=${cluster}`),
        host.walkeep('get', 'backups', 'nightly', '-l', `cnpg.io/cluster=${cluster}`),
        host.walkeep('check', cluster),
        host.walkeepIn(pgdata, 'wal-push', '--cluster', cluster, '--pgdata', pgdata, `pg_wal/${nth(4)}`),
        host.walkeepIn(
          pgdata,
          'wal-fetch',
          '--cluster',
          cluster,
          '--deadline',
          '25',
          nth(4),
          'pg_wal/RECOVERYXLOG',
        ),
      ]);
      expectRefusal(restore, { code, says, todo });
      // What could not be asked is no empty list, and no proof that a backup does not exist.
      for (const listing of [list, describeOne]) {
        expect(listing.code, listing.stderr).toBe(code);
        expect(listing.stderr).toMatch(says);
        expect(listing.stderr).not.toMatch(/No backups found|there is no Backup/);
      }
      expect(check.code).toBe(11);
      expect(check.stdout).toMatch(
        new RegExp(`PROBLEM  repository +.*${says.source}.*\n +-> .*${todo.source}`),
      );
      expectRefusal(push, { code: 1, says, todo });
      expectRefusal(fetch, { code: 200, says, todo });
      expect(pictureOf(...places)).toEqual(before);
    },
  );
});

describe('a directory as repository', () => {
  let host: Host;
  let directory: string;
  let repository: Repository;

  beforeEach(async () => {
    host = createHost();
    directory = join(makeTempDir('repo'), 'r');
    mkdirSync(directory);
    repository = createRepository(openStore({ kind: 'file', directory }), 'pg');
    await host.cluster({ name: 'pg', destinationPath: `file://${directory}` });
  });

  /** Runs commands that have to be refused, and looks at every place they could have changed. */
  async function unchanged<Result>(places: readonly string[], work: () => Promise<Result>): Promise<Result> {
    const before = pictureOf(directory, host.state, ...places);
    const result = await work();
    expect(pictureOf(directory, host.state, ...places)).toEqual(before);
    return result;
  }
  const restore = (...args: string[]): Promise<Outcome> => host.walkeep('restore', 'pg', ...args);

  it('that is not there, perhaps not mounted, is no empty one: nothing is made in its place', async () => {
    rmSync(directory, { recursive: true });
    const pgdata = await createPgWal([4]);
    const target = newTarget();
    const refusal = {
      says: /is not a directory of this host/,
      todo: /mount it, or create it, or correct destinationPath/,
    };
    await unchanged([pgdata, target], async () => {
      expectRefusal(await restore('-D', target), { code: 6, ...refusal });
      const push = await host.walkeepIn(
        pgdata,
        'wal-push',
        '--cluster',
        'pg',
        '--pgdata',
        pgdata,
        `pg_wal/${nth(4)}`,
      );
      expectRefusal(push, { code: 1, ...refusal });
      expectRefusal(await host.walkeepIn(pgdata, 'wal-fetch', '--cluster', 'pg', nth(4), 'pg_wal/R'), {
        code: 200,
        ...refusal,
      });
    });
  });

  it('A4, fault 28: that holds another cluster’s WAL refuses ours, names both systems, and is left as it is', async () => {
    await putBackup(repository);
    await giveAll(directory);
    const pgdata = await createPgWal([3, 5], { systemId: '4711' });
    await unchanged([pgdata], async () => {
      for (const number of [3, 5]) {
        const push = await host.walkeepIn(
          pgdata,
          'wal-push',
          '--cluster',
          'pg',
          '--pgdata',
          pgdata,
          `pg_wal/${nth(number)}`,
        );
        expectRefusal(push, {
          code: 1,
          says: /belongs to the cluster with system identifier \d+, this one has 4711/,
          todo: /its own serverName/,
        });
      }
    });
  });

  it('A3: that holds other bytes under the name keeps them', async () => {
    await putBackup(repository);
    await claimOwner(repository, { systemId: SYSTEM_ID, segmentSize: MiB }, signal);
    await giveAll(directory);
    const pgdata = await createPgWal([3]);
    const path = join(pgdata, 'pg_wal', nth(3));
    const other = Buffer.from(readFileSync(path));
    other[9000]! ^= 1;
    writeFileSync(path, other);
    await unchanged([pgdata], async () => {
      const push = await host.walkeepIn(
        pgdata,
        'wal-push',
        '--cluster',
        'pg',
        '--pgdata',
        pgdata,
        `pg_wal/${nth(3)}`,
      );
      expectRefusal(push, {
        code: 1,
        says: /wal-conflict: .* other bytes/,
        todo: /[Nn]othing was overwritten/,
      });
    });
  });

  it('A6, C3, fault 26: with a hole names it, and how far a restore gets without it', async () => {
    await putBackup(repository);
    for (const number of [5, 6])
      await repository.store.put(walKey('pg', nth(number), 'none'), makeSegment(nth(number)), { signal });
    await giveAll(directory);
    const pgdata = await createPgWal([]);
    const target = newTarget();
    await unchanged([pgdata, target], async () => {
      const refused = await restore('-D', target);
      expectRefusal(refused, {
        code: 10,
        says: new RegExp(`hole: ${nth(4)} is missing .*${nth(5)} is there; .*ends at 0/400000`),
        todo: /--accept-end|archive the missing segment/,
      });
      const fetch = await host.walkeepIn(
        pgdata,
        'wal-fetch',
        '--cluster',
        'pg',
        nth(4),
        'pg_wal/RECOVERYXLOG',
      );
      expectRefusal(fetch, { code: 200, says: /wal-hole/, todo: /restore to a moment before it/ });
      const check = await host.walkeep('check', 'pg');
      expect(check.code).toBe(11);
      expect(check.stdout).toMatch(
        new RegExp(`PROBLEM  gap in the archive .*1 missing, ${nth(4)}.*\n +-> take a base backup now`),
      );
    });
    // Knowingly, it is possible.
    expect((await restore('-D', target, '--accept-end')).code).toBe(0);
  });

  it('B1, fault 26: without the WAL of the backup itself refuses, naming what is missing', async () => {
    await putBackup(repository);
    await repository.store.delete([walKey('pg', nth(2), 'none')], { signal });
    await giveAll(directory);
    const target = newTarget();
    const refused = await unchanged([target], () => restore('-D', target));
    expectRefusal(refused, {
      code: 9,
      says: new RegExp(`incomplete: ${nth(2)} is missing`),
      todo: /archive it again|take a new backup/,
    });
  });

  it.for([
    {
      why: 'a turned bit',
      spoil: (bytes: Buffer) => bytes.map((byte, at) => (at === bytes.length >> 1 ? byte ^ 1 : byte)),
      says: /data\.tar\.gz/,
      todo: /restore another backup.*does not start and can be removed/,
      writes: true,
    },
    {
      why: 'its end missing',
      spoil: (bytes: Buffer) => bytes.subarray(0, 400),
      says: /data\.tar\.gz has 400 bytes, \d+ were recorded/,
      todo: /choose another backup/,
      writes: false,
    },
    {
      why: 'nothing in it',
      spoil: () => Buffer.alloc(0),
      says: /data\.tar\.gz has 0 bytes/,
      todo: /choose another backup/,
      writes: false,
    },
  ])(
    'C2, fault 25, 27: with a tar with $why restores nothing that starts',
    async ({ spoil, says, todo, writes }) => {
      const id = await putBackup(repository);
      const tar = join(directory, backupPrefix('pg', id), 'data.tar.gz');
      writeFileSync(tar, spoil(readFileSync(tar)));
      await giveAll(directory);
      const target = newTarget();
      const refused = await unchanged(writes ? [] : [target], () => restore('-D', target));
      expectRefusal(refused, { code: 10, says, todo });
      expect(existsSync(join(target, 'global/pg_control'))).toBe(false);
      expect(existsSync(join(target, 'backup_label'))).toBe(false);
    },
  );

  it('without the tar at all refuses before the first write', async () => {
    const id = await putBackup(repository);
    rmSync(join(directory, backupPrefix('pg', id), 'data.tar.gz'));
    await giveAll(directory);
    const target = newTarget();
    expectRefusal(await unchanged([target], () => restore('-D', target)), {
      code: 9,
      says: /data\.tar is missing/,
      todo: /take a backup/,
    });
  });

  it.for([
    { why: 'a file of somebody', name: 'mine', says: /is not empty \(mine\)/ },
    { why: 'a database', name: 'PG_VERSION', says: /holds a database/ },
    { why: 'a server', name: 'postmaster.pid', says: /holds a PostgreSQL server/ },
  ])('C1: is not restored over $why', async ({ name, says }) => {
    await putBackup(repository);
    await giveAll(directory);
    const target = newTarget();
    mkdirSync(target, { mode: 0o700 });
    writeFileSync(join(target, name), 'precious');
    await giveAll(target);
    const refused = await unchanged([target], () => restore('-D', target));
    expectRefusal(refused, { code: 9, says, todo: /give an empty or new directory; nothing was written/ });
  });

  it('A5, fault 30: on a full disk archives nothing half, and heals when there is room', async ({ skip }) => {
    const small = mountSmall(1);
    if (!small) return skip('no tmpfs can be mounted here');
    const full = join(small.directory, 'r');
    mkdirSync(full);
    giveToServerUser(full);
    await host.cluster({ name: 'full', destinationPath: `file://${full}` });
    const pgdata = await createPgWal([2]);
    const push = () =>
      host.walkeepIn(pgdata, 'wal-push', '--cluster', 'full', '--pgdata', pgdata, `pg_wal/${nth(2)}`);
    const before = pictureOf(pgdata);
    expectRefusal(await push(), {
      code: 1,
      says: /store-full: no room to store file:\/\/.*ENOSPC/,
      todo: /make room in the store; WAL stays in pg_wal/,
    });
    expect(pictureOf(pgdata)).toEqual(before);
    const files = readdirSync(full, { recursive: true }).map(String);
    expect(files.filter((name) => name.includes(nth(2)) || name.startsWith('.walkeep-tmp/'))).toEqual([]);
    small.grow(16);
    expect(await push()).toMatchObject({ code: 0, stderr: '' });
  });

  it('C1, fault 31: is not begun to be restored where it does not fit', async ({ skip }) => {
    const small = mountSmall(1);
    if (!small) return skip('no tmpfs can be mounted here');
    await putBackup(repository, {
      tars: { 'data.tar.gz': [...dataMembers(), ['base/5/1', 'x'.repeat(5 << 20)]] },
    });
    await giveAll(directory);
    const target = join(small.directory, 'data');
    const refused = await unchanged([small.directory], () => restore('-D', target));
    expectRefusal(refused, {
      code: 1,
      says: /the restore needs \d+ MiB at .*, and 1 MiB are free/,
      todo: /make room there; nothing was written/,
    });
    small.grow(32);
    expect((await restore('-D', target)).code).toBe(0);
  });

  it('C2, fault 31: on a disk that fills up on the way stops, does not start, and begins anew when there is room', async ({
    skip,
  }) => {
    const small = mountSmall(1);
    if (!small) return skip('no tmpfs can be mounted here');
    // Without walkeep's record nobody knows the size before.
    await putBackup(repository, {
      tars: { 'data.tar.gz': [...dataMembers(), ['base/5/1', 'x'.repeat(5 << 20)]] },
      isRecorded: false,
    });
    await giveAll(directory);
    const target = join(small.directory, 'data');
    const refused = await unchanged([], () => restore('-D', target));
    expectRefusal(refused, {
      code: 1,
      says: /no room left for data\.tar\.gz in /,
      todo: /make room there and run the same command again/,
    });
    expect(existsSync(join(target, 'global/pg_control'))).toBe(false);
    small.grow(32);
    expect((await restore('-D', target)).code).toBe(0);
    expect(readFileSync(join(target, 'base/5/1')).length).toBe(5 << 20);
  });
});

describe('a name that nobody knows', () => {
  it.concurrent.for([
    ['restore', 'nope', '-D', '/tmp/walkeep-never-made'],
    ['get', 'backups', '-l', 'cnpg.io/cluster=nope'],
    ['get', 'clusters', 'nope'],
    ['check', 'nope'],
    ['status', 'nope'],
    ['archive-command', '--cluster', 'nope', '--pgdata', '/nowhere'],
    ['restore-command', '--cluster', 'nope', '--pgdata', '/nowhere'],
  ])('of a cluster: walkeep %s %s', async (args) => {
    const host = createHost();
    await host.cluster({ name: 'pg', destinationPath: 'file:///nowhere' });
    const before = pictureOf(host.state, '/tmp/walkeep-never-made');
    expectRefusal(await host.walkeep(...args), {
      code: 4,
      says: /no Cluster default\/nope is applied on this host/,
      // A restore needs no manifest: the host that had it may be the one that was lost.
      todo: args[0] === 'restore' ? /--repository URL --server-name NAME/ : /walkeep apply -f FILE/,
    });
    expect(pictureOf(host.state, '/tmp/walkeep-never-made')).toEqual(before);
  });

  it('of a cluster: wal-push and wal-fetch, which never end a recovery by it', async () => {
    const host = createHost();
    const pgdata = await createPgWal([4]);
    const before = pictureOf(host.state, pgdata);
    const refusal = { says: /no Cluster default\/nope/, todo: /walkeep apply -f FILE/ };
    const push = await host.walkeepIn(
      pgdata,
      'wal-push',
      '--cluster',
      'nope',
      '--pgdata',
      pgdata,
      `pg_wal/${nth(4)}`,
    );
    expectRefusal(push, { code: 1, ...refusal });
    expectRefusal(await host.walkeepIn(pgdata, 'wal-fetch', '--cluster', 'nope', nth(4), 'pg_wal/R'), {
      code: 200,
      ...refusal,
    });
    expect(pictureOf(host.state, pgdata)).toEqual(before);
  });

  it('of a backup, where every repository answered', async () => {
    const host = createHost();
    const directory = makeTempDir('repo');
    await host.cluster({ name: 'pg', destinationPath: `file://${directory}` });
    for (const args of [
      ['get', 'backups', 'nope'],
      ['describe', 'backup', 'nope'],
    ])
      expect(await host.walkeep(...args)).toMatchObject({
        code: 4,
        stderr: expect.stringContaining('there is no Backup "nope"'),
      });
  });
});

describe('a manifest', () => {
  const good = [
    'apiVersion: postgresql.cnpg.io/v1',
    'kind: Cluster',
    'metadata:',
    '  name: pg',
    'spec:',
    '  instances: 1',
    '  storage: {size: 1Gi}',
    '  backup:',
    '    barmanObjectStore:',
    '      destinationPath: file:///nowhere',
    '      wal: {compression: gzip}',
  ];
  const changed = (from: string, ...to: string[]) =>
    good.flatMap((line) => (line === from ? to : [line])).join('\n');

  it.concurrent.for([
    {
      why: 'a misspelt field',
      text: changed('      wal: {compression: gzip}', '      wal: {compresion: gzip}'),
      line: 11,
      says: /there is no such field/,
      todo: /did you mean "compression"/,
    },
    {
      why: 'a misspelt value',
      text: changed('      wal: {compression: gzip}', '      wal: {compression: gizp}'),
      line: 11,
      says: /compression/,
      todo: /gzip/,
    },
    {
      why: 'a misspelt kind',
      text: changed('kind: Cluster', 'kind: Clutser'),
      line: 2,
      says: /Clutser/,
      todo: /Cluster/,
    },
    {
      why: 'a key given twice',
      text: changed('  backup:', '  backup: {}', '  backup:'),
      line: 8,
      says: /"backup" is given twice: line 8 holds nothing; line 9 holds barmanObjectStore/,
      todo: /put everything below one "backup:"/,
    },
    { why: 'a bracket left open', text: 'kind: [Cluster', line: 2, says: /indentation/, todo: /align it/ },
  ])('with $why is refused whole: file, line, field and what to do', async ({ text, line, says, todo }) => {
    const host = createHost();
    const file = join(makeTempDir('manifest'), 'cluster.yaml');
    const secret = 'apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n';
    writeFileSync(file, `${text}\n---\n${secret}`);
    giveToServerUser(file);
    const target = newTarget();
    const before = pictureOf(host.state, target);
    const [apply, dry, restore] = await Promise.all([
      host.walkeep('apply', '-f', file),
      host.walkeep('apply', '-f', file, '--dry-run'),
      host.walkeep('restore', '-f', file, '-D', target),
    ]);
    for (const { code, stderr } of [apply, dry, restore]) {
      expect(code, stderr).toBe(3);
      const problem = stderr.split('\n').findIndex((text_) => text_.includes(`cluster.yaml:${line}: error:`));
      expect(problem, stderr).toBeGreaterThanOrEqual(0);
      expect(stderr).toMatch(says);
      expect(stderr).toMatch(todo);
    }
    expect(apply.stderr).toMatch(
      /(the document was not|none of \d documents was) applied, nothing was changed/,
    );
    // S1: the value of the Secret beside it is nowhere.
    expect(pictureOf(host.state, target)).toEqual(before);
  });

  it('that is good needs Temporal to be applied, and without it nothing is', async () => {
    const host = createHost();
    const file = join(makeTempDir('manifest'), 'cluster.yaml');
    writeFileSync(
      file,
      `${good.join('\n')}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n`,
    );
    giveToServerUser(file);
    const before = pictureOf(host.state);
    const { code, stderr } = await host.walkeep('apply', '-f', file);
    expect(code).toBe(5);
    expect(stderr).toMatch(
      /walkeep: Temporal at 127\.0\.0\.1:1 does not answer.*nothing was applied.*start Temporal or set TEMPORAL_ADDRESS/,
    );
    expect(pictureOf(host.state)).toEqual(before);
  });
});
