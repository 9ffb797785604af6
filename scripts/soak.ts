/**
 * The long tests, by scripts/soak: the outages of test/faults at their full length, and the crash loop for as long as is
 * wished. Both are tests of vitest, which this runs with their lengths set.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));

interface Part {
  readonly name: 'outage' | 'loop';
  readonly files: readonly string[];
  readonly environment: NodeJS.ProcessEnv;
}

const wishes = readWishes();
const report = `${root}.walkeep/reports/soak.json`;
mkdirSync(`${root}.walkeep/reports`, { recursive: true });
rmSync(report, { force: true });

const parts: readonly Part[] = [
  {
    name: 'outage',
    files: ['test/faults/burst-and-outage.test.ts', 'test/faults/link-and-clock.test.ts'],
    environment: { WALKEEP_OUTAGE_SECONDS: String(wishes.outage) },
  },
  {
    name: 'loop',
    files: ['test/faults/crash-loop.test.ts'],
    environment: {
      WALKEEP_SOAK_MINUTES: String(wishes.minutes),
      WALKEEP_SOAK_SEED: String(wishes.seed),
      WALKEEP_SOAK_REPORT: report,
    },
  },
];
const failed = parts.filter(({ name }) => wishes.only === undefined || wishes.only === name).filter(runs);

console.log(`seed ${wishes.seed}: scripts/soak --minutes ${wishes.minutes} --seed ${wishes.seed}`);
if (existsSync(report)) {
  const tally = JSON.parse(readFileSync(report, 'utf8')) as Record<string, number>;
  for (const [what, count] of Object.entries(tally)) console.log(`${String(count).padStart(7)}  ${what}`);
}
console.log(
  failed.length === 0 ? 'no promise was broken' : `broken: ${failed.map(({ name }) => name).join(', ')}`,
);
process.exit(failed.length === 0 ? 0 : 1);

/** @returns whether it failed */
function runs({ name, files, environment }: Part): boolean {
  console.log(`${name}: ${files.join(', ')}`);
  const { status } = spawnSync(
    'vitest',
    ['run', '--project', 'integration', '--no-file-parallelism', '--retry=0', ...files],
    // No second try: a test that needs one has found something.
    { cwd: root, stdio: 'inherit', env: { ...process.env, ...environment } },
  );
  return status !== 0;
}

function readWishes(): { minutes: number; seed: number; outage: number; only?: string } {
  try {
    const { values } = parseArgs({
      options: {
        minutes: { type: 'string', default: '30' },
        seed: { type: 'string', default: String(Date.now() % 1_000_000) },
        outage: { type: 'string', default: '120' },
        only: { type: 'string' },
      },
    });
    const number = (name: 'minutes' | 'seed' | 'outage'): number => {
      const value = Number(values[name]);
      if (!(value > 0)) throw new Error(`--${name} must be a number over 0, not "${values[name]}"`);
      return value;
    };
    const { only } = values;
    if (only !== undefined && only !== 'loop' && only !== 'outage')
      throw new Error(`--only must be loop or outage, not "${only}"`);
    const numbers = { minutes: number('minutes'), seed: number('seed'), outage: number('outage') };
    return { ...numbers, ...(only !== undefined && { only }) };
  } catch (error) {
    console.error(`scripts/soak: ${error instanceof Error ? error.message : String(error)}; see --help`);
    process.exit(2);
  }
}
