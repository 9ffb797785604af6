import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { expect, it } from 'vitest';
import {
  createScheduleActivities,
  type ConvergedSchedule,
  type ScheduleService,
  type WantedSchedule,
} from '../../activities/schedules.ts';
import { BackupError } from '../../core/errors.ts';
import { canonicalJson } from '../../core/fingerprint.ts';
import { scheduledBackupSchema, type ScheduledBackupManifest } from '../../manifests/scheduled-backup.ts';
import { readSeries } from '../../repository/slots.ts';
import type { Repository } from '../../repository/repository.ts';
import { clusterManifest, newWorld } from '../workflows/fake-cluster.ts';

const { signal } = new AbortController();
const OWN = { namespace: 'default', cluster: 'pg' };

function schedule(name: string): ScheduledBackupManifest {
  return scheduledBackupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'ScheduledBackup',
    metadata: { name },
    spec: { schedule: '0 0 2 * * *', cluster: { name: 'pg' } },
  });
}

/** Temporal's Schedules, in memory; `fails` decides which calls the server does not answer. */
function site() {
  const stored = new Map<string, WantedSchedule>();
  const written: string[] = [];
  let fails = (_call: string): boolean => false;
  let repositoryIsAway = false;
  const { repository } = newWorld();
  const asked = (call: string) => {
    if (fails(call)) throw new Error(`14 UNAVAILABLE: ${call}`);
  };
  const service: ScheduleService = {
    async find(_namespace, name) {
      asked(`find ${name}`);
      const found = stored.get(name);
      if (!found) return undefined;
      const { namespace, cluster, times } = found;
      const equals = (wanted: WantedSchedule) => canonicalJson(wanted) === canonicalJson(found);
      return { owner: { namespace, cluster }, times, equals };
    },
    async create(wanted) {
      asked(`create ${wanted.name}`);
      if (stored.has(wanted.name)) return false;
      stored.set(wanted.name, wanted);
      written.push(`create ${wanted.name}`);
      return true;
    },
    async update(wanted) {
      asked(`update ${wanted.name}`);
      stored.set(wanted.name, wanted);
      written.push(`update ${wanted.name}`);
    },
    async delete(_namespace, name) {
      asked(`delete ${name}`);
      if (stored.delete(name)) written.push(`delete ${name}`);
    },
    async list({ cluster }) {
      asked('list');
      return [...stored.values()].filter((one) => one.cluster === cluster).map(({ name }) => name);
    },
    begin: async (_cluster, name) => void written.push(`begin ${name}`),
  };
  const activities = createScheduleActivities({
    loadCluster: () => Promise.reject(new Error('not asked here')),
    readSchedule: async () => undefined,
    withRepository: async (_manifest, work: (r: Repository) => Promise<never>) => {
      if (repositoryIsAway) throw new BackupError('store-unavailable', 'the store is away');
      return work(repository);
    },
    hasSearchAttributes: async () => false,
    schedules: () => service,
  });
  return {
    stored,
    written,
    repository,
    failing: (decide: (call: string) => boolean) => void (fails = decide),
    takeRepositoryAway: (isAway: boolean) => void (repositoryIsAway = isAway),
    converge: (
      schedules: ScheduledBackupManifest[],
      attempt: number,
      known: string[] = [],
    ): Promise<ConvergedSchedule[]> =>
      new MockActivityEnvironment(
        { attempt, currentAttemptScheduledTimestampMs: Date.now() },
        { logger: new DefaultLogger('ERROR') },
      ).run(() =>
        activities.convergeSchedules({ ...OWN, manifest: clusterManifest('pg'), schedules, known }),
      ),
  };
}

const THREE = ['one', 'two', 'three'].map(schedule);
const outcomes = (told: readonly ConvergedSchedule[]) =>
  told.map(({ name, outcome }) => `${name} ${outcome}`);

it.for(['find two', 'create two'])(
  'F6: %s fails: the others are made true, it is told as a problem, and converging again changes only what was not true',
  async (call) => {
    const { stored, written, failing, converge } = site();
    failing((asked) => asked === call);
    // Temporal tries again within seconds; what was made true is.
    await expect(converge(THREE, 1)).rejects.toThrow(`UNAVAILABLE: ${call}`);
    expect([...stored.keys()]).toEqual(['one', 'three']);
    const told = await converge(THREE, 4);
    expect(outcomes(told)).toEqual(['one unchanged', 'two failed', 'three unchanged']);
    expect(told.map(({ problem }) => problem)).toEqual([
      undefined,
      expect.stringMatching(`"two" could not be made true in Temporal: .*${call}`),
      undefined,
    ]);

    failing(() => false);
    expect(outcomes(await converge(THREE, 1))).toEqual(['one unchanged', 'two created', 'three unchanged']);
    const again = await converge(THREE, 1);
    expect(outcomes(again)).toEqual(['one unchanged', 'two unchanged', 'three unchanged']);
    expect(again.every(({ problem }) => problem === undefined)).toBe(true);
    expect(written).toEqual(['create one', 'create three', 'create two']);
  },
);

it('F6: one that can not be taken back is told as a problem, and the others are', async () => {
  const { stored, failing, converge } = site();
  await converge(THREE, 1);
  failing((asked) => asked === 'delete one');
  const told = await converge([schedule('two')], 4, ['one']);
  expect(outcomes(told)).toEqual(['two unchanged', 'one failed', 'three deleted']);
  expect(told[1]?.problem).toContain('"one"');
  failing(() => false);
  expect(outcomes(await converge([schedule('two')], 1, ['one']))).toEqual(['two unchanged', 'one deleted']);
  expect([...stored.keys()]).toEqual(['two']);
});

it('F6: where Schedules can not be listed the declared ones are made true all the same', async () => {
  const { stored, failing, converge } = site();
  failing((asked) => asked === 'list');
  await expect(converge(THREE, 4)).rejects.toThrow('list');
  expect(stored.size).toBe(3);
});

it('F6: with the repository away a Schedule goes all the same, and that its series did not end is a problem', async () => {
  const { stored, repository, takeRepositoryAway, converge } = site();
  await converge(THREE, 1);
  takeRepositoryAway(true);
  const told = await converge(THREE.slice(1), 1, ['one']);
  expect(outcomes(told)).toEqual(['two unchanged', 'three unchanged', 'one deleted']);
  expect(told.map(({ problem }) => problem)).toEqual(
    Array.from({ length: 3 }, () => expect.stringContaining('the store is away')),
  );
  expect(stored.has('one')).toBe(false);
  takeRepositoryAway(false);
  const [, , gone] = await converge(THREE.slice(1), 1, ['one']);
  expect(gone).toEqual({ name: 'one', outcome: 'deleted', nextRuns: [] });
  expect(await readSeries(repository, 'one', signal)).toMatchObject({ suspended: true });
});
