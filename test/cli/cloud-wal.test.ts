import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { runProcess, type Outcome } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';
import { makeSegment } from '../support/wal-bytes.ts';

const nth = (number: number, timeline = 1) => `0000000${timeline}000000000000000${number}`;
const TARGET = 'pg_wal/RECOVERYXLOG';

/** Without it every start would strip the types anew. */
const compileCache = makeTempDir('compile');

let archive: string;
let pgdata: string;

beforeEach(() => {
  archive = makeTempDir('archive');
  // a directory that a shell would trip over
  pgdata = join(makeTempDir('data'), `it's "one" 100% $HOME`);
  mkdirSync(join(pgdata, 'pg_wal/archive_status'), { recursive: true });
});

const write = (name: string, seed = 1) =>
  writeFileSync(join(pgdata, 'pg_wal', name), makeSegment(name, { seed }));

function run(program: 'archive' | 'restore', args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  return runProcess(join(repositoryRoot, `scripts/walkeep-cloud-wal-${program}`), args, {
    cwd: pgdata,
    env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: compileCache, ...env },
  });
}

const here = () => [`file://${archive}`, 'srv'];
const push = (name: string, ...options: string[]): Promise<Outcome> =>
  run('archive', [...options, ...here(), `pg_wal/${name}`]);
const fetch = (name: string, ...options: string[]): Promise<Outcome> =>
  run('restore', [...options, ...here(), name, TARGET]);
const fetched = () => readFileSync(join(pgdata, TARGET));
const oneLine = /^walkeep: cloud-wal-(archive|restore): [^\n]+\n$/;

describe('walkeep-cloud-wal-archive', () => {
  it('A1, A2: exits 0 when the file is archived, and again with another compression', async () => {
    write(nth(1));
    expect(await push(nth(1), '--gzip')).toMatchObject({ code: 0, stdout: '', stderr: '' });
    const folder = join(archive, 'srv/wals/0000000100000000');
    expect(existsSync(join(folder, `${nth(1)}.gz`))).toBe(true);
    const again = await push(nth(1), '-v', '--xz');
    expect(again).toMatchObject({ code: 0, stderr: expect.stringContaining('is in') });
    expect(existsSync(join(folder, `${nth(1)}.xz`))).toBe(false);
  });

  it('A3: other bytes under the same name are refused, with one line', async () => {
    write(nth(1));
    await push(nth(1));
    write(nth(1), 2);
    const { code, stderr } = await push(nth(1));
    expect(code).toBe(1);
    expect(stderr).toMatch(oneLine);
    expect(stderr).toContain('wal-conflict');
  });

  it('A4: histories and labels are of the cluster whose WAL lies beside them', async () => {
    const history = '00000002.history';
    writeFileSync(join(pgdata, 'pg_wal', history), '1\t0/2000000\tno recovery target specified\n');
    const alone = await push(history);
    expect(alone).toMatchObject({ code: 1, stderr: expect.stringContaining('of which cluster') });
    write(nth(1));
    expect(await push(history)).toMatchObject({ code: 0, stderr: '' });
    writeFileSync(join(pgdata, 'pg_wal', nth(1)), makeSegment(nth(1), { systemId: 5n }));
    writeFileSync(join(pgdata, 'pg_wal/00000003.history'), '2\t0/3000000\tx\n');
    expect(await push('00000003.history')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('wal-foreign'),
    });
  });

  it('takes the file that a barman server names to its hook', async () => {
    write(nth(1));
    const hook = {
      BARMAN_PHASE: 'pre',
      BARMAN_HOOK: 'archive_retry_script',
      BARMAN_FILE: `pg_wal/${nth(1)}`,
    };
    expect(await run('archive', here(), hook)).toMatchObject({ code: 0 });
    expect(existsSync(join(archive, `srv/wals/0000000100000000/${nth(1)}`))).toBe(true);
  });

  it.for([
    ['no words', () => []],
    ['no path', () => here()],
    ['two paths', () => [...here(), 'a', 'b']],
    ['an unknown option', () => ['--frob', ...here(), nth(1)]],
    ['two compressions', () => ['-z', '-j', ...here(), nth(1)]],
    ['bad tags', () => ['--tags', 'x', '-z', ...here(), nth(1)]],
    ['no name of WAL', () => [...here(), 'pg_wal/postgresql.conf']],
    ['a provider that is not the one of the URL', () => ['--cloud-provider', 'aws-s3', ...here(), nth(1)]],
    ['a URL that is none', () => ['bucket', 'srv', nth(1)]],
    ['encryption that a directory does not have', () => ['-e', 'AES256', ...here(), nth(1)]],
    ['a read timeout that is none', () => ['--read-timeout', 'soon', ...here(), nth(1)]],
    ['a deadline that is none', () => ['--deadline', '0', ...here(), nth(1)]],
  ] as const)('A5: %s: exits 2, with one line', async ([, args]) => {
    const { code, stderr } = await run('archive', args());
    expect(code).toBe(2);
    expect(stderr).toMatch(oneLine);
    expect(stderr).toContain('usage: ');
  });

  it('A1: --test says whether the repository is there, and never 0 to PostgreSQL', async () => {
    write(nth(1));
    expect(await push(nth(1), '--test')).toMatchObject({ code: 0 });
    expect(await run('archive', ['-t', ...here()])).toMatchObject({ code: 0 });
    expect(await run('archive', ['-t', 'file:///nowhere/at/all', 'srv'])).toMatchObject({ code: 1 });
    writeFileSync(join(pgdata, `pg_wal/archive_status/${nth(1)}.ready`), '');
    for (const option of ['--test', '--help', '--version'])
      expect((await push(nth(1), option)).code, option).toBe(2);
    expect(existsSync(join(archive, 'srv/wals'))).toBe(false);
  });

  it('says its version, and in its help why the exit codes are as they are', async () => {
    expect((await run('archive', ['--version'])).stdout).toMatch(
      /^walkeep-cloud-wal-archive \d+\.\d+\.\d+\n$/,
    );
    expect((await run('archive', ['--help'])).stdout).toContain('--exit-codes=barman');
    const { stdout } = await run('restore', ['--help']);
    expect(stdout).toContain('PostgreSQL then promotes with data missing');
  });
});

