import { execFileSync } from 'node:child_process';
import {
  chmod,
  chown,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { backupSchema } from '../../manifests/backup.ts';
import { clusterSchema, type ClusterManifest } from '../../manifests/cluster.ts';
import {
  findStateDirectory,
  openStateDirectory,
  requireCluster,
  type StateDirectory,
} from '../../operations/state-directory.ts';

const asRoot = process.getuid?.() === 0;

function cluster(name = 'orders', destinationPath = 'file:///srv/backups'): ClusterManifest {
  return clusterSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'Cluster',
    metadata: { name, namespace: 'shop' },
    spec: { backup: { barmanObjectStore: { destinationPath } } },
  });
}

function backup(target?: 'primary') {
  return backupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'Backup',
    metadata: { name: 'before-migration', namespace: 'shop' },
    spec: { cluster: { name: 'orders' }, ...(target && { target }) },
  });
}

describe('the state directory', () => {
  let root = '';
  let state: StateDirectory;

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'walkeep-state-'));
    state = openStateDirectory(join(root, 'state'));
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  const clusterFile = () => join(state.root, 'clusters/shop/orders.json');

  it('gives back the Cluster that was applied, with a revision that grows when it changes', async () => {
    expect(await state.clusters.read('shop', 'orders')).toBeUndefined();
    expect(await state.clusters.save(cluster())).toMatchObject({ outcome: 'created', revision: 1 });
    expect(await state.clusters.save(cluster())).toMatchObject({ outcome: 'unchanged', revision: 1 });
    expect(await state.clusters.save(cluster('orders', 'file:///srv/other'))).toMatchObject({
      outcome: 'changed',
      revision: 2,
    });
    expect(await state.clusters.read('shop', 'orders')).toMatchObject({
      revision: 2,
      manifest: cluster('orders', 'file:///srv/other'),
    });
  });

  it('takes the revision of the keeper where it decides', async () => {
    await state.clusters.save(cluster(), { revision: 7 });
    expect(await state.clusters.save(cluster(), { revision: 9 })).toMatchObject({
      outcome: 'changed',
      revision: 9,
    });
    expect(await state.clusters.save(cluster(), { revision: 9 })).toMatchObject({ outcome: 'unchanged' });
  });

  it('an unchanged manifest writes nothing', async () => {
    await state.clusters.save(cluster());
    const before = await lstat(clusterFile());
    await state.clusters.save(cluster());
    expect((await lstat(clusterFile())).ino).toBe(before.ino);
  });

  it('S2: files are 0600 in folders of 0700, whatever the umask', async () => {
    const umask = process.umask(0);
    try {
      await state.clusters.save(cluster());
      await state.createSecret({ namespace: 'shop', name: 's3', values: new Map([['A', new Secret('x')]]) });
    } finally {
      process.umask(umask);
    }
    const modes = async (path: string) => ((await lstat(join(state.root, path))).mode & 0o777).toString(8);
    expect(await modes('')).toBe('700');
    for (const folder of ['clusters', 'clusters/shop', 'secrets/shop/s3'])
      expect(await modes(folder)).toBe('700');
    for (const file of ['clusters/shop/orders.json', 'secrets/shop/s3/A'])
      expect(await modes(file)).toBe('600');
  });

  it.skipIf(!asRoot)(
    'what root applies belongs to the owner of the directory, so that the worker can read it',
    async () => {
      await mkdir(state.root);
      await chown(state.root, 65534, 65534);
      await state.createSecret({ namespace: 'shop', name: 's3', values: new Map([['A', new Secret('x')]]) });
      for (const path of ['secrets', 'secrets/shop/s3', 'secrets/shop/s3/A']) {
        expect((await lstat(join(state.root, path))).uid).toBe(65534);
      }
    },
  );

  it('lists what was applied, and a damaged file as a problem instead of failing for all', async () => {
    await state.clusters.save(cluster('orders'));
    await state.clusters.save(cluster('stock'));
    await writeFile(clusterFile(), '{"version": 1');
    const listed = await state.clusters.list();
    expect(
      listed.map(({ name, applied, problem }) => [name, applied?.revision, problem !== undefined]),
    ).toEqual([
      ['orders', undefined, true],
      ['stock', 1, false],
    ]);
    await expect(state.clusters.read('shop', 'orders')).rejects.toMatchObject({ code: 'config-invalid' });
    expect(await state.clusters.list('nowhere')).toEqual([]);
  });

  it('refuses a file that holds another object than its name says', async () => {
    await state.clusters.save(cluster('orders'));
    const text = await readFile(clusterFile(), 'utf8');
    await writeFile(join(state.root, 'clusters/shop/stock.json'), text);
    await expect(state.clusters.read('shop', 'stock')).rejects.toThrow('is damaged');
  });

  it('leaves no temporary file behind, and removes what a dead process left', async () => {
    await state.clusters.save(cluster());
    const folder = join(state.root, 'clusters/shop');
    const old = join(folder, '.tmp-1-dead');
    const fresh = join(folder, '.tmp-1-alive');
    await writeFile(old, 'half');
    await writeFile(fresh, 'half');
    const yesterday = new Date(Date.now() - 86_400_000);
    await utimes(old, yesterday, yesterday);
    await state.clusters.save(cluster('stock'));
    expect((await readdir(folder)).toSorted()).toEqual(['.tmp-1-alive', 'orders.json', 'stock.json']);
    expect(await state.clusters.list()).toHaveLength(2);
  });

  test.for(['..', '../x', '/etc', 'a/b', '', '.', 'a\u0000b', 'A'])(
    'S2: the name "%s" is refused',
    async (name) => {
      await expect(state.clusters.read('shop', name)).rejects.toMatchObject({ code: 'format-invalid' });
      await expect(state.clusters.read(name, 'orders')).rejects.toMatchObject({ code: 'format-invalid' });
      const values = new Map([['A', new Secret('x')]]);
      await expect(state.createSecret({ namespace: 'shop', name, values })).rejects.toMatchObject({
        code: 'format-invalid',
      });
      await expect(
        state.createSecret({
          namespace: 'shop',
          name: 's3',
          values: new Map([[name === 'A' ? '../A' : name, new Secret('x')]]),
        }),
      ).rejects.toMatchObject({ code: 'format-invalid' });
    },
  );

  it('S2: does not write through a link, nor read one', async () => {
    await mkdir(join(state.root, 'clusters'), { recursive: true });
    await mkdir(join(root, 'elsewhere'));
    await symlink(join(root, 'elsewhere'), join(state.root, 'clusters/shop'));
    await expect(state.clusters.save(cluster())).rejects.toThrow('is in the way');
    expect(await readdir(join(root, 'elsewhere'))).toEqual([]);
    await rm(join(state.root, 'clusters/shop'));
    await mkdir(join(state.root, 'clusters/shop'));
    const other = openStateDirectory(join(root, 'other'));
    await other.clusters.save(cluster());
    await symlink(join(other.root, 'clusters/shop/orders.json'), clusterFile());
    await expect(state.clusters.read('shop', 'orders')).rejects.toMatchObject({ code: 'config-invalid' });
  });

  it('does not wait for ever on a pipe', async () => {
    await mkdir(join(state.root, 'clusters/shop'), { recursive: true });
    execFileSync('mkfifo', [clusterFile()]);
    await expect(state.clusters.read('shop', 'orders')).rejects.toThrow('is no ordinary file');
  });

  it('a Backup never changes under its name', async () => {
    await state.backups.save(backup());
    expect(await state.backups.save(backup())).toMatchObject({ outcome: 'unchanged' });
    await expect(state.backups.save(backup('primary'))).rejects.toMatchObject({
      code: 'manifest-invalid',
      message: 'Backup shop/before-migration exists with another spec',
    });
  });

  it('names the clusters there are when asked for one that is not', async () => {
    await state.clusters.save(cluster());
    await expect(requireCluster(state, 'shop', 'stock')).rejects.toMatchObject({
      code: 'cluster-unknown',
      message: 'no Cluster shop/stock is applied on this host (there are: shop/orders)',
    });
    expect(await requireCluster(state, 'shop', 'orders')).toMatchObject({ revision: 1 });
  });

  it('a secret replaces all of the one before, and an equal one nothing', async () => {
    const create = (values: Record<string, string>) =>
      state.createSecret({
        namespace: 'shop',
        name: 's3',
        values: new Map(Object.entries(values).map(([key, value]) => [key, new Secret(value)])),
      });
    expect(await create({ A: '1', B: '2', '.dockerconfigjson': '{}' })).toMatchObject({ outcome: 'created' });
    expect(await create({ A: '1', B: '2', '.dockerconfigjson': '{}' })).toMatchObject({
      outcome: 'unchanged',
    });
    const { outcome, directory } = await create({ A: '3\n', C: '4' });
    expect(outcome).toBe('changed');
    expect((await readdir(directory)).toSorted()).toEqual(['A', 'C']);
    expect(await readFile(join(directory, 'A'), 'utf8')).toBe('3\n');
  });

  it.skipIf(asRoot)('says what to do where it may not write', async () => {
    await mkdir(state.root);
    await chmod(state.root, 0o500);
    await expect(state.clusters.save(cluster())).rejects.toMatchObject({
      code: 'config-invalid',
      hint: expect.stringContaining('WALKEEP_STATE'),
    });
  });
});

describe('where the state directory is', () => {
  it('is what WALKEEP_STATE says', async () => {
    expect(await findStateDirectory({ WALKEEP_STATE: '/srv/state' })).toBe('/srv/state');
  });

  it.skipIf(!asRoot)('is the system one for root', async () => {
    expect(await findStateDirectory({ HOME: '/root', XDG_STATE_HOME: '/x' })).toBe('/var/lib/walkeep');
  });

  it.skipIf(asRoot)("is the user's for everybody else", async () => {
    expect(await findStateDirectory({ HOME: '/home/x' })).toBe('/home/x/.local/state/walkeep');
    expect(await findStateDirectory({ HOME: '/home/x', XDG_STATE_HOME: '/s' })).toBe('/s/walkeep');
  });
});
