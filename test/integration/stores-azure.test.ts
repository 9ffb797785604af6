import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { pushWal } from '../../operations/archive-wal.ts';
import { fetchWal } from '../../operations/fetch-wal.ts';
import { openClusterRepository } from '../../operations/open-repository.ts';
import { createAzureStore } from '../../stores/azure.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { openStore } from '../../stores/open-store.ts';
import type { AzureCredentials, AzureStoreConfig } from '../../stores/store-config.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { describeObjectStore } from '../stores/conformance.ts';
import { type Azurite, startAzurite } from '../support/azurite.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { runSuccessfully } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith, toolPath } from '../support/tools.ts';
import { makeSegment, MiB, SYSTEM_ID } from '../support/wal-segment.ts';

const { signal } = new AbortController();
const options = { signal };

const byKey = (azurite: Azurite, key = azurite.accountKey): AzureCredentials => ({
  way: 'account-key',
  account: azurite.account,
  key: new Secret(key),
});

const configOf = (azurite: Azurite, change: Partial<AzureStoreConfig> = {}): AzureStoreConfig => ({
  kind: 'azure',
  serviceUrl: azurite.serviceUrl,
  container: azurite.container,
  prefix: '',
  credentials: byKey(azurite),
  ...change,
});

describeWith('azurite', 'Azure', () => {
  describeObjectStore('Azure (azurite)', async () => {
    const azurite = await startAzurite();
    const wrongKey = Buffer.from('wrong-key-wrong-key').toString('base64');
    const expired = azurite.sas('racwdl', -60_000);
    return {
      store: createAzureStore(configOf(azurite, { prefix: 'team/a b' })),
      missing: createAzureStore(configOf(azurite, { container: 'no-such-container' })),
      denied: [
        {
          why: 'wrong key',
          store: createAzureStore(configOf(azurite, { credentials: byKey(azurite, wrongKey) })),
          secrets: [wrongKey, azurite.accountKey],
        },
        {
          why: 'SAS that has run out',
          store: createAzureStore(
            configOf(azurite, { credentials: { way: 'sas-token', token: new Secret(expired) } }),
          ),
          secrets: [expired, new URLSearchParams(expired).get('sig') ?? '', 'sig='],
        },
      ],
    };
  });

  it('is opened by each way to sign in', async () => {
    const azurite = await startAzurite();
    const ways: AzureCredentials[] = [
      byKey(azurite),
      { way: 'connection-string', connectionString: new Secret(azurite.connectionString) },
      { way: 'sas-token', token: new Secret(azurite.sas('racwdlt')) },
      {
        way: 'connection-string',
        connectionString: new Secret(
          `BlobEndpoint=${azurite.serviceUrl};SharedAccessSignature=${azurite.sas('racwdlt')}`,
        ),
      },
    ];
    for (const credentials of ways) {
      const store = openStore(configOf(azurite, { credentials, prefix: 'p' }));
      expect(store.url).toBe(azurite.destination('p'));
      for (const size of [5, 17 * MiB]) {
        await store.put('k/1', Buffer.alloc(size, 'x'), { signal, tags: { team: 'a' } });
        expect(await store.head('k/1', options)).toMatchObject({ sizeBytes: size });
      }
      expect(await keysOf(store)).toEqual(['k/1']);
      await store.delete(['k/1', 'k/2'], options);
      expect(await keysOf(store)).toEqual([]);
      await store.close();
    }
  });

  it('S1: what a signature does not allow is access-denied', async () => {
    const azurite = await startAzurite();
    const reading = createAzureStore(
      configOf(azurite, { credentials: { way: 'sas-token', token: new Secret(azurite.sas('rl')) } }),
    );
    expect(await keysOf(reading)).toEqual([]);
    for (const size of [5, 17 * MiB]) {
      const putting = reading.put('k', Buffer.alloc(size), options);
      await expect(putting).rejects.toMatchObject({ code: 'access-denied' });
    }
  });

  it('stores with different prefixes of one container do not see each other', async () => {
    const azurite = await startAzurite();
    const open = (prefix: string) => openStore(configOf(azurite, { prefix }));
    const [a, ab, all] = [open('a'), open('ab'), open('')];
    await a.put('x/1', Buffer.from('a'), options);
    await ab.put('x/1', Buffer.from('ab'), options);
    expect(await keysOf(a)).toEqual(['x/1']);
    expect(await keysOf(all)).toEqual(['a/x/1', 'ab/x/1']);
    expect(await textOf(all, 'ab/x/1')).toBe('ab');
  });

  it('tags objects, small and large, with what Azure takes for a tag', async () => {
    const azurite = await startAzurite();
    const store = createAzureStore(configOf(azurite));
    for (const size of [5, 17 * MiB]) {
      await store.put('tagged', Buffer.alloc(size), {
        signal,
        tags: { team: 'a+b=c @d', 'walkeep/kind': 'wal' },
      });
      const { tags } = await azurite.client().getBlobClient('tagged').getTags();
      expect(tags).toEqual({ team: 'a+b=c _d', 'walkeep/kind': 'wal' });
    }
  });

  it('E2: what a put that was given up has staged is no object, and is gone when another comes', async () => {
    const azurite = await startAzurite();
    const store = createAzureStore(configOf(azurite));
    const broken = async function* () {
      for (let n = 0; n < 40; n++) yield Buffer.alloc(MiB);
      // until the first block has come
      while ((await stagedAt(azurite, 'k')) === 0);
      throw new Error('read error on the disk');
    };
    await expect(store.put('k', broken(), options)).rejects.toThrow('read error on the disk');
    expect(await stagedAt(azurite, 'k')).toBeGreaterThan(0);
    expect(await store.head('k', options)).toBeUndefined();
    expect(await keysOf(store)).toEqual([]);
    await store.put('k', Buffer.alloc(20 * MiB), { signal, ifAbsent: true });
    expect(await stagedAt(azurite, 'k')).toBe(0);
    expect(await store.head('k', options)).toMatchObject({ sizeBytes: 20 * MiB });
  });

  it('D4: annotations with a slash too many are read and deleted', async () => {
    const azurite = await startAzurite();
    const store = openStore(configOf(azurite, { prefix: 'team' }));
    const name = 'orders/base/20260101T000000/annotations/keep';
    await azurite.client().getBlockBlobClient(`team//${name}`).upload('full', 4);
    const found: string[] = [];
    for await (const { key } of store.list('/orders/base/', options)) found.push(key);
    expect(found).toEqual([`/${name}`]);
    expect(await textOf(store, `/${name}`)).toBe('full');
    await store.delete([`/${name}`], options);
    expect(await azurite.client().getBlobClient(`team//${name}`).exists()).toBe(false);
  });

  it('is opened over https with an authority of its own, by the token of a managed identity', async () => {
    const certificate = await makeCertificate();
    const azurite = await startAzurite(certificate);
    const asked = await startTokenService();
    const store = openStore(
      configOf(azurite, {
        credentials: { way: 'managed-identity' },
        caPem: readFileSync(certificate.cert, 'utf8'),
      }),
    );
    for (const size of [5, 17 * MiB]) {
      await store.put('k/1', Buffer.alloc(size, 'x'), options);
      expect(await store.head('k/1', options)).toMatchObject({ sizeBytes: size });
    }
    expect(await keysOf(store)).toEqual(['k/1']);
    await store.delete(['k/1'], options);
    expect(asked).toHaveLength(1);
    await store.close();
  });

  it('comes back after the server was away', async () => {
    const azurite = await startAzurite();
    const store = openStore(configOf(azurite));
    await store.put('a', Buffer.from('a'), options);
    await azurite.stop();
    const bare = createAzureStore(configOf(azurite));
    await expect(bare.head('a', options)).rejects.toMatchObject({ code: 'store-unavailable' });
    const looking = store.head('a', options);
    await azurite.start();
    expect(await looking).toMatchObject({ sizeBytes: 1 });
  });
});