describe('walkeep-cloud-wal-restore', () => {
  beforeEach(async () => {
    for (const number of [1, 2, 4]) {
      write(nth(number));
      await push(nth(number), '--zstd');
    }
  });

  it('C3: exits 0 with the whole file in place', async () => {
    expect(await fetch(nth(2), '-p', '4', '--spool-dir', '/x')).toMatchObject({ code: 0, stderr: '' });
    expect(Buffer.compare(fetched(), makeSegment(nth(2)))).toBe(0);
  });

  it("C3: exits 1 only for what is proved absent, in barman's codes too", async () => {
    expect(await fetch(nth(5))).toMatchObject({ code: 1, stderr: '' });
    expect(await fetch(nth(5), '--exit-codes=barman')).toMatchObject({ code: 1, stderr: '' });
    expect(existsSync(join(pgdata, TARGET))).toBe(false);
  });

  it('C3: a hole is 200, on a standby 100, and 4 in the codes of barman', async () => {
    const hole = await fetch(nth(3));
    expect(hole).toMatchObject({ code: 200, stderr: expect.stringContaining(nth(4)) });
    expect(hole.stderr).toMatch(oneLine);
    expect((await fetch(nth(3), '--exit-codes=barman')).code).toBe(4);
    writeFileSync(join(pgdata, 'standby.signal'), '');
    expect((await fetch(nth(3))).code).toBe(100);
  });

  it('C3: a damaged object is 200, and leaves nothing', async () => {
    const path = join(archive, `srv/wals/0000000100000000/${nth(4)}.zst`);
    const bytes = readFileSync(path);
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    expect((await fetch(nth(4))).code).toBe(200);
    expect(existsSync(join(pgdata, TARGET))).toBe(false);
  });

  it('C3: a repository that is not there is no absence', async () => {
    rmSync(archive, { recursive: true });
    expect((await fetch(nth(5), '--deadline', '2')).code).toBe(200);
    expect((await fetch(nth(5), '--exit-codes=barman', '--deadline', '2')).code).toBe(4);
    expect((await fetch(nth(5), '--exit-codes=barman', '-t')).code).toBe(1);
  });

  it.for([
    ['the server name', () => [`file://${archive}`, 'svr']],
    ['the prefix', () => [`file://${archive}/backup`, 'srv']],
  ] as const)('C3: %s mistyped is no absence: nothing at all lies there', async ([, place]) => {
    mkdirSync(join(archive, 'backup'));
    writeFileSync(join(pgdata, 'recovery.signal'), '');
    const [url = '', server = ''] = place();
    const found = await run('restore', [url, server, nth(5), TARGET]);
    expect(found).toMatchObject({ code: 200, stderr: expect.stringContaining('is the server name right?') });
    expect(found.stderr).toContain(`nothing lies at ${url}/${server}`);
    expect(found.stderr).toMatch(oneLine);
    // who asks with these codes may ask for a cluster that has just begun
    expect((await run('restore', ['--exit-codes=barman', url, server, nth(5), TARGET])).code).toBe(1);
    writeFileSync(join(pgdata, 'standby.signal'), '');
    expect((await run('restore', [url, server, nth(5), TARGET])).code).toBe(1);
  });

  it('C3: a store that refuses is named when the deadline passes, not the deadline alone', async () => {
    const keys = { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'key' };
    const port = ['--endpoint-url', 'http://127.0.0.1:1', '--deadline', '4'];
    const { code, stderr } = await run('restore', [...port, 's3://bucket', 'srv', nth(1), TARGET], keys);
    expect(code).toBe(200);
    expect(stderr).toMatch(oneLine);
    expect(stderr).toMatch(/not fetched within 4 s; .*ECONNREFUSED/);
  });

  it('C3: a partial stands in for a segment that is proved absent, and never for one that is there', async () => {
    const folder = join(archive, 'srv/wals/0000000100000000');
    for (const number of [4, 5])
      writeFileSync(join(folder, `${nth(number)}.partial`), makeSegment(nth(number), { seed: 9 }));
    expect((await fetch(nth(5), '--no-partial')).code).toBe(1);
    expect((await fetch(nth(5))).code).toBe(0);
    expect(Buffer.compare(fetched(), makeSegment(nth(5), { seed: 9 }))).toBe(0);
    expect((await fetch(nth(4))).code).toBe(0);
    expect(Buffer.compare(fetched(), makeSegment(nth(4)))).toBe(0);
    // behind a hole it would end the recovery there
    writeFileSync(join(folder, `${nth(3)}.partial`), makeSegment(nth(3)));
    expect((await fetch(nth(3))).code).toBe(200);
  });

  it.for([
    ['no words', () => []],
    ['no path', () => [...here(), nth(1)]],
    ['an empty path', () => [...here(), nth(1), '']],
    ['too many words', () => [...here(), nth(1), TARGET, 'x']],
    ['an unknown option', () => ['--frob', ...here(), nth(1), TARGET]],
    ['an option of the other program', () => ['--gzip', ...here(), nth(1), TARGET]],
    ['no name of WAL', () => [...here(), 'foo', TARGET]],
    ['a URL that is none', () => ['bucket', 'srv', nth(1), TARGET]],
    ['a server name that leads away', () => [`file://${archive}`, '../srv', nth(1), TARGET]],
    ['a number that is none', () => ['--parallel', 'all', ...here(), nth(1), TARGET]],
  ] as const)('C3: %s: exits 202, with one line', async ([, args]) => {
    const { code, stderr } = await run('restore', args());
    expect(code).toBe(202);
    expect(stderr).toMatch(oneLine);
  });

  it('C3: a wrong command line is 102 on a standby, and 3 in the codes of barman', async () => {
    expect((await run('archive', ['--exit-codes=barman', '--frob'])).code).toBe(3);
    expect((await run('restore', ['--exit-codes', 'barman', '--frob'])).code).toBe(3);
    writeFileSync(join(pgdata, 'standby.signal'), '');
    expect((await run('restore', ['--frob'])).code).toBe(102);
  });

  it.for(['--test', '--help', '--version'])('C3: %s is never 0 to a recovery', async (option) => {
    expect((await fetch(nth(1), option)).code).toBe(0);
    writeFileSync(join(pgdata, 'recovery.signal'), '');
    expect((await fetch(nth(1), option)).code).toBe(202);
  });
});

