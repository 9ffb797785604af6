import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { backupPolicySchema } from '../../manifests/backup-policy.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { BackupError } from '../../core/errors.ts';
import { JobRegistry } from '../../operations/job-registry.ts';
import { createSecretResolver } from '../../operations/secret-resolver.ts';
import { listBackups } from '../../repository/catalogue.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { createSweepPorts } from '../../workers/sweep-ports.ts';
import type { DesireAnswer } from '../../workflows/interface.ts';
import { makeOld, NEVER, putFourBackups } from '../operations/sweep-bench.ts';
import { makeTempDir } from '../support/temp.ts';
import { clusterManifest } from '../workflows/fake-cluster.ts';

const OLD = 2 * 3_600_000;

function policy(keepLast: number) {
  const { spec } = backupPolicySchema.parse({
    apiVersion: 'walkeep.io/v1',
    kind: 'BackupPolicy',
    metadata: { name: 'p' },
    spec: {
      clusters: ['pg'],
      retention: { keepLast, daily: 0, weekly: 0, monthly: 0, yearly: 0, minimum: 1, grace: '1h' },
    },
  });
  return { metadata: { name: 'p', namespace: 'default' }, spec };
}

describe('the rules that a sweep goes by', () => {
  let root: string;
  let r: Repository;
  let ids: string[];
  beforeEach(async () => {
    root = makeTempDir('sweep-ports');
    r = createRepository(createFilesystemStore(root), 'pg');
    ids = await putFourBackups(r);
    makeOld(root, OLD);
  });

  const manifest = () =>
    clusterSchema.parse(
      clusterManifest('pg', { backup: { barmanObjectStore: { destinationPath: `file://${root}` } } }),
    );
  const declares = (keepLast: number, more: Partial<DesireAnswer> = {}): DesireAnswer => ({
    cluster: manifest(),
    policy: policy(keepLast) as never,
    schedules: [],
    verifications: [],
    ...more,
  });
  /** With what the workflow was begun with: a policy that keeps one. */
  async function sweepWith(...answers: (() => DesireAnswer | undefined)[]) {
    return sweepAt(() => 0, ...answers);
  }
  async function sweepAt(now: () => number, ...answers: (() => DesireAnswer | undefined)[]) {
    let asked = 0;
    const ports = createSweepPorts({
      resolver: createSecretResolver({ stateDirectory: makeTempDir('state'), environment: {} }),
      jobs: new JobRegistry(),
      askServer: async () => undefined,
      askKeeper: async () => answers[Math.min(asked++, answers.length - 1)]?.(),
      now,
    });
    const input = {
      namespace: 'default',
      cluster: 'pg',
      manifest: manifest(),
      policy: policy(1).spec,
      hasPolicy: true,
      dryRun: false,
      runId: 'run',
    };
    const report = await ports.perform(input, { signal: NEVER, onProgress: () => undefined });
    return { report, plan: await ports.plan(input, NEVER).catch((error: unknown) => error) };
  }
  const left = async () => (await listBackups(r, NEVER)).map(({ backupId }) => backupId);
  const markAll = async () => {
    await sweepWith(() => declares(1));
    makeOld(join(root, 'pg/walkeep/tombstones'), OLD);
  };

  it('D4: are those the keeper declares now, not those the run was begun with', async () => {
    const { report } = await sweepWith(() => declares(3));
    expect(report.counts).toMatchObject({ marked: 1, kept: 3 });
    const { policy: _none, ...without } = declares(1);
    const bare = await sweepWith(() => without);
    expect(bare.report.counts).toMatchObject({ marked: 0, deletedBackups: 0, kept: 4 });
  });

  it('D3: without a keeper nobody declares any, and nothing is deleted', async () => {
    await markAll();
    const { report, plan } = await sweepWith(() => undefined);
    expect(report).toMatchObject({
      refused: expect.stringContaining('nobody declares what may be deleted') as string,
      counts: { deletedBackups: 0, deletedWal: 0 },
    });
    expect(plan).toMatchObject({ hasWork: false });
    expect(await left()).toEqual(ids);
  });

  it('D3: a keeper in doubt, and one that does not answer, let nothing be deleted', async () => {
    await markAll();
    const { report } = await sweepWith(() => declares(1, { doubt: 'a hold is not placed yet' }));
    expect(report.refused).toContain('a hold is not placed yet');
    const silent = () => {
      throw new BackupError('temporal-unavailable', 'the keeper did not answer');
    };
    await expect(sweepWith(silent)).rejects.toMatchObject({ code: 'temporal-unavailable' });
    expect(await left()).toEqual(ids);
  });

  it('D4: what is declared otherwise while it deletes stops it, and no backup is left half deleted', async () => {
    await markAll();
    const { report } = await sweepWith(
      () => declares(1),
      () => declares(4),
    );
    expect(report.counts.deletedBackups).toBe(0);
    expect(report.warnings.join()).toContain('what is declared has changed meanwhile');
    expect(await left()).toEqual(ids);
  });

  const away = () => {
    throw new Error('Temporal is away');
  };

  it('F5: a keeper that falls silent while it deletes does not stop it for some minutes', async () => {
    await markAll();
    let asked = 0;
    const { report } = await sweepAt(
      () => (asked++ === 0 ? 0 : 299_999),
      () => declares(1),
      away,
    );
    expect(report.counts.deletedBackups).toBe(3);
    expect(await left()).toEqual(ids.slice(3));
  });

  it('D3: one that is silent for five minutes stops it, and no backup is left half deleted', async () => {
    await markAll();
    let asked = 0;
    const { report } = await sweepAt(
      () => asked++ * 300_000,
      () => declares(1),
      away,
    );
    expect(report.counts).toMatchObject({ deletedBackups: 0, deletedWal: 0 });
    expect(report.warnings.join()).toMatch(/stopped: the keeper has not said for 5m whether/);
    expect(await left()).toEqual(ids);
  });

  it('D3: an answer ends the silence', async () => {
    await markAll();
    let minutes = 0;
    const silentFor = (more: number, then?: DesireAnswer) => () => {
      minutes += more;
      if (then) return then;
      throw new Error('Temporal is away');
    };
    const { report } = await sweepAt(
      () => minutes * 60_000,
      () => declares(1),
      silentFor(4),
      silentFor(4, declares(1)),
      silentFor(4),
      silentFor(4, declares(1)),
    );
    expect(report.counts.deletedBackups).toBe(3);
  });

  it('D3: without the policy that the last sweep went by nothing is deleted, until it is applied or was taken back', async () => {
    const window = clusterSchema.parse(
      clusterManifest('pg', {
        backup: { retentionPolicy: '1d', barmanObjectStore: { destinationPath: `file://${root}` } },
      }),
    );
    const { policy: _lost, ...alone } = declares(4, { cluster: window });
    // There is nothing to do by that policy, and it is remembered all the same.
    expect((await sweepWith(() => declares(4, { cluster: window }))).report.counts).toMatchObject({
      marked: 0,
    });
    const { report, plan } = await sweepWith(() => alone);
    expect(report.refused).toContain(
      'the last sweep went by the BackupPolicy "p", which nobody declares any more',
    );
    expect(plan).toMatchObject({ hasWork: false });
    const taken = await sweepWith(() => ({ ...alone, removed: ['BackupPolicy/p'] }));
    expect(taken.report.refused).toBeUndefined();
    // From then on the window alone is what is known.
    expect((await sweepWith(() => alone)).report.refused).toBeUndefined();
  });
});
