/**
 * Thrown by `BitReader` when the bytes given so far do not hold what was asked for: give more, and ask again. Always this
 * one, since a new error for each piece would cost more than the bits.
 */
export const MORE_NEEDED = new Error('more bytes are needed');

/** Reads numbers of up to 24 bits, the highest bit first, out of pieces that come one after the other. */
export class BitReader {
  #bytes: Uint8Array = new Uint8Array(0);
  /** In bits, from the beginning of `#bytes`. */
  #at = 0;

  /** Appends a piece; what was read before is forgotten. */
  give(piece: Uint8Array): void {
    const begin = this.#at >>> 3;
    this.#bytes = Buffer.concat([this.#bytes.subarray(begin), piece]);
    this.#at &= 7;
  }

  /** Where it is; valid until more is given, and to go back to. */
  get position(): number {
    return this.#at;
  }

  set position(bits: number) {
    this.#at = bits;
  }

  get leftBits(): number {
    return this.#bytes.length * 8 - this.#at;
  }

  /** The next `bits` without taking them, filled up with zeros behind the end. */
  peek(bits: number): number {
    const first = this.#at >>> 3;
    const bytes = this.#bytes;
    // the four bytes are there but at the very end
    const word =
      first + 4 <= bytes.length
        ? ((bytes[first] as number) << 24) |
          ((bytes[first + 1] as number) << 16) |
          ((bytes[first + 2] as number) << 8) |
          (bytes[first + 3] as number)
        : ((bytes[first] ?? 0) << 24) | ((bytes[first + 1] ?? 0) << 16) | ((bytes[first + 2] ?? 0) << 8);
    return (word << (this.#at & 7)) >>> (32 - bits);
  }

  /** @throws MORE_NEEDED, with nothing taken */
  read(bits: number): number {
    const value = this.peek(bits);
    this.skip(bits);
    return value;
  }

  /** A number of 32 bits, with a sign. @throws MORE_NEEDED, with nothing taken */
  readWord(): number {
    this.need(32);
    const high = this.read(16);
    return (high << 16) | this.read(16);
  }

  /** @throws MORE_NEEDED, with nothing taken */
  skip(bits: number): void {
    this.need(bits);
    this.#at += bits;
  }

  /** @throws MORE_NEEDED when there are fewer */
  need(bits: number): void {
    if (this.leftBits < bits) throw MORE_NEEDED;
  }

  /** Leaves out what is left of the byte. */
  toByte(): void {
    this.#at = (this.#at + 7) & ~7;
  }
}
