/** Fault rows 20 and 22, and incidents 57 to 60: a store that fails, lies or stops in the middle, at every call in turn. */
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { planSweep, sweep } from '../../operations/sweep.ts';
import { inspectBackups } from '../../repository/backup-parts.ts';
import { listBackups, readCatalogue } from '../../repository/catalogue.ts';
import { placeHold } from '../../repository/holds.ts';
import { writeKeep } from '../../repository/keeps.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { faulty, type Fault, type StoreMethod } from '../../stores/faulty.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { aged, benchRules, keysOf, NEVER, putFourBackups, segmentsOf } from './sweep-bench.ts';

const OLD = 2 * 3_600_000;
const oldEnough = (key: string) => (/\/(base|wals|tombstones)\//.test(key) ? OLD : 0);
const NOW = Date.now();
let ids: string[];
let marked: ReadonlyMap<string, Uint8Array>;

/** Everything of a memory store. */
async function contentsOf(store: ObjectStore): Promise<Map<string, Uint8Array>> {
  const contents = new Map<string, Uint8Array>();
  for await (const { key } of store.list('', { signal: NEVER })) {
    const pieces: Uint8Array[] = [];
    for await (const piece of (await store.get(key, { signal: NEVER })) ?? []) pieces.push(piece);
    contents.set(key, Buffer.concat(pieces));
  }
  return contents;
}

beforeAll(async () => {
  const store = createMemoryStore();
  const r = createRepository(aged(store, oldEnough), 'pg');
  ids = await putFourBackups(r);
  await sweep(r, benchRules(), { signal: NEVER, holder: 'test' });
  marked = await contentsOf(store);
});

/** A repository in which two of four backups are due. */
async function due(): Promise<Repository> {
  const store = createMemoryStore();
  for (const [key, bytes] of marked) await store.put(key, bytes, { signal: NEVER });
  return createRepository(aged(store, oldEnough), 'pg');
}

function failing(r: Repository, plan: readonly Fault[]) {
  const store = faulty(r.store, plan);
  return { ...r, store };
}

const run = (r: Repository) =>
  sweep(r, benchRules(), { signal: NEVER, holder: 'test', now: () => NOW, lease: { ttlMs: 1500 } });

/** Where the answer to its taking was lost, a lease is left to run out. */
async function runWhenFree(r: Repository): Promise<void> {
  for (;;) {
    try {
      return void (await run(r));
    } catch (error) {
      if (!isBackupError(error, 'lease-held')) throw error;
      await sleep(100);
    }
  }
}

/** Nothing that is listed lacks a part, and nothing that must stay lost WAL. */
async function requireWhole(r: Repository, firstSegment = 30): Promise<void> {
  const folders = await inspectBackups(r, NEVER);
  const listed = (await listBackups(r, NEVER)).filter(({ info }) => info !== undefined);
  expect(listed.map(({ backupId }) => backupId)).toEqual(expect.arrayContaining(ids.slice(2)));
  for (const { backupId } of listed) expect(folders.get(backupId)?.parts, backupId).toHaveLength(2);
  const segments = await segmentsOf(r);
  expect(segments.filter((number) => number >= firstSegment)).toHaveLength(50 - firstSegment);
}

describe('a sweep with a store that fails', () => {
  const methods: StoreMethod[] = ['put', 'get', 'head', 'list', 'folders', 'delete'];
  it.for(methods)(
    'D3, D4: at any %s: nothing that counts is hurt, and the next one does the same set',
    { timeout: 120_000 },
    async (on) => {
      const { calls } = await countCalls();
      expect(calls[on]).toBeGreaterThan(0);
      const ways: Fault['does'][] =
        on === 'list' || on === 'folders' ? ['error', 'cut'] : ['error', 'lost-answer'];
      for (const does of ways) {
        for (let nth = 1; nth <= calls[on]; nth += 1) {
          const r = await due();
          await run(failing(r, [{ on, nth, does }])).catch(() => undefined);
          await requireWhole(r);
          await runWhenFree(r);
          expect((await listBackups(r, NEVER)).map(({ backupId }) => backupId)).toEqual(ids.slice(2));
          expect(await segmentsOf(r)).toEqual(Array.from({ length: 20 }, (_, index) => index + 30));
        }
      }
    },
  );

  it(
    'D3: a listing that is cut short without saying so hurts nothing that is kept or held',
    { timeout: 120_000 },
    async () => {
      const [oldest = '', second = ''] = ids;
      const { calls } = await countCalls();
      for (const on of ['list', 'folders'] as const) {
        for (let nth = 1; nth <= calls[on]; nth += 1) {
          const r = await due();
          await writeKeep(r, oldest, 'full', NEVER);
          await placeHold(r, { id: 'h', kind: 'verification', backupId: second, reason: 'a test' }, NEVER);
          await run(failing(r, [{ on, nth, does: 'truncate', afterBytes: nth % 3 }])).catch(() => undefined);
          await requireWhole(r, 10);
          expect(await listBackups(r, NEVER), `${on} ${nth}`).toHaveLength(4);
        }
      }
    },
  );

  it.for(['/base/', '/wals/', '/holds/', '/tombstones/'])(
    'D3: nothing goes while listings of %s fail',
    async (matching) => {
      const r = await due();
      const before = await keysOf(r);
      const faults: Fault[] = [
        { on: 'list', matching, does: 'cut', afterBytes: 0 },
        { on: 'folders', matching, does: 'error' },
      ];
      if (matching === '/holds/')
        await placeHold(r, { id: 'h', kind: 'manual', backupId: ids[3] ?? '', reason: 'x' }, NEVER);
      await expect(run(failing(r, faults))).rejects.toMatchObject({ code: 'store-unavailable' });
      await expect(planSweep(failing(r, faults), benchRules(), { signal: NEVER })).rejects.toMatchObject({
        code: 'store-unavailable',
      });
      expect(await keysOf(r)).toEqual(before);
    },
  );

  it('D3: two listings of base/ that do not agree delete nothing, and it is said', async () => {
    const r = await due();
    const before = await keysOf(r);
    const report = await run(
      failing(r, [{ on: 'list', matching: 'pg/base/', does: 'truncate', afterBytes: 4 }]),
    );
    expect(report.refused).toContain('two listings of base/ do not agree');
    expect(report.counts).toMatchObject({ deletedBackups: 0, deletedWal: 0, marked: 0 });
    expect(await keysOf(r)).toEqual(before);
  });

  it.for([
    ['backup.info', 'garbage', 'pg/base/20200101T000000/backup.info'],
    ['hold', '{"version":2}', 'pg/walkeep/holds/x.json'],
    ['history', 'nonsense', 'pg/wals/00000002.history'],
  ])('D3: an unreadable %s deletes nothing, and it is said', async ([, text = '', key = '']) => {
    const r = await due();
    await r.store.put(key, Buffer.from(text), { signal: NEVER });
    const before = await keysOf(r);
    const report = await run(r);
    expect(report.refused).toBeTruthy();
    expect(await keysOf(r)).toEqual(before);
    const planned = await planSweep(r, benchRules(), { signal: NEVER });
    expect(planned).toMatchObject({ hasWork: false, report: { refused: report.refused } });
  });

  it('D6: nothing goes while this host and the store do not agree about the time', async () => {
    const r = await due();
    const before = await keysOf(r);
    const report = await sweep(r, benchRules(), {
      signal: NEVER,
      holder: 'test',
      now: () => NOW + 2 * 86_400_000,
    });
    expect(report.refused).toContain('clock');
    expect(await keysOf(r)).toEqual(before);
  });

  it.for(['/base/', '/wals/'])(
    'D4: a store that says deleted and does not is found out, and the record stays: %s',
    async (of) => {
      const r = await due();
      const store: ObjectStore = {
        ...r.store,
        delete: async (keys, options) =>
          keys.some((key) => key.includes(of)) ? undefined : r.store.delete(keys, options),
      };
      const lying = { ...r, store };
      await expect(run(lying)).rejects.toMatchObject({
        code: 'store-unavailable',
        message: expect.stringContaining('was deleted, said the store, and is there'),
      });
      expect(await readCatalogue(r, NEVER)).toHaveLength(4);
    },
  );

  it.for(['keep', 'hold', 'tombstone'])(
    'D4, D5: what somebody does in the last moment is seen: %s',
    async (what) => {
      const r = await due();
      const [, newestDue = ''] = ids;
      let looks = 0;
      const store: ObjectStore = {
        ...r.store,
        // The last thing of a look; the second one is that after it was said what is being deleted.
        async *list(prefix, options) {
          yield* r.store.list(prefix, options);
          if (!prefix.includes('/verifications/')) return;
          looks += 1;
          if (looks !== 2) return;
          if (what === 'keep') await writeKeep(r, newestDue, 'full', NEVER);
          if (what === 'hold')
            await placeHold(r, { id: 'late', kind: 'restore', backupId: newestDue, reason: 'x' }, NEVER);
          if (what === 'tombstone')
            await r.store.delete([`pg/walkeep/tombstones/${newestDue}.json`], { signal: NEVER });
        },
      };
      const report = await run({ ...r, store });
      expect(looks).toBeGreaterThan(2);
      expect(report.warnings.join()).toContain(`${newestDue} was about to be deleted, and stays`);
      expect(report.backups.find(({ backupId }) => backupId === newestDue)?.decision).toBe('keep');
      const listed = await listBackups(r, NEVER);
      expect(listed.map(({ backupId }) => backupId)).toEqual(ids.slice(1));
      expect(listed[0]?.info).toBeDefined();
      expect(listed[0]?.tombstone).toBeUndefined();
      await requireWhole(r, 20);
    },
  );

  it('D7: a backup whose first object can not be deleted stays one', async () => {
    const r = await due();
    const locked = failing(r, [{ on: 'delete', matching: 'data.tar', does: 'error', code: 'access-denied' }]);
    await expect(run(locked)).rejects.toMatchObject({ code: 'access-denied' });
    const newestDue = (await listBackups(r, NEVER)).find(({ backupId }) => backupId === ids[1]);
    expect(newestDue?.info).toBeDefined();
    await requireWhole(r, 10);
  });

  it('H10: backups that something else deletes are missed, and said', async () => {
    const r = await due();
    const [oldest = ''] = ids;
    for (const key of (await keysOf(r)).filter((name) => name.startsWith(`base/${oldest}/`)))
      await r.store.delete([`pg/${key}`], { signal: NEVER });
    const report = await run(r);
    expect(report.warnings.join()).toContain(`deleted by something else: ${oldest}`);
    expect(report.counts.deletedBackups).toBe(1);
  });
});

/** How often a sweep calls what, when all goes well. */
async function countCalls(): Promise<{ calls: Readonly<Record<StoreMethod, number>> }> {
  const { store, ...r } = failing(await due(), []);
  const report = await run({ ...r, store });
  expect(report.counts.deletedBackups).toBe(2);
  return { calls: { ...store.calls } };
}
