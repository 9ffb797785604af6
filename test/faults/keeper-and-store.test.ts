/**
 * Faults 17, 20, 22 to 25, 27, 29, 32 and 33 as a schedule and the keeper meet them: their real workflows, in front of a
 * repository that stalls, lies, is late, slow, damaged or hostile. What they begin besides is made up.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { WithStartWorkflowOperation } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { readProtection } from '../../operations/protection.ts';
import { createRepository } from '../../repository/repository.ts';
import { listSlots, readSlot } from '../../repository/slots.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import * as walkeep from '../../workflows/interface.ts';
import { makeTempDir } from '../support/temp.ts';
import {
  clusterManifest,
  eventually,
  newWorld,
  startInstance,
  startTemporal,
  type RunningInstance,
  type World,
} from '../workflows/fake-cluster.ts';
import { onFailingDisk } from './failing-disk.ts';
import {
  damage,
  emptied,
  flipped,
  halved,
  ignoringAbsence,
  losing,
  stale,
  wildListing,
} from './wild-stores.ts';

const NEVER = new AbortController().signal;

let temporal: TestWorkflowEnvironment;
let running: RunningInstance | undefined;
let keeper: string | undefined;

beforeAll(async () => {
  temporal = await startTemporal();
}, 60_000);
afterAll(async () => temporal?.teardown());
afterEach(async () => {
  const names = [walkeep.clusterWorkflowId, walkeep.walArchivingWorkflowId, walkeep.auditWorkflowId];
  for (const idOf of names)
    await temporal.client.workflow
      .getHandle(idOf('default', keeper ?? ''))
      .terminate()
      .catch(() => undefined);
  await running?.stop();
});

const eachCall = (store: ObjectStore, before: () => Promise<void>): ObjectStore => {
  async function* later<Entry>(entries: AsyncIterable<Entry>) {
    await before();
    yield* entries;
  }
  return {
    ...store,
    put: async (key, body, options) => (await before(), store.put(key, body, options)),
    get: async (key, options) => (await before(), store.get(key, options)),
    head: async (key, options) => (await before(), store.head(key, options)),
    delete: async (keys, options) => (await before(), store.delete(keys, options)),
    list: (prefix, options) => later(store.list(prefix, options)),
    folders: (prefix, options) => later(store.folders(prefix, options)),
  };
};
/** As our stores end a call to one that stalls: by their limits. */
const stalling = (store: ObjectStore) =>
  eachCall(store, async () => {
    await sleep(500);
    throw new BackupError('store-unavailable', 'no answer within 1 s');
  });

interface Case {
  readonly why: string;
  readonly slug: string;
  readonly wrap: (store: ObjectStore) => ObjectStore;
  /** Before it begins, behind everybody's back. */
  readonly plant?: (store: ObjectStore) => Promise<void>;
  /** Nothing may be begun while it is so. */
  readonly stops?: boolean;
}

const put = (store: ObjectStore, key: string, text: string) =>
  store.put(key, Buffer.from(text), { signal: NEVER }).then(() => undefined);
/** Backups of which the repository says something, each of them spoilt. */
const records = (text: string) => async (store: ObjectStore) => {
  for (const id of ['20201121T000000', '20991231T235959'])
    await put(store, `test/base/${id}/backup.info`, text);
};
const same = (store: ObjectStore) => store;
const RECORD = 'status=DONE\nbegin_wal=000000010000000000000002\ntimeline=1\n';

const CASES: readonly Case[] = [
  { why: 'fault 17: stalls', slug: 'stalls', wrap: stalling, stops: true },
  { why: 'fault 20: loses the records of slots', slug: 'loses', wrap: (store) => losing(store, '/slots/') },
  {
    why: 'fault 22: has listings whose second page fails',
    slug: 'pages',
    wrap: (store) => wildListing(store, 'page 2 fails'),
    stops: true,
  },
  { why: 'fault 22: repeats listings', slug: 'repeats', wrap: (store) => wildListing(store, 'repeats') },
  { why: 'fault 22: cuts listings short', slug: 'cuts', wrap: (store) => wildListing(store, 'ends early') },
  { why: 'fault 23: lists five seconds late', slug: 'late', wrap: (store) => stale(store, 5_000) },
  { why: 'fault 24: ignores create-if-absent', slug: 'ignores', wrap: (store) => ignoringAbsence(store, 5) },
  {
    why: 'fault 25: has a bit turned in its records',
    slug: 'turned',
    wrap: same,
    plant: async (store) => {
      await records(RECORD)(store);
      for (const id of ['20201121T000000', '20991231T235959'])
        await damage(store, `test/base/${id}/backup.info`, flipped(8));
    },
  },
  {
    why: 'fault 27: has records that are cut or empty',
    slug: 'cut',
    wrap: same,
    plant: async (store) => {
      await records(RECORD)(store);
      await damage(store, 'test/base/20991231T235959/backup.info', halved);
      await damage(store, 'test/base/20201121T000000/backup.info', emptied);
    },
  },
  {
    why: 'fault 29: has hostile records',
    slug: 'hostile',
    wrap: same,
    plant: records(`status=DONE'; DROP TABLE x\nbegin_wal=../../etc/passwd\n`),
  },
  { why: 'fault 33: takes its time', slug: 'slow', wrap: (store) => eachCall(store, () => sleep(150)) },
];

