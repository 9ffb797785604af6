import { execFileSync, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import {
  CODECS,
  CODEC_SUFFIX,
  codecOfSuffix,
  compress,
  compressBytes,
  decompress,
  decompressBytes,
} from '../../streams/codec.ts';
import type { Codec } from '../../streams/codec.ts';
import { nativeLibrary } from '../../streams/native-stream.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const signal = new AbortController().signal;
const COMPRESSING = ['gzip', 'lz4', 'zstd', 'bzip2', 'snappy', 'xz'] as const;

/** Bytes that look like a heap: compressible, not trivially. */
function rows(sizeBytes: number): Buffer {
  const line = (n: number) => `${n}\taccount ${(n * 7919) % 10007}\t${(n * 104729) % 1000003}\n`;
  const parts: string[] = [];
  for (let n = 0, length = 0; length < sizeBytes; n++) {
    const text = line(n);
    parts.push(text);
    length += text.length;
  }
  return Buffer.from(parts.join('')).subarray(0, sizeBytes);
}

function* cut(bytes: Uint8Array, sizes: readonly number[]): Generator<Uint8Array> {
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length] ?? bytes.length;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}
const inPieces = (bytes: Uint8Array, ...sizes: number[]) => piecesOf(...cut(bytes, sizes));

const pack = (codec: Codec, bytes: Uint8Array, ...sizes: number[]) =>
  collectBytes(compress(codec, inPieces(bytes, ...(sizes.length > 0 ? sizes : [100_000])), { signal }), 1e9);
const unpack = (codec: Codec, bytes: Uint8Array, ...sizes: number[]) =>
  collectBytes(
    decompress(codec, inPieces(bytes, ...(sizes.length > 0 ? sizes : [100_000])), { signal }),
    1e9,
  );

const hash = (bytes: Uint8Array) => createHash('sha1').update(bytes).digest('hex');
const damage = (error: unknown) => expect(error).toMatchObject({ code: 'object-damaged' });

const isSlow = (codec: Codec) => codec === 'bzip2' || codec === 'xz';

describe('names', () => {
  test.for(CODECS)('the suffix of %s names it again', (codec) => {
    expect(codecOfSuffix(`a/b.tar${CODEC_SUFFIX[codec]}`)).toEqual({ codec, bare: 'a/b.tar' });
  });
  it('takes an unknown suffix for a part of the name', () => {
    expect(codecOfSuffix('x.zstd')).toEqual({ codec: 'none', bare: 'x.zstd' });
  });
});

