import { toLsn, type Lsn } from '../core/lsn.ts';
import { createCountSuspects, MAX_BYTES, type ChecksumLayout } from './page-checksum-simd.ts';

/** Where in a page header the fields are. @see PostgreSQL `src/include/storage/bufpage.h` */
const CHECKSUM_OFFSET = 8;
const UPPER_OFFSET = 14;
const LANES = 32;
const FNV_PRIME = 16_777_619;
/** @see PostgreSQL `src/include/storage/checksum_impl.h`, `checksumBaseOffsets` */
const OFFSETS = new Int32Array(
  Uint32Array.of(
    0x5b1f36e9,
    0xb8525960,
    0x02ab50aa,
    0x1de66d2a,
    0x79ff467a,
    0x9bb9f8a3,
    0x217e7cd2,
    0x83e13d2c,
    0xf8d4474f,
    0xe39eb970,
    0x42c6ae16,
    0x993216fa,
    0x7b093b5d,
    0x98daff3c,
    0xf718902a,
    0x0b1c9cdb,
    0xe58f764b,
    0x187636bc,
    0x5d7b3bb1,
    0xe73de7de,
    0x92bec979,
    0xcca6c0b2,
    0x304a0979,
    0x85aa43d4,
    0x783125bb,
    0x6ca8eaa2,
    0xe407eac6,
    0x4b5cfc3e,
    0x9fbf8c76,
    0x15ca20be,
    0xf2ca9fd3,
    0x959bd756,
  ).buffer,
);
const sums = new Int32Array(LANES);
/** What the fast way of looking at pages is made from. */
export const CHECKSUM_LAYOUT: ChecksumLayout = {
  checksumOffset: CHECKSUM_OFFSET,
  upperOffset: UPPER_OFFSET,
  baseOffsets: new Uint8Array(OFFSETS.buffer),
  prime: FNV_PRIME,
};
const countSuspects = createCountSuspects(CHECKSUM_LAYOUT);

/**
 * The checksum PostgreSQL stores in a page of a relation (1 to 65535).
 *
 * @param page whole, at an address that is a multiple of 4; its own checksum counts as zero
 * @param block the page's number in the relation, not in the file
 * @see PostgreSQL `src/include/storage/checksum_impl.h`
 */
export function pageChecksum(page: Uint8Array, block: number): number {
  const words = new Int32Array(page.buffer, page.byteOffset, page.byteLength >> 2);
  const ownWord = CHECKSUM_OFFSET >> 2;
  const kept = words[ownWord] as number;
  words[ownWord] = kept & ~0xffff;
  sums.set(OFFSETS);
  for (let at = 0; at < words.length; at += LANES) {
    for (let lane = 0; lane < LANES; lane += 1) {
      const mixed = (sums[lane] as number) ^ (words[at + lane] as number);
      sums[lane] = Math.imul(mixed, FNV_PRIME) ^ (mixed >>> 17);
    }
  }
  words[ownWord] = kept;
  let result = 0;
  for (let lane = 0; lane < LANES; lane += 1) {
    let mixed = sums[lane] as number;
    for (let round = 0; round < 2; round += 1) mixed = Math.imul(mixed, FNV_PRIME) ^ (mixed >>> 17);
    result ^= mixed;
  }
  return (((result ^ block) >>> 0) % 65_535) + 1;
}

/** Where the last change of a page is in the WAL. */
export function pageLsn(page: Buffer): Lsn {
  return toLsn((BigInt(page.readUInt32LE(0)) << 32n) | BigInt(page.readUInt32LE(4)));
}

/** Whether a page is as it should be: its checksum fits, or it is new (all zeros: extended, but never written). */
export function isPageIntact(page: Buffer, block: number): boolean {
  if (page.readUInt16LE(UPPER_OFFSET) === 0) return isAllZero(page);
  return pageChecksum(page, block) === page.readUInt16LE(CHECKSUM_OFFSET);
}

/**
 * Which pages in `bytes` are not intact, by their place in it.
 *
 * @param bytes whole pages; what is left over at the end is not looked at
 * @param firstBlock the number of the first page in the relation
 */
export function findDamagedPages(bytes: Buffer, firstBlock: number, blockSize: number): number[] {
  // All but very few pieces are without fault, and done with here.
  if (countSuspects && bytes.length <= MAX_BYTES && countSuspects(bytes, firstBlock, blockSize) === 0)
    return [];
  const damaged: number[] = [];
  for (let index = 0; (index + 1) * blockSize <= bytes.length; index += 1) {
    const page = bytes.subarray(index * blockSize, (index + 1) * blockSize);
    if (!isPageIntact(page, firstBlock + index)) damaged.push(index);
  }
  return damaged;
}

/** Where a file of a relation stands in it. */
export interface RelationFile {
  /** The number of the file's first page in its relation. */
  readonly firstBlock: number;
}

/**
 * Whether a file holds pages of a relation, and from which block on.
 *
 * @param path in the area: `base/5/16385.1`, `global/1262`, `PG_15_202209061/5/16390_vm`
 * @param segmentBlocks pages in one file of a large relation
 */
export function parseRelationFile(path: string, segmentBlocks: number): RelationFile | undefined {
  const match = RELATION_FILE.exec(path);
  return match ? { firstBlock: Number(match[1] ?? 0) * segmentBlocks } : undefined;
}

const RELATION_FILE =
  /^(?:global|base\/\d+|(?:pg_tblspc\/\d+\/)?PG_\d+_\d+\/\d+)\/\d+(?:_(?:fsm|vm|init))?(?:\.(\d+))?$/;

/** As large as PostgreSQL's pages can be. */
const ZEROS = Buffer.alloc(32 * 1024);

function isAllZero(page: Buffer): boolean {
  return page.equals(ZEROS.subarray(0, page.length));
}
