import { describe, expect, it, test } from 'vitest';
import { createRepository } from '../../repository/repository.ts';
import { findWal, listWal, putWal, readHistories, readWal, readWalHead } from '../../repository/wal.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { CODECS, compressBytes } from '../../streams/codec.ts';

const { signal } = new AbortController();
const SEGMENT = '000000010000000000000003';

const open = () => createRepository(createMemoryStore(), 'pg');
type Opened = ReturnType<typeof open>;

const store = (r: Opened, keys: Record<string, string | Uint8Array>) =>
  Promise.all(
    Object.entries(keys).map(([key, body]) => r.store.put(key, Buffer.from(body as string), { signal })),
  );

async function names(objects: AsyncIterable<{ fileName: string }>): Promise<string[]> {
  const found: string[] = [];
  for await (const { fileName } of objects) found.push(fileName);
  return found;
}

describe('finding a WAL file', () => {
  it('A3: finds it under every suffix, and nothing that is another file', async () => {
    const r = open();
    const folder = 'pg/wals/0000000100000000';
    const others = [
      `${SEGMENT}.partial`,
      `${SEGMENT}.partial.gz`,
      `${SEGMENT}.00000028.backup.gz`,
      `${SEGMENT}.gz.gz`,
      `${SEGMENT}.zstd`,
      `${SEGMENT}0`,
      `${SEGMENT}.tmp`,
    ];
    const wanted = [
      SEGMENT,
      `${SEGMENT}.bz2`,
      `${SEGMENT}.gz`,
      `${SEGMENT}.lz4`,
      `${SEGMENT}.snappy`,
      `${SEGMENT}.xz`,
      `${SEGMENT}.zst`,
    ];
    await store(r, Object.fromEntries([...others, ...wanted].map((name) => [`${folder}/${name}`, 'x'])));
    const found = await findWal(r, SEGMENT, signal);
    expect(found.map(({ key }) => key)).toEqual(wanted.map((name) => `${folder}/${name}`));
    expect(found.map(({ codec }) => codec)).toEqual(['none', 'bzip2', 'gzip', 'lz4', 'snappy', 'xz', 'zstd']);
    expect(await names(toAsync(await findWal(r, `${SEGMENT}.partial`, signal)))).toHaveLength(2);
    expect(await names(toAsync(await findWal(r, `${SEGMENT}.00000028.backup`, signal)))).toHaveLength(1);
  });

  it('finds history files in the root of the archive', async () => {
    const r = open();
    await store(r, { 'pg/wals/00000002.history.gz': 'x', 'pg/wals/00000003.history': 'x' });
    expect(await findWal(r, '00000002.history', signal)).toMatchObject([
      { codec: 'gzip', file: { kind: 'history', timeline: 2 } },
    ]);
    expect(await findWal(r, '00000004.history', signal)).toEqual([]);
  });

  test.for(['../x', '', '00000001000000000000000a', 'foo'])('S2: the name %j is refused', async (name) => {
    await expect(findWal(open(), name, signal)).rejects.toMatchObject({ code: 'format-invalid' });
  });
});

describe('reading and writing a WAL file', () => {
  const bytes = Buffer.alloc(100_000, 'wal');

  test.for(CODECS)('E1: out is in, by %s', async (codec) => {
    const r = open();
    await putWal(r, SEGMENT, await compressBytes(codec, bytes), codec, { signal });
    const [object] = await findWal(r, SEGMENT, signal);
    expect(object?.codec).toBe(codec);
    expect(bytes.equals(await readWal(r, object!, bytes.length, signal))).toBe(true);
    expect(bytes.subarray(0, 8192).equals(await readWalHead(r, object!, 8192, signal))).toBe(true);
    expect(bytes.equals(await readWalHead(r, object!, 200_000, signal))).toBe(true);
  });

  it('A3: an existing object is never replaced', async () => {
    const r = open();
    await putWal(r, SEGMENT, bytes, 'none', { signal });
    await expect(putWal(r, SEGMENT, bytes, 'none', { signal })).rejects.toMatchObject({
      code: 'already-exists',
    });
  });

  test.for(CODECS)('S2: more than a segment can have is refused, by %s', async (codec) => {
    const r = open();
    await putWal(r, SEGMENT, await compressBytes(codec, Buffer.alloc(400_000)), codec, { signal });
    const [object] = await findWal(r, SEGMENT, signal);
    await expect(readWal(r, object!, 100_000, signal)).rejects.toMatchObject({ code: 'object-damaged' });
  });

  it('E2: a cut object is damaged, a vanished one missing', async () => {
    const r = open();
    const stored = await compressBytes('gzip', bytes);
    await putWal(r, SEGMENT, stored.subarray(0, -1), 'gzip', { signal });
    const [object] = await findWal(r, SEGMENT, signal);
    await expect(readWal(r, object!, bytes.length, signal)).rejects.toMatchObject({
      code: 'object-damaged',
      message: expect.stringContaining(object!.key),
    });
    await r.store.delete([object!.key], { signal });
    await expect(readWal(r, object!, bytes.length, signal)).rejects.toMatchObject({ code: 'object-missing' });
    await expect(readWalHead(r, object!, 10, signal)).rejects.toMatchObject({ code: 'object-missing' });
  });
});

