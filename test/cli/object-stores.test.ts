import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { applyCommand } from '../../cli/apply.ts';
import { getCommand } from '../../cli/get.ts';
import {
  clusterStatusQuery,
  clusterWorkflowId,
  manifestQuery,
  walArchivingWorkflowId,
} from '../../workflows/interface.ts';
import { makeTempDir } from '../support/temp.ts';
import { eventually, newWorld, startInstance, startTemporal } from '../workflows/fake-cluster.ts';

let temporal: TestWorkflowEnvironment;
beforeAll(async () => {
  temporal = await startTemporal();
  vi.stubEnv('TEMPORAL_ADDRESS', temporal.address);
  vi.stubEnv('TEMPORAL_NAMESPACE', 'default');
}, 60_000);
afterEach(() => vi.restoreAllMocks());
afterAll(async () => {
  vi.unstubAllEnvs();
  await temporal?.teardown();
});

const PLUGIN = 'barman-cloud.cloudnative-pg.io';
const STORE = (destinationPath: string, retention = '30d') => `---
apiVersion: barmancloud.cnpg.io/v1
kind: ObjectStore
metadata: {name: store}
spec: {configuration: {destinationPath: ${destinationPath}}, retentionPolicy: ${retention}}
`;
const CLUSTER = (name: string) => `---
apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata: {name: ${name}}
spec:
  plugins: [{name: ${PLUGIN}, isWALArchiver: true, parameters: {barmanObjectName: store, serverName: shop}}]
`;
const BACKUP = (name: string, cluster: string) => `---
apiVersion: postgresql.cnpg.io/v1
kind: Backup
metadata: {name: ${name}}
spec: {cluster: {name: ${cluster}}, method: plugin, pluginConfiguration: {name: ${PLUGIN}}}
`;

/** A host that applies, and a cluster with its worker elsewhere. */
async function startWorld(cluster: string, queues?: ['cluster', 'instance']) {
  const world = newWorld();
  const worker = await startInstance({ connection: temporal.nativeConnection }, world, {
    cluster,
    instance: `${cluster}-1`,
    ...(queues && { queues }),
  });
  const keeper = temporal.client.workflow.getHandle(clusterWorkflowId('default', cluster));
  return {
    world,
    keeper,
    stop: async () => {
      for (const id of [clusterWorkflowId('default', cluster), walArchivingWorkflowId('default', cluster)])
        await temporal.client.workflow
          .getHandle(id)
          .terminate()
          .catch(() => undefined);
      await worker.stop();
    },
  };
}

/** @returns what it said */
async function apply(state: string, text: string, ...more: string[]): Promise<string> {
  const file = join(makeTempDir('manifests'), 'all.yaml');
  writeFileSync(file, text);
  return said(() => applyCommand().parseAsync(['-f', file, '--state', state, ...more], { from: 'user' }));
}

async function said(work: () => Promise<unknown>): Promise<string> {
  const written: string[] = [];
  const keep = (text: string | Uint8Array) => written.push(String(text)) > 0;
  vi.spyOn(process.stdout, 'write').mockImplementation(keep);
  vi.spyOn(process.stderr, 'write').mockImplementation(keep);
  try {
    await work();
  } finally {
    vi.restoreAllMocks();
  }
  return written.join('');
}

