import { crc32c } from '../../postgres/crc32c.ts';
import { segmentStart, type SegmentName } from '../../core/segment.ts';
import { makeSegment, type SegmentShape } from './wal-bytes.ts';

const MiB = 1024 * 1024;
const PAGE = 8192;
const HEADER = 24;
const PAYLOAD = 200;
const SWITCH = 0x40;

export interface RecordsShape extends Omit<SegmentShape, 'segmentSize'> {
  /** Records before the switch; more than fit make the last one go on in the next segment. */
  readonly records?: number;
  /** Ends with a switch to the next segment, as after `pg_switch_wal()`; without it the segment is unfinished. */
  readonly isSwitched?: boolean;
}

/** A segment of 1 MiB of PostgreSQL 15 with records whose checksums fit, as the server would finish it. */
export function makeWal(name: string, shape: RecordsShape = {}): Uint8Array {
  const { records = 300, isSwitched = true, seed = 1, ...header } = shape;
  const bytes = makeSegment(name, header).fill(0, 40);
  const start = header.pageAddress ?? segmentStart(name as SegmentName, MiB);
  const view = new DataView(bytes.buffer);
  for (let page = PAGE; page < MiB; page += PAGE) {
    view.setUint16(page, view.getUint16(0, true), true);
    view.setUint32(page + 4, view.getUint32(4, true), true);
    view.setBigUint64(page + 8, start + BigInt(page), true);
  }
  let at = 40;
  let previous = 0n;
  const write = (record: Uint8Array): boolean => {
    if (at % PAGE === 0) at += 24;
    const begin = start + BigInt(at);
    const head = new DataView(record.buffer);
    head.setUint32(0, record.length, true);
    head.setBigUint64(8, previous, true);
    head.setUint32(20, crc32c(Buffer.concat([record.subarray(HEADER), record.subarray(0, 20)])), true);
    for (let done = 0; done < record.length;) {
      if (at >= MiB) return false;
      if (at % PAGE === 0) {
        view.setUint16(at + 2, 1, true);
        at += 24;
      }
      const room = Math.min(record.length - done, PAGE - (at % PAGE));
      bytes.set(record.subarray(done, done + room), at);
      at += room;
      done += room;
    }
    previous = begin;
    at = (at + 7) & ~7;
    return true;
  };
  const record = (payload: number, rmid: number, info: number, fill: number) => {
    const made = new Uint8Array(HEADER + payload).fill(fill, HEADER);
    made[16] = info;
    made[17] = rmid;
    return made;
  };
  for (let count = 0; count < records; count++)
    if (!write(record(PAYLOAD, 10, 0, (seed * 7 + count) & 0xff))) return bytes;
  if (isSwitched) write(record(0, 0, SWITCH, 0));
  return bytes;
}
