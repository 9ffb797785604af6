import { BackupError, isBackupError } from '../core/errors.ts';
import { formatLsn } from '../core/lsn.ts';
import { segmentStart, timelineOf, type WalFile } from '../core/segment.ts';
import { parseHistory, timelinePath, type TimelineSwitch } from '../core/timeline.ts';
import { parseWalHeader, type WalHeader } from './wal-page.ts';

/** Whose WAL it is. */
export interface ClusterIdentity {
  /** Decimal digits, as `pg_controldata` prints it. */
  readonly systemId: string;
  /** `wal_segment_size` in bytes. */
  readonly segmentSize: number;
}

/**
 * Reads the header of a segment (or partial) and holds it against the file's name and size (A4). The timeline is
 * `requireFittingTimeline`'s to judge.
 *
 * @throws BackupError `format-invalid` when these bytes do not belong under this name
 */
export function identifySegment(
  file: Extract<WalFile, { kind: 'segment' | 'partial' }>,
  bytes: Uint8Array,
): WalHeader {
  const header = named(file, () => parseWalHeader(bytes));
  if (bytes.length !== header.segmentSize) {
    throw new BackupError(
      'format-invalid',
      `${file.name} has ${bytes.length} bytes; its header says segments have ${header.segmentSize}`,
    );
  }
  const start = segmentStart(file.segment, header.segmentSize);
  if (header.pageAddress !== start) {
    throw new BackupError(
      'format-invalid',
      `${file.name} begins with the page of ${formatLsn(header.pageAddress)}, expected ${formatLsn(start)}`,
      { hint: 'this looks like a recycled segment that was never written; it was not archived' },
    );
  }
  if (header.timeline > timelineOf(file.segment)) {
    throw new BackupError(
      'format-invalid',
      `${file.name} begins with a page of timeline ${header.timeline}, which is later than its name`,
    );
  }
  return header;
}

/**
 * A page of an ancestor at the beginning of a segment is right only where the history says that the timeline was
 * left inside this very segment, after this page began.
 *
 * @param history of the timeline in the file's name; without one, any earlier timeline has to be believed
 * @throws BackupError `format-invalid`
 */
export function requireFittingTimeline(
  file: Extract<WalFile, { kind: 'segment' | 'partial' }>,
  header: WalHeader,
  history: readonly TimelineSwitch[] | undefined,
): void {
  const own = timelineOf(file.segment);
  if (header.timeline === own || history === undefined) return;
  const step = timelinePath(own, history).find(
    ({ beginsAt, endsAt }) =>
      beginsAt <= header.pageAddress && (endsAt === undefined || header.pageAddress < endsAt),
  );
  if (step?.timeline === header.timeline) return;
  throw new BackupError(
    'format-invalid',
    `${file.name} begins with a page of timeline ${header.timeline}; by its history ` +
      `${formatLsn(header.pageAddress)} belongs to timeline ${step?.timeline ?? 'none'}`,
  );
}

/**
 * The switches of a `.history` file that PostgreSQL could have written for this timeline.
 *
 * @throws BackupError `format-invalid`
 */
export function identifyHistory(
  file: Extract<WalFile, { kind: 'history' }>,
  bytes: Uint8Array,
): TimelineSwitch[] {
  const switches = named(file, () => parseHistory(decodeText(bytes)));
  const last = switches.at(-1);
  if (!last)
    throw new BackupError('format-invalid', `${file.name} names no timeline that ${file.timeline} came from`);
  if (last.timeline >= file.timeline) {
    throw new BackupError('format-invalid', `${file.name} names timeline ${last.timeline} as an ancestor`);
  }
  return switches;
}

/** @throws BackupError `format-invalid` unless the label in a `.backup` file is of the segment in its name */
export function requireBackupHistory(
  file: Extract<WalFile, { kind: 'backup-history' }>,
  bytes: Uint8Array,
): void {
  const match = /^START WAL LOCATION: [0-9A-F]+\/[0-9A-F]+ \(file ([0-9A-F]{24})\)\n/.exec(decodeText(bytes));
  if (match?.[1] === file.segment) return;
  throw new BackupError(
    'format-invalid',
    `${file.name} does not hold the label of a backup from ${file.segment}`,
  );
}

/** @throws BackupError `wal-foreign` unless both are the same cluster */
export function requireOwnWal(
  fileName: string,
  found: ClusterIdentity,
  owner: ClusterIdentity,
  archive: string,
): void {
  if (found.systemId !== owner.systemId) {
    throw new BackupError(
      'wal-foreign',
      `${fileName} is WAL of system ${found.systemId}, but ${archive} belongs to system ${owner.systemId}`,
    );
  }
  if (found.segmentSize !== owner.segmentSize) {
    throw new BackupError(
      'wal-foreign',
      `${fileName} is of segments of ${found.segmentSize} bytes, but ${archive} has ${owner.segmentSize}`,
      { hint: 'the segment size was changed; give the cluster a new serverName and take a base backup' },
    );
  }
}

function decodeText(bytes: Uint8Array): string {
  return new TextDecoder('utf-8').decode(bytes);
}

/** Puts the file's name in front of what a parser says. */
function named<T>(file: WalFile, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!isBackupError(error)) throw error;
    throw new BackupError(error.code, `${file.name}: ${error.message}`, { cause: error, hint: error.hint });
  }
}
