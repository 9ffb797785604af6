import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  DeleteObjectCommand,
  GetObjectCommand,
  GetObjectTaggingCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { beforeAll, describe, expect, it } from 'vitest';
import { CODEC_SUFFIX, CODECS } from '../../streams/codec.ts';
import { startAzurite } from '../support/azurite.ts';
import { openRestored } from '../support/barman-cases.ts';
import type { BarmanCloudProgram } from '../support/barman.ts';
import { startFakeGcs } from '../support/fake-gcs.ts';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import { runProcess, runSuccessfully, type Outcome } from '../support/processes.ts';
import { startS3, type S3Server } from '../support/s3.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith, repositoryRoot, toolPath } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import { makeSegment } from '../support/wal-bytes.ts';

type Program = 'walkeep-cloud-wal-archive' | 'walkeep-cloud-wal-restore' | BarmanCloudProgram;

const programPath = (program: Program): string =>
  program.startsWith('walkeep')
    ? join(repositoryRoot, 'scripts', program)
    : join(toolPath('barman'), program);

const nth = (number: number, timeline = 1) =>
  `0000000${timeline}00000000000000${number.toString(16).toUpperCase().padStart(2, '0')}`;
const folderOf = (server: string) => `pfx/${server}/wals/0000000100000000`;

/** A data directory as far as these programs see one: `pg_wal` with made-up segments. */
function makeData(...names: readonly string[]): string {
  const directory = makeTempDir('data');
  mkdirSync(join(directory, 'pg_wal'));
  giveToServerUser(join(directory, 'pg_wal'));
  for (const name of names) writeFileSync(join(directory, 'pg_wal', name), makeSegment(name));
  return directory;
}

/** What was said by everything that ran here, and must hold no secret. */
const said: string[] = [];

async function run(
  program: Program,
  args: readonly string[],
  { env = {}, cwd = makeData() }: { env?: Readonly<Record<string, string>>; cwd?: string } = {},
): Promise<Outcome> {
  const outcome = await runProcess(programPath(program), args, {
    cwd,
    env: { PATH: process.env['PATH'], ...env },
    user: serverUser,
  });
  if (program.startsWith('walkeep')) said.push(outcome.stdout, outcome.stderr);
  return outcome;
}

