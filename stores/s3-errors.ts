import { BackupError, isBackupError } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';

/** What an S3 server, or the way to it, said; nothing of it holds a signature, a header or a key. */
export interface S3Failure {
  /** `NoSuchKey`, `SlowDown`, `ECONNREFUSED`, `TimeoutError` … */
  readonly code: string;
  /** HTTP status, where there was an answer. */
  readonly status: number | undefined;
}

/** Reads the code and status off whatever the SDK threw. Its text is left alone: it may quote the signed request. */
export function failureOf(error: unknown): S3Failure {
  const fields: Record<string, unknown> = typeof error === 'object' && error !== null ? { ...error } : {};
  const metadata = fields['$metadata'];
  const status =
    typeof metadata === 'object' && metadata !== null && 'httpStatusCode' in metadata
      ? Number(metadata.httpStatusCode)
      : undefined;
  const name = error instanceof Error ? error.name : '';
  const candidates = [name, fields['Code'], fields['code']].filter((text) => typeof text === 'string');
  const telling = candidates.find((text) => !VAGUE.has(text)) ?? candidates[0] ?? '';
  const code = /^[\w.-]{1,60}$/.test(telling) ? telling : 'unknown';
  return { code, status: Number.isFinite(status) ? status : undefined };
}

/** Names that hide a better code in another field. */
const VAGUE = new Set([
  '',
  'Error',
  'TypeError',
  'AggregateError',
  'Unknown',
  'UnknownError',
  'S3ServiceException',
]);

const DENIED = new Set([
  'AccessDenied',
  'AccountProblem',
  'AllAccessDisabled',
  'CredentialsProviderError',
  'ExpiredToken',
  'InvalidAccessKeyId',
  'InvalidToken',
  'NotSignedUp',
  'SignatureDoesNotMatch',
  'TokenRefreshRequired',
  // versitygw's word for an unknown access key, with status 404
  'XAdminUserNotFound',
  'XMinioInvalidAccessKeyId',
]);
const UNKNOWN_KEY = new Set(['InvalidAccessKeyId', 'XAdminUserNotFound', 'XMinioInvalidAccessKeyId']);
/** What breaks on the way to the store, and where to look. */
const WAY_THERE: Readonly<Record<string, (where: string) => string>> = {
  ECONNREFUSED: (where) => `nobody listens at ${where}: start the store, or correct endpointURL`,
  ENOTFOUND: (where) => `no name server knows the host of ${where}: correct endpointURL, or look at DNS`,
  EAI_AGAIN: (where) => `the name server does not answer about ${where}: look at DNS`,
  ERR_PROXY_TUNNEL: (where) =>
    `the proxy of HTTPS_PROXY opens no way to ${where}: look at its rules and at its password, or name the host in NO_PROXY`,
  EHOSTUNREACH: (where) => `there is no way to ${where}: look at the network and at firewalls`,
  ENETUNREACH: (where) => `there is no way to ${where}: look at the network and at firewalls`,
  ETIMEDOUT: (where) =>
    `${where} does not answer in time: look at the network, at firewalls and at the store's load`,
  TimeoutError: (where) =>
    `${where} does not answer in time: look at the network, at firewalls and at the store's load`,
};
const FULL = new Set([
  'InsufficientStorage',
  'QuotaExceeded',
  'QuotaExceededException',
  'XMinioStorageFull',
  'XMinioAdminBucketQuotaExceeded',
]);
const UNTRUSTED_TLS =
  /^(CERT_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO_|ERR_TLS_CERT|ERR_SSL_|HOSTNAME_MISMATCH|EPROTO$)/;
/** Client errors that a second try cures: a broken transfer, a race, a slow sender. */
const PASSING = new Set([
  'BadDigest',
  'ConditionalRequestConflict',
  'IncompleteBody',
  'NoSuchUpload',
  'OperationAborted',
  'RequestTimeout',
  'RequestTimeTooSkewed',
  'Throttling',
  'ThrottlingException',
  'TooManyRequests',
  'XAmzContentChecksumMismatch',
  'XAmzContentSHA256Mismatch',
]);

/**
 * A failure of the SDK as a store's error.
 *
 * @param what the call and its object: `put s3://b/k`
 * @param endpointUrl where it was asked; AWS itself without one. It holds no credentials
 */
