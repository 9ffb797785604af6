import { segmentNumber, timelineOf, type SegmentName } from '../../core/segment.ts';

export const MiB = 1024 * 1024;
export const SYSTEM_ID = '7711125222447432971';

/** A segment of PostgreSQL 15 with a valid long header and no records: what stores and archives can judge. */
export function makeSegment(
  name: string,
  {
    systemId = SYSTEM_ID,
    segmentSize = MiB,
    timeline,
  }: { systemId?: string; segmentSize?: number; timeline?: number } = {},
): Uint8Array {
  const segment = name.slice(0, 24) as SegmentName;
  const bytes = Buffer.alloc(segmentSize);
  bytes.writeUInt16LE(0xd110, 0);
  bytes.writeUInt16LE(0x0002, 2);
  bytes.writeUInt32LE(timeline ?? timelineOf(segment), 4);
  bytes.writeBigUInt64LE(segmentNumber(segment, segmentSize) * BigInt(segmentSize), 8);
  bytes.writeBigUInt64LE(BigInt(systemId), 24);
  bytes.writeUInt32LE(segmentSize, 32);
  bytes.writeUInt32LE(8192, 36);
  // Something after the header that differs from segment to segment, and does not end in zeros.
  for (let at = 40; at < segmentSize; at += 4096) bytes.write(name, at, 'latin1');
  bytes.write('end', segmentSize - 3, 'latin1');
  return bytes;
}
