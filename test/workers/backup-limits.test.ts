import { describe, expect, it } from 'vitest';
import type { CopyBackupInput } from '../../activities/base-backup.ts';
import { clusterSchema, CNPG_API } from '../../manifests/cluster.ts';
import { defaultPolicy } from '../../manifests/desire.ts';
import { openArchiveTarget } from '../../operations/cluster-archive.ts';
import { createSecretResolver } from '../../operations/secret-resolver.ts';
import { takeBackupInput } from '../../workers/backup-ports.ts';
import { makeTempDir } from '../support/temp.ts';

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

describe('encryption', () => {
  const cluster = (store: object) =>
    clusterSchema.parse({
      ...manifest,
      spec: { backup: { barmanObjectStore: { destinationPath: 's3://b/p', ...store } } },
    });
  const ofBackups = (store: object) => {
    const about = { namespace: 'default', cluster: 'c', backupName: 'b', instance: 'c-1', runId: 'r' };
    const input = { ...about, attempt: 1, manifest: cluster(store), immediateCheckpoint: false };
    return takeBackupInput(input, '/data').encryption;
  };
  const ofWal = async (store: object) => {
    const resolver = createSecretResolver({ stateDirectory: makeTempDir('state'), environment: {} });
    return (await openArchiveTarget(cluster(store), resolver)).storage.encryption;
  };

  it('is what the field says, or --encryption among the arguments of the same command', async () => {
    for (const args of [['--encryption=aws:kms'], ['-e', 'aws:kms'], ['-v', '-eaws:kms']]) {
      const data = { additionalCommandArgs: args };
      const wal = { archiveAdditionalCommandArgs: args };
      expect(ofBackups({ data })).toBe('aws:kms');
      expect(ofBackups({ wal })).toBeUndefined();
      expect(await ofWal({ wal })).toBe('aws:kms');
      expect(await ofWal({ data })).toBeUndefined();
    }
    expect(ofBackups({ data: { encryption: 'AES256' } })).toBe('AES256');
    expect(await ofWal({ wal: { encryption: 'AES256' } })).toBe('AES256');
    const readOnly = { restoreAdditionalCommandArgs: ['-e', 'aws:kms'] };
    expect(ofBackups({ data: readOnly })).toBeUndefined();
  });
});

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
