/** The benchmark, by scripts/bench: a test of vitest, which this runs at its full length, and reads. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { BenchRow } from '../test/bench/backup.test.ts';

const MOST_MIB = 512;
const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: { size: { type: 'string', default: '1024' }, all: { type: 'boolean', default: false } },
});
const size = Number(values.size);
if (!Number.isInteger(size) || size < 64) {
  console.error(`--size must be a number of MiB, 64 or more, not "${values.size}"`);
  process.exit(2);
}

const report = `${root}.walkeep/reports/bench.json`;
mkdirSync(`${root}.walkeep/reports`, { recursive: true });
rmSync(report, { force: true });
const { status } = spawnSync(
  'vitest',
  ['run', '--project', 'bench', '--retry=0', 'test/bench/backup.test.ts'],
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
const rows = existsSync(report) ? (JSON.parse(readFileSync(report, 'utf8')) as BenchRow[]) : [];
printRatios(rows);
const ours = rows.filter(({ tool, what }) => tool === 'walkeep' && what === 'backup');
const most = Math.max(0, ...ours.map(({ peakProcessMiB }) => peakProcessMiB));
const isBelow = ours.length > 0 && most < MOST_MIB;
console.log(
  `memory of a backup with 4 jobs: at most ${Math.round(most)} MiB, has to stay below ${MOST_MIB}: ${isBelow ? 'good' : 'FAILED'}`,
);
process.exit(isBelow && status === 0 ? 0 : 1);

function printRatios(all: readonly BenchRow[]): void {
  const line = (cells: readonly string[]) =>
    console.log(cells.map((cell, at) => (at < 4 ? cell.padEnd(14) : cell.padStart(12))).join(''));
  line(['what', 'store', 'codec', 'MiB', 'peak MiB', 'wall', 'CPU', 'memory']);
  for (const row of all.filter(({ tool }) => tool === 'walkeep')) {
    const { what, place, codec, sizeMiB, peakProcessMiB } = row;
    const peers = all.filter(
      (peer) =>
        peer.tool !== 'walkeep' &&
        peer.what === what &&
        peer.place === place &&
        peer.codec === codec &&
        peer.sizeMiB === sizeMiB,
    );
    const begin = [what, place, codec, String(sizeMiB), String(Math.round(peakProcessMiB))];
    if (peers.length === 0) line([...begin, '–', '–', '–']);
    for (const peer of peers) {
      const of = (field: 'wallSeconds' | 'cpuSeconds' | 'peakMiB') => (row[field] / peer[field]).toFixed(2);
      line([...begin, of('wallSeconds'), of('cpuSeconds'), of('peakMiB'), `  of ${peer.tool}`]);
    }
  }
}
