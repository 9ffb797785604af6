import { setTimeout as sleep } from 'node:timers/promises';
import type { ArchiveDamage, RepairRound } from '../core/audit.ts';
import { isNeeded, missingWal, withoutSegments, type WindowFacts } from '../core/intervals.ts';
import { SegmentRanges } from '../core/segment-ranges.ts';
import { isSegmentName, segmentName, segmentNumber, timelineOf, type SegmentName } from '../core/segment.ts';
import type { Repository } from '../repository/repository.ts';
import { storeTime } from '../repository/store-time.ts';
import { findWal } from '../repository/wal.ts';
import type { FaultyWal } from './audit-reading.ts';

/** An upload has ten minutes. */
const IN_FLIGHT_MS = 10 * 60_000;
const MAX_IN_FLIGHT = 32;
const POLL_MS = 1_000;

/** Every file of the outcome, by its name. */
export function namesOf(
  round: RepairRound | undefined,
  outcome: 'repaired' | 'pending',
  segmentSize: number,
): Set<string> {
  const names = new Set<string>();
  for (const { outcome: is, timeline, first, last } of round?.repairs ?? []) {
    if (is !== outcome) continue;
    names.add(first);
    if (!isSegmentName(first) || !isSegmentName(last)) continue;
    const end = segmentNumber(last, segmentSize);
    for (let number = segmentNumber(first, segmentSize); number <= end; number++)
      names.add(segmentName(timeline, number, segmentSize));
  }
  return names;
}

/** What a recovery can't use of what is there. */
export function unusableOf(faulty: readonly FaultyWal[], segmentSize: number) {
  const segments = new SegmentRanges(segmentSize);
  const partials = new Set<SegmentName>();
  for (const { segment, isPartial, isUsable } of faulty) {
    if (isUsable) continue;
    if (isPartial) partials.add(segment);
    else segments.add(segment);
  }
  return { segments, partials };
}

/**
 * `facts` with what has arrived since the listing. Uploads run side by side, so a later segment may be there first:
 * a gap in front of one that was stored just now is looked at for a while before it is a hole.
 *
 * @param settleMs how long
 */
export async function settled(
  repository: Repository,
  facts: WindowFacts,
  { settleMs, signal }: { readonly settleMs: number; readonly signal: AbortSignal },
): Promise<WindowFacts> {
  const { segmentSize } = facts.segments;
  const young = await youngGaps(repository, missingWal(facts).slice(-MAX_IN_FLIGHT), signal);
  const names = young
    .flatMap(({ timeline, first, last }) =>
      Array.from({ length: Math.min(MAX_IN_FLIGHT, Number(last - first) + 1) }, (_, i) =>
        segmentName(timeline, first + BigInt(i), segmentSize),
      ),
    )
    .slice(0, MAX_IN_FLIGHT);
  const arrived = new SegmentRanges(segmentSize);
  const absent = new Set(names);
  for (let waitedMs = 0; ; waitedMs += POLL_MS) {
    for (const name of absent) {
      if ((await findWal(repository, name, signal)).length === 0) continue;
      arrived.add(name);
      absent.delete(name);
    }
    if (absent.size === 0 || waitedMs >= settleMs) break;
    await sleep(POLL_MS, undefined, { signal });
  }
  return { ...facts, segments: withSegments(facts.segments, arrived) };
}

/** Gaps in front of a segment that has just been stored. The store's clock decides where it can be asked. */
async function youngGaps<Gap extends { readonly next: SegmentName }>(
  repository: Repository,
  gaps: readonly Gap[],
  signal: AbortSignal,
): Promise<Gap[]> {
  if (gaps.length === 0) return [];
  const now = await storeTime(repository, signal).catch(() => {
    // A key that may only read: this host's clock will do, it only decides whether to wait.
    signal.throwIfAborted();
    return new Date();
  });
  const young: Gap[] = [];
  for (const gap of gaps) {
    const [next] = await findWal(repository, gap.next, signal);
    if (next && now.getTime() - next.modifiedAt.getTime() < IN_FLIGHT_MS) young.push(gap);
  }
  return young;
}

function withSegments(segments: SegmentRanges, more: SegmentRanges): SegmentRanges {
  const all = withoutSegments(segments, new SegmentRanges(segments.segmentSize));
  for (const timeline of more.timelines())
    for (const range of more.rangesOf(timeline)) all.addRange(timeline, range);
  return all;
}

/**
 * What is missing and should be there.
 *
 * @param pending names that wait to be archived at some instance: they are no holes
 * @returns besides, the segments as they will be when those have arrived
 */
export function missingDamages(
  facts: WindowFacts,
  unusable: SegmentRanges,
  pending: ReadonlySet<string>,
): { damages: ArchiveDamage[]; expected: SegmentRanges } {
  const { segmentSize } = facts.segments;
  const coming = new SegmentRanges(segmentSize);
  for (const name of pending) if (isSegmentName(name)) coming.add(name);
  const gaps = missingWal(facts);
  const gone = new SegmentRanges(segmentSize);
  for (const gap of gaps) gone.addRange(gap.timeline, gap);
  const left = withoutSegments(withoutSegments(gone, unusable), coming);
  const damages = left.timelines().flatMap((timeline) =>
    left.rangesOf(timeline).map(({ first, last }): ArchiveDamage => {
      const gap = gaps.find((one) => one.timeline === timeline && one.first <= first && last <= one.last);
      return {
        kind: 'missing',
        timeline,
        first: segmentName(timeline, first, segmentSize),
        last: segmentName(timeline, last, segmentSize),
        count: Number(last - first) + 1,
        ...(gap && { detail: `${gap.next} is there` }),
      };
    }),
  );
  return { damages, expected: withoutSegments(withSegments(facts.segments, coming), unusable) };
}

/** WAL that nobody needs is told of as well, but it is no damage to any window. */
export function faultyDamages(
  faulty: readonly FaultyWal[],
  facts: WindowFacts,
  warnings: string[],
): ArchiveDamage[] {
  return faulty.flatMap((wal): ArchiveDamage[] => {
    const { fileName, segment, isAmbiguous, isUsable, faults } = wal;
    const details = faults.map(({ object, fault, detail }) => `${object.key}: ${fault}: ${detail}`);
    if (isAmbiguous)
      details.push(`${wal.copies.map(({ key }) => key).join(' and ')} have different contents`);
    if (isUsable) details.push('another copy is whole');
    const detail = details.join('; ').slice(0, 500);
    if (!isNeeded(facts, segment)) {
      warnings.push(`${fileName} is damaged, and no backup needs it: ${detail}`);
      return [];
    }
    const isGone = !isAmbiguous && !isUsable && faults.every(({ fault }) => fault === 'gone');
    const kind = isGone ? 'missing' : 'damaged';
    return [{ kind, timeline: timelineOf(segment), first: fileName, last: fileName, count: 1, detail }];
  });
}

/** A history file that is not there, or can't be read. */
export function historyDamage(kind: ArchiveDamage['kind'], fileName: string, detail: string): ArchiveDamage {
  const timeline = Number.parseInt(fileName.slice(0, 8), 16);
  return { kind, timeline, first: fileName, last: fileName, count: 1, detail: detail.slice(0, 500) };
}
