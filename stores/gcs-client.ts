import type { IncomingHttpHeaders } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { getCACertificates } from 'node:tls';
import { BackupError, isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { failureOfAnswer, toBreakdown, toRefusal } from './gcs-errors.ts';
import { createHttp, readText } from './gcs-http.ts';
import type { HttpAnswer } from './gcs-http.ts';
import { anonymous, createAmbientIdentity, createGivenIdentity } from './gcs-identity.ts';
import type { Identity } from './gcs-identity.ts';
import type { GcsStoreConfig } from './store-config.ts';

/** Limits in milliseconds; each one ends in `store-unavailable`. */
export interface GcsTimeouts {
  /** To open a connection. */
  readonly connectMs: number;
  /** Without a byte, in either direction. */
  readonly idleMs: number;
  /** For one call with its repetitions; for an upload it grows with the bytes. */
  readonly callMs: number;
}

export const GCS_TIMEOUTS: GcsTimeouts = { connectMs: 10_000, idleMs: 60_000, callMs: 120_000 };

/** What an upload is granted at least, in bytes per millisecond: 64 KiB/s. */
const SLOWEST_UPLOAD = 64;
/** As often as the SDK of S3 tries; what takes longer is left to `retrying`. */
const TRIES = 3;
const FIRST_PAUSE_MS = 100;
/** A page of 1000 long names is about 1 MiB. */
const LONGEST_ANSWER = 32 * 1024 * 1024;
const GOOGLE = 'https://storage.googleapis.com';

/** The part of a bucket that a store lives in. */
export interface GcsPlace {
  readonly bucket: string;
  /** What stands before every key: empty, or ending in `/`. */
  readonly root: string;
  /** The address of a key or prefix, for messages. */
  readonly named: (key: string) => string;
}

/** An answer that came and makes no sense: whether the work was done is open. */
export const odd = (what: string, why: string) =>
  new BackupError('store-unavailable', `${what} failed: ${why}`);

export interface GcsRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** Below the endpoint (`/storage/v1/b/…`, every name in it encoded), or the whole address of an upload. */
  readonly path: string;
  readonly query?: Readonly<Record<string, string | undefined>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: readonly Uint8Array[];
  readonly signal: AbortSignal;
  /** Statuses that are answers like a success; each other one from 300 on is thrown. */
  readonly accepts?: readonly number[];
  /** Times that it is sent when it was not answered or refused for now; 3 unless given. */
  readonly tries?: number;
}

export interface GcsAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** `undefined` without a body, or one that is no JSON. */
  readonly json: unknown;
}

/** Google's JSON API behind limits: what comes out is an answer, the signal's reason, or a `BackupError`. */
export interface GcsConnection {
  /** One call, answered in full. @param what the call and its object, for messages */
  call(what: string, request: GcsRequest): Promise<GcsAnswer>;
  /** As `call`, up to the body of the answer. Who reads it watches the signal from then on. */
  open(what: string, request: GcsRequest): Promise<HttpAnswer>;
  close(): void;
}

/**
 * `@google-cloud/storage` is not used: none of its calls takes an `AbortSignal`, it never cancels an upload that was
 * given up, and it has one timeout where three are needed. Its JSON API is small.
 */
