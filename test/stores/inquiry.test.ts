import { afterEach, describe, expect, it } from 'vitest';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { retrying } from '../../stores/retrying.ts';
import { makeTempDir } from '../support/temp.ts';
import { refuse, startGcsDouble, type GcsDouble } from './gcs-double.ts';
import { refuse as refuseS3, startS3Double, type S3Double } from './s3-double.ts';

const options = { signal: new AbortController().signal };
let double: GcsDouble | S3Double | undefined;
afterEach(async () => {
  await double?.close();
  double = undefined;
});

describe('what a store tells of itself', () => {
  it('E3: Google tells what the bucket is set to, to those who may look', async () => {
    const settings = { versioning: { enabled: true }, retentionPolicy: { retentionPeriod: '3600' } };
    double = await startGcsDouble((_, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify(settings));
    });
    const found = await double.store().inquire?.('pg/', options);
    expect(found).toMatchObject({ multipartIfAbsent: 'yes', versioning: 'on', objectLock: 'on' });
  });

  it('E3: who may not look at a bucket of Google does not know, and goes on', async () => {
    double = await startGcsDouble((_, response) => refuse(response, 403, 'forbidden'));
    const found = await double.store().inquire?.('pg/', options);
    expect(found).toMatchObject({ multipartIfAbsent: 'yes', versioning: 'unknown', objectLock: 'unknown' });
  });

  it('E3: S3 that is busy is asked again, and one that is away is no answer', async () => {
    let busy = 3;
    double = await startS3Double((_, response) => {
      busy -= 1;
      refuseS3(response, busy > 0 ? 503 : 403, busy > 0 ? 'SlowDown' : 'AccessDenied');
    });
    const store = retrying(double.store(), { firstPauseMs: 1, withinMs: 5_000 });
    await expect(store.inquire?.('pg/', options)).rejects.toMatchObject({ code: 'access-denied' });
    expect(busy).toBeLessThanOrEqual(0);
    busy = 1e9;
    const impatient = retrying(double.store(), { withinMs: 0 });
    await expect(impatient.inquire?.('pg/', options)).rejects.toMatchObject({ code: 'store-unavailable' });
  });

  it('E3: a directory knows, and need not be tried', async () => {
    const directory = makeTempDir('inquired');
    const found = await retrying(createFilesystemStore(directory)).inquire?.('pg/', options);
    expect(found).toMatchObject({ multipartIfAbsent: 'yes', versioning: 'off', objectLock: 'off' });
  });
});
