/** Plain JSON. */
export interface SweepProgress {
  readonly phase:
    'looking' | 'marking' | 'deleting' | 'deleting-wal' | 'deleting-records' | 'cleaning-up' | 'done';
  readonly deletedBackups: number;
  readonly deletedWal: number;
  readonly deletedBytes: number;
}

export interface SweepOptions {
  readonly signal: AbortSignal;
  /** Names who sweeps, for whoever meets the lease. */
  readonly holder: string;
  readonly onProgress?: (progress: SweepProgress) => void;
  /** The host's clock, in ms. */
  readonly now?: () => number;
  readonly lease?: { readonly ttlMs?: number; readonly settleMs?: number };
  /**
   * Whether what was declared still is: asked whenever everything is looked at again before deletion goes on.
   *
   * @returns why not, as a whole phrase: then the sweep stops
   */
  readonly stillDeclared?: () => Promise<string | undefined>;
}
