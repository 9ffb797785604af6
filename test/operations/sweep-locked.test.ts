import { describe, expect, it } from 'vitest';
import { describeSweep } from '../../cli/sweep-tables.ts';
import type { SweepReport } from '../../core/sweep-report.ts';
import { planSweep, sweep } from '../../operations/sweep.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { backupInfoKey, ownKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { listTombstones } from '../../repository/tombstones.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { lockingStore, type LockingStore } from '../support/locking-store.ts';
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

const HOUR = 3_600_000;
const inDays = (days: number) => new Date(Date.now() + days * 24 * HOUR);

/** Backups are stored ten minutes after they began. */
function ageOf(key: string): number {
  const [, ...at] = /\/base\/(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)\//.exec(key)?.map(Number) ?? [];
  const [year, month = 1, ...rest] = at;
  if (year !== undefined) return Date.now() - Date.UTC(year, month - 1, ...rest) - 600_000;
  return key.includes('/wals/') ? 2 * HOUR : 0;
}

/**
 * Two of four backups are marked, and due.
 *
 * @param chained with one more, `child`, that is built on the oldest
 */
async function due({ chained = false, ...options }: { hides?: boolean; chained?: boolean } = {}): Promise<{
  r: Repository;
  store: LockingStore;
  ids: readonly string[];
  child?: string;
}> {
  const store = lockingStore(createMemoryStore(), options);
  const old = aged(store, (key) => (key.includes('/tombstones/') ? 2 * HOUR : ageOf(key)));
  const r = createRepository(old, 'pg');
  const ids = await putFourBackups(r);
  const child = chained ? await putBenchBackup(r, { at: 15, daysOld: 3.5 }) : undefined;
  if (child !== undefined) await buildOn(r, child, ids[0] ?? '');
  await run(createRepository(aged(store, ageOf), 'pg'));
  return { r, store, ids, ...(child !== undefined && { child }) };
}

async function buildOn(r: Repository, child: string, parent: string): Promise<void> {
  const key = backupInfoKey('pg', child);
  const text = (await collectBytes((await r.store.get(key, { signal: NEVER }))!, 100_000)).toString();
  await r.store.put(key, Buffer.from(`${text}parent_backup_id=${parent}\n`), { signal: NEVER });
}

const run = (r: Repository) => sweep(r, benchRules(), { signal: NEVER, holder: 'test' });
const plan = async (r: Repository) => (await planSweep(r, benchRules(), { signal: NEVER })).report;
const fateOf = (report: SweepReport, id: string | undefined) =>
  report.backups.find(({ backupId }) => backupId === id);
const baseKeys = async (r: Repository, id: string | undefined) =>
  (await keysOf(r)).filter((key) => key.startsWith(`base/${id}/`));

