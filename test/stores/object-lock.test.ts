import { afterEach, describe, expect, it } from 'vitest';
import { retrying } from '../../stores/retrying.ts';
import {
  type AzureDouble,
  answer as azureAnswer,
  refuse as azureRefuse,
  startAzureDouble,
} from './azure-double.ts';
import { answer as gcsAnswer, type GcsDouble, startGcsDouble } from './gcs-double.ts';
import { answer, refuse, type S3Double, startS3Double } from './s3-double.ts';

const signal = new AbortController().signal;
const options = { signal };
const UNTIL = new Date('2030-01-02T03:04:05.000Z');

let double: S3Double | AzureDouble | GcsDouble;
afterEach(() => double.close());

describe('the lock of an object on S3', () => {
  /** A bucket with object lock, or an error instead, and what is said of an object by the three ways to ask. */
  interface Bucket {
    readonly configuration?: 'on' | { readonly status: number; readonly code: string };
    readonly head?: Record<string, string>;
    readonly retention?: { readonly status: number; readonly code: string } | string;
    readonly hold?: { readonly status: number; readonly code: string } | string;
    readonly headStatus?: number;
    /** How long a failure is tried again, in ms. */
    readonly within?: number;
  }
  const NONE = { status: 404, code: 'NoSuchObjectLockConfiguration' };
  const open = async ({
    configuration = 'on',
    head = {},
    retention = NONE,
    hold = NONE,
    headStatus,
    within,
  }: Bucket) => {
    const s3 = await startS3Double(({ method, query, key }, response) => {
      if (query.has('object-lock')) {
        if (configuration !== 'on') return refuse(response, configuration.status, configuration.code);
        const enabled = '<ObjectLockEnabled>Enabled</ObjectLockEnabled>';
        return answer(response, 200, `<ObjectLockConfiguration>${enabled}</ObjectLockConfiguration>`);
      }
      const said = query.has('retention') ? retention : query.has('legal-hold') ? hold : undefined;
      if (typeof said === 'string') return answer(response, 200, said);
      if (said !== undefined) return refuse(response, said.status, said.code);
      if (method === 'HEAD' && headStatus !== undefined) return answer(response, headStatus);
      if (method === 'HEAD' && key === 'absent') return answer(response, 404);
      return answer(response, 200, '', { 'content-length': '0', ...head });
    });
    double = s3;
    const asked = () =>
      s3.seen.map(({ method, query }) =>
        `${method} ${[...query.keys()].filter((name) => name !== 'x-id').join()}`.trim(),
      );
    const store = retrying(s3.store(), within === undefined ? {} : { withinMs: within });
    return { store, asked };
  };

  it.for([
    {
      why: 'a retention',
      head: {
        'x-amz-object-lock-mode': 'COMPLIANCE',
        'x-amz-object-lock-retain-until-date': UNTIL.toISOString(),
      },
      lock: { until: UNTIL },
    },
    { why: 'a legal hold', head: { 'x-amz-object-lock-legal-hold': 'ON' }, lock: { legalHold: true } },
    {
      why: 'both',
      head: {
        'x-amz-object-lock-retain-until-date': UNTIL.toISOString(),
        'x-amz-object-lock-legal-hold': 'ON',
      },
      lock: { until: UNTIL, legalHold: true },
    },
  ])('D7: by $why is in the answer to one HEAD', async ({ head, lock }) => {
    const { store, asked } = await open({ head });
    expect(await store.lockOf?.('k', options)).toEqual(lock);
    expect(asked()).toEqual(['GET object-lock', 'HEAD']);
  });

  it('is none where the bucket has no object lock, which is asked once', async () => {
    const { store, asked } = await open({
      configuration: { status: 404, code: 'ObjectLockConfigurationNotFoundError' },
    });
    const ask = () => Promise.all(['a', 'b', 'c'].map(async (key) => store.lockOf?.(key, options)));
    expect([await ask(), await ask()].flat()).toEqual(Array.from({ length: 6 }));
    expect(asked()).toEqual(['GET object-lock']);
  });

  it('is none on a server that knows no object lock', async () => {
    const { store, asked } = await open({ configuration: { status: 501, code: 'NotImplemented' } });
    for (const key of ['a', 'b']) expect(await store.lockOf?.(key, options)).toBeUndefined();
    expect(asked().filter((call) => call === 'HEAD')).toEqual([]);
  });

  it('D7: is asked of each object where the key may not ask about the bucket', async () => {
    const { store, asked } = await open({
      configuration: { status: 403, code: 'AccessDenied' },
      head: { 'x-amz-object-lock-legal-hold': 'ON' },
    });
    for (const key of ['a', 'b']) expect(await store.lockOf?.(key, options)).toEqual({ legalHold: true });
    expect(asked()).toEqual(['GET object-lock', 'HEAD', 'HEAD']);
  });

  it('is none to a key that may ask about nothing: most buckets have no locks, and most keys few rights', async () => {
    const denied = { status: 403, code: 'AccessDenied' };
    const { store, asked } = await open({ configuration: denied, retention: denied, hold: denied });
    expect(await store.lockOf?.('k', options)).toBeUndefined();
    expect(asked()).toEqual(['GET object-lock', 'HEAD']);
  });

  it('is none when a key that may see locks sees none; that it may is asked once', async () => {
    const { store, asked } = await open({});
    for (const key of ['a', 'b', 'absent']) expect(await store.lockOf?.(key, options)).toBeUndefined();
    expect(asked()).toEqual(['GET object-lock', 'HEAD', 'GET retention', 'GET legal-hold', 'HEAD', 'HEAD']);
  });

  const DENIED = { status: 403, code: 'AccessDenied' };
  it.for([
    { denied: { retention: DENIED }, lacks: 's3:GetObjectRetention' },
    { denied: { hold: DENIED }, lacks: 's3:GetObjectLegalHold' },
    {
      denied: { retention: DENIED, hold: DENIED },
      lacks: 's3:GetObjectRetention and s3:GetObjectLegalHold',
    },
  ])('D3: is unknown to a key that may not see it, whose HEAD leaves it out: $lacks', async (bucket) => {
    const { store, asked } = await open(bucket.denied);
    for (const key of ['a', 'b'])
      expect(await store.lockOf?.(key, options)).toEqual({
        unknown: `whether the bucket has it locked is not known: this key lacks ${bucket.lacks}`,
      });
    expect(asked()).toEqual(['GET object-lock', 'HEAD', 'GET retention', 'GET legal-hold', 'HEAD']);
  });

  const RETENTION = `<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>${UNTIL.toISOString()}</RetainUntilDate></Retention>`;
  const HOLD = '<LegalHold><Status>ON</Status></LegalHold>';

  it.for([
    { by: 'its retention', bucket: { retention: RETENTION }, lock: { until: UNTIL } },
    { by: 'its legal hold', bucket: { hold: HOLD }, lock: { legalHold: true } },
    {
      by: 'both, with a HEAD that is denied',
      bucket: { retention: RETENTION, hold: HOLD, headStatus: 403 },
      lock: { until: UNTIL, legalHold: true },
    },
  ])('D7: is told by $by, where HEAD leaves it out of every answer', async ({ bucket, lock }) => {
    const { store } = await open(bucket);
    for (const key of ['a', 'b']) expect(await store.lockOf?.(key, options)).toEqual(lock);
  });

  it('D3: a retention that is over says nothing about a legal hold that the key may not see', async () => {
    const head = { 'x-amz-object-lock-retain-until-date': '2020-01-01T00:00:00Z' };
    const { store } = await open({ head, hold: DENIED });
    expect(await store.lockOf?.('k', options)).toEqual({ unknown: expect.stringContaining('LegalHold') });
    await double.close();
    expect(await (await open({ head })).store.lockOf?.('k', options)).toEqual({
      until: new Date('2020-01-01T00:00:00Z'),
    });
  });

  it('is not looked for, and that is said, by a key that may look at neither bucket nor object', async () => {
    const { store } = await open({ configuration: DENIED, headStatus: 403 });
    expect(await store.lockOf?.('k', options)).toEqual({ unseen: expect.stringContaining('s3:GetObject') });
    expect(await store.hasLocks?.(options)).toBe(true);
  });

  it('is none on a server that takes the question for one about an object', async () => {
    const { store } = await open({ configuration: { status: 404, code: 'NoSuchKey' } });
    expect(await store.lockOf?.('k', options)).toBeUndefined();
    expect(await store.hasLocks?.(options)).toBe(false);
  });

  it('D3: a bucket that fails to answer is asked again, and a failure in the end', async () => {
    const failing = await open({ configuration: { status: 503, code: 'SlowDown' }, within: 100 });
    await expect(failing.store.lockOf?.('k', options)).rejects.toMatchObject({ code: 'store-unavailable' });
  });

  it('D3: a bucket that does not answer is a failure, not a bucket without locks', async () => {
    const { store } = await open({ configuration: { status: 404, code: 'NoSuchBucket' } });
    await expect(store.lockOf?.('k', options)).rejects.toMatchObject({ code: 'bucket-missing' });
  });
});

