import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { CNPG_API, clusterSchema } from '../../manifests/cluster.ts';
import { checkCluster } from '../../operations/check-cluster.ts';
import { renewStoreRecord } from '../../operations/renew-store-record.ts';
import { claimOwner } from '../../repository/owner.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import { watchStore } from '../../workers/store-watch.ts';
import { startS3ServerDouble, type Oddities, type S3ServerDouble } from '../stores/s3-server-double.ts';

const { signal } = new AbortController();
const OURS = { systemId: '4711', segmentSize: 16 * 1024 * 1024 };
let double: S3ServerDouble;
const start = async (odd: Oddities) => (double = await startS3ServerDouble(odd));
const open = () => createRepository(openStore(double.config), 'pg');
const claimAndRenew = async (r: Repository) => {
  await claimOwner(r, OURS, signal);
  await renewStoreRecord(r, OURS, signal);
};
const stored = () =>
  JSON.parse(double.objects.get('pg/walkeep/store.json')?.bytes.toString() ?? '{}') as object;
const rewrite = (changes: object) =>
  open().store.put('pg/walkeep/store.json', Buffer.from(JSON.stringify({ ...stored(), ...changes })), {
    signal,
  });
const manifest = () =>
  clusterSchema.parse({
    apiVersion: CNPG_API,
    kind: 'Cluster',
    metadata: { name: 'pg', namespace: 'default' },
    spec: {
      instances: 1,
      storage: { size: '1Gi' },
      backup: {
        barmanObjectStore: { destinationPath: 's3://bucket', endpointURL: double.config.endpointUrl },
      },
    },
  });

beforeEach(() => {
  vi.stubEnv('AWS_ACCESS_KEY_ID', 'id');
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'secret');
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await double.close();
});

describe('a worker that starts', () => {
  const watched = async (systemId = OURS.systemId) => {
    const lines: { level: number; msg: string }[] = [];
    const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
    const asked = () => double.calls().filter((call) => call === 'GET pg/walkeep/owner.json').length;
    const before = asked();
    const watch = watchStore({
      manifest: async () => ({ manifest: manifest() }),
      resolver: { resolve: () => Promise.reject(new Error('no secret is named')) },
      identity: async () => ({ systemId }),
      hasDataDirectory: () => true,
      log,
      firstAfterMs: 0,
      everyMs: 20,
    });
    await vi.waitFor(() => expect(lines.length + asked()).toBeGreaterThan(before), { timeout: 5_000 });
    await new Promise((resolve) => setTimeout(resolve, 150));
    watch.stop();
    return lines;
  };

  it('E3: says once that the store ignores the condition', async () => {
    await start({ ignoresCondition: true });
    await claimAndRenew(open());
    const lines = await watched();
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({ level: 40, msg: expect.stringContaining('If-None-Match is ignored') });
  });

  it('E3: says once that the store is as it should be', async () => {
    await start({});
    await claimAndRenew(open());
    expect((await watched()).map(({ level }) => level)).toEqual([30]);
  });

  it('A4, E3: writes nothing into a repository that nobody, or somebody else, has claimed', async () => {
    await start({});
    expect(await watched()).toEqual([]);
    expect(double.objects.size).toBe(0);
    await claimOwner(open(), OURS, signal);
    await open().store.delete(['pg/walkeep/store.json'], { signal });
    const before = [...double.objects.keys()];
    expect(await watched('4712')).toEqual([]);
    expect([...double.objects.keys()]).toEqual(before);
  });
});

describe('what is known of a store', () => {
  it('E3: is tried again when a creation alone tried it, or a month ago, and not before', async () => {
    await start({});
    const r = open();
    await claimOwner(r, OURS, signal);
    expect(stored()).toMatchObject({ onlyCreation: true, checksums: 'unknown' });
    expect(await renewStoreRecord(r, OURS, signal)).toMatchObject({ ifAbsent: 'yes', checksums: 'yes' });
    expect(stored()).not.toHaveProperty('onlyCreation');
    const probes = () =>
      double.calls().filter((call) => call.includes('/probe/') && call.endsWith('/create')).length;
    const before = probes();
    await renewStoreRecord(r, OURS, signal);
    expect(probes()).toBe(before);
    // Two workers of different versions would try it against each other without end.
    await rewrite({ walkeep: '0.0.1' });
    await renewStoreRecord(r, OURS, signal);
    expect(probes()).toBe(before);
    await rewrite({ probedAt: new Date(Date.now() - 40 * 86_400_000).toISOString(), ifAbsent: 'no' });
    expect(await renewStoreRecord(open(), OURS, signal)).toMatchObject({ ifAbsent: 'yes' });
    expect(stored()).toMatchObject({ ifAbsent: 'yes' });
    expect(probes()).toBeGreaterThan(before);
  });

  it('E3: counts at once for whoever has the repository open', async () => {
    await start({ ignoresCondition: true });
    const r = open();
    await claimAndRenew(r);
    expect(r.store.features.ifAbsent).toBe(false);
    await rewrite({ ifAbsent: 'yes' });
    await renewStoreRecord(r, OURS, signal);
    expect(r.store.features.ifAbsent).toBe(true);
  });

  it('E3: is an item of walkeep check', async () => {
    await start({ ignoresCondition: true });
    await claimOwner(open(), OURS, signal);
    const nobody = () => Promise.reject(new Error('not here'));
    const items = await checkCluster(
      {
        manifest: manifest(),
        openRepository: async () => open(),
        connectPostgres: nobody,
        agentStatus: nobody,
        orchestration: nobody,
        archiveCommands: [],
        now: new Date(),
      },
      signal,
    );
    expect(items).toContainEqual(
      expect.objectContaining({
        item: 'create only',
        state: 'warning',
        found: expect.stringContaining('take turns'),
      }),
    );
  });
});
