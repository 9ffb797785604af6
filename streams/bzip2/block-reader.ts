import type { BitReader } from './bit-reader.ts';
import { DecodeTable } from './decode-table.ts';
import { GROUP_SYMBOLS, LEVEL_BYTES, MAX_CODE_BITS, MAX_TABLES, RUN_B } from './format.ts';

/** The head of a block: what its symbols mean. */
interface BlockHead {
  readonly crc: number;
  readonly originRow: number;
  /** The bytes that occur, in their order. */
  readonly list: Uint8Array;
  readonly tables: readonly DecodeTable[];
  /** The table of each group of symbols. */
  readonly choice: Uint8Array;
}

/** A block before its rotations are undone: the low 8 bits of `cells` are the last column. */
export interface ReadBlock {
  readonly crc: number;
  readonly originRow: number;
  readonly cells: Int32Array;
  readonly filled: number;
}

/** How far the symbols of a block are read. */
interface Progress {
  readonly filled: number;
  readonly group: number;
  readonly leftInGroup: number;
  /** Bytes of the run that its digits say so far, and what the next digit counts. */
  readonly run: number;
  readonly runDigit: number;
}

const BEGIN: Progress = { filled: 0, group: -1, leftInGroup: 0, run: 0, runDigit: 1 };

/** Reads the blocks of streams. Says what is wrong by `fail`, which throws. */
export class BlockReader {
  readonly #bits: BitReader;
  readonly #fail: (what: string) => never;
  /** Kept from stream to stream: there may be thousands of short ones, and 3.6 MB for each would be a weapon. */
  #cells = new Int32Array(0);
  #blockBytes = 0;
  #head: BlockHead | undefined;
  #progress = BEGIN;

  constructor(bits: BitReader, fail: (what: string) => never) {
    this.#bits = bits;
    this.#fail = fail;
  }

  /** The blocks that follow are of a stream of this level. */
  beginStream(level: number): void {
    this.#blockBytes = level * LEVEL_BYTES;
  }

  /** The block behind a block mark; when called again after MORE_NEEDED it goes on. @throws MORE_NEEDED */
  read(): ReadBlock {
    if (this.#cells.length < this.#blockBytes) this.#cells = new Int32Array(this.#blockBytes);
    if (this.#head === undefined) {
      const begin = this.#bits.position;
      try {
        this.#head = this.#readHead();
      } catch (error) {
        this.#bits.position = begin;
        throw error;
      }
      this.#progress = BEGIN;
    }
    this.#readSymbols(this.#head);
    const { crc, originRow } = this.#head;
    const { filled } = this.#progress;
    this.#head = undefined;
    if (originRow >= filled) this.#fail('has a bzip2 block whose origin lies outside of it');
    return { crc, originRow, cells: this.#cells, filled };
  }

  #readHead(): BlockHead {
    const bits = this.#bits;
    const crc = bits.readWord();
    if (bits.read(1) === 1) {
      this.#fail('has a randomised bzip2 block, which nobody has written since 1998');
    }
    const originRow = bits.read(24);
    const list = this.#readUsed();
    const count = bits.read(3);
    if (count < 2 || count > MAX_TABLES) this.#fail(`has a bzip2 block of ${count} code tables`);
    const choice = this.#readChoice(bits.read(15), count);
    const tables = Array.from({ length: count }, () => this.#readTable(list.length + 2));
    return { crc, originRow, list, tables, choice };
  }

  #readUsed(): Uint8Array {
    const sixteenths = this.#bits.read(16);
    const list: number[] = [];
    for (let high = 0; high < 16; high++) {
      if (((sixteenths >> (15 - high)) & 1) === 0) continue;
      const map = this.#bits.read(16);
      for (let low = 0; low < 16; low++) if (((map >> (15 - low)) & 1) === 1) list.push(high * 16 + low);
    }
    if (list.length === 0) this.#fail('has a bzip2 block that uses no byte');
    return Uint8Array.from(list);
  }

  #readChoice(groups: number, count: number): Uint8Array {
    if (groups === 0) this.#fail('has a bzip2 block without symbols');
    const choice = new Uint8Array(groups);
    const list = Array.from({ length: count }, (_, table) => table);
    for (let group = 0; group < groups; group++) {
      let place = 0;
      while (this.#bits.read(1) === 1) {
        place += 1;
        if (place >= count) this.#fail('has a bzip2 block that asks for a code table which is not there');
      }
      const [table = 0] = list.splice(place, 1);
      list.unshift(table);
      choice[group] = table;
    }
    return choice;
  }

  #readTable(alphabet: number): DecodeTable {
    const lengths = new Uint8Array(alphabet);
    let current = this.#bits.read(5);
    for (let symbol = 0; symbol < alphabet; symbol++) {
      for (let steps = 0; ; steps++) {
        if (current < 1 || current > MAX_CODE_BITS) this.#fail(`has a bzip2 code of ${current} bits`);
        if (this.#bits.read(1) === 0) break;
        // to and fro without end the head of a block would be, which is kept until it is read as a whole
        if (steps > MAX_CODE_BITS) this.#fail('has a bzip2 code table that does not end');
        current += this.#bits.read(1) === 0 ? 1 : -1;
      }
      lengths[symbol] = current;
    }
    return DecodeTable.of(lengths) ?? this.#fail('has a bzip2 code table with more codes than there can be');
  }

  /** Symbols become bytes again, in the low 8 bits of the cells. What it has when more is needed stays. */
  #readSymbols({ tables, choice, list }: BlockHead): void {
    const bits = this.#bits;
    const cells = this.#cells;
    const most = this.#blockBytes;
    const end = list.length + 1;
    let { filled, group, leftInGroup, run, runDigit } = this.#progress;
    let table = tables[choice[group] ?? 0] as DecodeTable;
    try {
      for (;;) {
        if (leftInGroup === 0) {
          if (group + 1 >= choice.length) this.#fail('has a bzip2 block that goes on behind its last symbol');
          group += 1;
          leftInGroup = GROUP_SYMBOLS;
          table = tables[choice[group] as number] as DecodeTable;
        }
        const symbol = table.read(bits);
        leftInGroup -= 1;
        if (symbol < 0) this.#fail('has a bzip2 block with a code that means nothing');
        if (symbol <= RUN_B) {
          run += (symbol + 1) * runDigit;
          runDigit *= 2;
          if (filled + run > most) this.#tooLong();
          continue;
        }
        if (run > 0) {
          cells.fill(list[0] as number, filled, filled + run);
          filled += run;
          run = 0;
          runDigit = 1;
        }
        if (symbol === end) return;
        if (filled >= most) this.#tooLong();
        const byte = list[symbol - 1] as number;
        for (let at = symbol - 1; at > 0; at--) list[at] = list[at - 1] as number;
        list[0] = byte;
        cells[filled++] = byte;
      }
    } finally {
      this.#progress = { filled, group, leftInGroup, run, runDigit };
    }
  }

  #tooLong(): never {
    return this.#fail('has a bzip2 block that is longer than its stream allows');
  }
}