describe('the lock of a blob on Azure', () => {
  const open = async (
    container: Record<string, string> | 'denied',
    blob: Record<string, string> | 'denied' = {},
  ) => {
    const azure = await startAzureDouble(({ key, query }, response) => {
      if (query.get('restype') === 'container') {
        if (container === 'denied') return azureRefuse(response, 403, 'AuthorizationPermissionMismatch');
        return azureAnswer(response, 200, '', container);
      }
      if (key === 'absent') return azureRefuse(response, 404, 'BlobNotFound');
      if (blob === 'denied') return azureRefuse(response, 403, 'AuthorizationPermissionMismatch');
      return azureAnswer(response, 200, '', { 'content-length': '0', ...blob });
    });
    double = azure;
    return { store: retrying(azure.store()), calls: () => azure.calls() };
  };
  const VERSIONS = { 'x-ms-immutable-storage-with-versioning-enabled': 'true' };
  const RETAINED = {
    'x-ms-immutability-policy-until-date': UNTIL.toUTCString(),
    'x-ms-immutability-policy-mode': 'unlocked',
  };

  it('is none where its container has nothing of the kind, which is asked once', async () => {
    const { store, calls } = await open({
      'x-ms-has-legal-hold': 'false',
      'x-ms-has-immutability-policy': 'false',
    });
    for (const key of ['a', 'b']) expect(await store.lockOf?.(key, options)).toBeUndefined();
    expect(calls()).toHaveLength(1);
  });

  it.for([
    { why: 'its retention', container: VERSIONS, blob: RETAINED, lock: { until: UNTIL } },
    {
      why: 'its legal hold',
      container: VERSIONS,
      blob: { 'x-ms-legal-hold': 'true' },
      lock: { legalHold: true },
    },
    { why: 'nothing', container: VERSIONS, blob: { 'x-ms-legal-hold': 'false' }, lock: undefined },
    {
      why: 'the legal hold of its container',
      container: { 'x-ms-has-legal-hold': 'true' },
      blob: {},
      lock: { legalHold: true },
    },
    {
      why: 'a policy of its container that does not tell the end',
      container: { 'x-ms-has-immutability-policy': 'true' },
      blob: {},
      lock: { unknown: expect.stringContaining('immutability policy of its container') },
    },
    {
      why: 'its retention, for a SAS that may not ask about the container',
      container: 'denied' as const,
      blob: RETAINED,
      lock: { until: UNTIL },
    },
  ])('D7: is $why', async ({ container, blob, lock }) => {
    const { store } = await open(container, blob);
    expect(await store.lockOf?.('k', options)).toEqual(lock);
  });

  it('D3: is unknown where its container has locks and the blob may not be read', async () => {
    const { store } = await open(VERSIONS, 'denied');
    expect(await store.lockOf?.('k', options)).toEqual({ unknown: expect.stringContaining('properties') });
  });

  it('is not looked for, and that is said, by a key that may read neither container nor blob', async () => {
    const { store } = await open('denied', 'denied');
    expect(await store.lockOf?.('k', options)).toEqual({ unseen: expect.stringContaining('properties') });
    expect(await store.hasLocks?.(options)).toBe(true);
  });

  it('is none of what is not there', async () => {
    const { store } = await open(VERSIONS);
    expect(await store.lockOf?.('absent', options)).toBeUndefined();
  });
});