describe('walkeep apply of an ObjectStore', () => {
  it('with its Cluster and a Backup by the plugin: the keeper has what the direct way would say, and backs up', async () => {
    const { world, keeper, stop } = await startWorld('direct');
    const state = makeTempDir('state');
    try {
      const text = STORE('s3://first') + CLUSTER('direct') + BACKUP('by-plugin', 'direct');
      const dry = await apply(state, text, '--dry-run');
      expect(dry).toContain('objectstore.barmancloud.cnpg.io/store created (dry run)');
      expect(dry).toContain(
        'WAL and backups go to s3://first (server "shop"), as ObjectStore "store" says; kept for 30d',
      );
      await expect(keeper.describe()).rejects.toMatchObject({ name: 'WorkflowNotFoundError' });
      expect(await apply(state, text)).toContain('store created (kept on this host)');
      expect((await keeper.query(manifestQuery)).manifest.spec).toMatchObject({
        plugins: [{ parameters: { barmanObjectName: 'store' } }],
        backup: {
          barmanObjectStore: { destinationPath: 's3://first', serverName: 'shop' },
          retentionPolicy: '30d',
        },
      });
      await eventually('the Backup is completed', async () =>
        (await keeper.query(clusterStatusQuery)).backups.some(({ phase }) => phase === 'completed'),
      );
      expect(world.story).toContain('direct-1: copy by-plugin attempt 1');
      const stores = await said(() =>
        getCommand().parseAsync(['objectstores', '--state', state], { from: 'user' }),
      );
      expect(stores).toMatch(/^store +s3:\/\/first +30d *$/m);
      const wide = await said(() =>
        getCommand().parseAsync(['objectstores', '-o', 'wide', '--state', state], { from: 'user' }),
      );
      expect(wide).toMatch(/ENDPOINT +WAL +DATA +SECRETS\n/);
      expect(wide).toMatch(/^store .* none +none$/m);
      // The same again changes nothing, and neither does what get prints.
      expect(await apply(state, text)).toMatch(
        /store unchanged[^]*cluster\S+\/direct unchanged[^]*by-plugin unchanged/,
      );
      const printed = await said(() =>
        getCommand().parseAsync(['clusters', 'direct', '-o', 'yaml', '--state', state], { from: 'user' }),
      );
      expect(printed).not.toContain('s3://first');
      expect(await apply(state, printed)).toContain('cluster.postgresql.cnpg.io/direct unchanged');
    } finally {
      await stop();
    }
  }, 90_000);

  it('alone, when it has changed: it reaches the Clusters that refer to it, and no others', async () => {
    const { keeper, stop } = await startWorld('referring');
    const other = await startWorld('other', ['cluster', 'instance']);
    const state = makeTempDir('state');
    const revisions = async () =>
      Promise.all([keeper, other.keeper].map(async (one) => (await one.query(manifestQuery)).revision));
    try {
      await apply(state, STORE('s3://first') + CLUSTER('referring'));
      await apply(
        state,
        'apiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata: {name: other}\nspec: {backup: {barmanObjectStore: {destinationPath: file:///srv}}}\n',
      );
      const dry = await apply(state, STORE('s3://second'), '--dry-run');
      expect(dry).toContain('store configured (dry run)');
      expect(dry).toContain('cluster.postgresql.cnpg.io/referring configured (dry run)');
      expect(await revisions()).toEqual([1, 1]);
      // From another host: there, too, nobody knows the Cluster.
      const elsewhere = makeTempDir('elsewhere');
      const told = await apply(elsewhere, STORE('s3://second', '8w'));
      expect(told).toContain('cluster.postgresql.cnpg.io/referring configured');
      expect(told).not.toContain('/other');
      expect(await revisions()).toEqual([2, 1]);
      expect((await keeper.query(manifestQuery)).manifest.spec.backup).toMatchObject({
        barmanObjectStore: { destinationPath: 's3://second', serverName: 'shop' },
        retentionPolicy: '8w',
      });
      expect(await apply(elsewhere, STORE('s3://second', '8w'))).toContain('referring unchanged');
    } finally {
      await stop();
      await other.stop();
    }
  }, 90_000);

  it('D3: with a window that keeps less is asked about first, and the Clusters it reaches are named; so is a Cluster’s own', async () => {
    const first = await startWorld('first');
    const second = await startWorld('second', ['cluster', 'instance']);
    const state = makeTempDir('state');
    const windows = async () =>
      Promise.all(
        [first.keeper, second.keeper].map(
          async (one) => (await one.query(manifestQuery)).manifest.spec.backup?.retentionPolicy,
        ),
      );
    try {
      await apply(state, STORE('s3://first') + CLUSTER('first') + CLUSTER('second'));
      const what =
        'first (of ObjectStore "store"): 30d -> 7d; second (of ObjectStore "store"): 30d -> 7d): backups that no rule keeps';
      const dry = await apply(state, STORE('s3://first', '7d'), '--dry-run');
      expect(dry).toContain(what);
      expect(dry).toContain('asked about first; a script says --yes');
      await expect(apply(state, STORE('s3://first', '7d'))).rejects.toMatchObject({
        code: 'usage',
        message: expect.stringContaining(what),
        hint: expect.stringContaining('--yes'),
      });
      expect(await windows()).toEqual(['30d', '30d']);
      expect(
        await said(() => getCommand().parseAsync(['objectstores', '--state', state], { from: 'user' })),
      ).toContain('30d');
      expect(await apply(state, STORE('s3://first', '7d'), '--yes')).toContain(what);
      expect(await windows()).toEqual(['7d', '7d']);
      expect(await apply(state, STORE('s3://first', '7d'))).not.toContain('keeps less');

      const direct = (window: string) => `
apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata: {name: second}
spec: {backup: {barmanObjectStore: {destinationPath: file:///srv}, retentionPolicy: ${window}}}
`;
      await apply(state, direct('2w'));
      await expect(apply(state, direct('13d'))).rejects.toMatchObject({
        message: expect.stringMatching(/\(second: 2w -> 13d\).*nothing was applied/),
      });
      expect(await windows()).toEqual(['7d', '2w']);
    } finally {
      await first.stop();
      await second.stop();
    }
  }, 90_000);

  it('secrets that are neither on this host nor in the set, are told with what to do; nothing waits for them', async () => {
    vi.stubEnv('TEMPORAL_ADDRESS', '127.0.0.1:9');
    try {
      const state = makeTempDir('state');
      const keys = 'accessKeyId: {name: keys, key: ID}, secretAccessKey: {name: keys, key: KEY}';
      const text = `---
apiVersion: barmancloud.cnpg.io/v1
kind: ObjectStore
metadata: {name: store}
spec: {configuration: {destinationPath: s3://first, s3Credentials: {${keys}}}}
${CLUSTER('needs')}`;
      expect(await apply(state, text, '--dry-run')).toContain(
        'Secret default/keys (ID, KEY) is not on this host. The host of the worker needs it; there: ' +
          'walkeep create secret generic keys -n default --from-file=ID=./FILE --from-file=KEY=./FILE',
      );
      const secret =
        '---\napiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {ID: a, KEY: b}\n';
      expect(await apply(state, secret + text, '--dry-run')).not.toContain('is not on this host');
      await apply(state, secret);
      expect(await apply(state, text, '--dry-run')).not.toContain('is not on this host');
    } finally {
      vi.stubEnv('TEMPORAL_ADDRESS', temporal.address);
    }
  });

  it('a Cluster that refers to one this host does not know is refused, and nothing is applied', async () => {
    const state = makeTempDir('state');
    const before = process.exitCode;
    const told = await apply(state, CLUSTER('unknown'));
    expect(process.exitCode).not.toBe(before ?? 0);
    process.exitCode = before;
    expect(told).toMatch(
      /all\.yaml:\d+: error: spec\.plugins\[0\]\.parameters\.barmanObjectName: ObjectStore "store"/,
    );
    expect(told).toContain('give its manifest with -f too');
    expect(told).toContain('nothing was changed');
  });
});
