import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { parseCloudArguments } from '../../cli/cloud-arguments.ts';
import { ARCHIVE_OPTIONS } from '../../cli/cloud-options.ts';
import { findCloudPlace } from '../../cli/cloud-store.ts';
import { toPlain, type PlainStoreConfig } from '../../stores/store-config.ts';
import { makeTempDir } from '../support/temp.ts';

const SECRET = 'canary-0f8b2c';

async function config(
  environment: Record<string, string>,
  ...argv: string[]
): Promise<PlainStoreConfig & Record<string, unknown>> {
  const args = parseCloudArguments(argv, ARCHIVE_OPTIONS, '');
  return { ...toPlain(await findCloudPlace(args.operands, args, environment).config()) };
}

const refusal = (environment: Record<string, string>, ...argv: string[]) =>
  config(environment, ...argv).then(
    () => {
      throw new Error('it was not refused');
    },
    (error: unknown) => error as Error & { code: string },
  );

const pem = (): string => {
  const path = join(makeTempDir('ca'), 'ca.pem');
  writeFileSync(path, '-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n');
  return path;
};

afterEach(() => {
  vi.unstubAllEnvs();
});

describe("a bucket named by barman's arguments", () => {
  const keys = { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: SECRET };

  it('has the prefix without slashes, and the keys and region of the environment', async () => {
    const environment = { ...keys, AWS_SESSION_TOKEN: 't', AWS_DEFAULT_REGION: 'eu-west-1' };
    expect(await config(environment, 's3://bucket/a/b/', 'srv')).toEqual({
      kind: 's3',
      bucket: 'bucket',
      prefix: 'a/b',
      region: 'eu-west-1',
      credentials: { accessKeyId: 'id', secretAccessKey: SECRET, sessionToken: 't' },
    });
  });

  it("takes the endpoint of the argument, then of the environment, unless that isn't to be heeded", async () => {
    const environment = { ...keys, AWS_ENDPOINT_URL: 'http://a:1', AWS_ENDPOINT_URL_S3: 'http://b:2' };
    const endpoint = async (more: Record<string, string>, ...argv: string[]) =>
      (await config({ ...environment, ...more }, ...argv, 's3://b', 's'))['endpointUrl'];
    expect(await endpoint({}, '--endpoint-url', 'http://c:3')).toBe('http://c:3');
    expect(await endpoint({})).toBe('http://b:2');
    expect(await endpoint({ AWS_ENDPOINT_URL_S3: '' })).toBe('http://a:1');
    expect(await endpoint({ AWS_IGNORE_CONFIGURED_ENDPOINT_URLS: 'true' })).toBeUndefined();
  });

  it('takes a profile for the keys, and the region of that profile', async () => {
    const file = join(makeTempDir('aws'), 'config');
    writeFileSync(file, '[profile there]\nregion = eu-north-1\n');
    vi.stubEnv('AWS_CONFIG_FILE', file);
    vi.stubEnv('AWS_ACCESS_KEY_ID', 'id');
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', SECRET);
    vi.stubEnv('AWS_PROFILE', '');
    for (const name of ['AWS_REGION', 'AWS_DEFAULT_REGION']) vi.stubEnv(name, undefined);
    const args = parseCloudArguments(['-P', 'there', 's3://b', 's'], ARCHIVE_OPTIONS, '');
    const found = await findCloudPlace(args.operands, args, process.env).config();
    expect(found).toMatchObject({ kind: 's3', region: 'eu-north-1' });
    expect(found).not.toHaveProperty('credentials');
    expect(process.env).toMatchObject({ AWS_PROFILE: 'there' });
    expect(process.env).not.toHaveProperty('AWS_SECRET_ACCESS_KEY');
  });

  it('has the style of addressing, the key of KMS and the limit for silence of its arguments', async () => {
    const argv = ['--addressing-style', 'virtual', '--endpoint-url', 'http://h', '--read-timeout', '90'];
    const found = await config(keys, ...argv, '-e', 'aws:kms', '--sse-kms-key-id', 'arn:k', 's3://b', 's');
    expect(found).toMatchObject({
      endpointUrl: 'http://h',
      addressingStyle: 'virtual',
      readTimeoutMs: 90_000,
      kmsKeyId: 'arn:k',
    });
    for (const name of ['addressingStyle', 'readTimeoutMs', 'kmsKeyId'])
      expect(await config(keys, '--read-timeout', '0', 's3://b', 's')).not.toHaveProperty(name);
  });

  it('trusts the authority that AWS_CA_BUNDLE names', async () => {
    const found = await config({ AWS_CA_BUNDLE: pem(), REQUESTS_CA_BUNDLE: '/nowhere' }, 's3://b', 's');
    expect(found['caPem']).toContain('BEGIN CERTIFICATE');
    expect((await refusal({ AWS_CA_BUNDLE: '/nowhere.pem' }, 's3://b', 's')).message).toContain(
      'AWS_CA_BUNDLE',
    );
    expect((await refusal({ AWS_CA_BUNDLE: '/dev/null' }, 's3://b', 's')).code).toBe('config-invalid');
  });

  it('is refused with half of a pair of keys', async () => {
    expect((await refusal({ AWS_SECRET_ACCESS_KEY: SECRET }, 's3://b', 's')).code).toBe('secret-missing');
  });
});

