import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeEach, describe, expect, it, test } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { createArchiveMemory, pushWal, type ArchivePorts } from '../../operations/archive-wal.ts';
import { createRepository } from '../../repository/repository.ts';
import { findWal, readWal } from '../../repository/wal.ts';
import { faulty, type Fault } from '../../stores/faulty.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { compressBytes, CODEC_SUFFIX, type Codec } from '../../streams/codec.ts';
import { makeTempDir } from '../support/temp.ts';
import { makeSegment, SYSTEM_ID } from '../support/wal-bytes.ts';

const MiB = 1024 * 1024;
const CODECS = Object.keys(CODEC_SUFFIX) as Codec[];
const SEGMENT = '000000010000000000000007';
const { signal } = new AbortController();

let pgWalDirectory: string;
let store: ObjectStore;

beforeEach(() => {
  pgWalDirectory = join(makeTempDir('push'), 'pg_wal');
  mkdirSync(join(pgWalDirectory, 'archive_status'), { recursive: true });
  store = createMemoryStore();
});

function ports(overrides: Partial<ArchivePorts> & { store?: ObjectStore } = {}): ArchivePorts {
  const repository = createRepository(overrides.store ?? store, 'pg');
  return {
    repository: () => Promise.resolve(repository),
    pgWalDirectory,
    codec: 'zstd',
    identity: () => Promise.resolve({ systemId: SYSTEM_ID.toString(), segmentSize: MiB }),
    ...overrides,
  };
}

const inPgWal = (name: string, bytes: Uint8Array | string) =>
  writeFileSync(join(pgWalDirectory, name), bytes);
const push = (name: string, overrides: Parameters<typeof ports>[0] = {}) =>
  pushWal(ports(overrides), name, { signal });

/** All that is stored, to be compared. */
async function contents(of: ObjectStore = store): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for await (const { key } of of.list('', { signal })) {
    const hash: Buffer[] = [];
    for await (const piece of (await of.get(key, { signal })) ?? []) hash.push(Buffer.from(piece));
    found[key] = Buffer.concat(hash).toString('base64');
  }
  return found;
}

async function archived(name: string): Promise<Uint8Array[]> {
  const repository = createRepository(store, 'pg');
  const found = await findWal(repository, name, signal);
  return Promise.all(found.map((object) => readWal(repository, object, 64 * MiB, signal)));
}

const backupLabel = (name: string, note: string) =>
  `START WAL LOCATION: 0/700028 (file ${name.slice(0, 24)})\nSTOP WAL LOCATION: 0/700100 (file ${name.slice(0, 24)})\nLABEL: ${note}\n`;

/** One file of each kind, and how to make its bytes differ. */
const KINDS = [
  { kind: 'segment', name: SEGMENT, bytes: (seed: number) => makeSegment(SEGMENT, { seed }) },
  { kind: 'partial', name: `${SEGMENT}.partial`, bytes: (seed: number) => makeSegment(SEGMENT, { seed }) },
  {
    kind: 'history',
    name: '00000003.history',
    bytes: (seed: number) => Buffer.from(`1\t0/300000${seed}\tno recovery target specified\n`),
  },
  {
    kind: 'backup',
    name: `${SEGMENT}.00000028.backup`,
    bytes: (seed: number) => Buffer.from(backupLabel(SEGMENT, `label ${seed}`)),
  },
] as const;

