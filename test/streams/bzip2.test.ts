import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it, test } from 'vitest';
import { sortRotations } from '../../streams/bzip2/burrows-wheeler.ts';
import { suffixArray } from '../../streams/bzip2/suffix-array.ts';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import { compress, compressBytes, decompress, decompressBytes } from '../../streams/codec.ts';
import { hasProgram as isHere, output } from '../repository/programs.ts';
import { makeTempDir } from '../support/temp.ts';

const signal = new AbortController().signal;
const MiB = 1024 * 1024;

/** The C program, where this host has it. */
const PROGRAM = 'bzip2';
const hasProgram = spawnSync(PROGRAM, ['--version']).status === 0;
if (!hasProgram) console.warn(`skipped: no ${PROGRAM} on this host`);

/** Few letters, so that much is the same. */
const text = fc
  .integer({ min: 1, max: 4 })
  .chain((letters) => fc.uint8Array({ minLength: 1, maxLength: 60, max: letters }));

it('suffixes are in their order', () => {
  fc.assert(
    fc.property(text, (bytes) => {
      const starts = Array.from(bytes.keys());
      const sorted = starts.toSorted((a, b) => Buffer.compare(bytes.subarray(a), bytes.subarray(b)));
      expect([...suffixArray(bytes, bytes.length, 256)]).toEqual(sorted);
    }),
    { numRuns: 2000 },
  );
});

it('rotations are in their order, also of what repeats itself', () => {
  fc.assert(
    fc.property(text, fc.integer({ min: 1, max: 4 }), (once, times) => {
      const bytes = Buffer.concat(Array.from({ length: times }, () => once));
      const rotation = (start: number) => Buffer.concat([bytes.subarray(start), bytes.subarray(0, start)]);
      const rows = Array.from(bytes.keys(), rotation).toSorted((a, b) => Buffer.compare(a, b));
      const { lastColumn, originRow } = sortRotations(bytes);
      expect([...lastColumn]).toEqual(rows.map((row) => row.at(-1)));
      expect(rows[originRow]).toEqual(bytes);
    }),
    { numRuns: 1000 },
  );
});

test.for([
  {
    what: 'runs of every length up to 600',
    plain: Buffer.concat(Array.from({ length: 600 }, (_, n) => Buffer.alloc(n, n))),
  },
  { what: 'one run over three blocks', plain: Buffer.alloc(15 * MiB, 7) },
  { what: 'a block of two letters', plain: Buffer.alloc(1_000_000, 'ab') },
  { what: 'noise over three blocks', plain: randomBytes(250_000) },
])('E1, E5: $what: out = in, and the program of the host reads it', async ({ plain }) => {
  const packed = await compressBytes('bzip2', plain, 1);
  expect(plain.equals(await decompressBytes('bzip2', packed, plain.length))).toBe(true);
  if (!hasProgram) return;
  const back = execFileSync(PROGRAM, ['-dc'], { input: packed, maxBuffer: plain.length + 1 });
  expect(back.equals(plain)).toBe(true);
});

test.runIf(hasProgram)('is as small as what the program of the host makes, at each level', async () => {
  const plain = Buffer.from(
    Array.from({ length: 60_000 }, (_, n) => `${n}\t${(n * 7919) % 10007}\n`).join(''),
  );
  for (const level of [1, 5, 9]) {
    const packed = await compressBytes('bzip2', plain, level);
    const theirs = execFileSync(PROGRAM, [`-${level}`, '-c'], { input: plain, maxBuffer: plain.length });
    expect(packed.length).toBeLessThan(theirs.length * 1.03);
    expect(Buffer.from(packed.subarray(0, 4)).toString()).toBe(`BZh${level}`);
  }
});

it('E2: a flipped bit anywhere in small streams never gives other bytes', async () => {
  for (const plain of [Buffer.from('a'), Buffer.from('hello, hello, hello'), Buffer.alloc(1000, 'ab')]) {
    const packed = await compressBytes('bzip2', plain);
    for (let bit = 0; bit < packed.length * 8; bit++) {
      const bad = Buffer.from(packed);
      bad[bit >> 3] = (bad[bit >> 3] as number) ^ (1 << (bit & 7));
      const got = await decompressBytes('bzip2', bad, 10_000_000).catch((error: unknown) => error);
      // the level in the head and the filling behind the end touch nothing
      if (got instanceof Uint8Array) expect(Buffer.from(got).equals(plain), `bit ${bit}`).toBe(true);
      else expect(got).toMatchObject({ code: 'object-damaged' });
    }
  }
});

it('E2: a block of the randomised kind is refused by name', async () => {
  const packed = Buffer.from(await compressBytes('bzip2', Buffer.from('hello')));
  // the bit behind the stream's head, the mark and the checksum of the block
  packed[14] = (packed[14] as number) | 0x80;
  await expect(decompressBytes('bzip2', packed, 100)).rejects.toMatchObject({
    code: 'object-damaged',
    message: expect.stringContaining('randomised'),
  });
});

it('S2: a bomb comes in pieces of 64 KiB', async () => {
  const packed = await collectBytes(compress('bzip2', piecesOf(Buffer.alloc(50 * MiB)), { signal }), 10_000);
  let sizeBytes = 0;
  for await (const piece of decompress('bzip2', piecesOf(packed), { signal })) {
    expect(piece.length).toBeLessThanOrEqual(65_536);
    sizeBytes += piece.length;
  }
  expect(sizeBytes).toBe(50 * MiB);
});

