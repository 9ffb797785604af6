import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, test } from 'vitest';
import type { ArchiveDamage } from '../../core/audit.ts';
import { segmentName } from '../../core/segment.ts';
import { repairWal, type RepairPorts } from '../../operations/repair-wal.ts';
import { walKey } from '../../repository/layout.ts';
import { claimOwner } from '../../repository/owner.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { findWal, readWal } from '../../repository/wal.ts';
import { faulty } from '../../stores/faulty.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { compressBytes, type Codec } from '../../streams/codec.ts';
import { makeTempDir } from '../support/temp.ts';
import { makeSegment, SYSTEM_ID } from '../support/wal-bytes.ts';
import { makeWal } from '../support/wal-with-records.ts';

const MiB = 1024 * 1024;
const { signal } = new AbortController();
const systemId = SYSTEM_ID.toString();
const name = (number: number, timeline = 1) => segmentName(timeline, BigInt(number), MiB);
const SEGMENT = name(5);

let pgWalDirectory: string;
let store: ObjectStore;
let repository: Repository;
let alerts: string[];

beforeEach(async () => {
  pgWalDirectory = join(makeTempDir('repair'), 'pg_wal');
  mkdirSync(join(pgWalDirectory, 'archive_status'), { recursive: true });
  store = createMemoryStore();
  repository = createRepository(store, 'pg');
  alerts = [];
  await claimOwner(repository, { systemId, segmentSize: MiB }, signal);
});

function ports(more: Partial<RepairPorts> = {}): RepairPorts {
  return {
    instance: 'pg-1',
    repository: () => Promise.resolve(repository),
    pgWalDirectory,
    codec: 'zstd',
    identity: () => Promise.resolve({ systemId, segmentSize: MiB }),
    alert: (message) => void alerts.push(message),
    ...more,
  };
}

const inPgWal = (fileName: string, bytes: Uint8Array | string) =>
  writeFileSync(join(pgWalDirectory, fileName), bytes);
const mark = (fileName: string, state: 'ready' | 'done') =>
  writeFileSync(join(pgWalDirectory, 'archive_status', `${fileName}.${state}`), '');

function damage(kind: ArchiveDamage['kind'], first: string, last = first): ArchiveDamage {
  const timeline = Number.parseInt(first.slice(0, 8), 16);
  return { kind, timeline, first, last, count: 1 };
}

async function put(
  fileName: string,
  bytes: Uint8Array,
  codec: Codec = 'zstd',
  stored?: Uint8Array,
): Promise<void> {
  await store.put(walKey('pg', fileName, codec), stored ?? (await compressBytes(codec, bytes)), { signal });
}

async function archived(fileName: string): Promise<{ key: string; bytes: Uint8Array }[]> {
  const found = await findWal(repository, fileName, signal);
  return Promise.all(
    found.map(async (object) => ({
      key: object.key,
      bytes: await readWal(repository, object, 4 * MiB, signal),
    })),
  );
}

async function contents(): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for await (const { key } of store.list('', { signal })) {
    const pieces: Uint8Array[] = [];
    for await (const piece of (await store.get(key, { signal })) ?? []) pieces.push(piece);
    found[key] = Buffer.concat(pieces).toString('base64');
  }
  return found;
}

/** Names, sizes, times and bytes: all of `pg_wal`. */
function pgWal(): unknown {
  return readdirSync(pgWalDirectory, { recursive: true })
    .map(String)
    .toSorted()
    .map((entry) => {
      const path = join(pgWalDirectory, entry);
      const stat = statSync(path);
      return [entry, stat.mtimeMs, stat.isFile() ? readFileSync(path).toString('base64').slice(0, 4000) : ''];
    });
}

const repair = (...damages: ArchiveDamage[]) => repairWal(ports(), damages, { signal });