describe('pushWal', () => {
  test.for(CODECS)('A1, E1: what it confirmed is in the archive, whole, as %s', async (codec) => {
    for (const { name, bytes } of KINDS) {
      inPgWal(name, bytes(1));
      const pushed = await push(name, { codec });
      expect(pushed).toMatchObject({ outcome: 'archived', plainBytes: bytes(1).length });
      expect((await archived(name)).map((found) => Buffer.compare(found, bytes(1)))).toEqual([0]);
    }
    const suffix = CODEC_SUFFIX[codec];
    expect(Object.keys(await contents()).filter((key) => key.startsWith('pg/wals/'))).toEqual(
      [
        `pg/wals/0000000100000000/${SEGMENT}.00000028.backup${suffix}`,
        `pg/wals/0000000100000000/${SEGMENT}.partial${suffix}`,
        `pg/wals/0000000100000000/${SEGMENT}${suffix}`,
        `pg/wals/00000003.history${suffix}`,
      ].toSorted(),
    );
  });

  const pairs = CODECS.flatMap((first) => CODECS.map((second) => ({ first, second })));

  test.for(pairs)(
    'A2, A3: stored as $first, asked again as $second: equal is confirmed, other refused',
    async ({ first, second }) => {
      for (const { name, bytes } of KINDS) {
        inPgWal(name, bytes(1));
        await push(name, { codec: first });
        const before = await contents();
        expect(await push(name, { codec: second })).toMatchObject({ outcome: 'already-archived' });

        inPgWal(name, bytes(2));
        await expect(push(name, { codec: second })).rejects.toMatchObject({ code: 'wal-conflict' });
        expect(await contents()).toEqual(before);
      }
    },
  );

  it('A3: one byte anywhere in a segment makes it another one', async () => {
    const original = makeSegment(SEGMENT);
    inPgWal(SEGMENT, original);
    await push(SEGMENT);
    const before = await contents();
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 40, max: MiB - 1 }),
        fc.integer({ min: 1, max: 255 }),
        async (at, change) => {
          const changed = Uint8Array.from(original);
          changed[at] = (changed[at] ?? 0) ^ change;
          inPgWal(SEGMENT, changed);
          await expect(push(SEGMENT)).rejects.toMatchObject({ code: 'wal-conflict' });
        },
      ),
      { numRuns: 15 },
    );
    expect(await contents()).toEqual(before);
  });

  it('A3: a second copy under another suffix counts too, when it differs', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await push(SEGMENT, { codec: 'none' });
    const other = await compressBytes('gzip', makeSegment(SEGMENT, { seed: 5 }));
    await store.put(`pg/wals/0000000100000000/${SEGMENT}.gz`, other, { signal });
    await expect(push(SEGMENT, { codec: 'none' })).rejects.toMatchObject({ code: 'wal-conflict' });
  });

  it('A3: a damaged copy is neither confirmed nor replaced', async () => {
    inPgWal('000000010000000000000006', makeSegment('000000010000000000000006'));
    await push('000000010000000000000006');
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await store.put(`pg/wals/0000000100000000/${SEGMENT}.zst`, Buffer.from('damaged'), { signal });
    await expect(push(SEGMENT)).rejects.toMatchObject({ code: 'object-damaged' });
    expect((await contents())[`pg/wals/0000000100000000/${SEGMENT}.zst`]).toBe(
      Buffer.from('damaged').toString('base64'),
    );
  });

  it('A3: of two that push other bytes at once, one is confirmed and one refused', async () => {
    const other = join(makeTempDir('push'), 'pg_wal');
    mkdirSync(other);
    inPgWal(SEGMENT, makeSegment(SEGMENT, { seed: 1 }));
    writeFileSync(join(other, SEGMENT), makeSegment(SEGMENT, { seed: 2 }));
    const results = await Promise.allSettled([push(SEGMENT), push(SEGMENT, { pgWalDirectory: other })]);
    expect(results.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    expect(await archived(SEGMENT)).toHaveLength(1);
  });

  it('E3, A3: on a store without create-if-absent a rival that wrote over it is noticed', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    const overwriting: ObjectStore = {
      ...store,
      features: { ...store.features, ifAbsent: false },
      put: async (key, body, options) => {
        const done = await store.put(key, body, { ...options, ifAbsent: false });
        const rival = makeSegment(SEGMENT, { seed: 3 });
        if (key.includes('/wals/')) await store.put(key, rival, { signal });
        return done;
      },
    };
    const pushing = push(SEGMENT, { store: overwriting, codec: 'none' });
    await expect(pushing).rejects.toMatchObject({ code: 'wal-conflict' });
  });

  it('A2: of two that push equal bytes at once, both are confirmed', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await expect(Promise.all([push(SEGMENT), push(SEGMENT)])).resolves.toHaveLength(2);
  });
});

