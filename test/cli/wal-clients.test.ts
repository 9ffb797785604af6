import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { formatRecoveryFile } from '../../operations/recovery-file.ts';
import { compressBytes } from '../../streams/codec.ts';
import { applyTestCluster } from '../support/applied-cluster.ts';
import { runProcess, type Outcome } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';
import { makeSegment, SYSTEM_ID } from '../support/wal-bytes.ts';

const MAIN = join(repositoryRoot, 'cli/main.ts');
const nth = (number: number) => `00000001000000000000000${number}`;
const TARGET = 'pg_wal/RECOVERYXLOG';

/** Other bytes in a file of the archive, as if a disk had made them: with the time of the file. */
function becomes(path: string, bytes: Uint8Array): void {
  const { atime, mtime } = statSync(path);
  writeFileSync(path, bytes);
  utimesSync(path, atime, mtime);
}

let state: string;
let pgdata: string;
let archive: string;

beforeEach(async () => {
  state = makeTempDir('state');
  archive = makeTempDir('archive');
  // a directory that a shell would trip over
  pgdata = join(makeTempDir('data'), `it's "one" 100% $HOME`);
  mkdirSync(join(pgdata, 'pg_wal'), { recursive: true });
  await applyTestCluster(state, { name: 'pg', destinationPath: `file://${archive}`, walCompression: 'zstd' });
});

const segment = (number: number, seed = 1) =>
  writeFileSync(join(pgdata, 'pg_wal', nth(number)), makeSegment(nth(number), { seed }));

function walkeep(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  return runProcess(process.execPath, [MAIN, ...args], {
    cwd: pgdata,
    env: { PATH: process.env['PATH'], ...env },
  });
}

const options = () => ['--cluster', 'default/pg', '--pgdata', pgdata, '--state', state];
const push = (number: number) => walkeep(['wal-push', ...options(), `pg_wal/${nth(number)}`]);
const fetch = (number: number, given: readonly string[] = options()) =>
  walkeep(['wal-fetch', ...given, nth(number), TARGET]);
const oneLine = /^walkeep: [^\n]+\n$/;

describe('walkeep wal-push', () => {
  it('A1, A2: exits 0 when the file is archived, and again', async () => {
    segment(1);
    expect(await push(1)).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(existsSync(join(archive, `pg/wals/0000000100000000/${nth(1)}.zst`))).toBe(true);
    expect(await push(1)).toMatchObject({ code: 0 });
  });

  it('A3, A5: exits 1 with one line that says why and what to do', async () => {
    segment(1);
    await push(1);
    segment(1, 2);
    const { code, stderr } = await push(1);
    expect(code).toBe(1);
    expect(stderr).toMatch(oneLine);
    expect(stderr).toContain(`wal-conflict: ${nth(1)}: the archive holds other bytes`);
  });

  it.for([
    { why: 'no arguments', args: () => [] },
    { why: 'an unknown option', args: () => [...options(), '--frobnicate', 'x', 'pg_wal/x'] },
    { why: 'two paths', args: () => [...options(), `pg_wal/${nth(1)}`, `pg_wal/${nth(2)}`] },
    {
      why: 'an unknown cluster',
      args: () => ['--cluster', 'nope', '--pgdata', pgdata, '--state', state, `pg_wal/${nth(1)}`],
    },
    { why: 'a file elsewhere', args: () => [...options(), '/etc/passwd'] },
    { why: 'a path that leaves pg_wal', args: () => [...options(), `pg_wal/../${nth(1)}`] },
    { why: 'a missing file', args: () => [...options(), `pg_wal/${nth(9)}`] },
    { why: 'a deadline that is none', args: () => [...options(), '--deadline', 'soon', `pg_wal/${nth(1)}`] },
  ])('A5: exits 1 with one line about $why', async ({ args }) => {
    segment(1);
    const { code, stderr } = await walkeep(['wal-push', ...args()]);
    expect(code).toBe(1);
    expect(stderr).toMatch(oneLine);
  });

  it.for(['push.before-store', 'push.stored-not-answered'])(
    'A2: killed at %s, the next call exits 0',
    async (place) => {
      segment(1);
      const killed = await walkeep(['wal-push', ...options(), `pg_wal/${nth(1)}`], {
        WALKEEP_FAILPOINT: `${place}:kill`,
      });
      expect(killed.code).not.toBe(0);
      const key = join(archive, `pg/wals/0000000100000000/${nth(1)}.zst`);
      expect(existsSync(key)).toBe(place === 'push.stored-not-answered');
      expect(await push(1)).toMatchObject({ code: 0 });
      expect(existsSync(key)).toBe(true);
    },
  );

  it('A3, fault 25: exits 0 when the archive’s copy was damaged and is healed, and says so in one line', async () => {
    segment(1);
    await push(1);
    const path = join(archive, `pg/wals/0000000100000000/${nth(1)}.zst`);
    const [whole, other] = [
      readFileSync(path),
      await compressBytes('zstd', makeSegment(nth(1), { seed: 2 })),
    ];
    becomes(path, other);
    const { code, stderr } = await push(1);
    expect(code).toBe(0);
    expect(stderr).toMatch(oneLine);
    expect(stderr).toContain(`${nth(1)}.zst was damaged in the archive and was replaced`);
    expect(readFileSync(path).equals(whole)).toBe(true);
  });

  it('A5: exits 1 when the archive is no directory', async () => {
    segment(1);
    rmSync(archive, { recursive: true });
    writeFileSync(archive, 'in the way');
    const { code, stderr } = await push(1);
    expect(code).toBe(1);
    expect(stderr).toMatch(oneLine);
  });
});

