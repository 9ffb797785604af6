import type { RetentionBackup, RetentionPlan } from '../../core/retention.ts';
import { STEP, SEGMENT, type Catalogue } from './random-catalogue.ts';

const SIZE = BigInt(SEGMENT);

/** What an archive holds, piece by piece. */
export interface Archive {
  readonly segments: ReadonlySet<string>;
  readonly partials: ReadonlySet<string>;
  readonly histories: ReadonlySet<number>;
}

export function archiveBefore({ archived, partials, facts }: Catalogue): Archive {
  return { segments: archived, partials, histories: new Set(facts.histories.keys()) };
}

/** What is left when everything that the plan deletes is gone. */
export function archiveAfter(catalogue: Catalogue, plan: RetentionPlan): Archive {
  const segments = new Set(catalogue.archived);
  for (const { timeline, first, last, decision } of plan.wal) {
    for (let number = first; number <= last; number++) {
      if (!catalogue.archived.has(`${timeline}:${number}`))
        throw new Error(`the plan speaks of ${timeline}:${number}, which is not archived`);
      if (decision === 'delete') segments.delete(`${timeline}:${number}`);
    }
  }
  const partials = new Set(catalogue.partials);
  for (const { segment, timeline, decision } of plan.partials)
    if (decision === 'delete') partials.delete(`${timeline}:${Number.parseInt(segment.slice(16), 16)}`);
  const histories = new Set(catalogue.facts.histories.keys());
  for (const { timeline, decision } of plan.histories) if (decision === 'delete') histories.delete(timeline);
  return { segments, partials, histories };
}

/** The timelines from the first to this one, each with where it began. */
function wayTo(timeline: number, { descent }: Catalogue): { timeline: number; begins: bigint }[] {
  const came = descent.get(timeline);
  if (came === undefined) return [{ timeline, begins: 0n }];
  return [...wayTo(came.parent, { descent } as Catalogue), { timeline, begins: came.at }];
}

/** Where the way to `timeline` left `ancestor`; `undefined` when it didn't come that way. */
export function departure(timeline: number, ancestor: number, catalogue: Catalogue): bigint | undefined {
  const way = wayTo(timeline, catalogue);
  const at = way.findIndex((step) => step.timeline === ancestor);
  return at < 0 ? undefined : way[at + 1]?.begins;
}

export function allTimelines({ descent }: Catalogue): number[] {
  return [1, ...descent.keys()];
}

/**
 * The target LSNs, a quarter of a segment apart, that PostgreSQL reaches from a backup along the way to a
 * timeline: one after the other, as long as there is a file with it.
 */
export function reachableTargets(
  backup: RetentionBackup,
  timeline: number,
  archive: Archive,
  catalogue: Catalogue,
): bigint[] {
  const { beginLsn = 0n, endLsn = 0n } = backup;
  const whole = wayTo(timeline, catalogue);
  const from = whole.findIndex((step) => step.timeline === backup.timeline);
  if (from < 0) return [];
  const leaves = whole[from + 1]?.begins;
  if (leaves !== undefined && leaves < endLsn) return [];
  if (timeline !== backup.timeline && !archive.histories.has(timeline)) return [];
  const way = whole.slice(from);
  const reached: bigint[] = [];
  // the first byte may lie in a file that ends before the first target
  if (!isCovered(beginLsn + 1n, way, archive)) return [];
  for (let target = beginLsn + STEP; isCovered(target, way, archive); target += STEP)
    if (target >= endLsn) reached.push(target);
  return reached;
}

/** Whether some file has the byte before `target`. */
function isCovered(
  target: bigint,
  way: readonly { timeline: number; begins: bigint }[],
  archive: Archive,
): boolean {
  const number = (target - 1n) / SIZE;
  const owner = way.findLastIndex(({ begins }, index) => index === 0 || begins / SIZE <= number);
  if (archive.segments.has(`${way[owner]?.timeline}:${number}`)) return true;
  // the last file of a way may be a partial one, or that of an older timeline up to where it was left
  if (hasLater(number, way, archive)) return false;
  for (let at = owner; at >= 0; at--) {
    const step = way[at];
    if (step === undefined) return false;
    const key = `${step.timeline}:${number}`;
    const left = way[at + 1]?.begins;
    if ((at < owner && archive.segments.has(key)) || archive.partials.has(key))
      return left === undefined || left >= target;
    if (step.begins <= number * SIZE) return false;
  }
  return false;
}

function hasLater(
  number: bigint,
  way: readonly { timeline: number; begins: bigint }[],
  archive: Archive,
): boolean {
  for (const key of archive.segments) {
    const [timeline, other = 0] = key.split(':').map(Number);
    const at = way.findIndex((step) => step.timeline === timeline);
    const left = way[at + 1]?.begins;
    if (at >= 0 && BigInt(other) > number && BigInt(other) >= (way[at]?.begins ?? 0n) / SIZE)
      if (left === undefined || BigInt(other) < left / SIZE) return true;
  }
  return false;
}

/** Whether a backup is a full one that can be restored, with this archive. */
export function isRestorable(backup: RetentionBackup, archive: Archive, catalogue: Catalogue): boolean {
  const { status, problem, damage, snapshots, parentBackupId, deletionBegan } = backup;
  if (status !== 'DONE' || problem || damage || snapshots || parentBackupId || deletionBegan) return false;
  return allTimelines(catalogue).some(
    (timeline) => reachableTargets(backup, timeline, archive, catalogue).length > 0,
  );
}

/** The newest timeline that PostgreSQL finds from one on: it asks for histories by number until one is missing. */
export function probedTimeline(timeline: number, { histories }: Archive): number {
  let newest = timeline;
  while (histories.has(newest + 1)) newest++;
  return newest;
}
