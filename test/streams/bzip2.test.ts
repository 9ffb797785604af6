import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { expect, it, test } from 'vitest';
import { sortRotations } from '../../streams/bzip2/burrows-wheeler.ts';
import { suffixArray } from '../../streams/bzip2/suffix-array.ts';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import { compress, compressBytes, decompress, decompressBytes } from '../../streams/codec.ts';

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
