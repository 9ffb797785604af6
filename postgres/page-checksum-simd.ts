/**
 * The page checksum as a WebAssembly function that mixes four lanes at once, about five times as fast as JavaScript.
 * Assembled here, instruction by instruction, so that no binary lies in the repository. `page-checksum.ts` is the
 * definition; this only says which pages deserve its look.
 */

/** What a page header's fields are offset by, and the constants of the checksum. */
export interface ChecksumLayout {
  readonly checksumOffset: number;
  readonly upperOffset: number;
  /** 32 of them. */
  readonly baseOffsets: Uint8Array;
  readonly prime: number;
}

/**
 * Counts the pages in `bytes` that are not plainly intact: a wrong checksum, or a header that says "new".
 *
 * @param bytes at most `MAX_BYTES`, whole pages
 */
export type CountSuspects = (bytes: Uint8Array, firstBlock: number, blockSize: number) => number;

/** As much of the global as is used: the compiler's settings are without a browser's types. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: Readonly<Record<string, unknown>> };
};

const WASM_PAGE = 64 * 1024;
/** Where the pages are put; the constants lie before. */
const PAGES_AT = 1024;
const MEMORY_PAGES = 17;
/** More than the largest piece that is read at once. */
export const MAX_BYTES = (MEMORY_PAGES - 1) * WASM_PAGE;

/** @returns `undefined` where the machine has no SIMD for WebAssembly */
export function createCountSuspects(layout: ChecksumLayout): CountSuspects | undefined {
  try {
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(assemble(layout)));
    const memory = new Uint8Array((exports['memory'] as { readonly buffer: ArrayBuffer }).buffer);
    memory.set(layout.baseOffsets);
    const count = exports['count'] as (pages: number, firstBlock: number, blockSize: number) => number;
    return (bytes, firstBlock, blockSize) => {
      memory.set(bytes, PAGES_AT);
      return count(Math.floor(bytes.length / blockSize), firstBlock, blockSize);
    };
  } catch {
    return undefined;
  }
}

type Code = readonly number[];

const get = (local: number): Code => [0x20, local];
const set = (local: number, value: Code): Code => [...value, 0x21, local];
const constant = (value: number): Code => [0x41, ...signed(value)];
const binary =
  (...opcode: number[]) =>
  (a: Code, b: Code): Code => [...a, ...b, ...opcode];
const add = binary(0x6a);
const subtract = binary(0x6b);
const xor = binary(0x73);
const and = binary(0x71);
const remainder = binary(0x70);
const notEqual = binary(0x47);
const or = binary(0x72);
const lessThan = binary(0x49);
const isZero = (value: Code): Code => [...value, 0x45];
const load = (address: Code, offset: number): Code => [...address, 0x28, 2, ...unsigned(offset)];
const load16 = (address: Code, offset: number): Code => [...address, 0x2f, 1, ...unsigned(offset)];
const store = (address: Code, value: Code, offset: number): Code => [
  ...address,
  ...value,
  0x36,
  2,
  ...unsigned(offset),
];
const store16 = (address: Code, value: Code, offset: number): Code => [
  ...address,
  ...value,
  0x3b,
  1,
  ...unsigned(offset),
];
const loop = (body: Code): Code => [0x03, 0x40, ...body, 0x0b];
const when = (condition: Code, body: Code): Code => [...condition, 0x04, 0x40, ...body, 0x0b];
const again = (condition: Code): Code => [...condition, 0x0d, 0];
// Four lanes at once.
const load4 = (address: Code, offset: number): Code => [...address, 0xfd, 0, 4, ...unsigned(offset)];
const splat = (value: Code): Code => [...value, 0xfd, 0x11];
const xor4 = binary(0xfd, 0x51);
const multiply4 = binary(0xfd, 0xb5, 0x01);
const shiftRight4 = (value: Code, bits: number): Code => [...value, ...constant(bits), 0xfd, 0xad, 0x01];
const lane = (value: Code, index: number): Code => [...value, 0xfd, 0x1b, index];

