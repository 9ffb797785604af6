import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { keeperLines, statusCommand } from '../../cli/status.ts';
import { backupPolicySchema, WALKEEP_API } from '../../manifests/backup-policy.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import type { ClusterStatus } from '../../workflows/interface.ts';
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

it('F6: what a loss would cost is said as of its report, and is not known of a server that is gone', () => {
  const at = '2026-11-25T15:51:58Z';
  const told = (role: 'primary' | 'absent', minutes: number) => {
    const status = {
      instances: [{ instance: 'shop-1', role, seenAt: at }],
      archiving: { health: 'working', instance: 'shop-1', waitingFiles: 0, at },
      backups: [],
      rpoSeconds: 3,
      rpoAt: at,
    } as unknown as ClusterStatus;
    return Object.fromEntries(keeperLines(status, new Date(Date.parse(at) + minutes * 60_000)));
  };
  expect(told('primary', 0.5)).toMatchObject({
    Archiving: 'working on shop-1; 0 files wait',
    'Would lose': '3s, if the server were lost now',
  });
  expect(told('primary', 9)).toMatchObject({
    Archiving: 'working on shop-1, as of 9m ago; 0 files wait',
    'Would lose': '3s, as of 9m ago, if the server was lost then',
  });
  expect(told('absent', 9)['Would lose']).toBe(
    'not known: no instance has a data directory; it was 3s, as of 9m ago',
  );
});
