import type { LockInForce } from '../core/object-lock.ts';
import { cautiousNow } from '../core/retention-clocks.ts';
import { planRetention, type RetentionPlan } from '../core/retention.ts';
import { concurrently } from '../repository/concurrently.ts';
import type { Repository } from '../repository/repository.ts';
import { readTombstone } from '../repository/tombstones.ts';
import {
  readSweepArchive,
  readSweepCatalogue,
  retentionFacts,
  segmentSizeOf,
  youngAfter,
  type Clocks,
  type SweepArchive,
  type SweepCatalogue,
  type SweepRules,
} from './gather-retention.ts';
import { lockOfBackup } from './object-locks.ts';

/** What a sweep knows, and what follows from it. */
export interface Look {
  readonly catalogue: SweepCatalogue;
  readonly archive: SweepArchive;
  readonly plan: RetentionPlan;
  /** Backups whose deletion has gone as far as their data. */
  readonly halfGone: ReadonlySet<string>;
  /** By id, of backups that are due: what their marks say. Marks don't change, so each is read once. */
  readonly marks: ReadonlyMap<string, ReadMark>;
  /** By id, of backups that are due: what the store says against their deletion. It is asked once more before they go. */
  readonly locks: ReadonlyMap<string, LockInForce | undefined>;
}

interface ReadMark {
  /** When it was placed, by the store's time; another one is another mark. */
  readonly markedAt: number;
  readonly graceMs: number;
}

/** Reads everything. Two listings that do not agree are read once more: somebody may have written in between. */
export async function lookAround(
  r: Repository,
  rules: SweepRules,
  clocks: Clocks,
  signal: AbortSignal,
): Promise<Look> {
  const first = await readSweepCatalogue(r, signal);
  const catalogue = first.doubts.length === 0 ? first : await readSweepCatalogue(r, signal, first);
  const after = youngAfter(catalogue, { ...rules, now: clocks.storeNow ?? clocks.now });
  const archive = await readSweepArchive(r, segmentSizeOf(catalogue), after, signal);
  return judge(r, { catalogue, archive, marks: new Map(), locks: new Map() }, { rules, clocks, signal });
}

/** All but the names of WAL, which only grow: holds, keeps, new and vanished backups. */
export async function lookAgain(
  r: Repository,
  { catalogue: known, archive, marks, locks }: Look,
  rules: SweepRules,
  clocks: Clocks,
  signal: AbortSignal,
): Promise<Look> {
  const catalogue = await readSweepCatalogue(r, signal, known);
  return judge(r, { catalogue, archive, marks, locks }, { rules, clocks, signal });
}

interface Judging {
  readonly rules: SweepRules;
  readonly clocks: Clocks;
  readonly signal: AbortSignal;
}

/**
 * Plans, reads the marks of what is due, asks the store for its locks, and plans again with what they say: until nothing
 * that is due is unread. It comes to its end because every turn reads some.
 *
 * @throws BackupError `format-invalid` for a mark that can't be read: how long its backup has is not known
 */
async function judge(
  r: Repository,
  { catalogue, archive, marks: known, locks: asked }: Omit<Look, 'plan' | 'halfGone'>,
  { rules, clocks, signal }: Judging,
): Promise<Look> {
  const placedAt = (backupId: string) => catalogue.tombstones.get(backupId)?.markedAt?.getTime();
  const marks = new Map([...known].filter(([backupId, { markedAt }]) => placedAt(backupId) === markedAt));
  const locks = new Map(asked);
  for (;;) {
    const graces = new Map([...marks].map(([backupId, { graceMs }]) => [backupId, graceMs]));
    const facts = retentionFacts(catalogue, archive, rules, clocks, { graces, locks });
    const halfGone = new Set(
      facts.backups.flatMap(({ deletionBegan, backupId }) => (deletionBegan ? [backupId] : [])),
    );
    const plan = planRetention(facts);
    const unread = plan.backups.flatMap(({ backupId, decision }) => {
      const markedAt = placedAt(backupId);
      const isKnown = marks.has(backupId) || halfGone.has(backupId) || markedAt === undefined;
      return decision !== 'delete' || isKnown ? [] : [{ backupId, markedAt }];
    });
    await concurrently(unread, READS_AT_ONCE, async ({ backupId, markedAt }) => {
      const { graceMs = 0 } = (await readTombstone(r, backupId, signal)) ?? {};
      marks.set(backupId, { markedAt, graceMs });
    });
    const isLater = ({ backupId }: { backupId: string }) =>
      (marks.get(backupId)?.graceMs ?? 0) > rules.graceMs;
    if (unread.some(isLater)) continue;
    const unasked = plan.backups.filter(
      ({ backupId, decision }) => decision === 'delete' && !locks.has(backupId),
    );
    for (const { backupId } of unasked) {
      const nowMs = cautiousNow(clocks);
      locks.set(backupId, await lockOfBackup(r, backupId, { nowMs, signal }));
    }
    const isFree = unasked.every(({ backupId }) => locks.get(backupId) === undefined);
    if (isFree) return { catalogue, archive, plan, halfGone, marks, locks };
  }
}

const READS_AT_ONCE = 8;