/** A cluster with a keeper and a schedule, on that store. */
async function begin(name: string, repositoryOf: () => ObjectStore): Promise<World> {
  const world = newWorld();
  keeper = name;
  running = await startInstance({ connection: temporal.nativeConnection }, world, {
    cluster: name,
    instance: `${name}-1`,
    repository: () => createRepository(repositoryOf(), 'test'),
  });
  const schedule = scheduledBackupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'ScheduledBackup',
    metadata: { name: `${name}-s` },
    spec: { schedule: '0 0 0 1 1 *', cluster: { name } },
  });
  const input: walkeep.ApplyInput = { cluster: clusterManifest(name), scheduledBackups: [schedule] };
  await temporal.client.workflow.executeUpdateWithStart(walkeep.applyUpdate, {
    args: [input],
    startWorkflowOperation: new WithStartWorkflowOperation(walkeep.WORKFLOW.cluster, {
      workflowId: walkeep.clusterWorkflowId('default', name),
      taskQueue: walkeep.WORKFLOW_QUEUE,
      workflowIdConflictPolicy: 'USE_EXISTING',
      args: [clusterManifest(name)],
    }),
  });
  await eventually('the worker to have it', () => world.manifests.has(`${name}-1:default/${name}`));
  return world;
}
/** A slot that is due at this moment. */
const startSlot = (name: string) =>
  temporal.client.workflow.start(walkeep.WORKFLOW.scheduledBackup, {
    workflowId: `${name}-run`,
    taskQueue: walkeep.WORKFLOW_QUEUE,
    args: [{ cluster: name }],
  });
const status = (name: string): Promise<walkeep.ClusterStatus> =>
  temporal.client.workflow
    .getHandle(walkeep.clusterWorkflowId('default', name))
    .query(walkeep.clusterStatusQuery);
const copies = ({ story }: World) => story.filter((line) => line.includes(': copy '));

async function requireOneBackup(world: World, inner: ObjectStore, name: string): Promise<void> {
  expect(copies(world)).toHaveLength(1);
  const r = createRepository(inner, 'test');
  const window = { since: new Date(Date.now() - 3_600_000), until: new Date(Date.now() + 60_000) };
  const slots = await listSlots(r, name, window, NEVER);
  const records = await Promise.all(slots.map((slot) => readSlot(r, name, slot, NEVER)));
  const named = records.flatMap((record) => (record?.outcome === 'ran' ? [record.backupName] : []));
  // A store that loses its record loses no more than that.
  expect(named).toHaveLength(name === 'loses' ? 0 : 1);
  await eventually('the keeper lists it', async () =>
    (await status(name)).backups.some(({ phase }) => phase === 'completed'),
  );
  await eventually('the schedule is made true', () =>
    temporal.client.schedule
      .getHandle(walkeep.scheduleId('default', `${name}-s`))
      .describe()
      .then(
        () => true,
        () => false,
      ),
  );
}

describe('a schedule and its keeper, with a store that', () => {
  it.for(CASES)(
    'F6, F7, $why: a slot has one Backup, the keeper lists it, makes its schedules true, and goes on',
    { timeout: 120_000 },
    async ({ slug, wrap, plant, stops }) => {
      const inner = createMemoryStore();
      await plant?.(inner);
      const wild = wrap(inner);
      let isWild = true;
      const world = await begin(slug, () => (isWild ? wild : inner));
      const run = await startSlot(slug);
      if (stops === true) {
        await eventually('a failed look', async () => {
          const { raw } = await run.describe();
          return (raw.pendingActivities?.[0]?.attempt ?? 0) > 1;
        });
        expect(copies(world)).toEqual([]);
        isWild = false;
      }
      expect(await run.result()).toMatchObject({ phase: 'completed' });
      await requireOneBackup(world, inner, slug);
      const told = await readProtection(createRepository(inner, 'test'), NEVER);
      expect(told.usable).toEqual([]);
    },
  );

  it(
    'F6, F7, E4, fault 32: fails to sync: a slot has one Backup, and the keeper goes on',
    { timeout: 120_000 },
    async () => {
      const inner = createFilesystemStore(makeTempDir('keeper-disk'));
      const world = await begin('disk', () => inner);
      const { ended, failed } = await onFailingDisk({ call: 'fsync', nth: 1, code: 'EIO' }, async () =>
        (await startSlot('disk')).result(),
      );
      expect(failed).toBe(true);
      expect(ended).toMatchObject({ status: 'fulfilled', value: { phase: 'completed' } });
      await requireOneBackup(world, inner, 'disk');
    },
  );
});
