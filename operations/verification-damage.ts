import { isBackupError, type BackupError, type ErrorCode } from '../core/errors.ts';
import type { VerificationCheck } from '../core/verification.ts';

/** Something that was verified is bad; the check says what. It ends a verification, and is no failure of it. */
export class Damage extends Error {
  override readonly name = 'Damage';
  readonly check: VerificationCheck;
  /** As of a `BackupError`: the file that a listing did not show, where that alone is the evidence. */
  readonly notListed: string | undefined;

  constructor(check: Omit<VerificationCheck, 'result'>, notListed?: string) {
    super(`${check.name}: ${check.detail ?? 'failed'}`);
    this.check = { ...check, result: 'failed' };
    this.notListed = notListed;
  }
}

/** What can only mean that something stored is not what it was; all else may be the way to it, or this host. */
const OF_THE_CONTENT: readonly ErrorCode[] = [
  'object-damaged',
  'object-missing',
  'format-invalid',
  'wal-foreign',
  'wal-hole',
];

/** Whether a failure says that something stored is bad. */
export function isDamage(error: unknown): error is BackupError {
  return isBackupError(error, ...OF_THE_CONTENT);
}

/** Runs a step of a verification; what it finds damaged becomes the finding of the check `name`. */
export async function finding<Result>(name: string, step: () => Promise<Result>): Promise<Result> {
  try {
    return await step();
  } catch (error) {
    if (!isDamage(error)) throw error;
    throw new Damage({ name, ...objectIn(error.message), detail: error.message }, error.notListed);
  }
}

/** The object a message names: a WAL segment, a key, or a tar. */
export function objectIn(message: string): { object?: string } {
  const key = /(?:^|[\s:(])([^\s:("]+\/(?:base|wals|walkeep)\/[^\s:,;)"]+)/.exec(message)?.[1];
  const segment = /\b[0-9A-F]{24}(?:\.partial)?\b|\b[0-9A-F]{8}\.history\b/.exec(message)?.[0];
  const tar = /\b(?:data|\d+)(?:_\d{4})?\.tar(?:\.[a-z0-9]+)?\b/.exec(message)?.[0];
  const object = key ?? segment ?? tar;
  return object === undefined ? {} : { object };
}
