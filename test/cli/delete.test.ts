import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { removeCluster } from '../../cli/delete-cluster.ts';
import { deleteCommand } from '../../cli/delete.ts';
import { withHost } from '../../cli/host.ts';
import { backupPolicySchema, WALKEEP_API } from '../../manifests/backup-policy.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { objectStoreSchema } from '../../manifests/object-store-resource.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { createScheduleService } from '../../workers/schedule-ports.ts';
import {
  applyUpdate,
  clusterWorkflowId,
  desireQuery,
  scheduleId,
  sweepWorkflowId,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type ApplyInput,
} from '../../workflows/interface.ts';
import { makeTempDir } from '../support/temp.ts';
import {
  clusterManifest,
  eventually,
  newWorld,
  startInstance,
  startTemporal,
  type RunningInstance,
} from '../workflows/fake-cluster.ts';

let temporal: TestWorkflowEnvironment;
let workers: RunningInstance[] = [];
let said: string[] = [];
let state: string;

beforeAll(async () => {
  temporal = await startTemporal();
  vi.stubEnv('TEMPORAL_ADDRESS', temporal.address);
  vi.stubEnv('TEMPORAL_NAMESPACE', 'default');
}, 60_000);
beforeEach(() => {
  said = [];
  state = makeTempDir('state');
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => said.push(String(text)) > 0);
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => said.push(String(text)) > 0);
});
afterEach(async () => {
  vi.restoreAllMocks();
  process.exitCode = 0;
  await Promise.all(workers.map((worker) => worker.stop()));
  workers = [];
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await temporal?.teardown();
});

async function startWorkers(...clusters: string[]): Promise<void> {
  const world = newWorld();
  for (const cluster of clusters) {
    const queues = workers.length === 0 ? (['workflows', 'cluster', 'instance'] as const) : undefined;
    const fake = { cluster, instance: `${cluster}-1`, queues: queues ?? (['cluster', 'instance'] as const) };
    workers.push(await startInstance({ connection: temporal.nativeConnection }, world, fake));
  }
}

/** A keeper of the cluster, which hears of its worker. */
async function startKeeper(cluster: string, { spec = {}, ...input }: ApplyInput & { spec?: object } = {}) {
  const handle = await temporal.client.workflow.start(WORKFLOW.cluster, {
    workflowId: clusterWorkflowId('default', cluster),
    taskQueue: WORKFLOW_QUEUE,
    args: [clusterManifest(cluster, { ...spec })],
  });
  const facts = workers.map((worker) => worker.facts()).find(({ instance }) => instance === `${cluster}-1`);
  if (facts) await handle.signal('instance', facts);
  if (Object.keys(input).length > 0) await handle.executeUpdate(applyUpdate, { args: [input] });
  return handle;
}

function policy(name: string, ...clusters: string[]) {
  return backupPolicySchema.parse({
    apiVersion: WALKEEP_API,
    kind: 'BackupPolicy',
    metadata: { name, namespace: 'default' },
    spec: { clusters, retention: { keepLast: 4 } },
  });
}

function schedule(name: string, cluster: string) {
  return scheduledBackupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'ScheduledBackup',
    metadata: { name },
    spec: { schedule: '0 0 2 1 1 *', cluster: { name: cluster } },
  });
}

function objectStore(namespace: string, name: string) {
  return objectStoreSchema.parse({
    apiVersion: 'barmancloud.cnpg.io/v1',
    kind: 'ObjectStore',
    metadata: { name, namespace },
    spec: { configuration: { destinationPath: 'file:///srv/backups' } },
  });
}

/** A Schedule as walkeep makes it, that no keeper knows of. */
function makeSchedule(name: string, cluster: string): Promise<boolean> {
  return createScheduleService(temporal.client).create({
    namespace: 'default',
    cluster,
    name,
    times: { timezone: 'UTC', calendars: [], intervals: [{ every: 86_400_000, offset: 0 }] },
    isPaused: false,
    note: '',
    hasSearchAttributes: false,
  });
}

async function makeForeignSchedule(name: string): Promise<void> {
  await temporal.client.schedule.create({
    scheduleId: scheduleId('default', name),
    spec: { intervals: [{ every: '1 day' }] },
    action: { type: 'startWorkflow', workflowType: 'theirs', taskQueue: 'theirs', args: [] },
  });
}

