import { BackupError } from '../core/errors.ts';
import { quoted } from './layout.ts';
import { BLOCK, headerChecksum } from './tar-writer.ts';

/** One header block as it stands, before pax and GNU extensions are applied. */
export interface RawHeader {
  /** Bytes, for the encoding is not known before the pax header is. */
  readonly path: Buffer;
  readonly linkPath: Buffer;
  readonly typeFlag: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtimeSeconds: number;
  readonly uname: Buffer;
  readonly gname: Buffer;
}

/** A run of real data in a sparse file; what lies between runs is zeros. */
export interface SparseRun {
  readonly offset: number;
  readonly length: number;
}

function damaged(message: string): BackupError {
  return new BackupError('object-damaged', message);
}

/** Reads a header block that is not all zeros. @throws BackupError `object-damaged` */
export function parseHeader(block: Uint8Array, offset: number): RawHeader {
  const buffer = Buffer.from(block.buffer, block.byteOffset, BLOCK);
  const recorded = parseNumber(buffer.subarray(148, 156), 'checksum', offset);
  if (recorded !== headerChecksum(buffer) && recorded !== signedChecksum(buffer)) {
    throw damaged(`no tar header at byte ${offset}: its checksum does not fit`);
  }
  const number = (from: number, length: number, what: string) =>
    parseNumber(buffer.subarray(from, from + length), what, offset);
  const name = untilNul(buffer.subarray(0, 100));
  // GNU's older magic ends in blanks, and it keeps other things where ustar has the prefix
  const isUstar = buffer.toString('latin1', 257, 263) === 'ustar\0';
  const prefix = isUstar ? untilNul(buffer.subarray(345, 500)) : EMPTY;
  return {
    path: prefix.length === 0 ? name : Buffer.concat([prefix, SLASH, name]),
    linkPath: untilNul(buffer.subarray(157, 257)),
    typeFlag: buffer.toString('latin1', 156, 157),
    mode: number(100, 8, 'mode'),
    uid: number(108, 8, 'uid'),
    gid: number(116, 8, 'gid'),
    size: unsigned(number(124, 12, 'size'), 'size', offset),
    mtimeSeconds: number(136, 12, 'mtime'),
    uname: untilNul(buffer.subarray(265, 297)),
    gname: untilNul(buffer.subarray(297, 329)),
  };
}

const EMPTY = Buffer.alloc(0);
const SLASH = Buffer.from('/');

function untilNul(field: Buffer): Buffer {
  const end = field.indexOf(0);
  // copied: the block is overwritten by the next one
  return Buffer.from(end < 0 ? field : field.subarray(0, end));
}

/** Old programs summed the bytes as signed ones. */
function signedChecksum(block: Uint8Array): number {
  let sum = headerChecksum(block);
  for (let i = 0; i < BLOCK; i += 1) {
    if ((i < 148 || i >= 156) && (block[i] as number) >= 0x80) sum -= 0x100;
  }
  return sum;
}

/** Octal digits, or GNU's base-256 for what they can't say. */
function parseNumber(field: Buffer, what: string, offset: number): number {
  const first = field[0] as number;
  if (first === 0x80 || first === 0xff) {
    let value = first === 0xff ? -1n : 0n;
    for (const byte of field.subarray(1)) value = (value << 8n) | BigInt(byte);
    const number = Number(value);
    if (!Number.isSafeInteger(number))
      throw damaged(`tar header at byte ${offset}: its ${what} is too large`);
    return number;
  }
  const text = field
    .toString('latin1')
    .replace(/[\0 ]+$/, '')
    .trimStart();
  if (!/^[0-7]*$/.test(text)) throw damaged(`tar header at byte ${offset}: its ${what} is not a number`);
  return text === '' ? 0 : Number.parseInt(text, 8);
}

function unsigned(value: number, what: string, offset: number): number {
  if (value < 0) throw damaged(`tar header at byte ${offset}: its ${what} is negative`);
  return value;
}

/** The records of a pax header; a keyword that comes twice has its last value, except for GNU's sparse maps. */
export interface PaxRecords {
  readonly values: ReadonlyMap<string, string>;
  /** GNU sparse 0.0 repeats its two keywords, once for each run of data. */
  readonly sparsePairs: readonly string[];
}

