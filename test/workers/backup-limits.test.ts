import { describe, expect, it } from 'vitest';
import type { CopyBackupInput } from '../../activities/base-backup.ts';
import { clusterSchema, CNPG_API } from '../../manifests/cluster.ts';
import { defaultPolicy } from '../../manifests/desire.ts';
import { takeBackupInput } from '../../workers/backup-ports.ts';

const manifest = clusterSchema.parse({
  apiVersion: CNPG_API,
  kind: 'Cluster',
  metadata: { name: 'c' },
  spec: { backup: { barmanObjectStore: { destinationPath: 'file:///srv/backups', data: { jobs: 4 } } } },
});

function inputWith(limits?: CopyBackupInput['limits']) {
  const about = {
    namespace: 'default',
    cluster: 'c',
    backupName: 'b',
    instance: 'c-1',
    runId: 'r',
    attempt: 1,
  };
  const input = { ...about, manifest, immediateCheckpoint: false, ...(limits && { limits }) };
  return takeBackupInput(input, '/data');
}

describe('limits of a copy', () => {
  it('are those of the policy: its jobs before those of the manifest', () => {
    expect(inputWith({ maxRate: '64MiB/s', jobs: 1, nice: 5 })).toMatchObject({
      jobs: 1,
      maxBytesPerSecond: 64 * 2 ** 20,
      nice: 5,
    });
  });

  it('without a policy: no rate, the manifest’s jobs, a little nice', () => {
    const input = inputWith(defaultPolicy('c').limits);
    expect(input).toMatchObject({ jobs: 4, nice: 10 });
    expect(input).not.toHaveProperty('maxBytesPerSecond');
  });

  it('F3: a run of 0.1.0 told nothing of limits', () => {
    const input = inputWith();
    expect(input.jobs).toBe(4);
    for (const name of ['maxBytesPerSecond', 'nice']) expect(input).not.toHaveProperty(name);
  });
});
