import { isBackupError, messageOf } from '../core/errors.ts';
import { parseDuration } from '../core/duration.ts';
import type { LockInForce } from '../core/object-lock.ts';
import { parseRetentionPolicy } from '../core/retention-policy.ts';
import type { RetentionFacts, WalHold } from '../core/retention.ts';
import { SegmentRanges } from '../core/segment-ranges.ts';
import { DEFAULT_SEGMENT_SIZE, parseSegmentName, segmentNumber, type SegmentName } from '../core/segment.ts';
import type { TimelineSwitch } from '../core/timeline.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { PolicySpec } from '../manifests/desire.ts';
import type { BackupFolder } from '../repository/backup-parts.ts';
import { readBackupRecord, type BackupRecord } from '../repository/backup-record.ts';
import { readCatalogue, type CatalogueEntry } from '../repository/catalogue.ts';
import { inspectBackups } from '../repository/backup-parts.ts';
import { concurrently } from '../repository/concurrently.ts';
import { isOver, listHolds, type StoredHold } from '../repository/holds.ts';
import { readOwner, type Owner } from '../repository/owner.ts';
import type { Repository } from '../repository/repository.ts';
import { listTombstones, type ListedTombstone } from '../repository/tombstones.ts';
import { listVerifications, provenAt } from '../repository/verifications.ts';
import { listWal, readHistories } from '../repository/wal.ts';
import { listAttempts, type StoredAttempt } from './backup-attempt.ts';
import { describeHold, falselyHalfGone, retentionBackup } from './sweep-backup.ts';

/** What is declared about deletion. */
export interface SweepRules {
  /** Of a BackupPolicy that was applied; absent: there is none. */
  readonly policy?: PolicySpec['retention'];
  /** The Cluster's `retentionPolicy`. */
  readonly windowMs?: number;
  readonly graceMs: number;
  /** How long a backup may run. */
  readonly deadlineMs: number;
  /** Why nothing may be decided now, as a whole phrase: then nothing is marked, deleted or cleaned up. */
  readonly doubt?: string;
}

/** @param hasPolicy whether `policy` was applied; the defaults of nobody's policy delete nothing */
export function sweepRules(
  { spec }: Pick<ClusterManifest, 'spec'>,
  policy: PolicySpec,
  hasPolicy: boolean,
): SweepRules {
  const window = spec.backup?.retentionPolicy;
  return {
    ...(hasPolicy && { policy: policy.retention }),
    ...(window !== undefined && { windowMs: parseRetentionPolicy(window).windowMs }),
    graceMs: parseDuration(policy.retention.grace),
    deadlineMs: parseDuration(policy.attempts.deadline),
  };
}

/** Whether anything is declared that could let something go: without it nothing at all is deleted (D3). */
export function hasRules({ policy, windowMs }: SweepRules): boolean {
  return policy !== undefined || windowMs !== undefined;
}

/** What the repository says about backups, and what is being done with them. */
export interface SweepCatalogue {
  readonly entries: readonly CatalogueEntry[];
  /** By id: also of attempts, which have no record. */
  readonly folders: ReadonlyMap<string, BackupFolder>;
  /** Walkeep's own records, of the backups it took. Unchanging, so they may be read once. */
  readonly records: ReadonlyMap<string, BackupRecord | 'unreadable' | undefined>;
  readonly tombstones: ReadonlyMap<string, ListedTombstone>;
  readonly holds: readonly StoredHold[];
  readonly attempts: ReadonlyMap<string, StoredAttempt>;
  readonly proven: ReadonlyMap<string, Date>;
  readonly owner?: Owner;
  readonly doubts: readonly string[];
}

/** What the repository says about WAL. */
export interface SweepArchive {
  readonly segments: SegmentRanges;
  readonly partials: readonly SegmentName[];
  readonly labels: readonly SegmentName[];
  readonly youngFrom: ReadonlyMap<number, bigint>;
  /** By timeline: when the store got the newest segment of it, in ms. */
  readonly lastStored: ReadonlyMap<number, number>;
  readonly histories: ReadonlyMap<number, readonly TimelineSwitch[]>;
  readonly doubts: readonly string[];
}

const READS_AT_ONCE = 8;

