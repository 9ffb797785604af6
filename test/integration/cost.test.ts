import { join } from 'node:path';
import { expect, it } from 'vitest';
import { runProcess } from '../support/processes.ts';
import { describeWith, repositoryRoot } from '../support/tools.ts';

interface Cost {
  readonly backupEvents: number;
  readonly actionsADay: number;
  readonly isGood: boolean;
}

const cost = async (...args: string[]) =>
  runProcess(
    join(repositoryRoot, 'node_modules/.bin/node'),
    [join(repositoryRoot, 'scripts/cost.ts'), ...args],
    {
      timeoutMs: 150_000,
    },
  );

describeWith('temporal', 'scripts/cost', () => {
  it('F4: a backup costs at most 500 events, a day of a cluster of three at most 1,000 billable actions', async () => {
    const { stdout, stderr, code } = await cost('--json');
    const found = JSON.parse(stdout) as Cost;
    expect(found.backupEvents).toBeGreaterThan(20);
    expect(found.backupEvents).toBeLessThanOrEqual(500);
    expect(found.actionsADay).toBeGreaterThan(300);
    expect(found.actionsADay).toBeLessThanOrEqual(1_000);
    expect({ code, isGood: found.isGood }, stderr).toEqual({ code: 0, isGood: true });
  });

  it('counts recorded runs', async () => {
    const file = join(repositoryRoot, 'test/histories/0.1.0-base-backup-completed.json');
    const { stdout, code } = await cost('--history', file);
    expect(stdout).toMatch(/completed\.json: \d+ events, \d+ actions \(1 workflow started, /);
    expect(code).toBe(0);
  });

  it('an unknown option is a wrong use', async () => {
    expect((await cost('something')).code).toBe(2);
  });
});