describeWith('barman', "barman-cloud's own list of options", () => {
  it.for([
    ['barman-cloud-wal-archive', 'walkeep-cloud-wal-archive', 3],
    ['barman-cloud-wal-restore', 'walkeep-cloud-wal-restore', 4],
  ] as const)('E5: every option of %s is one of ours', async ([theirs, ours]) => {
    const [barmans, walkeeps] = await Promise.all([run(theirs, ['--help']), run(ours, ['--help'])]);
    const names = new Set(barmans.stdout.match(/(?<=^|[\s[|,])--?[a-z][a-z-]*/gim));
    expect(names.size).toBeGreaterThan(15);
    const known = new Set(walkeeps.stdout.match(/(?<=^|[\s,])--?[a-z][a-z-]*/gim));
    // how -v and -q are to be repeated is said among them, too
    expect([...names].filter((name) => !known.has(name))).toEqual(['-vv', '-qq']);
  });
});

describeWith(['versitygw', 'barman'], 'the drop-ins on S3', () => {
  let s3: S3Server;
  const destination = () => `s3://${s3.bucket}/pfx`;
  const provider = () => ['--endpoint-url', s3.endpointUrl, '--cloud-provider', 'aws-s3'];
  const archive = (program: Program, server: string, cwd: string, name: string, ...options: string[]) =>
    run(program, [...options, ...provider(), destination(), server, `pg_wal/${name}`], {
      env: s3.environment,
      cwd,
    });
  async function restore(program: Program, server: string, name: string, ...options: string[]) {
    const target = join(makeTempDir('target'), name);
    const spool = program.startsWith('barman') ? ['--spool-dir', makeTempDir('spool')] : [];
    const args = [...provider(), ...options, ...spool, destination(), server, name, target];
    const outcome = await run(program, args, { env: s3.environment });
    return { ...outcome, bytes: existsSync(target) ? readFileSync(target) : undefined };
  }

  beforeAll(async () => {
    s3 = await startS3();
  });

  it('E5: take the arguments as CloudNativePG writes them', async () => {
    const cwd = makeData(nth(1));
    writeFileSync(join(cwd, 'pg_wal/00000002.history'), '1\t0/2000000\tno recovery target specified\n');
    for (const name of [nth(1), '00000002.history']) {
      const line = [
        '--gzip -e AES256 --read-timeout=60',
        `--endpoint-url ${s3.endpointUrl} --tags cluster,main owner,me --history-tags kind,history`,
        `--cloud-provider aws-s3 ${destination()} cnpg pg_wal/${name}`,
      ].join(' ');
      const outcome = await run('walkeep-cloud-wal-archive', line.split(' '), { env: s3.environment, cwd });
      expect(outcome).toMatchObject({ code: 0, stdout: '', stderr: '' });
    }
    const client = s3.client();
    const tagsOf = async (key: string) =>
      (await client.send(new GetObjectTaggingCommand({ Bucket: s3.bucket, Key: key }))).TagSet?.toSorted(
        (a, b) => ((a.Key ?? '') < (b.Key ?? '') ? -1 : 1),
      );
    expect(await tagsOf(`${folderOf('cnpg')}/${nth(1)}.gz`)).toEqual([
      { Key: 'cluster', Value: 'main' },
      { Key: 'owner', Value: 'me' },
    ]);
    expect(await tagsOf('pfx/cnpg/wals/00000002.history.gz')).toEqual([{ Key: 'kind', Value: 'history' }]);
    client.destroy();
    const restored = await restore('walkeep-cloud-wal-restore', 'cnpg', nth(1));
    expect(restored).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(Buffer.compare(restored.bytes!, makeSegment(nth(1)))).toBe(0);
    expect((await restore('walkeep-cloud-wal-restore', 'cnpg', nth(2))).code).toBe(1);
    const test = [...provider(), '-t', destination(), 'cnpg'];
    expect((await run('walkeep-cloud-wal-archive', test, { env: s3.environment })).code).toBe(0);
  });

  it.for(CODECS)('E5: with %s, each reads what the other archived', async (codec) => {
    const options = codec === 'none' ? [] : [`--${codec}`];
    const [theirs, ours] = [`barman-${codec}`, `walkeep-${codec}`];
    const cwd = makeData(nth(1));
    const [a, b] = await Promise.all([
      archive('barman-cloud-wal-archive', theirs, cwd, nth(1), ...options),
      archive('walkeep-cloud-wal-archive', ours, cwd, nth(1), ...options),
    ]);
    expect([a.code, b.code], a.stderr + b.stderr).toEqual([0, 0]);
    const key = `${folderOf(ours)}/${nth(1)}${CODEC_SUFFIX[codec]}`;
    expect(existsSync(join(s3.directory, s3.bucket, key))).toBe(true);
    const [byWalkeep, byBarman] = await Promise.all([
      restore('walkeep-cloud-wal-restore', theirs, nth(1)),
      restore('barman-cloud-wal-restore', ours, nth(1)),
    ]);
    for (const { code, bytes, stderr } of [byWalkeep, byBarman]) {
      expect(code, stderr).toBe(0);
      expect(Buffer.compare(bytes!, makeSegment(nth(1)))).toBe(0);
    }
    // what barman archived is archived for us, too; other bytes are not
    expect((await archive('walkeep-cloud-wal-archive', theirs, cwd, nth(1), '--gzip')).code).toBe(0);
    writeFileSync(join(cwd, 'pg_wal', nth(1)), makeSegment(nth(1), { seed: 7 }));
    const conflict = await archive('walkeep-cloud-wal-archive', theirs, cwd, nth(1), ...options);
    expect(conflict).toMatchObject({ code: 1, stderr: expect.stringContaining('wal-conflict') });
  });

  it("has barman's exit codes with --exit-codes=barman, on the same calls", async () => {
    const cwd = makeData(nth(1));
    await archive('walkeep-cloud-wal-archive', 'codes', cwd, nth(1));
    const barmans = (program: Program) => (program.startsWith('walkeep') ? ['--exit-codes=barman'] : []);
    const gone = ['--endpoint-url', 'http://127.0.0.1:1'];
    const soon = (program: Program) => (program.startsWith('walkeep') ? ['--deadline', '2'] : []);
    const restoreCodes = async (program: Program) => [
      (await restore(program, 'codes', nth(2), ...barmans(program))).code,
      (await restore(program, 'codes', 'foo', ...barmans(program))).code,
      (await restore(program, 'codes', nth(1), '--frob', ...barmans(program))).code,
      (await restore(program, 'codes', nth(1), ...gone, ...soon(program), ...barmans(program))).code,
      (await restore(program, 'codes', nth(1), '-t', ...gone, ...soon(program), ...barmans(program))).code,
    ];
    const archiveCodes = async (program: Program) => [
      (await archive(program, 'codes', cwd, 'foo', ...barmans(program))).code,
      (await archive(program, 'codes', cwd, nth(9), ...barmans(program))).code,
      (await archive(program, 'codes', cwd, nth(1), '--zstd', '--lz4', ...barmans(program))).code,
    ];
    const restoreOfBarman = await restoreCodes('barman-cloud-wal-restore');
    expect(restoreOfBarman).toEqual([1, 3, 3, 4, 2]);
    expect(await restoreCodes('walkeep-cloud-wal-restore')).toEqual(restoreOfBarman);
    expect(await archiveCodes('walkeep-cloud-wal-archive')).toEqual(
      await archiveCodes('barman-cloud-wal-archive'),
    );
  });

  it('takes the keys of a profile, and no others then', async () => {
    const home = makeTempDir('aws');
    const credentials = join(home, 'credentials');
    writeFileSync(
      credentials,
      `[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n[there]\n` +
        `aws_access_key_id = ${s3.accessKeyId}\naws_secret_access_key = ${s3.secretAccessKey}\n`,
    );
    const env = {
      AWS_SHARED_CREDENTIALS_FILE: credentials,
      AWS_EC2_METADATA_DISABLED: 'true',
      AWS_ACCESS_KEY_ID: 'wrong',
      AWS_SECRET_ACCESS_KEY: 'wrong',
    };
    const test = (...options: string[]) =>
      run('walkeep-cloud-wal-archive', [...options, ...provider(), '-t', destination(), 'profile'], { env });
    const [without, withProfile, missing] = await Promise.all([
      test(),
      test('-P', 'there'),
      test('-P', 'nowhere'),
    ]);
    expect(without.code).toBe(1);
    expect(withProfile).toMatchObject({ code: 0, stderr: '' });
    expect(missing.code).toBe(1);
    expect(missing.stderr).toMatch(/^walkeep: cloud-wal-archive: [^\n]+\n$/);
  });

  it('S1: neither failures nor the most talkative success hold a secret', async () => {
    const cwd = makeData(nth(1));
    await archive('walkeep-cloud-wal-archive', 'talk', cwd, nth(1), '-vvv');
    const denied = { ...s3.environment, AWS_SECRET_ACCESS_KEY: `${s3.secretAccessKey}x` };
    const args = [...provider(), '-vv', destination(), 'talk', `pg_wal/${nth(1)}`];
    const outcome = await run('walkeep-cloud-wal-archive', args, { env: denied, cwd });
    expect(outcome).toMatchObject({ code: 1, stderr: expect.stringContaining('access-denied') });
    await run('walkeep-cloud-wal-archive', [`s3://id:${s3.secretAccessKey}@b/p`, 's', 'x']);
    await run('walkeep-cloud-wal-restore', [s3.secretAccessKey, s3.secretAccessKey, s3.secretAccessKey, 'x']);
    expect(said.length).toBeGreaterThan(10);
    for (const text of said) expect(text).not.toContain(s3.secretAccessKey);
  });

  describe('with PostgreSQL 15', () => {
    let postgres: Postgres;
    let base: string;
    let last: string;
    const environment = () => Object.entries(s3.environment).map(([name, value]) => `${name}=${value}`);
    const line = (program: Program, ...words: string[]) =>
      ['env', ...environment(), programPath(program), ...provider(), ...words].join(' ');
    const statusOf = (name: string) =>
      ['ready', 'done'].find((status) =>
        existsSync(join(postgres.dataDirectory, `pg_wal/archive_status/${name}.${status}`)),
      );
    const rowsOf = async (server: Postgres) =>
      Number((await server.psql<{ rows: string }>('select count(*) as rows from story'))[0]?.rows);
    const failures = async () =>
      Number((await postgres.psql<{ n: string }>('select failed_count as n from pg_stat_archiver'))[0]?.n);

    beforeAll(async () => {
      const command = line(
        'walkeep-cloud-wal-archive',
        '--zstd',
        '--deadline',
        '3',
        destination(),
        'pg',
        '%p',
      );
      postgres = await createPostgres({ major: 15, archiveCommand: command });
      await postgres.psql('create table story (id int generated always as identity, text text)');
      await postgres.waitUntilArchived(await postgres.switchWal());
      base = join(makeTempDir('base'), 'data');
      mkdirSync(base, { mode: 0o700 });
      giveToServerUser(base);
      await postgres.run('pg_basebackup', ['-D', base, '-X', 'none', '-c', 'fast', '--no-sync']);
    });

    const write = async () => {
      await postgres.psql(`insert into story (text) select 'x' from generate_series(1, 100)`);
      return postgres.switchWal();
    };

    it('A1, A5: with the store down the segment stays, and is archived when it is back', async () => {
      await s3.stop();
      const before = await failures();
      const name = await write();
      await until('two failures', async () => (await failures()) >= before + 2, { timeoutMs: 60_000 });
      expect(statusOf(name)).toBe('ready');
      expect(postgres.log()).toContain('walkeep: cloud-wal-archive: ');
      await s3.start();
      await postgres.waitUntilArchived(name);
      expect(statusOf(name)).toBe('done');
      const back = await restore('barman-cloud-wal-restore', 'pg', name);
      expect(Buffer.compare(back.bytes!, readFileSync(join(postgres.dataDirectory, 'pg_wal', name)))).toBe(0);
    });

    it('A3: other bytes under the name of the next segment are left, and the segment stays', async () => {
      const client = s3.client();
      // at the very beginning of a segment the name would be that of the one before
      const [row] = await postgres.psql<{ name: string }>(
        `insert into story (text) values ('y'); select pg_walfile_name(pg_current_wal_insert_lsn()) as name`,
      );
      const object = { Bucket: s3.bucket, Key: `${folderOf('pg')}/${row!.name}` };
      await client.send(new PutObjectCommand({ ...object, Body: 'of somebody else' }));
      try {
        const name = await write();
        expect(name).toBe(row!.name);
        await until('the refusal', async () => postgres.log().includes('wal-conflict'), {
          timeoutMs: 60_000,
        });
        expect(statusOf(name)).toBe('ready');
        const found = await client.send(new GetObjectCommand(object));
        expect(await found.Body?.transformToString()).toBe('of somebody else');
      } finally {
        await client.send(new DeleteObjectCommand(object));
        client.destroy();
      }
      await postgres.waitUntilArchived(row!.name);
    });

    describe('as restore_command, with the store going down in the middle of the recovery', () => {
      let rows: number;

      beforeAll(async () => {
        for (let count = 0; count < 5; count++) last = await write();
        await postgres.waitUntilArchived(last);
        rows = await rowsOf(postgres);
        await postgres.stop();
      });

      /** A copy of the base backup that asks `program`; before the segment where it happens it waits for the store's end. */
      async function makeRecovery(
        program: Program,
        options: readonly string[],
        signalFile: 'recovery.signal' | 'standby.signal',
      ) {
        const copy = join(makeTempDir('copy'), 'data');
        cpSync(base, copy, { recursive: true });
        await runSuccessfully('chown', ['-R', serverUser?.name ?? process.env['USER'] ?? 'root', copy]);
        chmodSync(copy, 0o700);
        const place = makeTempDir('gate');
        const [asked, down, script] = ['asked', 'down', 'restore'].map((name) => join(place, name));
        const middle = nth(Number.parseInt(last.slice(-2), 16) - 2);
        const wait = `: > ${asked}; while [ ! -e ${down} ]; do sleep 0.05; done`;
        const call = line(program, ...options, destination(), 'pg', '"$1"', '"$2"');
        writeFileSync(script!, `#!/bin/sh\nif [ "$1" = ${middle} ]; then ${wait}; fi\nexec ${call}\n`, {
          mode: 0o755,
        });
        const server = await openRestored(15, copy, signalFile, { restore_command: `${script} %f %p` });
        const started = server.launch();
        await until('the middle of the recovery', async () => existsSync(asked!), { timeoutMs: 90_000 });
        await s3.stop();
        writeFileSync(down!, '');
        return { server, started };
      }

      it('C3: PostgreSQL stops, nothing is promoted, and it goes on to the end when the store is back', async () => {
        const { server, started } = await makeRecovery(
          'walkeep-cloud-wal-restore',
          ['--deadline', '3'],
          'recovery.signal',
        );
        await until('PostgreSQL to stop', async () => !started.isRunning(), { timeoutMs: 60_000 });
        const { code } = await started.ended;
        expect(code).not.toBe(0);
        expect(server.log()).toMatch(
          /could not restore file "0{7}1[0-9A-F]{16}" from archive: child process exited with exit code 200/,
        );
        expect(server.log()).toContain('walkeep: cloud-wal-restore: deadline-exceeded');
        expect(server.log()).not.toContain('selected new timeline');
        expect(existsSync(join(server.dataDirectory, 'recovery.signal'))).toBe(true);
        await s3.start();
        await server.start();
        await server.waitUntilPromoted();
        expect(await rowsOf(server)).toBe(rows);
        await server.stop();
      });

      it('C3: a standby waits and asks again, and has all of it when the store is back', async () => {
        const { server } = await makeRecovery(
          'walkeep-cloud-wal-restore',
          ['--deadline', '3'],
          'standby.signal',
        );
        const refused = () => server.log().split('cloud-wal-restore: deadline-exceeded').length - 1;
        await until('two refusals', async () => refused() >= 2, { timeoutMs: 60_000 });
        expect(server.isRunning()).toBe(true);
        expect(server.log()).not.toContain('selected new timeline');
        await s3.start();
        await until('all rows', async () => (await rowsOf(server)) === rows, { timeoutMs: 60_000 });
        await server.stop();
      });

      it.for([
        ['barman-cloud-wal-restore', ['--spool-dir']],
        ['walkeep-cloud-wal-restore', ['--deadline', '3', '--exit-codes=barman']],
      ] as const)(
        "with barman's exit codes PostgreSQL promotes itself with rows missing, and no error (%s)",
        async ([program, words]) => {
          const options = words[0] === '--spool-dir' ? [...words, makeTempDir('spool')] : words;
          const { server } = await makeRecovery(program, options, 'recovery.signal');
          try {
            await until('the promotion', async () => server.log().includes('ready to accept connections'), {
              timeoutMs: 120_000,
            });
            await server.waitUntilPromoted();
            expect(server.log()).toContain('selected new timeline ID: 2');
            expect(server.log()).not.toContain('FATAL');
            expect(await rowsOf(server)).toBeLessThan(rows);
            await server.stop();
          } finally {
            await s3.start();
          }
        },
      );
    });
  });
});

describeWith(['azurite', 'barman'], 'the drop-ins on Azure', () => {
  it('E5: each reads what the other archived, by a connection string', async () => {
    const azurite = await startAzurite();
    const env = { AZURE_STORAGE_CONNECTION_STRING: azurite.connectionString };
    await readEachOther(['--cloud-provider', 'azure-blob-storage'], azurite.destination('pfx'), env);
    for (const text of said) expect(text).not.toContain(azurite.accountKey);
  });
});

describeWith('fake-gcs-server', 'the drop-ins on Google Cloud Storage', () => {
  it('E1: what was archived is fetched', async () => {
    const gcs = await startFakeGcs();
    const words = ['--cloud-provider', 'google-cloud-storage', `gs://${gcs.bucket}/pfx`, 'srv'];
    const cwd = makeData(nth(1));
    const archived = await run('walkeep-cloud-wal-archive', ['--gzip', ...words, `pg_wal/${nth(1)}`], {
      env: gcs.environment,
      cwd,
    });
    expect(archived).toMatchObject({ code: 0, stderr: '' });
    const target = join(makeTempDir('target'), 'x');
    const fetched = await run('walkeep-cloud-wal-restore', [...words, nth(1), target], {
      env: gcs.environment,
    });
    expect(fetched).toMatchObject({ code: 0, stderr: '' });
    expect(Buffer.compare(readFileSync(target), makeSegment(nth(1)))).toBe(0);
    const absent = await run('walkeep-cloud-wal-restore', [...words, nth(2), target], {
      env: gcs.environment,
    });
    expect(absent.code).toBe(1);
  });
});

async function readEachOther(
  provider: readonly string[],
  url: string,
  env: Readonly<Record<string, string>>,
): Promise<void> {
  const cwd = makeData(nth(1));
  for (const [writer, reader] of [
    ['walkeep-cloud-wal-archive', 'barman-cloud-wal-restore'],
    ['barman-cloud-wal-archive', 'walkeep-cloud-wal-restore'],
  ] as const) {
    const archived = await run(writer, ['--gzip', ...provider, url, writer, `pg_wal/${nth(1)}`], {
      env,
      cwd,
    });
    expect(archived.code, archived.stderr).toBe(0);
    const target = join(makeTempDir('target'), 'x');
    const spool = ['--spool-dir', makeTempDir('spool')];
    const fetched = await run(reader, [...provider, ...spool, url, writer, nth(1), target], { env });
    expect(fetched.code, fetched.stderr).toBe(0);
    expect(Buffer.compare(readFileSync(target), makeSegment(nth(1)))).toBe(0);
    expect((await run(reader, [...provider, ...spool, url, writer, nth(2), target], { env })).code).toBe(1);
  }
}
