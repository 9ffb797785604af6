import { z } from 'zod';
import { parsePostgresSeconds } from '../core/duration.ts';
import { commandArguments, flag, secretKeySelector, textMap, textThat } from './fields.ts';
import { ENCRYPTIONS, reviewArguments, type StoreUse } from './object-store-arguments.ts';
import {
  endpointFault,
  examineDestination,
  serverNameFault,
  type Destination,
} from './object-store-location.ts';
import { show, type FieldPath, type Finding } from './problem.ts';

/** Compressions CNPG allows for WAL. */
export const WAL_COMPRESSIONS = ['bzip2', 'gzip', 'lz4', 'snappy', 'xz', 'zstd'] as const;
/** For base backups CNPG allows neither xz nor zstd; walkeep takes zstd, and says what that means. */
export const DATA_COMPRESSIONS = ['bzip2', 'gzip', 'lz4', 'snappy', 'zstd'] as const;

/** Barman's default number of parallel jobs of a base backup. */
export const DEFAULT_JOBS = 2;

const s3Credentials = z.object({
  accessKeyId: secretKeySelector.optional(),
  secretAccessKey: secretKeySelector.optional(),
  region: secretKeySelector.optional(),
  sessionToken: secretKeySelector.optional(),
  inheritFromIAMRole: flag.optional(),
});

const azureCredentials = z.object({
  connectionString: secretKeySelector.optional(),
  storageAccount: secretKeySelector.optional(),
  storageKey: secretKeySelector.optional(),
  storageSasToken: secretKeySelector.optional(),
  inheritFromAzureAD: flag.optional(),
  useDefaultAzureCredentials: flag.optional(),
});

const googleCredentials = z.object({
  applicationCredentials: secretKeySelector.optional(),
  gkeEnvironment: flag.optional(),
});

const archiveTimeout = z
  .union([z.string(), z.number()])
  .transform(String)
  .pipe(
    textThat((text) => {
      try {
        parsePostgresSeconds(text);
        return undefined;
      } catch {
        return {
          message: `${show(text)} is no time`,
          fix: 'write it as PostgreSQL does, such as 5min or 300s',
        };
      }
    }),
  );

const wal = z.object({
  compression: z.enum(WAL_COMPRESSIONS).optional(),
  encryption: z.enum(ENCRYPTIONS).optional(),
  maxParallel: z.int().min(1).max(1024).default(1),
  archiveAdditionalCommandArgs: commandArguments,
  restoreAdditionalCommandArgs: commandArguments,
  /** No field of CNPG, but of a tutorial many have read: the wish for PostgreSQL's `archive_timeout`. */
  archiveTimeout: archiveTimeout.optional(),
});

const data = z.object({
  compression: z.enum(DATA_COMPRESSIONS).optional(),
  encryption: z.enum(ENCRYPTIONS).optional(),
  jobs: z.int().min(1).max(1024).default(DEFAULT_JOBS),
  immediateCheckpoint: flag.default(false),
  additionalCommandArgs: commandArguments,
  restoreAdditionalCommandArgs: commandArguments,
});

/** `barmanObjectStore`: where a repository is, how it is opened, and how objects are written to it. */
export const barmanObjectStoreSchema = z.object({
  destinationPath: textThat((text) => {
    const examined = examineDestination(text);
    return 'fault' in examined ? examined.fault : undefined;
  }),
  endpointURL: textThat(endpointFault).optional(),
  endpointCA: secretKeySelector.optional(),
  serverName: textThat(serverNameFault).optional(),
  s3Credentials: s3Credentials.optional(),
  azureCredentials: azureCredentials.optional(),
  googleCredentials: googleCredentials.optional(),
  wal: wal.prefault({}),
  data: data.prefault({}),
  tags: textMap.optional(),
  historyTags: textMap.optional(),
});
export type BarmanObjectStore = z.infer<typeof barmanObjectStoreSchema>;

