import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { runProcess } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';

const assertion = (status: string) => ({ status, fullName: `a test that ${status}` });
const suite = (status: string, ...assertions: string[]) => ({
  name: 'x.test.ts',
  status,
  assertionResults: assertions.map(assertion),
});

describe('the total of scripts/test', () => {
  test.for([
    {
      why: 'counts what passed, failed and was skipped',
      report: { success: false, testResults: [suite('failed', 'passed', 'failed', 'skipped', 'todo')] },
      total: '1 1 2',
    },
    {
      why: 'a file that can not be loaded is a failure',
      report: { success: false, testResults: [suite('passed', 'passed'), suite('failed')] },
      total: '1 1 0',
    },
    {
      why: 'a run that failed beside its tests is a failure',
      report: { success: false, testResults: [suite('passed', 'passed')] },
      total: '1 1 0',
    },
    { why: 'a run without a report is a failure', report: undefined, total: '0 1 0' },
  ])('$why', async ({ report, total }) => {
    const file = join(makeTempDir('tally'), 'report.json');
    if (report) writeFileSync(file, JSON.stringify(report));
    const { stdout } = await runProcess(process.execPath, [
      join(repositoryRoot, 'scripts/lib/tally.ts'),
      file,
    ]);
    expect(stdout.trim()).toBe(total);
  });
});