describe.for(CODECS)('%s', (codec) => {
  test.for([
    0,
    1,
    63,
    64,
    64 * KiB,
    256 * KiB - 1,
    256 * KiB,
    256 * KiB + 1,
    4 * MiB + 1,
    16 * MiB - 1,
    16 * MiB + 1,
  ])('E1: out = in for %i bytes', async (size) => {
    // like a segment that was switched early: all of it would take some of them many seconds
    const used = isSlow(codec) ? Buffer.concat([rows(Math.min(size, 2 * MiB))], size) : rows(size);
    for (const plain of [used, size <= 300 * KiB ? randomBytes(size) : Buffer.alloc(size)]) {
      const packed = await pack(codec, plain);
      expect(hash(await decompressBytes(codec, packed, size))).toBe(hash(plain));
      if (size > 5 * MiB) continue;
      expect(hash(await unpack(codec, await compressBytes(codec, plain)))).toBe(hash(plain));
    }
  });

  it('E1: out = in however the pieces are cut, on the way in and on the way out', async () => {
    const piece = fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 1, max: 70_000 }));
    const sizes = fc
      .array(piece, { minLength: 1, maxLength: 6 })
      .filter((list) => list.some((size) => size > 0));
    await fc.assert(
      fc.asyncProperty(fc.nat(600_000), fc.boolean(), sizes, sizes, async (size, noise, into, outOf) => {
        fc.pre(Math.max(...into) > 500 || size < 20_000);
        const plain = noise ? randomBytes(size) : rows(size);
        const packed = await pack(codec, plain, ...into);
        fc.pre(Math.max(...outOf) > 500 || packed.length < 20_000);
        expect(hash(await unpack(codec, packed, ...outOf))).toBe(hash(plain));
      }),
      { numRuns: isSlow(codec) ? 15 : 40 },
    );
  });

  it('passes on what the source throws, and tells the source to stop when the reader does', async () => {
    const failing = async function* () {
      yield rows(MiB);
      throw new Error('disk on fire');
    };
    await expect(collectBytes(compress(codec, failing(), { signal }), 1e9)).rejects.toThrow('disk on fire');
    let stopped = false;
    const endless = async function* () {
      try {
        for (;;) yield randomBytes(100_000);
      } finally {
        stopped = true;
      }
    };
    for await (const piece of compress(codec, endless(), { signal })) if (piece.length > 1000) break;
    expect(stopped).toBe(true);
  });

  it('stops at once when it is aborted, though the source hangs', async () => {
    const stuck = async function* () {
      yield rows(1000);
      await new Promise(() => undefined);
    };
    for (const way of [compress, decompress]) {
      const aborter = new AbortController();
      const reason = new Error('enough');
      setTimeout(() => aborter.abort(reason), 20);
      const begin = performance.now();
      const packed = await pack(codec, rows(300 * KiB));
      const source = way === compress ? stuck() : hangingAfter(packed.subarray(0, packed.length - 1));
      await expect(collectBytes(way(codec, source, { signal: aborter.signal }), 1e9)).rejects.toBe(reason);
      expect(performance.now() - begin).toBeLessThan(2000);
    }
  });

  it('lets go of a source that hangs when the reader leaves', async () => {
    const packed = await pack(codec, rows(3 * MiB));
    const source = hangingAfter(packed.subarray(0, packed.length - 1));
    for await (const piece of decompress(codec, source, { signal })) if (piece.length > 0) break;
  });

  it('reads no further ahead than its reader takes', async () => {
    let given = 0;
    const counted = async function* () {
      for (let n = 0; n < 300; n++) {
        given += 100_000;
        yield randomBytes(100_000);
      }
    };
    for await (const piece of compress(codec, counted(), { signal })) {
      if (piece.length < 1000) continue;
      await sleep(50);
      break;
    }
    expect(given).toBeLessThan(5 * MiB);
  });

  it('refuses more plain bytes than it may give', async () => {
    const packed = await compressBytes(codec, Buffer.alloc(2 * MiB));
    await expect(decompressBytes(codec, packed, 2 * MiB - 1, 'wals/x')).rejects.toMatchObject({
      code: 'object-damaged',
      message: expect.stringContaining('wals/x'),
    });
  });
});

async function* hangingAfter(bytes: Uint8Array) {
  yield bytes;
  await new Promise(() => undefined);
}

