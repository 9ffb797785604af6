import type { Context } from '@temporalio/activity';
import { ApplicationFailure, TemporalFailure } from '@temporalio/common';
import type { ActivityInboundCallsInterceptor } from '@temporalio/worker';
import { BackupError, messageOf } from '../core/errors.ts';
import { scrub } from './scrub.ts';

/**
 * A foreseen failure in Temporal's form: `type` is the code, `details` the advice, and whether a retry can help comes
 * from the table. The cause stays in this process's log: it may hold what a provider echoed, a secret included. Texts of
 * our own hold none, but some quote what a server or a file said: they are scrubbed as well.
 */
export function toApplicationFailure(error: BackupError): ApplicationFailure {
  return ApplicationFailure.create({
    message: scrub(error.message),
    type: error.code,
    nonRetryable: !error.retryable,
    details: [scrub(error.hint)],
  });
}

/** Translates what activities throw. The unforeseen is retried; it loses its cause and what looks like a secret. */
export function translateFailure(error: unknown): Error {
  if (error instanceof BackupError) return toApplicationFailure(error);
  if (error instanceof TemporalFailure) return error;
  if (error instanceof AggregateError) {
    const foreseen: unknown = error.errors.find((inner) => inner instanceof BackupError);
    if (foreseen) return translateFailure(foreseen);
  }
  const type = error instanceof Error ? error.name : 'Error';
  return ApplicationFailure.create({ message: scrub(messageOf(error)), type });
}

/** One place for the translation, so that no activity can forget it. `onFailure` gets the original, for the log. */
export function failureInterceptor(
  onFailure: (error: unknown, activity: string) => void = () => {},
): (context: Context) => { inbound: ActivityInboundCallsInterceptor } {
  return ({ cancellationSignal, info }) => ({
    inbound: {
      async execute(input, next) {
        try {
          return await next(input);
        } catch (error) {
          // However the work put it: what was cancelled was cancelled.
          if (cancellationSignal.aborted) throw cancellationSignal.reason;
          onFailure(error, info.activityType);
          throw translateFailure(error);
        }
      },
    },
  });
}
