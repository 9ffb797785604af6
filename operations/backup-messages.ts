import { BackupError, isBackupError, messageOf, type ErrorCode } from '../core/errors.ts';
import type { PlainStoreConfig } from '../stores/store-config.ts';
import type { PartProgress, PartTask, WrittenPart } from './backup-part.ts';

/** What a thread is started with. */
export interface ThreadData {
  readonly store: PlainStoreConfig;
  /** Of a throttle that all threads join: what is wanted changes in it, without a message. */
  readonly throttle?: SharedArrayBuffer;
  /** The thread's own niceness. */
  readonly nice?: number;
}

export type ToThread =
  | { readonly kind: 'part'; readonly task: PartTask }
  | { readonly kind: 'abort'; readonly reason: string }
  | { readonly kind: 'end' };

export type FromThread =
  | ({ readonly kind: 'progress' } & PartProgress)
  | { readonly kind: 'written'; readonly part: WrittenPart }
  | { readonly kind: 'failed'; readonly failure: PlainFailure }
  | { readonly kind: 'ended' };

/** An error on its way between threads; classes do not survive it. */
export interface PlainFailure {
  readonly message: string;
  readonly code?: ErrorCode;
  readonly hint?: string;
  readonly stack?: string;
}

/** The failure as it was thrown in the thread. */
export function fromFailure({ message, code, hint, stack }: PlainFailure): Error {
  if (code !== undefined) return new BackupError(code, message, hint === undefined ? {} : { hint });
  const error = new Error(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}

/** An error, made ready for the way to another thread. */
export function toFailure(error: unknown): PlainFailure {
  if (isBackupError(error)) return { message: error.message, code: error.code, hint: error.hint };
  const stack = error instanceof Error ? error.stack : undefined;
  return { message: messageOf(error), ...(stack === undefined ? {} : { stack }) };
}
