/** Many verifications to random moments, by scripts/verify-moments: a test of vitest, which this runs at its full length. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: {
    moments: { type: 'string', default: '50' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
});
const count = Number(values.moments);
if (!Number.isInteger(count) || count < 1) {
  console.error(`--moments must be a number over 0, not "${values.moments}"`);
  process.exit(2);
}

interface Tally {
  readonly moments: number;
  readonly right: number;
  readonly wrong: readonly string[];
  readonly rto: readonly number[];
  readonly commits: number;
}

const report = `${root}.walkeep/reports/moments.json`;
mkdirSync(`${root}.walkeep/reports`, { recursive: true });
rmSync(report, { force: true });
const { status } = spawnSync(
  'vitest',
  ['run', '--project', 'integration', '--retry=0', 'test/integration/verification-moments.test.ts'],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      WALKEEP_MOMENTS: String(count),
      WALKEEP_MOMENTS_SEED: values.seed,
      WALKEEP_MOMENTS_REPORT: report,
    },
  },
);
console.log(`seed ${values.seed}: scripts/verify-moments --moments ${count} --seed ${values.seed}`);
if (!existsSync(report)) {
  console.log(`0 of ${count} stop inside the right gap of the canary: the test did not come to its end`);
  process.exit(1);
}
const tally = JSON.parse(readFileSync(report, 'utf8')) as Tally;
for (const why of tally.wrong) console.log(`  ${why}`);
const sorted = tally.rto.toSorted((a, b) => a - b);
const middle = sorted[Math.floor(sorted.length / 2)] ?? 0;
console.log(
  `time to recover: median ${middle} s, most ${sorted.at(-1) ?? 0} s; the canary had ${tally.commits} commits`,
);
console.log(`${tally.right} of ${tally.moments} stop inside the right gap of the canary`);
process.exit(tally.right === tally.moments && status === 0 ? 0 : 1);
