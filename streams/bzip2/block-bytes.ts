import type { ReadBlock } from './block-reader.ts';
import { CRC_TABLE, LONGEST_RUN, RUN_HEAD } from './format.ts';

const OUTPUT_BYTES = 64 << 10;

/** The bytes of a block: its rotations are undone, and its runs made long again. */
export class BlockBytes {
  readonly #cells: Int32Array;
  #cell: number;
  #left: number;
  #crc = -1;
  #last = -1;
  /** How many of `#last` came in a row. */
  #same = 0;
  /** Copies of `#last` that are still to be given. */
  #copies = 0;

  constructor({ cells, filled, originRow }: ReadBlock) {
    linkCells(cells, filled);
    this.#cells = cells;
    this.#cell = cells[originRow] as number;
    this.#left = filled;
  }

  /** The next 64 KiB, however far a run reaches; fewer at the end, and then none. */
  next(): Buffer {
    const cells = this.#cells;
    let cell = this.#cell;
    let left = this.#left;
    let crc = this.#crc;
    let last = this.#last;
    let same = this.#same;
    let copies = this.#copies;
    // of a short block no more than it can hold: who keeps thousands of them keeps their buffers, too
    const out = Buffer.allocUnsafeSlow(Math.min(OUTPUT_BYTES, copies + left * LONGEST_RUN));
    let size = 0;
    while (size < out.length) {
      if (copies > 0) {
        copies -= 1;
      } else {
        if (left === 0) break;
        left -= 1;
        cell = cells[cell >>> 8] as number;
        const byte = cell & 0xff;
        if (same === RUN_HEAD) {
          copies = byte;
          same = 0;
          continue;
        }
        same = byte === last ? same + 1 : 1;
        last = byte;
      }
      out[size++] = last;
      crc = (crc << 8) ^ (CRC_TABLE[(crc >>> 24) ^ last] as number);
    }
    this.#cell = cell;
    this.#left = left;
    this.#crc = crc;
    this.#last = last;
    this.#same = same;
    this.#copies = copies;
    return out.subarray(0, size);
  }

  /** Of what was given so far. */
  get crc(): number {
    return ~this.#crc;
  }
}

/** Puts into each cell, above its byte, which cell holds the byte that follows. */
function linkCells(cells: Int32Array, filled: number): void {
  const next = new Int32Array(257);
  for (let at = 0; at < filled; at++) {
    const slot = ((cells[at] as number) & 0xff) + 1;
    next[slot] = (next[slot] as number) + 1;
  }
  for (let byte = 1; byte <= 256; byte++) next[byte] = (next[byte] as number) + (next[byte - 1] as number);
  for (let at = 0; at < filled; at++) {
    const byte = (cells[at] as number) & 0xff;
    const slot = next[byte] as number;
    next[byte] = slot + 1;
    cells[slot] = (cells[slot] as number) | (at << 8);
  }
}
