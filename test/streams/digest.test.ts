import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  collectBytes,
  hold,
  joinedPieces,
  lend,
  piecesOf,
  piecesOfSize,
  release,
  released,
} from '../../streams/chunks.ts';
import { digesting, sha256 } from '../../streams/digest.ts';

const pieces = fc.array(fc.uint8Array({ maxLength: 50 }), { maxLength: 20 });

describe('digesting', () => {
  it('counts and hashes exactly what passed', async () => {
    await fc.assert(
      fc.asyncProperty(pieces, async (list) => {
        const { bytes, result } = digesting(piecesOf(...list));
        const passed = await collectBytes(bytes, 1e6);
        expect(passed).toEqual(Buffer.concat(list));
        expect(result()).toEqual({ sha256: sha256(passed), sizeBytes: passed.length });
      }),
    );
  });

  it('does not answer before the last byte', async () => {
    const { bytes, result } = digesting(piecesOf(Buffer.from('a'), Buffer.from('b')));
    for await (const _ of bytes) break;
    expect(result).toThrow('before the last byte');
  });
});

describe('pieces', () => {
  it('of a size are all of that size but the last, and hold the same bytes', async () => {
    await fc.assert(
      fc.asyncProperty(pieces, fc.integer({ min: 1, max: 60 }), async (list, size) => {
        const got: Uint8Array[] = [];
        for await (const piece of piecesOfSize(piecesOf(...list), size)) got.push(piece);
        expect(Buffer.concat(got)).toEqual(Buffer.concat(list));
        expect(got.slice(0, -1).every((piece) => piece.length === size)).toBe(true);
        expect(got.every((piece) => piece.length > 0 && piece.length <= size)).toBe(true);
      }),
    );
  });

  it('that are joined are as long as asked, but the last, and hold the same bytes', async () => {
    await fc.assert(
      fc.asyncProperty(pieces, fc.integer({ min: 1, max: 60 }), async (list, size) => {
        const got: Uint8Array[] = [];
        for await (const piece of joinedPieces(piecesOf(...list), size)) got.push(piece);
        expect(Buffer.concat(got)).toEqual(Buffer.concat(list));
        expect(got.slice(0, -1).every((piece) => piece.length >= size)).toBe(true);
      }),
    );
  });

  it('that were lent are given back after the last holder, and not for a view of a part', () => {
    const piece = lend(Buffer.allocUnsafeSlow(10));
    const mine = Buffer.allocUnsafeSlow(10);
    hold(piece);
    hold(piece.subarray(1));
    release(piece.subarray(1));
    release(piece);
    expect(piece.length).toBe(10);
    release(piece);
    release(mine);
    expect([piece.length, mine.length]).toEqual([0, 10]);
  });

  it('that were lent hold the same bytes in other sizes, for a reader that gives back each', async () => {
    await fc.assert(
      fc.asyncProperty(pieces, fc.integer({ min: 1, max: 60 }), async (list, size) => {
        for (const cut of [piecesOfSize, joinedPieces]) {
          const lentPieces = list.map((piece) => lend(Uint8Array.from(piece)));
          const got: Uint8Array[] = [];
          for await (const piece of released(cut(piecesOf(...lentPieces), size)))
            got.push(Uint8Array.from(piece));
          expect(Buffer.concat(got)).toEqual(Buffer.concat(list));
        }
      }),
    );
  });

  it('are refused when they are more than allowed, naming the object', async () => {
    const reading = collectBytes(piecesOf(Buffer.alloc(5), Buffer.alloc(6)), 10, 'x/backup.info');
    await expect(reading).rejects.toMatchObject({
      code: 'object-damaged',
      message: expect.stringMatching(/^x\/backup/),
    });
  });
});
