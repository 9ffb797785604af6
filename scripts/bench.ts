/** The benchmark, by scripts/bench: a test of vitest, which this runs at its full length, and reads. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { BenchRow } from '../test/bench/backup.test.ts';

const MOST_MIB = 512;
/** How much more memory a backup may take that is eight times as large. */
const MOST_GROWTH_MIB = 64;
const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '1024' },
    all: { type: 'boolean', default: false },
    memory: { type: 'boolean', default: false },
  },
});
// scripts/bench has looked at it.
const size = Number(values.size);

mkdirSync(`${root}.walkeep/reports`, { recursive: true });
const parts = values.memory ? ['memory'] : ['memory', 'backup'];
const results = parts.map(run);
const rows = results.flatMap((result) => result.rows);
printRatios(rows);
const isBelow = checkMost(rows.filter(({ tool, what }) => tool === 'walkeep' && what !== 'restore'));
const isLevel = checkGrowth(rows.filter(({ what }) => what === 'memory'));
process.exit(isBelow && isLevel && results.every(({ status }) => status === 0) ? 0 : 1);

function run(part: string): { readonly rows: readonly BenchRow[]; readonly status: number | null } {
  const report = `${root}.walkeep/reports/${part === 'memory' ? 'bench-memory' : 'bench'}.json`;
  rmSync(report, { force: true });
  const { status } = spawnSync(
    'vitest',
    ['run', '--project', 'bench', '--retry=0', `test/bench/${part}.test.ts`],
    {
      cwd: root,
      stdio: 'inherit',
      env: {
        ...process.env,
        WALKEEP_BENCH_MIB: String(size),
        WALKEEP_BENCH_CODECS: values.all ? 'none,lz4,zstd,gzip' : 'lz4',
        WALKEEP_BENCH_REPORT: report,
      },
    },
  );
  return { rows: existsSync(report) ? (JSON.parse(readFileSync(report, 'utf8')) as BenchRow[]) : [], status };
}

function checkMost(ours: readonly BenchRow[]): boolean {
  const most = Math.max(0, ...ours.map(({ peakProcessMiB }) => peakProcessMiB));
  const isGood = ours.length > 0 && most < MOST_MIB;
  console.log(
    `memory of a backup with 4 jobs: at most ${Math.round(most)} MiB, has to stay below ${MOST_MIB}: ${isGood ? 'good' : 'FAILED'}`,
  );
  return isGood;
}

/** Of each place, codec and content, the largest backup beside the smallest. */
function checkGrowth(measured: readonly BenchRow[]): boolean {
  const nameOf = ({ place, codec, content }: BenchRow) => `${place}, ${codec}, ${content}`;
  const growths = [...new Set(measured.map(nameOf))].map((name) => {
    const alike = measured.filter((row) => nameOf(row) === name);
    const [smallest, ...others] = alike.toSorted((a, b) => a.sizeMiB - b.sizeMiB);
    const largest = others.at(-1);
    // One size alone shows nothing.
    const growth = smallest && largest ? largest.peakProcessMiB - smallest.peakProcessMiB : Infinity;
    return { name, growth };
  });
  const worst = growths.toSorted((a, b) => b.growth - a.growth)[0];
  const isGood = worst !== undefined && worst.growth <= MOST_GROWTH_MIB;
  console.log(
    `a backup eight times as large takes at most ${worst ? `${Math.round(worst.growth)} MiB more (${worst.name})` : '?'}, may take ${MOST_GROWTH_MIB}: ${isGood ? 'good' : 'FAILED'}`,
  );
  return isGood;
}

function printRatios(all: readonly BenchRow[]): void {
  const line = (cells: readonly string[]) =>
    console.log(cells.map((cell, at) => (at < 4 ? cell.padEnd(15) : cell.padStart(12))).join(''));
  line(['what', 'store', 'codec', 'MiB', 'peak MiB', 'wall', 'CPU', 'memory']);
  for (const row of all.filter(({ tool }) => tool === 'walkeep')) {
    const { what, place, codec, sizeMiB, content, peakProcessMiB } = row;
    const peers = all.filter(
      (peer) =>
        peer.tool !== 'walkeep' &&
        peer.what === what &&
        peer.place === place &&
        peer.codec === codec &&
        peer.sizeMiB === sizeMiB,
    );
    const begin = [
      content ? `${what} ${content}` : what,
      place,
      codec,
      String(sizeMiB),
      String(Math.round(peakProcessMiB)),
    ];
    if (peers.length === 0) line([...begin, '–', '–', '–']);
    for (const peer of peers) {
      const of = (field: 'wallSeconds' | 'cpuSeconds' | 'peakMiB') => (row[field] / peer[field]).toFixed(2);
      line([...begin, of('wallSeconds'), of('cpuSeconds'), of('peakMiB'), `  of ${peer.tool}`]);
    }
  }
}
