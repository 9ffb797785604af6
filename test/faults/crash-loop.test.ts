/**
 * The crash loop, reduced: about a minute of strikes. scripts/soak runs the same for as long as is wished, by
 * WALKEEP_SOAK_MINUTES, WALKEEP_SOAK_SEED, and WALKEEP_SOAK_REPORT for what was done.
 */
import { writeFileSync } from 'node:fs';
import { expect, it, vi } from 'vitest';
import { describeWith } from '../support/tools.ts';
import { runCrashLoop } from './crash-loop.ts';

const minutes = Number(process.env['WALKEEP_SOAK_MINUTES'] ?? 1);
const seed = Number(process.env['WALKEEP_SOAK_SEED'] ?? 4);
const report = process.env['WALKEEP_SOAK_REPORT'];

// Beside the strikes: what was begun ends, and is restored.
vi.setConfig({ testTimeout: minutes * 60_000 * 2 + 600_000 });

describeWith(['temporal', 'versitygw'], 'a crash loop', () => {
  it('A1, A5, A6, B2, C2, F2, O1, O2, O3, O4, O5: whatever is killed, stopped or refused, nothing is lost, stuck, held or told', async () => {
    const tally = await runCrashLoop({
      durationMs: minutes * 60_000,
      seed,
      restores: report ? 12 : 2,
      ...(report && { log: (line: string) => console.log(`${new Date().toISOString()} ${line}`) }),
    });
    if (report) writeFileSync(report, `${JSON.stringify(tally, null, 2)}\n`);
    expect(tally['segments archived'] ?? 0).toBeGreaterThan(5);
  });
});
