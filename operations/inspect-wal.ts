import { createHash } from 'node:crypto';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { formatLsn } from '../core/lsn.ts';
import { isSegmentSize, segmentStart, timelineOf, type WalFile } from '../core/segment.ts';
import type { TimelineSwitch } from '../core/timeline.ts';
import { recordsEnd } from '../postgres/wal-end.ts';
import { identifyHistory, requireFittingTimeline, type ClusterIdentity } from '../postgres/wal-identity.ts';
import { parseWalHeader, WAL_HEADER_BYTES, type WalHeader } from '../postgres/wal-page.ts';
import type { Repository } from '../repository/repository.ts';
import { readWithDigest } from '../repository/wal-digest.ts';
import type { WalObject } from '../repository/wal.ts';
import { decompress } from '../streams/codec.ts';
import type { Digest } from '../streams/digest.ts';

/**
 * What is wrong with a stored WAL file. `undecodable`: it can't be decompressed, or its checksum is wrong ·
 * `wrong-size` · `misplaced`: its content does not belong under its name · `breaks-off`: its records end before it
 * does, though PostgreSQL went on in the next segment · `altered`: it does not have the hash it was archived with ·
 * `foreign`: whole, and of another cluster · `gone`: it was listed, and is not there.
 */
export const WAL_FAULTS = [
  'undecodable',
  'wrong-size',
  'misplaced',
  'breaks-off',
  'altered',
  'foreign',
  'gone',
] as const;
export type WalFault = (typeof WAL_FAULTS)[number];

/**
 * Whether the stored copy contradicts what it says of itself: only then may it ever be replaced (A3). WAL of another
 * cluster may be somebody's only copy.
 */
export function contradictsItself(fault: WalFault): boolean {
  return fault !== 'foreign' && fault !== 'gone';
}

export interface InspectedWal {
  readonly fault?: { readonly kind: WalFault; readonly detail: string };
  /** Of the plain bytes, when they are whole; also when they are `altered`. */
  readonly sha256?: string;
  /** What was recorded of the plain bytes when they were archived, if anything was. */
  readonly recorded?: Digest;
}

export interface InspectOptions {
  /** Whose archive it is, when it is known. */
  readonly owner?: ClusterIdentity | undefined;
  readonly histories?: ReadonlyMap<number, readonly TimelineSwitch[]> | undefined;
  /** The next segment of the timeline is there too, so this one was finished. */
  readonly isFollowed: boolean;
  readonly signal: AbortSignal;
}

const LARGEST_TEXT_BYTES = 4 << 20;
const LARGEST_SEGMENT_BYTES = 1 << 30;
/** Records are checked in memory; larger segments are checked by size and header alone. */
const LARGEST_SCANNED_BYTES = 64 << 20;

/**
 * Reads and decodes a stored WAL file and says what is wrong with it. Memory is bounded by one segment of at most
 * 64 MiB. What seems damaged is read again: the damage may have come on the way.
 *
 * @throws what the store throws
 */
export async function inspectWal(
  r: Repository,
  object: WalObject,
  options: InspectOptions,
): Promise<InspectedWal> {
  const first = await inspectOnce(r, object, options);
  return first.fault && first.fault.kind !== 'foreign' ? inspectOnce(r, object, options) : first;
}

async function inspectOnce(r: Repository, object: WalObject, options: InspectOptions): Promise<InspectedWal> {
  try {
    return await inspectStored(r, object, options);
  } catch (error) {
    // it was there, and is not any more, or is another version now
    if (!isBackupError(error, 'object-missing')) throw error;
    return { fault: { kind: 'gone', detail: error.message } };
  }
}

async function inspectStored(
  r: Repository,
  object: WalObject,
  options: InspectOptions,
): Promise<InspectedWal> {
  const { key } = object;
  const inspect = (body: AsyncIterable<Uint8Array>) => inspectBytes(body, object, options);
  const read = await readWithDigest(r, key, inspect, options.signal);
  if (read === undefined) return { fault: { kind: 'gone', detail: `${key} was listed and is gone` } };
  const { value: found, recorded } = read;
  if (recorded instanceof BackupError) throw recorded;
  if (!recorded) return found;
  if (found.sha256 === undefined || found.sha256 === recorded.sha256) return { ...found, recorded };
  const detail = `its plain bytes have the SHA-256 ${found.sha256}, and were archived with ${recorded.sha256}`;
  return { ...found, fault: { kind: 'altered', detail }, recorded };
}

async function inspectBytes(
  source: AsyncIterable<Uint8Array>,
  object: WalObject,
  options: InspectOptions,
): Promise<InspectedWal> {
  const read = new PlainFile(object, options);
  try {
    for await (const chunk of decompress(object.codec, source, { signal: options.signal, name: object.key }))
      if (!read.take(chunk)) break;
  } catch (error) {
    if (!isBackupError(error, 'object-damaged')) throw error;
    return { fault: { kind: 'undecodable', detail: error.message } };
  }
  return read.judge();
}

/** The plain bytes of one file as they come: all of them are hashed and counted, few are kept. */
class PlainFile {
  readonly #object: WalObject;
  readonly #options: InspectOptions;
  readonly #hash = createHash('sha256');
  readonly #maxBytes: number;
  readonly #keptBytes: number;
  #kept: Uint8Array[] = [];
  #sizeBytes = 0;

