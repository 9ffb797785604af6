import { BackupError } from '../core/errors.ts';
import { isSegmentSize } from '../core/segment.ts';
import { formatLsn, toLsn, type Lsn } from '../core/lsn.ts';

/** What the first page of a WAL segment says about the segment. */
export interface WalHeader {
  /** `XLOG_PAGE_MAGIC`, which changes with every major version. */
  readonly magic: number;
  /** The PostgreSQL major version that writes this magic. */
  readonly majorVersion: number;
  /** The system identifier, an unsigned 64-bit number in decimal digits, as `pg_controldata` prints it. */
  readonly systemId: string;
  /**
   * The timeline on which this *page* was written. In the first segment after a promotion that is an ancestor of
   * the timeline in the file's name: PostgreSQL copies the old segment up to the switch.
   */
  readonly timeline: number;
  /** The position of the first byte of the page, so of the segment. */
  readonly pageAddress: Lsn;
  /** `wal_segment_size` in bytes. */
  readonly segmentSize: number;
  /** `wal_block_size` in bytes. */
  readonly blockSize: number;
}

/** Bytes of the long page header; so many are enough for `parseWalHeader`. */
export const WAL_HEADER_BYTES = 40;

/** `XLOG_PAGE_MAGIC` by major version. @see PostgreSQL `src/include/access/xlog_internal.h` */
export const WAL_PAGE_MAGIC: ReadonlyMap<number, number> = new Map([
  [0xd106, 13],
  [0xd10d, 14],
  [0xd110, 15],
  [0xd113, 16],
  [0xd116, 17],
  [0xd118, 18],
]);

const XLP_LONG_HEADER = 0x0002;
const XLP_ALL_FLAGS = 0x000f;

/**
 * The long header on the first page of a WAL segment, of either byte order.
 *
 * @param bytes the beginning of the segment, at least `WAL_HEADER_BYTES`
 * @param expected `segmentSize` in bytes, where it is known already
 * @throws BackupError `format-invalid` when this is not the beginning of a segment of PostgreSQL 13 to 18
 * @see PostgreSQL `XLogLongPageHeaderData`
 */
export function parseWalHeader(bytes: Uint8Array, expected: { segmentSize?: number } = {}): WalHeader {
  if (bytes.length < WAL_HEADER_BYTES) {
    throw new BackupError(
      'format-invalid',
      `a WAL header has ${WAL_HEADER_BYTES} bytes, got ${bytes.length}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  // The server's own byte order; a repository may be read on a machine of the other one.
  const little = WAL_PAGE_MAGIC.has(view.getUint16(0, true));
  const magic = view.getUint16(0, little);
  const majorVersion = WAL_PAGE_MAGIC.get(magic);
  if (majorVersion === undefined) {
    const found = `0x${view.getUint16(0, true).toString(16).toUpperCase().padStart(4, '0')}`;
    throw new BackupError('format-invalid', `no WAL page of PostgreSQL 13 to 18: its magic is ${found}`);
  }

  const info = view.getUint16(2, little);
  if ((info & XLP_LONG_HEADER) === 0 || (info & ~XLP_ALL_FLAGS) !== 0) {
    throw new BackupError(
      'format-invalid',
      `not the first page of a WAL segment: xlp_info is 0x${info.toString(16)}`,
    );
  }
  const header: WalHeader = {
    magic,
    majorVersion,
    systemId: view.getBigUint64(24, little).toString(),
    timeline: view.getUint32(4, little),
    pageAddress: toLsn(view.getBigUint64(8, little)),
    segmentSize: view.getUint32(32, little),
    blockSize: view.getUint32(36, little),
  };
  checkHeader(header, expected.segmentSize);
  return header;
}

function checkHeader(header: WalHeader, segmentSize: number | undefined): void {
  if (!isSegmentSize(header.segmentSize)) {
    throw new BackupError('format-invalid', `no WAL segment has ${header.segmentSize} bytes`);
  }
  if (segmentSize !== undefined && header.segmentSize !== segmentSize) {
    throw new BackupError(
      'format-invalid',
      `WAL segments of ${segmentSize} bytes expected, the header says ${header.segmentSize}`,
    );
  }
  if (
    header.blockSize < 1024 ||
    header.blockSize > 65_536 ||
    !Number.isInteger(Math.log2(header.blockSize))
  ) {
    throw new BackupError('format-invalid', `no WAL block has ${header.blockSize} bytes`);
  }
  if (header.pageAddress % BigInt(header.segmentSize) !== 0n) {
    const address = formatLsn(header.pageAddress);
    throw new BackupError(
      'format-invalid',
      `no WAL segment begins at ${address} (${header.segmentSize} bytes each)`,
    );
  }
  if (header.timeline === 0) throw new BackupError('format-invalid', 'timeline 0 does not exist');
}
