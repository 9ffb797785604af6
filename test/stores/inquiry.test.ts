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

  it('A5, E3: what S3 does not answer is unknown, question by question, and soon', async () => {
    double = await startS3Double((request, response) => {
      if (request.query.has('versioning')) return;
      refuseS3(response, request.method === 'PUT' ? 403 : 503, 'SlowDown');
    });
    const store = retrying(double.store(), { firstPauseMs: 1 });
    const begun = performance.now();
    const found = await store.inquire?.('pg/', options);
    expect(new Set(Object.values(found ?? {}))).toEqual(new Set(['unknown']));
    expect(performance.now() - begun).toBeLessThan(25_000);
  }, 40_000);

  it('E3: a directory knows, and need not be tried', async () => {
    const directory = makeTempDir('inquired');
    const found = await retrying(createFilesystemStore(directory)).inquire?.('pg/', options);
    expect(found).toMatchObject({ multipartIfAbsent: 'yes', versioning: 'off', objectLock: 'off' });
  });
});
