/** What a sweep found, and did or would do with one backup. */
export interface SweptBackup {
  readonly backupId: string;
  readonly backupName?: string;
  /** RFC 3339. */
  readonly endedAt?: string;
  /**
   * `keep`: some rule keeps it · `mark`: no rule does; it gets a tombstone and its grace period begins · `wait`: it has
   * a tombstone and its grace period is not over · `delete`: nothing keeps it any longer · `undecided`: kept, because
   * something about it is not known.
   */
  readonly decision: 'keep' | 'mark' | 'wait' | 'delete' | 'undecided';
  /** Every rule that keeps it, or why it may go; whole phrases. */
  readonly reasons: readonly string[];
  /** When it may be deleted, RFC 3339: of `mark` and `wait`. */
  readonly dueAt?: string;
  readonly sizeBytes?: number;
}

/** A run of consecutive segments with one fate. */
export interface SweptWal {
  readonly timeline: number;
  readonly first: string;
  readonly last: string;
  readonly count: number;
  readonly decision: 'keep' | 'delete';
  readonly reason: string;
}

/** What a sweep did, or would do. Plain JSON; lists are cut to what a payload may hold, counts are whole. */
export interface SweepReport {
  readonly dryRun: boolean;
  /** RFC 3339. */
  readonly at: string;
  /** Why nothing at all was deleted, when something forbids it (D3); absent otherwise. */
  readonly refused?: string;
  /** Newest first. */
  readonly backups: readonly SweptBackup[];
  readonly wal: readonly SweptWal[];
  /** What dead attempts left behind and was removed, or would be. */
  readonly leftovers: readonly string[];
  readonly warnings: readonly string[];
  readonly counts: {
    readonly kept: number;
    readonly marked: number;
    readonly waiting: number;
    readonly deletedBackups: number;
    readonly deletedWal: number;
    readonly deletedBytes: number;
  };
}

/** The reason alone, for where it is already said that nothing is deleted. */
export function whyNothing(refused: string): string {
  return refused.replace(/^nothing is deleted: /, '');
}
