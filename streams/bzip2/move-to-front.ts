import { RUN_A, RUN_B } from './format.ts';

/** A block as the symbols that are written, the last one being the end mark. */
export interface Symbols {
  /** 1 for each byte that occurs. */
  readonly used: Uint8Array;
  readonly symbols: Uint16Array;
  /** How many different symbols there can be. */
  readonly alphabet: number;
}

/**
 * Every byte becomes its place in a list of all that occur, in which it then comes to the front; a number of bytes that
 * are in front already becomes that number, in digits 1 and 2 of base 2, the lowest first.
 */
export function toSymbols(bytes: Uint8Array): Symbols {
  const used = new Uint8Array(256);
  for (let at = 0; at < bytes.length; at++) used[bytes[at] as number] = 1;
  const list = new Uint8Array(256);
  let count = 0;
  for (let byte = 0; byte < 256; byte++) if (used[byte] === 1) list[count++] = byte;

  const symbols = new Uint16Array(bytes.length + 1);
  let filled = 0;
  let front = 0;
  const flushFront = () => {
    for (let left = front; left > 0; left = (left - 1) >> 1)
      symbols[filled++] = (left & 1) === 1 ? RUN_A : RUN_B;
    front = 0;
  };
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    let moved = list[0] as number;
    if (moved === byte) {
      front += 1;
      continue;
    }
    if (front > 0) flushFront();
    let place = 0;
    while (moved !== byte) {
      place += 1;
      const next = list[place] as number;
      list[place] = moved;
      moved = next;
    }
    list[0] = byte;
    symbols[filled++] = place + 1;
  }
  if (front > 0) flushFront();
  symbols[filled++] = count + 1;
  return { used, symbols: symbols.subarray(0, filled), alphabet: count + 2 };
}
