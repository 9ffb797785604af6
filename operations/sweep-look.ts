import { planRetention, type RetentionPlan } from '../core/retention.ts';
import type { Repository } from '../repository/repository.ts';
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

/** What a sweep knows, and what follows from it. */
export interface Look {
  readonly catalogue: SweepCatalogue;
  readonly archive: SweepArchive;
  readonly plan: RetentionPlan;
  /** Backups whose deletion has gone as far as their data. */
  readonly halfGone: ReadonlySet<string>;
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
  return judge(catalogue, archive, rules, clocks);
}

function judge(catalogue: SweepCatalogue, archive: SweepArchive, rules: SweepRules, clocks: Clocks): Look {
  const facts = retentionFacts(catalogue, archive, rules, clocks);
  const halfGone = facts.backups.flatMap(({ deletionBegan, backupId }) => (deletionBegan ? [backupId] : []));
  return { catalogue, archive, plan: planRetention(facts), halfGone: new Set(halfGone) };
}

/** All but the names of WAL, which only grow: holds, keeps, new and vanished backups. */
export async function lookAgain(
  r: Repository,
  { catalogue: known, archive }: Look,
  rules: SweepRules,
  clocks: Clocks,
  signal: AbortSignal,
): Promise<Look> {
  return judge(await readSweepCatalogue(r, signal, known), archive, rules, clocks);
}