/** The rules that concern more than one field of an object store. */
export function reviewObjectStore(
  store: BarmanObjectStore,
  path: FieldPath,
  use: StoreUse = 'written',
): Finding[] {
  const examined = examineDestination(store.destinationPath);
  const destination = 'destination' in examined ? examined.destination : undefined;
  return [
    ...reviewCredentials(store, destination, path),
    ...reviewS3(store, [...path, 's3Credentials']),
    ...reviewAzure(store, [...path, 'azureCredentials']),
    ...reviewGoogle(store, [...path, 'googleCredentials']),
    ...reviewWal(store, destination, [...path, 'wal']),
    ...reviewData(store, destination, [...path, 'data']),
    ...reviewArguments(store, destination, path, use),
  ];
}

const CREDENTIALS_OF = {
  s3: 's3Credentials',
  gs: 'googleCredentials',
  azure: 'azureCredentials',
  file: undefined,
} as const satisfies Record<Destination['kind'], string | undefined>;

function reviewCredentials(
  store: BarmanObjectStore,
  destination: Destination | undefined,
  path: FieldPath,
): Finding[] {
  const given = (['s3Credentials', 'azureCredentials', 'googleCredentials'] as const).filter(
    (name) => store[name] !== undefined,
  );
  if (given.length > 1) {
    const message = `${given.join(' and ')} are given; a store has one kind of credentials`;
    return [{ path, message, fix: 'keep the one that fits destinationPath', severity: 'error' }];
  }
  if (!destination) return [];
  const [only] = given;
  const expected = CREDENTIALS_OF[destination.kind];
  if (only !== undefined && only !== expected) {
    const message =
      expected === undefined
        ? `${only} are given, but ${destination.url} is a directory and needs none`
        : `${only} are given, but ${destination.url} is opened with ${expected}`;
    const fix = expected === undefined ? `remove ${only}` : `write ${expected}, or correct destinationPath`;
    return [{ path: [...path, only], message, fix, severity: 'error' }];
  }
  if (only !== undefined) return [];
  if (expected === undefined) {
    const message = `${destination.url} is a directory: walkeep's own, CNPG itself would refuse it`;
    return [{ path: [...path, 'destinationPath'], message, fix: '', severity: 'note' }];
  }
  return [
    {
      path,
      message: `no credentials are given: the provider's own chain is used (environment, profile, role of the machine). CNPG itself would refuse this`,
      fix: `give ${expected}, or keep it so when this host has a role; for CNPG write ${ownChain(destination)}`,
      severity: 'warning',
    },
  ];
}

function ownChain(destination: Destination): string {
  if (destination.kind === 'gs') return 'googleCredentials: {gkeEnvironment: true}';
  if (destination.kind === 'azure') return 'azureCredentials: {useDefaultAzureCredentials: true}';
  return 's3Credentials: {inheritFromIAMRole: true}';
}

function reviewS3({ s3Credentials: given }: BarmanObjectStore, path: FieldPath): Finding[] {
  if (!given) return [];
  const keys = (['accessKeyId', 'secretAccessKey'] as const).filter((name) => given[name] !== undefined);
  if (given.inheritFromIAMRole === true && keys.length > 0) {
    const message = `inheritFromIAMRole and ${keys.join(', ')} are given; only one of the two can be meant`;
    return [{ path, message, fix: 'remove the keys, or inheritFromIAMRole', severity: 'error' }];
  }
  if (given.inheritFromIAMRole === true) {
    const ignored = (['region', 'sessionToken'] as const).filter((name) => given[name] !== undefined);
    return ignored.map((name) => ({
      path: [...path, name],
      message: `${name} is ignored together with inheritFromIAMRole, as CNPG does`,
      fix: name === 'region' ? 'set AWS_REGION for the worker' : 'remove it',
      severity: 'warning' as const,
    }));
  }
  if (keys.length === 2) return [];
  const missing = keys[0] === 'accessKeyId' ? 'secretAccessKey' : 'accessKeyId';
  return keys.length === 1
    ? [
        {
          path,
          message: `half a key pair: ${keys[0]} is given, ${missing} is not`,
          fix: `add ${missing}: {name: SECRET, key: KEY}`,
          severity: 'error',
        },
      ]
    : [
        {
          path,
          message: 'neither keys nor inheritFromIAMRole are given',
          fix: 'give accessKeyId and secretAccessKey, or inheritFromIAMRole: true',
          severity: 'error',
        },
      ];
}

