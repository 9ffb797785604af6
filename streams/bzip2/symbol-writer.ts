import type { BitWriter } from './bit-writer.ts';
import { GROUP_SYMBOLS } from './format.ts';
import type { Symbols } from './move-to-front.ts';
import { codeLengths, codesOf } from './prefix-code.ts';

const PASSES = 4;

/** Writes the bytes that are used, the tables, which group of symbols uses which table, and the symbols. */
export function writeSymbols(out: BitWriter, { used, symbols, alphabet }: Symbols): void {
  const tables = chooseTables(symbols, alphabet);
  writeUsed(out, used);
  out.write(3, tables.lengths.length);
  out.write(15, tables.choice.length);
  writeChoice(out, tables.choice, tables.lengths.length);
  for (const lengths of tables.lengths) writeLengths(out, lengths);
  const codes = tables.lengths.map(codesOf);
  for (let group = 0, from = 0; group < tables.choice.length; group++, from += GROUP_SYMBOLS) {
    const table = tables.choice[group] as number;
    const code = codes[table] as Int32Array;
    const length = tables.lengths[table] as Uint8Array;
    const end = Math.min(from + GROUP_SYMBOLS, symbols.length);
    for (let at = from; at < end; at++) {
      const symbol = symbols[at] as number;
      out.write(length[symbol] as number, code[symbol] as number);
    }
  }
}

interface Tables {
  readonly lengths: readonly Uint8Array[];
  /** The table of each group of symbols. */
  readonly choice: Uint8Array;
}

/** Begins with tables for the small, the middle and the great symbols, and improves them with what each group takes. */
function chooseTables(symbols: Uint16Array, alphabet: number): Tables {
  const count = tableCount(symbols.length);
  const choice = new Uint8Array(Math.ceil(symbols.length / GROUP_SYMBOLS));
  let lengths = firstTables(symbols, alphabet, count);
  for (let pass = 0; pass < PASSES; pass++) {
    const taken = Array.from({ length: count }, () => new Int32Array(alphabet));
    for (let group = 0, from = 0; group < choice.length; group++, from += GROUP_SYMBOLS) {
      const end = Math.min(from + GROUP_SYMBOLS, symbols.length);
      const best = cheapest(symbols, from, end, lengths);
      choice[group] = best;
      const frequencies = taken[best] as Int32Array;
      for (let at = from; at < end; at++) {
        const symbol = symbols[at] as number;
        frequencies[symbol] = (frequencies[symbol] as number) + 1;
      }
    }
    lengths = taken.map((frequencies) => codeLengths(frequencies, alphabet));
  }
  return { lengths, choice };
}

function tableCount(symbols: number): number {
  if (symbols < 200) return 2;
  if (symbols < 600) return 3;
  if (symbols < 1200) return 4;
  return symbols < 2400 ? 5 : 6;
}

/** Each table is cheap for its share of all occurrences, and dear for the rest. */
function firstTables(symbols: Uint16Array, alphabet: number, count: number): Uint8Array[] {
  const frequencies = new Int32Array(alphabet);
  for (let at = 0; at < symbols.length; at++) {
    const symbol = symbols[at] as number;
    frequencies[symbol] = (frequencies[symbol] as number) + 1;
  }
  const tables: Uint8Array[] = [];
  let left = symbols.length;
  for (let symbol = 0, table = 0; table < count; table++) {
    const share = Math.floor(left / (count - table));
    const lengths = new Uint8Array(alphabet).fill(15);
    for (let got = 0; symbol < alphabet && (got < share || table === count - 1); symbol++) {
      lengths[symbol] = 0;
      got += frequencies[symbol] as number;
      left -= frequencies[symbol] as number;
    }
    tables.push(lengths);
  }
  return tables;
}

function cheapest(symbols: Uint16Array, from: number, end: number, tables: readonly Uint8Array[]): number {
  let best = 0;
  let bestCost = Number.POSITIVE_INFINITY;
  for (let table = 0; table < tables.length; table++) {
    const lengths = tables[table] as Uint8Array;
    let cost = 0;
    for (let at = from; at < end; at++) cost += lengths[symbols[at] as number] as number;
    if (cost < bestCost) {
      best = table;
      bestCost = cost;
    }
  }
  return best;
}

/** A map of 16 bits: which sixteenths of all bytes occur at all; and a map of each of these. */
function writeUsed(out: BitWriter, used: Uint8Array): void {
  const maps = Array.from({ length: 16 }, (_, high) =>
    used.subarray(high * 16, high * 16 + 16).reduce((map, is) => (map << 1) | is, 0),
  );
  out.write(
    16,
    maps.reduce((map, sixteenth) => (map << 1) | (sixteenth === 0 ? 0 : 1), 0),
  );
  for (const map of maps) if (map !== 0) out.write(16, map);
}

/** Which table each group uses: its place in a list in which it comes to the front, as so many ones and a zero. */
function writeChoice(out: BitWriter, choice: Uint8Array, count: number): void {
  const list = Array.from({ length: count }, (_, table) => table);
  for (const table of choice) {
    const place = list.indexOf(table);
    list.splice(place, 1);
    list.unshift(table);
    for (let one = 0; one < place; one++) out.write(1, 1);
    out.write(1, 0);
  }
}

/** The first length, and steps to the next ones: `10` one up, `11` one down, `0` there. */
function writeLengths(out: BitWriter, lengths: Uint8Array): void {
  let current = lengths[0] as number;
  out.write(5, current);
  for (const length of lengths) {
    for (; current < length; current++) out.write(2, 2);
    for (; current > length; current--) out.write(2, 3);
    out.write(1, 0);
  }
}
