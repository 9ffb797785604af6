import { SegmentRanges } from '../core/segment-ranges.ts';
import { parseSegmentName, segmentName, segmentNumber, timelineOf } from '../core/segment.ts';
import type { TimelineSwitch } from '../core/timeline.ts';
import type { ClusterIdentity } from '../postgres/wal-identity.ts';
import type { AuditRecord, DamagedObject } from '../repository/audit-record.ts';
import type { Repository } from '../repository/repository.ts';
import type { WalObject } from '../repository/wal.ts';
import { hasSegment, withoutSegments } from '../core/intervals.ts';
import { sizeFault, walCopies, type ArchiveListing, type WalCopies } from './audit-listing.ts';
import { inspectWal, type WalFault } from './inspect-wal.ts';

/** What is wrong with a segment or partial segment. */
export interface FaultyWal extends WalCopies {
  readonly faults: readonly { readonly object: WalObject; readonly fault: string; readonly detail: string }[];
  /** Whole copies that differ from each other: nobody knows which is right. */
  readonly isAmbiguous: boolean;
  /** Whether a recovery gets the right bytes all the same, from another copy. */
  readonly isUsable: boolean;
}

export interface ReadArchive {
  readonly faulty: readonly FaultyWal[];
  /** What is known to be whole, of this audit and those before. */
  readonly read: SegmentRanges;
  readonly segmentsRead: number;
  /** Segments that were to be read, and are left to the next audit. */
  readonly left: number;
}

export interface ReadRequest {
  readonly read: 'none' | 'new' | 'all';
  /** Names to be read in any case. */
  readonly reread: ReadonlySet<string>;
  readonly record?: AuditRecord | undefined;
  readonly listing: ArchiveListing;
  readonly owner?: ClusterIdentity | undefined;
  readonly histories: ReadonlyMap<number, readonly TimelineSwitch[]>;
  /** Stored bytes after which `new` stops and leaves the rest to the next audit. */
  readonly maxNewBytes: number;
  readonly signal: AbortSignal;
  readonly onRead?: (segments: number, storedBytes: number) => void;
}

const READS_AT_ONCE = 4;
/** Records of uncompressed segments are checked in memory. */
const MEMORY_BYTES = 128 << 20;
const MAX_FAULTY = 10_000;
const MAX_RANGES = 20_000;

/**
 * Reads and decodes what an audit is asked to, and tells what is wrong. Damages found before are taken over where the
 * object is still the same and is not read again. @throws what the store throws
 */
export async function readArchive(r: Repository, request: ReadRequest): Promise<ReadArchive> {
  return new Reading(r, request).run();
}

class Reading {
  readonly #r: Repository;
  readonly #request: ReadRequest;
  readonly #before: SegmentRanges;
  readonly #known: ReadonlyMap<string, readonly DamagedObject[]>;
  readonly #read: SegmentRanges;
  readonly #faulty = new Map<string, FaultyWal>();
  #segmentsRead = 0;
  #storedBytes = 0;
  #left = 0;

  constructor(r: Repository, request: ReadRequest) {
    this.#r = r;
    this.#request = request;
    const { segmentSize } = request.listing.segments;
    this.#before = rangesOf(request.record, segmentSize);
    this.#read = rangesOf(request.record, segmentSize);
    const known = new Map<string, DamagedObject[]>();
    for (const damaged of request.record?.damaged ?? [])
      known.set(damaged.fileName, [...(known.get(damaged.fileName) ?? []), damaged]);
    this.#known = known;
  }

