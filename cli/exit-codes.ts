import { isBackupError, type ErrorCode } from '../core/errors.ts';

/** What `walkeep` exits with; documented in docs/cli.md. `wal-push` and `wal-fetch` have PostgreSQL's own rules. */
export const EXIT = {
  ok: 0,
  failed: 1,
  usage: 2,
  manifestRefused: 3,
  unknownObject: 4,
  temporal: 5,
  store: 6,
  secret: 7,
  postgres: 8,
  refused: 9,
  damaged: 10,
  findings: 11,
  notYet: 12,
  interrupted: 130,
} as const;

const CODES: Partial<Record<ErrorCode, number>> = {
  usage: EXIT.usage,
  'config-invalid': EXIT.usage,
  'input-invalid': EXIT.usage,
  'manifest-invalid': EXIT.manifestRefused,
  'cluster-unknown': EXIT.unknownObject,
  'backup-unknown': EXIT.unknownObject,
  'schedule-unknown': EXIT.unknownObject,
  'object-missing': EXIT.unknownObject,
  'temporal-unavailable': EXIT.temporal,
  'agent-unavailable': EXIT.temporal,
  'worker-missing': EXIT.temporal,
  'store-unavailable': EXIT.store,
  'store-full': EXIT.store,
  'access-denied': EXIT.store,
  'bucket-missing': EXIT.store,
  'secret-missing': EXIT.secret,
  'postgres-unavailable': EXIT.postgres,
  'postgres-unsuitable': EXIT.postgres,
  'postgres-denied': EXIT.postgres,
  'target-unreachable': EXIT.refused,
  'directory-not-empty': EXIT.refused,
  'already-exists': EXIT.refused,
  'wal-conflict': EXIT.refused,
  'wal-foreign': EXIT.refused,
  'backup-in-progress': EXIT.refused,
  'backup-unusable': EXIT.refused,
  'lease-held': EXIT.refused,
  'object-damaged': EXIT.damaged,
  'wal-hole': EXIT.damaged,
  'not-yet': EXIT.notYet,
};

/** The exit code for a foreseen failure; 1 where the table names no other. */
export function exitCodeOf(code: ErrorCode): number {
  return CODES[code] ?? EXIT.failed;
}

/** The exit code for whatever was thrown; 1 for what nobody foresaw. */
export function exitCodeFor(error: unknown): number {
  return isBackupError(error) ? exitCodeOf(error.code) : EXIT.failed;
}