describe.for(COMPRESSING)('a damaged %s object', (codec) => {
  const plain = rows(400 * KiB);

  it('E2: is refused wherever it ends early, also when it is empty', async () => {
    const packed = await compressBytes(codec, plain);
    const ends = new Set([
      0,
      1,
      3,
      4,
      6,
      7,
      9,
      10,
      11,
      packed.length - 1,
      packed.length - 4,
      packed.length - 5,
    ]);
    for (let at = 20; at < packed.length; at += Math.ceil(packed.length / 25)) ends.add(at);
    for (const end of ends)
      await unpack(codec, packed.subarray(0, end)).then(() => expect.fail(`cut at ${end}`), damage);
  });

  it('E2: never gives other bytes for a flipped bit', async () => {
    const packed = Buffer.from(await compressBytes(codec, plain));
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(fc.nat(packed.length - 1), fc.nat(7), async (at, bit) => {
        const bad = Buffer.from(packed);
        bad[at] = (bad[at] ?? 0) ^ (1 << bit);
        // a few bits of the headers (gzip's time, zstd's window size) do not touch the content
        const got = await unpack(codec, bad).then(
          hash,
          (error: unknown) => (damage(error), refused++, hash(plain)),
        );
        expect(got).toBe(hash(plain));
      }),
      { numRuns: 100 },
    );
    expect(refused).toBeGreaterThan(80);
  });

  test.for([
    { what: 'a word', tail: Buffer.from('garbage') },
    { what: 'one byte', tail: Buffer.from([0x1f]) },
    { what: 'zero bytes', tail: Buffer.alloc(512) },
    { what: 'a block of zero bytes', tail: Buffer.alloc(100_000) },
    { what: 'half a second stream', tail: 'half' as const },
  ])('E2: is refused when $what follows', async ({ tail }) => {
    const packed = await compressBytes(codec, plain);
    const rest = tail === 'half' ? packed.subarray(0, 900) : tail;
    const whole = Buffer.concat([packed, rest]);
    await unpack(codec, whole, whole.length).then(() => expect.fail('in one piece'), damage);
    await unpack(codec, whole, packed.length).then(() => expect.fail('in a piece of its own'), damage);
    await unpack(codec, whole, 999).then(() => expect.fail('in small pieces'), damage);
  });

  it('names the object', async () => {
    const source = piecesOf(Buffer.from('not compressed at all, only words'));
    const reading = collectBytes(decompress(codec, source, { signal, name: 'base/1/data.tar' }), 1e9);
    await expect(reading).rejects.toMatchObject({ message: expect.stringMatching(/^base\/1\/data\.tar /) });
  });

  it('several streams after each other are one content', async () => {
    const [a, b, c] = [rows(300 * KiB), Buffer.alloc(0), rows(10)];
    const whole = Buffer.concat(await Promise.all([a, b, c].map((part) => compressBytes(codec, part))));
    for (const size of [whole.length, 1000, 17]) {
      expect(hash(await unpack(codec, whole, size))).toBe(hash(Buffer.concat([a, b, c])));
    }
  });
});

const PROGRAMS = {
  gzip: ['gzip'],
  lz4: ['lz4', '-q'],
  zstd: ['zstd', '-q'],
  bzip2: ['bzip2'],
  xz: ['xz', '-q'],
} as const;
const WITH_PROGRAM = Object.keys(PROGRAMS) as (keyof typeof PROGRAMS)[];
const hasProgram = (name: string) => spawnSync(name, ['--version']).status === 0;