describe('their starters', () => {
  /** A clone whose program ends as it is told. */
  function makeClone(program: string): string {
    const root = makeTempDir('clone');
    for (const folder of ['scripts', 'cli', 'node_modules/.bin'])
      mkdirSync(join(root, folder), { recursive: true });
    for (const name of ['walkeep', 'walkeep-cloud-wal-archive', 'walkeep-cloud-wal-restore'])
      cpSync(join(repositoryRoot, 'scripts', name), join(root, 'scripts', name));
    writeFileSync(join(root, 'cli/main.ts'), program);
    symlinkSync(process.execPath, join(root, 'node_modules/.bin/node'));
    return root;
  }
  const codes = async (root: string): Promise<number[]> => {
    const cwd = makeTempDir('cwd');
    const codeOf = async (name: string) =>
      (await runProcess(join(root, 'scripts', name), ['x'], { cwd })).code;
    const [archived, recovery] = [
      await codeOf('walkeep-cloud-wal-archive'),
      await codeOf('walkeep-cloud-wal-restore'),
    ];
    writeFileSync(join(cwd, 'standby.signal'), '');
    return [archived, recovery, await codeOf('walkeep-cloud-wal-restore')];
  };

  it.for([
    ['does not parse', '§', 1],
    ['throws', 'throw new Error()', 1],
    ['lacks a module', "import './gone.ts'", 1],
    ['is killed', "process.kill(process.pid, 'SIGKILL')", 1],
    ['ends with a code that is no answer', 'process.exit(13)', 13],
  ] as const)('A1, C3: a program that %s is no answer', async ([, program, archived]) => {
    expect(await codes(makeClone(program))).toEqual([archived, 200, 100]);
  });

  it('A1, C3: neither is a Node that is not there', async () => {
    const root = makeClone('');
    rmSync(join(root, 'node_modules'), { recursive: true });
    const path = makeTempDir('path');
    symlinkSync('/usr/bin/readlink', join(path, 'readlink'));
    for (const [name, code] of [
      ['archive', 1],
      ['restore', 200],
    ] as const) {
      const outcome = await runProcess(join(root, `scripts/walkeep-cloud-wal-${name}`), [], {
        env: { PATH: path },
      });
      expect(outcome.code).toBe(code);
    }
  });

  it('work through links', async () => {
    const link = join(makeTempDir('bin'), 'barman-cloud-wal-restore');
    symlinkSync(join(repositoryRoot, 'scripts/walkeep-cloud-wal-restore'), link);
    expect((await runProcess(link, ['--version'], { cwd: '/' })).stdout).toContain(
      'walkeep-cloud-wal-restore',
    );
  });
});

describe('a bucket that this host has no identity for', () => {
  const env = {
    AWS_EC2_METADATA_DISABLED: 'true',
    AWS_CONFIG_FILE: '/nowhere',
    AWS_SHARED_CREDENTIALS_FILE: '/nowhere',
    AWS_DEFAULT_REGION: 'eu-west-1',
  };
  const says = expect.stringMatching(/^walkeep: [^\n]*AWS gave this host \(.*\) no credentials[^\n]*\n$/);

  it('A5, C3: is 1 to archive_command, 200 to a recovery, and 100 to a standby, with what to do', async () => {
    write(nth(1));
    const place = ['s3://bucket/p', 'srv'];
    expect(await run('archive', [...place, `pg_wal/${nth(1)}`], env)).toMatchObject({
      code: 1,
      stderr: says,
    });
    const fetching = [...place, nth(1), TARGET];
    expect(await run('restore', fetching, env)).toMatchObject({ code: 200, stderr: says });
    writeFileSync(join(pgdata, 'standby.signal'), '');
    const { code, stderr } = await run('restore', fetching, env);
    expect(code).toBe(100);
    expect(stderr).toMatch(/instance profile/);
  });
});
