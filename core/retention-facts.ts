import type { Lsn } from './lsn.ts';
import type { LockInForce } from './object-lock.ts';
import type { SegmentRanges } from './segment-ranges.ts';
import type { SegmentName } from './segment.ts';
import type { TimelineSwitch } from './timeline.ts';

/** How many backups of which age are kept; 0 or absent: that rule keeps none. */
export interface KeepRules {
  /** The newest ones. */
  readonly keepLast?: number | undefined;
  /** The newest of each of so many days that have one; weeks begin on Monday. */
  readonly daily?: number | undefined;
  readonly weekly?: number | undefined;
  readonly monthly?: number | undefined;
  readonly yearly?: number | undefined;
}

/** `BackupPolicy.spec.retention`, as far as it decides; the manifest's type has this shape. */
export interface RetentionRules extends KeepRules {
  /** Restorable full backups of every system identifier that stay, whatever else is said; at least 1 counts. */
  readonly minimum: number;
  /** Further rules, for the backups of one ScheduledBackup: what the general rules keep stays as well. */
  readonly schedules: Readonly<Record<string, KeepRules>>;
  readonly onlyWithProvenSuccessor: boolean;
  /** Where days, weeks, months and years begin. */
  readonly timezone: string;
}

/** What retention needs to know about a backup; `BackupInfo` has most of it. */
export interface RetentionBackup {
  readonly backupId: string;
  readonly backupName?: string | undefined;
  readonly status: string;
  readonly beginTime?: Date | undefined;
  readonly endTime?: Date | undefined;
  /** Its times were recorded without a zone and taken for UTC: they may be half a day off. */
  readonly hasTimesWithoutZone?: boolean | undefined;
  /** When the store received `backup.info`, by the store's clock. */
  readonly storedAt?: Date | undefined;
  readonly timeline?: number | undefined;
  readonly beginLsn?: Lsn | undefined;
  readonly endLsn?: Lsn | undefined;
  readonly systemId?: string | undefined;
  readonly segmentSize: number;
  readonly parentBackupId?: string | undefined;
  readonly snapshots?: boolean | undefined;
  /** barman's annotation. `full`: the backup and all WAL after it; `standalone`: itself, and the WAL from its begin to its end. */
  readonly keep?: 'full' | 'standalone' | undefined;
  /** Why nobody may delete it now: walkeep.io/hold, a running restore or verification. */
  readonly hold?: string | undefined;
  /** The ScheduledBackup it was taken for. */
  readonly schedule?: string | undefined;
  /** When it was last restored successfully. */
  readonly provenAt?: Date | undefined;
  /** Why its record can't be read. One such record holds back every deletion (D3). */
  readonly problem?: string | undefined;
  /** What is known to be missing or damaged of its parts: it doesn't count for the rules, and holds back nothing else. */
  readonly damage?: string | undefined;
  readonly tombstonedAt?: Date | undefined;
  /** The grace period its tombstone was placed under, where it is known and matters. */
  readonly markGraceMs?: number | undefined;
  /** What the store itself says against its deletion now, where it was asked. */
  readonly lock?: LockInForce | undefined;
  /**
   * Its deletion went as far as the first tar of its data, without which nobody restores it: no rule can bring it back,
   * and it is finished. What was only said to be deleted is a backup like any other.
   */
  readonly deletionBegan?: boolean | undefined;
}

/** WAL that is in use: everything from segment `from` on, on that timeline and on those that descend from it. */
export interface WalHold {
  readonly timeline: number;
  /** A running number, as `segmentNumber` gives it. */
  readonly from: bigint;
  readonly why: string;
}

export interface RetentionFacts {
  readonly backups: readonly RetentionBackup[];
  readonly histories: ReadonlyMap<number, readonly TimelineSwitch[]>;
  readonly segments: SegmentRanges;
  /** Segments that are in the archive as `.partial`, without that ending. */
  readonly partials?: readonly SegmentName[] | undefined;
  /** Segments that `.backup` files (backup history files) belong to. */
  readonly labels?: readonly SegmentName[] | undefined;
  /** By timeline: the lowest segment that was stored within the grace period, if any. It and all after it are out of reach (D5). */
  readonly youngFrom: ReadonlyMap<number, bigint>;
  /**
   * By timeline: when the store received the newest segment of it, in milliseconds since 1970. It tells which timelines were
   * in use within the window; without it the backups alone tell that.
   */
  readonly lastStored?: ReadonlyMap<number, number> | undefined;
  readonly walHolds?: readonly WalHold[] | undefined;
  /** The BackupPolicy's retention; absent when the cluster has no BackupPolicy. */
  readonly policy?: RetentionRules | undefined;
  /** The Cluster's `retentionPolicy`; absent when it has none. */
  readonly windowMs?: number | undefined;
  /** Between tombstone and deletion, unless the tombstone was placed under a longer one; what is younger is out of reach. */
  readonly graceMs: number;
  /** How long a backup may run (`attempts.deadline`). */
  readonly deadlineMs: number;
  /** Milliseconds since 1970, by this host's clock. */
  readonly now: number;
  /** The same moment by the store's clock, when it is known. */
  readonly storeNow?: number | undefined;
  /** The system identifier that the archive belongs to (`owner.json`), when it is known. */
  readonly systemId?: string | undefined;
  /** What the caller saw and does not understand, as whole phrases: odd listings, unreadable histories. Each forbids all deletions. */
  readonly doubts?: readonly string[] | undefined;
  /** Why nothing may be decided now, as a whole phrase: a doubt that holds back also what is taken back without rules. */
  readonly undecidable?: string | undefined;
}

export interface PlannedBackup {
  readonly backupId: string;
  /** As `SweptBackup.decision`. */
  readonly decision: 'keep' | 'mark' | 'wait' | 'delete' | 'undecided';
  /** Every rule that keeps it, or why it may go; whole phrases. */
  readonly reasons: readonly string[];
  /** When it may be deleted, milliseconds since 1970: of `mark` and `wait`. */
  readonly dueAt?: number;
  /** It has a tombstone, and something keeps it again: the tombstone is to be removed. */
  readonly takeBack?: true;
}

/** A run of segments that are in the archive, with one fate. Their `.partial` share it. */
export interface PlannedWal {
  readonly timeline: number;
  /** Running numbers, both included. */
  readonly first: bigint;
  readonly last: bigint;
  readonly decision: 'keep' | 'delete';
  readonly reason: string;
}

/** A file beside the segments: `00000002.history`, or the `.partial` and `.backup` of a segment. */
export interface PlannedFile {
  readonly timeline: number;
  readonly decision: 'keep' | 'delete';
  readonly reason: string;
}
export type PlannedHistory = PlannedFile & { readonly name: string };
export type PlannedSegmentFile = PlannedFile & { readonly segment: SegmentName };

export interface RetentionPlan {
  /** Why nothing at all may be marked or deleted. Then no decision is `mark`, `wait` or `delete`, and no tombstone is taken back. */
  readonly refused?: string;
  /** Newest first: deleted in this order, a backup goes before the one it is built on. */
  readonly backups: readonly PlannedBackup[];
  /** By timeline and number, ascending; every archived segment is in one. */
  readonly wal: readonly PlannedWal[];
  readonly partials: readonly PlannedSegmentFile[];
  /** The `.backup` files. */
  readonly labels: readonly PlannedSegmentFile[];
  readonly histories: readonly PlannedHistory[];
  readonly warnings: readonly string[];
}
