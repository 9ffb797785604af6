import { parseWalHeader, WAL_PAGE_MAGIC } from './wal-page.ts';
import { scanSegment } from './wal-records.ts';

/**
 * How far the records of a segment go: `end`: to its end, or to where PostgreSQL switched to the next one · `early`:
 * they stop before it · `unknown`: nothing in it lets one tell.
 */
export type RecordsEnd = 'end' | 'early' | 'unknown';

const LONG_HEADER = 40;
const SHORT_HEADER = 24;
const RECORD_HEADER = 24;
const IS_OVERWRITTEN = 0x0008;
const RM_XLOG = 0;
const XLOG_SWITCH = 0x40;

/**
 * Reads all records of a segment, each with its checksum, and tells whether they go through it. A segment that
 * PostgreSQL finished, because it went on in the next one, never ends `early`: it is damaged, or was copied too soon.
 *
 * @throws BackupError `format-invalid` when this is not a segment
 * @see PostgreSQL `xlogreader.c`
 */
export function recordsEnd(segment: Uint8Array): RecordsEnd {
  const { pageAddress, blockSize } = parseWalHeader(segment, { segmentSize: segment.length });
  const { lastRecordLsn, unfinished } = scanSegment(segment);
  if (unfinished) return 'end';
  if (lastRecordLsn === undefined) return 'unknown';
  const view = new DataView(segment.buffer, segment.byteOffset, segment.byteLength);
  const little = WAL_PAGE_MAGIC.has(view.getUint16(0, true));
  const begin = Number(lastRecordLsn - pageAddress);
  const header = bytesFrom(segment, begin, RECORD_HEADER, blockSize);
  const isSwitch = header.bytes[17] === RM_XLOG && ((header.bytes[16] ?? 0) & 0xf0) === XLOG_SWITCH;
  if (isSwitch) return 'end';
  const { end } = bytesFrom(segment, begin, view.getUint32(begin, little), blockSize);
  if (((end + 7) & ~7) >= segment.length) return 'end';
  // After a crash in the middle of a record PostgreSQL may leave its beginning and go on at a page behind it.
  for (let page = end - (end % blockSize); page < segment.length; page += blockSize) {
    if ((view.getUint16(page + 2, little) & IS_OVERWRITTEN) !== 0) return 'unknown';
  }
  return 'early';
}

/** Bytes of a record, over the headers of pages in between, and where they end. */
function bytesFrom(
  segment: Uint8Array,
  begin: number,
  length: number,
  blockSize: number,
): { bytes: Uint8Array; end: number } {
  const pieces: Uint8Array[] = [];
  let at = begin;
  for (let left = length; left > 0 && at < segment.length;) {
    if (at % blockSize === 0) at += at === 0 ? LONG_HEADER : SHORT_HEADER;
    const room = Math.min(left, blockSize - (at % blockSize));
    // what counts is at the beginning
    if (pieces.length < 2) pieces.push(segment.subarray(at, at + room));
    at += room;
    left -= room;
  }
  return { bytes: Buffer.concat(pieces), end: at };
}