describe('what is missing', () => {
  it('A6, A8, fault 26: is sent again as wal-push does it, and nothing in pg_wal is touched', async () => {
    for (const number of [4, 5, 6, 7]) inPgWal(name(number), makeWal(name(number)));
    const before = pgWal();
    const done = await repair(damage('missing', name(5), name(6)));
    expect(done).toEqual([
      {
        outcome: 'repaired',
        kind: 'missing',
        timeline: 1,
        first: name(5),
        last: name(6),
        count: 2,
        instance: 'pg-1',
      },
    ]);
    expect((await archived(name(5))).map(({ key }) => key)).toEqual([
      `pg/wals/0000000100000000/${name(5)}.zst`,
    ]);
    expect(Buffer.compare((await archived(name(6)))[0]?.bytes ?? Buffer.alloc(0), makeWal(name(6)))).toBe(0);
    expect(await archived(name(4))).toEqual([]);
    expect(pgWal()).toEqual(before);
    expect(alerts).toHaveLength(2);
    expect(alerts[0]).toContain(`${name(5)} was missing from the archive and was sent again`);
  });

  it('tells of each damage by itself, however close together they are', async () => {
    for (const number of [4, 5, 6, 7]) inPgWal(name(number), makeWal(name(number)));
    const done = await repair(damage('missing', name(4), name(5)), damage('missing', name(6)));
    expect(done.map(({ first, last, count }) => [first, last, count])).toEqual([
      [name(4), name(5), 2],
      [name(6), name(6), 1],
    ]);
  });

  it('F2: twice has the effect of once', async () => {
    inPgWal(SEGMENT, makeWal(SEGMENT));
    const first = await repair(damage('missing', SEGMENT));
    const before = await contents();
    expect(await repair(damage('missing', SEGMENT))).toEqual(first);
    expect(await contents()).toEqual(before);
    expect(alerts).toHaveLength(1);
  });

  it('what waits to be archived is no hole', async () => {
    inPgWal(SEGMENT, makeWal(SEGMENT));
    mark(SEGMENT, 'ready');
    expect(await repair(damage('missing', SEGMENT))).toMatchObject([{ outcome: 'pending', first: SEGMENT }]);
    expect(await archived(SEGMENT)).toEqual([]);
  });

  test.for<{ why: string; bytes: Uint8Array; says: RegExp; more?: () => void }>([
    {
      why: 'it is being written, also where a standby has marked it as done',
      bytes: makeWal(SEGMENT, { isSwitched: false }),
      says: /being written/,
      more: () => mark(SEGMENT, 'done'),
    },
    { why: 'nothing shows that it is finished', bytes: makeSegment(SEGMENT), says: /nothing shows/ },
    {
      why: 'nothing shows that it is finished: the next file is kept for later use',
      bytes: makeSegment(SEGMENT),
      says: /nothing shows/,
      more: () => inPgWal(name(6), makeSegment(name(1))),
    },
    {
      why: 'it is a file kept for later use',
      bytes: makeWal(SEGMENT, { pageAddress: 0x10_0000n }),
      says: /recycled|begins with the page/,
    },
    { why: 'it is of another cluster', bytes: makeWal(SEGMENT, { systemId: 4711n }), says: /system 4711/ },
    { why: 'it is cut', bytes: makeWal(SEGMENT).subarray(0, 8192), says: /8192 bytes/ },
  ])('A3, A4: is not sent when $why', async ({ bytes, says, more }) => {
    inPgWal(SEGMENT, bytes);
    more?.();
    const before = await contents();
    const [done] = await repair(damage('missing', SEGMENT));
    expect(done).toMatchObject({ outcome: 'refused', first: SEGMENT });
    expect(done?.detail).toMatch(says);
    expect(await contents()).toEqual(before);
    expect(alerts).toEqual([]);
  });

  it('a segment whose records tell nothing counts when PostgreSQL has begun the next one', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    inPgWal(name(6), makeSegment(name(6)));
    expect(await repair(damage('missing', SEGMENT))).toMatchObject([{ outcome: 'repaired' }]);
  });

  it('A7: a history is sent again, too', async () => {
    const history = '1\t0/500000\tno recovery target specified\n';
    inPgWal('00000002.history', history);
    expect(await repair(damage('missing', '00000002.history'))).toMatchObject([{ outcome: 'repaired' }]);
    expect((await archived('00000002.history'))[0]?.bytes.toString()).toBe(history);
  });

  it('what is not here is not named', async () => {
    inPgWal(name(4), makeWal(name(4)));
    expect(await repair(damage('missing', SEGMENT))).toEqual([]);
  });

  it('a store that does not answer is a failure to be tried again, no outcome', async () => {
    inPgWal(SEGMENT, makeWal(SEGMENT));
    const failing = createRepository(faulty(store, [{ on: 'put', does: 'error' }]), 'pg');
    const repairing = repairWal(
      ports({ repository: () => Promise.resolve(failing) }),
      [damage('missing', SEGMENT)],
      {
        signal,
      },
    );
    await expect(repairing).rejects.toMatchObject({ code: 'store-unavailable' });
  });
});