describe('a backup that the store has locked', () => {
  it.for([
    { what: 'its first tar', part: '/data.tar' },
    { what: 'another tar', part: '/data_0001.tar' },
    { what: 'its record', part: '/backup.info' },
  ])('D7: stays whole when only $what is locked, with all its WAL, and says until when', async ({ part }) => {
    const { r, store, ids } = await due();
    const [locked, free] = ids;
    const until = inDays(3);
    store.locks.set(`${locked}${part}`, { until });
    const whole = await baseKeys(r, locked);

    const preview = await plan(r);
    const report = await run(r);
    for (const one of [preview, report]) {
      expect(fateOf(one, locked)).toMatchObject({ decision: 'wait', dueAt: until.toISOString() });
      expect(fateOf(one, locked)?.reasons[0]).toBe(`the store keeps it: locked until ${until.toISOString()}`);
      expect(one.counts).toMatchObject({ waiting: 1, deletedBackups: 1 });
    }
    expect(describeSweep(preview)).toContain(`locked until ${until.toISOString()}`);
    expect(await baseKeys(r, locked)).toEqual(whole);
    expect(await baseKeys(r, free)).toEqual([]);
    expect((await segmentsOf(r))[0]).toBe(10);
    expect(store.attacked).toEqual([]);
    expect((await listTombstones(r, NEVER)).get(locked ?? '')?.deletingSince).toBeUndefined();
  });

  it("D7: also when only walkeep's own record of it is", async () => {
    const { r, store, ids } = await due();
    const key = ownKey('pg', 'backups', ids[0] ?? '', 'backup_manifest');
    await store.put(key, Buffer.from('x'), { signal: NEVER });
    store.locks.set(key, { legalHold: true });
    const report = await run(r);
    const fate = fateOf(report, ids[0]);
    expect(fate).toMatchObject({
      decision: 'wait',
      reasons: [expect.stringContaining('legal hold'), expect.anything(), expect.anything()],
    });
    expect(fate?.dueAt).toBeUndefined();
    expect(await baseKeys(r, ids[0])).toHaveLength(3);
  });

  it('D7: is not hidden either, where the store would do that without a word', async () => {
    const { r, store, ids } = await due({ hides: true });
    store.locks.set(`${ids[0]}/data_0001.tar`, { until: inDays(3) });
    await run(r);
    expect(store.attacked).toEqual([]);
    expect(await baseKeys(r, ids[0])).toHaveLength(3);
  });

  it('D7: goes when its lock is over', async () => {
    const { r, store, ids } = await due();
    store.locks.set(`${ids[0]}/`, { until: inDays(-1) });
    expect((await run(r)).counts.deletedBackups).toBe(2);
    expect(await baseKeys(r, ids[0])).toEqual([]);
  });

  it('D3: stays as long as it can not be known', async () => {
    const { r, store, ids } = await due();
    store.locks.set(`${ids[0]}/backup.info`, { unknown: 'this key may not see its lock' });
    expect(fateOf(await run(r), ids[0])).toMatchObject({
      decision: 'wait',
      reasons: ['this key may not see its lock', expect.anything(), expect.anything()],
    });
  });

  it('D7: is found when the lock comes between the plan and the first deletion', async () => {
    const { r, store, ids } = await due();
    const lockOf: LockingStore['lockOf'] = async (key, options) => store.lockOf?.(key, options);
    let asked = 0;
    const late: Repository = {
      ...r,
      store: {
        ...r.store,
        async lockOf(key, options) {
          if (key.endsWith(`${ids[1]}/data_0001.tar`) && ++asked === 2)
            store.locks.set(`${ids[1]}/data_0001.tar`, { until: inDays(1) });
          return lockOf(key, options);
        },
      },
    };
    const report = await run(late);
    expect(asked).toBe(2);
    expect(fateOf(report, ids[1])).toMatchObject({
      decision: 'wait',
      reasons: [expect.stringContaining('locked until')],
    });
    expect(report.warnings).toContainEqual(
      expect.stringMatching(/was about to be deleted, and stays: .*locked/),
    );
    expect(await baseKeys(r, ids[1])).toHaveLength(3);
    expect(store.attacked).toEqual([]);
    // counted on in the plan of the WAL
    expect((await segmentsOf(r))[0]).toBe(10);
  });

  it('D1, D7: keeps what it is built on, when the lock comes between the plan and the first deletion', async () => {
    const { r, store, ids, child } = await due({ chained: true });
    const [root] = ids;
    const lockOf: LockingStore['lockOf'] = async (key, options) => store.lockOf?.(key, options);
    let asked = 0;
    const late: Repository = {
      ...r,
      store: {
        ...r.store,
        async lockOf(key, options) {
          if (key.endsWith(`${child}/data_0001.tar`) && ++asked === 2)
            store.locks.set(`${child}/data_0001.tar`, { until: inDays(1) });
          return lockOf(key, options);
        },
      },
    };
    const segments = await segmentsOf(r);
    const report = await run(late);
    expect(fateOf(report, child)).toMatchObject({ decision: 'wait' });
    expect(fateOf(report, root)).toMatchObject({
      decision: 'wait',
      reasons: [`backup ${child}, which is built on it, has to go first`],
      dueAt: fateOf(report, child)?.dueAt,
    });
    expect([...(await baseKeys(r, root)), ...(await baseKeys(r, child))]).toHaveLength(6);
    expect(report.counts).toMatchObject({ deletedBackups: 1, deletedWal: 0 });
    expect(await segmentsOf(r)).toEqual(segments);
    const marks = await listTombstones(r, NEVER);
    expect([root, child].map((id) => marks.get(id ?? '')?.deletingSince)).toEqual([undefined, undefined]);
    // the next plan has the reason of its own
    const [next, again] = [await plan(r), await run(r)];
    for (const one of [next, again]) expect(fateOf(one, root)?.decision).toBe('wait');
    store.locks.clear();
    const left = (await run(r)).counts;
    expect(left.deletedBackups).toBe(2);
  });

  it('D7: a lock that comes on the record when the data is gone keeps the record, and is said', async () => {
    const { r, store, ids } = await due({ hides: true });
    const late: Repository = {
      ...r,
      store: {
        ...r.store,
        async delete(keys, options) {
          await r.store.delete(keys, options);
          if (keys.some((key) => key.includes('/wals/')))
            store.locks.set(`${ids[0]}/backup.info`, { until: inDays(1) });
        },
      },
    };
    const report = await run(late);
    expect(report.warnings).toContainEqual(
      expect.stringMatching(new RegExp(`data of ${ids[0]} is gone.*stays for now.*locked until`)),
    );
    expect(store.attacked).toEqual([]);
    expect(await baseKeys(r, ids[0])).toEqual([`base/${ids[0]}/backup.info`]);
    expect(fateOf(await run(r), ids[0])?.decision).toBe('undecided');
    store.locks.clear();
    await run(r);
    expect(await baseKeys(r, ids[0])).toEqual([]);
  });

  it('D7: that is half gone is left as it is, and said', async () => {
    const { r, store, ids } = await due();
    const first = `pg/base/${ids[0]}/data.tar`;
    await store.put(ownKey('pg', 'tombstones', `${ids[0]}.deleting`), Buffer.from('{}'), { signal: NEVER });
    await store.delete([first], { signal: NEVER });
    store.locks.set(`${ids[0]}/data_0001.tar`, { until: inDays(3) });
    const report = await run(r);
    expect(fateOf(report, ids[0])).toMatchObject({
      decision: 'undecided',
      reasons: [expect.stringContaining('locked until'), expect.stringContaining('has begun')],
    });
    expect(await baseKeys(r, ids[0])).toEqual([`base/${ids[0]}/backup.info`, `base/${ids[0]}/data_0001.tar`]);
    expect(store.attacked).toEqual([]);
  });

  it('asks about nothing but what would go', async () => {
    const { r, store, ids } = await due();
    store.asked.length = 0;
    await plan(r);
    const kept = ids.slice(2);
    expect(store.asked.filter((key) => kept.some((id) => key.includes(id)))).toEqual([]);
    expect(store.asked).toContain(backupInfoKey('pg', ids[0] ?? ''));
    expect(store.asked.filter((key) => key.includes('/wals/'))).toHaveLength(20);
  });

  it('D7: a dead attempt with a locked tar is left, and said', async () => {
    const { r, store } = await due();
    const id = '20200101T000000';
    const claim = ownKey('pg', 'attempts', `${id}.json`);
    await store.put(claim, Buffer.from('{}'), { signal: NEVER });
    await store.put(`pg/base/${id}/data.tar`, Buffer.from('x'), { signal: NEVER });
    store.locks.set(`${id}/data.tar`, { until: inDays(1) });
    const ancient: Repository = { ...r, store: aged(r.store, (key) => (key.includes(id) ? 1000 * HOUR : 0)) };
    const preview = await plan(ancient);
    expect(preview.leftovers.join()).not.toContain(id);
    const report = await run(ancient);
    expect(report.warnings).toContainEqual(
      expect.stringMatching(new RegExp(`dead attempt ${id}.*locked until`)),
    );
    expect(store.attacked).toEqual([]);
  });
});

