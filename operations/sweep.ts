import { isBackupError, messageOf } from '../core/errors.ts';
import type { RetentionPlan } from '../core/retention.ts';
import type { SweepReport } from '../core/sweep-report.ts';
import { takeLease } from '../repository/lease.ts';
import type { Repository } from '../repository/repository.ts';
import { hasRules, youngAfter, type SweepRules } from './gather-retention.ts';
import { describeLeftover, findLeftovers } from './sweep-leftovers.ts';
import { lookAround } from './sweep-look.ts';
import { NOTHING_DONE, refusedReport, sweepReport } from './sweep-report.ts';
import type { SweepOptions } from './sweep-options.ts';
import { SweepRun } from './sweep-run.ts';
import { describeOrphaned, findOrphanedRecords } from './sweep-wal-records.ts';
import { deletesWal, lockedWal, withoutLocked } from './sweep-wal.ts';

export type { SweepOptions, SweepProgress } from './sweep-options.ts';

/** What the lease is on: one sweep a repository, from whatever host (F1). */
export const SWEEP_LEASE = 'sweep';
/** What can't be understood of a repository forbids to delete; what can't be reached is tried again. */
const UNREADABLE = ['format-invalid', 'object-damaged'] as const;

/**
 * What a sweep would do. Nothing is written, not even to ask the store for its time: this host's clock stands for it.
 *
 * @throws what the store throws: a repository that could not be read to its end has no plan
 */
export async function planSweep(
  r: Repository,
  rules: SweepRules,
  { signal, now = Date.now }: Pick<SweepOptions, 'signal' | 'now'>,
): Promise<PlannedSweep> {
  const at = now();
  try {
    const look = await lookAround(r, rules, { now: at }, signal);
    const found = await findLeftovers(r, look.catalogue, { ...rules, now: at }, signal);
    const mayRemove = look.plan.refused === undefined && hasRules(rules);
    const removable = mayRemove ? found.removable : [];
    const { segmentSize } = look.archive.segments;
    const after = youngAfter(look.catalogue, { ...rules, now: at });
    const unseen = new Set<string>();
    const onUnseen = (why: string) => unseen.add(why);
    const question = { segmentSize, youngAfter: after, nowMs: at, onUnseen, signal };
    const locks = deletesWal(look.plan) ? await lockedWal(r, look.plan, question) : undefined;
    const plan = locks ? withoutLocked(look.plan, locks.locked) : look.plan;
    const orphaned = mayRemove ? await findOrphanedRecords(r, question) : { count: 0, warnings: [] };
    const report = sweepReport({
      dryRun: true,
      at: new Date(at),
      ...look,
      plan,
      segmentSize,
      leftovers: [...removable.map(describeLeftover), ...describeOrphaned(orphaned)],
      warnings: [...found.warnings, ...(locks?.warnings ?? []), ...unseen, ...orphaned.warnings],
      done: NOTHING_DONE,
    });
    return { report, hasWork: removable.length > 0 || orphaned.count > 0 || changesAnything(plan) };
  } catch (error) {
    if (!isBackupError(error, ...UNREADABLE)) throw error;
    return { report: refusedReport(true, new Date(at), messageOf(error)), hasWork: false };
  }
}

/** Plain JSON. */
export interface PlannedSweep {
  readonly report: SweepReport;
  /** Whether a sweep would change anything. */
  readonly hasWork: boolean;
}

function changesAnything(plan: RetentionPlan): boolean {
  return (
    plan.backups.some(({ decision, takeBack }) => takeBack || decision === 'mark' || decision === 'delete') ||
    deletesWal(plan)
  );
}

/**
 * Marks what no rule keeps any more, and deletes what was marked a grace period ago and still is not kept: first it is
 * made known, then everything is looked at once more, then the tars go, then the WAL that nobody needs any more, then
 * the records (D4). A sweep that is interrupted anywhere is finished by the next one; until then nothing that is half
 * gone is taken for a backup. Only the holder of the lease sweeps, and asks before every step whether it still is.
 *
 * @throws BackupError `lease-held` while somebody else sweeps; `lease-lost` when somebody took over; what the store throws
 */
export async function sweep(r: Repository, rules: SweepRules, options: SweepOptions): Promise<SweepReport> {
  const { signal, holder } = options;
  const lease = await takeLease(r, SWEEP_LEASE, { signal, holder, ...options.lease });
  const run = new SweepRun(r, rules, lease, options);
  try {
    return await run.toEnd();
  } catch (error) {
    if (!isBackupError(error, ...UNREADABLE)) throw error;
    const refused = refusedReport(false, new Date((options.now ?? Date.now)()), messageOf(error));
    const warnings = await run.takeBackUntouched();
    // Something became unreadable on the way: what was deleted before is said all the same.
    return { ...refused, warnings, counts: { ...refused.counts, ...run.deleted } };
  } finally {
    await lease.release();
  }
}
