import type { SegmentHole } from '../core/segment-ranges.ts';
import { SegmentRanges } from '../core/segment-ranges.ts';
import {
  DEFAULT_SEGMENT_SIZE,
  isSegmentName,
  segmentName,
  segmentNumber,
  timelineOf,
  type SegmentName,
} from '../core/segment.ts';
import type { BackupInfo } from '../repository/backup-info.ts';
import { listBackups, type CatalogueEntry } from '../repository/catalogue.ts';
import { readOwner, type Owner } from '../repository/owner.ts';
import type { Repository } from '../repository/repository.ts';
import { readStoreRecord, type StoreRecord } from '../repository/store-record.ts';
import { listWal } from '../repository/wal.ts';

/** A gap in the archive, by the names an operator looks for. */
export interface ArchiveGap {
  readonly timeline: number;
  readonly firstMissing: SegmentName;
  readonly lastMissing: SegmentName;
  readonly count: number;
}

/** What a repository protects: everything here was read from it, nothing is remembered. */
export interface Protection {
  readonly entries: readonly CatalogueEntry[];
  /** Backups that can be restored from, oldest first. */
  readonly usable: readonly BackupInfo[];
  readonly owner?: Owner;
  /** What was found out of the store, if anybody tried it. */
  readonly store?: StoreRecord;
  /** The newest segment in archive order, with the store's own time. */
  readonly newestSegment?: { readonly name: SegmentName; readonly storedAt: Date };
  readonly segments: number;
  readonly walBytes: number;
  /** Gaps after the beginning of the oldest usable backup: recovery can't pass them. */
  readonly gaps: readonly ArchiveGap[];
}

/** Reads the whole catalogue and the names of all WAL. @throws BackupError when any listing fails */
export async function readProtection(repository: Repository, signal: AbortSignal): Promise<Protection> {
  const [entries, owner, store] = await Promise.all([
    listBackups(repository, signal),
    readOwner(repository, signal),
    readStoreRecord(repository, signal),
  ]);
  const usable = entries
    .map(({ info }) => info)
    .filter((info): info is BackupInfo => info !== undefined && isUsable(info));
  const segmentSize = owner?.segmentSize ?? usable.at(-1)?.segmentSize ?? DEFAULT_SEGMENT_SIZE;

  const ranges = new SegmentRanges(segmentSize);
  let newest: Protection['newestSegment'];
  let segments = 0;
  let walBytes = 0;
  for await (const object of listWal(repository, signal)) {
    walBytes += object.sizeBytes;
    if (!isSegmentName(object.fileName)) continue;
    segments += 1;
    ranges.add(object.fileName);
    if (newest === undefined || object.fileName > newest.name) {
      newest = { name: object.fileName, storedAt: object.modifiedAt };
    }
  }
  return {
    entries,
    usable,
    ...(owner && { owner }),
    ...(store && { store }),
    ...(newest && { newestSegment: newest }),
    segments,
    walBytes,
    gaps: ranges
      .holes()
      .filter((hole) => matters(hole, usable, segmentSize))
      .map((hole) => asGap(hole, segmentSize)),
  };
}

/** Whether a record promises a restore: completed, not one of a chain, and not a snapshot. */
export function isUsable(info: BackupInfo): boolean {
  return info.status === 'DONE' && info.parentBackupId === undefined && info.snapshots !== true;
}

/** WAL from before the first backup is of no use to anybody, with or without gaps. */
function matters(hole: SegmentHole, usable: readonly BackupInfo[], segmentSize: number): boolean {
  const begins = usable
    .map(({ beginWal }) => beginWal)
    .filter((name): name is SegmentName => name !== undefined && timelineOf(name) === hole.timeline)
    .map((name) => segmentNumber(name, segmentSize));
  const before = usable.some(({ timeline }) => timeline !== undefined && timeline < hole.timeline);
  return before || begins.some((begin) => begin < hole.next);
}

function asGap(hole: SegmentHole, segmentSize: number): ArchiveGap {
  return {
    timeline: hole.timeline,
    firstMissing: segmentName(hole.timeline, hole.missing, segmentSize),
    lastMissing: segmentName(hole.timeline, hole.next - 1n, segmentSize),
    count: Number(hole.next - hole.missing),
  };
}
