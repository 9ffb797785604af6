import { readFileSync } from 'node:fs';
import { ADDRESSING_STYLES } from '../core/addressing-style.ts';
import { BackupError, messageOf } from '../core/errors.ts';
import { Secret } from '../core/secret.ts';
import {
  endpointFault,
  examineDestination,
  serverNameFault,
  type Destination,
} from '../manifests/object-store-location.ts';
import { show, type Fault } from '../manifests/problem.ts';
import { walPrefix } from '../repository/layout.ts';
import { createRepository, type Repository } from '../repository/repository.ts';
import { openStore } from '../stores/open-store.ts';
import type { AzureCredentials, S3Credentials, StoreConfig } from '../stores/store-config.ts';
import type { CloudArguments } from './cloud-arguments.ts';

/** A repository as barman-cloud's arguments name it, before it is opened. */
export interface CloudPlace {
  readonly kind: Destination['kind'];
  readonly server: string;
  /** How to reach it. @throws BackupError `usage` | `secret-missing` | `config-invalid` */
  config(): Promise<StoreConfig>;
}

/** As without any deadline. */
const LONGEST_RETRIES_MS = 20_000;

type Environment = NodeJS.ProcessEnv;

const PROVIDERS: Readonly<Record<string, Destination['kind']>> = {
  'aws-s3': 's3',
  'azure-blob-storage': 'azure',
  'google-cloud-storage': 'gs',
};

/**
 * Where barman-cloud would look, with the credentials that it would find: of the environment, a profile, or the host. A
 * directory (`file://`) does, too.
 *
 * @param environment with `--aws-profile`, the profile is put into it and its keys are taken out, for the AWS SDK
 * @throws BackupError `usage`
 */
export function findCloudPlace(
  [url = '', server = '']: readonly string[],
  args: CloudArguments,
  environment: Environment,
): CloudPlace {
  const destination = parseUrl(url);
  requireProvider(args.value('--cloud-provider'), destination);
  const fault = serverNameFault(server);
  if (fault) throw faulty('the server name', server, fault);
  return {
    kind: destination.kind,
    server,
    config: () => configOf(destination, args, environment),
  };
}

/**
 * Nothing is connected before the first call.
 *
 * @param deadlineMs of the caller: a failing store is told of well before it, so that the caller can say why
 * @throws BackupError as `config`
 */
export async function openCloudPlace(place: CloudPlace, deadlineMs = Infinity): Promise<Repository> {
  const store = openStore(await place.config(), { withinMs: Math.min(LONGEST_RETRIES_MS, deadlineMs / 4) });
  return createRepository(store, place.server);
}

/**
 * `-t`: whether what is to be read can be read.
 *
 * @throws BackupError what the store says, or `deadline-exceeded`
 */
export async function testCloudPlace(place: CloudPlace, deadlineMs = 30_000): Promise<Repository> {
  const repository = await openCloudPlace(place);
  const signal = AbortSignal.timeout(deadlineMs);
  try {
    // a listing is what each later call begins with; the first entry, or none at all, is proof enough
    for await (const _ of repository.store.list(walPrefix(repository.server), { signal })) break;
    return repository;
  } catch (error) {
    if (!signal.aborted) throw error;
    throw new BackupError('deadline-exceeded', `${repository.url}: no answer within ${deadlineMs / 1000} s`, {
      cause: error,
      hint: 'look at the way to the store, and at its address',
    });
  }
}

/** The address of a bucket's page in Google's console, which barman takes as well. */
const CONSOLE = /^https:\/\/console\.cloud\.google\.com\/storage\/browser\//;

function parseUrl(url: string): Destination {
  const examined = examineDestination(url.replace(CONSOLE, 'gs://'));
  if ('destination' in examined) return examined.destination;
  throw faulty('the URL', url, examined.fault);
}

/** Without what was given, which may be a key or a connection string in the wrong place. */
function faulty(what: string, given: string, { message, fix }: Fault): BackupError {
  return new BackupError('usage', `${what} ${message.replace(`${show(given)} `, '')}`, {
    hint: fix.includes('Secret') ? 'leave it out: credentials come from the environment' : fix,
  });
}

function requireProvider(provider: string | undefined, { kind }: Destination): void {
  if (provider === undefined || PROVIDERS[provider] === kind) return;
  throw new BackupError('usage', `--cloud-provider is ${provider}, but the URL is of another`, {
    hint: 'correct one of them; without --cloud-provider the URL tells',
  });
}

async function configOf(
  destination: Destination,
  args: CloudArguments,
  environment: Environment,
): Promise<StoreConfig> {
  switch (destination.kind) {
    case 'file':
      return { kind: 'file', directory: destination.directory };
    case 's3':
      return s3Config(destination, args, environment);
    case 'azure':
      return azureConfig(destination, args, environment);
    case 'gs': {
      const kmsKeyName = args.value('--kms-key-name');
      return {
        kind: 'gs',
        bucket: destination.bucket,
        prefix: destination.prefix,
        ...authorityOf(environment, ['REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE']),
        ...(kmsKeyName === undefined ? {} : { kmsKeyName }),
      };
    }
  }
}

