import { BackupError, isBackupError, messageOf, type ErrorCode } from '../core/errors.ts';

/**
 * What PostgreSQL, or the way to it, answered, as one of our failures. Neither message nor cause ever holds a password:
 * PostgreSQL does not send one back, and settings are not part of the text.
 *
 * @param doing what was asked for, as the beginning of the message: `connecting to …`, `pg_backup_start`
 */
export function postgresError(error: unknown, doing: string): BackupError {
  if (isBackupError(error)) return error;
  const code = codeOf(error);
  const hint = HINTS[code] ?? serverHint(error);
  return new BackupError(classify(code), `${doing}: ${firstLine(messageOf(error)) || code || 'no answer'}`, {
    cause: error,
    ...(hint === undefined ? {} : { hint }),
  });
}

const HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no server on this socket: start PostgreSQL, or set PGHOST and PGPORT',
  ECONNREFUSED: 'there is no server at this address: start PostgreSQL, or set PGHOST and PGPORT',
  '3D000': 'set PGDATABASE to a database that exists',
  '42501': 'give the role its grants: scripts/grants.sql',
  '53300': 'raise max_connections, or keep a connection free for the backup',
};

function classify(code: string): ErrorCode {
  if (code.startsWith('28') || code === '42501' || code === 'EACCES') return 'postgres-denied';
  if (code === '3D000') return 'config-invalid';
  // Object not in the prerequisite state: recovery, wal_level, full_page_writes, a backup that is not in progress.
  if (code === '55000' || code === '42883' || code === '0A000') return 'postgres-unsuitable';
  return 'postgres-unavailable';
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  if (typeof code === 'string') return code;
  const first = (error as { errors?: unknown[] } | null)?.errors?.[0];
  return first === undefined ? '' : codeOf(first);
}

function serverHint(error: unknown): string | undefined {
  const hint = (error as { hint?: unknown } | null)?.hint;
  return typeof hint === 'string' && hint !== '' ? firstLine(hint) : undefined;
}

function firstLine(text: string): string {
  return text.split('\n')[0] as string;
}
