import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { clusterSchema } from '../../manifests/cluster.ts';
import { pushWal } from '../../operations/archive-wal.ts';
import { fetchWal } from '../../operations/fetch-wal.ts';
import { openClusterRepository } from '../../operations/open-repository.ts';
import { readKeeps, readKeep, releaseKeep } from '../../repository/keeps.ts';
import { createRepository } from '../../repository/repository.ts';
import { createGcsStore } from '../../stores/gcs.ts';
import { openStore } from '../../stores/open-store.ts';
import type { GcsStoreConfig } from '../../stores/store-config.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { describeObjectStore } from '../stores/conformance.ts';
import { refuse, startGcsDouble } from '../stores/gcs-double.ts';
import { startSignIn } from '../stores/gcs-sign-in.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { type GcsServer, startFakeGcs } from '../support/fake-gcs.ts';
import { runSuccessfully } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith, toolPath } from '../support/tools.ts';
import { makeSegment, MiB, SYSTEM_ID } from '../support/wal-segment.ts';

const configOf = (gcs: GcsServer, change: { bucket?: string; prefix?: string } = {}): GcsStoreConfig => ({
  kind: 'gs',
  bucket: change.bucket ?? gcs.bucket,
  prefix: change.prefix ?? '',
  endpointUrl: gcs.endpointUrl,
});

describeWith('fake-gcs-server', 'Google Cloud Storage', () => {
  describeObjectStore('Google Cloud Storage (fake-gcs-server)', async () => {
    const gcs = await startFakeGcs();
    return {
      store: createGcsStore(configOf(gcs, { prefix: 'team/a b' })),
      missing: createGcsStore(configOf(gcs, { bucket: 'no-such-bucket' })),
      denied: await deniedStores(),
    };
  });

  it('stores with different prefixes of one bucket do not see each other', async () => {
    const gcs = await startFakeGcs();
    const signal = new AbortController().signal;
    const [a, ab, all] = ['a', 'ab', ''].map((prefix) => openStore(configOf(gcs, { prefix })));
    await a!.put('x/1', Buffer.from('a'), { signal });
    await ab!.put('x/1', Buffer.from('ab'), { signal });
    const keys = async (store: typeof a) => {
      const found: string[] = [];
      for await (const { key } of store!.list('', { signal })) found.push(key);
      return found;
    };
    expect(await keys(a)).toEqual(['x/1']);
    expect(await keys(all)).toEqual(['a/x/1', 'ab/x/1']);
    expect((await collectBytes((await all!.get('ab/x/1', { signal }))!, 10)).toString()).toBe('ab');
  });

  it('D1, E5: what barman keeps of a destination with a trailing slash is seen, and released', async () => {
    const gcs = await startFakeGcs();
    const signal = new AbortController().signal;
    // As barman writes it: the slash of the destination, and one more.
    const barmans = createGcsStore(configOf(gcs, { prefix: 'team/' }));
    await barmans.put('orders/base/20260101T000000/annotations/keep', Buffer.from('full'), { signal });
    const r = createRepository(openStore(configOf(gcs, { prefix: 'team' })), 'orders');
    expect([...(await readKeeps(r, signal))]).toEqual([['20260101T000000', 'full']]);
    expect(await readKeep(r, '20260101T000000', signal)).toBe('full');
    await releaseKeep(r, '20260101T000000', signal);
    expect(await readKeep(r, '20260101T000000', signal)).toBeUndefined();
  });

  it('keeps tags as metadata and the checksum of what was sent, of objects small and large', async () => {
    const gcs = await startFakeGcs();
    const signal = new AbortController().signal;
    const store = createGcsStore(configOf(gcs));
    const tags = { team: 'a+b=c @d', 'walkeep/kind': 'wal' };
    for (const size of [5, 17 * 1024 * 1024]) {
      await store.put('tagged', Buffer.alloc(size), { signal, tags });
      const record = await gcs.record('tagged');
      expect(record).toMatchObject({ size: String(size), metadata: tags, crc32c: expect.any(String) });
    }
  });
});

/** The emulator lets everybody in: a scripted server refuses. */
async function deniedStores() {
  const signIn = await startSignIn();
  const closed = await startGcsDouble((_, response) => refuse(response, 403, 'forbidden'));
  const expired = await startGcsDouble((_, response) => refuse(response, 401, 'authError'));
  onCleanUp(async () => void (await Promise.all([signIn, closed, expired].map((server) => server.close()))));
  const credentials = { way: 'json', json: signIn.serviceAccount } as const;
  const secrets = [...signIn.keyLines, 'canary'];
  return [
    { why: 'no rights', store: closed.store({ credentials }), secrets },
    { why: 'a token that is refused', store: expired.store({ credentials }), secrets },
    { why: 'nobody', store: closed.store(), secrets },
  ];
}

describeWith(['fake-gcs-server', 'barman'], 'Google Cloud Storage and barman-cloud', () => {
  it('E5: each reads the WAL that the other archived, at the place that a Cluster names', async () => {
    const gcs = await startFakeGcs();
    const { signal } = new AbortController();
    const folder = makeTempDir('gcs-wal');
    const destination = `gs://${gcs.bucket}/team/pg`;
    const barman = (program: string, ...args: string[]) =>
      runSuccessfully(
        join(toolPath('barman'), program),
        ['--cloud-provider', 'google-cloud-storage', ...args],
        { env: { PATH: process.env['PATH'], ...gcs.environment } },
      );
    const cluster = clusterSchema.parse({
      apiVersion: 'postgresql.cnpg.io/v1',
      kind: 'Cluster',
      metadata: { name: 'orders', namespace: 'shop' },
      spec: {
        backup: { barmanObjectStore: { destinationPath: destination, endpointURL: gcs.endpointUrl } },
      },
    });
    const repository = await openClusterRepository(cluster, {
      resolve: () => Promise.reject(new Error('there is no secret')),
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
      { signal },
    );
    await barman('barman-cloud-wal-restore', destination, 'orders', ours, join(folder, 'by-barman'));
    expect(readFileSync(join(folder, 'by-barman')).equals(makeSegment(ours))).toBe(true);

    await barman('barman-cloud-wal-archive', '--gzip', destination, 'orders', join(folder, theirs));
    const fetched = join(folder, 'by-walkeep');
    const ports = { repository: () => Promise.resolve(repository) };
    expect(await fetchWal(ports, theirs, fetched, { signal })).toEqual({ outcome: 'fetched' });
    expect(readFileSync(fetched).equals(makeSegment(theirs))).toBe(true);
    await repository.close();
  });
});
