import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { backupPolicySchema } from '../../manifests/backup-policy.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import type { Besides } from '../../manifests/desire.ts';
import { forgetWaiting, readBesides, readHeld, readWaiting } from '../../operations/declared.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { createClusterPorts } from '../../workers/cluster-ports.ts';
import { createLog } from '../../workers/log.ts';
import { makeTempDir } from '../support/temp.ts';
import { clusterManifest } from '../workflows/fake-cluster.ts';

function policy(clusters: string[], keepLast = 99) {
  return backupPolicySchema.parse({
    apiVersion: 'walkeep.io/v1',
    kind: 'BackupPolicy',
    metadata: { name: 'p' },
    spec: { clusters, retention: { keepLast } },
  });
}

function schedule(cluster: string, name = `${cluster}-s`) {
  return scheduledBackupSchema.parse({
    apiVersion: 'postgresql.cnpg.io/v1',
    kind: 'ScheduledBackup',
    metadata: { name },
    spec: { schedule: '0 0 2 * * *', cluster: { name: cluster } },
  });
}

function host() {
  const root = join(makeTempDir('declared'), 's');
  mkdirSync(root, { mode: 0o700 });
  const state = openStateDirectory(root);
  /** As the worker of that cluster, of which there may be several on a host. */
  const store = (cluster: string, besides: Besides | undefined, revision: number) => {
    const own = { namespace: 'default', cluster };
    const ports = createClusterPorts({
      own,
      environment: {},
      state,
      facts: async () => ({
        instance: `${cluster}-1`,
        role: 'primary',
        host: 'h',
        version: '0',
        searchAttributes: false,
      }),
      log: createLog({}, 'silent'),
    });
    return ports.writeManifest({
      ...own,
      manifest: clusterSchema.parse(clusterManifest(cluster)),
      revision,
      ...(besides && { besides }),
    });
  };
  const keepLast = async (cluster: string) =>
    (await readBesides(state, 'default', cluster)).policy?.spec.retention.keepLast;
  return { root, state, store, keepLast };
}

const none = { schedules: [], verifications: [] };

describe('what a worker keeps of what was declared', () => {
  it('keeps what the keeper sends, and forgets what is not declared any more', async () => {
    const { state, store } = host();
    await store('main', { policy: policy(['main']), schedules: [schedule('main')], verifications: [] }, 1);
    expect(await readBesides(state, 'default', 'main')).toMatchObject({
      policy: { spec: { retention: { keepLast: 99 } } },
      schedules: [{ metadata: { name: 'main-s' } }],
    });
    // One of 0.1.0 says nothing about it, and one that does not know yet does not either.
    await store('main', undefined, 2);
    expect((await readBesides(state, 'default', 'main')).schedules).toHaveLength(1);
    await store('main', none, 3);
    expect(await readBesides(state, 'default', 'main')).toEqual(none);
  });

  it('D3: the policies of several clusters on a host are theirs, also under one name', async () => {
    const { store, keepLast, state } = host();
    await store('main', { ...none, policy: policy(['main', 'other'], 5) }, 1);
    await store(
      'other',
      { ...none, policy: policy(['main', 'other'], 5), schedules: [schedule('other')] },
      1,
    );
    await store('main', { ...none, policy: policy(['main'], 7) }, 2);
    expect([await keepLast('main'), await keepLast('other')]).toEqual([7, 5]);
    await store('main', none, 3);
    expect([await keepLast('main'), await keepLast('other')]).toEqual([undefined, 5]);
    expect((await readBesides(state, 'default', 'other')).schedules).toHaveLength(1);
  });

  it('D3: a BackupPolicy that can not be read is not taken for none, and is replaced when the keeper sends it', async () => {
    const { root, state, store, keepLast } = host();
    await store('main', { ...none, policy: policy(['main']), schedules: [schedule('main')] }, 1);
    writeFileSync(join(root, 'cluster-policies', 'default', 'main.json'), '{"version":1', { mode: 0o600 });
    await expect(readBesides(state, 'default', 'main')).rejects.toThrow('BackupPolicy of the cluster "main"');
    expect(await readHeld(state, 'default', 'main')).toMatchObject({
      problem: expect.stringContaining("can't be read") as string,
      schedules: [{ metadata: { name: 'main-s' } }],
    });
    // It is nobody else's.
    expect(await keepLast('other')).toBeUndefined();
    await store('main', { ...none, policy: policy(['main']) }, 2);
    expect(await keepLast('main')).toBe(99);
  });
});

describe('what waits on a host for its cluster', () => {
  it('is handed over once, and stays for the other clusters it names', async () => {
    const { state, keepLast } = host();
    await state.backupPolicies.save(policy(['main', 'other'], 3));
    await state.scheduledBackups.save(schedule('main'));
    expect(await readWaiting(state, 'default', 'main')).toMatchObject({
      policy: { metadata: { name: 'p' } },
      schedules: [{ metadata: { name: 'main-s' } }],
    });
    await forgetWaiting(state, 'default', 'main');
    expect(await readBesides(state, 'default', 'main')).toEqual(none);
    expect(await keepLast('other')).toBe(3);
  });

  it('D3: what a worker here holds is not handed over as if somebody had just applied it', async () => {
    const { state, store, keepLast } = host();
    await store('main', { ...none, policy: policy(['main']), schedules: [schedule('main')] }, 1);
    expect(await readWaiting(state, 'default', 'main')).toEqual(none);
    await forgetWaiting(state, 'default', 'main');
    expect(await keepLast('main')).toBe(99);
    expect((await readBesides(state, 'default', 'main')).schedules).toHaveLength(1);
  });

  it('D3: a policy that was applied while there was no keeper counts before the one a worker here held', async () => {
    const { state, store, keepLast } = host();
    await store('main', { ...none, policy: policy(['main'], 3) }, 1);
    await state.backupPolicies.save(policy(['main', 'other'], 99));
    expect(await keepLast('main')).toBe(99);
    expect((await readWaiting(state, 'default', 'main')).policy?.spec.retention.keepLast).toBe(99);
    // What the keeper declares then is newer than both.
    await store('main', { ...none, policy: policy(['main'], 7) }, 2);
    expect([await keepLast('main'), await keepLast('other')]).toEqual([7, 99]);
    expect((await readWaiting(state, 'default', 'main')).policy).toBeUndefined();
  });

  it('D3: one that can not be read stops what would be decided without it', async () => {
    const { root, state } = host();
    await state.backupPolicies.save(policy(['main']));
    writeFileSync(join(root, 'backup-policies', 'default', 'p.json'), '{"version":1', { mode: 0o600 });
    await expect(readBesides(state, 'default', 'main')).rejects.toThrow('BackupPolicy "p"');
  });
});