describe('pushWal and the files of pg_wal', () => {
  test.for([
    '',
    '.',
    '..',
    '../x',
    'a/b',
    'RECOVERYXLOG',
    `${SEGMENT}.gz`,
    '00000001000000000000000a',
    `${SEGMENT}\n`,
    '00000001.history.x',
  ])('A4, S2: "%s" is not archived', async (name) => {
    await expect(push(name)).rejects.toMatchObject({ code: 'format-invalid' });
    expect(await contents()).toEqual({});
  });

  it('S2: a link is not followed', async () => {
    const elsewhere = join(makeTempDir('push'), 'secret');
    writeFileSync(elsewhere, makeSegment(SEGMENT));
    symlinkSync(elsewhere, join(pgWalDirectory, SEGMENT));
    await expect(push(SEGMENT)).rejects.toMatchObject({
      code: 'format-invalid',
      message: expect.stringContaining('link'),
    });
  });

  it('S2: a pipe or directory is refused, and nobody waits for it', async () => {
    execFileSync('mkfifo', [join(pgWalDirectory, SEGMENT)]);
    mkdirSync(join(pgWalDirectory, '000000010000000000000008'));
    await expect(push(SEGMENT)).rejects.toMatchObject({ code: 'format-invalid' });
    await expect(push('000000010000000000000008')).rejects.toMatchObject({ code: 'format-invalid' });
  });

  it('A5: a file that is not there is a failure that names it', async () => {
    await expect(push(SEGMENT)).rejects.toMatchObject({
      code: 'wal-missing',
      message: expect.stringContaining(SEGMENT),
    });
  });

  test.for([
    { why: 'cut short', bytes: makeSegment(SEGMENT).subarray(0, MiB - 1) },
    { why: 'half a segment', bytes: makeSegment(SEGMENT, { segmentSize: 2 * MiB }).subarray(0, MiB) },
    { why: 'empty', bytes: new Uint8Array() },
    { why: 'zeros', bytes: new Uint8Array(MiB) },
    { why: 'another segment', bytes: makeSegment('000000010000000000000008') },
    { why: 'of a later timeline', bytes: makeSegment(SEGMENT, { timeline: 9 }) },
  ])('A4: a segment that is $why is refused before the store is touched', async ({ bytes }) => {
    for (const name of [SEGMENT, `${SEGMENT}.partial`]) {
      inPgWal(name, bytes);
      await expect(push(name)).rejects.toMatchObject({ code: 'format-invalid' });
    }
    expect(await contents()).toEqual({});
  });

  test.for([
    { name: '00000002.history', text: 'nonsense\n' },
    { name: '00000002.history', text: '' },
    { name: '00000002.history', text: '# only a remark\n' },
    { name: '00000002.history', text: '2\t0/3000000\tits own ancestor\n' },
    { name: '00000001.history', text: '1\t0/3000000\tx\n' },
    { name: `${SEGMENT}.00000028.backup`, text: 'nonsense' },
    {
      name: `${SEGMENT}.00000028.backup`,
      text: backupLabel('000000010000000000000008', 'of another segment'),
    },
  ])('A4: $name with "$text" is refused', async ({ name, text }) => {
    inPgWal(name, text);
    await expect(push(name)).rejects.toMatchObject({ code: 'format-invalid' });
    expect(await contents()).toEqual({});
  });

  it('A8: nothing in pg_wal is created, renamed, changed or removed', async () => {
    for (const { name, bytes } of KINDS) inPgWal(name, bytes(1));
    writeFileSync(join(pgWalDirectory, 'archive_status', `${SEGMENT}.ready`), '');
    const before = snapshot(pgWalDirectory);
    for (const { name } of KINDS) await push(name);
    inPgWal('00000003.history', KINDS[2].bytes(2));
    const changed = snapshot(pgWalDirectory);
    await push('00000003.history').catch(() => undefined);
    expect(snapshot(pgWalDirectory)).toEqual(changed);
    expect(changed.map(({ name }) => name)).toEqual(before.map(({ name }) => name));
  });
});