export function createGcsConnection(config: GcsStoreConfig, timeouts: GcsTimeouts): GcsConnection {
  const emulator = config.endpointUrl === undefined ? process.env['STORAGE_EMULATOR_HOST'] : undefined;
  const endpoint = config.endpointUrl ?? addressOf(emulator) ?? GOOGLE;
  const base = new URL(endpoint);
  const { caPem } = config;
  const http = createHttp({ ...timeouts, ...(caPem === undefined ? {} : { ca: [caPem] }) });
  // who gives tokens is elsewhere: the certificate of the endpoint's authority says nothing about it
  const signInHttp = createHttp({
    ...timeouts,
    ...(caPem === undefined ? {} : { ca: [...getCACertificates('default'), caPem] }),
  });
  let identity: Identity | undefined;

  function identify(): Identity {
    identity ??= chooseIdentity();
    return identity;
  }

  function chooseIdentity(): Identity {
    const { credentials } = config;
    // as Google's own libraries: an emulator never sees what opens the real store
    if (emulator !== undefined && emulator !== '') return anonymous;
    // one without TLS is an emulator, too
    if (credentials === undefined && base.protocol === 'http:') return anonymous;
    requirePrivacy(base);
    return credentials?.way === 'json'
      ? createGivenIdentity(credentials.json, signInHttp)
      : createAmbientIdentity();
  }

  /** Sends once. A token that was refused is replaced, and the request sent again, once. */
  async function send(request: GcsRequest, signal: AbortSignal): Promise<HttpAnswer> {
    const url = URL.canParse(request.path)
      ? new URL(request.path)
      : new URL(base.pathname.replace(/\/$/, '') + request.path, base);
    for (const [name, value] of Object.entries(request.query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, value);
    }
    const { method, body } = request;
    for (let renewed = false; ; renewed = true) {
      // an upload's address opens nothing but that upload; should it lead elsewhere, no token goes there
      const credentials = url.origin === base.origin ? await identify().headers(signal) : {};
      const headers = { ...request.headers, ...credentials };
      const answer = await http.send({
        method,
        url,
        headers,
        signal,
        ...(body === undefined ? {} : { body }),
      });
      if (answer.status !== 401 || renewed || identity === anonymous) return answer;
      answer.body.destroy();
      identify().forget();
    }
  }

  async function attempt<T>(
    what: string,
    request: GcsRequest,
    signal: AbortSignal,
    use: (answer: HttpAnswer) => Promise<T>,
  ): Promise<T> {
    try {
      const answer = await send(request, signal);
      if (answer.status < 300 || request.accepts?.includes(answer.status) === true) return await use(answer);
      throw toRefusal(
        failureOfAnswer(answer.status, await readText(answer.body, LONGEST_ANSWER)),
        what,
        endpoint,
      );
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw isBackupError(error) ? error : toBreakdown(error, what, endpoint);
    }
  }

  async function repeat<T>(
    what: string,
    request: GcsRequest,
    signal: AbortSignal,
    use: (answer: HttpAnswer) => Promise<T>,
  ): Promise<T> {
    for (let tries = 1; ; tries++) {
      try {
        return await attempt(what, request, signal, use);
      } catch (error) {
        if (!isBackupError(error, 'store-unavailable') || tries >= (request.tries ?? TRIES)) throw error;
        await pause(tries, signal);
      }
    }
  }

  /** Runs `work` with a signal that also ends it when it takes too long. */
  async function limited<T>(
    what: string,
    { signal, body = [] }: GcsRequest,
    work: (limit: AbortSignal) => Promise<T>,
  ): Promise<T> {
    signal.throwIfAborted();
    const sendsBytes = body.reduce((sum, piece) => sum + piece.length, 0);
    const limitMs = timeouts.callMs + sendsBytes / SLOWEST_UPLOAD;
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(tooLong(what, endpoint, limitMs)), limitMs);
    const onAbort = () => limit.abort(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await unlessAborted(work(limit.signal), limit.signal);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    }
  }

  return {
    call: (what, request) =>
      limited(what, request, (limit) =>
        repeat(what, request, limit, async ({ status, headers, body }) => {
          const text = await readText(body, LONGEST_ANSWER);
          return { status, headers, json: text === '' ? undefined : parse(text, what) };
        }),
      ),
    open: (what, request) =>
      limited(what, request, (limit) => repeat(what, request, limit, (answer) => Promise.resolve(answer))),
    close() {
      http.close();
      signInHttp.close();
    },
  };
}

/** Waits at random below 100 ms, 200 ms, 400 ms … before what was tried `tries` times is tried again. */
export async function pause(tries: number, signal: AbortSignal): Promise<void> {
  const longest = FIRST_PAUSE_MS * 2 ** (tries - 1);
  await sleep(Math.random() * longest, undefined, { signal }).catch(() => signal.throwIfAborted());
}

function parse(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw odd(what, 'the answer is no JSON');
  }
}

/** `STORAGE_EMULATOR_HOST` is `http://host:port`, and by older habit `host:port`. */
function addressOf(emulator: string | undefined): string | undefined {
  if (emulator === undefined || emulator === '') return undefined;
  return /^https?:\/\//.test(emulator) ? emulator : `http://${emulator}`;
}

/** A token opens the store to whoever reads it on the way. */
function requirePrivacy({ protocol, hostname, origin }: URL): void {
  if (protocol === 'https:' || /^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname)) return;
  throw new BackupError('config-invalid', `${origin} would be sent a token of Google in the clear`, {
    hint: 'write https:// in endpointURL; for an emulator leave googleCredentials out, or set STORAGE_EMULATOR_HOST',
  });
}

const tooLong = (what: string, endpoint: string, limitMs: number) =>
  new BackupError(
    'store-unavailable',
    `${what} had no answer within ${Math.round(limitMs / 1000)} s (${endpoint})`,
  );