describe('what is damaged', () => {
  const right = makeWal(SEGMENT);
  const flipped = (bytes: Uint8Array, at: number) => {
    const copy = Uint8Array.from(bytes);
    copy[at] = (copy[at] ?? 0) ^ 16;
    return copy;
  };

  test.for<{ why: string; codec: Codec; stored: () => Promise<Uint8Array> | Uint8Array }>([
    {
      why: 'fault 25: a flipped bit, gzip',
      codec: 'gzip',
      stored: async () => flipped(await compressBytes('gzip', right), 3000),
    },
    {
      why: 'fault 25: a flipped bit, zstd',
      codec: 'zstd',
      stored: async () => flipped(await compressBytes('zstd', right), 3000),
    },
    {
      why: 'fault 25: a flipped bit, lz4',
      codec: 'lz4',
      stored: async () => flipped(await compressBytes('lz4', right), 3000),
    },
    {
      why: 'fault 25: a flipped bit in a record of a plain segment',
      codec: 'none',
      stored: () => flipped(right, 20_000),
    },
    { why: 'fault 27: empty', codec: 'zstd', stored: () => new Uint8Array() },
    { why: 'fault 27: an empty plain object', codec: 'none', stored: () => new Uint8Array() },
    {
      why: 'fault 27: cut',
      codec: 'gzip',
      stored: async () => (await compressBytes('gzip', right)).subarray(0, 500),
    },
    { why: 'fault 27: a cut plain object', codec: 'none', stored: () => right.subarray(0, MiB / 2) },
    {
      why: 'the content of another segment',
      codec: 'zstd',
      stored: () => compressBytes('zstd', makeWal(name(6))),
    },
    { why: 'no WAL at all', codec: 'zstd', stored: () => compressBytes('zstd', new Uint8Array(MiB)) },
  ])('A3, $why: contradicts itself, so it is replaced under the same key', async ({ codec, stored }) => {
    inPgWal(SEGMENT, right);
    await put(name(6), makeWal(name(6)));
    await put(SEGMENT, right, codec, await stored());
    const before = pgWal();
    expect(await repair(damage('damaged', SEGMENT))).toMatchObject([
      { outcome: 'repaired', kind: 'damaged' },
    ]);
    const copies = await archived(SEGMENT);
    expect(copies.map(({ key }) => key)).toEqual([walKey('pg', SEGMENT, codec)]);
    expect(Buffer.compare(copies[0]?.bytes ?? Buffer.alloc(0), right)).toBe(0);
    expect(alerts).toEqual([expect.stringMatching(/was damaged in the archive and was replaced/)]);
    expect(pgWal()).toEqual(before);
    const after = await contents();
    expect(await repair(damage('damaged', SEGMENT))).toMatchObject([{ outcome: 'repaired' }]);
    expect(await contents()).toEqual(after);
  });

  test.for<{ why: string; stored: Uint8Array; says: RegExp }>([
    {
      why: 'fault 28: whole WAL of another cluster',
      stored: makeWal(SEGMENT, { systemId: 4711n }),
      says: /left as it is.*4711/,
    },
    {
      why: 'whole WAL of another cluster, of a version nobody knows yet',
      stored: makeWal(SEGMENT, { systemId: 4711n, magic: 0xd1ff }),
      says: /left as it is/,
    },
    { why: 'whole, and merely other bytes', stored: makeWal(SEGMENT, { seed: 9 }), says: /has other bytes/ },
    {
      why: 'whole WAL of another segment size',
      stored: makeSegment(SEGMENT, { segmentSize: 2 * MiB, pageAddress: 0xa0_0000n }),
      says: /left as it is/,
    },
  ])('A3, $why: is never replaced', async ({ stored, says }) => {
    inPgWal(SEGMENT, right);
    await put(name(6), makeWal(name(6)));
    await put(SEGMENT, stored);
    const before = await contents();
    const [done] = await repair(damage('damaged', SEGMENT));
    expect(done).toMatchObject({ outcome: 'refused' });
    expect(done?.detail).toMatch(says);
    expect(await contents()).toEqual(before);
    expect(alerts).toEqual([]);
  });

  it('A3: one whole copy of other bytes forbids to replace the damaged one beside it', async () => {
    inPgWal(SEGMENT, right);
    await put(SEGMENT, right, 'gzip', Buffer.from('damaged'));
    await put(SEGMENT, makeWal(SEGMENT, { seed: 9 }), 'zstd');
    const before = await contents();
    expect(await repair(damage('damaged', SEGMENT))).toMatchObject([{ outcome: 'refused' }]);
    expect(await contents()).toEqual(before);
  });

  it('A3: beside an equal whole copy the damaged one is replaced', async () => {
    inPgWal(SEGMENT, right);
    await put(SEGMENT, right, 'gzip', Buffer.from('damaged'));
    await put(SEGMENT, right, 'zstd');
    expect(await repair(damage('damaged', SEGMENT))).toMatchObject([{ outcome: 'repaired' }]);
    expect((await archived(SEGMENT)).map(({ bytes }) => Buffer.compare(bytes, right))).toEqual([0, 0]);
  });

  it('A3, A4: a file that is not right here replaces nothing', async () => {
    await put(SEGMENT, right, 'zstd', Buffer.from('damaged'));
    const before = await contents();
    for (const bytes of [
      makeWal(SEGMENT, { isSwitched: false }),
      makeWal(SEGMENT, { systemId: 4711n }),
      right.subarray(0, 8192),
    ]) {
      inPgWal(SEGMENT, bytes);
      expect(await repair(damage('damaged', SEGMENT))).toMatchObject([{ outcome: 'refused' }]);
    }
    expect(await contents()).toEqual(before);
  });

  it('what was damaged and is gone now is created', async () => {
    inPgWal(SEGMENT, right);
    expect(await repair(damage('damaged', SEGMENT))).toMatchObject([{ outcome: 'repaired' }]);
    expect(await archived(SEGMENT)).toHaveLength(1);
  });

  it('A7: an undecodable history is replaced, one that reads well never', async () => {
    const history = '1\t0/500000\tno recovery target specified\n';
    inPgWal('00000002.history', history);
    await put('00000002.history', Buffer.from(history), 'gzip', Buffer.from('damaged'));
    expect(await repair(damage('damaged', '00000002.history'))).toMatchObject([{ outcome: 'repaired' }]);
    expect((await archived('00000002.history'))[0]?.bytes.toString()).toBe(history);
    await put('00000002.history', Buffer.from('1\t0/400000\tother\n'), 'gzip');
    expect(await repair(damage('damaged', '00000002.history'))).toMatchObject([{ outcome: 'refused' }]);
  });
});
