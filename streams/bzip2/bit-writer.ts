/** Writes numbers of up to 24 bits one after the other, the highest bit first. */
export class BitWriter {
  #bytes = Buffer.allocUnsafeSlow(64 << 10);
  #filled = 0;
  #held = 0;
  #heldBits = 0;

  write(bits: number, value: number): void {
    let held = this.#held;
    let heldBits = this.#heldBits;
    if (this.#filled + 4 > this.#bytes.length) this.#grow();
    while (heldBits >= 8) {
      this.#bytes[this.#filled++] = held >>> 24;
      held <<= 8;
      heldBits -= 8;
    }
    this.#held = held | (value << (32 - bits - heldBits));
    this.#heldBits = heldBits + bits;
  }

  /** A number of 32 bits. */
  writeWord(value: number): void {
    this.write(16, value >>> 16);
    this.write(16, value & 0xffff);
  }

  /** The whole bytes that are there. What is left of the last one stays for the next time. */
  take(): Buffer {
    this.write(0, 0);
    const taken = Buffer.from(this.#bytes.subarray(0, this.#filled));
    this.#filled = 0;
    return taken;
  }

  /** As `take`, with the last byte filled up with zero bits. */
  takeLast(): Buffer {
    this.write((8 - (this.#heldBits & 7)) & 7, 0);
    return this.take();
  }

  #grow(): void {
    const larger = Buffer.allocUnsafeSlow(this.#bytes.length * 2);
    larger.set(this.#bytes);
    this.#bytes = larger;
  }
}