/** Reads the data of a pax header. @throws BackupError `object-damaged` */
export function parsePax(data: Buffer): PaxRecords {
  const values = new Map<string, string>();
  const sparsePairs: string[] = [];
  let at = 0;
  while (at < data.length) {
    const space = data.indexOf(0x20, at);
    const digits = space < 0 ? '' : data.toString('latin1', at, space);
    const length = /^\d{1,10}$/.test(digits) ? Number(digits) : 0;
    const end = at + length;
    const equals = data.indexOf(0x3d, space);
    if (length === 0 || end > data.length || equals < 0 || equals >= end || data[end - 1] !== 0x0a) {
      throw damaged('a pax header of the tar holds a record of the wrong length');
    }
    const keyword = decodeName(data.subarray(space + 1, equals));
    const value = data.subarray(equals + 1, end - 1);
    if (keyword === 'GNU.sparse.offset' || keyword === 'GNU.sparse.numbytes') {
      sparsePairs.push(value.toString('latin1'));
    } else if (isUnderstood(keyword)) {
      values.set(keyword, decodeName(value));
    }
    at = end;
  }
  return { values, sparsePairs };
}

/** Extended attributes and the like may hold any bytes; they are not restored. */
function isUnderstood(keyword: string): boolean {
  return keyword.startsWith('GNU.') || /^(?:path|linkpath|size|uid|gid|uname|gname|mtime)$/.test(keyword);
}

/** @throws BackupError `object-damaged` for names that are not UTF-8 */
export function decodeName(bytes: Uint8Array): string {
  try {
    return UTF8.decode(bytes);
  } catch (cause) {
    const shown = quoted(Buffer.from(bytes).toString('latin1'));
    throw new BackupError('object-damaged', `the tar holds a name that is not UTF-8: ${shown}`, { cause });
  }
}

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** @throws BackupError `object-damaged` unless `text` is a whole number from 0 that is exact */
export function parseDecimal(text: string, what: string): number {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value))
    throw damaged(`the tar holds a ${what} that is not a number: ${quoted(text)}`);
  return value;
}

/** Seconds with a fraction, as pax has them. @returns milliseconds, to the microsecond @throws BackupError `object-damaged` */
export function parsePaxTime(text: string): number {
  const match = /^(-?)(\d{1,12})(?:\.(\d{1,20}))?$/.exec(text);
  if (!match) throw damaged(`the tar holds a time that is none: ${quoted(text)}`);
  // apart, and to the microsecond: the product of the whole would not be exact
  const microseconds = Math.round(Number(`0.${match[3] ?? '0'}`) * 1e6);
  const milliseconds = Number(match[2]) * 1000 + microseconds / 1000;
  return match[1] === '-' ? -milliseconds : milliseconds;
}

/** The runs in pairs of offset and length. @throws BackupError `object-damaged` */
export function sparseRuns(numbers: readonly string[]): SparseRun[] {
  if (numbers.length % 2 !== 0) throw damaged('the map of a sparse file in the tar is cut');
  const runs: SparseRun[] = [];
  for (let i = 0; i < numbers.length; i += 2) {
    runs.push({
      offset: parseDecimal(numbers[i] as string, 'sparse offset'),
      length: parseDecimal(numbers[i + 1] as string, 'sparse length'),
    });
  }
  return runs;
}

/**
 * The runs in the fixed fields of GNU's old sparse format: four in the header (at 386), 21 in each extension block
 * (at 0). `more` tells that an extension block follows.
 */
export function parseOldSparse(
  block: Uint8Array,
  place: 'header' | 'extension',
  offset: number,
): { runs: SparseRun[]; more: boolean; realSize: number } {
  const buffer = Buffer.from(block.buffer, block.byteOffset, BLOCK);
  const [from, count, moreAt] = place === 'header' ? ([386, 4, 482] as const) : ([0, 21, 504] as const);
  const runs: SparseRun[] = [];
  for (let i = 0; i < count; i += 1) {
    const at = from + i * 24;
    // an unused field ends the map
    if (buffer[at] === 0) break;
    const number = (field: number, what: string) =>
      unsigned(parseNumber(buffer.subarray(field, field + 12), what, offset), what, offset);
    runs.push({ offset: number(at, 'sparse offset'), length: number(at + 12, 'sparse length') });
  }
  const realSize =
    place === 'header' ? unsigned(parseNumber(buffer.subarray(483, 495), 'size', offset), 'size', offset) : 0;
  return { runs, more: buffer[moreAt] !== 0, realSize };
}
