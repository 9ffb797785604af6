import { describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { Secret } from '../../core/secret.ts';
import { toStoreRequest } from '../../manifests/object-store-location.ts';
import { barmanObjectStoreSchema, reviewObjectStore } from '../../manifests/object-store.ts';
import { toStoreConfig } from '../../operations/open-repository.ts';
import { openStore } from '../../stores/open-store.ts';
import type { StoreConfig } from '../../stores/store-config.ts';

const KEY = Buffer.from('canary').toString('base64');
const CONNECTION = `DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=${KEY};EndpointSuffix=core.windows.net`;
const VALUES: Record<string, string> = {
  ACCOUNT: 'acct\n',
  OTHER: 'other',
  KEY: `${KEY}\n`,
  SAS: '?sv=1&sig=canary',
  CONNECTION,
  CA: '-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n',
};
const secret = (key: string) => ({ name: 'azure', key });
const AT = 'https://acct.blob.core.windows.net/box/team/pg';

async function configOf(store: object): Promise<StoreConfig> {
  const request = toStoreRequest(barmanObjectStoreSchema.parse({ destinationPath: AT, ...store }), 'orders');
  return toStoreConfig(request, 'shop', {
    resolve: ({ key }) => {
      const value = VALUES[key];
      if (value === undefined) throw new BackupError('secret-missing', `no ${key}`);
      return Promise.resolve(new Secret(value));
    },
  });
}

/** With the value of its secret, for comparison. */
async function revealed(store: object): Promise<unknown> {
  const config = await configOf(store);
  const credentials: unknown = 'credentials' in config ? config.credentials : undefined;
  if (typeof credentials !== 'object' || credentials === null) return config;
  const open = Object.entries(credentials).map(([name, value]) => [
    name,
    value instanceof Secret ? value.reveal() : value,
  ]);
  return { ...config, credentials: Object.fromEntries(open) };
}

describe('a container that a Cluster names', () => {
  const place = {
    kind: 'azure',
    serviceUrl: 'https://acct.blob.core.windows.net',
    container: 'box',
    prefix: 'team/pg',
  };

  it.for([
    [
      'a connection string',
      { connectionString: secret('CONNECTION') },
      { way: 'connection-string', connectionString: CONNECTION },
    ],
    [
      'account and key',
      { storageAccount: secret('ACCOUNT'), storageKey: secret('KEY') },
      { way: 'account-key', account: 'acct', key: KEY },
    ],
    [
      'account and signature',
      { storageAccount: secret('ACCOUNT'), storageSasToken: secret('SAS') },
      { way: 'sas-token', token: VALUES['SAS'] },
    ],
    ['inheritFromAzureAD', { inheritFromAzureAD: true }, { way: 'managed-identity' }],
    ['useDefaultAzureCredentials', { useDefaultAzureCredentials: true }, { way: 'default' }],
    ['nothing', undefined, { way: 'default' }],
  ] as const)('is opened with %s', async ([, azureCredentials, credentials]) => {
    const store = azureCredentials ? { azureCredentials } : {};
    expect(await revealed(store)).toEqual({ ...place, credentials });
    const config = await configOf(store);
    expect(JSON.stringify(config)).not.toMatch(/canary|Y2FuYXJ5/);
    expect(openStore(config).url).toBe(AT);
  });

  it('is asked at a domain of its own with an authority of its own', async () => {
    const config = await revealed({
      endpointURL: 'https://backups.example.com',
      endpointCA: secret('CA'),
      azureCredentials: { storageAccount: secret('ACCOUNT'), storageKey: secret('KEY') },
    });
    expect(config).toMatchObject({
      serviceUrl: 'https://backups.example.com',
      caPem: expect.stringContaining('BEGIN CERTIFICATE'),
      credentials: { account: 'acct' },
    });
  });

  it.for([
    { data: { additionalCommandArgs: ['--encryption-scope', 'ours'] } },
    { wal: { archiveAdditionalCommandArgs: ['--max-concurrency=1', '--encryption-scope=ours'] } },
  ])('has the encryption scope of its arguments for barman: %j', async (store) => {
    expect(await configOf(store)).toMatchObject({ encryptionScope: 'ours' });
    const parsed = barmanObjectStoreSchema.parse({ destinationPath: AT, ...store });
    const said = reviewObjectStore(parsed, []).map(({ path }) => path.at(-1));
    // what else stands there does nothing, and that is said
    expect(said.includes('archiveAdditionalCommandArgs')).toBe('wal' in store);
    expect(said).not.toContain('additionalCommandArgs');
  });

  it('of an emulator has the account in its address', async () => {
    const config = await configOf({
      destinationPath: 'http://127.0.0.1:10000/acct/box/pg',
      azureCredentials: { storageAccount: secret('ACCOUNT'), storageKey: secret('KEY') },
    });
    expect(config).toMatchObject({
      serviceUrl: 'http://127.0.0.1:10000/acct',
      container: 'box',
      prefix: 'pg',
    });
    expect(openStore(config).url).toBe('http://127.0.0.1:10000/acct/box/pg');
  });

  it('of another account than the secret says is refused', async () => {
    const azureCredentials = { storageAccount: secret('OTHER'), storageKey: secret('KEY') };
    await expect(configOf({ azureCredentials })).rejects.toMatchObject({
      code: 'config-invalid',
      message: expect.stringMatching(/"other".* of "acct"/),
    });
  });

  it('S1: a key in the place of the account is not shown', async () => {
    const azureCredentials = { storageAccount: secret('KEY'), storageKey: secret('KEY') };
    await expect(configOf({ azureCredentials })).rejects.toMatchObject({
      code: 'config-invalid',
      message: expect.not.stringContaining(KEY),
    });
  });
});
