/** The area that holds PGDATA itself; every other area is a tablespace, named by its oid. */
export const DATA_AREA = 'data';

/** A file as the walk met it; `path` is its name inside the area's tar, `sizeBytes` its size then. */
export interface PlannedFile {
  readonly path: string;
  readonly sizeBytes: number;
}

/** What is read from one root: the data directory or a tablespace. */
export interface PlannedArea<File extends PlannedFile = PlannedFile> {
  readonly area: string;
  readonly files: readonly File[];
}

/** One tar of the backup. Index 0 of an area carries its directories, so it exists even when there are no files. */
export interface PlannedPart<File extends PlannedFile = PlannedFile> {
  readonly area: string;
  readonly index: number;
  readonly files: readonly File[];
  /** Bytes of tar this part will be about: content, padding and headers. */
  readonly plannedBytes: number;
}

const MiB = 1024 * 1024;
/** Below this a further part costs more (an object, a request, a compressor's start) than it balances. */
export const SMALLEST_PART_BYTES = 64 * MiB;
/** As barman-cloud's `--max-archive-size`. */
export const DEFAULT_MAX_PART_BYTES = 100 * 1024 * MiB;
/** Pipelines finish together when each has several parts to choose from. */
const PARTS_PER_JOB = 4;
const TAR_BLOCK = 512;

/** What a file takes in a tar: a header, a possible pax header, the content padded to whole blocks. */
export function tarBytes(sizeBytes: number): number {
  return 3 * TAR_BLOCK + Math.ceil(sizeBytes / TAR_BLOCK) * TAR_BLOCK;
}

/**
 * Divides the files of a backup into parts, in the order the walk met them (small files share a part, neighbours stay
 * neighbours), about `jobs` × 4 of equal size. No file is split, so a part is never larger than `maxPartBytes` unless
 * one file alone is.
 *
 * @returns largest first: taken from the front by `jobs` pipelines, no pipeline ends long after the others
 */
export function planParts<File extends PlannedFile>(
  areas: readonly PlannedArea<File>[],
  options: { readonly jobs: number; readonly maxPartBytes?: number },
): PlannedPart<File>[] {
  const total = areas.reduce((sum, { files }) => sum + bytesOf(files), 0);
  const balanced = Math.max(
    SMALLEST_PART_BYTES,
    Math.ceil(total / (Math.max(1, options.jobs) * PARTS_PER_JOB)),
  );
  const limit = Math.max(1, Math.min(options.maxPartBytes ?? DEFAULT_MAX_PART_BYTES, balanced));
  return areas
    .flatMap((area) => divide(area, limit))
    .toSorted((a, b) => b.plannedBytes - a.plannedBytes || compare(a, b));
}

/** The index of the part of PGDATA that is written last: the one after all planned ones. */
export function lastDataIndex(parts: readonly PlannedPart[]): number {
  return parts.filter(({ area }) => area === DATA_AREA).length;
}

function divide<File extends PlannedFile>(
  { area, files }: PlannedArea<File>,
  limit: number,
): PlannedPart<File>[] {
  const groups: { files: File[]; bytes: number }[] = [{ files: [], bytes: 0 }];
  for (const file of files) {
    const bytes = tarBytes(file.sizeBytes);
    let group = groups.at(-1);
    if (!group || (group.files.length > 0 && group.bytes + bytes > limit))
      groups.push((group = { files: [], bytes: 0 }));
    group.files.push(file);
    group.bytes += bytes;
  }
  return groups.map((group, index) => ({ area, index, files: group.files, plannedBytes: group.bytes }));
}

function bytesOf(files: readonly PlannedFile[]): number {
  return files.reduce((sum, file) => sum + tarBytes(file.sizeBytes), 0);
}

function compare(a: PlannedPart, b: PlannedPart): number {
  if (a.area !== b.area) return a.area < b.area ? -1 : 1;
  return a.index - b.index;
}