describe('listing the archive', () => {
  const archive = {
    'pg/wals/00000002.history.gz': '1 0/5000000 x\n',
    'pg/wals/0000000100000000/000000010000000000000001.gz': 'x',
    'pg/wals/0000000100000000/000000010000000000000002.gz': 'x',
    'pg/wals/0000000100000000/000000010000000100000002.gz': 'in the wrong folder',
    'pg/wals/0000000100000000/notes.txt': 'x',
    'pg/wals/0000000100000001/000000010000000100000000.partial': 'x',
    'pg/wals/0000000200000001/000000020000000100000000': 'x',
    'pg/wals/incoming/000000010000000000000009': 'x',
    'pg/wals/000000010000000a/00000001000000000000000a': 'x',
  };

  it('gives histories, then folder by folder, and reports what is foreign', async () => {
    const r = open();
    await store(r, archive);
    const foreign: string[] = [];
    expect(await names(listWal(r, signal, { onForeign: (key) => foreign.push(key) }))).toEqual([
      '00000002.history',
      '000000010000000000000001',
      '000000010000000000000002',
      '000000010000000100000000.partial',
      '000000020000000100000000',
    ]);
    expect(foreign.toSorted()).toEqual([
      'pg/wals/0000000100000000/000000010000000100000002.gz',
      'pg/wals/0000000100000000/notes.txt',
      'pg/wals/000000010000000a/',
      'pg/wals/incoming/',
    ]);
  });

  it('begins at the folder it was told', async () => {
    const r = open();
    await store(r, archive);
    const options = { fromFolder: '0000000100000001', withoutHistories: true };
    expect(await names(listWal(r, signal, options))).toEqual([
      '000000010000000100000000.partial',
      '000000020000000100000000',
    ]);
  });

  it('D3: a failing page is an error, never an end', async () => {
    const r = open();
    await store(r, archive);
    const broken = { ...r, store: { ...r.store, list: () => failing() } };
    await expect(names(listWal(broken, signal))).rejects.toThrow('no answer');
  });
});

describe('timeline histories', () => {
  const histories = (r: Opened, ...more: Parameters<typeof readHistories>[2][]) =>
    readHistories(r, signal, ...more);

  it('are read from every timeline, with WAL or just promoted', async () => {
    const r = open();
    await store(r, {
      'pg/wals/0000000100000000/000000010000000000000001': 'x',
      'pg/wals/00000002.history': '1\t0/5000000\tno recovery target specified\n',
      'pg/wals/00000005.history.gz': await compressBytes(
        'gzip',
        Buffer.from('1 0/5000000 a\n2 0/6000000 b\n'),
      ),
      'pg/wals/00000009.history': '1 0/5000000 a\n5 0/7000000 b\n',
      'pg/wals/0000100000000000/000010000000000000000001': 'x',
      'pg/wals/00001000.history': '9 0/8000000 a\n',
    });
    const read = await histories(r);
    expect([...read.keys()].toSorted((a, b) => a - b)).toEqual([2, 5, 9, 4096]);
    expect(read.get(5)).toEqual([
      { timeline: 1, switchedAt: 0x5000000n },
      { timeline: 2, switchedAt: 0x6000000n },
    ]);
  });

  it('S2: a strange timeline does not mean millions of questions', async () => {
    const r = open();
    await store(r, { 'pg/wals/FFFFFFFF00000000/FFFFFFFF0000000000000001': 'x' });
    let questions = 0;
    const counting = {
      ...r,
      store: {
        ...r.store,
        list: (...args: Parameters<typeof r.store.list>) => ((questions += 1), r.store.list(...args)),
      },
    };
    expect((await readHistories(counting, signal)).size).toBe(0);
    expect(questions).toBeLessThan(20);
  });

  test.for([
    ['an empty one', ''],
    ['one that ends with itself', '2 0/5000000 x\n'],
    ['one that goes backwards', '1 0/5000000 x\n1 0/6000000 y\n'],
    ['one that is no history', '<html>'],
    ['one over 1 MiB', ' '.repeat(1024 * 1024 + 1)],
  ])('D1: %s is refused, or reported to who asks', async ([, text]) => {
    const r = open();
    await store(r, {
      'pg/wals/00000002.history': text as string,
      'pg/wals/00000003.history': '1 0/5000000 x\n',
    });
    await expect(histories(r)).rejects.toMatchObject({
      code: 'object-damaged',
      message: expect.stringContaining('00000002.history'),
    });
    const problems: string[] = [];
    const read = await histories(r, (fileName) => problems.push(fileName));
    expect([...read.keys()]).toEqual([3]);
    expect(problems).toEqual(['00000002.history']);
  });

  it('D1: two that contradict each other are refused', async () => {
    const r = open();
    await store(r, {
      'pg/wals/00000002.history': '1 0/5000000 x\n',
      'pg/wals/00000002.history.gz': await compressBytes('gzip', Buffer.from('1 0/6000000 x\n')),
    });
    await expect(histories(r)).rejects.toMatchObject({
      message: expect.stringContaining('different contents'),
    });
  });
});

async function* toAsync<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items;
}

function failing(): AsyncIterable<never> {
  return { [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(new Error('no answer')) }) };
}
