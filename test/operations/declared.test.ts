import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { backupPolicySchema } from '../../manifests/backup-policy.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { readBesides } from '../../operations/declared.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { createClusterPorts } from '../../workers/cluster-ports.ts';
import { createLog } from '../../workers/log.ts';
import { makeTempDir } from '../support/temp.ts';
import { clusterManifest } from '../workflows/fake-cluster.ts';

const own = { namespace: 'default', cluster: 'main' };

function policy(clusters: string[]) {
  return backupPolicySchema.parse({
    apiVersion: 'walkeep.io/v1',
    kind: 'BackupPolicy',
    metadata: { name: 'p' },
    spec: { clusters, retention: { keepLast: 99 } },
  });
}

const schedule = scheduledBackupSchema.parse({
  apiVersion: 'postgresql.cnpg.io/v1',
  kind: 'ScheduledBackup',
  metadata: { name: 's' },
  spec: { schedule: '0 0 2 * * *', cluster: { name: 'main' } },
});

function host() {
  const root = join(makeTempDir('declared'), 's');
  mkdirSync(root, { mode: 0o700 });
  const state = openStateDirectory(root);
  const ports = createClusterPorts({
    own,
    environment: {},
    state,
    facts: async () => ({
      instance: 'main-1',
      role: 'primary',
      host: 'h',
      version: '0',
      searchAttributes: false,
    }),
    log: createLog({}, 'silent'),
  });
  const store = (besides: Parameters<typeof ports.writeManifest>[0]['besides'], revision: number) =>
    ports.writeManifest({
      ...own,
      manifest: clusterSchema.parse(clusterManifest('main')),
      revision,
      ...(besides && { besides }),
    });
  return { root, state, store };
}

describe('what a worker keeps of what was declared', () => {
  it('keeps what the keeper sends, and forgets what is not declared any more', async () => {
    const { state, store } = host();
    await store({ policy: policy(['main', 'other']), schedules: [schedule], verifications: [] }, 1);
    expect(await readBesides(state, 'default', 'main')).toMatchObject({
      policy: { spec: { retention: { keepLast: 99 } } },
      schedules: [{ metadata: { name: 's' } }],
    });
    await store({ schedules: [], verifications: [] }, 2);
    expect(await readBesides(state, 'default', 'main')).toEqual({ schedules: [], verifications: [] });
    // That of another cluster stays.
    expect((await readBesides(state, 'default', 'other')).policy?.spec.clusters).toEqual(['other']);
    // A keeper of 0.1.0 says nothing about it.
    await store({ policy: policy(['main']), schedules: [schedule], verifications: [] }, 3);
    await store(undefined, 4);
    expect((await readBesides(state, 'default', 'main')).schedules).toHaveLength(1);
  });

  it('D3: a BackupPolicy that can not be read is not taken for none, and is replaced when the keeper sends it', async () => {
    const { root, state, store } = host();
    await store({ policy: policy(['main']), schedules: [], verifications: [] }, 1);
    writeFileSync(join(root, 'backup-policies', 'default', 'p.json'), '{"version":1', { mode: 0o600 });
    await expect(readBesides(state, 'default', 'main')).rejects.toThrow('BackupPolicy "p"');
    await store({ policy: policy(['main']), schedules: [], verifications: [] }, 2);
    expect((await readBesides(state, 'default', 'main')).policy?.spec.retention.keepLast).toBe(99);
  });
});
