import { toLsn, type Lsn } from '../core/lsn.ts';
import type { Micros } from '../core/target-time.ts';
import { crc32c } from './crc32c.ts';
import { parseWalHeader } from './wal-page.ts';

/** What the records that end in one segment say. */
export interface SegmentRecords {
  readonly records: number;
  /** The newest commit or abort, as PostgreSQL compares it with `recovery_target_time`. */
  readonly newestCommit?: Micros;
  /** Where the last whole record begins. */
  readonly lastRecordLsn?: Lsn;
  /** A record that goes on in the next segment: to be given to the scan of that one. */
  readonly unfinished?: UnfinishedRecord;
}

export interface UnfinishedRecord {
  readonly beginsAt: Lsn;
  readonly bytes: Uint8Array;
}

const SHORT_HEADER = 24;
const LONG_HEADER = 40;
const RECORD_HEADER = 24;
const CRC_OFFSET = 20;
const FIRST_IS_CONTINUATION = 0x0001;
/** Written after a crash in the middle of a record: what was begun before is never finished. */
const FIRST_IS_OVERWRITTEN = 0x0008;
const RM_XLOG = 0;
const RM_XACT = 1;
const XLOG_SWITCH = 0x40;
/** Commit, abort, and the two of prepared transactions: they carry the time recovery looks at. */
const ENDS_OF_TRANSACTIONS = [0x00, 0x20, 0x30, 0x40];
const XACT_OPERATION = 0x70;
/** Seconds from 1970 to 2000, where PostgreSQL's times begin. */
const POSTGRES_EPOCH = 946_684_800n * 1_000_000n;
/** PostgreSQL refuses to write larger ones. */
const LARGEST_RECORD = 1020 * 1024 * 1024;

/**
 * Reads the records of one segment of PostgreSQL 13 to 18, as far as they are whole: up to the first place where no
 * valid record follows, the end of WAL.
 *
 * @param before what the scan of the segment before left unfinished; without it a record that began there is skipped
 * @throws BackupError `format-invalid` when this is not a segment
 * @see PostgreSQL `xlogreader.c`, `XLogReadRecord`, and `xact.h`
 */
export function scanSegment(segment: Uint8Array, before?: UnfinishedRecord): SegmentRecords {
  return new Scan(segment).run(before);
}

class Scan {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #start: bigint;
  readonly #magic: number;
  readonly #blockSize: number;
  readonly #little: boolean;
  /** Offset in the segment. */
  #at = LONG_HEADER;
  #records = 0;
  #newestCommit: Micros | undefined;
  #last: Lsn | undefined;
  #previous: bigint | undefined;

  constructor(segment: Uint8Array) {
    const header = parseWalHeader(segment, { segmentSize: segment.length });
    this.#bytes = segment;
    this.#view = new DataView(segment.buffer, segment.byteOffset, segment.byteLength);
    this.#start = header.pageAddress;
    this.#magic = header.magic;
    this.#blockSize = header.blockSize;
    this.#little = this.#view.getUint16(0, true) === header.magic;
  }

