import fc from 'fast-check';
import { expect, it } from 'vitest';
import { chunksOf } from '../../stores/gcs-chunks.ts';
import { piecesOf } from '../../streams/chunks.ts';

it('E1: chunks are the bytes of the body in order, whatever its pieces are and however late chunks are given back', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 20 }),
      fc.integer({ min: 1, max: 16 }),
      fc.integer({ min: 0, max: 4 }),
      async (pieces, size, late) => {
        const chunks = chunksOf(piecesOf(...pieces), size);
        const held: Uint8Array[] = [];
        const buffers = new Set<ArrayBufferLike>();
        const got: Buffer[] = [];
        const lengths: number[] = [];
        const giveBack = () => {
          const chunk = held.shift()!;
          got.push(Buffer.from(chunk));
          chunks.release(chunk);
        };
        for await (const chunk of chunks) {
          lengths.push(chunk.length);
          buffers.add(chunk.buffer);
          held.push(chunk);
          if (held.length > late) giveBack();
        }
        while (held.length > 0) giveBack();
        expect(Buffer.concat(got).equals(Buffer.concat(pieces))).toBe(true);
        expect(lengths.slice(0, -1).every((length) => length === size)).toBe(true);
        expect(lengths).not.toContain(0);
        expect(buffers.size).toBeLessThanOrEqual(late + 1);
      },
    ),
  );
});
