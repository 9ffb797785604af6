import { join } from 'node:path';
import { Secret } from '../../core/secret.ts';
import type { RepositoryReference } from '../../operations/recovery-file.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import type { StoreConfig } from '../../stores/store-config.ts';
import { startAzurite } from '../support/azurite.ts';
import type { BarmanCloudProgram } from '../support/barman.ts';
import { startFakeGcs } from '../support/fake-gcs.ts';
import type { Postgres } from '../support/postgres.ts';
import { runProcess, type Outcome } from '../support/processes.ts';
import { startS3 } from '../support/s3.ts';
import { serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { toolPath, type Tool } from '../support/tools.ts';
import type { Release, StoreKind } from './cells.ts';
import { serveBatches } from './gcs-batches.ts';

const PREFIX = 'clusters/prod';

/** A store with an empty bucket, as both tools are told of it. */
export interface Place {
  readonly kind: StoreKind;
  readonly destination: string;
  readonly config: StoreConfig;
  /** As in a manifest; it may name the secret below. */
  readonly barmanObjectStore: RepositoryReference['barmanObjectStore'];
  /** For a state directory, where the environment would not do. */
  readonly secret?: { readonly name: string; readonly values: ReadonlyMap<string, Secret> };
  /** Credentials, as both tools find them. */
  readonly environment: Readonly<Record<string, string>>;
  /** The same for barman-cloud, where it takes another way. */
  readonly barmanEnvironment?: Readonly<Record<string, string>>;
  /** The words for barman-cloud, to come before the destination. */
  readonly words: readonly string[];
}

/** Starts the server of a store, which ends with the test file. */
export async function openPlace(kind: StoreKind): Promise<Place> {
  switch (kind) {
    case 'S3':
      return s3Place();
    case 'Azure':
      return azurePlace();
    case 'GCS':
      return gcsPlace();
  }
}

/** What each store needs of scripts/setup. */
export const STORE_TOOL = {
  S3: 'versitygw',
  Azure: 'azurite',
  GCS: 'fake-gcs-server',
} as const satisfies Record<StoreKind, Tool>;

async function s3Place(): Promise<Place> {
  const s3 = await startS3();
  const destination = `s3://${s3.bucket}/${PREFIX}`;
  return {
    kind: 'S3',
    destination,
    config: {
      kind: 's3',
      bucket: s3.bucket,
      prefix: PREFIX,
      endpointUrl: s3.endpointUrl,
      region: s3.region,
      credentials: {
        accessKeyId: new Secret(s3.accessKeyId),
        secretAccessKey: new Secret(s3.secretAccessKey),
      },
    },
    barmanObjectStore: { destinationPath: destination, endpointURL: s3.endpointUrl },
    environment: s3.environment,
    words: ['--cloud-provider', 'aws-s3', '--endpoint-url', s3.endpointUrl],
  };
}

async function azurePlace(): Promise<Place> {
  const azurite = await startAzurite();
  const destination = azurite.destination(PREFIX);
  const connectionString = new Secret(azurite.connectionString);
  return {
    kind: 'Azure',
    destination,
    config: {
      kind: 'azure',
      serviceUrl: azurite.serviceUrl,
      container: azurite.container,
      prefix: PREFIX,
      credentials: { way: 'connection-string', connectionString },
    },
    barmanObjectStore: {
      destinationPath: destination,
      azureCredentials: { connectionString: { name: 'azure', key: 'CONNECTION' } },
    },
    secret: { name: 'azure', values: new Map([['CONNECTION', connectionString]]) },
    environment: { AZURE_STORAGE_CONNECTION_STRING: azurite.connectionString },
    words: ['--cloud-provider', 'azure-blob-storage'],
  };
}

async function gcsPlace(): Promise<Place> {
  const gcs = await startFakeGcs();
  const destination = `gs://${gcs.bucket}/${PREFIX}`;
  return {
    kind: 'GCS',
    destination,
    config: { kind: 'gs', bucket: gcs.bucket, prefix: PREFIX, endpointUrl: gcs.endpointUrl },
    barmanObjectStore: { destinationPath: destination, endpointURL: gcs.endpointUrl },
    environment: gcs.environment,
    barmanEnvironment: { STORAGE_EMULATOR_HOST: await serveBatches(gcs.endpointUrl) },
    words: ['--cloud-provider', 'google-cloud-storage'],
  };
}

/** One server's folder in a store, and the barman-cloud of one release that looks at it. */
export interface Folder {
  readonly place: Place;
  readonly server: string;
  readonly repository: Repository;
  /** Runs a program: first words, then where, then the last words. */
  barman(
    program: BarmanCloudProgram,
    first?: readonly string[],
    last?: readonly string[],
    postgres?: Postgres,
  ): Promise<Outcome>;
  /** Has a WAL file fetched. */
  fetchByBarman(name: string, to: string): Promise<Outcome>;
  /** For `restore_command`, with a spool of this recovery's own. */
  restoreCommand(): string;
  /** Every object's key, relative to the server's folder; without what a reader says of itself. */
  keys(): Promise<string[]>;
}

/** The tool of scripts/setup that is this release. */
export function releaseTool(release: Release): Tool {
  return release === '3.19.1' ? 'barman' : `barman-${release}`;
}

export function openFolder(place: Place, server: string, release: Release): Folder {
  const repository = createRepository(openStore(place.config), server);
  const bin = toolPath(releaseTool(release));
  const environment = place.barmanEnvironment ?? place.environment;
  const where = [...place.words, place.destination, server];
  // the oldest one has no spool
  const ownSpool = () => (release === '3.10.0' ? [] : ['--spool-dir', makeTempDir('spool')]);
  const folder: Folder = {
    place,
    server,
    repository,
    barman(program, first = [], last = [], postgres) {
      const env = { PATH: process.env['PATH'], ...environment, ...postgres?.environment };
      const options = { env, user: serverUser, timeoutMs: 240_000 };
      return runProcess(join(bin, program), [...first, ...where, ...last], options);
    },
    fetchByBarman: (name, to) => folder.barman('barman-cloud-wal-restore', ownSpool(), [name, to]),
    restoreCommand() {
      const words = Object.entries(environment).map(([name, value]) => `'${name}=${value}'`);
      const program = join(bin, 'barman-cloud-wal-restore');
      return ['env', ...words, program, ...ownSpool(), ...where, '%f', '%p'].join(' ');
    },
    async keys() {
      const found: string[] = [];
      const prefix = `${server}/`;
      const { signal } = new AbortController();
      for await (const { key } of repository.store.list(prefix, { signal })) {
        const relative = key.slice(prefix.length);
        if (!/^walkeep\/(holds|leases?|probe)/.test(relative)) found.push(relative);
      }
      return found.toSorted();
    },
  };
  return folder;
}
