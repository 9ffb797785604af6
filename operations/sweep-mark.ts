import { failpoint } from '../core/failpoint.ts';
import type { Lease } from '../repository/lease.ts';
import type { Repository } from '../repository/repository.ts';
import { markedBackup, placeTombstone, stopDeletion, takeBackTombstone } from '../repository/tombstones.ts';
import type { Look } from './sweep-look.ts';

export interface MarkOptions {
  readonly lease: Lease;
  /** By the host's clock, for people; in ms. */
  readonly now: number;
  /** How long the marked ones have at least, in ms. */
  readonly graceMs: number;
  readonly signal: AbortSignal;
}

export interface Marked {
  /** Ids. */
  readonly marked: readonly string[];
  readonly warnings: readonly string[];
}

/**
 * Takes back the tombstones of what something keeps again, and places those of what nothing keeps any more. What a sweep
 * that died said to be deleting, and is whole and not due any more, can be restored again.
 */
export async function placeMarks(
  r: Repository,
  { plan, catalogue, halfGone }: Pick<Look, 'plan' | 'catalogue' | 'halfGone'>,
  { lease, now, graceMs, signal }: MarkOptions,
): Promise<Marked> {
  const warnings: string[] = [];
  // First, because it saves something.
  for (const { backupId, takeBack, reasons } of plan.backups) {
    if (!takeBack) continue;
    await lease.check(signal);
    await takeBackTombstone(r, backupId, signal);
    warnings.push(`${backupId} was marked, and stays: ${reasons.join('; ')}`);
  }
  for (const { backupId, decision } of plan.backups) {
    const isSaidToGo = catalogue.tombstones.get(backupId)?.deletingSince !== undefined;
    if (decision !== 'wait' || !isSaidToGo || halfGone.has(backupId)) continue;
    await lease.check(signal);
    await stopDeletion(r, backupId, signal);
    warnings.push(`${backupId} was about to be deleted, and is not due yet`);
  }
  const marked: string[] = [];
  for (const { backupId, decision, reasons } of plan.backups) {
    if (decision !== 'mark') continue;
    failpoint('sweep.before-tombstone');
    await lease.check(signal);
    const info = catalogue.entries.find((entry) => entry.backupId === backupId)?.info;
    const tombstone = {
      version: 1 as const,
      backupId,
      reasons: reasons.slice(0, 100).map((reason) => reason.slice(0, 1000)),
      epoch: lease.epoch,
      markedAt: new Date(now).toISOString(),
      graceMs: Math.ceil(graceMs),
      backup: info ? markedBackup(info, catalogue.folders.get(backupId)?.sizeBytes) : {},
    };
    await placeTombstone(r, tombstone, signal);
    failpoint('sweep.tombstoned');
    marked.push(backupId);
  }
  return { marked, warnings };
}