const [PAGES, BLOCK, SIZE, SUSPECTS, PAGE, AT, END, KEPT, RESULT] = [0, 1, 2, 3, 4, 5, 6, 7, 8] as const;
const SUMS = [9, 10, 11, 12, 13, 14, 15, 16] as const;
const MIXED = 17;
const PRIME = 18;
const ROW_BYTES = 128;

function assemble({ checksumOffset, upperOffset, prime }: ChecksumLayout): Uint8Array<ArrayBuffer> {
  const page = get(PAGE);
  /** One step of the checksum on four lanes: FNV-1a, with a shift that PostgreSQL added. */
  const mix = (sum: number, value: Code): Code => [
    ...set(MIXED, value),
    ...set(sum, xor4(multiply4(get(MIXED), get(PRIME)), shiftRight4(get(MIXED), 17))),
  ];
  const rows = loop([
    ...SUMS.flatMap((sum, index) => mix(sum, xor4(get(sum), load4(get(AT), 16 * index)))),
    ...set(AT, add(get(AT), constant(ROW_BYTES))),
    ...again(lessThan(get(AT), get(END))),
  ]);
  const folded = SUMS.slice(1).reduce<Code>((all, sum) => xor4(all, get(sum)), get(SUMS[0]));
  const lanes = [1, 2, 3].reduce<Code>(
    (all, index) => xor(all, lane(get(SUMS[0]), index)),
    lane(get(SUMS[0]), 0),
  );
  const onePage: Code = [
    ...set(KEPT, load(page, checksumOffset)),
    ...store16(page, constant(0), checksumOffset),
    ...SUMS.flatMap((sum, index) => set(sum, load4(constant(0), 16 * index))),
    ...set(AT, page),
    ...set(END, add(page, get(SIZE))),
    ...rows,
    ...SUMS.flatMap((sum) => [...mix(sum, get(sum)), ...mix(sum, get(sum))]),
    ...set(SUMS[0], folded),
    ...store(page, get(KEPT), checksumOffset),
    ...set(RESULT, add(remainder(xor(lanes, get(BLOCK)), constant(65_535)), constant(1))),
    ...when(
      or(isZero(load16(page, upperOffset)), notEqual(get(RESULT), and(get(KEPT), constant(0xffff)))),
      set(SUSPECTS, add(get(SUSPECTS), constant(1))),
    ),
    ...set(PAGE, add(page, get(SIZE))),
    ...set(BLOCK, add(get(BLOCK), constant(1))),
    ...set(PAGES, subtract(get(PAGES), constant(1))),
    ...again(get(PAGES)),
  ];
  const body: Code = [
    ...set(PRIME, splat(constant(prime))),
    ...set(PAGE, constant(PAGES_AT)),
    ...when(get(PAGES), loop(onePage)),
    ...get(SUSPECTS),
  ];
  return wasmModule(body);
}

/** A module of one function, `count`, of three numbers to one, and its `memory`. */
function wasmModule(body: Code): Uint8Array<ArrayBuffer> {
  const [i32, v128] = [0x7f, 0x7b];
  /** Six numbers, then ten vectors. */
  const locals = [2, 6, i32, 10, v128];
  const code = [...locals, ...body, 0x0b];
  const name = (text: string) => [text.length, ...Buffer.from(text)];
  const magicAndVersion = [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
  return Uint8Array.from([
    ...magicAndVersion,
    ...section(1, [1, 0x60, 3, i32, i32, i32, 1, i32]),
    ...section(3, [1, 0]),
    ...section(5, [1, 0, MEMORY_PAGES]),
    ...section(7, [2, ...name('count'), 0, 0, ...name('memory'), 2, 0]),
    ...section(10, [1, ...unsigned(code.length), ...code]),
  ]);
}

function section(id: number, content: Code): Code {
  return [id, ...unsigned(content.length), ...content];
}

/** A number in LEB128. */
function unsigned(value: number): Code {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(value >>> 7)];
}

function signed(value: number): Code {
  const low = value & 0x7f;
  const rest = value >> 7;
  const isLast = (rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0);
  return isLast ? [low] : [low | 0x80, ...signed(rest)];
}
