import { afterEach, describe, expect, it } from 'vitest';
import { readKeep, readKeeps, releaseKeep, writeKeep } from '../../repository/keeps.ts';
import { createRepository } from '../../repository/repository.ts';
import { readSmallText } from '../../repository/small-object.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { createS3Store } from '../../stores/s3.ts';
import { answer, refuse, startS3Double, type S3Double } from '../stores/s3-double.ts';

const { signal } = new AbortController();
const ID = '20261122T222531';

describe('keeps', () => {
  it('E5: are written as barman does, and released', async () => {
    const r = createRepository(createMemoryStore(), 'pg');
    await writeKeep(r, ID, 'standalone', signal);
    const key = `pg/base/${ID}/annotations/keep`;
    expect(await readSmallText(r.store, key, { maxBytes: 100, signal })).toBe('standalone');
    expect(await readKeep(r, ID, signal)).toBe('standalone');
    expect(await readKeeps(r, signal)).toEqual(new Map([[ID, 'standalone']]));
    await releaseKeep(r, ID, signal);
    await releaseKeep(r, ID, signal);
    expect(await readKeep(r, ID, signal)).toBeUndefined();
  });
});

describe('keeps of stock tools that were told a destination with a trailing slash', () => {
  let double: S3Double | undefined;
  afterEach(() => double?.close());

  /** A server of S3 with these objects below the bucket. */
  async function serve(objects: Map<string, string>) {
    double = await startS3Double(({ method, key, query, body }, response) => {
      if (method === 'POST' && query.has('delete')) {
        const keys = [...body.toString().matchAll(/<Key>([^<]*)<\/Key>/g)].map((match) => match[1] ?? '');
        for (const doomed of keys) objects.delete(doomed);
        return answer(
          response,
          200,
          `<DeleteResult>${keys.map((one) => `<Deleted><Key>${one}</Key></Deleted>`).join('')}</DeleteResult>`,
        );
      }
      if (query.has('list-type')) {
        const found = [...objects.keys()]
          .filter((one) => one.startsWith(query.get('prefix') ?? ''))
          .toSorted();
        const contents = found.map(
          (one) =>
            `<Contents><Key>${one}</Key><Size>4</Size><LastModified>2026-11-24T00:00:00.000Z</LastModified></Contents>`,
        );
        return answer(
          response,
          200,
          `<ListBucketResult><IsTruncated>false</IsTruncated>${contents.join('')}</ListBucketResult>`,
        );
      }
      const text = objects.get(key);
      if (text === undefined) return refuse(response, 404, 'NoSuchKey');
      response.writeHead(200, { etag: '"e"', 'content-length': String(text.length) });
      response.end(text);
    });
    return createRepository(createS3Store({ ...double.config, prefix: 'clusters/prod' }), 'pg');
  }

  it('H8: are seen on S3, and released', async () => {
    const objects = new Map([
      [`clusters/prod/pg/base/${ID}/backup.info`, 'x'],
      [`clusters/prod//pg/base/${ID}/annotations/keep`, 'full'],
    ]);
    const r = await serve(objects);
    expect(await readKeeps(r, signal)).toEqual(new Map([[ID, 'full']]));
    expect(await readKeep(r, ID, signal)).toBe('full');
    await releaseKeep(r, ID, signal);
    expect([...objects.keys()]).toEqual([`clusters/prod/pg/base/${ID}/backup.info`]);
  });

  it('S2: no other key begins with a slash', async () => {
    const r = await serve(new Map());
    for (const key of ['/pg/base', `/pg/base/${ID}/backup.info`, '//pg/base/', '/../base/']) {
      await expect(r.store.get(key, { signal })).rejects.toMatchObject({ code: 'format-invalid' });
      await expect(r.store.delete([key], { signal })).rejects.toMatchObject({ code: 'format-invalid' });
    }
    await expect(
      r.store.put(`/pg/base/${ID}/annotations/keep`, Buffer.from('x'), { signal }),
    ).rejects.toMatchObject({
      code: 'format-invalid',
    });
  });
});
