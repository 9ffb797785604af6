import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';

/** Who gives tokens: a credential of `@azure/identity`. */
export interface TokenGiver {
  getToken(
    scope: string,
    options: { abortSignal: AbortSignal },
  ): Promise<{ readonly token: string; readonly expiresOnTimestamp: number } | null>;
}

/** Tokens for requests to the store. */
export interface TokenSource {
  /**
   * One that lives long enough for a request.
   *
   * @throws BackupError `access-denied` | `store-unavailable` when none is given; the signal's reason
   */
  token(signal: AbortSignal): Promise<string>;
  /** The store refused `token`: the next one is asked for anew. */
  forget(token: string): void;
}

const SCOPE = 'https://storage.azure.com/.default';
/** MSAL keeps a token until five minutes before its end: asked earlier than that it would give the same one again. */
const RENEWED_BEFORE_END_MS = 4 * 60_000;
const GIVER_LIMIT_MS = 45_000;
const PAUSE_AFTER_FAILURE_MS = 5_000;
/** How long a renewal is waited for while the old token is good. */
const PATIENCE_MS = 2_000;

interface Held {
  readonly token: string;
  readonly endsAt: number;
  /** From when on a new one is asked for. */
  readonly renewAt: number;
}

/**
 * Keeps a token, and renews it before it ends: at the latest half-way, so that an upload of hours never carries one
 * that is about to end. One request asks at a time, the others wait for its answer. While the giver does not answer,
 * the old token is used to its end.
 *
 * The SDK has such a keeper too, but its renewal in the background leaves a rejection that nobody handles when the giver
 * is away, which ends the process.
 *
 * @param now milliseconds since 1970, for tests
 */
export function createTokenSource(giver: TokenGiver, now: () => number = Date.now): TokenSource {
  let held: Held | undefined;
  let asking: Promise<Held> | undefined;
  let failedAt = -Infinity;

  async function ask(): Promise<Held> {
    const limit = AbortSignal.timeout(GIVER_LIMIT_MS);
    const begin = now();
    try {
      const answer = await unlessAborted(giver.getToken(SCOPE, { abortSignal: limit }), limit);
      if (answer === null) throw new Error('no token');
      const { token, expiresOnTimestamp: endsAt } = answer;
      const renewAt = endsAt - Math.min(RENEWED_BEFORE_END_MS, (endsAt - begin) / 2);
      return { token, endsAt, renewAt };
    } catch (error) {
      failedAt = now();
      throw toTokenError(error, limit.aborted);
    }
  }

  /** The one flight of all who wait. It is nobody's own, so nobody's signal ends it. */
  function renew(): Promise<Held> {
    asking ??= ask()
      .then((fresh) => (held = fresh))
      .finally(() => {
        asking = undefined;
      });
    return asking;
  }

  return {
    async token(signal) {
      signal.throwIfAborted();
      const old = held;
      if (old !== undefined && now() < old.renewAt) return old.token;
      if (old === undefined || now() >= old.endsAt) return (await unlessAborted(renew(), signal)).token;
      if (now() - failedAt < PAUSE_AFTER_FAILURE_MS) return old.token;
      const renewed = renew().catch(() => undefined);
      const patience = sleep(PATIENCE_MS, undefined, { ref: false });
      const fresh = await unlessAborted(Promise.race([renewed, patience]), signal);
      return fresh?.token ?? old.token;
    },
    forget(token) {
      if (held?.token === token) held = undefined;
    },
  };
}

/** The code in the cause of errors of this file. */
export const NO_TOKEN = 'NoToken';

/** The text of such errors names every way that was tried, and may quote what the service answered: it is left alone. */
function toTokenError(error: unknown, isTimeout: boolean): BackupError {
  const name = error instanceof Error && /^[\w.-]{1,60}$/.test(error.name) ? error.name : 'unknown';
  return new BackupError(
    isTimeout || isBreakdown(error) ? 'store-unavailable' : 'access-denied',
    `Azure gave no token for the store: ${isTimeout ? `no answer within ${GIVER_LIMIT_MS / 1000} s` : name}`,
    {
      cause: { code: NO_TOKEN },
      hint: 'inheritFromAzureAD wants a managed or workload identity on this host; useDefaultAzureCredentials also takes AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or az login; --azure-credential azure-cli asks the program az alone',
    },
  );
}

/** Whether somewhere below is a token service that could not be reached, or has a bad day: it may give one later. */
function isBreakdown(error: unknown, depth = 0): boolean {
  if (typeof error !== 'object' || error === null || depth > 5) return false;
  const [errorCode, statusCode, cause, errors]: unknown[] = [
    'errorCode',
    'statusCode',
    'cause',
    'errors',
  ].map((name) => Reflect.get(error, name));
  if (errorCode === 'network_error') return true;
  if (typeof statusCode === 'number' && (statusCode === 429 || statusCode >= 500)) return true;
  const below: unknown[] = Array.isArray(errors) ? [...errors, cause] : [cause];
  return below.some((one) => isBreakdown(one, depth + 1));
}
