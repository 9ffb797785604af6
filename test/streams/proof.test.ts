import { randomBytes } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { collectBytes, lend, piecesOf, piecesOfSize, released } from '../../streams/chunks.ts';
import { CODECS, compress, decompressBytes, type Codec } from '../../streams/codec.ts';
import { compressProved, type Compress } from '../../streams/proof.ts';
import { damagingCodec } from '../operations/damaging-codec.ts';

const NEVER = new AbortController().signal;
const COMPRESSED = CODECS.filter((codec) => codec !== 'none');
const proved = (codec: Codec, pieces: readonly Uint8Array[], change?: Compress) =>
  compressProved(codec, piecesOf(...pieces), {
    signal: NEVER,
    name: 'data.tar',
    ...(change && { compress: change }),
  });

describe('compressProved', () => {
  it.for(['lz4', 'gzip', 'zstd'] as const)(
    'E1: gives lent pieces back, and only after codec, decoder and reader have done with them (%s)',
    async (codec) => {
      const plain = Buffer.concat([randomBytes(900_000), Buffer.alloc(900_000, 'row of it')]);
      const lentPieces: Uint8Array[] = [];
      async function* source() {
        for (let at = 0; at < plain.length; at += 200_000) {
          lentPieces.push(lend(Uint8Array.from(plain.subarray(at, at + 200_000))));
          yield lentPieces.at(-1)!;
        }
      }
      const stored: Uint8Array[] = [];
      const packed = compressProved(codec, source(), { signal: NEVER, name: 'data.tar' });
      for await (const piece of released(piecesOfSize(packed, 50_000))) stored.push(Uint8Array.from(piece));
      const back = await decompressBytes(codec, Buffer.concat(stored), plain.length);
      expect(Buffer.compare(back, plain)).toBe(0);
      expect(lentPieces.map(({ length }) => length)).toEqual(lentPieces.map(() => 0));
    },
  );

  it.for(COMPRESSED)('E1: gives what compress gives, whatever pieces come (%s)', async (codec) => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 70_000 }), { maxLength: 6 }), async (pieces) => {
        const stored = await collectBytes(proved(codec, pieces), 2 ** 30);
        const plain = Buffer.concat(pieces);
        expect(
          stored.equals(await collectBytes(compress(codec, piecesOf(...pieces), { signal: NEVER }), 2 ** 30)),
        ).toBe(true);
        expect(Buffer.from(await decompressBytes(codec, stored, plain.length)).equals(plain)).toBe(true);
      }),
      { numRuns: 12 },
    );
  });

  it.for(COMPRESSED)('E1: a bit that turned, wherever it is, is seen before the end (%s)', async (codec) => {
    const pieces = [randomBytes(150_000), Buffer.alloc(150_000, 'alike '), randomBytes(1_000)];
    const { length } = await collectBytes(proved(codec, pieces), 2 ** 30);
    // Not in the headers, where some formats have fields that mean nothing (the operating system, in gzip).
    for (const at of [100, 5_000, 140_000, length - 3].map((place) => Math.min(place, length - 1))) {
      await expect(
        collectBytes(proved(codec, pieces, damagingCodec({ at })), 2 ** 30),
        `byte ${at} of ${length}`,
      ).rejects.toMatchObject({ code: 'object-damaged', message: expect.stringContaining('data.tar') });
    }
  });

  it.for(COMPRESSED)(
    'E1: a codec that loses, doubles or exchanges plain bytes is seen, though its stream is valid (%s)',
    async (codec) => {
      const pieces = [randomBytes(70_000), randomBytes(300_000)];
      const whole = Buffer.concat(pieces);
      const other = Buffer.from(whole);
      other[200_000]! ^= 1;
      for (const wrong of [whole.subarray(0, -1), Buffer.concat([whole, Buffer.of(0)]), other, Buffer.of()]) {
        const wrongly: Compress = async function* (codec, source, options) {
          for await (const _ of source);
          yield* compress(codec, piecesOf(wrong), options);
        };
        await expect(collectBytes(proved(codec, pieces, wrongly), 2 ** 30)).rejects.toMatchObject({
          code: 'object-damaged',
        });
      }
    },
  );

  it.for(['gzip', 'bzip2'] as const)(
    'E1: more that is alike than is kept is proved by its hash (%s)',
    async (codec) => {
      // A block of bzip2 takes 45 MB of zeros before anything comes out of it.
      const pieces = Array.from({ length: 120 }, (_, n) => Buffer.alloc(256 * 1024, n === 100 ? 1 : 0));
      const stored = await collectBytes(proved(codec, pieces), 2 ** 30);
      const plain = await decompressBytes(codec, stored, 2 ** 30);
      expect(Buffer.concat(pieces).equals(plain)).toBe(true);
      const exchanged: Compress = (codec, source, options) => compress(codec, changed(source, 110), options);
      await expect(collectBytes(proved(codec, pieces, exchanged), 2 ** 30)).rejects.toMatchObject({
        code: 'object-damaged',
      });
    },
  );

  it.for(COMPRESSED)('asks for no more than its reader takes and its decoder needs (%s)', async (codec) => {
    let asked = 0;
    async function* endless() {
      for (; ; asked++) yield randomBytes(256 * 1024);
    }
    const bytes = compressProved(codec, endless(), { signal: NEVER, name: 'data.tar' });
    await bytes.next();
    for (let turn = 0; turn < 200; turn++) await setImmediate();
    // The largest thing that is held is a block of xz: 2 MiB and what is looked ahead.
    expect(asked).toBeLessThan(60);
    await bytes.return();
  });

  it.for(COMPRESSED)('an abort ends it at once, and its source is closed (%s)', async (codec) => {
    let closed = false;
    async function* endless() {
      try {
        for (;;) yield randomBytes(256 * 1024);
      } finally {
        closed = true;
      }
    }
    const aborted = new AbortController();
    const reading = (async () => {
      let pieces = 0;
      for await (const _ of compressProved(codec, endless(), { signal: aborted.signal, name: 'data.tar' })) {
        if (++pieces === 3) aborted.abort(new Error('no longer wanted'));
      }
    })();
    await expect(reading).rejects.toThrow('no longer wanted');
    expect(closed).toBe(true);
  });

  it('what the source throws is thrown as it is', async () => {
    async function* failing() {
      yield randomBytes(300_000);
      throw new Error('the disk');
    }
    const all = collectBytes(compressProved('zstd', failing(), { signal: NEVER, name: 'data.tar' }), 2 ** 30);
    await expect(all).rejects.toThrow('the disk');
  });
});

async function* changed(source: AsyncIterable<Uint8Array>, nth: number) {
  let number = 0;
  for await (const piece of source) {
    const copy = Uint8Array.from(piece);
    if (number++ === nth) copy[5] = 7;
    yield copy;
  }
}
