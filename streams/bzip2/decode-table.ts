import type { BitReader } from './bit-reader.ts';
import { MAX_CODE_BITS } from './format.ts';

const FAST_BITS = 10;

/** Finds symbols by their codes. A code that no symbol has is noticed. */
export class DecodeTable {
  /** For the first bits of a code, symbol and length (symbol << 5 | length), 0 for codes that are longer. */
  readonly #fast = new Uint16Array(1 << FAST_BITS);
  /** For each length, the greatest code of it, widened to `MAX_CODE_BITS`; -1 when there is none. */
  readonly #limit = new Int32Array(MAX_CODE_BITS + 1).fill(-1);
  /** For each length, what to add to a code to find its symbol in `#symbols`. */
  readonly #offset = new Int32Array(MAX_CODE_BITS + 1);
  readonly #symbols: Uint16Array;
  #longest = 0;

  /** @returns `undefined` when the lengths leave codes for more symbols than there can be */
  static of(lengths: Uint8Array): DecodeTable | undefined {
    let room = 1 << MAX_CODE_BITS;
    for (const length of lengths) room -= 1 << (MAX_CODE_BITS - length);
    return room < 0 ? undefined : new DecodeTable(lengths);
  }

  private constructor(lengths: Uint8Array) {
    this.#symbols = new Uint16Array(lengths.length);
    let code = 0;
    let placed = 0;
    for (let bits = 1; bits <= MAX_CODE_BITS; bits++, code <<= 1) {
      this.#offset[bits] = placed - code;
      const before = placed;
      for (let symbol = 0; symbol < lengths.length; symbol++) {
        if (lengths[symbol] !== bits) continue;
        this.#symbols[placed++] = symbol;
        if (bits <= FAST_BITS) {
          const from = code << (FAST_BITS - bits);
          this.#fast.fill((symbol << 5) | bits, from, from + (1 << (FAST_BITS - bits)));
        }
        code += 1;
      }
      if (placed === before) continue;
      this.#limit[bits] = (code << (MAX_CODE_BITS - bits)) - 1;
      this.#longest = bits;
    }
  }

  /** @returns the next symbol, -1 for a code that no symbol has @throws MORE_NEEDED, with nothing taken */
  read(bits: BitReader): number {
    const next = bits.peek(MAX_CODE_BITS);
    const entry = this.#fast[next >>> (MAX_CODE_BITS - FAST_BITS)] as number;
    if (entry !== 0) {
      bits.skip(entry & 31);
      return entry >>> 5;
    }
    for (let length = FAST_BITS + 1; length <= this.#longest; length++) {
      if (next > (this.#limit[length] as number)) continue;
      bits.skip(length);
      const code = next >>> (MAX_CODE_BITS - length);
      return this.#symbols[code + (this.#offset[length] as number)] as number;
    }
    // behind the end there are zeros, which may look like no code
    bits.skip(MAX_CODE_BITS);
    return -1;
  }
}