  async run(): Promise<ReadArchive> {
    const { read, listing } = this.#request;
    // What the listing alone found is not lost to a limit or to `none`.
    for (const group of listing.remarkable) if (!this.#isToBeRead(group)) this.#judgeBySight(group);
    const groups = read === 'none' ? listing.remarkable : walCopies(this.#r, this.#request.signal);
    await this.#readAll(groups);
    const forgotten = [...this.#faulty.values()].filter(({ isPartial }) => !isPartial);
    return {
      faulty: [...this.#faulty.values()].toSorted((a, b) => (a.fileName < b.fileName ? -1 : 1)),
      read: without(this.#read, forgotten),
      segmentsRead: this.#segmentsRead,
      left: this.#left,
    };
  }

  /** A few side by side; all of them draw from one listing. */
  async #readAll(groups: Iterable<WalCopies> | AsyncIterable<WalCopies>): Promise<void> {
    const { segmentSize } = this.#request.listing.segments;
    const readers = Math.max(1, Math.min(READS_AT_ONCE, Math.floor(MEMORY_BYTES / segmentSize)));
    const failed = new AbortController();
    const source = (async function* () {
      yield* groups;
    })();
    const reader = async () => {
      for (let next = await source.next(); !next.done; next = await source.next()) {
        if (failed.signal.aborted) return;
        const group = next.value;
        if (this.#isToBeRead(group)) await this.#inspect(group);
      }
    };
    const ended = await Promise.allSettled(
      Array.from({ length: readers }, () =>
        reader().catch((error: unknown) => {
          failed.abort();
          throw error;
        }),
      ),
    );
    await source.return();
    const failure = ended.find((one) => one.status === 'rejected');
    if (failure) throw failure.reason;
  }

  #isToBeRead({ fileName, segment, isPartial, copies }: WalCopies): boolean {
    const { read, reread, record } = this.#request;
    if (reread.has(fileName)) return true;
    const known = this.#known.get(fileName) ?? [];
    // What was damaged and is another object now is no longer known to be.
    if (known.some((damaged) => !copies.some((copy) => isSame(copy, damaged)))) return true;
    if (read === 'none') return false;
    if (read === 'all' || known.length > 0) return true;
    const seenUntil = record?.newestStoredAt === undefined ? undefined : new Date(record.newestStoredAt);
    if (seenUntil === undefined || copies.some(({ modifiedAt }) => modifiedAt > seenUntil)) return true;
    return isPartial ? false : !hasSegment(this.#before, segment);
  }

  async #inspect(group: WalCopies): Promise<void> {
    const { read, reread, maxNewBytes, listing, owner, histories, signal, onRead } = this.#request;
    if (read === 'new' && this.#storedBytes >= maxNewBytes && !reread.has(group.fileName)) {
      this.#left += 1;
      this.#judgeBySight(group);
      return;
    }
    const { segments } = listing;
    const number = segmentNumber(group.segment, segments.segmentSize);
    const isFollowed = !group.isPartial && segments.has(timelineOf(group.segment), number + 1n);
    const faults: FaultyWal['faults'][number][] = [];
    const hashes = new Set<string>();
    for (const object of group.copies) {
      this.#storedBytes += object.sizeBytes;
      const { fault, sha256 } = await inspectWal(this.#r, object, { owner, histories, isFollowed, signal });
      if (fault) faults.push({ object, fault: fault.kind, detail: fault.detail });
      else if (sha256 !== undefined) hashes.add(sha256);
    }
    this.#segmentsRead += 1;
    onRead?.(this.#segmentsRead, this.#storedBytes);
    const isAmbiguous = hashes.size > 1;
    const isUsable = hashes.size === 1;
    if (faults.length > 0 || isAmbiguous) this.#note({ ...group, faults, isAmbiguous, isUsable });
    else {
      this.#faulty.delete(group.fileName);
      if (!group.isPartial) this.#read.add(group.segment);
    }
  }

  /** What the size says, and what an earlier audit read. */
  #judgeBySight(group: WalCopies): void {
    const { segmentSize } = this.#request.listing.segments;
    const known = this.#known.get(group.fileName) ?? [];
    const faults = group.copies.flatMap((object) => {
      const bySize = sizeFault(object, segmentSize);
      const before = known.find((damaged) => isSame(object, damaged));
      if (before) return [{ object, fault: before.fault, detail: before.detail }];
      return bySize === undefined ? [] : [{ object, fault: 'wrong-size' satisfies WalFault, detail: bySize }];
    });
    const isAmbiguous = faults.some(({ fault }) => fault === AMBIGUOUS);
    const isUsable = !isAmbiguous && faults.length < group.copies.length;
    if (faults.length > 0)
      this.#note({
        ...group,
        faults: faults.filter(({ fault }) => fault !== AMBIGUOUS),
        isAmbiguous,
        isUsable,
      });
  }

  #note(wal: FaultyWal): void {
    if (this.#faulty.size < MAX_FAULTY) this.#faulty.set(wal.fileName, wal);
  }
}

/** How the record names whole copies that differ. */
const AMBIGUOUS = 'ambiguous';

/** What the next audit has to know. */
export function damagedObjects(faulty: readonly FaultyWal[]): DamagedObject[] {
  return faulty.flatMap(({ fileName, copies, faults, isAmbiguous }) => {
    const all = isAmbiguous
      ? copies.map((object) => ({ object, fault: AMBIGUOUS, detail: 'another copy of it has other content' }))
      : faults;
    return all.map(({ object: { key, sizeBytes, modifiedAt }, fault, detail }) => ({
      key,
      fileName,
      sizeBytes,
      storedAt: modifiedAt.toISOString(),
      fault,
      detail: detail.slice(0, 1000),
    }));
  });
}

/** The record's form of ranges; the oldest are left out when they are too many, and read again. */
export function recordedRanges(ranges: SegmentRanges): AuditRecord['read'] {
  const { segmentSize } = ranges;
  return ranges
    .timelines()
    .flatMap((timeline) =>
      ranges.rangesOf(timeline).map(({ first, last }) => ({
        first: segmentName(timeline, first, segmentSize),
        last: segmentName(timeline, last, segmentSize),
      })),
    )
    .slice(-MAX_RANGES);
}

function rangesOf(record: AuditRecord | undefined, segmentSize: number): SegmentRanges {
  const ranges = new SegmentRanges(segmentSize);
  for (const { first, last } of record?.read ?? []) {
    const [from, to] = [parseSegmentName(first), parseSegmentName(last)];
    const [begin, end] = [segmentNumber(from, segmentSize), segmentNumber(to, segmentSize)];
    if (timelineOf(from) === timelineOf(to) && begin <= end)
      ranges.addRange(timelineOf(from), { first: begin, last: end });
  }
  return ranges;
}

function without(ranges: SegmentRanges, faulty: readonly WalCopies[]): SegmentRanges {
  const taken = new SegmentRanges(ranges.segmentSize);
  for (const { segment } of faulty) taken.add(segment);
  return withoutSegments(ranges, taken);
}

function isSame({ key, sizeBytes, modifiedAt }: WalObject, damaged: DamagedObject): boolean {
  return (
    key === damaged.key && sizeBytes === damaged.sizeBytes && modifiedAt.toISOString() === damaged.storedAt
  );
}
