/**
 * Every failure walkeep foresees. `retryable` tells Temporal whether trying again can help, `hint` tells the
 * operator what to do next. The codes are public: they are the `type` of Temporal failures and appear in the
 * CLI's JSON. Add rows; never change the meaning of one.
 */
export const ERRORS = {
  // what people wrote
  'manifest-invalid': {
    retryable: false,
    hint: 'correct the manifest and apply it again; nothing was applied',
  },
  usage: { retryable: false, hint: 'see --help' },
  'not-yet': { retryable: false, hint: 'this version of walkeep does not do that yet; nothing was changed' },
  'cluster-unknown': {
    retryable: false,
    hint: 'apply the manifest of the Cluster first: walkeep apply -f FILE',
  },
  'schedule-unknown': {
    retryable: false,
    hint: 'apply the ScheduledBackup first: walkeep apply -f FILE; walkeep get scheduledbackups lists what there is',
  },
  'backup-unknown': { retryable: false, hint: 'walkeep get backups lists what there is' },
  'secret-missing': {
    retryable: false,
    hint: 'create it on the host of the worker: walkeep create secret generic NAME --from-literal=KEY=VALUE',
  },
  'config-invalid': { retryable: false, hint: 'correct the configuration and start again' },
  // stores
  'store-unavailable': {
    retryable: true,
    hint: 'look at the object store and the way to it; what waits for it goes on when it answers',
  },
  'store-full': { retryable: true, hint: 'make room in the store; WAL stays in pg_wal until then' },
  'access-denied': {
    retryable: false,
    hint: 'check the credentials and the rights of this key on the bucket',
  },
  'bucket-missing': { retryable: false, hint: 'create the bucket, or correct destinationPath' },
  'already-exists': { retryable: false, hint: 'the object is there already and was left as it is' },
  'object-missing': { retryable: false, hint: 'the object is not in the store' },
  'object-damaged': {
    retryable: false,
    hint: 'the stored object is damaged; it was not used: WAL is sent again by walkeep audit CLUSTER --repair where an instance still has it, and of a backup another one can be restored',
  },
  // repository and WAL
  'format-invalid': { retryable: false, hint: 'no version we know wrote this name or object' },
  'wal-conflict': {
    retryable: false,
    hint: 'two clusters may share one archive: give each its own serverName. Nothing was overwritten, WAL stays in pg_wal',
  },
  'wal-foreign': {
    retryable: false,
    hint: 'this archive belongs to another cluster: give this one its own serverName',
  },
  'wal-missing': { retryable: true, hint: 'look at pg_stat_archiver: the segment has not been archived yet' },
  'wal-hole': { retryable: false, hint: 'the archive has a hole here; recovery can not pass it' },
  // PostgreSQL
  'postgres-unavailable': { retryable: true, hint: 'PostgreSQL refuses or dropped the connection' },
  'postgres-unsuitable': { retryable: false, hint: 'change the setting of PostgreSQL named here' },
  'postgres-denied': { retryable: false, hint: 'give the role its grants: scripts/grants.sql' },
  'data-unreadable': {
    retryable: false,
    hint: 'a file of PostgreSQL can not be read: look at the disk (dmesg) and at the rights of the worker',
  },
  'backup-interrupted': {
    retryable: true,
    hint: 'a new attempt starts from the beginning; nothing of this one counts',
  },
  'backup-in-progress': { retryable: true, hint: 'another backup of this cluster is running; wait for it' },
  'backup-unusable': { retryable: false, hint: 'choose another backup' },
  // restore
  'target-unreachable': { retryable: false, hint: 'choose one of the moments named here' },
  'directory-not-empty': { retryable: false, hint: 'give an empty or new directory; nothing was written' },
  'restore-interrupted': {
    retryable: true,
    hint: 'run the same restore again: it begins anew in the same directory',
  },
  'recovery-failed': { retryable: false, hint: 'the log named here says why; nothing was promoted' },
  'disk-full': { retryable: true, hint: 'make room on the file system named here' },
  'verification-impossible': {
    retryable: false,
    hint: 'change what is named here; nothing was learnt about the backup',
  },
  // orchestration
  'temporal-unavailable': {
    retryable: true,
    hint: 'start Temporal or set TEMPORAL_ADDRESS; archiving and restore work without it',
  },
  'input-invalid': {
    retryable: false,
    hint: 'correct the field named here and start it again; nothing was done',
  },
  'worker-missing': {
    retryable: true,
    hint: 'start walkeep worker next to the database, with this cluster and instance',
  },
  'agent-unavailable': { retryable: true, hint: 'start walkeep worker' },
  'lease-held': {
    retryable: true,
    hint: 'somebody else is at it; wait until it has ended. A lease whose holder died runs out by itself',
  },
  'lease-lost': {
    retryable: true,
    hint: 'somebody else took over, or this process stood still too long; it did nothing more',
  },
  'deadline-exceeded': { retryable: true, hint: 'it took longer than it may' },
} as const satisfies Record<string, { retryable: boolean; hint: string }>;

export type ErrorCode = keyof typeof ERRORS;

/**
 * A failure that walkeep foresees. The message is lower-case, names the object, and says what was expected and
 * what came. It never holds a secret.
 */
export class BackupError extends Error {
  override readonly name = 'BackupError';
  readonly code: ErrorCode;
  /** What to do next; the table's advice unless the place knows better. */
  readonly hint: string;
  /**
   * The WAL file or tar that a listing did not show, where that alone is the evidence: whoever calls something damaged
   * for it asks the store for it by name first. Given by code, never read out of a text.
   */
  readonly notListed?: string;

  constructor(
    code: ErrorCode,
    message: string,
    options?: { cause?: unknown; hint?: string; notListed?: string | undefined },
  ) {
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    if (options?.notListed !== undefined) this.notListed = options.notListed;
    this.hint = options?.hint ?? ERRORS[code].hint;
  }

  /** Whether trying again, unchanged, can help. */
  get retryable(): boolean {
    return ERRORS[this.code].retryable;
  }
}

/** Whether `error` is a `BackupError` (of one of `codes`, if any are given). */
export function isBackupError(error: unknown, ...codes: readonly ErrorCode[]): error is BackupError {
  return error instanceof BackupError && (codes.length === 0 || codes.includes(error.code));
}

/** The text of anything that was thrown, for messages: never the stack, never a cause's secrets. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