/**
 * Reads all that is known about backups. Two listings of `base/` are compared: one that lacks what the other has, because
 * it was cut short without saying so or because somebody else writes, is a doubt.
 *
 * @param known from an earlier look, so that records are read once
 * @throws BackupError when any listing or reading fails, or a hold can't be read
 */
export async function readSweepCatalogue(
  r: Repository,
  signal: AbortSignal,
  known?: SweepCatalogue,
): Promise<SweepCatalogue> {
  // Holds before everything else: what is planned from the rest has seen all that were placed before.
  const holds = await listHolds(r, signal);
  const entries = await readCatalogue(r, signal);
  const folders = await inspectBackups(r, signal);
  const tombstones = await listTombstones(r, signal);
  const attempts = await listAttempts(r, signal);
  const owner = await readOwner(r, signal);
  const proven = provenAt(await listVerifications(r, signal, { onProblem: () => undefined }));
  const done = entries.filter(({ info }) => info?.status === 'DONE');
  const records = new Map(known?.records);
  await concurrently(
    done.filter(({ backupId }) => !records.has(backupId)),
    READS_AT_ONCE,
    async ({ backupId }) => records.set(backupId, await readRecord(r, backupId, signal)),
  );
  return {
    entries,
    folders,
    records,
    tombstones,
    holds,
    attempts,
    proven,
    ...(owner && { owner }),
    doubts: disagreements(entries, folders, await falselyHalfGone(r, entries, folders, signal)),
  };
}

