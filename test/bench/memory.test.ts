/** The memory of a backup's threads, whatever its size: scripts/bench runs this, and judges; no part of scripts/test. */
import { randomFillSync } from 'node:crypto';
import { linkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { CODECS } from '../../streams/codec.ts';
import type { PartsOrder } from '../operations/measured-parts.ts';
import { measured, starterEnvironment } from '../support/measure.ts';
import { makeTempDir } from '../support/temp.ts';
import type { BenchRow } from './backup.test.ts';
import { PLACES, startPlace } from './places.ts';

/** What the files hold: nothing compresses, or most of it does. */
const CONTENTS = ['random', 'rows'] as const;

const CHILD = fileURLToPath(new URL('../operations/measured-parts.ts', import.meta.url));
const JOBS = 4;
const MiB = 1024 * 1024;
const FILE_MIB = 64;
const SIZES_MIB = (process.env['WALKEEP_BENCH_MEMORY_MIB'] ?? '256,2048').split(',').map(Number);
const WANTED = new Set((process.env['WALKEEP_BENCH_CODECS'] ?? 'lz4').split(','));
const WANTED_PLACES = new Set((process.env['WALKEEP_BENCH_PLACES'] ?? PLACES.join(',')).split(','));
const REPORT = process.env['WALKEEP_BENCH_REPORT'];
const MINUTES_30 = 1_800_000;

describe('the memory of a backup', () => {
  it(
    'is measured with sizes that differ eightfold, of what compresses and what does not',
    async () => {
      const rows: BenchRow[] = [];
      for (const name of PLACES.filter((one) => WANTED_PLACES.has(one))) {
        const { store } = await startPlace(name);
        for (const content of CONTENTS) {
          for (const codec of CODECS.filter((one) => WANTED.has(one))) {
            for (const sizeMiB of SIZES_MIB) {
              const peaks = await measureParts({ store, content, codec, sizeMiB });
              rows.push({ what: 'memory', tool: 'walkeep', place: name, codec, sizeMiB, content, ...peaks });
              if (REPORT !== undefined) writeFileSync(REPORT, JSON.stringify(rows, null, 2));
            }
          }
        }
      }
      expect(rows.length).toBeGreaterThan(0);
    },
    MINUTES_30,
  );
});

interface Wanted extends Pick<PartsOrder, 'store' | 'codec'> {
  readonly content: (typeof CONTENTS)[number];
  readonly sizeMiB: number;
}

async function measureParts({ store, content, codec, sizeMiB }: Wanted) {
  const root = makeFiles(content, sizeMiB);
  const order: PartsOrder = {
    store,
    server: `${content}-${codec}-${sizeMiB}`,
    root,
    codec,
    jobs: JOBS,
    maxPartBytes: 128 * MiB,
  };
  const { wallSeconds, cpuSeconds, peakMiB, peakProcessMiB } = await measured(process.execPath, [CHILD], {
    input: JSON.stringify(order),
    env: { ...process.env, ...starterEnvironment() },
  });
  rmSync(root, { recursive: true });
  return { wallSeconds, cpuSeconds, peakMiB, peakProcessMiB };
}

/** A directory of one file under many names: 2 GiB are there in a moment, and are read from memory. */
function makeFiles(content: Wanted['content'], sizeMiB: number): string {
  const root = makeTempDir('files');
  const bytes = Buffer.alloc(FILE_MIB * MiB);
  randomFillSync(bytes.subarray(0, 16 * MiB));
  if (content === 'rows') {
    for (let at = 0; at < 16 * MiB; at += 1024) bytes.fill(`row ${at % 17_000} of it`, at + 160, at + 1024);
  }
  for (let at = 16 * MiB; at < bytes.length; at += 16 * MiB) bytes.copyWithin(at, 0, 16 * MiB);
  const first = join(root, 'file-0');
  writeFileSync(first, bytes);
  for (let at = 1; at < sizeMiB / FILE_MIB; at += 1) linkSync(first, join(root, `file-${at}`));
  return root;
}