  constructor(object: WalObject, options: InspectOptions) {
    this.#object = object;
    this.#options = options;
    const isText = object.file.kind === 'history' || object.file.kind === 'backup-history';
    this.#maxBytes = isText ? LARGEST_TEXT_BYTES : (options.owner?.segmentSize ?? LARGEST_SEGMENT_BYTES);
    // A compressed file has a checksum of its own; without one the records' own have to do.
    const scans = object.codec === 'none' && options.isFollowed && this.#maxBytes <= LARGEST_SCANNED_BYTES;
    this.#keptBytes = isText || scans ? this.#maxBytes : WAL_HEADER_BYTES;
  }

  /** @returns false when it is longer than it can be, and the rest is of no interest */
  take(chunk: Uint8Array): boolean {
    if (this.#sizeBytes < this.#keptBytes) this.#kept.push(chunk);
    this.#sizeBytes += chunk.length;
    this.#hash.update(chunk);
    return this.#sizeBytes <= this.#maxBytes;
  }

  judge(): InspectedWal {
    const bytes = Buffer.concat(this.#kept);
    this.#kept = [];
    const fault = this.#fault(bytes);
    return fault ? { fault } : { sha256: this.#hash.digest('hex') };
  }

  #fault(bytes: Uint8Array): InspectedWal['fault'] {
    const { file } = this.#object;
    if (file.kind === 'backup-history') return undefined;
    if (file.kind === 'history') return misplacedUnless(() => identifyHistory(file, bytes));
    const size = this.#sizeBytes > this.#maxBytes ? `more than ${this.#maxBytes}` : String(this.#sizeBytes);
    const expected = this.#options.owner?.segmentSize;
    if (this.#sizeBytes < WAL_HEADER_BYTES)
      return { kind: 'wrong-size', detail: `it has ${size} bytes, a segment ${expected ?? 'more'}` };
    let header: WalHeader;
    try {
      header = parseWalHeader(bytes);
    } catch (error) {
      const kind = isUnknownVersion(file, bytes, this.#sizeBytes, this.#options.owner)
        ? 'foreign'
        : 'misplaced';
      return { kind, detail: messageOf(error) };
    }
    const foreign = foreignness(header, this.#options.owner);
    if (foreign !== undefined) return { kind: 'foreign', detail: foreign };
    if (this.#sizeBytes !== header.segmentSize)
      return { kind: 'wrong-size', detail: `it has ${size} bytes, its header says ${header.segmentSize}` };
    return misplaced(file, header, this.#options.histories) ?? this.#brokenRecords(file, bytes);
  }

  #brokenRecords(file: WalFile, bytes: Uint8Array): InspectedWal['fault'] {
    if (file.kind !== 'segment' || !this.#options.isFollowed || bytes.length !== this.#sizeBytes)
      return undefined;
    if (recordsEnd(bytes) !== 'early') return undefined;
    return { kind: 'breaks-off', detail: 'its records end before it does, though the next segment is there' };
  }
}

/** A whole segment under its own name, of another cluster and a PostgreSQL that is not known: it may be somebody's only copy. */
function isUnknownVersion(
  { segment }: Extract<WalFile, { kind: 'segment' | 'partial' }>,
  bytes: Uint8Array,
  sizeBytes: number,
  owner: ClusterIdentity | undefined,
): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const segmentSize = view.getUint32(32, true);
  const isWhole = isSegmentSize(segmentSize) && segmentSize === sizeBytes;
  const isInPlace = isWhole && view.getBigUint64(8, true) === segmentStart(segment, segmentSize);
  return isInPlace && view.getBigUint64(24, true).toString() !== owner?.systemId;
}

function foreignness(header: WalHeader, owner: ClusterIdentity | undefined): string | undefined {
  if (owner === undefined) return undefined;
  if (header.systemId !== owner.systemId)
    return `it is whole, and of system ${header.systemId}; the archive is of ${owner.systemId}`;
  if (header.segmentSize !== owner.segmentSize)
    return `it is of segments of ${header.segmentSize} bytes; the archive has ${owner.segmentSize}`;
  return undefined;
}

function misplaced(
  file: Extract<WalFile, { kind: 'segment' | 'partial' }>,
  header: WalHeader,
  histories: InspectOptions['histories'],
): InspectedWal['fault'] {
  const start = segmentStart(file.segment, header.segmentSize);
  if (header.pageAddress !== start) {
    const detail = `it begins with the page of ${formatLsn(header.pageAddress)}, expected ${formatLsn(start)}`;
    return { kind: 'misplaced', detail };
  }
  const own = timelineOf(file.segment);
  if (header.timeline > own)
    return {
      kind: 'misplaced',
      detail: `it begins with a page of timeline ${header.timeline}, later than its name`,
    };
  return misplacedUnless(() => requireFittingTimeline(file, header, histories?.get(own)));
}

function misplacedUnless(check: () => unknown): InspectedWal['fault'] {
  try {
    check();
    return undefined;
  } catch (error) {
    if (!isBackupError(error, 'format-invalid')) throw error;
    return { kind: 'misplaced', detail: error.message };
  }
}
