import type { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerClient, RequestPolicyFactory } from '@azure/storage-blob';
import { BackupError, isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { createAgent } from './azure-agent.ts';
import { accessOf, openTokens } from './azure-credentials.ts';
import type { AzureSigning } from './azure-credentials.ts';
import { failureOf, isFailure, pauseAfter, toAzureError } from './azure-errors.ts';
import { NO_TOKEN } from './azure-tokens.ts';
import type { TokenSource } from './azure-tokens.ts';
import { askMetadataDirectly } from './proxy.ts';
import type { AzureStoreConfig } from './store-config.ts';

/** Limits in milliseconds; each one ends in `store-unavailable`. */
export interface AzureTimeouts {
  /** To open a connection. */
  readonly connectMs: number;
  /** Without a byte, in either direction. */
  readonly idleMs: number;
  /** For one call with its repetitions; for an upload of a block it grows with the block. */
  readonly callMs: number;
  /** For the list of blocks that makes an object, during which a server may be silent. */
  readonly completeMs: number;
}

export const AZURE_TIMEOUTS: AzureTimeouts = {
  connectMs: 10_000,
  idleMs: 30_000,
  callMs: 60_000,
  completeMs: 5 * 60_000,
};

/** What an upload is granted at least, in bytes per millisecond: 64 KiB/s. */
const SLOWEST_UPLOAD = 64;
const TRIES = 3;
const FIRST_PAUSE_MS = 200;

/** The part of a container that a store lives in. */
export interface AzurePlace {
  /** What stands before every key: empty, or ending in `/`. */
  readonly root: string;
  /** The address of a key or prefix, for messages. */
  readonly named: (key: string) => string;
}

/** How one call is limited. */
export interface AzureCallOptions {
  readonly signal: AbortSignal;
  /** Bytes that are sent. */
  readonly sendsBytes?: number;
  readonly completes?: boolean;
}

/** The SDK behind limits: what comes out is an answer, the signal's reason, or a `BackupError`. */
export interface AzureConnection {
  /** Of the service, for messages. */
  readonly serviceUrl: string;
  /**
   * One call. It is tried three times when the store throttles or the connection breaks, with the pauses that the store
   * asks for. The SDK, and what fetches tokens, are loaded at the first one.
   *
   * @param what the call and its object, for messages
   */
  call<T>(
    what: string,
    options: AzureCallOptions,
    send: (container: ContainerClient, options: { abortSignal: AbortSignal }) => Promise<T>,
  ): Promise<T>;
  close(): Promise<void>;
}

/** @throws BackupError `config-invalid` when a secret is not what it should be */
export function createAzureConnection(config: AzureStoreConfig, timeouts: AzureTimeouts): AzureConnection {
  const { serviceUrl, signing } = accessOf(config);
  const url = `${serviceUrl}/${config.container}`;
  const agents = new Set<Agent>();
  let loading:
    Promise<{ quick: ContainerClient; patient: ContainerClient; tokens?: TokenSource }> | undefined;

  async function load() {
    // the SDK reads the environment once for the whole process, and asks metadata services through a proxy otherwise
    askMetadataDirectly(process.env);
    const sdk = await import('@azure/storage-blob');
    const tokens = signing.by === 'token' ? await openTokens(signing.identity) : undefined;
    const open = (idleMs: number) => {
      const agent = createAgent(url, {
        connectMs: timeouts.connectMs,
        idleMs,
        ...(config.caPem === undefined ? {} : { caPem: config.caPem }),
      });
      agents.add(agent);
      const credential =
        signing.by === 'key'
          ? new sdk.StorageSharedKeyCredential(signing.account, signing.key.reveal())
          : new sdk.AnonymousCredential();
      // tries are ours: the SDK pauses for seconds, hears no Retry-After and knows no 429
      const pipeline = sdk.newPipeline(credential, { retryOptions: { maxTries: 1 } });
      pipeline.factories.push(sendingBy(agent, signing, tokens));
      return new sdk.ContainerClient(url, pipeline);
    };
    return {
      quick: open(timeouts.idleMs),
      patient: open(timeouts.completeMs),
      ...(tokens === undefined ? {} : { tokens }),
    };
  }

  return {
    serviceUrl,
    async call(what, options, send) {
      const { signal, sendsBytes = 0, completes = false } = options;
      signal.throwIfAborted();
      const limitMs = completes ? timeouts.completeMs : timeouts.callMs + sendsBytes / SLOWEST_UPLOAD;
      const endsAt = performance.now() + limitMs;
      const limit = new AbortController();
      const timer = setTimeout(() => limit.abort(tooLong(what, serviceUrl, limitMs)), limitMs);
      const onAbort = () => limit.abort(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      try {
        const { quick, patient } = await (loading ??= load());
        for (let attempt = 1; ; attempt++) {
          try {
            const sending = send(completes ? patient : quick, { abortSignal: limit.signal });
            return await unlessAborted(sending, limit.signal);
          } catch (error) {
            limit.signal.throwIfAborted();
            const failure = toAzureError(error, what, serviceUrl);
            const pauseMs = pauseBefore(attempt, failure);
            if (pauseMs === undefined || performance.now() + pauseMs > endsAt) throw failure;
            await sleep(pauseMs, undefined, { signal: limit.signal });
          }
        }
      } catch (error) {
        throw limit.signal.aborted ? limit.signal.reason : toAzureError(error, what, serviceUrl);
      } finally {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
      }
    },
    async close() {
      await loading?.catch(() => undefined);
      for (const agent of agents) agent.destroy();
      agents.clear();
      loading = undefined;
    },
  };
}

/** The pause before the next try, in milliseconds; `undefined` when there is none. */
function pauseBefore(attempt: number, failure: BackupError): number | undefined {
  if (!isBackupError(failure, 'store-unavailable') || attempt >= TRIES) return undefined;
  // whoever fetches tokens has tried for long
  if (isFailure(failure, NO_TOKEN)) return undefined;
  return pauseAfter(failure) + Math.random() * FIRST_PAUSE_MS * 2 ** attempt;
}

const tooLong = (what: string, serviceUrl: string, limitMs: number) =>
  new BackupError(
    'store-unavailable',
    `${what} had no answer within ${Math.round(limitMs / 1000)} s (${serviceUrl})`,
  );

/** An answer that came and makes no sense: whether the work was done is open. */
export const odd = (what: string, why: string) =>
  new BackupError('store-unavailable', `${what} failed: ${why}`);

/**
 * Sends over our connections, and adds what the SDK is not to know: a SAS, so that no address of it holds one, or a
 * token, which is asked for again when the store refuses it.
 */
function sendingBy(
  agent: Agent,
  signing: AzureSigning,
  tokens: TokenSource | undefined,
): RequestPolicyFactory {
  return {
    create: (next) => ({
      async sendRequest(request) {
        // instead of the SDK's own for proxies, which heeds neither endpointCA nor our limits
        request.agent = agent;
        if (signing.by === 'sas')
          request.url += `${request.url.includes('?') ? '&' : '?'}${signing.query.reveal()}`;
        if (tokens === undefined) return next.sendRequest(request);
        // whoever waits for the call hears its signal; a token is also for others
        const { signal } = new AbortController();
        const token = await tokens.token(signal);
        request.headers.set('authorization', `Bearer ${token}`);
        try {
          return await next.sendRequest(request);
        } catch (error) {
          const { status, code } = failureOf(error);
          if (status !== 401 && code !== 'AuthenticationFailed') throw error;
          tokens.forget(token);
          const fresh = await tokens.token(signal);
          // what keeps tokens for us may still believe in the old one
          if (fresh === token) throw error;
          request.headers.set('authorization', `Bearer ${fresh}`);
          return next.sendRequest(request);
        }
      },
    }),
  };
}
