import { expect, it, test } from 'vitest';
import { clusterSchema } from '../../manifests/cluster.ts';
import { walSpeedItem } from '../../operations/check-wal-speed.ts';

const MIB = 1024 * 1024;

function manifest(compression: string | undefined) {
  const wal = compression === undefined ? {} : { wal: { compression } };
  return clusterSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'Cluster',
    metadata: { name: 'pg' },
    spec: { backup: { barmanObjectStore: { destinationPath: 's3://b', ...wal } } },
  });
}

test.for([
  ['xz', 16, 'ok'],
  ['xz', 64, 'ok'],
  ['xz', 128, 'warning'],
  ['bzip2', 128, 'ok'],
  ['bzip2', 512, 'warning'],
  ['bzip2', 1024, 'warning'],
] as const)('A5: check says of %s with segments of %d MiB: %s', ([compression, size, state]) => {
  const item = walSpeedItem(manifest(compression), size * MIB);
  expect(item).toMatchObject({ item: 'WAL compression', state });
  expect(item?.found).toContain(`segment of ${size} MiB`);
  expect(item?.todo === undefined).toBe(state === 'ok');
});

it('says nothing of the others, however large the segments are', () => {
  for (const compression of [undefined, 'gzip', 'lz4', 'zstd', 'snappy'])
    expect(walSpeedItem(manifest(compression), 1024 * MIB), compression).toBeUndefined();
});
