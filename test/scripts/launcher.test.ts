import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runProcess } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';

const PRINT_ARGUMENTS = 'console.log(JSON.stringify(process.argv.slice(2)));';

/** A clone with nothing in it but the launcher, a program that prints its arguments, and Node where asked for. */
function makeClone({ withNode }: { withNode: boolean }): string {
  const root = makeTempDir('clone');
  for (const folder of ['scripts', 'cli', 'node_modules/.bin'])
    mkdirSync(join(root, folder), { recursive: true });
  copyFileSync(join(repositoryRoot, 'scripts/walkeep'), join(root, 'scripts/walkeep'));
  writeFileSync(join(root, 'cli/main.ts'), PRINT_ARGUMENTS);
  if (withNode) symlinkSync(process.execPath, join(root, 'node_modules/.bin/node'));
  return root;
}

/** A directory for PATH that holds `readlink` and a `node` of this version, and nothing else. */
function makePath(nodeVersion: string): string {
  const directory = makeTempDir('path');
  symlinkSync('/usr/bin/readlink', join(directory, 'readlink'));
  writeFileSync(
    join(directory, 'node'),
    `#!/bin/sh\n[ "$1" = --version ] && echo ${nodeVersion} || echo "ran $*"\n`,
  );
  chmodSync(join(directory, 'node'), 0o755);
  return directory;
}

describe('the set-up', () => {
  it('puts every command of package.json where npx and PATH find it', async () => {
    const clone = makeClone({ withNode: false });
    const { bin } = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8')) as {
      bin: Record<string, string>;
    };
    for (const file of Object.values(bin)) copyFileSync(join(repositoryRoot, file), join(clone, file));
    const tools = join(repositoryRoot, 'scripts/lib/tools.sh');
    const outcome = await runProcess('bash', ['--norc', '-euc', '. "$1"; link_own_commands', '-', tools], {
      env: { PATH: process.env['PATH'], ROOT: clone },
    });
    expect(outcome).toMatchObject({ code: 0, stderr: '' });
    expect(Object.keys(bin).map((name) => realpathSync(join(clone, 'node_modules/.bin', name)))).toEqual(
      Object.values(bin).map((file) => realpathSync(join(clone, file))),
    );
  });
});

describe('scripts/walkeep', () => {
  it('passes its arguments on unchanged, through links and from any directory', async () => {
    const clone = makeClone({ withNode: true });
    const link = join(makeTempDir('bin'), 'walkeep');
    symlinkSync(join(clone, 'scripts/walkeep'), link);
    const { code, stdout } = await runProcess(link, ['get', 'a  b', '', '$x'], { cwd: '/' });
    expect({ code, passed: JSON.parse(stdout) }).toEqual({ code: 0, passed: ['get', 'a  b', '', '$x'] });
  });

  it('runs the source in a clone, also beside an old build, and the build in a package', async () => {
    const clone = makeClone({ withNode: true });
    mkdirSync(join(clone, 'dist/cli'), { recursive: true });
    writeFileSync(join(clone, 'dist/cli/main.js'), `console.log('built');`);
    expect((await runProcess(join(clone, 'scripts/walkeep'), ['x'])).stdout).toContain('["x"]');
    rmSync(join(clone, 'cli'), { recursive: true });
    expect((await runProcess(join(clone, 'scripts/walkeep'), [])).stdout).toBe('built\n');
  });

  it('C3: without a Node that is new enough it ends with more than 125, and says what to do', async () => {
    const launcher = join(makeClone({ withNode: false }), 'scripts/walkeep');
    const outcome = await runProcess(launcher, ['wal-fetch'], { env: { PATH: makePath('v20.20.2') } });
    expect(outcome).toMatchObject({ code: 126, stdout: '' });
    expect(outcome.stderr).toContain('scripts/setup base');
  });

  it('takes a Node from PATH that is new enough', async () => {
    const launcher = join(makeClone({ withNode: false }), 'scripts/walkeep');
    const { code, stdout } = await runProcess(launcher, ['status'], { env: { PATH: makePath('v26.0.1') } });
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/^ran .*main\.ts status\n$/) });
  });

  it('S1: leaves out what would let libraries write secrets past our log', async () => {
    const clone = makeClone({ withNode: true });
    const verbose = { NODE_DEBUG: 'http', DEBUG: '*', GOOGLE_SDK_NODE_LOGGING: '*', AZURE_LOG_LEVEL: 'info' };
    const names = JSON.stringify(Object.keys(verbose));
    writeFileSync(join(clone, 'cli/main.ts'), `console.log(${names}.filter((name) => name in process.env));`);
    const env = { ...process.env, ...verbose };
    const outcome = await runProcess(join(clone, 'scripts/walkeep'), [], { env });
    expect(outcome).toMatchObject({ code: 0, stdout: '[]\n', stderr: '' });
  });
});