describe('WAL that the store has locked', () => {
  const segment = (n: number) => `0000000100000000${n.toString(16).toUpperCase().padStart(8, '0')}`;

  it('D7: is passed over one by one, and said in plan, report and table', async () => {
    const { r, store } = await due({ hides: true });
    const until = inDays(2);
    for (const n of [12, 13, 20]) store.locks.set(segment(n), { until });
    const preview = await plan(r);
    const report = await run(r);
    for (const one of [preview, report]) {
      const reasons = one.wal.map(({ first, last, decision, reason }) => [
        first,
        last,
        decision,
        reason.includes(until.toISOString()),
      ]);
      expect(reasons.slice(0, 5)).toEqual([
        [segment(10), segment(11), 'delete', false],
        [segment(12), segment(13), 'keep', true],
        [segment(14), segment(19), 'delete', false],
        [segment(20), segment(20), 'keep', true],
        [segment(21), segment(29), 'delete', false],
      ]);
      expect(one.counts).toMatchObject({ deletedBackups: 2, deletedWal: 17 });
      expect(one.warnings).toContainEqual(expect.stringMatching(/3 segments stay.*locked until/));
    }
    expect(describeSweep(preview)).toContain('locked until');
    expect((await segmentsOf(r)).slice(0, 4)).toEqual([12, 13, 20, 30]);
    expect(store.attacked).toEqual([]);
  });

  it('A7, D7: keeps the histories with it', async () => {
    const store = lockingStore(createMemoryStore());
    const r = createRepository(
      aged(store, (key) => (/\/(base|wals)\//.test(key) ? 2 * HOUR : 0)),
      'pg',
    );
    await putHistory(r, 2, '1\t0/500000\tno recovery target specified\n');
    await putBenchWal(r, 5, 6, 2);
    await putHistory(r, 3, '1\t0/900000\tno recovery target specified\n');
    await putBenchWal(r, 9, 39, 3);
    for (const [at, daysOld] of [
      [20, 2],
      [30, 1],
    ] as const)
      await putBenchBackup(r, { at, daysOld, timeline: 3 });
    store.locks.set('000000020000000000000006', { until: inDays(1) });
    await run(r);
    expect(await segmentsOf(r, 2)).toEqual([6]);
    expect(await keysOf(r)).toContain('wals/00000002.history');
    store.locks.clear();
    await run(r);
    expect(await segmentsOf(r, 2)).toEqual([]);
    expect(await keysOf(r)).not.toContain('wals/00000002.history');
  });
});

it('D7: a bucket that locks what is written and has no versions is told from a key that may not delete', async () => {
  const { r, store, ids } = await due();
  store.locks.set('deletion-probe', { until: inDays(1) });
  await expect(run(r)).rejects.toMatchObject({
    code: 'access-denied',
    message: expect.stringContaining('locks what is written'),
  });
  expect((await listBackups(r, NEVER)).map(({ backupId }) => backupId)).toEqual(ids);
});
