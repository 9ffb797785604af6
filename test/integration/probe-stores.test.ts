import { expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { createRepository } from '../../repository/repository.ts';
import { probeStore } from '../../repository/probe-store.ts';
import { weaknessesOf } from '../../repository/store-record.ts';
import { openStore } from '../../stores/open-store.ts';
import type { StoreConfig } from '../../stores/store-config.ts';
import { startAzurite } from '../support/azurite.ts';
import { startFakeGcs } from '../support/fake-gcs.ts';
import { startS3 } from '../support/s3.ts';
import { makeTempDir } from '../support/temp.ts';
import { describeWith } from '../support/tools.ts';

const { signal } = new AbortController();

async function probed(config: StoreConfig) {
  const r = createRepository(openStore(config), 'pg');
  try {
    const { record, refused, left } = await probeStore(r, signal);
    expect({ refused, left, weak: weaknessesOf(record) }).toEqual({ refused: {}, left: [], weak: [] });
    for await (const { key } of r.store.list('', { signal })) throw new Error(`left behind: ${key}`);
    return record;
  } finally {
    await r.close();
  }
}

const s3Config = (s3: Awaited<ReturnType<typeof startS3>>): StoreConfig => ({
  kind: 's3',
  bucket: s3.bucket,
  prefix: 'team/a',
  endpointUrl: s3.endpointUrl,
  credentials: {
    accessKeyId: new Secret(s3.accessKeyId),
    secretAccessKey: new Secret(s3.secretAccessKey),
  },
});

describeWith('versitygw', 'a probe of S3', () => {
  it('E3: finds what versitygw does, and that it keeps no versions', async () => {
    expect(await probed(s3Config(await startS3()))).toMatchObject({
      ifAbsent: 'yes',
      multipartIfAbsent: 'yes',
      checksums: 'yes',
      bulkDelete: 'yes',
      listPaging: 'yes',
      listStart: 'yes',
      versioning: 'off',
      mayDelete: 'yes',
    });
  });

  it('E3: finds that versions are kept', async () => {
    const s3 = await startS3({ versioning: true });
    const { PutBucketVersioningCommand } = await import('@aws-sdk/client-s3');
    const on = { Status: 'Enabled' } as const;
    await s3
      .client()
      .send(new PutBucketVersioningCommand({ Bucket: s3.bucket, VersioningConfiguration: on }));
    expect(await probed(s3Config(s3))).toMatchObject({ ifAbsent: 'yes', versioning: 'on' });
  });
});

describeWith('azurite', 'a probe of Azure', () => {
  it('E3: finds that it creates only', async () => {
    const { serviceUrl, container, account, accountKey } = await startAzurite();
    const credentials = { way: 'account-key', account, key: new Secret(accountKey) } as const;
    const found = await probed({ kind: 'azure', serviceUrl, container, prefix: '', credentials });
    expect(found).toMatchObject({ ifAbsent: 'yes', mayDelete: 'yes', versioning: 'unknown' });
  });
});

describeWith('fake-gcs-server', 'a probe of Google Cloud Storage', () => {
  it('E3: finds that it creates only, and what the bucket is set to', async () => {
    const { bucket, endpointUrl } = await startFakeGcs();
    const found = await probed({ kind: 'gs', bucket, prefix: '', endpointUrl });
    expect(found).toMatchObject({ ifAbsent: 'yes', mayDelete: 'yes', versioning: 'off', objectLock: 'off' });
  });
});

it('E3: a probe of a directory finds that it creates only, and leaves no folder', async () => {
  const found = await probed({ kind: 'file', directory: makeTempDir('probed') });
  expect(found).toMatchObject({ ifAbsent: 'yes', multipartIfAbsent: 'yes', mayDelete: 'yes' });
});
