import { BackupError } from './errors.ts';
import { toLsn, type Lsn } from './lsn.ts';

/** A WAL segment file name: 24 upper-case hexadecimal digits, 8 each for timeline, log and segment. */
export type SegmentName = string & { readonly __brand: 'SegmentName' };

const MiB = 1024 * 1024;
/** `wal_segment_size` unless initdb was told otherwise. */
export const DEFAULT_SEGMENT_SIZE = 16 * MiB;

export function isSegmentName(text: string): text is SegmentName {
  return /^[0-9A-F]{24}$/.test(text);
}

/** @throws BackupError `format-invalid` */
export function parseSegmentName(text: string): SegmentName {
  if (!isSegmentName(text)) throw new BackupError('format-invalid', `not a WAL segment name: "${text}"`);
  return text;
}

/** Whether `bytes` is a size PostgreSQL allows for segments: a power of two from 1 MiB to 1 GiB. */
export function isSegmentSize(bytes: number): boolean {
  return bytes >= MiB && bytes <= 1024 * MiB && Number.isInteger(Math.log2(bytes));
}

/** The timeline a segment belongs to. */
export function timelineOf(name: SegmentName): number {
  return Number.parseInt(name.slice(0, 8), 16);
}

/** The running number of a segment since the beginning of the WAL; the same on every timeline. */
export function segmentNumber(name: SegmentName, segmentSize: number): bigint {
  const perLog = 0x1_0000_0000n / BigInt(segmentSize);
  const log = BigInt(`0x${name.slice(8, 16)}`);
  const segment = BigInt(`0x${name.slice(16, 24)}`);
  if (segment >= perLog) {
    throw new BackupError('format-invalid', `"${name}" can not be a segment of ${segmentSize} bytes`);
  }
  return log * perLog + segment;
}

/** @see PostgreSQL `src/include/access/xlog_internal.h`, `XLogFileName` */
export function segmentName(timeline: number, number: bigint, segmentSize: number): SegmentName {
  const perLog = 0x1_0000_0000n / BigInt(segmentSize);
  const hex = (value: bigint) => value.toString(16).toUpperCase().padStart(8, '0');
  return (hex(BigInt(timeline)) + hex(number / perLog) + hex(number % perLog)) as SegmentName;
}

/** The segment that holds the byte at `lsn` (where a backup begins). */
export function segmentAt(timeline: number, lsn: Lsn, segmentSize: number): SegmentName {
  return segmentName(timeline, lsn / BigInt(segmentSize), segmentSize);
}

/**
 * The segment that holds the last byte before `lsn` (where a backup ends). At a boundary this is the previous
 * segment: the next one may not exist for a long time on an idle database.
 *
 * @see PostgreSQL `XLByteToPrevSeg`
 */
export function segmentBefore(timeline: number, lsn: Lsn, segmentSize: number): SegmentName {
  return segmentName(timeline, (lsn - 1n) / BigInt(segmentSize), segmentSize);
}

/** The segment that follows `name` on the same timeline. */
export function nextSegment(name: SegmentName, segmentSize: number): SegmentName {
  return segmentName(timelineOf(name), segmentNumber(name, segmentSize) + 1n, segmentSize);
}

/** The position of the first byte of a segment. */
export function segmentStart(name: SegmentName, segmentSize: number): Lsn {
  return toLsn(segmentNumber(name, segmentSize) * BigInt(segmentSize));
}

/** What `archive_command` and `restore_command` are asked for. */
export type WalFile =
  | { readonly kind: 'segment'; readonly name: string; readonly segment: SegmentName }
  | { readonly kind: 'partial'; readonly name: string; readonly segment: SegmentName }
  | { readonly kind: 'backup-history'; readonly name: string; readonly segment: SegmentName }
  | { readonly kind: 'history'; readonly name: string; readonly timeline: number };

/** @returns `undefined` when PostgreSQL never gives a file in `pg_wal` such a name to archive. */
export function parseWalFileName(name: string): WalFile | undefined {
  if (isSegmentName(name)) return { kind: 'segment', name, segment: name };
  const partial = /^([0-9A-F]{24})\.partial$/.exec(name);
  if (partial) return { kind: 'partial', name, segment: partial[1] as SegmentName };
  const label = /^([0-9A-F]{24})\.[0-9A-F]{8}\.backup$/.exec(name);
  if (label) return { kind: 'backup-history', name, segment: label[1] as SegmentName };
  const history = /^([0-9A-F]{8})\.history$/.exec(name);
  if (history) return { kind: 'history', name, timeline: Number.parseInt(history[1] as string, 16) };
  return undefined;
}