describe("a container of Azure named by barman's arguments", () => {
  const url = 'https://acme.blob.core.windows.net/backups/pg';
  const all = {
    AZURE_STORAGE_CONNECTION_STRING: 'c',
    AZURE_STORAGE_SAS_TOKEN: 's',
    AZURE_STORAGE_KEY: 'k',
  };
  const credentials = async (environment: Record<string, string>, ...argv: string[]) =>
    (await config(environment, ...argv, url, 'srv'))['credentials'];

  it("takes credentials in barman's order", async () => {
    expect(await credentials(all, '--azure-credential', 'managed-identity')).toEqual({
      way: 'managed-identity',
    });
    expect(await credentials(all, '--credential', 'default')).toEqual({ way: 'default' });
    expect(await credentials(all, '--azure-credential', 'azure-cli')).toEqual({ way: 'azure-cli' });
    expect(await credentials(all)).toEqual({ way: 'connection-string', connectionString: 'c' });
    expect(await credentials({ ...all, AZURE_STORAGE_CONNECTION_STRING: '' })).toEqual({
      way: 'sas-token',
      token: 's',
    });
    expect(await credentials({ AZURE_STORAGE_KEY: 'k' })).toEqual({
      way: 'account-key',
      account: 'acme',
      key: 'k',
    });
    expect(await credentials({})).toEqual({ way: 'default' });
  });

  it('is opened at its host, or at the emulator; --endpoint-url is passed over, as by barman', async () => {
    expect(
      await config({}, '--endpoint-url', 'http://x', '--encryption-scope', 'e', url, 'srv'),
    ).toMatchObject({
      kind: 'azure',
      serviceUrl: 'https://acme.blob.core.windows.net',
      container: 'backups',
      prefix: 'pg',
      encryptionScope: 'e',
    });
    const emulator = await config(all, 'http://127.0.0.1:10000/devstoreaccount1/box/pg', 'srv');
    expect(emulator).toMatchObject({
      serviceUrl: 'http://127.0.0.1:10000/devstoreaccount1',
      container: 'box',
    });
  });
});

describe('other places', () => {
  it('takes gs:// and the address in the console, with a key of KMS', async () => {
    for (const url of ['gs://b/p', 'https://console.cloud.google.com/storage/browser/b/p/'])
      expect(
        await config({}, '--cloud-provider', 'google-cloud-storage', '--kms-key-name', 'k', url, 's'),
      ).toEqual({ kind: 'gs', bucket: 'b', prefix: 'p', kmsKeyName: 'k' });
  });

  it('takes a directory', async () => {
    expect(await config({}, 'file:///srv/wal', 's')).toEqual({ kind: 'file', directory: '/srv/wal' });
  });

  it.for([
    [['', 's'], 'the URL is empty'],
    [['srv', 's'], 'the URL is no address'],
    [[`"x" ${SECRET}`, 's'], 'the URL is no address'],
    [['ftp://b/p', 's'], 'is no kind of store'],
    [[`s3://id:${SECRET}@b/p`, 's'], 'the URL holds a user name or password'],
    [[`DefaultEndpointsProtocol=https;AccountKey=${SECRET}`, 's'], 'the URL is no address'],
    [[`https://acme.blob.core.windows.net/c?sig=${SECRET}`, 's'], 'the URL holds ? or #'],
    [['s3://b//p', 's'], 'the URL holds //'],
    [['s3://b/p', ''], 'the server name is empty'],
    [['s3://b/p', '../x'], 'the server name holds a folder "." or ".."'],
    [['s3://b/p', '/x'], 'the server name holds //'],
    [['--cloud-provider', 'azure-blob-storage', 's3://b/p', 's'], 'the URL is of another'],
    [['--cloud-provider', 'aws-s3', 'gs://b/p', 's'], 'the URL is of another'],
    [['--endpoint-url', SECRET, 's3://b', 's'], 'the endpoint URL is no address'],
    [
      ['--endpoint-url', `http://u:${SECRET}@h`, 's3://b', 's'],
      'the endpoint URL holds a user name or password',
    ],
    [['--endpoint-url', '', 's3://b', 's'], 'the endpoint URL is no address'],
    [['-P', '', 's3://b', 's'], '--aws-profile is empty'],
  ] as const)('S1: %j is refused without a word of what may be secret: %s', async ([argv, message]) => {
    const error = await refusal({}, ...argv);
    expect(error.code).toBe('usage');
    expect(error.message).toContain(message);
    expect(JSON.stringify([error.message, error])).not.toContain(SECRET);
  });
});