function snapshot(directory: string): { name: string; ino: number; mtimeMs: number; content: string }[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .map((entry) => join(entry.parentPath, entry.name))
    .toSorted()
    .map((name) => {
      const { ino, mtimeMs } = statSync(name);
      const isFile = statSync(name).isFile();
      return { name, ino, mtimeMs, content: isFile ? readFileSync(name).toString('base64') : '' };
    });
}

describe('pushWal and whose archive it is', () => {
  const foreign = makeSegment(SEGMENT, { systemId: 42n });

  it('A4: the first contact makes it this cluster’s, and WAL of another is refused from then on', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await push(SEGMENT);
    const next = '000000010000000000000008';
    inPgWal(next, makeSegment(next, { systemId: 42n }));
    const before = await contents();
    await expect(push(next)).rejects.toMatchObject({
      code: 'wal-foreign',
      message: expect.stringContaining('42'),
    });
    expect(await contents()).toEqual(before);
  });

  it('A4: histories and backup labels of another data directory are refused too', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await push(SEGMENT);
    const identity = () => Promise.resolve({ systemId: '42', segmentSize: MiB });
    for (const { name, bytes } of [KINDS[2], KINDS[3]]) {
      inPgWal(name, bytes(1));
      await expect(push(name, { identity })).rejects.toMatchObject({ code: 'wal-foreign' });
    }
  });

  it('A4: a segment size that changed is another cluster', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await push(SEGMENT);
    const next = '000000010000000000000008';
    inPgWal(next, makeSegment(next, { segmentSize: 2 * MiB }));
    await expect(push(next)).rejects.toMatchObject({ code: 'wal-foreign' });
  });

  test.for(CODECS)(
    'A4: in a repository without an owner record, its %s WAL says whose it is',
    async (codec) => {
      const stored = await compressBytes(codec, foreign);
      await store.put(`pg/wals/0000000100000000/${SEGMENT}${CODEC_SUFFIX[codec]}`, stored, { signal });
      const before = await contents();
      const next = '000000010000000000000008';
      inPgWal(next, makeSegment(next));
      await expect(push(next)).rejects.toMatchObject({ code: 'wal-foreign' });
      expect(await contents()).toEqual(before);
    },
  );

  it('A4: the same system on a descendant timeline goes on, whatever the archive holds', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await push(SEGMENT);
    const child = '000000020000000000000007';
    inPgWal('00000002.history', '1\t0/780000\tno recovery target specified\n');
    inPgWal(child, makeSegment(child, { timeline: 1 }));
    expect(await push(child)).toMatchObject({ outcome: 'archived' });
    const later = '000000020000000000000008';
    inPgWal(later, makeSegment(later));
    expect(await push(later)).toMatchObject({ outcome: 'archived' });
  });

  it('A4: of two clusters that come first at once, one gets the archive', async () => {
    const other = join(makeTempDir('push'), 'pg_wal');
    mkdirSync(other);
    const next = '000000010000000000000008';
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    writeFileSync(join(other, next), makeSegment(next, { systemId: 42n }));
    const results = await Promise.allSettled([push(SEGMENT), push(next, { pgWalDirectory: other })]);
    expect(results.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    const again = await Promise.allSettled([push(SEGMENT), push(next, { pgWalDirectory: other })]);
    expect(again.map(({ status }) => status)).toEqual(results.map(({ status }) => status));
  });
});

