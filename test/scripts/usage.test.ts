import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Outcome, runProcess } from '../support/processes.ts';
import { giveToServerUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';

/** A clone as git leaves it, where nothing is set up: whoever sets up there leaves traces. */
function makeBareClone(): string {
  const clone = makeTempDir('clone');
  cpSync(join(repositoryRoot, 'scripts'), join(clone, 'scripts'), { recursive: true });
  writeFileSync(join(clone, 'package.json'), '{}');
  return clone;
}

async function run(clone: string, script: string, ...words: string[]): Promise<Outcome> {
  return runProcess(join(clone, 'scripts', script), words, { cwd: clone });
}

describe('scripts/quickstart --stop', () => {
  it('in a clone that is not set up says that nothing was stopped, and how to, and fails', async () => {
    const clone = makeBareClone();
    const scratch = join(clone, 'scratch');
    mkdirSync(scratch);
    writeFileSync(join(scratch, '.walkeep-quickstart'), '');
    giveToServerUser(scratch);
    const outcome = await run(clone, 'quickstart', '--stop', '--scratch', scratch);
    expect(outcome).toMatchObject({ code: 1, stdout: '' });
    expect(outcome.stderr).toMatch(/nothing was stopped\. Run \S+\/scripts\/setup base/);
  });

  it('says that there is none where none is', async () => {
    const clone = makeBareClone();
    const outcome = await run(clone, 'quickstart', '--stop', '--scratch', join(clone, 'none'));
    expect(outcome).toMatchObject({ code: 0, stdout: `There is no quickstart in ${join(clone, 'none')}.\n` });
  });
});

describe('scripts/test', () => {
  it('fails when a FILTER matches no test file, before anything is set up', async () => {
    const clone = makeBareClone();
    mkdirSync(join(clone, 'test/core'), { recursive: true });
    writeFileSync(join(clone, 'test/core/wal.test.ts'), '');
    const outcome = await run(clone, 'test', '--only', 'unit', 'core/wal', 'core/wall');
    expect(outcome).toMatchObject({ code: 1, stderr: '' });
    expect(outcome.stdout).toBe('failed: no test file matches core/wall\n0 passed, 1 failed\n');
  });
});

describe('scripts/conformance', () => {
  it('has a help of its own', async () => {
    const outcome = await run(makeBareClone(), 'conformance', '--help');
    expect(outcome).toMatchObject({ code: 0, stdout: expect.stringContaining('scripts/conformance matrix') });
  });
});

describe('scripts/bench', () => {
  it.for([
    { words: ['--size', '256', '--help'], code: 0, stdout: /^Usage: scripts\/bench/, stderr: /^$/ },
    {
      words: ['--sizes', '256'],
      code: 2,
      stdout: /^$/,
      stderr: /^scripts\/bench: there is no option --sizes\n/,
    },
    { words: ['--memory', 'x'], code: 2, stdout: /^$/, stderr: /no option x/ },
    { words: ['--size'], code: 2, stdout: /^$/, stderr: /--size needs a number/ },
    { words: ['--size=63'], code: 2, stdout: /^$/, stderr: /64 or more, not "63"/ },
    { words: ['--all', '--size', '1e9'], code: 2, stdout: /^$/, stderr: /64 or more, not "1e9"/ },
  ])('$words are looked at before anything is set up', async ({ words, code, stdout, stderr }) => {
    const outcome = await run(makeBareClone(), 'bench', ...words);
    expect(outcome.code).toBe(code);
    expect(outcome.stdout).toMatch(stdout);
    expect(outcome.stderr).toMatch(stderr);
  });
});
