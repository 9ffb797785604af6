import { describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { Secret } from '../../core/secret.ts';
import type { RepositoryAccess } from '../../operations/open-repository.ts';
import { unlessRotated, wasRotated } from '../../operations/rotated-secret.ts';
import type { AzureCredentials, GoogleCredentials, StoreConfig } from '../../stores/store-config.ts';

const accessTo = (config: StoreConfig): RepositoryAccess => ({ server: 'pg', config });
const ofS3 = (part: { id?: string; key?: string; token?: string } = {}): StoreConfig => ({
  kind: 's3',
  bucket: 'b',
  prefix: '',
  credentials: {
    accessKeyId: new Secret(part.id ?? 'id'),
    secretAccessKey: new Secret(part.key ?? 'key'),
    ...(part.token === undefined ? {} : { sessionToken: new Secret(part.token) }),
  },
});
const ofAzure = (credentials: AzureCredentials): StoreConfig => ({
  kind: 'azure',
  serviceUrl: 'https://acc.blob.core.windows.net',
  container: 'c',
  prefix: '',
  credentials,
});
const ofGoogle = (credentials?: GoogleCredentials): StoreConfig => ({
  kind: 'gs',
  bucket: 'b',
  prefix: '',
  ...(credentials === undefined ? {} : { credentials }),
});

/** Every way to sign in by a secret, with this one. */
const WAYS: readonly { readonly way: string; readonly config: (secret: string) => StoreConfig }[] = [
  { way: 'S3, the id of the key', config: (id) => ofS3({ id }) },
  { way: 'S3, the key', config: (key) => ofS3({ key }) },
  { way: 'S3, the session token', config: (token) => ofS3({ token }) },
  {
    way: 'Azure, the connection string',
    config: (text) => ofAzure({ way: 'connection-string', connectionString: new Secret(text) }),
  },
  {
    way: 'Azure, the key of the account',
    config: (key) => ofAzure({ way: 'account-key', account: 'acc', key: new Secret(key) }),
  },
  {
    way: 'Azure, the shared access signature',
    config: (token) => ofAzure({ way: 'sas-token', token: new Secret(token) }),
  },
  {
    way: 'Google, the JSON file',
    config: (json) => ofGoogle({ way: 'json', json: new Secret(json) }),
  },
];
const denied = new BackupError('access-denied', 'put b/k failed, status 403');
const judge = (error: unknown, before: StoreConfig, resolve: () => Promise<RepositoryAccess>) =>
  unlessRotated(error, accessTo(before), resolve, 'backup-interrupted');

describe.for(WAYS)('a secret that the store refuses ($way)', ({ config }) => {
  it('fault 38: that was replaced while the work ran, the work can be done again', async () => {
    const judged = await judge(denied, config('old-one'), async () => accessTo(config('new-one')));
    expect(judged).toMatchObject({ code: 'backup-interrupted', retryable: true });
    // S1: neither of them is told.
    expect(JSON.stringify(judged) + String(judged)).not.toMatch(/old-one|new-one/);
  });

  it('fault 21: ends the work when it is the same', async () => {
    expect(await judge(denied, config('old-one'), async () => accessTo(config('old-one')))).toBe(denied);
  });

  it.for([
    {
      why: 'there is none any more',
      resolve: async () => {
        throw new BackupError('secret-missing', 'no secret');
      },
    },
    { why: 'it is a directory now', resolve: async () => accessTo({ kind: 'file', directory: '/r' }) },
  ])('fault 21: ends the work when $why', async ({ resolve }) => {
    expect(await judge(denied, config('old-one'), resolve)).toBe(denied);
  });

  it('says nothing about other failures', async () => {
    const other = new BackupError('store-unavailable', 'no answer');
    const replaced = async () => accessTo(config('new-one'));
    expect(await judge(other, config('old-one'), replaced)).toBe(other);
    expect(await wasRotated(other, accessTo(config('old-one')), replaced)).toBe(false);
  });
});

describe('an identity of the host that the store refuses', () => {
  it.for([
    { who: 'S3', config: { kind: 's3', bucket: 'b', prefix: '' } as const },
    { who: 'Azure, managed', config: ofAzure({ way: 'managed-identity' }) },
    { who: 'Azure, its chain', config: ofAzure({ way: 'default' }) },
    { who: 'Google, its chain', config: ofGoogle({ way: 'ambient' }) },
    { who: 'Google, nobody', config: ofGoogle() },
  ])(
    'fault 21: ends the work, since there is no secret that could be another one ($who)',
    async ({ config }) => {
      expect(await wasRotated(denied, accessTo(config), async () => accessTo(config))).toBe(false);
    },
  );

  it('fault 38: the work can be done again when a secret came into its place', async () => {
    const before = accessTo(ofAzure({ way: 'default' }));
    const now = accessTo(ofAzure({ way: 'sas-token', token: new Secret('sig') }));
    expect(await wasRotated(denied, before, async () => now)).toBe(true);
  });
});
