/** One thing that was looked at. */
export interface VerificationCheck {
  /** `hashes`, `manifest`, `replay`, `target`, `start`, `pageChecksums`, `amcheck`, `query: …`, … */
  readonly name: string;
  readonly result: 'passed' | 'failed' | 'skipped';
  /** Of `failed`: what is bad; an object of the repository, a WAL segment, a relation, a file of the data directory. */
  readonly object?: string;
  readonly detail?: string;
  readonly seconds?: number;
}

/**
 * `verified`: restored, replayed, started and checked · `damaged`: the backup or the WAL is bad, and `checks` names
 * where · `not-tried`: it could not be tried (no room, no worker, store away …), which says nothing about the backup.
 */
export type VerificationResult = 'verified' | 'damaged' | 'not-tried';

/** What a verification found: evidence, kept in the repository (`walkeep/verifications/<id>.json`). Plain JSON. */
export interface Verification {
  readonly version: 1;
  /** `YYYYMMDDTHHMMSS`-like, of its beginning; unique in the repository. */
  readonly id: string;
  /** The ScheduledVerification it belongs to. */
  readonly name?: string;
  readonly namespace: string;
  readonly cluster: string;
  readonly result: VerificationResult;
  /** RFC 3339. */
  readonly startedAt: string;
  readonly endedAt: string;
  /** Where: the host, and the instance whose worker did it. */
  readonly host: string;
  readonly instance: string;
  readonly backupId?: string;
  readonly backupName?: string;
  readonly target: { readonly kind: string; readonly value?: string };
  /** How far it was restored. */
  readonly reachedLsn?: string;
  readonly reachedTime?: string;
  readonly timeline?: number;
  /** Time to recover, in seconds, and its parts. */
  readonly rtoSeconds?: number;
  readonly fetchSeconds?: number;
  readonly replaySeconds?: number;
  readonly startSeconds?: number;
  /** From the newest commit that was restored to the newest moment known of the source, in seconds. */
  readonly rpoSeconds?: number;
  readonly contentBytes?: number;
  readonly storedBytes?: number;
  readonly walSegments?: number;
  readonly postgresVersion?: string;
  readonly walkeepVersion: string;
  readonly checks: readonly VerificationCheck[];
  /** What went wrong, for people; of `damaged` and `not-tried`. */
  readonly error?: string;
  readonly warnings: readonly string[];
}
