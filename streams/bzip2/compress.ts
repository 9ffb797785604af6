import { setImmediate } from 'node:timers/promises';
import { BitWriter } from './bit-writer.ts';
import { BlockFiller } from './block-filler.ts';
import { sortRotations } from './burrows-wheeler.ts';
import { END_MARK, BLOCK_MARK, STREAM_MAGIC, withBlock } from './format.ts';
import { toSymbols } from './move-to-front.ts';
import { writeSymbols } from './symbol-writer.ts';

/**
 * One bzip2 stream.
 *
 * @param level 1–9: hundreds of thousands of bytes that are sorted at a time
 */
export async function* bzip2Compress(
  source: AsyncIterable<Uint8Array>,
  level: number,
): AsyncGenerator<Uint8Array, void, void> {
  const out = new BitWriter();
  const filler = new BlockFiller(level);
  let streamCrc = 0;
  out.write(24, STREAM_MAGIC);
  out.write(8, 0x30 + level);
  const endBlock = () => {
    const { bytes, crc } = filler.take();
    streamCrc = withBlock(streamCrc, crc);
    writeBlock(out, bytes, crc);
    return out.take();
  };
  for await (const piece of source) {
    for (let at = filler.fill(piece, 0); at < piece.length; at = filler.fill(piece, at)) {
      yield endBlock();
      // a block takes a tenth of a second: others have their turn between two
      await setImmediate();
    }
  }
  if (filler.finish()) yield endBlock();
  for (const half of END_MARK) out.write(24, half);
  out.writeWord(streamCrc);
  yield out.takeLast();
}

function writeBlock(out: BitWriter, bytes: Uint8Array, crc: number): void {
  const { lastColumn, originRow } = sortRotations(bytes);
  for (const half of BLOCK_MARK) out.write(24, half);
  out.writeWord(crc);
  out.write(1, 0);
  out.write(24, originRow);
  writeSymbols(out, toSymbols(lastColumn));
}
