import { ActivityFailure, ApplicationFailure, isCancellation, TimeoutFailure } from '@temporalio/workflow';
import { ERRORS, type ErrorCode } from '../core/errors.ts';

/** A failure as a workflow decides on it. */
export interface Trouble {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint: string;
  readonly retryable: boolean;
}

/** Every code, for activities whose foreseen failures are the workflow's to retry, not the activity's. */
export const FORESEEN = Object.keys(ERRORS);

/** A failure that ends the run: `type` is the code, `details` the advice. */
export function failure(
  code: ErrorCode,
  message: string,
  hint: string = ERRORS[code].hint,
): ApplicationFailure {
  return ApplicationFailure.create({ message, type: code, nonRetryable: true, details: [hint] });
}

/** `trouble` as the end of the run. */
export function failureOf(trouble: Trouble): ApplicationFailure {
  return failure(trouble.code, trouble.message, trouble.hint);
}

/**
 * What is known about a failed activity: a foreseen failure by its code, a queue without a worker, or a deadline.
 *
 * @param queue the task queue it was sent to, for the message
 * @returns `undefined` for what nobody foresaw
 * @throws the error itself when it is a cancellation
 */
export function troubleOf(error: unknown, queue: string): Trouble | undefined {
  if (isCancellation(error)) throw error;
  const cause = error instanceof ActivityFailure ? error.cause : error;
  if (cause instanceof TimeoutFailure) return timeoutTrouble(cause, error, queue);
  if (!(cause instanceof ApplicationFailure) || !isErrorCode(cause.type)) return undefined;
  const [hint] = cause.details ?? [];
  return {
    code: cause.type,
    message: cause.message,
    hint: typeof hint === 'string' ? hint : ERRORS[cause.type].hint,
    retryable: ERRORS[cause.type].retryable,
  };
}

function timeoutTrouble(timeout: TimeoutFailure, error: unknown, queue: string): Trouble {
  if (timeout.timeoutType === 'SCHEDULE_TO_START') {
    return newTrouble('worker-missing', `no worker takes work from the task queue "${queue}"`);
  }
  const step = error instanceof ActivityFailure ? error.activityType : 'the step';
  // What the last attempt failed with says more than that the time is over.
  const last = timeout.cause instanceof ApplicationFailure ? `; last failure: ${timeout.cause.message}` : '';
  return newTrouble(
    'deadline-exceeded',
    `${step} on "${queue}" did not end in time (${timeout.timeoutType})${last}`,
  );
}

function newTrouble(code: ErrorCode, message: string): Trouble {
  const { hint, retryable } = ERRORS[code];
  return { code, message, hint, retryable };
}

function isErrorCode(type: string | undefined | null): type is ErrorCode {
  return typeof type === 'string' && Object.hasOwn(ERRORS, type);
}
