import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import { BackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { toStoreError } from './s3-errors.ts';
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
  let loading: Promise<{ sdk: Sdk; client: S3Client; patient: S3Client }> | undefined;
  const load = () =>
    (loading ??= import('@aws-sdk/client-s3').then((sdk) => ({
      sdk,
      client: new sdk.S3Client(clientConfig(config, timeouts, timeouts.idleMs)),
      patient: new sdk.S3Client(clientConfig(config, timeouts, timeouts.completeMs)),
    })));

  return {
    async call(what, options, send) {
      const { signal, sendsBytes = 0, completes = false } = options;
      signal.throwIfAborted();
      const limitMs = completes ? timeouts.completeMs : timeouts.callMs + sendsBytes / SLOWEST_UPLOAD;
      const limit = new AbortController();
      const timer = setTimeout(() => limit.abort(tooLong(what, config.endpointUrl, limitMs)), limitMs);
      const onAbort = () => limit.abort(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      try {
        const { sdk, client, patient } = await load();
        // the SDK does not hear the signal while it pauses between its own tries
        return await unlessAborted(
          send(completes ? patient : client, sdk, { abortSignal: limit.signal }),
          limit.signal,
        );
      } catch (error) {
        throw limit.signal.aborted ? limit.signal.reason : toStoreError(error, what, config.endpointUrl);
      } finally {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
      }
    },
    async close() {
      const loaded = await loading;
      loaded?.client.destroy();
      loaded?.patient.destroy();
      loading = undefined;
    },
  };
}

const tooLong = (what: string, endpointUrl: string | undefined, limitMs: number) =>
  new BackupError(
    'store-unavailable',
    `${what} had no answer within ${Math.round(limitMs / 1000)} s (${endpointUrl ?? 'AWS'})`,
  );

function clientConfig(config: S3StoreConfig, timeouts: S3Timeouts, idleMs: number): S3ClientConfig {
  const { endpointUrl, caPem, credentials } = config;
  // a store that is not AWS seldom cares, but a request can't be signed without one
  const region = config.region ?? (endpointUrl === undefined ? undefined : 'us-east-1');
  return {
    ...(region === undefined ? {} : { region }),
    // the buckets of such a store have no host names of their own
    ...(endpointUrl === undefined
      ? { followRegionRedirects: true }
      : { endpoint: endpointUrl, forcePathStyle: true }),
    ...(credentials === undefined
      ? {}
      : {
          credentials: {
            accessKeyId: credentials.accessKeyId.reveal(),
            secretAccessKey: credentials.secretAccessKey.reveal(),
            ...(credentials.sessionToken === undefined
              ? {}
              : { sessionToken: credentials.sessionToken.reveal() }),
          },
        }),
    maxAttempts: TRIES_OF_THE_SDK,
    // asked for where it is wanted: servers send a checksum of the whole along with a range, too
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: {
      connectionTimeout: timeouts.connectMs,
      socketTimeout: idleMs,
      ...(caPem === undefined ? {} : { httpsAgent: { ca: caPem } }),
    },
  };
}
