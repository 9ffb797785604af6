import { createPrivateKey, createSign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { BackupError, isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { field, toBreakdown } from './gcs-errors.ts';
import { readText } from './gcs-http.ts';
import type { Http } from './gcs-http.ts';
import type { Identity } from './gcs-identity.ts';

export const SCOPE = 'https://www.googleapis.com/auth/devstorage.read_write';
/** Google gives no token for longer. */
const ASSERTION_SECONDS = 3600;
/** A token is replaced this long before its end: longer than the longest call that begins with it. */
const EARLY_MS = 5 * 60_000;
const SIGN_IN_MS = 30_000;
const LONGEST_ANSWER = 256 * 1024;
const GRANT = 'urn:ietf:params:oauth:grant-type:jwt-bearer';

/** What is needed of the file that Google gives for a key of a service account. */
export interface ServiceAccount {
  readonly email: string;
  readonly keyId: string | undefined;
  readonly key: KeyObject;
  readonly tokenUri: string;
}

/** @throws BackupError `config-invalid`, which quotes nothing of the text */
export function parseServiceAccount(json: unknown): ServiceAccount {
  const email = field(json, 'client_email');
  const pem = field(json, 'private_key');
  const keyId = field(json, 'private_key_id');
  const tokenUri = field(json, 'token_uri') ?? 'https://oauth2.googleapis.com/token';
  if (typeof email !== 'string' || typeof pem !== 'string' || typeof tokenUri !== 'string') {
    throw unusable('client_email or private_key is missing');
  }
  if (!URL.canParse(tokenUri)) throw unusable('token_uri is no address');
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    throw unusable('private_key is no private key in PEM form');
  }
  return { email, keyId: typeof keyId === 'string' ? keyId : undefined, key, tokenUri };
}

export const unusable = (why: string) =>
  new BackupError('config-invalid', `the Google credentials can't be used: ${why}`, {
    hint: 'store the JSON file of the service account as it was downloaded in the Secret that applicationCredentials names',
  });

/**
 * A service account that signs in with its key, at the address that its file names (as Google's Python library and so
 * barman-cloud does; the one for Node knows only Google's own). Its token is kept, and asked for once by all who need
 * it at a time.
 *
 * @param now milliseconds, for tests
 */
export function createServiceAccountIdentity(
  account: ServiceAccount,
  http: Http,
  now: () => number = Date.now,
): Identity {
  let current: { readonly token: string; readonly endsAt: number } | undefined;
  let asking: Promise<string> | undefined;

  async function ask(signal: AbortSignal): Promise<string> {
    const what = `sign in as ${account.email}`;
    const where = new URL(account.tokenUri).origin;
    const body = new URLSearchParams({ grant_type: GRANT, assertion: assertion(account, now()) });
    try {
      const answer = await http.send({
        method: 'POST',
        url: new URL(account.tokenUri),
        headers: { 'content-type': 'application/x-www-form-urlencoded', accept: 'application/json' },
        body: [Buffer.from(body.toString())],
        signal,
      });
      const text = await readText(answer.body, LONGEST_ANSWER);
      const json = parseJson(text);
      if (answer.status !== 200) throw refused(what, answer.status, field(json, 'error'));
      const token = field(json, 'access_token');
      const seconds = Number(field(json, 'expires_in'));
      if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token) || !(seconds > 0)) {
        throw new BackupError('store-unavailable', `${what} failed: the answer of ${where} holds no token`);
      }
      current = { token, endsAt: now() + seconds * 1000 };
      return token;
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw isBackupError(error) ? error : toBreakdown(error, what, where);
    }
  }

  return {
    async headers(signal) {
      if (current !== undefined && current.endsAt - EARLY_MS > now()) return bearer(current.token);
      // those who come meanwhile wait for the same answer, which does not end with the signal of the first
      asking ??= ask(AbortSignal.timeout(SIGN_IN_MS)).finally(() => {
        asking = undefined;
      });
      try {
        return bearer(await unlessAborted(asking, signal));
      } catch (error) {
        // for its last minutes the old one is better than none
        if (signal.aborted || current === undefined || current.endsAt <= now()) throw error;
        return bearer(current.token);
      }
    },
    forget() {
      current = undefined;
    },
  };
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

function assertion({ email, keyId, key, tokenUri }: ServiceAccount, now: number): string {
  const seconds = Math.floor(now / 1000);
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const header = part({ alg: 'RS256', typ: 'JWT', ...(keyId === undefined ? {} : { kid: keyId }) });
  const claims = part({
    iss: email,
    scope: SCOPE,
    aud: tokenUri,
    iat: seconds,
    exp: seconds + ASSERTION_SECONDS,
  });
  const signature = createSign('RSA-SHA256').update(`${header}.${claims}`).sign(key).toString('base64url');
  return `${header}.${claims}.${signature}`;
}

function refused(what: string, status: number, error: unknown): BackupError {
  const said = typeof error === 'string' && /^[\w.-]{1,60}$/.test(error) ? error : 'unknown';
  const message = `${what} failed: ${said}, status ${status}`;
  if (status === 408 || status === 429 || status >= 500) return new BackupError('store-unavailable', message);
  return new BackupError('access-denied', message, {
    hint: 'the key was removed or is of another account (correct the secret), or the clock of this host is wrong (set it)',
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
