import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { appendFileSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { writePart, type PartTask, type WrittenPart } from '../../operations/backup-part.ts';
import { pageChecksum } from '../../postgres/page-checksum.ts';
import { faulty, type Fault } from '../../stores/faulty.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { CODECS, decompressBytes, type Codec } from '../../streams/codec.ts';
import { makeTempDir } from '../support/temp.ts';
import { damagingCodec } from './damaging-codec.ts';

const NEVER = new AbortController().signal;
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** A folder with these files, and the task of storing them. */
function makeTask(files: Record<string, Buffer>, change: Partial<PartTask> = {}): PartTask {
  const root = makeTempDir('part');
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content, { mode: 0o600 });
  }
  return {
    area: 'data',
    name: 'data.tar',
    key: 'data.tar',
    filesKey: 'files.gz',
    root,
    directories: [{ path: '.', mode: 0o700, uid: 0, gid: 0, mtimeMs: 1_700_000_000_500 }],
    files: Object.entries(files).map(([path, { length }]) => ({ path, sizeBytes: length })),
    inline: [],
    codec: 'none',
    ...change,
  };
}

async function stored(store: ObjectStore, key: string): Promise<Buffer> {
  return collectBytes((await store.get(key, { signal: NEVER }))!, 2 ** 31);
}

/** Unpacks with the system's tar. */
async function unpack(store: ObjectStore, { name, codec }: WrittenPart): Promise<string> {
  const tar = await decompressBytes(codec, await stored(store, name), 2 ** 31);
  const directory = makeTempDir('out');
  execFileSync('tar', ['-x', '-p', '-f', '-', '-C', directory], { input: tar });
  return directory;
}

async function write(task: PartTask, store: ObjectStore = createMemoryStore(), onProgress = () => {}) {
  return { store, part: await writePart(store, task, { signal: NEVER, onProgress }) };
}

function page(block: number): Buffer {
  const bytes = Buffer.alloc(8192, block + 1);
  bytes.writeBigUInt64LE(0x1000n << 32n, 0);
  bytes.writeUInt16LE(pageChecksum(bytes, block), 8);
  return bytes;
}

