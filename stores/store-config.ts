import { Secret } from '../core/secret.ts';

/** Static keys of an S3 store; without them the SDK looks where AWS tools look (environment, profile, instance role). */
export interface S3Credentials<S = Secret> {
  readonly accessKeyId: S;
  readonly secretAccessKey: S;
  readonly sessionToken?: S;
}

export interface S3StoreConfig<S = Secret> {
  readonly kind: 's3';
  readonly bucket: string;
  /** `''` or `a/b`: no `/` at either end. */
  readonly prefix: string;
  /** Of a store that is not AWS; it is asked by path style. */
  readonly endpointUrl?: string;
  readonly region?: string;
  /** Certificates (PEM) that the endpoint's certificate is to be checked with, instead of the system's. */
  readonly caPem?: string;
  readonly credentials?: S3Credentials<S>;
}

export interface FileStoreConfig {
  readonly kind: 'file';
  /** Absolute path. */
  readonly directory: string;
}

/** What to open, with resolved secrets. It stays inside the process. */
export type StoreConfig = FileStoreConfig | S3StoreConfig;

/** The same with bare secrets, only to cross into a worker thread of this process; never logged, stored or sent. */
export type PlainStoreConfig = FileStoreConfig | S3StoreConfig<string>;

/** Strips the guards off the secrets: for `workerData` alone. */
export function toPlain(config: StoreConfig): PlainStoreConfig {
  return config.kind === 'file' ? config : mapSecrets(config, (secret) => secret.reveal());
}

/** The inverse of `toPlain`, on the other side. */
export function fromPlain(plain: PlainStoreConfig): StoreConfig {
  return plain.kind === 'file' ? plain : mapSecrets(plain, (text) => new Secret(text));
}

function mapSecrets<A, B>(config: S3StoreConfig<A>, map: (value: A) => B): S3StoreConfig<B> {
  const { credentials, ...rest } = config;
  if (credentials === undefined) return rest;
  const { accessKeyId, secretAccessKey, sessionToken } = credentials;
  return {
    ...rest,
    credentials: {
      accessKeyId: map(accessKeyId),
      secretAccessKey: map(secretAccessKey),
      ...(sessionToken === undefined ? {} : { sessionToken: map(sessionToken) }),
    },
  };
}
