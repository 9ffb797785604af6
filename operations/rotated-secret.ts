import { BackupError, isBackupError, type ErrorCode } from '../core/errors.ts';
import type { S3Credentials } from '../stores/store-config.ts';
import type { RepositoryAccess } from './open-repository.ts';

/**
 * Judges a failure of work that was done with `access`: a key that the store refuses ends the work, unless another one
 * was put into its place while the work ran. Then it can be done again.
 *
 * @param resolve the access as it is now
 * @param code of what may be done again
 * @returns what to throw
 */
export async function unlessRotated(
  error: unknown,
  access: RepositoryAccess,
  resolve: () => Promise<RepositoryAccess>,
  code: Extract<ErrorCode, 'backup-interrupted' | 'restore-interrupted'>,
): Promise<unknown> {
  if (!isBackupError(error, 'access-denied') || !(await wasRotated(error, access, resolve))) return error;
  return new BackupError(code, `the secret was replaced meanwhile: ${error.message}`, {
    cause: error,
    hint: 'a new attempt uses the new one',
  });
}

/** Whether work that was done with `access` failed because its key was refused, and there is another one by now. */
export async function wasRotated(
  error: unknown,
  { config: before }: RepositoryAccess,
  resolve: () => Promise<RepositoryAccess>,
): Promise<boolean> {
  if (!isBackupError(error, 'access-denied') || before.kind !== 's3') return false;
  const now = await resolve().then(
    ({ config }) => config,
    () => undefined,
  );
  return now?.kind === 's3' && !isSameKey(now.credentials, before.credentials);
}

function isSameKey(a: S3Credentials | undefined, b: S3Credentials | undefined): boolean {
  return (
    a?.accessKeyId.reveal() === b?.accessKeyId.reveal() &&
    a?.secretAccessKey.reveal() === b?.secretAccessKey.reveal() &&
    a?.sessionToken?.reveal() === b?.sessionToken?.reveal()
  );
}
