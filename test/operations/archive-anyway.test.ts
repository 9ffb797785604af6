import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { pushWal, type PushedWal } from '../../operations/archive-wal.ts';
import { renewStoreRecord } from '../../operations/renew-store-record.ts';
import { createRepository } from '../../repository/repository.ts';
import type { StoreMemory } from '../../repository/store-knowledge.ts';
import { retrying } from '../../stores/retrying.ts';
import { refuse, type SeenRequest } from '../stores/s3-double.ts';
import { startS3ServerDouble, type Oddities, type S3ServerDouble } from '../stores/s3-server-double.ts';
import { makeTempDir } from '../support/temp.ts';
import { makeSegment, SYSTEM_ID } from '../support/wal-bytes.ts';

// What a key may not do, and what a server does not answer, besides storing WAL, stops no WAL.

const MiB = 1024 * 1024;
const { signal } = new AbortController();
let double: S3ServerDouble;
let pgWalDirectory: string;
const start = async (odd: Oddities) => (double = await startS3ServerDouble(odd));
beforeAll(() => {
  pgWalDirectory = join(makeTempDir('anyway'), 'pg_wal');
  mkdirSync(join(pgWalDirectory, 'archive_status'), { recursive: true });
});
afterEach(() => double.close());

const open = (memory?: StoreMemory, at = double) =>
  createRepository(retrying(at.store({ idleMs: 5_000 }), { firstPauseMs: 1 }), 'pg', memory);
const segment = (n: number) => `00000001000000000000${n.toString(16).toUpperCase().padStart(4, '0')}`;
/** By a process of its own, unless it shares a memory. */
function push(n: number, memory?: StoreMemory, at = double): Promise<PushedWal> {
  writeFileSync(join(pgWalDirectory, segment(n)), makeSegment(segment(n), { seed: 1 }));
  const identity = { systemId: SYSTEM_ID.toString(), segmentSize: MiB };
  return pushWal(
    {
      repository: async () => open(memory, at),
      pgWalDirectory,
      codec: 'gzip',
      identity: async () => identity,
    },
    segment(n),
    { signal },
  );
}
async function timed(work: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await work();
  return performance.now() - begun;
}
const keyOf = (n: number) => `pg/wals/0000000100000000/${segment(n)}.gz`;
const storedRecord = () => double.objects.get('pg/walkeep/store.json')?.bytes.toString();
const DAY_MS = 86_400_000;
const recordOf = (changes: object) =>
  Buffer.from(
    JSON.stringify({
      version: 1,
      probedAt: new Date().toISOString(),
      walkeep: '0.0.9',
      ifAbsent: 'yes',
      mayDelete: 'no',
      multipartIfAbsent: 'yes',
      checksums: 'yes',
      bulkDelete: 'yes',
      listPaging: 'yes',
      listStart: 'yes',
      versioning: 'off',
      objectLock: 'off',
      ...changes,
    }),
  );
const putRecord = (changes: object) =>
  open().store.put('pg/walkeep/store.json', recordOf(changes), { signal });

const isWrongSum = ({ headers, body }: SeenRequest) =>
  headers['x-amz-checksum-crc32'] === 'AAAAAA==' && body.length > 0;

describe('a server that does not answer what archiving need not know', () => {
  it.for<{ why: string; odd: Oddities }>([
    {
      why: '500 to the question about locks',
      odd: { intercept: (q, r) => q.query.has('object-lock') && (refuse(r, 500, 'InternalError'), true) },
    },
    {
      why: 'silence to the question about versions',
      odd: { intercept: (q) => q.query.has('versioning') },
    },
    {
      why: 'an end of the connection to a wrong checksum',
      odd: { intercept: (q, r) => isWrongSum(q) && (r.destroy(), true) },
    },
    {
      why: '500 to a wrong checksum',
      odd: { intercept: (q, r) => isWrongSum(q) && (refuse(r, 500, 'InternalError'), true) },
    },
  ])('A5, E3: $why: WAL is archived at once', async ({ odd }) => {
    await start(odd);
    const ms = await timed(async () => expect(await push(1)).toMatchObject({ outcome: 'archived' }));
    expect(ms).toBeLessThan(4_000);
    expect(storedRecord()).toMatch(/"ifAbsent": "yes"/);
  });

  it('A5, E3: an answer that is more than a month old stays in force, and no WAL asks again', async () => {
    await start({});
    await push(1);
    await putRecord({ probedAt: new Date(Date.now() - 31 * DAY_MS).toISOString() });
    double.seen.length = 0;
    await push(2);
    expect(double.calls().filter((call) => call.includes('/probe/'))).toEqual([]);
    expect(double.calls().filter((call) => call.includes('store.json'))).toHaveLength(1);
  });

  it('E3: a renewal asks the rest, and what fails is unknown', async () => {
    await start({
      intercept: (q, r) => q.query.has('object-lock') && (refuse(r, 500, 'InternalError'), true),
    });
    await push(1);
    const found = await renewStoreRecord(open(), { systemId: SYSTEM_ID.toString() }, signal);
    expect(found).toMatchObject({ ifAbsent: 'yes', checksums: 'yes', objectLock: 'unknown' });
    expect(storedRecord()).not.toMatch(/onlyCreation/);
  }, 60_000);
});

