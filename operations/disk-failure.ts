import { BackupError, isBackupError, messageOf } from '../core/errors.ts';

/** What the disk below `directory` answered to a restore, as an error that names it; other errors pass unchanged. */
export function diskFailure(error: unknown, directory: string): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (isBackupError(error) || typeof code !== 'string') return error;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new BackupError('disk-full', `no room left in ${directory}`, {
      cause: error,
      hint: 'make room there and run the same command again; it begins this backup anew in the same directory',
    });
  }
  if (code !== 'EIO') return error;
  return new BackupError('data-unreadable', `can't write ${directory}: ${messageOf(error)}`, {
    cause: error,
    hint: 'look at the disk (dmesg); the same command begins the restore anew, in another directory too',
  });
}
