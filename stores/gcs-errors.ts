import { BackupError } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';
import { toStoreError } from './s3-errors.ts';

/** What Google said; nothing of it holds a token, an address of an upload or a text of the server. */
export interface GcsFailure {
  /** `notFound`, `conditionNotMet`, `rateLimitExceeded` …; `unknown` when the answer names no reason. */
  readonly code: string;
  readonly status: number;
}

/** The word of the store itself that there is no such object, not that of something in front of it. */
export const NO_SUCH_OBJECT = 'noSuchObject';
/** The same of a bucket. */
export const NO_SUCH_BUCKET = 'noSuchBucket';
/** Bytes came in that do not have the checksum that was sent with them. */
const BAD_CHECKSUM = 'badChecksum';

const FULL = new Set(['quotaExceeded', 'storageQuotaExceeded', 'insufficientStorage']);
/** Refusals for now, which Google gives the status of real ones. */
const THROTTLED = new Set(['rateLimitExceeded', 'userRateLimitExceeded', 'backendError', 'internalError']);

/** Reads an answer that is no success. Its text is compared, never kept. */
export function failureOfAnswer(status: number, text: string): GcsFailure {
  const { reason, message } = readError(text);
  // media is refused in plain text
  if (status === 404 && (message ?? text).startsWith('No such object: '))
    return { code: NO_SUCH_OBJECT, status };
  if (status === 404 && (message ?? text).startsWith('The specified bucket does not exist')) {
    return { code: NO_SUCH_BUCKET, status };
  }
  if (status === 400 && /crc32c|md5|checksum|hash/i.test(message ?? ''))
    return { code: BAD_CHECKSUM, status };
  return { code: reason, status };
}

function readError(text: string): { reason: string; message?: string } {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return { reason: 'unknown' };
  }
  const error = field(parsed, 'error');
  const errors = field(error, 'errors');
  const first: unknown = Array.isArray(errors) ? errors[0] : undefined;
  const reason = field(first, 'reason');
  const message = field(error, 'message');
  return {
    reason: typeof reason === 'string' && /^[\w.-]{1,60}$/.test(reason) ? reason : 'unknown',
    ...(typeof message === 'string' ? { message } : {}),
  };
}

/** A field of what may be an object. */
export function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

/**
 * A refusal as a store's error.
 *
 * @param what the call and its object: `put gs://b/k`
 * @param where the address that was asked
 */
export function toRefusal(failure: GcsFailure, what: string, where: string): BackupError {
  const { code, hint } = judge(failure, where);
  return new BackupError(code, `${what} failed: ${failure.code}, status ${failure.status}`, {
    cause: failure,
    ...(hint === undefined ? {} : { hint }),
  });
}

/** What broke on the way there, as a store's error. */
export function toBreakdown(error: unknown, what: string, where: string): BackupError {
  return toStoreError(error, what, where);
}

function judge({ code, status }: GcsFailure, where: string): { code: ErrorCode; hint?: string } {
  if (code === NO_SUCH_OBJECT) return { code: 'object-missing' };
  if (code === NO_SUCH_BUCKET || (status === 404 && code === 'notFound')) {
    return {
      code: 'bucket-missing',
      hint: `create the bucket at ${where}, or correct destinationPath or endpointURL; nothing was changed`,
    };
  }
  if (FULL.has(code) || status === 507) return { code: 'store-full' };
  if (THROTTLED.has(code) || code === BAD_CHECKSUM) return { code: 'store-unavailable' };
  if (code === 'retentionPolicyNotMet' || code === 'objectUnderActiveHold') {
    return {
      code: 'access-denied',
      hint: 'the retention policy or a hold of the bucket keeps this object; nothing was changed',
    };
  }
  if (code === 'accountDisabled') {
    return { code: 'access-denied', hint: 'the billing account of the project is closed: open it again' };
  }
  if (status === 401 || status === 403) {
    return {
      code: 'access-denied',
      hint: 'give the service account the role storage.objectUser (or objectAdmin) on the bucket, or correct googleCredentials',
    };
  }
  if (status === 412) return { code: 'already-exists' };
  if (status === 400 || status === 501 || (status > 404 && status < 500 && !PASSING.has(status))) {
    return { code: 'config-invalid', hint: 'the store refuses this request, and would again' };
  }
  if (status === 404) {
    return { code: 'config-invalid', hint: `${where} is no Google Cloud Storage: correct endpointURL` };
  }
  return { code: 'store-unavailable' };
}

/** Refusals of the client that a second try cures: a slow request, a race, an upload that is gone, too many. */
const PASSING = new Set([408, 409, 410, 429, 499]);
