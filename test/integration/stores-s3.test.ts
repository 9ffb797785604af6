import { GetObjectTaggingCommand, ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import { expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { openStore } from '../../stores/open-store.ts';
import { createS3Store } from '../../stores/s3.ts';
import type { S3StoreConfig } from '../../stores/store-config.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { describeObjectStore } from '../stores/conformance.ts';
import { type S3Server, startS3 } from '../support/s3.ts';
import { describeWith } from '../support/tools.ts';

const configOf = (
  s3: S3Server,
  change: { bucket?: string; prefix?: string; key?: string; secret?: string } = {},
): S3StoreConfig => ({
  kind: 's3',
  bucket: change.bucket ?? s3.bucket,
  prefix: change.prefix ?? '',
  endpointUrl: s3.endpointUrl,
  credentials: {
    accessKeyId: new Secret(change.key ?? s3.accessKeyId),
    secretAccessKey: new Secret(change.secret ?? s3.secretAccessKey),
  },
});

describeWith('versitygw', 'S3', () => {
  describeObjectStore('S3 (versitygw)', async () => {
    const s3 = await startS3();
    const client = s3.client();
    return {
      store: createS3Store(configOf(s3, { prefix: 'team/a b' })),
      missing: createS3Store(configOf(s3, { bucket: 'no-such-bucket' })),
      denied: [
        {
          why: 'unknown key',
          store: createS3Store(configOf(s3, { key: 'nobody' })),
          secrets: ['nobody', s3.secretAccessKey],
        },
        {
          why: 'wrong secret',
          store: createS3Store(configOf(s3, { secret: 'wrong-secret-xyz' })),
          secrets: [s3.accessKeyId, 'wrong-secret-xyz'],
        },
      ],
      leftovers: async () =>
        (await client.send(new ListMultipartUploadsCommand({ Bucket: s3.bucket }))).Uploads?.length ?? 0,
    };
  });

  it('stores with different prefixes of one bucket do not see each other', async () => {
    const s3 = await startS3();
    const signal = new AbortController().signal;
    const [a, ab, all] = ['a', 'ab', ''].map((prefix) => openStore(configOf(s3, { prefix })));
    await a!.put('x/1', Buffer.from('a'), { signal });
    await ab!.put('x/1', Buffer.from('ab'), { signal });
    const keys = async (store: typeof a) => {
      const found: string[] = [];
      for await (const { key } of store!.list('', { signal })) found.push(key);
      return found;
    };
    expect(await keys(a)).toEqual(['x/1']);
    expect(await keys(all)).toEqual(['a/x/1', 'ab/x/1']);
    expect((await collectBytes((await all!.get('ab/x/1', { signal }))!, 10)).toString()).toBe('ab');
  });

  it('tags objects, small and large', async () => {
    const s3 = await startS3();
    const signal = new AbortController().signal;
    const store = createS3Store(configOf(s3));
    const tags = { team: 'a+b=c @d', 'walkeep/kind': 'wal' };
    for (const size of [5, 17 * 1024 * 1024]) {
      await store.put('tagged', Buffer.alloc(size), { signal, tags });
      const { TagSet } = await s3
        .client()
        .send(new GetObjectTaggingCommand({ Bucket: s3.bucket, Key: 'tagged' }));
      expect(Object.fromEntries(TagSet!.map(({ Key, Value }) => [Key, Value]))).toEqual(tags);
    }
  });

  it('comes back after the server was killed and started again', async () => {
    const s3 = await startS3();
    const signal = new AbortController().signal;
    const store = openStore(configOf(s3));
    await store.put('a', Buffer.from('a'), { signal });
    await s3.kill9();
    const bare = createS3Store(configOf(s3));
    await expect(bare.head('a', { signal })).rejects.toMatchObject({ code: 'store-unavailable' });
    const looking = store.head('a', { signal });
    await s3.start();
    expect(await looking).toMatchObject({ sizeBytes: 1 });
  });
});
