import { afterEach, describe, expect, it } from 'vitest';
import { createRepository } from '../../repository/repository.ts';
import { probeStore } from '../../repository/probe-store.ts';
import { readStoreRecord, weaknessesOf, writeStoreRecord } from '../../repository/store-record.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { refuse } from '../stores/s3-double.ts';
import { startS3ServerDouble, type Oddities, type S3ServerDouble } from '../stores/s3-server-double.ts';

const signal = new AbortController().signal;
let double: S3ServerDouble | undefined;
afterEach(async () => {
  await double?.close();
  double = undefined;
});

const open = async (odd: Oddities = {}) => {
  double = await startS3ServerDouble(odd);
  return createRepository(double.store(), 'pg');
};
const probe = async (odd: Oddities = {}) => probeStore(await open(odd), signal);

describe('a probe of a store', () => {
  it('E3: of one that does all as S3 does finds nothing weak, and leaves nothing', async () => {
    const { record, refused, left } = await probe();
    expect(record).toMatchObject({
      ifAbsent: 'yes',
      multipartIfAbsent: 'yes',
      checksums: 'yes',
      bulkDelete: 'yes',
      listPaging: 'yes',
      listStart: 'yes',
      versioning: 'off',
      objectLock: 'off',
      mayDelete: 'yes',
    });
    expect(weaknessesOf(record)).toEqual([]);
    expect({ refused, left, objects: double?.objects.size }).toEqual({ refused: {}, left: [], objects: 0 });
  });

  it.for([
    {
      why: 'a condition that is passed over',
      odd: { ignoresCondition: true },
      found: { ifAbsent: 'no', multipartIfAbsent: 'no' },
    },
    { why: 'a condition that is refused', odd: { ignoresCondition: 'refused' }, found: { ifAbsent: 'no' } },
    {
      why: 'a condition that is passed over in parts only',
      odd: { ignoresConditionInParts: true },
      found: { ifAbsent: 'yes', multipartIfAbsent: 'no' },
    },
    { why: 'checksums nobody looks at', odd: { ignoresChecksums: true }, found: { checksums: 'no' } },
    { why: 'no deletion of many', odd: { refusesBulkDelete: true }, found: { bulkDelete: 'no' } },
    { why: 'pages of any size', odd: { ignoresPages: true }, found: { listPaging: 'no', listStart: 'yes' } },
    {
      why: 'listings that begin at the beginning',
      odd: { ignoresStart: true },
      found: { listPaging: 'yes', listStart: 'no' },
    },
    { why: 'versions', odd: { versioning: 'Enabled' }, found: { versioning: 'on' } },
    { why: 'versions no more', odd: { versioning: 'Suspended' }, found: { versioning: 'suspended' } },
    { why: 'a secret about versions', odd: { versioning: 'denied' }, found: { versioning: 'unknown' } },
    { why: 'a lock by default', odd: { objectLock: 'default' }, found: { objectLock: 'on' } },
    { why: 'no idea of locks', odd: { objectLock: 'NotImplemented' }, found: { objectLock: 'unknown' } },
  ] satisfies { why: string; odd: Oddities; found: Record<string, string> }[])(
    'E3: finds $why',
    async ({ odd, found }) => {
      const { record, left } = await probe(odd);
      expect(record).toMatchObject(found);
      expect({ left, objects: double?.objects.size }).toEqual({ left: [], objects: 0 });
    },
  );

  it('S6, E3: with a key that may not delete says so, and what it left', async () => {
    const { record, refused, left } = await probe({ deniesDelete: true });
    expect(record).toMatchObject({ ifAbsent: 'yes', multipartIfAbsent: 'yes', mayDelete: 'no' });
    expect(refused.delete).toMatch(/AccessDenied/);
    expect(left.length).toBeGreaterThan(0);
    const keys = [...(double?.objects.keys() ?? [])];
    expect(keys.every((key) => key.startsWith('pg/walkeep/probe/'))).toBe(true);
  });

  it('S6, E3: with a key that may do nothing but create finds that it creates, and what else it may', async () => {
    const { record, refused } = await probe({
      intercept: (q, response) =>
        (q.method === 'DELETE' || (q.method === 'PUT' && q.headers['if-none-match'] === undefined)) &&
        !q.query.has('uploadId') &&
        (refuse(response, 403, 'AccessDenied'), true),
      deniesDelete: true,
    });
    expect(record).toMatchObject({
      ifAbsent: 'yes',
      multipartIfAbsent: 'yes',
      checksums: 'yes',
      listPaging: 'yes',
      mayDelete: 'no',
    });
    expect(Object.keys(refused)).toEqual(['delete']);
  });

  it('E3: of a server that answers one question with errors has the answers to the others', async () => {
    const { record } = await probe({
      intercept: (q, response) =>
        q.query.has('object-lock') && (refuse(response, 500, 'InternalError'), true),
    });
    expect(record).toMatchObject({ ifAbsent: 'yes', multipartIfAbsent: 'yes', objectLock: 'unknown' });
  });

  it('E3: touches nothing but objects of its own below walkeep/probe/', async () => {
    const r = await open({ latencyMs: () => 0 });
    await r.store.put('pg/wals/x', Buffer.from('x'), { signal });
    await probeStore(r, signal);
    const written = double?.seen.filter(({ method }) => ['PUT', 'POST', 'DELETE'].includes(method));
    const keys = written?.map(({ key }) => key).filter((key) => key !== '' && key !== 'pg/wals/x');
    expect(new Set(keys?.map((key) => key.split('/').slice(0, 3).join('/')))).toEqual(
      new Set(['pg/walkeep/probe']),
    );
    expect([...(double?.objects.keys() ?? [])]).toEqual(['pg/wals/x']);
  });

  it('E3: a store in this process creates only, and what else it does is not known', async () => {
    const { record } = await probeStore(createRepository(createMemoryStore(), 'pg'), signal);
    expect(record).toMatchObject({ ifAbsent: 'yes', multipartIfAbsent: 'yes', versioning: 'unknown' });
  });
});

describe('what was found out about a store', () => {
  it('E3: is written and read again; what a newer walkeep added is passed over, nonsense is found out anew', async () => {
    const r = createRepository(createMemoryStore(), 'pg');
    const { record } = await probeStore(r, signal);
    await writeStoreRecord(r, record, signal);
    expect(await readStoreRecord(r, signal)).toEqual(record);
    const put = (text: string) => r.store.put('pg/walkeep/store.json', Buffer.from(text), { signal });
    await put(JSON.stringify({ ...record, colour: 'blue' }));
    expect(await readStoreRecord(r, signal)).toEqual(record);
    await put('{"version":1,"ifAbsent":"perhaps"}');
    expect(await readStoreRecord(r, signal)).toBeUndefined();
  });
});
