import { isBackupError } from '../core/errors.ts';
import { formatLsn } from '../core/lsn.ts';
import type { PathEndRecords, RecoveryPlan } from '../core/recovery.ts';
import { parseSegmentName, segmentName, segmentNumber, type SegmentName } from '../core/segment.ts';
import { formatMicros } from '../core/target-time.ts';
import { scanSegment, type SegmentRecords } from '../postgres/wal-records.ts';
import type { Repository } from '../repository/repository.ts';
import { findWal, readWal } from '../repository/wal.ts';

/** An idle server writes segments without a commit; further back the answer is not worth the download. */
const SEGMENTS_READ = 4;

/**
 * Reads the last WAL of a path, to know how far it reaches: the newest commit, and where the last record begins.
 *
 * @returns `undefined` when that WAL can't be read: then nothing is known, and PostgreSQL will find out
 * @throws what the store throws
 */
export async function readPathEnd(
  repository: Repository,
  plan: RecoveryPlan,
  signal: AbortSignal,
): Promise<PathEndRecords | undefined> {
  const files = lastFiles(plan);
  const last = files.at(-1);
  if (last === undefined) return undefined;
  try {
    for (let count = 1; ; count += 1) {
      const read = await scanFiles(repository, plan, files.slice(-count), signal);
      if (read.newestCommit !== undefined || count >= files.length) {
        return {
          file: last,
          ...(read.newestCommit === undefined ? {} : { newestCommit: formatMicros(read.newestCommit) }),
          ...(read.lastRecordLsn === undefined ? {} : { lastRecordLsn: formatLsn(read.lastRecordLsn) }),
        };
      }
    }
  } catch (error) {
    if (isBackupError(error, 'object-damaged', 'format-invalid', 'object-missing')) return undefined;
    throw error;
  }
}

/** The names of the last files of the path, oldest first. */
function lastFiles(plan: RecoveryPlan): string[] {
  const size = plan.segmentSize;
  const number = (name: SegmentName) => segmentNumber(name, size);
  const [first, last] = [parseSegmentName(plan.firstSegment), parseSegmentName(plan.lastSegment)];
  const timeline = Number.parseInt(last.slice(0, 8), 16);
  const files: string[] = [];
  // Only of the last timeline: what is before a branch is older than what is after it.
  for (let at = number(last); at >= number(first) && files.length < SEGMENTS_READ; at -= 1n) {
    const name = segmentName(timeline, at, size);
    if (name.slice(0, 8) !== last.slice(0, 8)) break;
    files.unshift(name);
  }
  return plan.tail === undefined ? files : [...files, plan.tail.file];
}

async function scanFiles(
  repository: Repository,
  plan: RecoveryPlan,
  files: readonly string[],
  signal: AbortSignal,
): Promise<SegmentRecords> {
  let result: SegmentRecords = { records: 0 };
  for (const file of files) {
    const bytes = await readFile(repository, plan, file, signal);
    if (bytes === undefined) continue;
    const scanned = scanSegment(bytes, result.unfinished);
    const newestCommit = newest(result.newestCommit, scanned.newestCommit);
    const lastRecordLsn = scanned.lastRecordLsn ?? result.lastRecordLsn;
    result = {
      records: result.records + scanned.records,
      ...(newestCommit === undefined ? {} : { newestCommit }),
      ...(lastRecordLsn === undefined ? {} : { lastRecordLsn }),
      ...(scanned.unfinished === undefined ? {} : { unfinished: scanned.unfinished }),
    };
  }
  return result;
}

async function readFile(
  repository: Repository,
  plan: RecoveryPlan,
  file: string,
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  const [object] = await findWal(repository, file, signal);
  if (object === undefined) return undefined;
  const bytes = await readWal(repository, object, plan.segmentSize, signal);
  const cut = plan.tail?.file === file ? plan.tail.cutAtOffset : undefined;
  return cut === undefined
    ? bytes
    : Buffer.concat([bytes.subarray(0, cut), Buffer.alloc(bytes.length - cut)]);
}

function newest(a: bigint | undefined, b: bigint | undefined): bigint | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  return a > b ? a : b;
}
