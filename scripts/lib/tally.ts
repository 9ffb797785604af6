/**
 * Sums up what vitest's JSON reporter wrote, for scripts/test: names what was skipped, and prints
 * `PASSED FAILED SKIPPED`. A run whose report is missing (it crashed) counts as one failure.
 *
 * Use: node scripts/lib/tally.ts REPORT...
 */
import { existsSync, readFileSync } from 'node:fs';

interface Assertion {
  readonly status: 'passed' | 'failed' | 'pending' | 'skipped' | 'todo' | 'disabled';
  readonly fullName: string;
}
interface Report {
  readonly success: boolean;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly assertionResults: readonly Assertion[];
  }[];
}

const total = { passed: 0, failed: 0, skipped: 0 };
for (const file of process.argv.slice(2)) count(file);
console.log(`${total.passed} ${total.failed} ${total.skipped}`);

function count(file: string): void {
  if (!existsSync(file)) {
    total.failed += 1;
    return;
  }
  const report = JSON.parse(readFileSync(file, 'utf8')) as Report;
  const failedBefore = total.failed;
  for (const suite of report.testResults) {
    for (const { status, fullName } of suite.assertionResults) {
      if (status === 'passed') total.passed += 1;
      else if (status === 'failed') total.failed += 1;
      else {
        total.skipped += 1;
        console.error(`  skipped: ${fullName}`);
      }
    }
    // A file that could not be loaded, or whose hooks failed, has no test that failed.
    const named = suite.assertionResults.some(({ status }) => status === 'failed');
    if (suite.status === 'failed' && !named) total.failed += 1;
  }
  // An unhandled rejection fails a run whose tests all passed.
  if (!report.success && total.failed === failedBefore) total.failed += 1;
}
