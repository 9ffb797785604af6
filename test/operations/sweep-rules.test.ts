/** What a sweep may do when what is declared is missing, in doubt, or not what it was when a backup was marked. */
import { beforeEach, describe, expect, it } from 'vitest';
import { claimAttempt } from '../../operations/backup-attempt.ts';
import { whyNotNow } from '../../operations/delete-backup.ts';
import { planSweep, sweep, type SweepOptions } from '../../operations/sweep.ts';
import { listHolds, placeHold } from '../../repository/holds.ts';
import { ownKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { beginDeletion, listTombstones, readTombstone } from '../../repository/tombstones.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore, UnfinishedUpload } from '../../stores/object-store.ts';
import { aged, benchRules, keysOf, NEVER, putBenchWal, putFourBackups } from './sweep-bench.ts';

const HOUR = 3_600_000;
const OWNER = { backupName: 'a', cluster: 'pg', namespace: 'default', instance: 'pg-1' };

let ages: [RegExp, number][];
let r: Repository;
let ids: string[];

beforeEach(async () => {
  ages = [[/\/(base|wals)\//, 20 * HOUR]];
  const ageOf = (key: string) => ages.find(([wanted]) => wanted.test(key))?.[1] ?? 0;
  r = createRepository(aged(createMemoryStore(), ageOf), 'pg');
  ids = await putFourBackups(r);
  // the others were stored within the longest grace period of these tests
  ages = [[new RegExp(`/(${ids[0]}|${ids[1]})/`), 50 * HOUR], ...ages];
});

const run = (rules = benchRules(), more: Partial<SweepOptions> = {}, place = r) =>
  sweep(place, rules, { signal: NEVER, holder: 'test', ...more });
const markKey = (id: string) => ownKey('pg', 'tombstones', `${id}.json`);

/** A dead attempt, notes of one that came to its end, a hold that is over, an upload that nobody finished. */
async function litter(): Promise<{ place: Repository; abandoned: UnfinishedUpload[] }> {
  const dead = await claimAttempt(r, OWNER, { now: new Date('2027-01-02T01:02:03Z'), signal: NEVER });
  const put = (key: string) => r.store.put(key, Buffer.from('x'), { signal: NEVER });
  await put(`pg/base/${dead}/data.tar`);
  await put(ownKey('pg', 'attempts', ids[3] ?? '', 'data.tar.files.gz'));
  const [backupId = ''] = ids;
  await placeHold(r, { id: 'old', kind: 'restore', backupId, reason: 'x', lastsMs: HOUR }, NEVER);
  ages = [[/\/(attempts|holds)\//, 30 * HOUR], ...ages];
  const abandoned: UnfinishedUpload[] = [];
  const upload = { key: 'pg/base/x', id: '1', startedAt: new Date(Date.now() - 30 * HOUR) };
  const store: ObjectStore = {
    ...r.store,
    async *unfinished() {
      yield upload;
    },
    async abandon(one) {
      abandoned.push(one);
    },
  };
  return { place: { ...r, store }, abandoned };
}
/** Without what every sweep writes: the lease and the clock. */
const allKeys = async () =>
  (await keysOf(r, { own: true })).filter((key) => !/walkeep\/(leases\/|clock)/.test(key));

describe('a sweep of a cluster with', () => {
  it('a policy removes what belongs to no backup', async () => {
    const { place, abandoned } = await litter();
    const rules = benchRules({ keepLast: 9 });
    const { report, hasWork } = await planSweep(place, rules, { signal: NEVER });
    expect([report.leftovers.length, hasWork]).toEqual([4, true]);
    expect((await run(rules, {}, place)).leftovers).toHaveLength(4);
    expect(abandoned).toHaveLength(1);
  });

  it('D3: neither a policy nor a window: nothing goes, no attempt, note, upload or hold either', async () => {
    const { place, abandoned } = await litter();
    const { policy: _, ...none } = benchRules();
    const before = await allKeys();
    const { report, hasWork } = await planSweep(place, none, { signal: NEVER });
    expect([report.leftovers, hasWork]).toEqual([[], false]);
    const swept = await run(none, {}, place);
    expect(swept).toMatchObject({ leftovers: [], counts: { kept: 4, deletedBackups: 0, deletedWal: 0 } });
    expect(swept.refused).toBeUndefined();
    expect(await allKeys()).toEqual(before);
    expect(abandoned).toEqual([]);
    expect(await listHolds(r, NEVER)).toHaveLength(1);
  });

  it.for([
    { what: 'a policy', rules: benchRules() },
    { what: 'nothing declared', rules: { graceMs: HOUR, deadlineMs: HOUR } },
  ])('D3: $what and a doubt of who asks for it: nothing is touched, and it is said', async ({ rules }) => {
    await run();
    ages = [[/\/tombstones\//, 2 * HOUR], ...ages];
    await putBenchWal(r, 1, 4);
    const { place, abandoned } = await litter();
    const before = await allKeys();
    const doubt = 'a hold that was asked for is not placed yet';
    const { report, hasWork } = await planSweep(place, { ...rules, doubt }, { signal: NEVER });
    expect(report).toMatchObject({ refused: `nothing is deleted: ${doubt}`, leftovers: [] });
    expect(hasWork).toBe(false);
    const swept = await run({ ...rules, doubt }, {}, place);
    expect(swept).toMatchObject({ refused: `nothing is deleted: ${doubt}`, leftovers: [] });
    expect(await allKeys()).toEqual(before);
    expect(abandoned).toEqual([]);
  });

  it('D3: a doubt that comes up when the rest is done: nothing is cleaned up', async () => {
    await run(benchRules({ keepLast: 9 }));
    const { place, abandoned } = await litter();
    const before = await allKeys();
    let isLast = false;
    const store: ObjectStore = {
      ...place.store,
      async *list(prefix, options) {
        if (isLast) await r.store.put('pg/base/20200101T000000/backup.info', Buffer.from('?'), options);
        yield* r.store.list(prefix, options);
      },
    };
    const onProgress: SweepOptions['onProgress'] = ({ phase }) => (isLast ||= phase === 'cleaning-up');
    const report = await run(benchRules({ keepLast: 9 }), { onProgress }, { ...place, store });
    expect(report.warnings.join()).toContain('stopped: nothing is deleted');
    expect(report.leftovers).toEqual([]);
    expect(await allKeys()).toEqual(expect.arrayContaining(before));
    expect(abandoned).toEqual([]);
  });
});

describe('a mark', () => {
  const due = async () => [...(await listTombstones(r, NEVER)).values()];

  it('D3: keeps the grace period it was placed under when a shorter one is declared', async () => {
    await run(benchRules({ grace: '2d' }));
    // what is older than every backup goes at once
    await run();
    expect(await readTombstone(r, ids[0] ?? '', NEVER)).toMatchObject({ graceMs: 48 * HOUR });
    ages = [[/\/tombstones\//, 47 * HOUR], ...ages];
    const before = await allKeys();
    const { report } = await planSweep(r, benchRules(), { signal: NEVER });
    const marked = (await due())[0]?.markedAt?.getTime() ?? 0;
    expect(report.backups.at(-1)).toMatchObject({
      backupId: ids[0],
      decision: 'wait',
      dueAt: new Date(marked + 48 * HOUR).toISOString(),
      reasons: expect.arrayContaining(['it was marked under a grace period of 2d']),
    });
    expect(report.counts).toMatchObject({ waiting: 2, deletedBackups: 0, deletedWal: 0 });
    const swept = await run();
    expect(swept.backups).toEqual(report.backups);
    expect(swept.counts).toEqual(report.counts);
    expect(await allKeys()).toEqual(before);
    ages = [[/\/tombstones\//, 49 * HOUR], ...ages];
    expect((await run()).counts).toMatchObject({ deletedBackups: 2 });
  });

  it('D4: has the longer one when that is the one declared now, and of old versions the one declared now', async () => {
    await run(benchRules({ grace: '1h' }));
    ages = [[/\/tombstones\//, 2 * HOUR], ...ages];
    expect((await run(benchRules({ grace: '3h' }))).counts).toMatchObject({ waiting: 2, deletedBackups: 0 });
    const { graceMs: _, ...older } = (await readTombstone(r, ids[0] ?? '', NEVER)) ?? {};
    await r.store.put(markKey(ids[0] ?? ''), Buffer.from(JSON.stringify(older)), { signal: NEVER });
    expect((await run(benchRules({ grace: '1h' }))).counts).toMatchObject({ deletedBackups: 2 });
  });

  it('D4: is looked at once more in the last moment, with its own grace period', async () => {
    const [oldest = ''] = ids;
    await run();
    ages = [[/\/tombstones\//, 2 * HOUR], ...ages];
    const ask = () => whyNotNow(r, oldest, { storeNow: new Date(), graceMs: HOUR, signal: NEVER });
    expect(await ask()).toBeUndefined();
    const longer = { ...(await readTombstone(r, oldest, NEVER)), graceMs: 72 * HOUR };
    const replace = () =>
      r.store.put(markKey(oldest), Buffer.from(JSON.stringify(longer)), { signal: NEVER });
    let isSaid = false;
    const store: ObjectStore = {
      ...r.store,
      put: async (key, body, options) => {
        if (key.endsWith(`${oldest}.deleting`)) isSaid = true;
        return r.store.put(key, body, options);
      },
      // The last thing of a look.
      async *list(prefix, options) {
        yield* r.store.list(prefix, options);
        if (!isSaid || !prefix.includes('/verifications/')) return;
        isSaid = false;
        await replace();
      },
    };
    const report = await run(benchRules(), {}, { ...r, store });
    const marked = (await due())[0]?.markedAt?.getTime() ?? 0;
    expect(report.backups.at(-1)).toMatchObject({
      backupId: oldest,
      decision: 'wait',
      dueAt: new Date(marked + 72 * HOUR).toISOString(),
    });
    expect(await due()).toEqual([{ backupId: oldest, markedAt: expect.any(Date) }]);
    expect(await ask()).toMatchObject({ why: expect.stringContaining('3d'), dueAt: marked + 72 * HOUR });
    const shorter = { ...longer, graceMs: 1 };
    await r.store.put(markKey(oldest), Buffer.from(JSON.stringify(shorter)), { signal: NEVER });
    const declared = { storeNow: new Date(), graceMs: 72 * HOUR, signal: NEVER };
    expect(await whyNotNow(r, oldest, declared)).toHaveProperty('dueAt');
  });

  it('D3: that can not be read deletes nothing, and it is said', async () => {
    await run();
    ages = [[/\/tombstones\//, 2 * HOUR], ...ages];
    await r.store.put(markKey(ids[0] ?? ''), Buffer.from('{}'), { signal: NEVER });
    const before = await allKeys();
    const { report } = await planSweep(r, benchRules(), { signal: NEVER });
    expect(report.refused).toContain(`${ids[0]}.json is not a record of walkeep`);
    expect((await run()).refused).toBe(report.refused);
    expect(await allKeys()).toEqual(before);
  });

  it('D4: of a backup that a dead sweep said to be deleting, and that is not due any more: it can be restored', async () => {
    const [oldest = ''] = ids;
    await run();
    await beginDeletion(r, oldest, NEVER);
    ages = [[/\/tombstones\//, 2 * HOUR], ...ages];
    const report = await run(benchRules({ grace: '3h' }));
    expect(report.warnings).toContain(`${oldest} was about to be deleted, and is not due yet`);
    expect((await due())[0]).toEqual({ backupId: oldest, markedAt: expect.any(Date) });
  });
});