describeWith(['azurite', 'barman'], 'Azure and barman-cloud', () => {
  it('E5: each reads the WAL that the other archived, at the place that a Cluster names', async () => {
    const azurite = await startAzurite();
    const folder = makeTempDir('azure-wal');
    const barman = (program: string, ...args: string[]) =>
      runSuccessfully(
        join(toolPath('barman'), program),
        ['--cloud-provider', 'azure-blob-storage', ...args],
        { env: { PATH: process.env['PATH'], AZURE_STORAGE_CONNECTION_STRING: azurite.connectionString } },
      );
    const destination = azurite.destination('team/pg');
    const cluster = clusterSchema.parse({
      apiVersion: 'postgresql.cnpg.io/v1',
      kind: 'Cluster',
      metadata: { name: 'orders', namespace: 'shop' },
      spec: {
        backup: {
          barmanObjectStore: {
            destinationPath: destination,
            azureCredentials: { connectionString: { name: 'azure', key: 'CONNECTION' } },
          },
        },
      },
    });
    const repository = await openClusterRepository(cluster, {
      resolve: () => Promise.resolve(new Secret(`${azurite.connectionString}\n`)),
    });
    expect(repository.url).toBe(`${destination}/orders`);

    const [ours, theirs] = ['000000010000000000000001', '000000010000000000000002'];
    for (const name of [ours, theirs]) writeFileSync(join(folder, name), makeSegment(name));
    await pushWal(
      {
        codec: 'gzip',
        pgWalDirectory: folder,
        repository: () => Promise.resolve(repository),
        identity: () => Promise.resolve({ systemId: SYSTEM_ID, segmentSize: MiB }),
      },
      ours,
      options,
    );
    await barman('barman-cloud-wal-restore', destination, 'orders', ours, join(folder, 'by-barman'));
    expect(readFileSync(join(folder, 'by-barman')).equals(makeSegment(ours))).toBe(true);

    await barman('barman-cloud-wal-archive', '--gzip', destination, 'orders', join(folder, theirs));
    const fetched = join(folder, 'by-walkeep');
    const ports = { repository: () => Promise.resolve(repository) };
    expect(await fetchWal(ports, theirs, fetched, options)).toEqual({ outcome: 'fetched' });
    expect(readFileSync(fetched).equals(makeSegment(theirs))).toBe(true);
    await repository.close();
  });
});