describe('the lock of an object on Google Cloud Storage', () => {
  it.for([
    { record: {}, lock: undefined },
    { record: { retentionExpirationTime: UNTIL.toISOString() }, lock: { until: UNTIL } },
    {
      record: {
        retentionExpirationTime: '2029-01-01T00:00:00Z',
        retention: { retainUntilTime: UNTIL.toISOString() },
      },
      lock: { until: UNTIL },
    },
    { record: { temporaryHold: true }, lock: { legalHold: true } },
    { record: { eventBasedHold: true, temporaryHold: false }, lock: { legalHold: true } },
  ])('D7: is in its record: $record', async ({ record, lock }) => {
    const gcs = await startGcsDouble((_, response) => gcsAnswer(response, 200, record));
    double = gcs;
    expect(await retrying(gcs.store()).lockOf?.('k', options)).toEqual(lock);
    expect(gcs.seen[0]?.query.get('fields')).toContain('retentionExpirationTime');
  });

  it('D7: is told by a listing, so that nobody asks for each', async () => {
    const item = (name: string, more: object) => ({
      name,
      size: '1',
      timeCreated: '2026-01-01T00:00:00Z',
      ...more,
    });
    const items = [
      item('a', {}),
      item('b', { temporaryHold: true }),
      item('c', { retentionExpirationTime: UNTIL.toISOString() }),
    ];
    const gcs = await startGcsDouble((_, response) =>
      gcsAnswer(response, 200, { kind: 'storage#objects', items }),
    );
    double = gcs;
    const found = [];
    for await (const { lock } of retrying(gcs.store()).list('', options)) found.push(lock);
    expect(found).toEqual(['none', { legalHold: true }, { until: UNTIL }]);
    expect(gcs.seen[0]?.query.get('fields')).toMatch(/items\(.*temporaryHold.*retention\(/);
  });

  it('D3: that has an end that can not be read has none', async () => {
    const gcs = await startGcsDouble((_, response) =>
      gcsAnswer(response, 200, { retentionExpirationTime: 'soon' }),
    );
    double = gcs;
    const lock = await gcs.store().lockOf?.('k', options);
    expect(lock?.until?.getTime()).toBeNaN();
  });
});
