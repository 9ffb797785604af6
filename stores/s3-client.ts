import { getCACertificates } from 'node:tls';
import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import { BackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { proxiesOf } from './proxy.ts';
import { failureOf, toStoreError } from './s3-errors.ts';
import { hostCredentials } from './s3-identity.ts';
import type { S3StoreConfig } from './store-config.ts';

/** Limits in milliseconds; each one ends in `store-unavailable`. */
export interface S3Timeouts {
  /** To open a connection. */
  readonly connectMs: number;
  /** Without a byte, in either direction. */
  readonly idleMs: number;
  /** For one call with its repetitions by the SDK; for an upload of a part it grows with the part. */
  readonly callMs: number;
  /** For the completion of a multipart upload, during which a server may be silent while it puts the parts together. */
  readonly completeMs: number;
}

export const S3_TIMEOUTS: S3Timeouts = {
  connectMs: 10_000,
  idleMs: 30_000,
  callMs: 60_000,
  completeMs: 15 * 60_000,
};

/** With another limit for silence: a call may last longer than that. */
export function withReadTimeout(timeouts: S3Timeouts, idleMs: number | undefined): S3Timeouts {
  if (idleMs === undefined) return timeouts;
  return { ...timeouts, idleMs, callMs: Math.max(timeouts.callMs, idleMs + timeouts.connectMs) };
}

/** What an upload is granted at least, in bytes per millisecond: 64 KiB/s. */
const SLOWEST_UPLOAD = 64;
const TRIES_OF_THE_SDK = 3;

/** The part of a bucket that a store lives in. */
export interface S3Place {
  readonly Bucket: string;
  /** What stands before every key: empty, or ending in `/`. */
  readonly root: string;
  /** The address of a key or prefix, for messages. */
  readonly named: (key: string) => string;
}

/** An answer that came and makes no sense: whether the work was done is open. */
export const odd = (what: string, why: string) =>
  new BackupError('store-unavailable', `${what} failed: ${why}`);

type Sdk = typeof import('@aws-sdk/client-s3');

/** How one call is limited. */
export interface CallOptions {
  readonly signal: AbortSignal;
  /** Bytes that are sent. */
  readonly sendsBytes?: number;
  readonly completes?: boolean;
}

/** The SDK behind limits: what comes out is an answer, the signal's reason, or a `BackupError`. */
export interface S3Connection {
  /**
   * One call. The SDK is loaded at the first one: it takes a tenth of a second, which a directory store should not cost.
   *
   * @param what the call and its object, for messages
   */
  call<T>(
    what: string,
    options: CallOptions,
    send: (client: S3Client, sdk: Sdk, options: { abortSignal: AbortSignal }) => Promise<T>,
  ): Promise<T>;
  close(): Promise<void>;
}

export function createS3Connection(config: S3StoreConfig, timeouts: S3Timeouts): S3Connection {
  type Clients = { readonly sdk: Sdk; readonly client: S3Client; readonly patient: S3Client };
  let loading: Promise<Clients> | undefined;
  /** The first ones: those that follow with other credentials use their connections, so there are never more. */
  let first: Clients | undefined;
  async function open(): Promise<Clients> {
    const sdk = await import('@aws-sdk/client-s3');
    const credentials = givenKeys(config) ?? (await hostCredentials(signInHandler(config, timeouts)));
    const client = (idleMs: number, like: S3Client | undefined) =>
      new sdk.S3Client({
        ...clientConfig(config, timeouts, idleMs),
        ...(like && { requestHandler: like.config.requestHandler }),
        credentials,
      });
    const clients = {
      sdk,
      client: client(timeouts.idleMs, first?.client),
      patient: client(timeouts.completeMs, first?.patient),
    };
    first ??= clients;
    return clients;
  }
  const load = () => (loading ??= open());

  return {
    async call(what, options, send) {
      const { signal, sendsBytes = 0, completes = false } = options;
      signal.throwIfAborted();
      const limitMs = completes ? timeouts.completeMs : timeouts.callMs + sendsBytes / SLOWEST_UPLOAD;
      const limit = new AbortController();
      const timer = setTimeout(() => limit.abort(tooLong(what, config.endpointUrl, limitMs)), limitMs);
      const onAbort = () => limit.abort(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      const sendOnce = async (clients: Promise<Clients>) => {
        const { sdk, client, patient } = await clients;
        // the SDK does not hear the signal while it pauses between its own tries
        return unlessAborted(
          send(completes ? patient : client, sdk, { abortSignal: limit.signal }),
          limit.signal,
        );
      };
      const used = load();
      try {
        return await sendOnce(used).catch((error: unknown) => {
          const isOver = OVER.has(failureOf(error).code) && config.credentials === undefined;
          if (!isOver || limit.signal.aborted) throw error;
          // by its clock they have ended: the host is asked for new ones, once, by clients that know no old ones
          if (loading === used) loading = undefined;
          return sendOnce(load());
        });
      } catch (error) {
        throw limit.signal.aborted ? limit.signal.reason : toStoreError(error, what, config.endpointUrl);
      } finally {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
      }
    },
    async close() {
      await loading?.catch(() => undefined);
      loading = undefined;
      first?.client.destroy();
      first?.patient.destroy();
      first = undefined;
    },
  };
}

/** What a store says of credentials that were good. */
const OVER = new Set(['ExpiredToken', 'ExpiredTokenException', 'TokenRefreshRequired']);

const tooLong = (what: string, endpointUrl: string | undefined, limitMs: number) =>
  new BackupError(
    'store-unavailable',
    `${what} had no answer within ${Math.round(limitMs / 1000)} s (${endpointUrl ?? 'AWS'})`,
  );

function givenKeys({ credentials }: S3StoreConfig): S3ClientConfig['credentials'] {
  if (credentials === undefined) return undefined;
  const { accessKeyId, secretAccessKey, sessionToken } = credentials;
  return {
    accessKeyId: accessKeyId.reveal(),
    secretAccessKey: secretAccessKey.reveal(),
    ...(sessionToken === undefined ? {} : { sessionToken: sessionToken.reveal() }),
  };
}

function clientConfig(config: S3StoreConfig, timeouts: S3Timeouts, idleMs: number): S3ClientConfig {
  const { endpointUrl, caPem, addressingStyle = 'auto' } = config;
  // a store that is not AWS seldom cares, but a request can't be signed without one
  const region = config.region ?? (endpointUrl === undefined ? undefined : 'us-east-1');
  // the buckets of such a store seldom have host names of their own
  const isPath = addressingStyle === 'path' || (addressingStyle === 'auto' && endpointUrl !== undefined);
  return {
    ...(region === undefined ? {} : { region }),
    ...(endpointUrl === undefined ? { followRegionRedirects: true } : { endpoint: endpointUrl }),
    forcePathStyle: isPath,
    maxAttempts: TRIES_OF_THE_SDK,
    // asked for where it is wanted: servers send a checksum of the whole along with a range, too
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: handlerOf({ connectMs: timeouts.connectMs, idleMs }, caPem),
  };
}

/** Who gives tokens is elsewhere: the certificate of the endpoint's authority says nothing about it. */
function signInHandler({ caPem }: S3StoreConfig, timeouts: S3Timeouts) {
  return handlerOf(timeouts, caPem === undefined ? undefined : [...getCACertificates('default'), caPem]);
}

/** @throws BackupError `config-invalid` when the environment names a proxy that is none */
function handlerOf(
  { connectMs, idleMs }: Pick<S3Timeouts, 'connectMs' | 'idleMs'>,
  ca: string | string[] | undefined,
) {
  const proxyEnv = proxiesOf(process.env);
  const proxied = proxyEnv === undefined ? {} : { proxyEnv: { ...proxyEnv } };
  return {
    connectionTimeout: connectMs,
    socketTimeout: idleMs,
    httpAgent: proxied,
    httpsAgent: { ...proxied, ...(ca === undefined ? {} : { ca }) },
  };
}