const exists = (name: string) =>
  temporal.client.schedule
    .getHandle(scheduleId('default', name))
    .describe()
    .then(
      () => true,
      () => false,
    );

const isListed = (name: string) => async () => {
  for await (const found of temporal.client.schedule.list())
    if (found.scheduleId === scheduleId('default', name)) return true;
  return false;
};

const remove = (...args: string[]) =>
  deleteCommand().parseAsync([...args, '--state', state], { from: 'user' });
const statusOf = async (workflowId: string) =>
  (await temporal.client.workflow.getHandle(workflowId).describe()).status.name;

describe('walkeep delete cluster', { timeout: 90_000 }, () => {
  it('has ended the keeper when it says so, with all Schedules of the cluster and its sweep, and nobody else’s', async () => {
    await startWorkers('ending');
    const keeper = await startKeeper('ending', { scheduledBackups: [schedule('ending-own', 'ending')] });
    await eventually('its Schedule is there', () => exists('ending-own'));
    await makeSchedule('ending-unknown', 'ending');
    await makeSchedule('another-s', 'another');
    await makeForeignSchedule('ending-foreign');
    // This host has names that may be anybody's.
    for (const name of ['another-s', 'ending-foreign'])
      await openStateDirectory(state).scheduledBackups.save(schedule(name, 'ending'));
    await eventually('all are listed', isListed('another-s'));
    // Waits for a worker of a queue that nobody polls.
    const sweep = await temporal.client.workflow.start(WORKFLOW.retentionSweep, {
      workflowId: sweepWorkflowId('default', 'ending'),
      taskQueue: WORKFLOW_QUEUE,
      args: [{ cluster: 'not-there' }],
    });
    await remove('cluster', 'ending');
    expect((await keeper.describe()).status.name).toBe('CANCELLED');
    expect(said.join('')).toContain('cluster.postgresql.cnpg.io/ending deleted');
    expect(await exists('ending-own')).toBe(false);
    expect(await exists('ending-unknown')).toBe(false);
    expect(await exists('another-s')).toBe(true);
    expect(await exists('ending-foreign')).toBe(true);
    expect((await sweep.describe()).status.name).toBe('CANCELLED');
    expect(said.join('')).toMatch(/ended with it: .*a sweep that ran/);
    await expect(sweep.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  });

  it('with no worker says that the keeper has not ended; Schedules are gone all the same, and it ends with the next worker', async () => {
    const keeper = await startKeeper('stuck');
    await makeSchedule('stuck-s', 'stuck');
    const sweep = await temporal.client.workflow.start(WORKFLOW.retentionSweep, {
      workflowId: sweepWorkflowId('default', 'stuck'),
      taskQueue: WORKFLOW_QUEUE,
      args: [{ cluster: 'stuck' }],
    });
    await eventually('it is listed', isListed('stuck-s'));
    const waitMs = 5_000;
    let waits = true;
    const deleting = withHost({ state }, (host) =>
      removeCluster(host, 'default', 'stuck', { waitMs }),
    ).finally(() => (waits = false));
    const failed = deleting.catch((error: unknown) => error);
    await eventually('the Schedule is gone', async () => !(await exists('stuck-s')));
    expect(waits).toBe(true);
    expect(await failed).toMatchObject({
      code: 'worker-missing',
      message: expect.stringContaining('cluster/default/stuck was told to end and has not within 5 s'),
    });
    expect(said.join('')).not.toContain('stuck deleted');
    expect(said.join('')).toContain('the Schedule scheduledbackup/default/stuck-s');
    expect(said.join('')).not.toContain('a sweep that ran');
    expect(said.join('')).toContain(`${sweep.workflowId} was told to end and has not yet`);
    expect(await exists('stuck-s')).toBe(false);
    await startWorkers('stuck');
    await eventually('the keeper ended', async () => (await keeper.describe()).status.name === 'CANCELLED');
  });

  it('without a keeper takes away what it left behind; where nothing is left there is no such cluster', async () => {
    await (await startKeeper('gone')).terminate();
    await makeSchedule('gone-s', 'gone');
    await eventually('it is listed', isListed('gone-s'));
    await remove('cluster', 'gone');
    expect(await exists('gone-s')).toBe(false);
    await expect(remove('cluster', 'gone')).rejects.toMatchObject({ code: 'cluster-unknown' });
    await expect(remove('cluster', 'never-was')).rejects.toMatchObject({ code: 'cluster-unknown' });
  });

  it('leaves a keeper alone that was applied anew meanwhile', async () => {
    await startWorkers('anew');
    await startKeeper('anew');
    const deleting = remove('cluster', 'anew');
    await eventually(
      'the old one ended',
      async () => (await statusOf(clusterWorkflowId('default', 'anew'))) === 'CANCELLED',
    );
    const anew = await startKeeper('anew');
    await deleting;
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect((await anew.describe()).status.name).toBe('RUNNING');
    await anew.terminate();
  });
});

describe('walkeep delete', () => {
  it('changes nothing, and says so, where Temporal can’t be reached', async () => {
    vi.stubEnv('TEMPORAL_ADDRESS', '127.0.0.1:9');
    try {
      for (const kind of ['cluster', 'backuppolicy', 'scheduledbackup', 'objectstore'])
        await expect(remove(kind, 'x'), kind).rejects.toMatchObject({
          code: 'temporal-unavailable',
          message: expect.stringContaining('so nothing was changed'),
        });
    } finally {
      vi.stubEnv('TEMPORAL_ADDRESS', temporal.address);
    }
  });
});

describe('walkeep delete backuppolicy', { timeout: 90_000 }, () => {
  const policyOf = async (cluster: string) =>
    (await temporal.client.workflow.getHandle(clusterWorkflowId('default', cluster)).query(desireQuery))
      .policy?.metadata.name;
  const WINDOW = {
    backup: { barmanObjectStore: { destinationPath: 'file:///srv/b' }, retentionPolicy: '30d' },
  };

  it('asks the keepers, also of a cluster that the file of this host names no longer; without a window it asks nobody', async () => {
    await startWorkers('named', 'dropped');
    for (const cluster of ['named', 'dropped'])
      await startKeeper(cluster, { policy: policy('both', 'named', 'dropped') });
    await openStateDirectory(state).backupPolicies.save(policy('both', 'named'));
    await eventually('Temporal lists them', async () => {
      const query = "WorkflowId IN ('cluster/default/named', 'cluster/default/dropped')";
      return (await temporal.client.workflow.count(`${query} AND ExecutionStatus = 'Running'`)).count === 2;
    });
    await remove('backuppolicy', 'both');
    expect([await policyOf('named'), await policyOf('dropped')]).toEqual([undefined, undefined]);
    expect(await openStateDirectory(state).backupPolicies.read('default', 'both')).toBeUndefined();
    await expect(remove('backuppolicy', 'both')).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining('there is no'),
    });
  });

  it('with --cluster takes it back from that cluster alone, and this host keeps it for the others', async () => {
    await startWorkers('only', 'other');
    for (const cluster of ['only', 'other'])
      await startKeeper(cluster, { policy: policy('shared', 'only', 'other') });
    const shelf = openStateDirectory(state).backupPolicies;
    await shelf.save(policy('shared', 'only', 'other'));
    await remove('backuppolicy', 'shared', '--cluster', 'only');
    expect([await policyOf('only'), await policyOf('other')]).toEqual([undefined, 'shared']);
    expect((await shelf.read('default', 'shared'))?.manifest.spec.clusters).toEqual(['other']);
    await expect(remove('backuppolicy', 'shared', '--cluster', 'only')).rejects.toMatchObject({
      code: 'usage',
    });
    await remove('backuppolicy', 'shared', '--cluster', 'other');
    expect(await shelf.read('default', 'shared')).toBeUndefined();
    expect(await policyOf('other')).toBeUndefined();
  });

  it('D3: does what the doubt of a keeper advises about a policy that only a worker holds', async () => {
    await startWorkers('elsewhere');
    const keeper = await startKeeper('double', { policy: policy('mine', 'double') });
    const world = newWorld();
    const besides = { policy: policy('old', 'double'), schedules: [], verifications: [] };
    world.manifests.set('double-1:default/double', {
      manifest: clusterManifest('double'),
      revision: 4,
      besides,
    });
    const fake = { cluster: 'double', instance: 'double-1', queues: ['cluster', 'instance'] as const };
    const late = await startInstance({ connection: temporal.nativeConnection }, world, fake);
    workers.push(late);
    await keeper.signal('instance', late.facts());
    const doubt = async () => (await keeper.query(desireQuery)).doubt;
    await eventually('it doubts', async () => (await doubt())?.includes('BackupPolicy/old') === true);
    const advice = /walkeep delete (.*)$/.exec((await doubt()) ?? '')?.[1] ?? '';
    expect(advice).toBe('backuppolicy old --cluster double');
    await remove(...advice.split(' '));
    expect(said.join('')).toContain('backuppolicy.walkeep.io/old deleted');
    await eventually('it doubts no more', async () => (await doubt()) === undefined);
    expect(await policyOf('double')).toBe('mine');
    await eventually(
      'the worker holds what is declared',
      () => world.manifests.get('double-1:default/double')?.besides?.policy?.metadata.name === 'mine',
    );
  });

  it('D3: beside a window it is asked about first, since what only the policy kept would go', async () => {
    await startWorkers('windowed');
    await startKeeper('windowed', { spec: WINDOW, policy: policy('strict', 'windowed') });
    const only = ['--cluster', 'windowed'];
    await expect(remove('backuppolicy', 'strict', ...only)).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(
        /retentionPolicy: 30d of windowed.*only the policy kept.*nothing was changed/,
      ),
      hint: expect.stringContaining('--yes'),
    });
    expect(await policyOf('windowed')).toBe('strict');
    await remove('backuppolicy', 'strict', ...only, '--yes');
    expect(await policyOf('windowed')).toBeUndefined();
    expect(said.join('')).toContain('30d of windowed');
  });

  it('changes nothing while a keeper does not answer', async () => {
    const keeper = await startKeeper('silent');
    const shelf = openStateDirectory(state).backupPolicies;
    await shelf.save(policy('unheard', 'silent'));
    const stores = openStateDirectory(state).objectStores;
    await stores.save(objectStore('default', 'unsure'));
    await Promise.all([
      expect(remove('backuppolicy', 'unheard', '--cluster', 'silent')).rejects.toMatchObject({
        code: 'worker-missing',
        message: expect.stringContaining('nothing was changed'),
      }),
      expect(remove('objectstore', 'unsure')).rejects.toMatchObject({
        code: 'worker-missing',
        message: expect.stringMatching(/whether \S+ refers to ObjectStore "unsure"; nothing was changed/),
      }),
    ]);
    expect(await shelf.read('default', 'unheard')).toBeDefined();
    expect(await stores.read('default', 'unsure')).toBeDefined();
    await keeper.terminate();
  });

  it('D3: a file that can’t be read is removed by its name, when nothing is decided without it or that was said', async () => {
    await startWorkers('goes');
    await startKeeper('goes', { policy: policy('torn', 'goes') });
    const here = openStateDirectory(state);
    await here.clusters.save(clusterSchema.parse(clusterManifest('goes')));
    await here.clusters.save(clusterSchema.parse(clusterManifest('ended', WINDOW)));
    await here.backupPolicies.save(policy('torn', 'ended'));
    writeFileSync(join(state, 'backup-policies/default/torn.json'), '{"half');
    const isThere = async () => (await here.backupPolicies.list('default')).length === 1;

    await expect(remove('backuppolicy', 'torn')).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining('30d of ended'),
    });
    expect([await policyOf('goes'), await isThere()]).toEqual(['torn', true]);
    // Of one cluster alone: it may name others.
    await remove('backuppolicy', 'torn', '--cluster', 'goes');
    expect([await policyOf('goes'), await isThere()]).toEqual([undefined, true]);
    await remove('backuppolicy', 'torn', '--yes');
    expect(await isThere()).toBe(false);
    expect(said.join('')).toContain('which clusters it was for is not known');
  });
});

