import { BackupError } from '../core/errors.ts';
import { Secret } from '../core/secret.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { ExternalCluster } from '../manifests/external-cluster.ts';
import type { SecretKeySelector } from '../manifests/fields.ts';
import { objectId } from '../manifests/metadata.ts';
import { toStoreRequest, type StoreRequest } from '../manifests/object-store-location.ts';
import type { BarmanObjectStore } from '../manifests/object-store.ts';
import { createRepository, type Repository } from '../repository/repository.ts';
import type { StoreMemory } from '../repository/store-knowledge.ts';
import { openStore } from '../stores/open-store.ts';
import type { S3Credentials, StoreConfig } from '../stores/store-config.ts';
import type { Codec } from '../streams/codec.ts';
import { azureStoreConfig } from './azure-store-config.ts';
import { googleStoreConfig } from './google-store-config.ts';
import type { SecretResolver } from './secret-resolver.ts';

/** How to reach a repository, with its secrets resolved; it stays inside the process. */
export interface RepositoryAccess {
  readonly config: StoreConfig;
  /** The folder below `destinationPath`. */
  readonly server: string;
}

/**
 * The repository a Cluster archives into and is backed up to.
 *
 * @throws BackupError `manifest-invalid` | `secret-missing`
 */
export async function openClusterRepository(
  manifest: ClusterManifest,
  resolver: SecretResolver,
): Promise<Repository> {
  return openRepository(await resolveClusterAccess(manifest, resolver));
}

/**
 * The repository of an entry of `externalClusters`, to read from. Its server folder is, as in CNPG, the name of the entry unless
 * it says another.
 *
 * @param namespace of the Cluster the entry belongs to: its secrets are there
 * @throws BackupError `manifest-invalid` | `secret-missing`
 */
export async function openExternalRepository(
  entry: ExternalCluster,
  namespace: string,
  resolver: SecretResolver,
): Promise<Repository> {
  return openRepository(await resolveExternalAccess(entry, namespace, resolver));
}

/** Opens what was resolved. Nothing is connected before the first call. */
export function openRepository({ config, server }: RepositoryAccess): Repository {
  return createRepository(openStore(config), server, memoryOf(config, server));
}

/** What this process found out about stores: an activity opens its repository anew each time. */
const memories = new Map<string, StoreMemory>();
/** More places than a worker ever sees. */
const MOST_MEMORIES = 1000;

function memoryOf(config: StoreConfig, server: string): StoreMemory | undefined {
  if (config.kind !== 's3') return undefined;
  const { endpointUrl, bucket, prefix } = config;
  const place = JSON.stringify([endpointUrl, bucket, prefix, server]);
  const known = memories.get(place);
  if (known) return known;
  if (memories.size >= MOST_MEMORIES) memories.clear();
  const memory: StoreMemory = {};
  memories.set(place, memory);
  return memory;
}

/** As `openClusterRepository`, without opening: for worker threads, which open their own. */
export async function resolveClusterAccess(
  manifest: ClusterManifest,
  resolver: SecretResolver,
): Promise<RepositoryAccess> {
  const { backup } = manifest.spec;
  const id = objectId(manifest.metadata);
  if (!backup?.barmanObjectStore) {
    const snapshots = backup?.volumeSnapshot ? ' (volume snapshots have no WAL archive of their own)' : '';
    throw new BackupError(
      'manifest-invalid',
      `Cluster ${id} has no spec.backup.barmanObjectStore${snapshots}`,
      {
        hint: 'add it, with destinationPath, and apply the manifest again',
      },
    );
  }
  const { name, namespace } = manifest.metadata;
  return resolveAccess(backup.barmanObjectStore, name, namespace, resolver);
}

/** As `openExternalRepository`, without opening. */
export async function resolveExternalAccess(
  entry: ExternalCluster,
  namespace: string,
  resolver: SecretResolver,
): Promise<RepositoryAccess> {
  if (!entry.barmanObjectStore) {
    throw new BackupError('manifest-invalid', `external cluster "${entry.name}" has no barmanObjectStore`, {
      hint: 'add it, with destinationPath, and apply the manifest again',
    });
  }
  return resolveAccess(entry.barmanObjectStore, entry.name, namespace, resolver);
}

/** The codec that a manifest's `compression` asks for; `none` when it asks for nothing. */
export function codecOf(compression: BarmanObjectStore['wal']['compression']): Codec {
  return compression ?? 'none';
}

async function resolveAccess(
  store: BarmanObjectStore,
  serverName: string,
  namespace: string,
  resolver: SecretResolver,
): Promise<RepositoryAccess> {
  const request = toStoreRequest(store, serverName);
  return { config: await toStoreConfig(request, namespace, resolver), server: request.server };
}

/**
 * What to open for a request, with its secrets.
 *
 * @throws BackupError `secret-missing`, `config-invalid`
 */
export async function toStoreConfig(
  request: StoreRequest,
  namespace: string,
  resolver: SecretResolver,
): Promise<StoreConfig> {
  const { destination, endpointUrl, secrets, kmsKeyId, addressingStyle } = request;
  if (destination.kind === 'file') return { kind: 'file', directory: destination.directory };
  const text = async (selector: SecretKeySelector) =>
    trimmed(await resolver.resolve({ ...selector, namespace }), selector);
  const ca = secrets.endpointCA
    ? { caPem: certificates(await text(secrets.endpointCA), secrets.endpointCA) }
    : {};
  if (destination.kind === 'gs') return { ...(await googleStoreConfig(request, destination, text)), ...ca };
  if (destination.kind === 'azure') return { ...(await azureStoreConfig(request, destination, text)), ...ca };
  const credentials = await resolveKeys(secrets, text);
  return {
    kind: 's3',
    bucket: destination.bucket,
    prefix: destination.prefix,
    ...(endpointUrl === undefined ? {} : { endpointUrl }),
    ...(kmsKeyId === undefined ? {} : { kmsKeyId }),
    ...(addressingStyle === undefined ? {} : { addressingStyle }),
    // A region is kept in a Secret, but is none: it stands in every request.
    ...(secrets.region ? { region: (await text(secrets.region)).reveal() } : {}),
    ...ca,
    ...(credentials ? { credentials } : {}),
  };
}

async function resolveKeys(
  secrets: StoreRequest['secrets'],
  text: (selector: SecretKeySelector) => Promise<Secret>,
): Promise<S3Credentials | undefined> {
  if (!secrets.accessKeyId || !secrets.secretAccessKey) return undefined;
  const [accessKeyId, secretAccessKey] = await Promise.all([
    text(secrets.accessKeyId),
    text(secrets.secretAccessKey),
  ]);
  const sessionToken = secrets.sessionToken ? await text(secrets.sessionToken) : undefined;
  return { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) };
}

/** Files written by `echo` end in a newline, which no key has: without this the store refuses a key that looks right. */
function trimmed(secret: Secret, { name, key }: SecretKeySelector): Secret {
  const text = secret.reveal().trim();
  if (text !== '') return secret.reveal() === text ? secret : new Secret(text);
  throw new BackupError('secret-missing', `secret "${name}" key "${key}" is empty`);
}

function certificates(pem: Secret, { name, key }: SecretKeySelector): string {
  const text = pem.reveal();
  if (text.includes('-----BEGIN CERTIFICATE-----')) return `${text}\n`;
  throw new BackupError('config-invalid', `secret "${name}" key "${key}" holds no certificate in PEM form`, {
    hint: 'endpointCA wants the certificate of the authority: a text that begins with -----BEGIN CERTIFICATE-----',
  });
}
