import { BackupError } from '../core/errors.ts';
import { SegmentRanges } from '../core/segment-ranges.ts';
import { segmentNumber, timelineOf, type SegmentName } from '../core/segment.ts';
import type { Repository } from '../repository/repository.ts';
import { listWal, type WalObject } from '../repository/wal.ts';

/** All objects of one segment, or of one partial segment: more than one when its codec was changed between two attempts. */
export interface WalCopies {
  readonly fileName: string;
  readonly segment: SegmentName;
  readonly isPartial: boolean;
  readonly copies: readonly WalObject[];
}

/** What a listing alone says of an archive; as much memory as it has gaps and strange objects. */
export interface ArchiveListing {
  readonly segments: SegmentRanges;
  readonly partials: readonly SegmentName[];
  readonly segmentCount: number;
  readonly walBytes: number;
  readonly newest?: { readonly name: SegmentName; readonly storedAt: Date };
  /** The newest of the store's times. */
  readonly newestStoredAt?: Date;
  /** What can't be whole by its size, whose copies are more than one, or that was asked for by its name. */
  readonly remarkable: readonly WalCopies[];
  readonly strangeKeys: readonly string[];
  readonly strangeCount: number;
}

const MAX_REMARKABLE = 10_000;
const MAX_STRANGE = 5;

/** Lists all WAL. @param asked names of files to be told of in any case @throws what the store throws */
export async function listArchive(
  r: Repository,
  { segmentSize, asked }: { readonly segmentSize: number; readonly asked: ReadonlySet<string> },
  signal: AbortSignal,
): Promise<ArchiveListing> {
  const segments = new SegmentRanges(segmentSize);
  const partials: SegmentName[] = [];
  const remarkable: WalCopies[] = [];
  const strangeKeys: string[] = [];
  let [segmentCount, walBytes, strangeCount] = [0, 0, 0];
  let newest: ArchiveListing['newest'];
  let newestStoredAt: Date | undefined;
  const onForeign = (key: string) => {
    strangeCount += 1;
    if (strangeKeys.length < MAX_STRANGE) strangeKeys.push(key);
  };
  const onObject = ({ sizeBytes, modifiedAt }: WalObject) => {
    walBytes += sizeBytes;
    if (newestStoredAt === undefined || modifiedAt > newestStoredAt) newestStoredAt = modifiedAt;
  };
  for await (const group of walCopies(r, signal, { onForeign, onObject })) {
    if (!isOfSize(group.segment, segmentSize)) {
      onForeign(group.copies[0]?.key ?? group.fileName);
      continue;
    }
    if (isRemarkable(group, segmentSize) || asked.has(group.fileName)) {
      remarkable.push(group);
      if (remarkable.length > MAX_REMARKABLE) throw tooStrange(r);
    }
    if (group.isPartial) {
      partials.push(group.segment);
      continue;
    }
    segmentCount += 1;
    segments.add(group.segment);
    const storedAt = group.copies[0]?.modifiedAt;
    if (storedAt && (newest === undefined || group.segment > newest.name))
      newest = { name: group.segment, storedAt };
  }
  return {
    segments,
    partials,
    segmentCount,
    walBytes,
    ...(newest && { newest }),
    ...(newestStoredAt && { newestStoredAt }),
    remarkable,
    strangeKeys,
    strangeCount,
  };
}

export interface WalCopiesOptions {
  readonly onForeign?: (key: string) => void;
  /** Told of every WAL file, also of histories and backup labels. */
  readonly onObject?: (object: WalObject) => void;
}

/** The segments and partial segments of an archive, each with all its copies, in the order of their names. */
export async function* walCopies(
  r: Repository,
  signal: AbortSignal,
  { onForeign, onObject }: WalCopiesOptions = {},
): AsyncGenerator<WalCopies, void, void> {
  // Copies of a file lie beside each other, but for those of other files of the same segment in between.
  let current = new Map<string, WalObject[]>();
  let segment: SegmentName | undefined;
  for await (const object of listWal(r, signal, onForeign ? { onForeign } : {})) {
    onObject?.(object);
    if (object.file.kind !== 'segment' && object.file.kind !== 'partial') continue;
    if (object.file.segment !== segment) {
      yield* groups(current);
      current = new Map();
      segment = object.file.segment;
    }
    current.set(object.fileName, [...(current.get(object.fileName) ?? []), object]);
  }
  yield* groups(current);
}

function* groups(current: ReadonlyMap<string, readonly WalObject[]>): Generator<WalCopies> {
  for (const [fileName, copies] of current) {
    const file = copies[0]?.file;
    if (file?.kind !== 'segment' && file?.kind !== 'partial') continue;
    yield { fileName, segment: file.segment, isPartial: file.kind === 'partial', copies };
  }
}

function isRemarkable({ copies }: WalCopies, segmentSize: number): boolean {
  return copies.length > 1 || copies.some((copy) => sizeFault(copy, segmentSize) !== undefined);
}

/** What the listed size says against an object. */
export function sizeFault({ codec, sizeBytes }: WalObject, segmentSize: number): string | undefined {
  if (sizeBytes === 0) return 'it is empty';
  if (codec === 'none' && sizeBytes !== segmentSize)
    return `it has ${sizeBytes} bytes, a segment ${segmentSize}`;
  return undefined;
}

function isOfSize(name: SegmentName, segmentSize: number): boolean {
  try {
    segmentNumber(name, segmentSize);
    return timelineOf(name) > 0;
  } catch {
    return false;
  }
}

function tooStrange(r: Repository): BackupError {
  return new BackupError(
    'format-invalid',
    `${r.url}/wals holds more than ${MAX_REMARKABLE} segments of a wrong size or with several copies`,
    {
      hint: 'something else writes there, or the segment size in walkeep/owner.json is not that of this WAL',
    },
  );
}
