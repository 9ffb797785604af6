/** Fault rows 1 and 2 for the sweep: killed at every step, and frozen until somebody else took over. */
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { FAILPOINTS } from '../../core/failpoint.ts';
import type { SweepReport } from '../../core/sweep-report.ts';
import { planFromRepository } from '../../operations/recovery-plan.ts';
import { sweep } from '../../operations/sweep.ts';
import { inspectBackups } from '../../repository/backup-parts.ts';
import { listBackups, readCatalogue } from '../../repository/catalogue.ts';
import { writeKeep } from '../../repository/keeps.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { listGraves, listTombstones } from '../../repository/tombstones.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { startProcess, type Process } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { keepAwake, untilStopped } from '../faults/site.ts';
import { benchRules, keysOf, makeOld, NEVER, putFourBackups, segmentsOf } from './sweep-bench.ts';
import type { SweepOrder } from './sweep-child.ts';

const CHILD = fileURLToPath(new URL('sweep-child.ts', import.meta.url));
const TTL_MS = 700;
const OLD = 2 * 3_600_000;
/** Those of the first sweep, which marks; the others are of the second, which deletes. */
const MARKING = ['sweep.before-tombstone', 'sweep.tombstoned'];
const PLACES = FAILPOINTS.filter((name) => name.startsWith('sweep.'));

const repositoryIn = (directory: string): Repository =>
  createRepository(createFilesystemStore(directory), 'pg');

let ids: string[];
let unmarked: string;
let marked: string;

beforeAll(async () => {
  unmarked = makeTempDir('unmarked');
  ids = await putFourBackups(repositoryIn(unmarked));
  makeOld(unmarked, OLD);
  marked = copyOf(unmarked);
  await sweep(repositoryIn(marked), benchRules(), { signal: NEVER, holder: 'test' });
  makeOld(join(marked, 'pg/walkeep/tombstones'), OLD);
});

function copyOf(directory: string): string {
  const copy = makeTempDir('sweep');
  cpSync(directory, copy, { recursive: true, preserveTimestamps: true });
  return copy;
}

function startSweep(directory: string, failpoint?: string): Process {
  const order: SweepOrder = { directory, server: 'pg', ttlMs: TTL_MS };
  return startProcess(process.execPath, [CHILD, JSON.stringify(order)], {
    env: { ...process.env, ...(failpoint !== undefined && { WALKEEP_FAILPOINT: failpoint }) },
  });
}

/** Sweeps as soon as the dead one's lease has run out. */
async function sweepNow(r: Repository): Promise<SweepReport> {
  for (;;) {
    try {
      return await sweep(r, benchRules(), { signal: NEVER, holder: 'successor', lease: { ttlMs: TTL_MS } });
    } catch (error) {
      if (!isBackupError(error, 'lease-held')) throw error;
      await sleep(100);
    }
  }
}

/** Nothing that is listed as restorable, by us or by stock tools, lacks anything. */
async function requireWhole(r: Repository): Promise<void> {
  for (const { backupId, info } of await listBackups(r, NEVER)) {
    if (!info) continue;
    const target = { backupID: backupId, targetImmediate: true };
    expect((await planFromRepository(r, { target, readsWal: false }, { signal: NEVER })).backupId).toBe(
      backupId,
    );
  }
  const folders = await inspectBackups(r, NEVER);
  for (const { backupId } of await readCatalogue(r, NEVER)) {
    const parts = folders.get(backupId)?.parts ?? [];
    // stock begins no restore without the first tar of the data directory
    if (parts.some(({ area, index }) => area === 'data' && index === 0)) expect(parts).toHaveLength(2);
  }
}

async function requireSwept(r: Repository): Promise<void> {
  expect((await listBackups(r, NEVER)).map(({ backupId }) => backupId)).toEqual(ids.slice(2));
  expect((await keysOf(r)).filter((key) => key.startsWith('base/'))).toHaveLength(6);
  expect(await segmentsOf(r)).toEqual(Array.from({ length: 20 }, (_, index) => index + 30));
  expect([...(await listGraves(r, NEVER))]).toEqual(ids.slice(0, 2));
  expect((await listTombstones(r, NEVER)).size).toBe(0);
}

describe('a sweep that is killed', () => {
  // All WAL goes in one batch; everything else comes twice.
  const passes = PLACES.flatMap((place) =>
    (place.endsWith('wal') || place.includes('wal-') ? [1] : [1, 2]).map((nth) => ({ place, nth })),
  );

  it.for(passes)(
    'D4, F2: at $place, time $nth, leaves nothing that looks whole and is not; the next one does the same set',
    async ({ place, nth }) => {
      const isMarking = MARKING.includes(place);
      const directory = copyOf(isMarking ? unmarked : marked);
      const r = repositoryIn(directory);
      const child = startSweep(directory, `${place}:kill:${nth}`);
      expect(await child.ended, child.output()).toMatchObject({ signal: 'SIGKILL' });
      await requireWhole(r);
      await sweepNow(r);
      if (isMarking) {
        expect([...(await listTombstones(r, NEVER)).keys()]).toEqual(ids.slice(0, 2));
        expect(await listBackups(r, NEVER)).toHaveLength(4);
      } else await requireSwept(r);
    },
  );
});

describe('a sweep that is frozen and wakes up later', () => {
  it.for([
    'sweep.before-deleting',
    'sweep.before-delete-data',
    'sweep.before-delete-wal',
    'sweep.before-delete-record',
  ])('F1: at %s, with a successor at the end of its work, does nothing more and says why', async (place) => {
    const directory = copyOf(marked);
    const r = repositoryIn(directory);
    const child = startSweep(directory, `${place}:stop`);
    await untilStopped(child);
    await sweepNow(r);
    const before = await keysOf(r, { own: true });
    keepAwake(child);
    expect(await child.ended, child.output()).toMatchObject({ code: 1 });
    expect(child.output()).toContain('lease-lost');
    expect(await keysOf(r, { own: true })).toEqual(before);
    await requireSwept(r);
  });

  it('F1, E5: a backup that was kept while it stood still is not deleted', async () => {
    const directory = copyOf(marked);
    const r = repositoryIn(directory);
    const child = startSweep(directory, 'sweep.before-delete-data:stop');
    await untilStopped(child);
    await writeKeep(r, ids[1] ?? '', 'full', NEVER);
    await sweepNow(r);
    keepAwake(child);
    expect(await child.ended, child.output()).toMatchObject({ code: 1 });
    expect((await listBackups(r, NEVER)).map(({ backupId }) => backupId)).toContain(ids[1]);
    await requireWhole(r);
  });

  it('F1: a second one is refused while the first one works', async () => {
    const directory = copyOf(marked);
    const child = startSweep(directory, 'sweep.before-delete-data:stop');
    await untilStopped(child);
    const second = sweep(repositoryIn(directory), benchRules(), { signal: NEVER, holder: 'second' });
    await expect(second).rejects.toMatchObject({
      code: 'lease-held',
      retryable: true,
      message: expect.stringContaining(`child ${child.pid}`),
    });
    await child.kill9();
  });
});