describe('writePart', () => {
  // Around a block of a tar, a page, and the piece that is read at once.
  const sizes = [
    0,
    1,
    511,
    512,
    513,
    8191,
    8192,
    8193,
    256 * 1024 - 512,
    256 * 1024,
    256 * 1024 + 1,
    1_000_003,
  ];
  const files = Object.fromEntries(sizes.map((size, n) => [`d/f${size}`, Buffer.alloc(size, n + 1)]));

  it.for(['none', 'gzip', 'lz4', 'zstd'] as const)(
    'B5: bytes read = hashed = stored = unpacked (%s)',
    async (codec: Codec) => {
      const { store, part } = await write(makeTask(files, { codec }));
      const object = await stored(store, part.name);
      const plain = await decompressBytes(codec, object, 2 ** 31);
      expect(part).toMatchObject({
        storedBytes: object.length,
        storedSha256: sha256(object),
        plainBytes: plain.length,
        plainSha256: sha256(plain),
        files: sizes.length,
        members: sizes.length + 1,
        contentBytes: sizes.reduce((a, b) => a + b, 0),
        damagedPages: 0,
      });
      expect(plain.length % 10240).toBe(0);
      const out = await unpack(store, part);
      const lines = gunzipSync(await stored(store, 'files.gz'))
        .toString()
        .trimEnd()
        .split('\n');
      const manifest = lines.map(
        (line) => JSON.parse(line) as { path: string; sha256: string; sizeBytes: number },
      );
      for (const [path, content] of Object.entries(files)) {
        expect(readFileSync(join(out, path)).equals(content), path).toBe(true);
        expect(manifest).toContainEqual(
          expect.objectContaining({ path, sha256: sha256(content), sizeBytes: content.length }),
        );
      }
    },
  );

  it('begins with the directory itself, with its mode (rule 4)', async () => {
    const { store, part } = await write(makeTask({ a: Buffer.from('x') }));
    const head = (await stored(store, part.name)).subarray(0, 512);
    expect(head.toString('latin1', 0, 3)).toBe('./\0');
    expect(head.toString('latin1', 100, 107)).toBe('0000700');
    expect(head.toString('latin1', 156, 157)).toBe('5');
  });

  it('B5: pages keep their checksums whatever lies before them in the tar, and damage is named with the tablespace', async () => {
    const relation = Buffer.concat(Array.from({ length: 100 }, (_, block) => page(block)));
    const damaged = Buffer.from(relation);
    damaged[77 * 8192 + 5000]! ^= 1;
    const files = {
      odd: Buffer.alloc(777),
      'PG_15_1/5/1': relation,
      small: Buffer.alloc(3),
      'PG_15_1/5/2': damaged,
    };
    const { part } = await write(
      makeTask(files, { area: '16385', pages: { blockSize: 8192, segmentBlocks: 131072 } }),
    );
    expect(part.damage).toEqual(
      [{ path: 'pg_tblspc/16385/PG_15_1/5/2', block: 77, lsn: '0/0' }].map((d) => ({
        ...d,
        lsn: expect.any(String),
      })),
    );
    expect(part.damagedPages).toBe(1);
    const unchecked = await write(makeTask(files, { area: '16385' }));
    expect(unchecked.part.damagedPages).toBe(0);
  });

  it('B4: files that vanish, shrink and grow are normal, and the manifest says what was stored', async () => {
    const big = 3_000_000;
    const task = makeTask({
      gone: Buffer.alloc(10),
      shrinking: Buffer.alloc(big, 1),
      growing: Buffer.alloc(big, 2),
      last: Buffer.from('last'),
    });
    rmSync(join(task.root, 'gone'));
    let begun = false;
    const { store, part } = await write(task, createMemoryStore(), () => {
      if (begun) return;
      begun = true;
      truncateSync(join(task.root, 'shrinking'), 1_000_000);
    });
    appendFileSync(join(task.root, 'growing'), Buffer.alloc(1000, 3));
    const out = await unpack(store, part);
    expect(part.files).toBe(3);
    const shrunk = readFileSync(join(out, 'shrinking'));
    expect(shrunk.length).toBe(big);
    expect([shrunk[0], shrunk[big - 1]]).toEqual([1, 0]);
    expect(readFileSync(join(out, 'last'), 'utf8')).toBe('last');
    expect(gunzipSync(await stored(store, 'files.gz')).toString()).toContain(sha256(shrunk));
  });

  it('B5: a file that can not be read fails the part, naming it', async () => {
    const task = makeTask({ a: Buffer.from('x') });
    mkdirSync(join(task.root, 'd'));
    // A directory in the place of a file is what root can not read.
    const eisdir = {
      ...task,
      files: [
        { path: 'a', sizeBytes: 1 },
        { path: 'a/b', sizeBytes: 1 },
      ],
    };
    await expect(write(eisdir)).rejects.toMatchObject({
      code: 'data-unreadable',
      message: expect.stringContaining('a/b'),
    });
  });

  it.for([
    ['refused', { on: 'put', nth: 1, does: 'error' }],
    ['cut off in the middle', { on: 'put', nth: 1, does: 'lost-answer' }],
  ] as const satisfies [string, Fault][])(
    'a store that fails once (%s): the part is read again, with the same end',
    async ([, fault]) => {
      const store = faulty(createMemoryStore(), [fault]);
      const { part } = await write(makeTask(files, { codec: 'zstd' }), store);
      expect(part.storedSha256).toBe(sha256(await stored(store, part.name)));
      expect(part.files).toBe(sizes.length);
    },
  );

  it.for(CODECS.filter((codec) => codec !== 'none'))(
    'E1: a part that does not decode to what was read is not stored (%s)',
    async (codec) => {
      const store = faulty(createMemoryStore(), []);
      const options = { signal: NEVER, onProgress: () => {}, compress: damagingCodec({ at: 300 }) };
      const writing = writePart(store, makeTask(files, { codec }), options);
      await expect(writing).rejects.toMatchObject({
        code: 'object-damaged',
        message: expect.stringContaining('data.tar'),
      });
      // Once by accident, and not for ever.
      expect(store.calls.put).toBe(2);
      expect(await store.head('data.tar', { signal: NEVER })).toBeUndefined();
      expect(await store.head('files.gz', { signal: NEVER })).toBeUndefined();
    },
  );

  it('E1: a part that was damaged by accident is written anew, and counts', async () => {
    const store = faulty(createMemoryStore(), []);
    const compress = damagingCodec({ at: 300, streams: 1 });
    const task = makeTask(files, { codec: 'zstd' });
    const part = await writePart(store, task, { signal: NEVER, onProgress: () => {}, compress });
    expect(store.calls.put).toBe(3);
    const plain = await decompressBytes('zstd', await stored(store, 'data.tar'), 2 ** 31);
    expect(part.plainSha256).toBe(sha256(plain));
  });

  it('a store that refuses for good fails at once', async () => {
    const store = faulty(createMemoryStore(), [{ on: 'put', does: 'error', code: 'access-denied' }]);
    await expect(write(makeTask(files), store)).rejects.toMatchObject({ code: 'access-denied' });
    expect(store.calls.put).toBe(1);
  });

  it('stops at once when it is no longer wanted, and stores nothing', async () => {
    const store = faulty(createMemoryStore(), [{ on: 'put', does: 'stall' }]);
    const aborted = new AbortController();
    const writing = writePart(store, makeTask(files), { signal: aborted.signal, onProgress: () => {} });
    aborted.abort(new Error('no longer wanted'));
    await expect(writing).rejects.toThrow('no longer wanted');
    expect(await store.head('data.tar', { signal: NEVER })).toBeUndefined();
  });
});
