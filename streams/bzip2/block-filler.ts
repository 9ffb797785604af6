import { CRC_TABLE, LEVEL_BYTES, LONGEST_RUN, RUN_HEAD } from './format.ts';

/** What decoders keep free at the end of a block; blocks of bzip2's own programs do as well. */
const SPARE_BYTES = 19;

/** Gathers bytes for one block, with long runs shortened, and their checksum. */
export class BlockFiller {
  readonly #bytes: Uint8Array;
  readonly #full: number;
  #filled = 0;
  #crc = -1;
  #byte = -1;
  #run = 0;

  constructor(level: number) {
    this.#full = level * LEVEL_BYTES - SPARE_BYTES;
    this.#bytes = new Uint8Array(level * LEVEL_BYTES);
  }

  /** Takes bytes of `piece` from `from` on. @returns up to where it took: less than all when the block is full */
  fill(piece: Uint8Array, from: number): number {
    let crc = this.#crc;
    let last = this.#byte;
    let run = this.#run;
    let at = from;
    for (; at < piece.length; at++) {
      const byte = piece[at] as number;
      if (byte !== last || run === LONGEST_RUN) {
        if (run > 0) this.#flush(last, run);
        if (this.#filled >= this.#full) {
          run = 0;
          break;
        }
        last = byte;
        run = 0;
      }
      run += 1;
      crc = (crc << 8) ^ (CRC_TABLE[(crc >>> 24) ^ byte] as number);
    }
    this.#crc = crc;
    this.#byte = last;
    this.#run = run;
    return at;
  }

  /** Ends the last run. @returns whether there is anything */
  finish(): boolean {
    if (this.#run > 0) this.#flush(this.#byte, this.#run);
    this.#run = 0;
    return this.#filled > 0;
  }

  /** What was gathered, valid until more is; the next block begins. */
  take(): { bytes: Uint8Array; crc: number } {
    const taken = { bytes: this.#bytes.subarray(0, this.#filled), crc: ~this.#crc };
    this.#filled = 0;
    this.#crc = -1;
    this.#byte = -1;
    this.#run = 0;
    return taken;
  }

  #flush(byte: number, run: number): void {
    for (let copy = Math.min(run, RUN_HEAD); copy > 0; copy--) this.#bytes[this.#filled++] = byte;
    if (run >= RUN_HEAD) this.#bytes[this.#filled++] = run - RUN_HEAD;
  }
}