describe('pushWal and timelines', () => {
  const child = '000000020000000000000008';
  const history = '1\t0/780000\tno recovery target specified\n';

  /** The store, and the order in which WAL was put into it. */
  function recording(): { store: ObjectStore; puts: string[] } {
    const puts: string[] = [];
    const recorded: ObjectStore = {
      ...store,
      put: (key, body, options) => {
        if (key.includes('/wals/')) puts.push(key.slice(key.lastIndexOf('/') + 1));
        return store.put(key, body, options);
      },
    };
    return { store: recorded, puts };
  }

  it('A7: the history of a timeline is stored before its first segment is confirmed', async () => {
    inPgWal('00000002.history', history);
    for (const name of [child, `${child}.partial`]) inPgWal(name, makeSegment(child));
    const { store: recorded, puts } = recording();
    await push(child, { store: recorded, codec: 'none' });
    expect(puts).toEqual(['00000002.history', child]);
  });

  it('A7: a segment waits when its history can not be stored, and goes on when it can', async () => {
    inPgWal('00000002.history', history);
    inPgWal(child, makeSegment(child));
    const broken = faulty(store, [
      { on: 'put', matching: 'history', nth: 2, does: 'error', code: 'store-full' },
    ]);
    const memory = createArchiveMemory();
    await expect(push(child, { store: broken, memory })).rejects.toMatchObject({ code: 'store-full' });
    expect(await archived(child)).toEqual([]);
    expect(await push(child, { memory })).toMatchObject({ outcome: 'archived' });
    expect(await archived('00000002.history')).toHaveLength(1);
  });

  it('A5: the failure of another file’s try to store the history is not the answer for this one', async () => {
    inPgWal('00000002.history', history);
    const next = '000000020000000000000009';
    for (const name of [child, next]) inPgWal(name, makeSegment(name));
    const memory = createArchiveMemory();
    const fails: ((error: unknown) => void)[] = [];
    const stalling: ObjectStore = {
      ...store,
      put: (key, body, options) =>
        key.includes('history')
          ? new Promise((_, reject) => void fails.push(reject))
          : store.put(key, body, options),
    };
    const first = push(child, { store: stalling, memory });
    while (fails.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    const second = push(next, { memory });
    await new Promise((resolve) => setTimeout(resolve, 100));
    fails[0]?.(new BackupError('store-full', 'no room'));
    await expect(first).rejects.toMatchObject({ code: 'store-full' });
    expect(await second).toMatchObject({ outcome: 'archived' });
    expect(await archived('00000002.history')).toHaveLength(1);
  });

  it('A7: with another history of this timeline in the archive, its segments are refused', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await push(SEGMENT);
    await store.put('pg/wals/00000002.history', Buffer.from('1\t0/790000\tanother promotion\n'), { signal });
    inPgWal('00000002.history', history);
    inPgWal(child, makeSegment(child));
    await expect(push(child)).rejects.toMatchObject({ code: 'wal-conflict' });
    expect(await archived(child)).toEqual([]);
  });

  it('A7: a history that only the archive has is enough', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await push(SEGMENT);
    await store.put('pg/wals/00000002.history', Buffer.from(history), { signal });
    inPgWal(child, makeSegment(child));
    expect(await push(child)).toMatchObject({ outcome: 'archived' });
    // and it is believed: a page of timeline 1 does not belong behind the switch
    const wrong = '000000020000000000000009';
    inPgWal(wrong, makeSegment(wrong, { timeline: 1 }));
    await expect(push(wrong)).rejects.toMatchObject({ code: 'format-invalid' });
  });

  it('A7: a timeline without any history goes on: PostgreSQL decides what it archives', async () => {
    inPgWal(child, makeSegment(child));
    expect(await push(child)).toMatchObject({ outcome: 'archived' });
  });

  it('A4: timelines are hexadecimal', async () => {
    const tenth = '0000000A0000000000000008';
    inPgWal('0000000A.history', '9\t0/780000\tx\n');
    inPgWal(tenth, makeSegment(tenth));
    const { store: recorded, puts } = recording();
    await push(tenth, { store: recorded, codec: 'none' });
    expect(puts).toEqual(['0000000A.history', tenth]);
  });
});