  run(before: UnfinishedRecord | undefined): SegmentRecords {
    const rest = this.#begin(before);
    return {
      records: this.#records,
      ...(this.#newestCommit === undefined ? {} : { newestCommit: this.#newestCommit }),
      ...(this.#last === undefined ? {} : { lastRecordLsn: this.#last }),
      ...(rest === undefined ? {} : { unfinished: rest }),
    };
  }

  #begin(before: UnfinishedRecord | undefined): UnfinishedRecord | undefined {
    const flags = this.#view.getUint16(2, this.#little);
    const remaining = this.#view.getUint32(16, this.#little);
    if ((flags & FIRST_IS_CONTINUATION) === 0) return this.#readRecords();
    const isOverwritten = (flags & FIRST_IS_OVERWRITTEN) !== 0;
    const tail = this.#read(remaining);
    if (tail.length < remaining) {
      // the record fills this segment and goes on
      const isKnown = before !== undefined && !isOverwritten && this.#at >= this.#bytes.length;
      return isKnown ? { beginsAt: before.beginsAt, bytes: Buffer.concat([before.bytes, tail]) } : undefined;
    }
    if (before !== undefined && !isOverwritten) {
      const record = Buffer.concat([before.bytes, tail]);
      if (this.#isWhole(record, undefined)) this.#take(record, before.beginsAt);
    }
    this.#align();
    return this.#readRecords();
  }

  #readRecords(): UnfinishedRecord | undefined {
    for (;;) {
      if (!this.#enterPage()) return undefined;
      const beginsAt = this.#start + BigInt(this.#at);
      // a header never crosses a page with its first four bytes: records are aligned
      const length = this.#view.getUint32(this.#at, this.#little);
      if (length < RECORD_HEADER || length > LARGEST_RECORD) return undefined;
      const record = this.#read(length);
      if (record.length < length) {
        return this.#at >= this.#bytes.length ? { beginsAt: toLsn(beginsAt), bytes: record } : undefined;
      }
      if (!this.#isWhole(record, this.#previous)) return undefined;
      this.#take(record, beginsAt);
      if (isSwitch(record)) return undefined;
      this.#align();
    }
  }

  /** Moves behind the header of a page that begins here. @returns false at the end of the segment or of what was written */
  #enterPage(): boolean {
    if (this.#at >= this.#bytes.length) return false;
    if (this.#at % this.#blockSize !== 0) return true;
    const isOurs =
      this.#view.getUint16(this.#at, this.#little) === this.#magic &&
      this.#view.getBigUint64(this.#at + 8, this.#little) === this.#start + BigInt(this.#at);
    if (!isOurs) return false;
    this.#at += this.#at === 0 ? LONG_HEADER : SHORT_HEADER;
    return true;
  }

  /** The next bytes of records, over as many pages as they have; fewer at the end. */
  #read(length: number): Uint8Array {
    const inPage = this.#blockSize - (this.#at % this.#blockSize);
    if (this.#at % this.#blockSize !== 0 && length <= inPage) {
      const piece = this.#bytes.subarray(this.#at, this.#at + length);
      this.#at += length;
      return piece;
    }
    const pieces: Uint8Array[] = [];
    for (let left = length; left > 0;) {
      if (!this.#enterPage()) break;
      const room = Math.min(left, this.#blockSize - (this.#at % this.#blockSize));
      pieces.push(this.#bytes.subarray(this.#at, this.#at + room));
      this.#at += room;
      left -= room;
    }
    return Buffer.concat(pieces);
  }

  #align(): void {
    this.#at = (this.#at + 7) & ~7;
  }

  #isWhole(record: Uint8Array, previous: bigint | undefined): boolean {
    const view = viewOf(record);
    if (view.getUint32(0, this.#little) !== record.length) return false;
    if (previous !== undefined && view.getBigUint64(8, this.#little) !== previous) return false;
    const checked = Buffer.concat([record.subarray(RECORD_HEADER), record.subarray(0, CRC_OFFSET)]);
    return crc32c(checked) === view.getUint32(CRC_OFFSET, this.#little);
  }

  #take(record: Uint8Array, beginsAt: bigint): void {
    this.#records += 1;
    this.#previous = beginsAt;
    this.#last = toLsn(beginsAt);
    const time = endOfTransaction(record, this.#little);
    if (time !== undefined && (this.#newestCommit === undefined || time > this.#newestCommit))
      this.#newestCommit = time;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function isSwitch(record: Uint8Array): boolean {
  return record[17] === RM_XLOG && ((record[16] as number) & 0xf0) === XLOG_SWITCH;
}

/** The time of a commit or abort record: the first eight bytes of its main data. */
function endOfTransaction(record: Uint8Array, little: boolean): Micros | undefined {
  if (record[17] !== RM_XACT || !ENDS_OF_TRANSACTIONS.includes((record[16] as number) & XACT_OPERATION))
    return undefined;
  const view = viewOf(record);
  for (let at = RECORD_HEADER; at < record.length;) {
    const id = record[at];
    if (id === 255) return timeAt(view, at + 2, little);
    if (id === 254) return timeAt(view, at + 5, little);
    // origin of a replicated transaction, or the id of the top transaction
    if (id === 253) at += 3;
    else if (id === 252) at += 5;
    else return undefined;
  }
  return undefined;
}

function timeAt(view: DataView, at: number, little: boolean): Micros | undefined {
  return at + 8 <= view.byteLength ? view.getBigInt64(at, little) + POSTGRES_EPOCH : undefined;
}