async function readRecord(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<BackupRecord | 'unreadable' | undefined> {
  try {
    return await readBackupRecord(r, backupId, signal);
  } catch (error) {
    if (isBackupError(error, 'format-invalid', 'object-damaged')) return 'unreadable';
    throw error;
  }
}

function disagreements(
  entries: readonly CatalogueEntry[],
  folders: ReadonlyMap<string, BackupFolder>,
  falselyGone: readonly string[],
): string[] {
  const read = new Set(entries.map(({ backupId }) => backupId));
  const listed = [...folders].filter(([, { recordedAt }]) => recordedAt !== undefined).map(([id]) => id);
  const unlisted = entries.filter(
    ({ backupId, info }) => info && folders.get(backupId)?.recordedAt === undefined,
  );
  const unread = listed.filter((id) => !read.has(id));
  const odd = [...new Set([...unread, ...unlisted.map(({ backupId }) => backupId), ...falselyGone])];
  if (odd.length === 0) return [];
  return [
    `two listings of base/ do not agree about ${odd.slice(0, 3).join(', ')}${odd.length > 3 ? ` and ${odd.length - 3} more` : ''}`,
  ];
}

/** Which moments of the store count as young, in ms. */
export interface Youth {
  /** The store's time, or else the host's. */
  readonly now: number;
  readonly graceMs: number;
  readonly deadlineMs: number;
}

/**
 * What was stored after this is out of reach (D5): it is younger than the grace period, or a backup that runs may need
 * it. In ms.
 */
export function youngAfter(catalogue: SweepCatalogue, youth: Youth): number {
  const running = [...catalogue.attempts.values()]
    .filter(({ backupId }) => catalogue.folders.get(backupId)?.recordedAt === undefined)
    .map(({ claimedAt }) => claimedAt?.getTime() ?? Number.NaN)
    .filter((at) => at > youth.now - youth.deadlineMs - youth.graceMs);
  return Math.min(youth.now - youth.graceMs, ...running);
}

/**
 * Reads the names of all WAL.
 *
 * @param after what was stored later than this is young, in ms
 * @throws BackupError when any listing or reading fails
 */
export async function readSweepArchive(
  r: Repository,
  segmentSize: number,
  after: number,
  signal: AbortSignal,
): Promise<SweepArchive> {
  const segments = new SegmentRanges(segmentSize);
  const partials: SegmentName[] = [];
  const labels: SegmentName[] = [];
  const youngFrom = new Map<number, bigint>();
  const lastStored = new Map<number, number>();
  const doubts: string[] = [];
  for await (const { file, modifiedAt, key } of listWal(r, signal, { withoutHistories: true })) {
    if (file.kind === 'history') continue;
    try {
      const number = segmentNumber(file.segment, segmentSize);
      const timeline = Number.parseInt(file.segment.slice(0, 8), 16);
      const young = youngFrom.get(timeline);
      if (modifiedAt.getTime() > after && (young === undefined || number < young))
        youngFrom.set(timeline, number);
      lastStored.set(timeline, Math.max(lastStored.get(timeline) ?? 0, modifiedAt.getTime()));
      if (file.kind === 'segment') segments.addNumber(timeline, number);
    } catch (error) {
      if (!isBackupError(error, 'format-invalid')) throw error;
      if (doubts.length < 5) doubts.push(`${key}: ${messageOf(error)}`);
      continue;
    }
    if (file.kind === 'partial') partials.push(file.segment);
    if (file.kind === 'backup-history') labels.push(file.segment);
  }
  const histories = await readHistories(r, signal, (fileName, error) => {
    doubts.push(`${fileName} can't be read, so it is not known what its timeline needs: ${messageOf(error)}`);
  });
  return { segments, partials, labels, youngFrom, lastStored, histories, doubts };
}

/** Bytes of a WAL segment, as the repository tells. */
export function segmentSizeOf({ owner, entries }: Pick<SweepCatalogue, 'owner' | 'entries'>): number {
  const newest = entries.findLast(({ info }) => info !== undefined);
  return owner?.segmentSize ?? newest?.info?.segmentSize ?? DEFAULT_SEGMENT_SIZE;
}

export interface Clocks {
  /** The host's, in ms. */
  readonly now: number;
  /** The store's, where it is known. */
  readonly storeNow?: number;
}

/** By id, as far as it is known. */
export interface KnownOfDue {
  /** The grace period that a tombstone was placed under, in ms. */
  readonly graces: ReadonlyMap<string, number>;
  /** What the store says against the deletion; of a backup that was asked about and is free: nothing. */
  readonly locks: ReadonlyMap<string, LockInForce | undefined>;
}

/**
 * Puts together what a plan is made from.
 *
 * @param known what was asked about backups that are due
 */
export function retentionFacts(
  catalogue: SweepCatalogue,
  archive: SweepArchive,
  rules: SweepRules,
  clocks: Clocks,
  { graces, locks }: KnownOfDue = { graces: new Map(), locks: new Map() },
): RetentionFacts {
  const holds = catalogue.holds.filter(
    (hold) => !isOver(hold, clocks.storeNow === undefined ? undefined : new Date(clocks.storeNow)),
  );
  const { walHolds, doubts } = heldWal(holds, archive.segments.segmentSize);
  return {
    backups: catalogue.entries.map((entry) => {
      const markGraceMs = graces.get(entry.backupId);
      const lock = locks.get(entry.backupId);
      return {
        ...retentionBackup(entry, catalogue, holds),
        ...(markGraceMs !== undefined && { markGraceMs }),
        ...(lock && { lock }),
      };
    }),
    histories: archive.histories,
    segments: archive.segments,
    partials: archive.partials,
    labels: archive.labels,
    youngFrom: archive.youngFrom,
    lastStored: archive.lastStored,
    walHolds,
    ...(rules.policy && { policy: rules.policy }),
    ...(rules.windowMs !== undefined && { windowMs: rules.windowMs }),
    graceMs: rules.graceMs,
    deadlineMs: rules.deadlineMs,
    ...clocks,
    ...(catalogue.owner && { systemId: catalogue.owner.systemId }),
    ...(rules.doubt !== undefined && { undecidable: rules.doubt }),
    doubts: [...catalogue.doubts, ...archive.doubts, ...doubts],
  };
}

function heldWal(
  holds: readonly StoredHold[],
  segmentSize: number,
): { walHolds: WalHold[]; doubts: string[] } {
  const walHolds: WalHold[] = [];
  const doubts: string[] = [];
  for (const hold of holds) {
    if (hold.firstSegment === undefined) continue;
    try {
      const name = parseSegmentName(hold.firstSegment);
      const from = segmentNumber(name, segmentSize);
      const timelines = hold.timelines ?? [Number.parseInt(name.slice(0, 8), 16)];
      walHolds.push(...timelines.map((timeline) => ({ timeline, from, why: describeHold(hold) })));
    } catch (error) {
      doubts.push(`what the hold ${hold.id} needs is not known: ${messageOf(error)}`);
    }
  }
  return { walHolds, doubts };
}
