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