describe('walkeep delete scheduledbackup', { timeout: 90_000 }, () => {
  it('finds the cluster of one that was applied elsewhere, and leaves another cluster’s file alone', async () => {
    await startWorkers('far');
    const keeper = await startKeeper('far', { scheduledBackups: [schedule('nightly', 'far')] });
    await eventually('its Schedule is there', () => exists('nightly'));
    await remove('scheduledbackup', 'nightly');
    expect((await keeper.query(desireQuery)).schedules).toEqual([]);
    await eventually('it is gone', async () => !(await exists('nightly')));

    const shelf = openStateDirectory(state).scheduledBackups;
    await shelf.save(schedule('kept', 'near'));
    await expect(remove('scheduledbackup', 'kept', '--cluster', 'far')).rejects.toMatchObject({
      code: 'usage',
    });
    expect(await shelf.read('default', 'kept')).toBeDefined();
    await remove('scheduledbackup', 'kept');
    expect(await shelf.read('default', 'kept')).toBeUndefined();
  });
});

describe('walkeep delete objectstore', { timeout: 90_000 }, () => {
  const inNamespace = (namespace: string, name: string, spec: object = {}) =>
    clusterSchema.parse({ ...clusterManifest(name, { ...spec }), metadata: { name, namespace } });
  const plugin = (name: string) => ({
    name: 'barman-cloud.cloudnative-pg.io',
    parameters: { barmanObjectName: name },
  });
  const shelf = () => openStateDirectory(state).objectStores;
  // Of other tests there are keepers that nobody answers for: each has a namespace of its own.
  const start = (manifest: ReturnType<typeof clusterManifest>) =>
    temporal.client.workflow.start(WORKFLOW.cluster, {
      workflowId: clusterWorkflowId(manifest.metadata.namespace, manifest.metadata.name),
      taskQueue: WORKFLOW_QUEUE,
      args: [manifest],
    });

  it('D3: is refused while Clusters refer to it, wherever they were applied, and names the places', async () => {
    await startWorkers('any');
    const barmanObjectStore = { destinationPath: 'file:///srv/backups', serverName: 'owner' };
    const externally = (store: string) => ({
      externalClusters: [{ name: 'origin', plugin: plugin(store), barmanObjectStore }],
    });
    const owning = { plugins: [{ ...plugin('wanted'), isWALArchiver: true }] };
    const owner = await start(inNamespace('stores', 'owner', owning));
    const reader = await start(inNamespace('stores', 'reader', externally('wanted')));
    const neither = await start(inNamespace('stores', 'neither', externally('other')));
    await shelf().save(objectStore('stores', 'wanted'));
    await eventually('Temporal lists them', async () => {
      const query = "WorkflowId STARTS_WITH 'cluster/stores/' AND ExecutionStatus = 'Running'";
      return (await temporal.client.workflow.count(query)).count === 3;
    });
    await expect(remove('objectstore', 'wanted', '-n', 'stores', '--yes')).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(
        /referred to by Cluster owner, Cluster reader \(externalClusters "origin"\); nothing was changed/,
      ),
    });
    expect(await shelf().read('stores', 'wanted')).toBeDefined();

    await owner.executeUpdate(applyUpdate, { args: [{ cluster: inNamespace('stores', 'owner') }] });
    await reader.executeUpdate(applyUpdate, { args: [{ cluster: inNamespace('stores', 'reader') }] });
    await remove('objectstores', 'wanted', '-n', 'stores');
    expect(await shelf().read('stores', 'wanted')).toBeUndefined();
    expect(said.join('')).toContain('objectstore.barmancloud.cnpg.io/wanted deleted');
    expect(said.join('')).toContain('nothing stored was touched');
    await expect(remove('objectstore', 'wanted', '-n', 'stores')).rejects.toMatchObject({
      code: 'usage',
      message: 'there is no ObjectStore "wanted" in namespace stores',
      hint: expect.stringContaining('walkeep get objectstores'),
    });
    await Promise.all([owner, reader, neither].map((keeper) => keeper.terminate()));
  });

  it('asks where only this host remembers a Cluster that refers to it; a damaged file goes by its name', async () => {
    const here = openStateDirectory(state);
    const spec = { plugins: [{ ...plugin('old'), isWALArchiver: true }] };
    await here.clusters.save(clusterSchema.parse(inNamespace('past', 'left', spec)));
    await shelf().save(objectStore('past', 'old'));
    writeFileSync(join(state, 'object-stores/past/old.json'), '{"half');
    await expect(remove('objectstore', 'old', '-n', 'past')).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringMatching(/Cluster left on this host, without a keeper.*nothing was changed/),
      hint: 'add --yes',
    });
    expect(await shelf().list('past')).toHaveLength(1);
    await remove('objectstore', 'old', '-n', 'past', '--yes');
    expect(await shelf().list('past')).toEqual([]);
    expect((await here.clusters.read('past', 'left'))?.manifest.spec.plugins).toHaveLength(1);
  });
});