describe('walkeep wal-fetch', () => {
  beforeEach(async () => {
    for (const number of [1, 2, 4]) {
      segment(number);
      await push(number);
    }
  });

  it('C3: exits 0 with the whole file in place', async () => {
    expect(await fetch(2)).toMatchObject({ code: 0, stderr: '' });
    expect(Buffer.compare(readFileSync(join(pgdata, TARGET)), makeSegment(nth(2)))).toBe(0);
  });

  it('C3: exits 1 only for what is proved absent: nothing later is there', async () => {
    expect(await fetch(5)).toMatchObject({ code: 1 });
    expect(existsSync(join(pgdata, TARGET))).toBe(false);
  });

  it('C3: tells the shell client of absence by the code it asked for', async () => {
    const { code } = await walkeep(['wal-fetch', ...options(), nth(5), TARGET], {
      WALKEEP_ABSENT_STATUS: '64',
    });
    expect(code).toBe(64);
  });

  it('C3: a hole is 200 in recovery, and 100 on a standby', async () => {
    const hole = await fetch(3);
    expect(hole).toMatchObject({ code: 200, stderr: expect.stringContaining(nth(4)) });
    writeFileSync(join(pgdata, 'standby.signal'), '');
    expect(await fetch(3)).toMatchObject({ code: 100 });
  });

  it('C3: a damaged object is 200, and leaves nothing', async () => {
    const path = join(archive, `pg/wals/0000000100000000/${nth(4)}.zst`);
    const bytes = readFileSync(path);
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    expect(await fetch(4)).toMatchObject({ code: 200 });
    expect(existsSync(join(pgdata, TARGET))).toBe(false);
  });

  it('C3, fault 25: what can be read and is not what was archived is 200, and leaves nothing', async () => {
    const path = join(archive, `pg/wals/0000000100000000/${nth(4)}.zst`);
    becomes(path, await compressBytes('zstd', makeSegment(nth(4), { seed: 2 })));
    const { code, stderr } = await fetch(4);
    expect(code).toBe(200);
    expect(stderr).toMatch(oneLine);
    expect(stderr).toMatch(/SHA-256 they were archived with; walkeep audit CLUSTER --repair/);
    expect(existsSync(join(pgdata, TARGET))).toBe(false);
  });

  it.for([
    { why: 'no arguments', args: () => [] },
    { why: 'an unknown cluster', args: () => ['--cluster', 'nope', '--state', state, nth(1), TARGET] },
    { why: 'neither cluster nor recovery', args: () => ['--state', state, nth(1), TARGET] },
    {
      why: 'a recovery file that is missing',
      args: () => ['--recovery', 'walkeep_recovery.json', nth(1), TARGET],
    },
    { why: 'a name that is none', args: () => [...options(), 'x', TARGET] },
  ])('C3: $why is 200, with one line', async ({ args }) => {
    const { code, stderr } = await walkeep(['wal-fetch', ...args()]);
    expect(code).toBe(200);
    expect(stderr).toMatch(oneLine);
  });

  it('C3: works by what a restore left in the data directory, without any manifest', async () => {
    const file = formatRecoveryFile({
      version: 1,
      createdAt: new Date().toISOString(),
      backupId: '20261122T222531',
      repository: {
        namespace: 'default',
        serverName: 'pg',
        barmanObjectStore: { destinationPath: `file://${archive}` },
      },
      plan: {
        segmentSize: 1 << 20,
        systemId: SYSTEM_ID.toString(),
        timelinePath: [{ timeline: 1, beginsAt: '0/0' }],
        acceptedEnd: nth(3),
      },
      spool: 'walkeep_spool',
    });
    writeFileSync(join(pgdata, 'walkeep_recovery.json'), file);
    const recovery = ['--recovery', 'walkeep_recovery.json', '--state', makeTempDir('empty')];
    expect(await fetch(1, recovery)).toMatchObject({ code: 0, stderr: '' });
    // the plan accepted this hole as the end
    expect(await fetch(3, recovery)).toMatchObject({ code: 1 });
  });
});