describe('a key that may do little', () => {
  const createsOnly = (isStrict = () => true): Oddities => ({
    intercept: (q, r) =>
      isStrict() &&
      ((q.method === 'PUT' && q.headers['if-none-match'] === undefined) || q.method === 'DELETE') &&
      (refuse(r, 403, 'AccessDenied'), true),
  });
  const writesOnly =
    (keys: RegExp): NonNullable<Oddities['intercept']> =>
    (q, r) =>
      q.method === 'PUT' && !keys.test(q.key) && (refuse(r, 403, 'AccessDenied'), true);

  it('S6: archives when it may do nothing but create', async () => {
    await start(createsOnly());
    await push(1);
    expect(storedRecord()).toMatch(/"ifAbsent": "yes"/);
    double.seen.length = 0;
    await push(2);
    expect(
      double
        .calls()
        .filter((call) => call.includes('/walkeep/'))
        .toSorted(),
    ).toEqual(['GET pg/walkeep/owner.json', 'GET pg/walkeep/store.json']);
  });

  it('S6: archives when it may write WAL and the owner, and nothing else; what it can’t find out it asks once', async () => {
    await start({ intercept: writesOnly(/^pg\/(wals\/|walkeep\/owner\.json)/) });
    const memory: StoreMemory = {};
    await push(1, memory);
    double.seen.length = 0;
    await push(2, memory);
    expect(double.calls().filter((call) => call.includes('/probe/') || call.includes('store.json'))).toEqual(
      [],
    );
    const sent = double.seen.find(({ method, key }) => method === 'PUT' && key === keyOf(2));
    expect(sent?.headers['if-none-match']).toBe('*');
  });

  it('S6, E3: archives where turns are needed that it may not write', async () => {
    await start({ ignoresCondition: true });
    await putRecord({ ifAbsent: 'no', multipartIfAbsent: 'no' });
    await double.close();
    await start({
      ignoresCondition: true,
      intercept: writesOnly(/^pg\/(wals\/|walkeep\/(owner|store)\.json)/),
    });
    await putRecord({ ifAbsent: 'no', multipartIfAbsent: 'no' });
    await push(1);
    expect(double.objects.has(keyOf(1))).toBe(true);
  });

  it('S6: a worker that can’t renew what is known leaves it as it is, and does not ask again', async () => {
    let isStrict = false;
    await start(createsOnly(() => isStrict));
    await push(1);
    await putRecord({ probedAt: new Date(Date.now() - 31 * DAY_MS).toISOString() });
    isStrict = true;
    const memory: StoreMemory = {};
    const renew = () => renewStoreRecord(open(memory), { systemId: SYSTEM_ID.toString() }, signal);
    expect(await renew()).toMatchObject({ ifAbsent: 'yes' });
    double.seen.length = 0;
    expect(await renew()).toMatchObject({ ifAbsent: 'yes' });
    expect(double.calls().filter((call) => call.startsWith('PUT'))).toEqual([]);
    await push(2, memory);
    expect(double.objects.has(keyOf(2))).toBe(true);
  });

  it('S6: no answer never replaces one', async () => {
    let isDenied = false;
    await start({
      intercept: (q, r) => isDenied && q.key.includes('/probe/') && (refuse(r, 403, 'AccessDenied'), true),
    });
    await push(1);
    await putRecord({ probedAt: new Date(Date.now() - 31 * DAY_MS).toISOString() });
    isDenied = true;
    const before = storedRecord();
    const found = await renewStoreRecord(open(), { systemId: SYSTEM_ID.toString() }, signal);
    expect(found).toMatchObject({ ifAbsent: 'yes', multipartIfAbsent: 'yes' });
    expect(storedRecord()).toBe(before);
  });

  it('A3, E3: one refusal while the store is tried: nothing is recorded, and a rival’s bytes stay', async () => {
    const rival = Buffer.from('confirmed to somebody else');
    let isDenied = false;
    let sent: string | undefined;
    await start({
      intercept: (q, r, objects) => {
        if (!isDenied && q.key.includes('/probe/')) {
          isDenied = true;
          refuse(r, 403, 'AccessDenied');
          return true;
        }
        if (q.method === 'PUT' && q.key === keyOf(1)) {
          sent = q.headers['if-none-match'];
          objects.set(q.key, { bytes: rival, metadata: {}, modifiedAt: new Date() });
        }
        return false;
      },
    });
    await expect(push(1)).rejects.toMatchObject({ code: 'object-damaged' });
    expect(sent).toBe('*');
    expect(double.objects.get(keyOf(1))?.bytes.equals(rival)).toBe(true);
    expect(storedRecord()).toBeUndefined();
  });
});

