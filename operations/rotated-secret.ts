import { BackupError, isBackupError, type ErrorCode } from '../core/errors.ts';
import type { Secret } from '../core/secret.ts';
import type {
  AzureCredentials,
  GoogleCredentials,
  S3Credentials,
  StoreConfig,
} from '../stores/store-config.ts';
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

/**
 * Whether work that was done with `access` failed because its key was refused, and there is another one by now. An
 * identity of the host has no secret here, so it is never another one: what renews its tokens is the store.
 */
export async function wasRotated(
  error: unknown,
  { config: before }: RepositoryAccess,
  resolve: () => Promise<RepositoryAccess>,
): Promise<boolean> {
  if (!isBackupError(error, 'access-denied') || before.kind === 'file') return false;
  const now = await resolve().then(
    ({ config }) => config,
    () => undefined,
  );
  return now?.kind === before.kind && !isSame(secretsOf(now), secretsOf(before));
}

function isSame(a: readonly (Secret | undefined)[], b: readonly (Secret | undefined)[]): boolean {
  return a.length === b.length && a.every((secret, at) => secret?.reveal() === b[at]?.reveal());
}

/** What proves to the store who asks, each at a place of its own. */
function secretsOf(config: StoreConfig): readonly (Secret | undefined)[] {
  switch (config.kind) {
    case 'file':
      return [];
    case 's3':
      return s3Secrets(config.credentials);
    case 'azure':
      return azureSecrets(config.credentials);
    case 'gs':
      return googleSecrets(config.credentials);
  }
}

function s3Secrets(given: S3Credentials | undefined): readonly (Secret | undefined)[] {
  return [given?.accessKeyId, given?.secretAccessKey, given?.sessionToken];
}

function azureSecrets(given: AzureCredentials | undefined): readonly (Secret | undefined)[] {
  switch (given?.way) {
    case 'connection-string':
      return [given.connectionString];
    case 'account-key':
      return [given.key];
    case 'sas-token':
      return [given.token];
    case 'managed-identity':
    case 'azure-cli':
    case 'default':
    case undefined:
      return [];
  }
}

function googleSecrets(given: GoogleCredentials | undefined): readonly (Secret | undefined)[] {
  return given?.way === 'json' ? [given.json] : [];
}
