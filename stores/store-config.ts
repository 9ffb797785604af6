import type { AddressingStyle } from '../core/addressing-style.ts';
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
  /** Of a store that is not AWS. */
  readonly endpointUrl?: string;
  /**
   * Whether the bucket stands in the host name (`virtual`) or in the path. Without it, and as `auto`: AWS by virtual hosts,
   * an `endpointUrl` by path, as barman-cloud does.
   */
  readonly addressingStyle?: AddressingStyle;
  readonly region?: string;
  /** How long the server may be silent, in either direction, instead of the 30 s that are ours. */
  readonly readTimeoutMs?: number;
  /** The key of AWS KMS that encrypts what is written with `aws:kms`, instead of the account's default. */
  readonly kmsKeyId?: string;
  /** Certificates (PEM) that the endpoint's certificate is to be checked with, instead of the system's. */
  readonly caPem?: string;
  readonly credentials?: S3Credentials<S>;
}

export interface FileStoreConfig {
  readonly kind: 'file';
  /** Absolute path. */
  readonly directory: string;
}

/** How to prove to Azure who asks. Without any: as `default`. */
export type AzureCredentials<S = Secret> =
  | { readonly way: 'connection-string'; readonly connectionString: S }
  | { readonly way: 'account-key'; readonly account: string; readonly key: S }
  | { readonly way: 'sas-token'; readonly token: S }
  /** The managed or workload identity of the host. */
  | { readonly way: 'managed-identity' }
  /** Whoever has run `az login` on this host. */
  | { readonly way: 'azure-cli' }
  /** Azure's own chain: environment, workload identity, managed identity, `az login`. */
  | { readonly way: 'default' };

export interface AzureStoreConfig<S = Secret> {
  readonly kind: 'azure';
  /**
   * Of the blob service: `https://ACCOUNT.blob.core.windows.net`, a domain of one's own, or an emulator's with the account
   * as its folder. A connection string that says another is followed.
   */
  readonly serviceUrl: string;
  readonly container: string;
  /** `''` or `a/b`: no `/` at either end. */
  readonly prefix: string;
  /** A scope of the account whose key encrypts what is written, instead of the container's. */
  readonly encryptionScope?: string;
  /** Certificates (PEM) that the service's certificate is to be checked with, instead of the system's. */
  readonly caPem?: string;
  readonly credentials?: AzureCredentials<S>;
}

/** How to prove to Google who asks. */
export type GoogleCredentials<S = Secret> =
  /** The JSON file of a service account, or of a federated identity. */
  | { readonly way: 'json'; readonly json: S }
  /** Google's own chain: GOOGLE_APPLICATION_CREDENTIALS, gcloud, the metadata server. */
  | { readonly way: 'ambient' };

export interface GcsStoreConfig<S = Secret> {
  readonly kind: 'gs';
  readonly bucket: string;
  /** `''` or `a/b`: no `/` at either end. */
  readonly prefix: string;
  /** Of another way to Google, or of an emulator; without it STORAGE_EMULATOR_HOST is one, which is never sent a token. */
  readonly endpointUrl?: string;
  /** Certificates (PEM) that the endpoint's certificate is to be checked with, instead of the system's. */
  readonly caPem?: string;
  /** A key of Cloud KMS that encrypts what is written, instead of the bucket's. */
  readonly kmsKeyName?: string;
  /** Without any: as `ambient`, but at an `http://` endpoint nobody. */
  readonly credentials?: GoogleCredentials<S>;
}

/** What to open, with resolved secrets. It stays inside the process. */
export type StoreConfig = FileStoreConfig | S3StoreConfig | AzureStoreConfig | GcsStoreConfig;

/** The same with bare secrets, only to cross into a worker thread of this process; never logged, stored or sent. */
export type PlainStoreConfig =
  FileStoreConfig | S3StoreConfig<string> | AzureStoreConfig<string> | GcsStoreConfig<string>;

/** Strips the guards off the secrets: for `workerData` alone. */
export function toPlain(config: StoreConfig): PlainStoreConfig {
  const reveal = (secret: Secret) => secret.reveal();
  switch (config.kind) {
    case 'file':
      return config;
    case 's3':
      return mapSecrets(config, reveal);
    case 'azure':
      return mapAzureSecrets(config, reveal);
    case 'gs':
      return mapGoogleSecrets(config, reveal);
  }
}

/** The inverse of `toPlain`, on the other side. */
export function fromPlain(plain: PlainStoreConfig): StoreConfig {
  const guard = (text: string) => new Secret(text);
  switch (plain.kind) {
    case 'file':
      return plain;
    case 's3':
      return mapSecrets(plain, guard);
    case 'azure':
      return mapAzureSecrets(plain, guard);
    case 'gs':
      return mapGoogleSecrets(plain, guard);
  }
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

function mapAzureSecrets<A, B>(config: AzureStoreConfig<A>, map: (value: A) => B): AzureStoreConfig<B> {
  const { credentials, ...rest } = config;
  switch (credentials?.way) {
    case undefined:
      return rest;
    case 'connection-string':
      return {
        ...rest,
        credentials: { ...credentials, connectionString: map(credentials.connectionString) },
      };
    case 'account-key':
      return { ...rest, credentials: { ...credentials, key: map(credentials.key) } };
    case 'sas-token':
      return { ...rest, credentials: { ...credentials, token: map(credentials.token) } };
    case 'managed-identity':
    case 'azure-cli':
    case 'default':
      return { ...rest, credentials };
  }
}

function mapGoogleSecrets<A, B>(config: GcsStoreConfig<A>, map: (value: A) => B): GcsStoreConfig<B> {
  const { credentials, ...rest } = config;
  if (credentials === undefined) return rest;
  return {
    ...rest,
    credentials: credentials.way === 'json' ? { way: 'json', json: map(credentials.json) } : credentials,
  };
}