/** For 127.0.0.1, and its own authority. */
async function makeCertificate(): Promise<{ cert: string; key: string }> {
  const cwd = makeTempDir('azurite-tls');
  const line =
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=azurite -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem';
  await runSuccessfully('openssl', line.split(' '), { cwd });
  return { cert: join(cwd, 'cert.pem'), key: join(cwd, 'key.pem') };
}

/** Azure's token service for machines, on loopback, with tokens as Azurite wants them. @returns what was asked */
async function startTokenService(): Promise<string[]> {
  const asked: string[] = [];
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const server = createServer((incoming, response) => {
    asked.push(incoming.url ?? '');
    const now = Math.floor(Date.now() / 1000);
    const claims = { iat: now, nbf: now - 60, exp: now + 3600 };
    const named = { iss: 'https://sts.windows.net/tenant/', aud: 'https://storage.azure.com' };
    const token = `${part({ alg: 'RS256', typ: 'JWT' })}.${part({ ...claims, ...named })}.c2ln`;
    response.setHeader('content-type', 'application/json');
    const expiry = { expires_in: '3600', expires_on: String(claims.exp) };
    response.end(
      JSON.stringify({ access_token: token, token_type: 'Bearer', resource: named.aud, ...expiry }),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onCleanUp(() => void server.close());
  const { port } = server.address() as AddressInfo;
  vi.stubEnv('AZURE_POD_IDENTITY_AUTHORITY_HOST', `http://127.0.0.1:${port}`);
  return asked;
}

async function keysOf(store: ObjectStore): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of store.list('', options)) found.push(key);
  return found;
}

async function textOf(store: ObjectStore, key: string): Promise<string> {
  const body = await store.get(key, options);
  return body ? (await collectBytes(body, MiB)).toString() : 'nothing';
}

/** How many blocks wait at a name to become an object. */
async function stagedAt(azurite: Azurite, name: string): Promise<number> {
  const answer = await azurite
    .client()
    .getBlockBlobClient(name)
    .getBlockList('uncommitted')
    .catch(() => undefined);
  return answer?.uncommittedBlocks?.length ?? 0;
}
