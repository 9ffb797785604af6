import { BackupError, isBackupError } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';
import { toStoreError } from './s3-errors.ts';

/** What Azure, or the way to it, said; nothing of it holds a signature, a token, a header or an address. */
export interface AzureFailure {
  /** `BlobNotFound`, `ServerBusy`, `ECONNREFUSED`, `TimeoutError` … */
  readonly code: string;
  /** HTTP status, where there was an answer. */
  readonly status: number | undefined;
  /** How long the store asks to be left alone, in milliseconds. */
  readonly pauseMs?: number;
}

/** Reads code and status off whatever the SDK threw. Its text is left alone: it may quote the signed request. */
export function failureOf(error: unknown): AzureFailure {
  const status = field(error, 'statusCode');
  const name = error instanceof Error ? error.name : undefined;
  const candidates = [
    headerOf(error, 'x-ms-error-code'),
    field(field(error, 'details'), 'errorCode'),
    field(error, 'code'),
    name === 'RestError' ? undefined : name,
  ].filter((text) => typeof text === 'string');
  const code = candidates.find((text) => /^[\w.-]{1,60}$/.test(text)) ?? 'unknown';
  const pauseMs = pauseOf(error);
  return {
    code,
    status: typeof status === 'number' ? status : undefined,
    ...(pauseMs === undefined ? {} : { pauseMs }),
  };
}

/** A field of what may be an object. */
function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

function headerOf(error: unknown, name: string): unknown {
  const headers = field(field(error, 'response'), 'headers');
  const get = field(headers, 'get');
  const value: unknown = typeof get === 'function' ? Reflect.apply(get, headers, [name]) : undefined;
  return value;
}

/** `Retry-After`: seconds, or a date. */
function pauseOf(error: unknown): number | undefined {
  const text = headerOf(error, 'retry-after');
  if (typeof text !== 'string' || text === '') return undefined;
  const pauseMs = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isFinite(pauseMs) ? Math.max(0, pauseMs) : undefined;
}

/** The words of the store itself that there is no such object, not those of something in front of it. */
export const NO_SUCH_BLOB = 'BlobNotFound';
/** The range begins behind the end. */
export const BEHIND_THE_END = 'InvalidRange';
/** Blocks that were staged are gone: another writer stored something under the same name. */
export const BLOCKS_GONE = 'InvalidBlockList';

const CONTAINER_MISSING = new Set([
  'ContainerBeingDeleted',
  'ContainerDisabled',
  'ContainerNotFound',
  'ResourceNotFound',
]);
const EXISTS = new Set(['BlobAlreadyExists', 'ConditionNotMet', 'TargetConditionNotMet']);
const FULL = new Set([
  'AccountCapacityExceeded',
  'InsufficientStorage',
  'QuotaExceeded',
  'StorageQuotaExceeded',
]);
/** Refusals whose status tells another story. */
const DENIED = new Set([
  'AccountIsDisabled',
  'BlobImmutableDueToLegalHold',
  'BlobImmutableDueToPolicy',
  'InvalidAuthenticationInfo',
  'LeaseIdMismatchWithBlobOperation',
  'LeaseIdMissing',
  'NoAuthenticationInformation',
  'PublicAccessNotPermitted',
]);
/** Client errors that a second try cures: a broken transfer, a race, a slow sender. */
const PASSING = new Set([
  'AccountBeingCreated',
  'ContainerBeingCreated',
  'Crc64Mismatch',
  'IncompleteBody',
  BLOCKS_GONE,
  'Md5Mismatch',
  'OperationTimedOut',
  'PARSE_ERROR',
  'ServerBusy',
]);
/** Refusals with a way out of their own. */
const HINTS: Readonly<Record<string, string>> = {
  AuthenticationFailed:
    'the key, the signature or the token is not valid there, or the clock of this host is wrong: correct the secret, or the clock',
  AuthorizationFailure: 'the firewall of the account, or the rights of this key, refuse it',
  AuthorizationPermissionMismatch:
    'the identity has no right to it: give it the role "Storage Blob Data Contributor", or the SAS its permissions (racwdl, and t for tags)',
  KeyBasedAuthenticationNotPermitted:
    'the account takes no keys: use inheritFromAzureAD or useDefaultAzureCredentials',
  InvalidAuthenticationInfo:
    'the token has expired or is not for this account; look at the clock of this host too',
  BlobImmutableDueToPolicy: 'a policy of the container forbids to replace or delete it before its time',
  BlobImmutableDueToLegalHold: 'a legal hold forbids to replace or delete it',
  LeaseIdMissing: 'somebody holds a lease on it: break it, or wait',
  SnapshotsPresent: 'somebody made snapshots of it, which have to be deleted first',
  BlobArchived: 'it lies in the archive tier: bring it back to hot or cool first, which takes hours',
  InvalidBlobOrBlock:
    'unfinished blocks of another tool lie under this name: the store drops them after a week',
  InvalidBlockId: 'unfinished blocks of another tool lie under this name: the store drops them after a week',
};

/**
 * A failure of the SDK as a store's error.
 *
 * @param what the call and its object: `put https://a.blob.core.windows.net/c/k`
 * @param where the address of the service. It holds no credentials
 */
export function toAzureError(error: unknown, what: string, where: string): BackupError {
  if (isBackupError(error)) return error;
  const failure = failureOf(error);
  // what breaks on the way there has the same names for every store
  if (failure.status === undefined) {
    return toStoreError(Object.assign(new Error(failure.code), { code: failure.code }), what, where);
  }
  const { code, hint } = judge(failure.code, failure.status, where);
  return new BackupError(code, `${what} failed: ${failure.code}, status ${failure.status}`, {
    cause: failure,
    ...(hint === undefined ? {} : { hint }),
  });
}

/** Whether a store's error came from an answer with one of these codes. */
export function isFailure(error: unknown, ...codes: readonly string[]): boolean {
  return isBackupError(error) && codes.includes(String(field(error.cause, 'code')));
}

/** How long the store asked to be left alone by the answer behind this error, in milliseconds. */
export function pauseAfter(error: BackupError): number {
  const pauseMs = field(error.cause, 'pauseMs');
  return typeof pauseMs === 'number' ? pauseMs : 0;
}

function judge(said: string, status: number, where: string): { code: ErrorCode; hint?: string } {
  const own = HINTS[said];
  const hint = own === undefined ? {} : { hint: own };
  if (CONTAINER_MISSING.has(said)) {
    return {
      code: 'bucket-missing',
      hint: `create the container at ${where}, or correct destinationPath; nothing was changed`,
    };
  }
  if (said === NO_SUCH_BLOB) return { code: 'object-missing' };
  if (FULL.has(said) || status === 507) return { code: 'store-full' };
  if (DENIED.has(said) || status === 401 || status === 403) return { code: 'access-denied', ...hint };
  if (EXISTS.has(said) || status === 412) return { code: 'already-exists' };
  if (PASSING.has(said) || status === 408 || status === 429) return { code: 'store-unavailable' };
  if (status === 501) return { code: 'config-invalid', hint: 'the store does not know this request' };
  if (status >= 400 && status < 500) {
    return { code: 'config-invalid', hint: own ?? 'the store refuses this request, and would again' };
  }
  return { code: 'store-unavailable' };
}
