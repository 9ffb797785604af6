/*
 * The bzip2 format, as its decoders read it: `BZh`, the digit of the block size, blocks, an end mark with the checksum
 * of them all, and bits of filling up to a whole byte. All numbers begin with their highest bit, and no block begins at
 * a byte. A block: its mark, its checksum, one bit that is 0, the row of the origin, the bytes that are used, the
 * tables of prefix codes, which of them is used for which 50 symbols, and the symbols.
 */
export const STREAM_MAGIC = 0x425a68;
export const BLOCK_MARK = [0x314159, 0x265359] as const;
export const END_MARK = [0x177245, 0x385090] as const;
/** Bytes of a block for each step of the level, after runs were shortened. */
export const LEVEL_BYTES = 100_000;
/** Symbols that share one table. */
export const GROUP_SYMBOLS = 50;
export const MAX_TABLES = 6;
export const MAX_CODE_BITS = 20;
/** A run of 4 to 255 equal bytes is stored as four of them and the number of those that follow. */
export const RUN_HEAD = 4;
export const LONGEST_RUN = 255;
/** The symbols for a number of bytes at the front of the list; all others are positions in it, plus one. */
export const RUN_A = 0;
export const RUN_B = 1;

/** CRC-32 with the polynomial of gzip's, but from the highest bit on. */
export const CRC_TABLE: Int32Array = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c1_1db7 : crc << 1;
  return crc;
});

/** The checksum of the stream after one more block. */
export const withBlock = (streamCrc: number, blockCrc: number): number =>
  ((streamCrc << 1) | (streamCrc >>> 31)) ^ blockCrc;
