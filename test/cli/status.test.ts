import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { statusCommand } from '../../cli/status.ts';
import { backupPolicySchema, WALKEEP_API } from '../../manifests/backup-policy.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { makeTempDir } from '../support/temp.ts';

afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

it('a BackupPolicy that this host can’t read is told by walkeep status, with what holds in its place', async () => {
  vi.stubEnv('TEMPORAL_ADDRESS', '127.0.0.1:9');
  const said: string[] = [];
  vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => said.push(String(text)) > 0);
  const root = makeTempDir('state');
  const state = openStateDirectory(root);
  await state.clusters.save(
    clusterSchema.parse({
      apiVersion: 'postgresql.cnpg.io/v1',
      kind: 'Cluster',
      metadata: { name: 'main' },
      spec: { backup: { barmanObjectStore: { destinationPath: `file://${makeTempDir('repository')}` } } },
    }),
  );
  await state.backupPolicies.save(
    backupPolicySchema.parse({
      apiVersion: WALKEEP_API,
      kind: 'BackupPolicy',
      metadata: { name: 'strict' },
      spec: { clusters: ['main'], retention: { keepLast: 4 } },
    }),
  );
  const status = () => statusCommand().parseAsync(['main', '--state', root], { from: 'user' });
  await status();
  expect(said.join('')).not.toContain('BackupPolicy');
  writeFileSync(join(root, 'backup-policies/default/strict.json'), '{"half');
  await status();
  expect(said.join('')).toMatch(
    /BackupPolicy "strict" kept on this host can't be read.*apply it again: until then backups of this host go by the defaults/,
  );
});
