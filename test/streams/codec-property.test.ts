/**
 * E1 over sizes, contents and cuts. Encryption is no dimension of its own here: what walkeep encrypts at rest is asked
 * of the store (`encryption` of a put, a scope of Azure, a key of Google), and its bytes come back as they were.
 * Encryption on this side of the store is no part of this version.
 */
import { createHash, randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { createMemoryStore } from '../../stores/memory.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { CODECS, compress, decompress, type Codec } from '../../streams/codec.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const signal = new AbortController().signal;
vi.setConfig({ testTimeout: 180_000 });

/** Where something ends: blocks of the codecs, parts of the stores, segments. */
const LIMITS = [
  0,
  1,
  64 * KiB,
  // the blocks of bzip2 at its levels 1 and 9, without the spare bytes
  100_000 - 19,
  900_000 - 19,
  256 * KiB,
  MiB,
];
const PARTS = [4 * MiB, 5 * MiB, 8 * MiB, 16 * MiB];

const rows = (size: number) =>
  Buffer.from(
    Array.from({ length: size / 8 + 1 }, (_, n) => `${n}\t${(n * 7919) % 10007}\n`).join(''),
  ).subarray(0, size);
const compressed = (size: number) =>
  Buffer.concat([gzipSync(rows(Math.min(size, 4 * MiB))), randomBytes(size)]).subarray(0, size);
const CONTENTS = {
  zeros: (size: number) => Buffer.alloc(size),
  repeated: (size: number) => Buffer.alloc(size, `${'walkeep'.repeat(7)}\n`),
  rows,
  random: (size: number) => randomBytes(size),
  compressed,
};
type Content = keyof typeof CONTENTS;

const BOMB_MIB = 80;
const isSlow = (codec: Codec) => codec === 'bzip2' || codec === 'xz';
const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

async function* cut(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array, void, void> {
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length] as number;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

/** Pieces as sockets, files and tar writers give them; empty ones are among them. */
const cuts = fc
  .array(fc.oneof(fc.nat(600), fc.constantFrom(512, 4096, 65_536), fc.integer({ min: 1, max: 300_000 })), {
    minLength: 1,
    maxLength: 5,
  })
  .filter((sizes) => sizes.some((size) => size > 500));

const around = (limits: readonly number[]) =>
  fc
    .tuple(fc.constantFrom(...limits), fc.constantFrom(-1, 0, 1))
    .map(([limit, more]) => Math.max(0, limit + more));

describe.each(CODECS)('%s', (codec) => {
  async function roundTrip(plain: Buffer, into: readonly number[], outOf: readonly number[]): Promise<void> {
    const packed = await collectBytes(compress(codec, cut(plain, into), { signal }), plain.length * 2 + 4096);
    const back = await collectBytes(decompress(codec, cut(packed, outOf), { signal }), plain.length);
    expect(hash(back)).toBe(hash(plain));
  }

  it('E1: out = in around every limit, whatever the content and the pieces', async () => {
    const content = fc.constantFrom(...(Object.keys(CONTENTS) as Content[]));
    await fc.assert(
      fc.asyncProperty(around(LIMITS), content, cuts, cuts, async (size, kind, into, outOf) =>
        roundTrip(CONTENTS[kind](size), into, outOf),
      ),
      { numRuns: isSlow(codec) ? 25 : 60 },
    );
  });

  it('E1: out = in around the parts of the stores and the sizes of segments', async () => {
    // what does not compress would take these two many seconds
    const kinds: Content[] = isSlow(codec) ? ['zeros', 'repeated'] : ['zeros', 'rows', 'random'];
    await fc.assert(
      fc.asyncProperty(around(PARTS), fc.constantFrom(...kinds), cuts, async (size, kind, sizes) =>
        roundTrip(CONTENTS[kind](size), [256 * KiB], [...sizes, 65_536]),
      ),
      { numRuns: 6 },
    );
    for (const size of isSlow(codec) ? [64 * MiB - 1] : [64 * MiB - 1, 64 * MiB + 1])
      await roundTrip(Buffer.alloc(size), [MiB], [64 * KiB]);
  });

  it('E1: out = in through a store, its length known or not', async () => {
    const store = createMemoryStore();
    await fc.assert(
      fc.asyncProperty(around(LIMITS.slice(0, 4)), cuts, fc.boolean(), async (size, sizes, isKnown) => {
        const plain = CONTENTS.compressed(size);
        const packed = compress(codec, cut(plain, sizes), { signal });
        const body = isKnown ? await collectBytes(packed, size * 2 + 4096) : packed;
        const encryption = size % 2 === 0 ? 'AES256' : 'aws:kms';
        await store.put('part', body, { signal, encryption });
        const got = await store.get('part', { signal });
        expect(hash(await collectBytes(decompress(codec, got!, { signal }), size))).toBe(hash(plain));
      }),
      { numRuns: 15 },
    );
  });
});

describe.each(CODECS.filter((codec) => codec !== 'none'))('a hostile %s object', (codec) => {
  /** The longest that others on this thread had to wait while `work` was done, in milliseconds. */
  async function longestWait(work: () => Promise<unknown>): Promise<number> {
    let last = performance.now();
    let longest = 0;
    const look = () => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    };
    const timer = setInterval(look, 5);
    try {
      await work();
    } finally {
      look();
      clearInterval(timer);
    }
    return longest;
  }

  it.each([
    ['nothing', Buffer.alloc(0)],
    ['one byte', Buffer.from('x')],
  ])('S2: of thousands of streams of %s holds up nobody, and fills no memory', async (_, plain) => {
    const one = await collectBytes(compress(codec, cut(plain, [1000]), { signal }), 1000);
    const streams = Math.ceil((128 * KiB) / one.length);
    const object = Buffer.concat(Array.from({ length: streams }, () => one));
    const before = process.memoryUsage.rss();
    const wait = await longestWait(async () => {
      const back = await collectBytes(decompress(codec, cut(object, [object.length]), { signal }), streams);
      expect(back.length).toBe(plain.length * streams);
    });
    expect(wait).toBeLessThan(3000);
    expect(process.memoryUsage.rss() - before).toBeLessThan(200 * MiB);
  });

  it('S2: of a bomb no more is unpacked than is taken, in bounded memory', async () => {
    const zeros = async function* () {
      for (let n = 0; n < BOMB_MIB; n++) yield Buffer.alloc(MiB);
    };
    const bomb = await collectBytes(compress(codec, zeros(), { signal }), 20 * MiB);
    const before = process.memoryUsage.rss();
    await expect(
      collectBytes(decompress(codec, cut(bomb, [bomb.length]), { signal }), MiB),
    ).rejects.toMatchObject({ code: 'object-damaged' });
    let sizeBytes = 0;
    for await (const piece of decompress(codec, cut(bomb, [65_536]), { signal })) {
      sizeBytes += piece.length;
      expect(piece.length).toBeLessThanOrEqual(4 * MiB);
    }
    expect(sizeBytes).toBe(BOMB_MIB * MiB);
    expect(process.memoryUsage.rss() - before).toBeLessThan(60 * MiB);
  });
});

it('S2: lz4 blocks of one byte in a frame of the largest blocks are read at once', async () => {
  // magic, descriptor with blocks of 4 MiB, its checksum; then blocks of a length, a token, and the byte
  const header = Buffer.from('04224d18607073', 'hex');
  const block = Buffer.from('020000001078', 'hex');
  const object = Buffer.concat([header, ...Array.from({ length: 50_000 }, () => block), Buffer.alloc(4)]);
  const begin = process.cpuUsage();
  const back = await collectBytes(decompress('lz4', cut(object, [object.length]), { signal }), 50_000);
  expect(back.equals(Buffer.alloc(50_000, 'x'))).toBe(true);
  const { user, system } = process.cpuUsage(begin);
  expect(user + system).toBeLessThan(4_000_000);
});
