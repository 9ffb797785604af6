import { cpSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { runProcess, runSuccessfully } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';

/** What of package.json decides what an installed package has. */
const { bin, files } = z
  .object({ bin: z.record(z.string(), z.string()), files: z.array(z.string()) })
  .parse(JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8')));

describe('the package', () => {
  let root: string;
  const walkeep = (...args: string[]) =>
    runProcess(join(root, 'scripts/walkeep'), args, {
      env: { ...process.env, WALKEEP_STATE: join(root, 'state') },
    });

  beforeAll(async () => {
    root = makeTempDir('package');
    await runSuccessfully(process.execPath, [join(repositoryRoot, 'scripts/build.ts'), join(root, 'dist')]);
    for (const part of ['package.json', ...files.filter((file) => file !== 'dist')]) {
      mkdirSync(join(root, part, '..'), { recursive: true });
      cpSync(join(repositoryRoot, part), join(root, part), { recursive: true });
    }
    symlinkSync(join(repositoryRoot, 'node_modules'), join(root, 'node_modules'));
  });

  it('runs from JavaScript alone', async () => {
    const { stdout } = await walkeep('--version');
    expect(stdout.trim()).toMatch(/^\d+\.\d+\.\d+$/);
  });

  it.for(Object.entries(bin))('brings the command %s', async ([name, starter]) => {
    const link = join(makeTempDir('bin'), name);
    symlinkSync(join(root, starter), link);
    const { stdout, code } = await runProcess(link, ['--version'], { cwd: root });
    expect(stdout.trim()).toMatch(/^\S*\s*\d+\.\d+\.\d+$/);
    expect(code).toBe(0);
  });

  it('prints lines that point into itself', async () => {
    const manifest = join(repositoryRoot, 'test/manifests/examples');
    expect((await walkeep('apply', '--dry-run', '-f', manifest)).stderr).not.toContain('Cannot find module');
    const failed = await walkeep('archive-command', '--cluster', 'main', '--pgdata', root);
    expect(failed.stderr).toContain('no Cluster default/main is applied on this host');
    expect(failed.code).toBe(4);
  });

  it('its clients of PostgreSQL end with PostgreSQL’s exit codes', async () => {
    const push = await walkeep(
      'wal-push',
      '--cluster',
      'main',
      '--pgdata',
      root,
      'pg_wal/000000010000000000000001',
    );
    expect(push.code).toBeGreaterThan(0);
    expect(push.code).toBeLessThan(126);
    const fetch = await walkeep(
      'wal-fetch',
      '--cluster',
      'main',
      '000000010000000000000001',
      'pg_wal/RECOVERYXLOG',
    );
    expect(fetch.code).toBe(200);
  });

  it('brings the workflows as one bundle, and as one for encrypted failures', async () => {
    const check = `import { workflowSource } from '${join(root, 'dist/workers/workflow-bundle.js')}';
      import { failureConverterPath } from '${join(root, 'dist/workers/payload-codec.js')}';
      const sources = [workflowSource(), workflowSource({ encrypted: true })];
      console.log(sources.map((source) => Object.keys(source).join()).join(), sources[0].workflowBundle.codePath !== sources[1].workflowBundle.codePath);
      console.log(Object.keys(await import(failureConverterPath())).join());`;
    const stdout = await runSuccessfully(process.execPath, ['--input-type=module', '--eval', check]);
    expect(stdout.trim().split('\n')).toEqual(['workflowBundle,workflowBundle true', 'failureConverter']);
  });
});
