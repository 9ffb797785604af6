import {
  planRecovery,
  type RecoveryBackup,
  type RecoveryFacts,
  type RecoveryPlan,
  type RecoveryTarget,
} from '../core/recovery.ts';
import { SegmentRanges } from '../core/segment-ranges.ts';
import { DEFAULT_SEGMENT_SIZE, type SegmentName } from '../core/segment.ts';
import { inspectBackup, listBackups, type CatalogueEntry } from '../repository/catalogue.ts';
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
 * @throws BackupError as `planRecovery`; what the store throws
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
  for await (const { file } of listWal(repository, signal, { withoutHistories: true })) {
    if (file.kind === 'partial') partials.push(file.segment);
    if (file.kind !== 'segment') continue;
    segments.add(file.segment);
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
  return { facts, warnings };
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
    const { parts, problems, notListed } = await inspectBackup(repository, plan.backupId, signal);
    const hasData = parts.some(({ area }) => area === 'data');
    const found = hasData ? problems : [...problems, 'data.tar is missing'];
    if (found.length === 0) return { plan, facts: current };
    const problem = `its objects are not as they were made: ${found.join('; ')}`;
    current = {
      ...current,
      backups: current.backups.map((backup) =>
        backup.backupId === plan.backupId
          ? { ...backup, problem, notListed: !hasData && problems.length === 0 ? 'data.tar' : notListed }
          : backup,
      ),
    };
  }
}
