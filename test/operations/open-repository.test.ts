import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, test } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { Secret } from '../../core/secret.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { DATA_COMPRESSIONS, WAL_COMPRESSIONS } from '../../manifests/object-store.ts';
import {
  codecOf,
  openClusterRepository,
  openExternalRepository,
  resolveClusterAccess,
  resolveExternalAccess,
} from '../../operations/open-repository.ts';
import type { SecretResolver } from '../../operations/secret-resolver.ts';
import { CODECS } from '../../streams/codec.ts';

const PEM = '-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n';

function cluster(store?: object, more: object = {}) {
  return clusterSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'Cluster',
    metadata: { name: 'orders', namespace: 'shop' },
    spec: { ...(store && { backup: { barmanObjectStore: store } }), ...more },
  });
}

/** Secrets of namespace `shop`, by `name/key`. */
function secrets(values: Record<string, string>): SecretResolver {
  return {
    resolve: ({ namespace, name, key }) => {
      const value = namespace === 'shop' ? values[`${name}/${key}`] : undefined;
      return value === undefined
        ? Promise.reject(new BackupError('secret-missing', `no ${name}/${key}`))
        : Promise.resolve(new Secret(value));
    },
  };
}

const key = (name: string) => ({ name: 's3', key: name });
const S3 = {
  destinationPath: 's3://backups/postgres/',
  endpointURL: 'https://minio.example.com:9000',
  endpointCA: key('CA'),
  s3Credentials: {
    accessKeyId: key('ID'),
    secretAccessKey: key('SECRET'),
    region: key('REGION'),
    sessionToken: key('TOKEN'),
  },
};
const VALUES = {
  's3/ID': 'AKIA\n',
  's3/SECRET': ' hunter2\r\n',
  's3/REGION': 'eu-central-1\n',
  's3/TOKEN': 'tok',
  's3/CA': PEM,
};

describe('from a Cluster to its repository', () => {
  it('resolves keys, region and certificate, and cuts the newline echo leaves', async () => {
    const { config, server } = await resolveClusterAccess(cluster(S3), secrets(VALUES));
    expect(server).toBe('orders');
    expect(config).toMatchObject({
      kind: 's3',
      bucket: 'backups',
      prefix: 'postgres',
      endpointUrl: 'https://minio.example.com:9000',
      region: 'eu-central-1',
      caPem: PEM,
    });
    if (config.kind !== 's3') throw new Error('expected s3');
    const { accessKeyId, secretAccessKey, sessionToken } = config.credentials ?? {};
    expect([accessKeyId?.reveal(), secretAccessKey?.reveal(), sessionToken?.reveal()]).toEqual([
      'AKIA',
      'hunter2',
      'tok',
    ]);
    expect(JSON.stringify(config)).not.toContain('hunter2');
  });

  test.for([
    [
      { data: { encryption: 'aws:kms', additionalCommandArgs: ['--sse-kms-key-id', 'arn:k'] } },
      { kmsKeyId: 'arn:k' },
    ],
    [{ wal: { archiveAdditionalCommandArgs: ['--sse-kms-key-id=arn:k'] } }, { kmsKeyId: 'arn:k' }],
    [
      { wal: { restoreAdditionalCommandArgs: ['--addressing-style', 'virtual'] } },
      { addressingStyle: 'virtual' },
    ],
    [{ data: { additionalCommandArgs: ['--kms-key-name', 'of Google'] } }, {}],
  ] as const)('has what its arguments for barman say: %j', async ([change, found]) => {
    const { config } = await resolveClusterAccess(
      cluster({ destinationPath: 's3://b', ...change }),
      secrets({}),
    );
    expect(config).toEqual({ kind: 's3', bucket: 'b', prefix: '', ...found });
  });

  test.for([
    ['no credentials', undefined],
    ['the role of the machine', { inheritFromIAMRole: true }],
  ] as const)('asks for no secret with %s', async ([, s3Credentials]) => {
    const store = { destinationPath: 's3://backups', ...(s3Credentials && { s3Credentials }) };
    const { config } = await resolveClusterAccess(cluster(store), secrets({}));
    expect(config).toEqual({ kind: 's3', bucket: 'backups', prefix: '' });
  });

  it('opens a directory below the server name', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'walkeep-open-'));
    try {
      const store = { destinationPath: `file://${directory}/`, serverName: 'orders-v2' };
      const repository = await openClusterRepository(cluster(store), secrets({}));
      expect(repository.server).toBe('orders-v2');
      expect(repository.url).toBe(`file://${directory}/orders-v2`);
      await repository.close();
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  test.for([
    ['a missing secret', S3, { ...VALUES, 's3/SECRET': undefined }, 'secret-missing'],
    ['an empty secret', S3, { ...VALUES, 's3/SECRET': '\n' }, 'secret-missing'],
    ['a CA that is no certificate', S3, { ...VALUES, 's3/CA': 'hunter2' }, 'config-invalid'],
    ['no object store', undefined, {}, 'manifest-invalid'],
  ] as const)('%s fails with a typed error without a secret in it', async ([, store, values, code]) => {
    const known = Object.fromEntries(
      Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined),
    );
    const failure = await openClusterRepository(cluster(store), secrets(known)).catch(
      (error: unknown) => error,
    );
    expect(failure).toMatchObject({ code });
    expect(String(failure)).not.toContain('hunter2');
  });

  it('every compression that CNPG allows has a codec', () => {
    expect(codecOf(undefined)).toBe('none');
    for (const compression of WAL_COMPRESSIONS) expect(codecOf(compression)).toBe(compression);
    expect(CODECS).toEqual(expect.arrayContaining([...WAL_COMPRESSIONS, ...DATA_COMPRESSIONS]));
  });
});

