import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { createSecretResolver, secretVariable } from '../../operations/secret-resolver.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';

describe('secrets by reference', () => {
  let root = '';
  const reference = { namespace: 'shop', name: 's3-credentials', key: 'ACCESS_KEY_ID' };

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'walkeep-secrets-'));
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  const keep = (value: string) =>
    openStateDirectory(root).createSecret({
      namespace: 'shop',
      name: 's3-credentials',
      values: new Map([['ACCESS_KEY_ID', new Secret(value)]]),
    });
  const resolver = (environment: NodeJS.ProcessEnv = {}) =>
    createSecretResolver({ stateDirectory: root, environment });

  it('are found in the state directory, and again after they were rotated', async () => {
    const secrets = resolver();
    await keep('first');
    expect((await secrets.resolve(reference)).reveal()).toBe('first');
    await keep('second');
    expect((await secrets.resolve(reference)).reveal()).toBe('second');
  });

  it('are found as Kubernetes mounts them, which comes first, links and all', async () => {
    await keep('of the state directory');
    const mount = join(root, 'mount', 's3-credentials');
    await mkdir(join(mount, '..2026_01_21'), { recursive: true });
    await writeFile(join(mount, '..2026_01_21', 'ACCESS_KEY_ID'), 'mounted');
    await symlink('..2026_01_21', join(mount, '..data'));
    await symlink('..data/ACCESS_KEY_ID', join(mount, 'ACCESS_KEY_ID'));
    const secrets = resolver({ WALKEEP_SECRETS_DIR: join(root, 'mount') });
    expect((await secrets.resolve(reference)).reveal()).toBe('mounted');
  });

  it('are found in the environment, last', async () => {
    const variable = secretVariable('s3-credentials', 'ACCESS_KEY_ID');
    expect(variable).toBe('WALKEEP_SECRET_S3_CREDENTIALS_ACCESS_KEY_ID');
    const secrets = resolver({ [variable]: 'from the environment' });
    expect((await secrets.resolve(reference)).reveal()).toBe('from the environment');
    await keep('kept');
    expect((await secrets.resolve(reference)).reveal()).toBe('kept');
  });

  it('that are missing are told with every place that was looked at, and how to create them', async () => {
    await expect(resolver().resolve(reference)).rejects.toMatchObject({
      code: 'secret-missing',
      message: expect.stringMatching(
        /no secret "s3-credentials" with key "ACCESS_KEY_ID".*WALKEEP_SECRET_S3_CREDENTIALS_ACCESS_KEY_ID/,
      ),
      hint: 'create it on this host: walkeep create secret generic s3-credentials -n shop --from-file=ACCESS_KEY_ID=FILE',
    });
  });

  it('that have another key are told with the keys there are', async () => {
    await keep('x');
    await expect(resolver().resolve({ ...reference, key: 'ACCESS_KEYID' })).rejects.toThrow(
      /has no key "ACCESS_KEYID"; it holds ACCESS_KEY_ID .*did the manifest mean "ACCESS_KEY_ID"\?/,
    );
  });

  test.for([
    ['name', '../other'],
    ['name', '..'],
    ['key', '../../shadow'],
    ['key', '..'],
    ['namespace', '../x'],
  ] as const)('S2: the %s "%s" is refused', async ([field, value]) => {
    await expect(resolver().resolve({ ...reference, [field]: value })).rejects.toMatchObject({
      code: 'format-invalid',
    });
  });

  it('S2: a link that leaves its folder is not followed', async () => {
    const mount = join(root, 'mount', 's3-credentials');
    await mkdir(mount, { recursive: true });
    await symlink('/etc/passwd', join(mount, 'ACCESS_KEY_ID'));
    await expect(
      resolver({ WALKEEP_SECRETS_DIR: join(root, 'mount') }).resolve(reference),
    ).rejects.toMatchObject({
      code: 'secret-missing',
      message: expect.stringContaining('outside its folder'),
    });
  });

  it('a folder in the place of a value is told, not taken for absent', async () => {
    await mkdir(join(root, 'secrets/shop/s3-credentials/ACCESS_KEY_ID'), { recursive: true });
    await expect(resolver().resolve(reference)).rejects.toThrow('it is no file');
  });
});