describe('what the first WAL of a repository costs', () => {
  it('E3: six requests more, once for a repository; then one a process', async () => {
    await start({});
    const memory: StoreMemory = {};
    await push(1, memory);
    const about = () => double.calls().filter((call) => /\/(probe|store\.json)|^POST|^DELETE/.test(call));
    const id = /probe\/[^/]+/;
    expect(about().map((call) => call.replace(id, 'probe/ID'))).toEqual([
      'GET pg/walkeep/store.json',
      'PUT pg/walkeep/probe/ID/create',
      'PUT pg/walkeep/probe/ID/create',
      // whether the one that is in the way is its own
      'HEAD pg/walkeep/probe/ID/create',
      'PUT pg/walkeep/store.json',
      'POST ?delete',
    ]);
    double.seen.length = 0;
    await push(2, memory);
    expect(about()).toEqual([]);
    await push(3);
    expect(about()).toEqual(['GET pg/walkeep/store.json']);
    expect([...double.objects.keys()].filter((key) => key.includes('/probe/'))).toEqual([]);
  });
});

// Each waits for seconds: side by side.
describe.concurrent('a store that is late', () => {
  it('A5, E3: 500 to all that is tried beside: one WAL waits for some seconds, the next ones do not', async () => {
    const own = await startS3ServerDouble({
      intercept: (q, r) => /\/(probe|store\.json)/.test(q.key) && (refuse(r, 500, 'InternalError'), true),
    });
    const memory: StoreMemory = {};
    expect(await timed(() => push(101, memory, own))).toBeLessThan(20_000);
    expect(await timed(() => push(102, memory, own))).toBeLessThan(4_000);
    expect([keyOf(101), keyOf(102)].every((key) => own.objects.has(key))).toBe(true);
    await own.close();
  }, 60_000);

  it('A5, E3: ignores the condition, and lists two seconds later: WAL is archived', async () => {
    const own = await startS3ServerDouble({ ignoresCondition: true, listLagMs: 2_000 });
    await push(111, {}, own);
    expect(own.objects.has(keyOf(111))).toBe(true);
    expect([...own.objects.keys()].filter((key) => key.includes('/turns/'))).toEqual([]);
    await own.close();
  }, 60_000);

  it('A5, E3: ignores the condition, and lists nothing: WAL is archived, that is said once, and the next one does not wait', async () => {
    const own = await startS3ServerDouble({ ignoresCondition: true, listLagMs: 3_600_000 });
    const said: string[] = [];
    const listen = (warning: Error) => void said.push(warning.message);
    process.on('warning', listen);
    try {
      const memory: StoreMemory = {};
      await push(121, memory, own);
      expect(await timed(() => push(122, memory, own))).toBeLessThan(4_000);
      expect(own.objects.has(keyOf(122))).toBe(true);
      expect(said.filter((text) => text.includes('its listings do not show'))).toHaveLength(1);
    } finally {
      process.off('warning', listen);
      await own.close();
    }
  }, 60_000);
});
