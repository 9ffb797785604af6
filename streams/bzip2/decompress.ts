import { setImmediate } from 'node:timers/promises';
import { BackupError } from '../../core/errors.ts';
import { BitReader, MORE_NEEDED } from './bit-reader.ts';
import { BlockBytes } from './block-bytes.ts';
import { BlockReader } from './block-reader.ts';
import { BLOCK_MARK, END_MARK, STREAM_MAGIC, withBlock } from './format.ts';

const PART_BYTES = 256 << 10;

/**
 * The content of one or more bzip2 streams after each other. Every checksum is checked, and the bytes of a block are
 * given before its own is: an end without an error is what proves them. Memory: 4 bytes for each of a block, 3.6 MB,
 * and the pieces that are on their way.
 *
 * @param name of the object, for messages
 * @throws BackupError `object-damaged` when the input is empty, ends early, is corrupt or has something else behind it
 */
export async function* bzip2Decompress(
  source: AsyncIterable<Uint8Array>,
  name: string,
): AsyncGenerator<Uint8Array, void, void> {
  const fail = (what: string): never => {
    throw new BackupError('object-damaged', `${name} ${what}`);
  };
  const bits = new BitReader();
  const input = inputOf(source, bits);
  const ready = async <T>(read: () => T): Promise<T> => {
    for (;;) {
      try {
        return read();
      } catch (error) {
        if (error !== MORE_NEEDED) throw error;
        if (!(await input.more())) fail('ends early: its bzip2 stream goes on');
      }
    }
  };

  if (await input.atEnd()) fail('is empty, which no bzip2 stream is');
  const blocks = new BlockReader(bits, fail);
  for (let streams = 0; !(await input.atEnd()); streams++) {
    const level = await ready(() => readLevel(bits));
    if (level === undefined) {
      return fail(streams === 0 ? 'is not a bzip2 stream' : 'has other bytes behind its bzip2 stream');
    }
    blocks.beginStream(level);
    let streamCrc = 0;
    for (;;) {
      const mark = await ready(() => readMark(bits));
      if (mark === 'end') break;
      if (mark === undefined) return fail('has bytes that begin no bzip2 block');
      const block = await ready(() => blocks.read());
      const bytes = new BlockBytes(block);
      for (let piece = bytes.next(); piece.length > 0; piece = bytes.next()) {
        yield piece;
        // whoever else waits for this thread has a turn
        await setImmediate();
      }
      if (bytes.crc !== block.crc) fail('has a bzip2 block whose checksum is wrong');
      streamCrc = withBlock(streamCrc, bytes.crc);
    }
    const recorded = await ready(() => bits.readWord());
    if (recorded !== streamCrc) fail('does not have the blocks that its bzip2 checksum says');
    bits.toByte();
    // thousands of empty streams give no piece at which others would have their turn
    await setImmediate();
  }
}

/** The level of a stream from its first bytes. @throws MORE_NEEDED */
function readLevel(bits: BitReader): number | undefined {
  bits.need(32);
  const magic = bits.read(24);
  const level = bits.read(8) - 0x30;
  return magic === STREAM_MAGIC && level >= 1 && level <= 9 ? level : undefined;
}

/** @throws MORE_NEEDED */
function readMark(bits: BitReader): 'block' | 'end' | undefined {
  bits.need(48);
  const high = bits.read(24);
  const low = bits.read(24);
  if (high === BLOCK_MARK[0] && low === BLOCK_MARK[1]) return 'block';
  return high === END_MARK[0] && low === END_MARK[1] ? 'end' : undefined;
}

/** Gives the pieces of a source to `bits`, in parts that are cheap to put behind what is left. */
function inputOf(source: AsyncIterable<Uint8Array>, bits: BitReader) {
  const iterator = source[Symbol.asyncIterator]();
  let rest: Uint8Array = new Uint8Array(0);
  const more = async (): Promise<boolean> => {
    while (rest.length === 0) {
      const step = await iterator.next();
      if (step.done === true) return false;
      rest = step.value;
    }
    bits.give(rest.subarray(0, PART_BYTES));
    rest = rest.subarray(PART_BYTES);
    return true;
  };
  return { more, atEnd: async () => bits.leftBits === 0 && !(await more()) };
}