describe.for(WITH_PROGRAM)('the %s program of the host', (codec) => {
  const [program, ...quiet] = PROGRAMS[codec];
  const present = hasProgram(program);
  if (!present) console.warn(`skipped: no ${program} on this host`);
  const run = (args: string[], input: Uint8Array) =>
    execFileSync(program, [...quiet, ...args], { input, maxBuffer: 100 * MiB });

  test.runIf(present).for([0, 1, 256 * KiB, 5 * MiB + 1])(
    'E5: reads what we write (%i bytes)',
    async (size) => {
      const plain = rows(size);
      expect(hash(run(['-dc'], await pack(codec, plain)))).toBe(hash(plain));
      expect(hash(run(['-dc'], await compressBytes(codec, plain)))).toBe(hash(plain));
      if (codec === 'lz4') run(['-t'], await pack(codec, plain));
    },
  );

  const options: Record<typeof codec, string[][]> = {
    gzip: [['-1'], ['-9']],
    zstd: [['-1'], ['-19'], ['--no-check'], ['-1', '-T2']],
    // barman's Python library writes level 5 for WAL, and 9 for base backups
    bzip2: [['-1'], ['-5'], ['-9']],
    // the second is barman's; the others have many blocks, other checksums, a filter before the compression
    xz: [
      ['-0'],
      ['-3'],
      ['-9'],
      ['-T2', '--block-size=500000'],
      ['-C', 'sha256'],
      ['-C', 'crc32'],
      ['--x86', '--lzma2'],
    ],
    // the second is what barman's Python library writes
    lz4: [
      [],
      ['-B4', '-BD', '--no-frame-crc'],
      ['-B4', '-BD', '-BX'],
      ['-9', '-BD', '-B7'],
      ['-B6', '--content-size'],
    ],
  };
  test.runIf(present).for(options[codec])('E5: is read by us (%j)', async (args) => {
    for (const plain of [Buffer.alloc(0), rows(3 * MiB), Buffer.concat([randomBytes(200_000), rows(100)])]) {
      const packed = run([...args, '-c'], plain);
      expect(hash(await unpack(codec, packed))).toBe(hash(plain));
      expect(hash(await unpack(codec, packed, 70_001))).toBe(hash(plain));
    }
  });

  test.runIf(present && codec === 'lz4')('frames that are to be skipped are skipped', async () => {
    const skip = Buffer.from([0x52, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    const packed = await compressBytes('lz4', rows(1000));
    expect(await unpack('lz4', Buffer.concat([skip, packed, skip]))).toEqual(rows(1000));
  });
});

it('one lz4 object is one frame with a content checksum, whose header says so', async () => {
  const packed = await pack('lz4', rows(600 * KiB));
  expect(packed.subarray(0, 6).toString('hex')).toBe('04224d186450');
  expect((await compressBytes('lz4', rows(600)))[4]).toBe(0x6c);
});

it('one snappy object is one identifier and blocks of 64 KiB, as barman-cloud writes it', async () => {
  const packed = await pack('snappy', Buffer.concat([rows(100_000), randomBytes(100_000)]), 7_777);
  expect(packed.subarray(0, 10).toString('latin1')).toBe('\u00ff\u0006\0\0sNaPpY');
  const kinds: number[] = [];
  for (let at = 10; at < packed.length; at += 4 + packed.readUIntLE(at + 1, 3)) kinds.push(packed[at] ?? -1);
  // 0 is a compressed block, 1 one that is stored as it is
  expect(kinds).toEqual([0, 0, 1, 1]);
});

it('a snappy object that is cut between two blocks looks whole: what it holds must tell', async () => {
  const packed = await pack('snappy', rows(3 * 65_536));
  const second = 10 + 4 + packed.readUIntLE(11, 3);
  expect(await unpack('snappy', packed.subarray(0, second))).toEqual(rows(65_536));
  await unpack('snappy', packed.subarray(0, 10)).then(() => expect.fail('without a block'), damage);
});

test.for(['bzip2', 'snappy', 'xz'] as const)(
  'S2: what a %s bomb holds comes in small pieces, and no more of it than is asked for',
  async (codec) => {
    const packed = await pack(codec, Buffer.alloc(64 * MiB), MiB);
    let pieces = 0;
    for await (const piece of decompress(codec, piecesOf(packed), { signal })) {
      expect(piece.length).toBeLessThanOrEqual(64 * KiB);
      if ((pieces += 1) === 20) break;
    }
    await expect(decompressBytes(codec, packed, 100_000)).rejects.toMatchObject({ code: 'object-damaged' });
  },
);

it('a window of 2 GiB is not granted to a zstd frame', async () => {
  // a frame header that asks for it: magic, no single segment, window descriptor 0xa8 (2^31), then an empty last block
  const frame = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00]);
  await unpack('zstd', frame).then(() => expect.fail('granted'), damage);
});

it('works inside worker threads, several at once', async () => {
  const program = new URL('codec-worker.ts', import.meta.url);
  const answers = ['gzip', 'lz4', 'zstd', 'lz4', 'bzip2', 'snappy', 'xz', 'xz'].map(
    (codec) =>
      new Promise((resolve, reject) => {
        const worker = new Worker(program, { workerData: { codec } });
        worker.once('message', resolve);
        worker.once('error', reject);
      }),
  );
  expect(new Set(await Promise.all(answers))).toEqual(new Set(['same']));
});

it('a library whose binary is missing is no damage of the object, and the error says what to do', async () => {
  const missing = () => Promise.reject(new Error('Cannot find native binding.\nRequire stack: …'));
  await expect(nativeLibrary('xz', missing)).rejects.toMatchObject({
    code: 'config-invalid',
    message: "the library for xz can't be loaded on this host: Cannot find native binding.",
    hint: expect.stringContaining('Node 24'),
  });
});
