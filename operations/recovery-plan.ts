import { BackupError } from '../core/errors.ts';
import {
  planRecovery,
  type RecoveryBackup,
  type RecoveryFacts,
  type RecoveryPlan,
  type RecoveryTarget,
} from '../core/recovery.ts';
import { SegmentRanges } from '../core/segment-ranges.ts';
import {
  DEFAULT_SEGMENT_SIZE,
  parseSegmentName,
  segmentNumber,
  timelineOf,
  type SegmentName,
} from '../core/segment.ts';
import { inspectBackup, listBackups, type CatalogueEntry } from '../repository/catalogue.ts';
import { readableCodec, type StoredCodec } from '../repository/layout.ts';
import { readOwner } from '../repository/owner.ts';
import type { Repository } from '../repository/repository.ts';
import { listWal, readHistories } from '../repository/wal.ts';
import { readPathEnd } from './path-end.ts';

export interface PlanRequest {
  readonly target: RecoveryTarget;
  readonly acceptEnd?: boolean | undefined;
  /** Read the last WAL of the path to know how far in time it reaches; default true. */
  readonly readsWal?: boolean | undefined;
}

export interface PlanOptions {
  readonly signal: AbortSignal;
  /** Milliseconds since 1970. */
  readonly now?: number;
}

/**
 * Plans a recovery from the repository alone: reads the catalogue, the list of archived WAL and the histories, and for
 * targets that could lie beyond the end the last WAL of the path.
 *
 * @throws BackupError as `planRecovery`; `not-yet` when WAL of the path is compressed in a way walkeep does not read;
 *   what the store throws
 */
export async function planFromRepository(
  repository: Repository,
  request: PlanRequest,
  { signal, now = Date.now() }: PlanOptions,
): Promise<RecoveryPlan> {
  const archive = await gatherFacts(repository, signal);
  const facts: RecoveryFacts = {
    ...archive.facts,
    target: request.target,
    acceptEnd: request.acceptEnd,
    now,
  };
  const plan = await planWithWholeBackup(repository, facts, signal);
  requireReadable(plan.plan, archive.unreadable);
  const warned = { ...plan.plan, warnings: [...plan.plan.warnings, ...archive.warnings] };
  const asksForTheEnd =
    plan.plan.target.kind === 'time' || plan.plan.target.kind === 'lsn' || plan.plan.target.kind === 'end';
  if (request.readsWal === false || !asksForTheEnd) return warned;
  const end = await readPathEnd(repository, plan.plan, signal);
  if (end === undefined) return warned;
  const exact = planRecovery({ ...plan.facts, endRecords: [end] });
  return { ...exact, warnings: [...exact.warnings, ...archive.warnings] };
}

interface Archive {
  readonly facts: Omit<RecoveryFacts, 'target' | 'now'>;
  /** Segments that only exist compressed in ways walkeep does not read yet. */
  readonly unreadable: ReadonlyMap<string, StoredCodec>;
  readonly warnings: readonly string[];
}

async function gatherFacts(repository: Repository, signal: AbortSignal): Promise<Archive> {
  const [entries, owner] = [await listBackups(repository, signal), await readOwner(repository, signal)];
  const segmentSize =
    owner?.segmentSize ??
    entries.findLast(({ info }) => info !== undefined)?.info?.segmentSize ??
    DEFAULT_SEGMENT_SIZE;
  const segments = new SegmentRanges(segmentSize);
  const partials: SegmentName[] = [];
  const unreadable = new Map<string, StoredCodec>();
  for await (const { file, codec } of listWal(repository, signal, { withoutHistories: true })) {
    if (file.kind === 'partial') partials.push(file.segment);
    if (file.kind !== 'segment') continue;
    segments.add(file.segment);
    if (isReadable(codec)) unreadable.delete(file.name);
    else unreadable.set(file.name, codec);
  }
  const warnings: string[] = [];
  const histories = await readHistories(repository, signal, (fileName, error) => {
    warnings.push(`${fileName} can't be read, so its timeline is left out: ${error.message}`);
  });
  const facts = {
    backups: entries.map(toCandidate),
    histories,
    segments,
    partials,
    systemId: owner?.systemId,
  };
  return { facts, unreadable, warnings };
}

function isReadable(codec: StoredCodec): boolean {
  try {
    readableCodec(codec, '');
    return true;
  } catch {
    return false;
  }
}

function toCandidate({ backupId, info, problem }: CatalogueEntry): RecoveryBackup {
  if (info) return info;
  return {
    backupId,
    status: 'EMPTY',
    segmentSize: DEFAULT_SEGMENT_SIZE,
    problem: problem ?? 'its record can’t be read',
  };
}

/** A plan whose backup has all its tars; the listing of one backup is cheap, that of all would not be. */
async function planWithWholeBackup(
  repository: Repository,
  facts: RecoveryFacts,
  signal: AbortSignal,
): Promise<{ plan: RecoveryPlan; facts: RecoveryFacts }> {
  for (let current = facts; ;) {
    const plan = planRecovery(current);
    const { parts, problems } = await inspectBackup(repository, plan.backupId, signal);
    const found = parts.some(({ area }) => area === 'data') ? problems : [...problems, 'data.tar is missing'];
    if (found.length === 0) return { plan, facts: current };
    const problem = `its objects are not as they were made: ${found.join('; ')}`;
    current = {
      ...current,
      backups: current.backups.map((backup) =>
        backup.backupId === plan.backupId ? { ...backup, problem } : backup,
      ),
    };
  }
}

/** Better said now than by a recovery that stops in the middle. */
function requireReadable(plan: RecoveryPlan, unreadable: ReadonlyMap<string, StoredCodec>): void {
  if (unreadable.size === 0) return;
  const [first, last] = [plan.firstSegment, plan.lastSegment].map((name) =>
    segmentNumber(parseSegmentName(name), plan.segmentSize),
  ) as [bigint, bigint];
  const timelines = new Set(plan.timelinePath.map(({ timeline }) => timeline));
  for (const [name, codec] of unreadable) {
    const segment = parseSegmentName(name);
    const number = segmentNumber(segment, plan.segmentSize);
    if (number < first || number > last || !timelines.has(timelineOf(segment))) continue;
    throw new BackupError(
      'not-yet',
      `WAL of this recovery, such as ${name}, is compressed with ${codec}, which walkeep does not read yet`,
      {
        hint: 'restore with barman-cloud, or store these segments again with gzip, lz4, zstd or no compression',
      },
    );
  }
}
