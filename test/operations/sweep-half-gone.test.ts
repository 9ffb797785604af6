/** Which backups a sweep takes for half gone: those, and only those, lose barman's keep and every rule. */
import { beforeEach, describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import type { SweepRules } from '../../operations/gather-retention.ts';
import { planFromRepository } from '../../operations/recovery-plan.ts';
import { planSweep, sweep } from '../../operations/sweep.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { placeHold } from '../../repository/holds.ts';
import { writeKeep } from '../../repository/keeps.ts';
import { backupInfoKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { beginDeletion, listTombstones } from '../../repository/tombstones.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { aged, benchRules, keysOf, NEVER, putBenchBackup, putFourBackups } from './sweep-bench.ts';

const OLD = 2 * 3_600_000;
const old = (key: string) => (/\/(base|wals|tombstones)\//.test(key) ? OLD : 0);

describe('a backup that a sweep said to be deleting', () => {
  let r: Repository;
  let ids: string[];

  beforeEach(async () => {
    r = createRepository(aged(createMemoryStore(), old), 'pg');
    ids = await putFourBackups(r);
  });

  const run = (more: Partial<Repository> = {}, rules: SweepRules = benchRules()) =>
    sweep({ ...r, ...more }, rules, { signal: NEVER, holder: 'test' });
  const remove = (...keys: string[]) => r.store.delete(keys, { signal: NEVER });
  const partsOf = async (id: string) =>
    (await keysOf(r)).filter((key) => key.startsWith(`base/${id}/`) && key.endsWith('.tar'));
  const isSaidToGo = async (id: string) =>
    (await listTombstones(r, NEVER)).get(id)?.deletingSince !== undefined;

  it.for([
    { what: 'a rule', index: 3, keeps: async () => undefined },
    { what: 'barman’s keep', index: 0, keeps: (id: string) => writeKeep(r, id, 'full', NEVER) },
    {
      what: 'a hold',
      index: 0,
      keeps: (id: string) => placeHold(r, { id: 'h', kind: 'manual', backupId: id, reason: 'a test' }, NEVER),
    },
  ])('D3, D5: and that lacks a later tar is kept by $what as any other', async ({ index, keeps }) => {
    const id = ids[index] ?? '';
    await run();
    await remove(`pg/base/${id}/data_0001.tar`);
    await beginDeletion(r, id, NEVER);
    await keeps(id);
    const { report } = await planSweep(r, benchRules(), { signal: NEVER });
    const planned = report.backups.find(({ backupId }) => backupId === id);
    expect(planned?.decision).toBe('keep');
    await run();
    expect(await partsOf(id)).toEqual([`base/${id}/data.tar`]);
    expect((await keysOf(r)).filter((key) => key === `base/${id}/backup.info`)).toHaveLength(1);
    expect((await listTombstones(r, NEVER)).has(id)).toBe(false);
  });

  it('D5: and that lacks a later tar is asked about in the last moment as any other', async () => {
    const [oldest = ''] = ids;
    await run();
    await remove(`pg/base/${oldest}/data_0001.tar`);
    await beginDeletion(r, oldest, NEVER);
    let isSaid = false;
    const store: ObjectStore = {
      ...r.store,
      // Every look is over by then: only who asks about this very backup sees the keep.
      async *list(prefix, options) {
        yield* r.store.list(prefix, options);
        if (prefix.includes('/holds/') && isSaid) await writeKeep(r, oldest, 'full', NEVER);
        if (prefix.includes('/verifications/') && (await partsOf(ids[1] ?? '')).length === 0) isSaid = true;
      },
    };
    const report = await run({ store });
    expect(report.warnings.join()).toContain(`${oldest} was about to be deleted, and stays`);
    expect(await partsOf(oldest)).toEqual([`base/${oldest}/data.tar`]);
  });

  it('D4: and is whole is no backup to restore from; kept again, it is one at once', async () => {
    const id = ids[3] ?? '';
    await beginDeletion(r, id, NEVER);
    const plan = () =>
      planFromRepository(
        r,
        { target: { backupID: id, targetImmediate: true }, readsWal: false },
        { signal: NEVER },
      );
    await expect(plan()).rejects.toMatchObject({ message: expect.stringContaining('being deleted') });
    expect((await listBackups(r, NEVER)).at(-1)?.problem).toContain('it is being deleted');
    await run();
    expect(await isSaidToGo(id)).toBe(false);
    expect((await plan()).backupId).toBe(id);
  });

  describe.for([
    {
      why: 'a plan that is refused',
      refuse: async () => ({ ...benchRules(), doubt: 'a hold is not placed yet' }),
    },
    {
      why: 'a mark that can not be read',
      refuse: async (id: string) => {
        const key = `pg/walkeep/tombstones/${id}.json`;
        await r.store.put(key, Buffer.from('{}'), { signal: NEVER });
        return benchRules();
      },
    },
  ])('by $why', ({ refuse }) => {
    it('D3: is taken back while it is whole, and its mark stays; what has lost its first tar is not', async () => {
      const [first = '', second = ''] = ids;
      await run();
      for (const id of [first, second]) await beginDeletion(r, id, NEVER);
      await remove(`pg/base/${second}/data.tar`);
      const report = await run({}, await refuse(first));
      expect(report.refused).toBeDefined();
      expect(report.warnings.join()).toContain(`${first} was about to be deleted, and is whole`);
      expect([await isSaidToGo(first), await isSaidToGo(second)]).toEqual([false, true]);
      expect((await listTombstones(r, NEVER)).get(first)?.markedAt).toBeDefined();
    });
  });

  it('D3: is not taken back when only a late listing shows that it is whole', async () => {
    const [first = ''] = ids;
    await run();
    await beginDeletion(r, first, NEVER);
    const key = `pg/base/${first}/data.tar`;
    const shown = await r.store.head(key, { signal: NEVER });
    await remove(key);
    const store: ObjectStore = {
      ...r.store,
      async *list(prefix, options) {
        if (shown && key.startsWith(prefix)) yield shown;
        yield* r.store.list(prefix, options);
      },
    };
    expect((await run({ store }, { ...benchRules(), doubt: 'a doubt' })).refused).toContain('a doubt');
    expect(await isSaidToGo(first)).toBe(true);
  });

  it('F1: is not taken back by whoever has lost the lease', async () => {
    const [first = ''] = ids;
    await run();
    await beginDeletion(r, first, NEVER);
    const store: ObjectStore = {
      ...r.store,
      // The last thing of a look.
      async *list(prefix, options) {
        yield* r.store.list(prefix, options);
        if (!prefix.includes('/verifications/')) return;
        const newer = 'pg/walkeep/leases/sweep/0000009999.json';
        await r.store.put(newer, Buffer.from('{}'), { signal: NEVER });
      },
    };
    await expect(run({ store }, { ...benchRules(), doubt: 'a doubt' })).rejects.toMatchObject({
      code: 'lease-lost',
    });
    expect(await isSaidToGo(first)).toBe(true);
  });

  it('D3: by a key that may not delete: the refusal is told all the same', async () => {
    const [first = ''] = ids;
    await run();
    await beginDeletion(r, first, NEVER);
    const store: ObjectStore = {
      ...r.store,
      delete: () => Promise.reject(new BackupError('access-denied', 'this key may not delete')),
    };
    const report = await run({ store }, { ...benchRules(), doubt: 'a doubt' });
    expect(report.refused).toContain('a doubt');
    expect(report.warnings.join()).toContain('this key may not delete');
  });

  it('D4: and has lost its first tar is finished, whatever keeps it', async () => {
    const id = ids[3] ?? '';
    await writeKeep(r, id, 'full', NEVER);
    await beginDeletion(r, id, NEVER);
    await remove(`pg/base/${id}/data.tar`);
    expect((await run({}, benchRules({ keepLast: 9 }))).counts.deletedBackups).toBe(1);
    expect((await keysOf(r)).filter((key) => key.startsWith(`base/${id}/`))).toEqual([
      `base/${id}/annotations/keep`,
    ]);
  });

  it.for([true, false])(
    'D4: and failed before it had a tar is finished, unless barman keeps it: kept %s',
    async (isKept) => {
      const id = await putBenchBackup(r, { at: 12, daysOld: 3.8, status: 'FAILED' });
      await remove(`pg/base/${id}/data.tar`, `pg/base/${id}/data_0001.tar`);
      await run();
      if (isKept) await writeKeep(r, id, 'full', NEVER);
      await beginDeletion(r, id, NEVER);
      await run();
      const record = await r.store.head(backupInfoKey('pg', id), { signal: NEVER });
      expect(record !== undefined).toBe(isKept);
    },
  );

  it('D3: and consists of volume snapshots stays: it never had a tar', async () => {
    const [oldest = ''] = ids;
    const key = backupInfoKey('pg', oldest);
    const pieces: Uint8Array[] = [];
    for await (const piece of (await r.store.get(key, { signal: NEVER })) ?? []) pieces.push(piece);
    const text = `${Buffer.concat(pieces).toString('utf8').trimEnd()}\nsnapshots_info={'provider': 'gcp'}\n`;
    await r.store.put(key, Buffer.from(text), { signal: NEVER });
    await remove(...(await partsOf(oldest)).map((part) => `pg/${part}`));
    await beginDeletion(r, oldest, NEVER);
    const report = await run();
    expect(report.backups.find(({ backupId }) => backupId === oldest)?.decision).toBe('keep');
    expect(await r.store.head(key, { signal: NEVER })).toBeDefined();
  });

  it('D3: and whose data one listing does not show, and another one does, is in doubt', async () => {
    const id = ids[3] ?? '';
    await beginDeletion(r, id, NEVER);
    const before = await keysOf(r);
    const store: ObjectStore = {
      ...r.store,
      async *list(prefix, options) {
        for await (const object of r.store.list(prefix, options))
          if (prefix !== 'pg/base/' || !object.key.startsWith(`pg/base/${id}/data`)) yield object;
      },
    };
    const report = await run({ store });
    expect(report.refused).toContain(`two listings of base/ do not agree about ${id}`);
    expect(await keysOf(r)).toEqual(before);
  });
});