export function toStoreError(error: unknown, what: string, endpointUrl?: string): BackupError {
  if (isBackupError(error)) return error;
  const failure = failureOf(error);
  const { code, hint } = judge(failure, error, endpointUrl ?? 'AWS');
  const said =
    failure.status === undefined
      ? `${nameOf(failure, error)} (${endpointUrl ?? 'AWS'})`
      : `${failure.code}, status ${failure.status}`;
  return new BackupError(code, `${what} failed: ${said}`, {
    cause: failure,
    ...(hint === undefined ? {} : { hint }),
  });
}

/** Whether a store's error came from an answer (or a breakdown) with one of these codes. */
export function isFailure(error: unknown, ...codes: readonly string[]): boolean {
  if (!isBackupError(error)) return false;
  const { cause } = error;
  return typeof cause === 'object' && cause !== null && 'code' in cause && codes.includes(String(cause.code));
}

/** What the SDK finds missing in the configuration has no code, only a text, which holds nothing secret. */
const REGION_MISSING = 'Region is missing';

const WHOSE_KEY =
  'It is the key of s3Credentials in the manifest; where none is given that of AWS_ACCESS_KEY_ID, of AWS_PROFILE or of the role of this host';
const WITHOUT_CREDENTIALS =
  'there are no credentials: give s3Credentials with accessKeyId and secretAccessKey in the manifest, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this host a role';

function nameOf({ code }: S3Failure, error: unknown): string {
  return error instanceof Error && error.message === REGION_MISSING ? 'no region is set' : code;
}

function judge(
  { code, status }: S3Failure,
  error: unknown,
  where: string,
): { code: ErrorCode; hint?: string } {
  if (code === 'NoSuchBucket' || code === 'InvalidBucketName') {
    return {
      code: 'bucket-missing',
      hint: `create the bucket at ${where}, or correct destinationPath or endpointURL; nothing was changed`,
    };
  }
  if (code === 'NoSuchKey') return { code: 'object-missing' };
  if (code === 'RequestTimeTooSkewed') {
    return { code: 'store-unavailable', hint: 'the clock of this host and that of the store differ: set it' };
  }
  if (code === 'AuthorizationHeaderMalformed' || code === 'PermanentRedirect' || status === 301) {
    return { code: 'config-invalid', hint: 'the bucket lies in another region: set the region' };
  }
  if (code === 'ExpiredToken')
    return { code: 'access-denied', hint: 'the session token has expired: renew it' };
  // some say it with 403
  if (FULL.has(code) || status === 507) return { code: 'store-full' };
  if (UNKNOWN_KEY.has(code)) {
    return {
      code: 'access-denied',
      hint: `${where} knows no such access key id: correct the secret that holds it`,
    };
  }
  if (code === 'SignatureDoesNotMatch') {
    return {
      code: 'access-denied',
      hint: `the secret access key is not the one that ${where} knows: correct the secret`,
    };
  }
  if (code === 'CredentialsProviderError') return { code: 'access-denied', hint: WITHOUT_CREDENTIALS };
  if (DENIED.has(code) || status === 401 || status === 403) {
    return {
      code: 'access-denied',
      hint: `look at what ${where} lets this key do with the bucket. ${WHOSE_KEY}`,
    };
  }
  if (code === 'PreconditionFailed' || status === 412) return { code: 'already-exists' };
  if (UNTRUSTED_TLS.test(code)) {
    return {
      code: 'config-invalid',
      hint: 'the endpoint does not prove who it is: check endpointURL and endpointCA',
    };
  }
  if (code === 'unknown' || PASSING.has(code)) return { code: 'store-unavailable' };
  if (error instanceof Error && error.message === REGION_MISSING) {
    return {
      code: 'config-invalid',
      hint: 'set it: s3Credentials.region in the manifest, or AWS_REGION; a server that is not AWS needs endpointURL',
    };
  }
  const way = WAY_THERE[code];
  if (way !== undefined) return { code: 'store-unavailable', hint: way(where) };
  if (status !== undefined && status >= 400 && status < 500 && status !== 408 && status !== 429) {
    return { code: 'config-invalid', hint: 'the store refuses this request, and would again' };
  }
  return status === 501
    ? { code: 'config-invalid', hint: 'the store does not know this request' }
    : { code: 'store-unavailable' };
}
