/** Faults 20, 22, 23 and 24: a store that answers, and whose answers are wrong. Every operation, without a server. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from 'vitest';
import { listBackups } from '../../repository/catalogue.ts';
import { findWal, readWal } from '../../repository/wal.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { aged, putFourBackups } from '../operations/sweep-bench.ts';
import { makeSegment, MiB } from '../support/wal-segment.ts';
import { makeBareSite, NEVER, segment, type BareSite } from './bare-site.ts';
import {
  contentsOf,
  ignoringAbsence,
  losing,
  stale,
  together,
  wildListing,
  type WildListing,
} from './wild-stores.ts';

const SLOT = new Date('2026-11-24T02:00:00Z');
const OLD_MS = 2 * 3_600_000;
const dataOf = async (store: ObjectStore) =>
  [...(await contentsOf(store)).keys()].filter((key) => /^pg\/(base|wals)\//.test(key));

let site: BareSite;
beforeEach(async () => {
  site = makeBareSite();
  for (let number = 1; number <= 4; number += 1) await site.push(segment(number));
});
const usable = async (of: BareSite) => (await of.protection()).usable.map(({ backupId }) => backupId);

/** A site in which a sweep would delete two of four backups. */
async function dueSite(): Promise<{ site: BareSite; ids: string[] }> {
  const inner = createMemoryStore();
  const old = aged(inner, (key) => (/\/(base|wals|tombstones)\//.test(key) ? OLD_MS : 0));
  const swept = makeBareSite({ inner: old });
  const ids = await putFourBackups(swept.repository);
  await swept.sweep();
  return { site: swept, ids };
}

describe('a store that loses what it confirmed (fault 20)', () => {
  it.for(['/data_0001.tar', '/copied.json', '.files.gz', '/backup.info', '/walkeep/backups/', '/verdict'])(
    'B1, B2, fault 20: without its %s no backup is said to be completed that is not there, and the next one is',
    async (lost) => {
      const wild = losing(site.inner, lost);
      const said = await site
        .through(wild)
        .backUp()
        .then(
          (backupId) => backupId,
          () => undefined,
        );
      expect(wild.dropped).not.toEqual([]);
      expect(await usable(site)).toEqual(said === undefined ? [] : [said]);
      const healed = await site.backUp();
      expect(await usable(site)).toContain(healed);
      await site.restore();
    },
  );

  it('A1, fault 20: archiving exits 1 to 125 for a segment that was lost, and 0 when it is there', async () => {
    const wild = site.through(losing(site.inner, '/wals/'));
    expect(await wild.pushExit(segment(5))).toBe(1);
    expect(await findWal(site.repository, segment(5), NEVER)).toEqual([]);
    expect(await site.pushExit(segment(5))).toBe(0);
  });

  it('A4, fault 20: an owner record that was lost makes no archive anybody’s', async () => {
    const fresh = makeBareSite();
    const wild = fresh.through(losing(fresh.inner, 'owner.json'));
    expect(await wild.pushExit(segment(1))).toBe(0);
    const foreign = { identity: async () => ({ systemId: '42', segmentSize: MiB }) };
    expect(await wild.pushExit(segment(1), foreign)).toBe(0);
    // Its WAL tells whose it is, where the record does not.
    writeFileSync(join(fresh.pgWal, segment(2)), makeSegment(segment(2), { systemId: '42' }));
    expect(await wild.pushExit(segment(2))).toBe(1);
  });

  it('C1, C3, C6, fault 20: a part or segment that was lost later: nothing is restored, the object is named', async () => {
    const backupId = await site.backUp();
    const lost = (name: string) => site.inner.delete([`pg/base/${backupId}/${name}`], { signal: NEVER });
    await lost('data_0001.tar.gz');
    await expect(site.restore()).rejects.toThrow(/data_0001\.tar/);
    await lost('data.tar.gz');
    await expect(site.restore()).rejects.toThrow(/data\.tar is missing/);
    expect(await site.verify()).toMatchObject({
      result: 'damaged',
      why: expect.stringContaining('data.tar'),
    });
    await site.inner.delete([`pg/wals/0000000100000000/${segment(3)}`], { signal: NEVER });
    expect(await site.fetchExit(segment(3))).toBeGreaterThan(125);
  });

  it.for(['/tombstones/', '/leases/', '/graves/', '/swept-by'])(
    'D4, fault 20: a sweep whose own %s are lost deletes nothing that counts',
    async (lost) => {
      const { site: due, ids } = await dueSite();
      await due
        .through(losing(due.repository.store, lost))
        .sweep()
        .catch(() => undefined);
      const listed = (await listBackups(due.repository, NEVER)).filter(({ info }) => info !== undefined);
      expect(listed.map(({ backupId }) => backupId)).toEqual(expect.arrayContaining(ids.slice(2)));
      await due.sweep();
      expect((await listBackups(due.repository, NEVER)).map(({ backupId }) => backupId)).toEqual(
        ids.slice(2),
      );
    },
  );

  it('F6, fault 20: a slot whose record was lost is decided the same again, with the same Backup', async () => {
    const wild = site.through(losing(site.inner, '/slots/'));
    expect([
      await wild.slot(SLOT),
      await wild.slot(SLOT),
      await site.slot(SLOT),
      await site.slot(SLOT),
    ]).toEqual(Array(4).fill('ran'));
  });

  it('F7, fault 20: what the keeper is told of a repository is what is there', async () => {
    const wild = site.through(losing(site.inner, '/backup.info'));
    await wild.backUp().catch(() => undefined);
    expect((await wild.protection()).usable).toEqual([]);
  });
});

describe('a store whose listings go wrong (fault 22)', () => {
  const ways: WildListing[] = ['page 2 fails', 'ends early', 'repeats', 'out of order'];

  it.for(ways)('A1, fault 22: %s: archiving is not hurt, and nothing is stored over', async (how) => {
    const wild = site.through(wildListing(site.inner, how));
    const before = await contentsOf(site.inner, 'pg/wals/');
    const codes = [await wild.pushExit(segment(5)), await wild.pushExit(segment(2))];
    expect(codes.every((code) => code === 0 || code === 1)).toBe(true);
    for (const [key, bytes] of before) expect((await contentsOf(site.inner, key)).get(key)).toEqual(bytes);
    if (codes[0] === 0) expect(await findWal(site.repository, segment(5), NEVER)).toHaveLength(1);
  });

  it.for(ways)('B1, fault 22: %s: a backup that is said to be completed can be restored', async (how) => {
    await site
      .through(wildListing(site.inner, how))
      .backUp()
      .then(
        async (backupId) => expect(await usable(site)).toContain(backupId),
        async () => expect(await usable(site)).toEqual([]),
      );
    await site.backUp();
    await site.restore();
  });

  it.for(ways)(
    'C3, C4, fault 22: %s: a restore is whole or refused, and wal-fetch never says absent',
    async (how) => {
      await site.backUp();
      const wild = site.through(wildListing(site.inner, how));
      await wild.restore().catch((error: unknown) => expect(String(error)).toMatch(/BackupError/));
      for (const number of [1, 2, 3, 4]) expect(await wild.fetchExit(segment(number))).not.toBe(1);
    },
  );

  it.for(ways)(
    'C6, fault 22: %s: a verification is not tried, and the backup is not called bad',
    async (how) => {
      await site.backUp();
      expect(await site.through(wildListing(site.inner, how)).verify()).toMatchObject({
        result: 'not-tried',
      });
    },
  );

  it.for(
    ways.flatMap((how) => ['/base/', '/wals/', '/tombstones/', '/holds/'].map((of) => [how, of] as const)),
  )('D3, fault 22: %s, of %s: a sweep deletes nothing that is kept', async ([how, of]) => {
    const { site: due, ids } = await dueSite();
    const before = await dataOf(due.inner);
    const report = await due
      .through(wildListing(due.repository.store, how, of))
      .sweep()
      .catch(() => undefined);
    if (how === 'page 2 fails') {
      expect(report).toBeUndefined();
      expect(await dataOf(due.inner)).toEqual(before);
    }
    const listed = (await listBackups(due.repository, NEVER)).filter(({ info }) => info !== undefined);
    expect(listed.map(({ backupId }) => backupId)).toEqual(expect.arrayContaining(ids.slice(2)));
    for (let number = 30; number < 50; number += 1)
      expect(await findWal(due.repository, segment(number), NEVER), String(number)).toHaveLength(1);
  });

  it.for(ways)(
    'F6, F7, fault 22: %s: a slot has one outcome, and the keeper is told the truth or nothing',
    async (how) => {
      const backupId = await site.backUp();
      const wild = site.through(wildListing(site.inner, how));
      await wild.slot(SLOT).catch(() => undefined);
      expect(await site.slot(SLOT)).toBe('ran');
      const told = await wild.protection().catch(() => undefined);
      if (how === 'page 2 fails') expect(told).toBeUndefined();
      else expect(new Set(told?.usable.map((info) => info.backupId))).toEqual(new Set([backupId]));
    },
  );
});

describe('a store whose listings are five seconds late (fault 23)', () => {
  const LATE_MS = 5_000;
  const late = (lateMs = LATE_MS) => site.through(stale(site.inner, lateMs));

  it('A1, A2, A3, fault 23: archiving goes on; what is not listed yet is compared by its name, and other bytes are refused', async () => {
    const eventual = late(200);
    expect(await eventual.pushExit(segment(5))).toBe(0);
    expect(await eventual.pushExit(segment(6))).toBe(0);
    const silent = late(3_600_000);
    expect(await silent.pushExit(segment(7))).toBe(0);
    expect(await silent.pushExit(segment(7))).toBe(0);
    writeFileSync(join(site.pgWal, segment(5)), makeSegment(segment(5)).fill(7, 100_000, 100_100));
    expect(await eventual.pushExit(segment(5))).toBe(1);
    await sleep(250);
    expect(await eventual.pushExit(segment(5))).toBe(1);
    expect(await eventual.pushExit(segment(6))).toBe(0);
    const [kept] = await findWal(site.repository, segment(5), NEVER);
    expect(Buffer.compare(await readWal(site.repository, kept!, MiB, NEVER), makeSegment(segment(5)))).toBe(
      0,
    );
  });

  it('B1, fault 23: a backup waits until its WAL is listed, and is taken', { timeout: 30_000 }, async () => {
    const fresh = makeBareSite();
    const eventual = fresh.through(stale(fresh.inner, LATE_MS));
    for (const number of [1, 2, 3]) await eventual.push(segment(number));
    const backupId = await eventual.backUp({ walDeadlineMs: 15_000 });
    expect(await usable(fresh)).toEqual([backupId]);
  });

  it('C1, C6, fault 23: a backup whose parts are not listed yet is restored whole or not at all, and never called bad', async () => {
    const eventual = late();
    const backupId = await eventual.backUp();
    for (const name of ['data.tar.gz', 'data_0001.tar.gz', 'backup.info']) {
      // What one moment of such a store shows: all but this.
      const partly = site.through({
        ...site.inner,
        async *list(prefix, options) {
          for await (const object of site.inner.list(prefix, options)) {
            if (!object.key.endsWith(`/${name}`)) yield object;
          }
        },
      });
      expect((await partly.verify()).result, name).toBe('not-tried');
      await partly
        .restore()
        .catch((error: unknown) => expect(String(error)).toMatch(/not whole|not as they were/));
    }
    await site.restore();
    expect(await usable(site)).toEqual([backupId]);
  });

  it('C3, fault 23: what an object’s own name finds is never absent to wal-fetch, listed or not', async () => {
    const eventual = late(3_600_000);
    expect(await eventual.pushExit(segment(5))).toBe(0);
    expect(await eventual.fetchExit(segment(5))).toBe(0);
    expect(await eventual.pushExit(segment(6), { codec: 'zstd' })).toBe(0);
    expect(await eventual.fetchExit(segment(6))).toBe(0);
    expect(await eventual.fetchExit(segment(7))).toBe(1);
  });

  it('D3, D4, fault 23: a sweep whose listings show what is gone, and not what came: the set goes, and nothing else', async () => {
    const { site: due, ids } = await dueSite();
    const store = stale(due.repository.store, LATE_MS);
    const report = await due.through(store).sweep();
    expect(report.refused).toBeUndefined();
    expect(report.counts.deletedBackups).toBe(2);
    const listed = (await listBackups(due.repository, NEVER)).filter(({ info }) => info !== undefined);
    expect(listed.map(({ backupId }) => backupId)).toEqual(ids.slice(2));
    for (let number = 30; number < 50; number += 1)
      expect(await findWal(due.repository, segment(number), NEVER), String(number)).toHaveLength(1);
  });

  it('F6, F7, fault 23: a slot is decided once, and the keeper sees the backup when it is listed', async () => {
    const eventual = late(3_600_000);
    expect(await eventual.slot(SLOT)).toBe('ran');
    expect(await eventual.slot(SLOT)).toBe('ran');
    expect((await eventual.protection()).gaps).toEqual([]);
    await eventual.backUp();
    expect((await eventual.protection()).usable).toEqual([]);
    expect(await usable(site)).toHaveLength(1);
  });
});

describe('a store without create-if-absent (fault 24)', () => {
  const ignoring = (pauseMs = 20) => site.through(ignoringAbsence(site.inner, pauseMs));

  it.for(['none', 'gzip'] as const)(
    'A3, fault 24: of two that push other bytes at the same moment, the other one as %s, at most one is confirmed, and that one is there',
    async (codec) => {
      const [one, other] = [makeBareSite(), makeBareSite()];
      const store = together(ignoringAbsence(one.inner), '/wals/', 2);
      const bytes = [makeSegment(segment(5)), makeSegment(segment(5)).fill(7, 100_000, 100_100)] as const;
      writeFileSync(join(one.pgWal, segment(5)), bytes[0]);
      writeFileSync(join(other.pgWal, segment(5)), bytes[1]);
      const codes = await Promise.all([
        one.through(store).pushExit(segment(5)),
        other.through(store).pushExit(segment(5), { codec }),
      ]);
      const found = await findWal(one.repository, segment(5), NEVER);
      const stored = await Promise.all(found.map((object) => readWal(one.repository, object, MiB, NEVER)));
      const confirmed = bytes.filter((_, index) => codes[index] === 0);
      expect(confirmed.length).toBeLessThanOrEqual(1);
      for (const kept of confirmed) expect(stored.map((copy) => Buffer.compare(copy, kept))).toEqual([0]);
    },
  );

  it('B2, F1, fault 24: two backups at the same moment have two ids, or one of them fails; each DONE restores', async () => {
    const now = new Date('2026-11-25T04:00:00Z');
    const taken = await Promise.allSettled([ignoring().backUp({ now }), ignoring(35).backUp({ now })]);
    const ids = taken.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []));
    expect(new Set(ids)).toEqual(new Set(await usable(site)));
    for (const _ of ids) await site.restore();
    await ignoring().backUp();
    await site.restore();
  });

  it('C1, C6, fault 24: restores and verifications only read, and place their hold', async () => {
    await ignoring().backUp();
    await ignoring().restore();
    expect(await ignoring().verify()).toMatchObject({
      result: 'not-tried',
      why: expect.stringContaining('no PostgreSQL'),
    });
  });

  it('F1, D4, fault 24: of two sweepers the lease lets one work, and says that this is only likely', async () => {
    const { site: due, ids } = await dueSite();
    const one = () => due.through(ignoringAbsence(due.repository.store, 10)).sweep({ settleMs: 200 });
    const ended = await Promise.allSettled([one(), one()]);
    const done = ended.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []));
    expect(done).toHaveLength(1);
    expect(done[0]?.warnings.join()).toContain('unlikely, not impossible');
    expect((await listBackups(due.repository, NEVER)).map(({ backupId }) => backupId)).toEqual(ids.slice(2));
  });

  it('F6, F7, fault 24: of two that decide a slot at the same moment both say the same', async () => {
    expect(await Promise.all([ignoring(5).slot(SLOT), ignoring(15).slot(SLOT)])).toEqual(['ran', 'ran']);
    expect(await ignoring().slot(SLOT)).toBe('ran');
    expect((await ignoring().protection()).usable).toEqual([]);
  });
});