async function s3Config(
  { bucket, prefix }: Extract<Destination, { kind: 's3' | 'gs' }>,
  args: CloudArguments,
  environment: Environment,
): Promise<StoreConfig> {
  const profile = args.value('--aws-profile');
  const credentials = profile === undefined ? awsKeys(environment) : undefined;
  if (profile !== undefined) useProfile(profile, environment);
  const endpointUrl = args.value('--endpoint-url') ?? environmentEndpoint(environment);
  requireEndpoint(endpointUrl);
  const addressingStyle = ADDRESSING_STYLES.find((style) => style === args.value('--addressing-style'));
  const kmsKeyId = args.value('--sse-kms-key-id');
  const readSeconds = Number(args.value('--read-timeout') ?? Number.NaN);
  // boto asks AWS there, too, when nothing says where the bucket is, and is sent on
  const region = filled(environment['AWS_DEFAULT_REGION']) ?? (await regionOfProfile()) ?? 'us-east-1';
  return {
    kind: 's3',
    bucket,
    prefix,
    ...(endpointUrl === undefined ? {} : { endpointUrl }),
    ...(addressingStyle === undefined ? {} : { addressingStyle }),
    ...(kmsKeyId === undefined ? {} : { kmsKeyId }),
    // 0 is as good as none
    ...(readSeconds > 0 ? { readTimeoutMs: readSeconds * 1000 } : {}),
    region,
    ...(credentials === undefined ? {} : { credentials }),
    ...authorityOf(environment, ['AWS_CA_BUNDLE', 'REQUESTS_CA_BUNDLE']),
  };
}

/** Keys of the environment come before those of any profile that it names, as in boto; the SDK has it the other way round. */
function awsKeys(environment: Environment): S3Credentials | undefined {
  const id = filled(environment['AWS_ACCESS_KEY_ID']);
  const key = filled(environment['AWS_SECRET_ACCESS_KEY']);
  if (id === undefined && key === undefined) return undefined;
  if (id === undefined || key === undefined) {
    throw new BackupError(
      'secret-missing',
      'only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set',
      {
        hint: 'set both, or none of them to use a profile or the role of the host',
      },
    );
  }
  const token = filled(environment['AWS_SESSION_TOKEN']) ?? filled(environment['AWS_SECURITY_TOKEN']);
  return {
    accessKeyId: new Secret(id),
    secretAccessKey: new Secret(key),
    ...(token === undefined ? {} : { sessionToken: new Secret(token) }),
  };
}

function useProfile(profile: string, environment: Environment): void {
  if (profile === '') throw new BackupError('usage', '--aws-profile is empty');
  for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN'])
    delete environment[name];
  environment['AWS_PROFILE'] = profile;
}

function environmentEndpoint(environment: Environment): string | undefined {
  if (environment['AWS_IGNORE_CONFIGURED_ENDPOINT_URLS']?.toLowerCase() === 'true') return undefined;
  return filled(environment['AWS_ENDPOINT_URL_S3']) ?? filled(environment['AWS_ENDPOINT_URL']);
}

function requireEndpoint(endpointUrl: string | undefined): void {
  if (endpointUrl === undefined) return;
  const fault = endpointFault(endpointUrl);
  if (fault) throw faulty('the endpoint URL', endpointUrl, fault);
}

/** What the SDK finds in AWS_REGION and the profile. */
async function regionOfProfile(): Promise<string | undefined> {
  const { S3Client } = await import('@aws-sdk/client-s3');
  const client = new S3Client({});
  try {
    return await client.config.region();
  } catch {
    // none is configured, or there is no such profile: then its keys are missed, too, and the store says so
    return undefined;
  } finally {
    client.destroy();
  }
}

function azureConfig(
  { account, container, prefix, endpoint, url }: Extract<Destination, { kind: 'azure' }>,
  args: CloudArguments,
  environment: Environment,
): StoreConfig {
  const encryptionScope = args.value('--encryption-scope');
  return {
    kind: 'azure',
    serviceUrl: endpoint === undefined ? new URL(url).origin : `${endpoint}/${account}`,
    container,
    prefix,
    credentials: azureCredentials(args.value('--azure-credential'), account, environment),
    ...(encryptionScope === undefined ? {} : { encryptionScope }),
    ...authorityOf(environment, ['REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE']),
  };
}

/** In barman's order: what was asked for, connection string, SAS, key, the host's identity. */
function azureCredentials(
  asked: string | undefined,
  account: string,
  environment: Environment,
): AzureCredentials {
  if (asked === 'managed-identity' || asked === 'azure-cli' || asked === 'default') return { way: asked };
  const secret = (name: string): Secret | undefined => {
    const text = filled(environment[name]);
    return text === undefined ? undefined : new Secret(text);
  };
  const connectionString = secret('AZURE_STORAGE_CONNECTION_STRING');
  if (connectionString) return { way: 'connection-string', connectionString };
  const token = secret('AZURE_STORAGE_SAS_TOKEN');
  if (token) return { way: 'sas-token', token };
  const key = secret('AZURE_STORAGE_KEY');
  return key ? { way: 'account-key', account, key } : { way: 'default' };
}

/** The certificates of the first variable that names a file of them. */
function authorityOf(environment: Environment, names: readonly string[]): { caPem?: string } {
  const name = names.find((candidate) => filled(environment[candidate]) !== undefined);
  const path = name && environment[name];
  if (name === undefined || path === undefined) return {};
  const caPem = readAuthority(name, path);
  if (caPem.includes('-----BEGIN CERTIFICATE-----')) return { caPem };
  throw new BackupError('config-invalid', `${name}: ${path} holds no certificate in PEM form`);
}

function readAuthority(name: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new BackupError('config-invalid', `${name}: ${path} can't be read: ${messageOf(error)}`, {
      cause: error,
      hint: 'name a readable file of certificates; a directory of them is not read',
    });
  }
}

const filled = (text: string | undefined): string | undefined => (text === '' ? undefined : text);