describe('from a Cluster to a bucket of Google', () => {
  const destinationPath = 'gs://backups/postgres/';
  const configOf = async (store: object) =>
    (
      await resolveClusterAccess(
        cluster({ destinationPath, ...store }),
        secrets({ 'g/FILE': '{"a":"hunter2"}\n' }),
      )
    ).config;
  const place = { kind: 'gs', bucket: 'backups', prefix: 'postgres' };

  it('resolves the file of a service account', async () => {
    const googleCredentials = { applicationCredentials: { name: 'g', key: 'FILE' } };
    const config = await configOf({ googleCredentials, endpointURL: 'https://storage.example.com' });
    expect(config).toMatchObject({ ...place, endpointUrl: 'https://storage.example.com' });
    if (config.kind !== 'gs' || config.credentials?.way !== 'json') throw new Error('expected a file');
    expect(config.credentials.json.reveal()).toBe('{"a":"hunter2"}');
    expect(JSON.stringify(config)).not.toContain('hunter2');
  });

  it('asks for no secret with the identity of the host, and with nothing', async () => {
    expect(await configOf({ googleCredentials: { gkeEnvironment: true } })).toEqual({
      ...place,
      credentials: { way: 'ambient' },
    });
    expect(await configOf({})).toEqual(place);
  });

  test.for([
    [{ data: { additionalCommandArgs: ['--max-archive-size=1GB', '--kms-key-name', 'K'] } }],
    [{ wal: { archiveAdditionalCommandArgs: ['--kms-key-name=K'] } }],
  ] as const)('takes the key from where barman has it: %j', async ([store]) => {
    expect(await configOf(store)).toEqual({ ...place, kmsKeyName: 'K' });
  });
});

describe('from an external cluster to its repository', () => {
  const entryOf = (barmanObjectStore?: object) => {
    const externalClusters = [{ name: 'orders-old', ...(barmanObjectStore && { barmanObjectStore }) }];
    const [entry] = cluster(undefined, { externalClusters }).spec.externalClusters;
    if (!entry) throw new Error('expected an entry');
    return entry;
  };

  it('lies below the name of the entry, and its secrets in the namespace of the Cluster', async () => {
    const entry = entryOf({ ...S3, endpointCA: undefined });
    const { server, config } = await resolveExternalAccess(entry, 'shop', secrets(VALUES));
    expect([server, config.kind]).toEqual(['orders-old', 's3']);
    await expect(resolveExternalAccess(entry, 'other', secrets(VALUES))).rejects.toMatchObject({
      code: 'secret-missing',
    });
  });

  it('is refused without an object store', async () => {
    await expect(openExternalRepository(entryOf(), 'shop', secrets({}))).rejects.toMatchObject({
      code: 'manifest-invalid',
    });
  });
});
