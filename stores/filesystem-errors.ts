import { BackupError, isBackupError, messageOf } from '../core/errors.ts';

/** The code of a failed system call (`ENOENT`), if `error` is one. */
export function systemCodeOf(error: unknown): string | undefined {
  const isSystemCall = error instanceof Error && 'syscall' in error && 'code' in error;
  return isSystemCall && typeof error.code === 'string' ? error.code : undefined;
}

/** A failed system call as a store's error about `name`; other errors pass unchanged. */
export function toStoreError(error: unknown, name: string): unknown {
  const code = systemCodeOf(error);
  if (isBackupError(error) || code === undefined) return error;
  const cause = { cause: error };
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new BackupError('store-full', `no room to store ${name} (${code})`, cause);
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new BackupError('access-denied', `${name} may not be read or written by this user (${code})`, {
        ...cause,
        hint:
          code === 'EROFS'
            ? 'the file system is mounted read-only'
            : 'give the user of walkeep the directory; it must support hard links',
      });
    case 'EISDIR':
    case 'ENOTDIR':
    case 'ENOTEMPTY':
      return new BackupError(
        'config-invalid',
        `${name}: a directory can not hold an object and others below it (${code})`,
        cause,
      );
    case 'ENAMETOOLONG':
      return new BackupError('format-invalid', `${name} is too long a name for the file system`, cause);
    case 'EXDEV':
    case 'ENOTSUP':
    case 'EOPNOTSUPP':
      return new BackupError('config-invalid', `${name} can not be linked into place (${code})`, {
        ...cause,
        hint: 'the whole repository must lie on one file system that supports hard links',
      });
    default:
      return new BackupError('store-unavailable', `${name} can not be read or written: ${messageOf(error)}`, {
        ...cause,
        hint: 'look at the disk and its file system; it is tried again',
      });
  }
}