/** The words a, ab, aba, abaab, …: the longest matches that a text without a period can have. */
function fibonacci(sizeBytes: number): Buffer {
  let [before, word] = ['b', 'a'];
  while (word.length < sizeBytes) [before, word] = [word, word + before];
  return Buffer.from(word.slice(0, sizeBytes));
}

/** What other ways of sorting need minutes for. */
const PERIODIC: Readonly<Record<string, (sizeBytes: number) => Buffer>> = {
  zeros: (size) => Buffer.alloc(size),
  abab: (size) => Buffer.alloc(size, 'ab'),
  'aaab, and another end': (size) => Buffer.alloc(size, 'aaab').fill('c', size - 1),
  'a word of Fibonacci': fibonacci,
  'a long period': (size) => Buffer.alloc(size, randomBytes(7919)),
  'noise twice': (size) => Buffer.alloc(size, randomBytes(size >> 1)),
  'all bytes in turn': (size) => Buffer.alloc(size, Buffer.from(Array.from({ length: 256 }, (_, n) => n))),
};

it('a block that repeats itself takes no longer than noise does', async () => {
  const size = 899_000;
  const cpuMs = async (plain: Buffer) => {
    const begin = process.cpuUsage();
    const packed = await compressBytes('bzip2', plain);
    const { user } = process.cpuUsage(begin);
    expect((await decompressBytes('bzip2', packed, size)).length).toBe(size);
    return user / 1000;
  };
  await cpuMs(randomBytes(size));
  const noise = await cpuMs(randomBytes(size));
  for (const [what, make] of Object.entries(PERIODIC))
    expect(await cpuMs(make(size)), what).toBeLessThan(noise * 2 + 200);
});

/** Bits as the format has them, the highest first. */
function bitsOf(...fields: readonly (readonly [bits: number, value: number])[]): Buffer {
  const text = fields.map(([bits, value]) => value.toString(2).padStart(bits, '0')).join('');
  const bytes = text.padEnd(Math.ceil(text.length / 8) * 8, '0').match(/.{8}/g) ?? [];
  return Buffer.from(bytes.map((byte) => Number.parseInt(byte, 2)));
}

it('S2: a code table that does not end is refused before it fills the memory', async () => {
  // up to the first length of a table: magic, mark, checksum, one byte used, two tables, one group, length 5
  const head = [
    [32, 0x425a6839],
    [24, 0x314159],
    [24, 0x265359],
    [57, 0],
    [16, 0x8000],
    [16, 0x8000],
    [3, 2],
    [15, 1],
    [1, 0],
    [5, 5],
  ] as const;
  // one longer, one shorter, and so on
  const steps = Array.from({ length: 2000 }, () => [4, 0b1011] as const);
  let given = 0;
  const source = async function* () {
    yield bitsOf(...head, ...steps);
    for (; given < 1000; given += 1) yield Buffer.alloc(65_536, 0b10111011);
  };
  await expect(
    collectBytes(decompress('bzip2', source(), { signal }), Number.POSITIVE_INFINITY),
  ).rejects.toMatchObject({ code: 'object-damaged', message: expect.stringContaining('does not end') });
  expect(given).toBeLessThan(10);
});

const PYTHON = `
import bz2, os, sys
folder = sys.argv[1]
for name in sorted(os.listdir(folder)):
    if not name.endswith('.plain'): continue
    stem = os.path.join(folder, name[:-6])
    plain = open(stem + '.plain', 'rb').read()
    assert bz2.decompress(open(stem + '.ours', 'rb').read()) == plain, name
    open(stem + '.theirs', 'wb').write(bz2.compress(plain, 1 + int(name.split('-')[0]) % 9))
`;

test.runIf(isHere('python3'))(
  'E1, E5: of hundreds of contents Python reads what we write, and we what Python does',
  async () => {
    const folder = join(makeTempDir('bzip2'), 'f');
    mkdirSync(folder);
    const letters = (size: number, count: number) =>
      Buffer.from(randomBytes(size).map((byte) => byte % count));
    const plainRuns = fc.sample(
      fc.array(fc.tuple(fc.nat(2), fc.oneof(fc.nat(8), fc.integer({ min: 250, max: 262 }))), {
        maxLength: 60,
      }),
      100,
    );
    const plains = [
      ...plainRuns.map((list) => Buffer.concat(list.map(([byte, size]) => Buffer.alloc(size, byte)))),
      ...[1, 2, 3, 5, 49, 50, 51, 199, 200, 201, 599, 600, 1199, 1200, 2399, 2400].flatMap((size) =>
        [1, 2, 3, 256].map((count) => letters(size, count)),
      ),
      ...Object.values(PERIODIC).flatMap((make) => [1000, 99_981, 100_001, 250_000].map(make)),
      // codes as long as they may be
      Buffer.concat(Array.from({ length: 24 }, (_, n) => letters(2 ** Math.min(n, 17), 256).fill(n))),
    ];
    for (const [at, plain] of plains.entries()) {
      writeFileSync(join(folder, `${at}-.plain`), plain);
      writeFileSync(join(folder, `${at}-.ours`), await compressBytes('bzip2', plain, 1 + (at % 9)));
    }
    output('python3', ['-c', PYTHON, folder]);
    for (const [at, plain] of plains.entries()) {
      const theirs = readFileSync(join(folder, `${at}-.theirs`));
      expect(plain.equals(await decompressBytes('bzip2', theirs, plain.length)), `content ${at}`).toBe(true);
    }
  },
);
