import { describe, expect, it } from 'vitest';
import { planSweep, sweep } from '../../operations/sweep.ts';
import type { SweepRules } from '../../operations/gather-retention.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { placeHold } from '../../repository/holds.ts';
import { writeKeep } from '../../repository/keeps.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { listGraves, listTombstones, readGrave } from '../../repository/tombstones.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import {
  aged,
  benchRules,
  keysOf,
  NEVER,
  putBenchBackup,
  putBenchWal,
  putFourBackups,
  putHistory,
  segmentsOf,
} from './sweep-bench.ts';

const OLD = 2 * 3_600_000;
/** Everything but the clock and what is said by sweeps was stored hours ago. */
const longAgo = (key: string) => (/\/(base|wals)\//.test(key) ? OLD : 0);

function open(store: ObjectStore = createMemoryStore()): Repository {
  return createRepository(aged(store, longAgo), 'pg');
}

const run = (r: Repository, rules: SweepRules) => sweep(r, rules, { signal: NEVER, holder: 'test' });
/** Tombstones that were placed a grace period ago. */
const afterGrace = (r: Repository): Repository => ({
  ...r,
  store: aged(r.store, (key) => (key.includes('/tombstones/') ? OLD : 0)),
});

describe('a sweep', () => {
  it('D4: marks first, and deletes a grace period later: data, WAL, record; the tombstone stays', async () => {
    const r = open();
    const ids = await putFourBackups(r);
    const before = await keysOf(r);

    const first = await run(r, benchRules());
    expect(first.refused).toBeUndefined();
    expect(first.counts).toMatchObject({ kept: 2, marked: 2, deletedBackups: 0 });
    // nothing older than the oldest backup is needed by anybody
    expect((await keysOf(r)).filter((key) => key.startsWith('base/'))).toEqual(
      before.filter((key) => key.startsWith('base/')),
    );
    expect([...(await listTombstones(r, NEVER)).keys()]).toEqual(ids.slice(0, 2));

    const early = await run(r, benchRules());
    expect(early.counts).toMatchObject({ waiting: 2, deletedBackups: 0 });

    const late = afterGrace(r);
    const { report: preview } = await planSweep(late, benchRules(), { signal: NEVER });
    const report = await run(late, benchRules());
    expect(report.counts).toMatchObject({ kept: 2, deletedBackups: 2 });
    expect(report.backups).toEqual(preview.backups);
    expect(report.wal).toEqual(preview.wal);
    expect((await listBackups(r, NEVER)).map(({ backupId }) => backupId)).toEqual(ids.slice(2));
    expect((await segmentsOf(r))[0]).toBe(30);
    expect((await segmentsOf(r)).at(-1)).toBe(49);
    expect([...(await listGraves(r, NEVER))]).toEqual(ids.slice(0, 2));
    expect(await readGrave(r, ids[0] ?? '', NEVER)).toMatchObject({
      backupId: ids[0],
      backup: { status: 'DONE', timeline: 1, beginWal: '00000001000000000000000A' },
    });
    expect((await listTombstones(r, NEVER)).size).toBe(0);

    const again = await run(late, benchRules());
    expect(again.counts).toMatchObject({ kept: 2, marked: 0, deletedBackups: 0, deletedWal: 0 });
  });

  it('D3: a cluster without any policy marks nothing', async () => {
    const r = open();
    await putFourBackups(r);
    const { policy: _, ...none } = benchRules();
    const report = await run(r, none);
    expect(report.counts).toMatchObject({ kept: 4, marked: 0, deletedBackups: 0, deletedWal: 0 });
    expect((await listTombstones(r, NEVER)).size).toBe(0);
  });

  it('D1, A7: WAL of a timeline that was left goes with what needed it; what tells of it stays', async () => {
    const r = open();
    await putBenchBackup(r, { at: 10, daysOld: 4 });
    await putBenchWal(r, 5, 14);
    const put = (name: string) =>
      r.store.put(`pg/wals/0000000100000000/${name}`, Buffer.from('.'), { signal: NEVER });
    await put('00000001000000000000000F.partial.gz');
    await put('00000001000000000000000A.00000028.backup.gz');
    await put('000000010000000000000005.00000028.backup.gz');
    await putHistory(r, 2, '1\t0/F00000\tno recovery target specified\n');
    await putBenchWal(r, 15, 49, 2);
    const kept = [
      await putBenchBackup(r, { at: 20, daysOld: 2, timeline: 2 }),
      await putBenchBackup(r, { at: 30, daysOld: 1, timeline: 2 }),
    ];
    // from before the oldest backup, at once
    expect((await run(r, benchRules())).counts).toMatchObject({ marked: 1, deletedWal: 5 });
    expect(await keysOf(r)).toContain('wals/0000000100000000/00000001000000000000000F.partial.gz');
    await run(afterGrace(r), benchRules());
    expect((await listBackups(r, NEVER)).map(({ backupId }) => backupId)).toEqual(kept);
    expect(await segmentsOf(r, 1)).toEqual([]);
    expect((await segmentsOf(r, 2))[0]).toBe(20);
    const beside = (await keysOf(r)).filter((key) => /partial|backup\.gz|history/.test(key));
    // A7: they outlive their timeline and its descendants
    expect(beside).toEqual([
      'wals/0000000100000000/000000010000000000000005.00000028.backup.gz',
      'wals/0000000100000000/00000001000000000000000A.00000028.backup.gz',
      'wals/00000002.history',
    ]);
  });

  it('D4: the dry run writes nothing', async () => {
    const r = open();
    await putFourBackups(r);
    const before = await keysOf(r, { own: true });
    const { report, hasWork } = await planSweep(r, benchRules(), { signal: NEVER });
    expect(report).toMatchObject({ dryRun: true, counts: { marked: 2 } });
    expect(hasWork).toBe(true);
    expect(await keysOf(r, { own: true })).toEqual(before);
  });

  it('D5: what somebody restores from stays, with its WAL, and loses its mark', async () => {
    const r = open();
    const [oldest = ''] = await putFourBackups(r);
    await run(r, benchRules());
    await placeHold(r, { id: 'restore-1', kind: 'restore', backupId: oldest, reason: 'a test' }, NEVER);
    const report = await run(afterGrace(r), benchRules());
    expect(report.counts.deletedBackups).toBe(1);
    expect(report.backups.at(-1)).toMatchObject({ backupId: oldest, decision: 'keep' });
    expect((await segmentsOf(r))[0]).toBe(10);
    expect((await listTombstones(r, NEVER)).has(oldest)).toBe(false);
  });

  it('E5: a keep of barman that appears between tombstone and deletion saves the backup', async () => {
    const r = open();
    const [oldest = ''] = await putFourBackups(r);
    await run(r, benchRules());
    await writeKeep(r, oldest, 'standalone', NEVER);
    const report = await run(afterGrace(r), benchRules());
    expect(report.counts.deletedBackups).toBe(1);
    // its own segments, and those of what is kept by rule
    expect((await segmentsOf(r)).slice(0, 3)).toEqual([10, 11, 30]);
  });
});