function reviewAzure({ azureCredentials: given }: BarmanObjectStore, path: FieldPath): Finding[] {
  if (!given) return [];
  const error = (message: string, fix: string): Finding[] => [{ path, message, fix, severity: 'error' }];
  const ways = [
    ...(given.storageKey ? ['storageKey'] : []),
    ...(given.storageSasToken ? ['storageSasToken'] : []),
    ...(given.inheritFromAzureAD === true ? ['inheritFromAzureAD'] : []),
    ...(given.useDefaultAzureCredentials === true ? ['useDefaultAzureCredentials'] : []),
  ];
  if (given.connectionString) {
    const others = [...(given.storageAccount ? ['storageAccount'] : []), ...ways];
    if (others.length === 0) return [];
    return error(
      `connectionString holds everything; ${others.join(', ')} can't be beside it`,
      'remove one of the two',
    );
  }
  const choices = 'storageKey, storageSasToken, inheritFromAzureAD or useDefaultAzureCredentials';
  if (ways.length === 0)
    return error('no way to sign in is given', `give connectionString, or one of ${choices}`);
  if (ways.length > 1)
    return error(`${ways.join(' and ')} are given; only one can be meant`, `keep one of ${choices}`);
  if (!given.storageAccount && (given.storageKey ?? given.storageSasToken)) {
    return error(`${ways[0]} needs storageAccount beside it`, 'add storageAccount: {name: SECRET, key: KEY}');
  }
  return [];
}

function reviewGoogle({ googleCredentials: given }: BarmanObjectStore, path: FieldPath): Finding[] {
  if (!given || (given.applicationCredentials !== undefined) !== (given.gkeEnvironment === true)) return [];
  const message = given.applicationCredentials
    ? 'applicationCredentials and gkeEnvironment are given; only one can be meant'
    : 'neither applicationCredentials nor gkeEnvironment is given';
  return [{ path, message, fix: 'keep exactly one: a Secret, or gkeEnvironment: true', severity: 'error' }];
}

function reviewWal(
  store: BarmanObjectStore,
  destination: Destination | undefined,
  path: FieldPath,
): Finding[] {
  const findings = [...reviewEncryption(store.wal.encryption, destination, [...path, 'encryption'])];
  const { compression } = store.wal;
  if (compression === 'xz' || compression === 'bzip2') {
    findings.push({
      path: [...path, 'compression'],
      message: `${compression} is slow: archive_command has to be answered within 60 s, and with WAL segments above 64 MiB it may not be. walkeep check says it of the server`,
      fix: 'zstd, lz4 or gzip are fast enough for segments of any size',
      severity: 'note',
    });
  }
  if (store.wal.archiveTimeout === undefined) return findings;
  const seconds = parsePostgresSeconds(store.wal.archiveTimeout);
  findings.push({
    path: [...path, 'archiveTimeout'],
    message: `archiveTimeout is no field of CNPG, which would refuse or drop it; it is taken as the wish for PostgreSQL's archive_timeout: ${seconds} s. walkeep check compares it with the server`,
    fix: `for CNPG write spec.postgresql.parameters.archive_timeout: "${seconds}s"`,
    severity: 'warning',
  });
  return findings;
}

function reviewData(
  store: BarmanObjectStore,
  destination: Destination | undefined,
  path: FieldPath,
): Finding[] {
  const findings = [...reviewEncryption(store.data.encryption, destination, [...path, 'encryption'])];
  if (store.data.compression === 'zstd') {
    findings.push({
      path: [...path, 'compression'],
      message:
        'base backups in zstd are taken and restored by walkeep; barman itself restores them from 3.20 on, and CNPG refuses this value',
      fix: 'write gzip or lz4 if barman or CNPG must be able to restore them',
      severity: 'note',
    });
  }
  return findings;
}

function reviewEncryption(
  encryption: string | undefined,
  destination: Destination | undefined,
  path: FieldPath,
): Finding[] {
  if (encryption === undefined || destination === undefined || destination.kind === 's3') return [];
  return [
    {
      path,
      message: `encryption asks an S3 server to encrypt what it stores; ${destination.url} is none, so it does nothing here`,
      fix: 'remove it; objects are not encrypted by walkeep',
      severity: 'warning',
    },
  ];
}
