import { segmentStart, timelineOf, type SegmentName } from '../../core/segment.ts';

const MiB = 1024 * 1024;

/** What the first page of a made-up segment says; what is left out fits the name. */
export interface SegmentShape {
  readonly systemId?: bigint;
  readonly segmentSize?: number;
  readonly magic?: number;
  readonly info?: number;
  readonly timeline?: number;
  readonly pageAddress?: bigint;
  /** Makes segments of one name differ. */
  readonly seed?: number;
}

export const SYSTEM_ID = 7_300_000_000_000_000_001n;

/** A segment as PostgreSQL would write it: a true header, and compressible bytes behind it. 1 MiB unless said otherwise. */
export function makeSegment(name: string, shape: SegmentShape = {}): Uint8Array {
  const { systemId = SYSTEM_ID, segmentSize = MiB, magic = 0xd110, info = 2, seed = 1 } = shape;
  const bytes = new Uint8Array(segmentSize);
  for (let at = 4096; at < 64 * 1024; at++) bytes[at] = (at * 31 * seed + (at >> 7)) & 0xff;
  const view = new DataView(bytes.buffer);
  view.setUint16(0, magic, true);
  view.setUint16(2, info, true);
  view.setUint32(4, shape.timeline ?? timelineOf(name.slice(0, 24) as SegmentName), true);
  view.setBigUint64(
    8,
    shape.pageAddress ?? segmentStart(name.slice(0, 24) as SegmentName, segmentSize),
    true,
  );
  view.setBigUint64(24, systemId, true);
  view.setUint32(32, segmentSize, true);
  view.setUint32(36, 8192, true);
  return bytes;
}
