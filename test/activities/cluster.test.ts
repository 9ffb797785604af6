import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { createClusterActivities } from '../../activities/cluster.ts';
import { backupPolicySchema, WALKEEP_API } from '../../manifests/backup-policy.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { readBesides } from '../../operations/declared.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { createClusterPorts } from '../../workers/cluster-ports.ts';
import { createLog } from '../../workers/log.ts';
import { makeTempDir } from '../support/temp.ts';
import { clusterManifest } from '../workflows/fake-cluster.ts';

it('D3: a policy file of this host that can’t be read stops no backup, and is no policy to delete by', async () => {
  const root = join(makeTempDir('cluster'), 's');
  mkdirSync(root, { mode: 0o700 });
  const state = openStateDirectory(root);
  await state.clusters.save(clusterSchema.parse(clusterManifest('main')));
  const own = { namespace: 'default', cluster: 'main' };
  const activities = createClusterActivities(
    createClusterPorts({
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
    }),
  );
  expect(await activities.loadCluster(own)).not.toHaveProperty('problem');
  await state.backupPolicies.save(
    backupPolicySchema.parse({
      apiVersion: WALKEEP_API,
      kind: 'BackupPolicy',
      metadata: { name: 'theirs' },
      spec: { clusters: ['unrelated'], retention: { keepLast: 1 } },
    }),
  );
  writeFileSync(join(root, 'backup-policies/default/theirs.json'), '{"half');
  expect(await activities.loadCluster(own)).toMatchObject({
    manifest: { metadata: { name: 'main' } },
    hasPolicy: false,
    problem: expect.stringContaining('BackupPolicy "theirs"'),
  });
  await expect(readBesides(state, 'default', 'main')).rejects.toMatchObject({ code: 'config-invalid' });
});
