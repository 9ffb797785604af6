import { BackupError } from '../core/errors.ts';
import { quoted } from './layout.ts';

/** A member of a tar, without its data. */
export interface TarEntry {
  /** Relative, without `./` and trailing slash; `.` is the directory that the tar is made of. */
  readonly path: string;
  readonly type: 'file' | 'directory' | 'symlink' | 'hardlink';
  /** Bytes of data that follow; 0 unless it is a file. */
  readonly size: number;
  /** Permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly uname?: string;
  readonly gname?: string;
  /** Milliseconds since 1970, with a fraction where the file system has one. */
  readonly mtimeMs: number;
  /** Where a symbolic link points to, as it is; for a hard link the path of an earlier member. */
  readonly linkPath?: string;
}

export const BLOCK = 512;
/** The unit that tar programs read and write. */
const RECORD = 20 * BLOCK;
const ZEROS = Buffer.alloc(RECORD + 2 * BLOCK);

const TYPE_FLAG = { file: '0', hardlink: '1', symlink: '2', directory: '5' } as const;

/** What the octal digits of a header field can say. */
const MAX_ID = 0o7777777;
const MAX_SIZE = 0o77777777777;

/** The two zero blocks that end a tar. `tarEnd` pads to whole records, too. */
export const TAR_END: Uint8Array = ZEROS.subarray(0, 2 * BLOCK);

/** The end of a tar of `writtenBytes` so far: two zero blocks, and zeros up to a multiple of 10240 bytes. */
export function tarEnd(writtenBytes: number): Uint8Array {
  const unpadded = (writtenBytes + 2 * BLOCK) % RECORD;
  return ZEROS.subarray(0, 2 * BLOCK + (unpadded === 0 ? 0 : RECORD - unpadded));
}

/** The zeros that fill the last block of a member of `size` bytes. */
export function tarPadding(size: number): Uint8Array {
  const rest = size % BLOCK;
  return ZEROS.subarray(0, rest === 0 ? 0 : BLOCK - rest);
}

/**
 * The header of a member: one block, with a pax header before it where the block can't hold the name, a size over
 * 8 GiB, a large owner or a fraction of a second.
 *
 * @throws BackupError `format-invalid` for an entry that no tar can hold
 */
export function tarHeader(entry: TarEntry): Uint8Array {
  const name = memberName(entry);
  const pax = paxRecords(entry, name);
  if (pax === '') {
    const header = Buffer.alloc(BLOCK);
    writeHeader(header, entry, name, TYPE_FLAG[entry.type]);
    return header;
  }
  const dataBytes = Buffer.byteLength(pax);
  const header = Buffer.alloc(BLOCK + Math.ceil(dataBytes / BLOCK) * BLOCK + BLOCK);
  const paxHeader = { type: 'file', path: '', size: dataBytes, mode: 0, uid: 0, gid: 0, mtimeMs: 0 } as const;
  writeHeader(header.subarray(0, BLOCK), paxHeader, '././@PaxHeader', 'x');
  header.write(pax, BLOCK, 'utf8');
  writeHeader(header.subarray(header.length - BLOCK), entry, name, TYPE_FLAG[entry.type]);
  return header;
}

function memberName({ path, type, size, mtimeMs, linkPath }: TarEntry): string {
  const refuse = (why: string): never => {
    throw new BackupError('format-invalid', `${quoted(path)} can not be a member of a tar: ${why}`);
  };
  if (path === '' || path.includes('\0') || path.startsWith('/'))
    refuse('its name is empty, absolute or holds a NUL');
  if (path.includes('..') && path.split('/').includes('..')) refuse('its name leaves the directory');
  if (!Number.isSafeInteger(size) || size < 0 || (size > 0 && type !== 'file')) refuse(`its size is ${size}`);
  if (!Number.isFinite(mtimeMs)) refuse(`its time is ${mtimeMs}`);
  const isLink = type === 'symlink' || type === 'hardlink';
  if (isLink && (!linkPath || linkPath.includes('\0'))) refuse('the link leads nowhere');
  return type === 'directory' && !path.endsWith('/') ? `${path}/` : path;
}