describe('pushWal and a store that fails', () => {
  beforeEach(() => inPgWal(SEGMENT, makeSegment(SEGMENT)));
  const broken = (...plan: Fault[]) => faulty(store, plan);

  test.for(['put', 'list', 'get', 'head'] as const)(
    'A5: a stalled %s ends at the deadline, and the next call succeeds',
    async (on) => {
      if (on === 'list') await push(SEGMENT);
      const begin = performance.now();
      const stalled = push(SEGMENT, {
        store: broken({ on, does: 'stall', ...(on === 'list' && { matching: SEGMENT }) }),
        deadlineMs: 150,
      });
      await expect(stalled).rejects.toMatchObject({
        code: 'deadline-exceeded',
        message: expect.stringContaining(SEGMENT),
      });
      expect(performance.now() - begin).toBeLessThan(2_000);
      expect(await push(SEGMENT)).toHaveProperty('outcome');
      expect(await archived(SEGMENT)).toHaveLength(1);
    },
  );

  it('A5: a store that ignores the signal does not hold the answer', async () => {
    const deaf: ObjectStore = { ...store, put: () => new Promise(() => undefined) };
    await expect(push(SEGMENT, { store: deaf, deadlineMs: 150 })).rejects.toMatchObject({
      code: 'deadline-exceeded',
    });
  });

  it('A5: a caller that gives up gets its own reason', async () => {
    const controller = new AbortController();
    const pushing = pushWal(ports({ store: broken({ on: 'put', does: 'stall' }) }), SEGMENT, {
      signal: controller.signal,
    });
    controller.abort(new Error('the worker stops'));
    await expect(pushing).rejects.toThrow('the worker stops');
  });

  test.for(['store-unavailable', 'store-full', 'access-denied', 'bucket-missing'] as const)(
    'A1: %s is passed on, and heals',
    async (code) => {
      const memory = createArchiveMemory();
      const failing = push(SEGMENT, {
        store: broken({ on: 'put', matching: 'wals', does: 'error', code }),
        memory,
      });
      await expect(failing).rejects.toMatchObject({ code });
      expect(await archived(SEGMENT)).toEqual([]);
      expect(await push(SEGMENT, { memory })).toMatchObject({ outcome: 'archived' });
    },
  );

  it('A2: stored, but the answer was lost: the next call confirms', async () => {
    const lost = push(SEGMENT, { store: broken({ on: 'put', matching: 'wals', does: 'lost-answer' }) });
    await expect(lost).rejects.toMatchObject({ code: 'store-unavailable' });
    expect(await push(SEGMENT)).toMatchObject({ outcome: 'already-archived' });
  });

  it('A1: an object that the store confirmed and cut is not confirmed', async () => {
    const cutting: ObjectStore = {
      ...store,
      put: async (key, body, options) => {
        const cut = key.includes('/wals/') && body instanceof Uint8Array ? body.subarray(0, 100) : body;
        await store.put(key, cut, { signal: options.signal });
        return { sizeBytes: body instanceof Uint8Array ? body.length : 0 };
      },
    };
    await expect(push(SEGMENT, { store: cutting })).rejects.toMatchObject({ code: 'store-unavailable' });
  });

  it('A1: an object that the store confirmed and lost is not confirmed', async () => {
    const losing: ObjectStore = { ...store, put: async () => ({ sizeBytes: 1 }) };
    await expect(push(SEGMENT, { store: losing })).rejects.toBeDefined();
  });

  it('A1: in a directory, what a killed writer left visible is synced before it is confirmed', async () => {
    const directory = createFilesystemStore(makeTempDir('directory'));
    expect(await push(SEGMENT, { store: directory })).toMatchObject({ outcome: 'archived' });
    const synced: string[] = [];
    const watched: ObjectStore = {
      ...directory,
      makeDurable: async (key, options) => {
        await directory.makeDurable?.(key, options);
        synced.push(key);
      },
    };
    expect(await push(SEGMENT, { store: watched })).toMatchObject({ outcome: 'already-archived' });
    expect(synced).toEqual([`pg/wals/0000000100000000/${SEGMENT}.zst`]);
    const failing: ObjectStore = {
      ...directory,
      makeDurable: () => Promise.reject(new BackupError('store-unavailable', 'EIO')),
    };
    await expect(push(SEGMENT, { store: failing })).rejects.toMatchObject({ code: 'store-unavailable' });
  });

  it('D3: a failing look-up is not taken for "nothing there"', async () => {
    inPgWal(SEGMENT, makeSegment(SEGMENT));
    await push(SEGMENT, { codec: 'gzip' });
    inPgWal(SEGMENT, makeSegment(SEGMENT, { seed: 2 }));
    const failing = push(SEGMENT, { store: broken({ on: 'list', does: 'cut' }) });
    await expect(failing).rejects.toMatchObject({ code: 'store-unavailable' });
    expect(await archived(SEGMENT)).toHaveLength(1);
  });
});