describe('walkeep archive-command and restore-command', () => {
  const print = (command: string, ...more: string[]) =>
    walkeep([command, '--pgdata', pgdata, '--state', state, ...more]);

  /** The setting as PostgreSQL reads it, with its placeholders filled in. */
  function runnable(configuration: string, file: string, path: string): string {
    const [, quoted = ''] = /^\w+ = '(.*)'\n$/s.exec(configuration) ?? [];
    const value = quoted.replaceAll("''", "'").replaceAll('\\\\', '\\');
    return value.replaceAll(/%[%fp]/g, (found) => ({ '%%': '%', '%f': file, '%p': path })[found] ?? found);
  }
  const sh = (line: string) =>
    runProcess('/bin/sh', ['-c', line], { cwd: pgdata, env: { PATH: process.env['PATH'] } });

  it('S3: print lines that work as they are, whatever the data directory is called', async () => {
    segment(1);
    const archiving = await print('archive-command');
    expect(archiving.code).toBe(0);
    expect(await sh(runnable(archiving.stdout, nth(1), `pg_wal/${nth(1)}`))).toMatchObject({
      code: 0,
      stderr: '',
    });
    expect(existsSync(join(archive, `pg/wals/0000000100000000/${nth(1)}.zst`))).toBe(true);

    const restoring = await print('restore-command', '--cluster', 'pg');
    expect(await sh(runnable(restoring.stdout, nth(1), TARGET))).toMatchObject({ code: 0, stderr: '' });
    expect(Buffer.compare(readFileSync(join(pgdata, TARGET)), makeSegment(nth(1)))).toBe(0);
    rmSync(join(pgdata, TARGET));
    expect(await sh(runnable(restoring.stdout, nth(2), TARGET))).toMatchObject({ code: 1 });
  });

  it('print SQL, too', async () => {
    const { stdout } = await print('archive-command', '--sql');
    expect(stdout).toContain("ALTER SYSTEM SET archive_mode = 'on';");
    expect(stdout).toMatch(/ALTER SYSTEM SET archive_command = E?'.* "%p"';/);
    expect((await print('restore-command', '--sql')).stdout).toMatch(
      /^ALTER SYSTEM SET restore_command = E?'/,
    );
  });

  it('ask which cluster when there are several, and for the data directory when it is not known', async () => {
    const nowhere = await walkeep(['archive-command', '--state', state]);
    expect(nowhere).toMatchObject({ code: 2, stderr: expect.stringContaining('--pgdata') });
    await applyTestCluster(state, { name: 'other', destinationPath: `file://${archive}` });
    expect(await print('archive-command')).toMatchObject({
      code: 4,
      stderr: expect.stringContaining('default/other'),
    });
  });

  it('C3: walkeep that was removed under a running recovery is no absence', async () => {
    const copy = join(makeTempDir('gone'), 'walkeep-wal');
    cpSync(join(repositoryRoot, 'deploy/walkeep-wal'), copy);
    const line = runnable((await print('restore-command')).stdout, nth(1), TARGET)
      .replace(join(repositoryRoot, 'deploy/walkeep-wal'), copy)
      .replace(MAIN, '/nowhere/main.ts');
    expect(line).toContain('/nowhere/main.ts');
    expect(await sh(line)).toMatchObject({ code: 200 });
  });
});