function paxRecords(entry: TarEntry, name: string): string {
  let records = '';
  if (!fits(name, 100)) records += paxRecord('path', name);
  if (entry.linkPath !== undefined && !fits(entry.linkPath, 100))
    records += paxRecord('linkpath', entry.linkPath);
  if (entry.size > MAX_SIZE) records += paxRecord('size', String(entry.size));
  if (entry.uid > MAX_ID) records += paxRecord('uid', String(entry.uid));
  if (entry.gid > MAX_ID) records += paxRecord('gid', String(entry.gid));
  if (entry.uname !== undefined && !fits(entry.uname, 32)) records += paxRecord('uname', entry.uname);
  if (entry.gname !== undefined && !fits(entry.gname, 32)) records += paxRecord('gname', entry.gname);
  const seconds = entry.mtimeMs / 1000;
  if (!Number.isInteger(seconds) || !isOctal(seconds, MAX_SIZE)) {
    records += paxRecord('mtime', decimalSeconds(entry.mtimeMs));
  }
  return records;
}

/** To the microsecond, and digit by digit: what a division leaves would be read as another time. */
function decimalSeconds(ms: number): string {
  const microseconds = Math.round(Math.abs(ms) * 1000);
  const fraction = String(microseconds % 1e6)
    .padStart(6, '0')
    .replace(/0+$/, '');
  return `${ms < 0 ? '-' : ''}${Math.floor(microseconds / 1e6)}${fraction === '' ? '' : `.${fraction}`}`;
}

/** `length keyword=value`, where the length counts its own digits. */
function paxRecord(keyword: string, value: string): string {
  const rest = Buffer.byteLength(value) + keyword.length + 3;
  let length = rest + String(rest).length;
  // counting its own digits may have given it one more
  length = rest + String(length).length;
  return `${length} ${keyword}=${value}\n`;
}

function writeHeader(block: Buffer, entry: TarEntry, name: string, typeFlag: string): void {
  writeText(block, 0, 100, name);
  writeOctal(block, 100, 8, entry.mode & 0o7777);
  writeOctal(block, 108, 8, isOctal(entry.uid, MAX_ID) ? entry.uid : 0);
  writeOctal(block, 116, 8, isOctal(entry.gid, MAX_ID) ? entry.gid : 0);
  writeOctal(block, 124, 12, isOctal(entry.size, MAX_SIZE) ? entry.size : 0);
  const seconds = Math.floor(entry.mtimeMs / 1000);
  writeOctal(block, 136, 12, isOctal(seconds, MAX_SIZE) ? seconds : 0);
  block.write(typeFlag, 156, 'latin1');
  if (entry.linkPath !== undefined) writeText(block, 157, 100, entry.linkPath);
  block.write('ustar\u000000', 257, 'latin1');
  writeText(block, 265, 32, entry.uname ?? '');
  writeText(block, 297, 32, entry.gname ?? '');
  writeOctal(block, 329, 8, 0);
  writeOctal(block, 337, 8, 0);
  writeOctal(block, 148, 7, headerChecksum(block));
  block[155] = 0x20;
}

/** The sum of a header's bytes, the checksum field counting as spaces. */
export function headerChecksum(block: Uint8Array): number {
  let sum = 8 * 0x20;
  for (let i = 0; i < 148; i += 1) sum += block[i] as number;
  for (let i = 156; i < BLOCK; i += 1) sum += block[i] as number;
  return sum;
}

function fits(text: string, maxBytes: number): boolean {
  return text.length <= maxBytes && isAscii(text);
}

function isAscii(text: string): boolean {
  return /^[\x00-\x7f]*$/.test(text);
}

function isOctal(value: number, max: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= max;
}

/** What does not fit is said in full by the pax header; old readers get as much as there is room for. */
function writeText(block: Buffer, offset: number, length: number, text: string): void {
  if (isAscii(text)) block.write(text, offset, length, 'latin1');
  else block.write(text.replace(/[^ -~]/gu, '?'), offset, length, 'latin1');
}

function writeOctal(block: Buffer, offset: number, length: number, value: number): void {
  block.write(value.toString(8).padStart(length - 1, '0'), offset, length - 1, 'latin1');
}
