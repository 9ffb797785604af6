import { crc32 } from 'node:zlib';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, test } from 'vitest';
import type { ErrorCode } from '../../core/errors.ts';
import { retrying } from '../../stores/retrying.ts';
import { createS3Connection, S3_TIMEOUTS, withReadTimeout } from '../../stores/s3-client.ts';
import { download } from '../../stores/s3-download.ts';
import { toStoreError } from '../../stores/s3-errors.ts';
import { partBytes } from '../../stores/s3-upload.ts';
import { createS3Store } from '../../stores/s3.ts';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import { answer, refuse, type S3Double, type Script, startS3Double } from './s3-double.ts';

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;
const signal = new AbortController().signal;
const options = { signal };
const code = (expected: ErrorCode) => ({ name: 'BackupError', code: expected });

let double: S3Double;
const start = async (script: Script) => (double = await startS3Double(script));
afterEach(() => double.close());

const large = () => piecesOf(Buffer.alloc(20 * MiB, 'x'));
const readAll = async (key: string) => collectBytes((await double.store().get(key, options))!, 1e9);
const listAll = async () => {
  const keys: string[] = [];
  for await (const { key } of double.store().list('', options)) keys.push(key);
  return keys;
};

/** Answers a multipart upload up to its completion. */
const upload =
  (complete: Script, others: Script = (_, response) => answer(response, 204)): Script =>
  (request, response) => {
    const { method, query } = request;
    const UploadId = '<UploadId>u1</UploadId>';
    if (method === 'POST' && query.has('uploads')) {
      answer(response, 200, `<InitiateMultipartUploadResult>${UploadId}</InitiateMultipartUploadResult>`);
    } else if (method === 'PUT' && query.has('partNumber')) {
      answer(response, 200, '', {
        etag: `"p${query.get('partNumber')}"`,
        'x-amz-checksum-crc32': 'AAAAAA==',
      });
    } else if (method === 'POST' && query.has('uploadId')) complete(request, response);
    else others(request, response);
  };
const COMPLETED = '<CompleteMultipartUploadResult><ETag>"m"</ETag></CompleteMultipartUploadResult>';

describe('an upload in parts', () => {
  it('E2: with 200 and an error in the body was not completed, and its upload is removed', async () => {
    await start(
      upload(
        (_, response) => answer(response, 200, '<Error><Code>InternalError</Code></Error>'),
        (request, response) => answer(response, request.method === 'HEAD' ? 404 : 204),
      ),
    );
    await expect(double.store().put('k', large(), options)).rejects.toMatchObject(code('store-unavailable'));
    expect(double.calls().at(-1)).toBe('DELETE k?uploadId');
  });

  it.for([
    { what: 'nothing', body: '' },
    { what: 'a page of a proxy', body: '<html><body>welcome</body></html>' },
  ])('E2: with 200 and $what in the body was not completed', async ({ body }) => {
    await start(
      upload(
        (_, response) => answer(response, 200, body),
        (request, response) => answer(response, request.method === 'HEAD' ? 404 : 204),
      ),
    );
    await expect(double.store().put('k', large(), options)).rejects.toMatchObject(code('store-unavailable'));
  });

  it('E2: whose completion has no answer is looked up: it counts when the object is this very upload', async () => {
    await start(
      upload(
        (_, response) => response.destroy(),
        (request, response) => {
          const id = double.seen.find(({ query }) => query.has('uploads'))?.headers['x-amz-meta-walkeep-put'];
          answer(response, 200, '', { 'x-amz-meta-walkeep-put': String(id), 'content-length': '0' });
        },
      ),
    );
    expect(await double.store().put('k', large(), { signal, ifAbsent: true })).toEqual({
      sizeBytes: 20 * MiB,
    });
    expect(double.calls()).not.toContain('DELETE k?uploadId');
  });

  it('A3: that is refused because the object exists is not taken for the object of another', async () => {
    await start(
      upload(
        (_, response) => refuse(response, 412, 'PreconditionFailed'),
        (_, response) =>
          answer(response, 200, '', { 'x-amz-meta-walkeep-put': 'of another', 'content-length': '0' }),
      ),
    );
    const putting = double.store().put('k', large(), { signal, ifAbsent: true });
    await expect(putting).rejects.toMatchObject(code('already-exists'));
    const completion = double.seen.find(({ method, query }) => method === 'POST' && query.has('uploadId'));
    expect(completion?.headers['if-none-match']).toBe('*');
    expect(double.calls().at(-1)).toBe('DELETE k?uploadId');
  });

  it('announces the checksum that it completes with', async () => {
    await start(upload((_, response) => answer(response, 200, COMPLETED)));
    await double.store().put('k', large(), { signal, encryption: 'aws:kms', tags: { a: 'b c' } });
    const [created] = double.seen;
    expect(created?.headers).toMatchObject({
      'x-amz-checksum-algorithm': 'CRC32',
      'x-amz-server-side-encryption': 'aws:kms',
      'x-amz-tagging': 'a=b%20c',
    });
    expect(double.seen.at(-1)?.body.toString()).toMatch(/<ChecksumCRC32>AAAAAA==.*<PartNumber>2</);
  });

  it('sends one part of 16 MiB after the other, or two smaller ones, and stops at the first that is refused', async () => {
    const held: (() => void)[] = [];
    const release = () => held.splice(0).forEach((answerNow) => answerNow());
    let most = 0;
    const refusing: { from: number } = { from: 99 };
    await start((request, response) => {
      const number = Number(request.query.get('partNumber') ?? 0);
      if (number === 0) {
        upload((_, done) => answer(done, 200, COMPLETED))(request, response);
        return;
      }
      held.push(() =>
        number >= refusing.from ? refuse(response, 403, 'AccessDenied') : answer(response, 200),
      );
      most = Math.max(most, held.length);
      // long enough for a second to come, if it would
      setTimeout(release, 150);
    });
    const body = async function* () {
      for (let n = 0; n < 7; n++) yield Buffer.alloc(16 * MiB);
    };
    const store = double.store({ idleMs: 20_000, callMs: 20_000 });
    expect(await store.put('k', body(), options)).toEqual({ sizeBytes: 7 * 16 * MiB });
    expect(most).toBe(1);
    most = 0;
    const expected = { ...options, expectedBytes: 7 * 16 * MiB };
    expect(await store.put('k', body(), expected)).toEqual({ sizeBytes: 7 * 16 * MiB });
    expect(most).toBe(2);
    refusing.from = 3;
    await expect(store.put('k', body(), options)).rejects.toMatchObject(code('access-denied'));
    expect(double.calls().at(-1)).toBe('DELETE k?uploadId');
  });

  it('fits 5 TiB into 10 000 parts, with equal parts where the size is known', () => {
    let sent = 0;
    let parts = 0;
    while (sent < 5 * 1024 * GiB) {
      const size = partBytes(sent);
      expect(size).toBeLessThanOrEqual(5 * GiB);
      sent += size;
      parts += 1;
    }
    expect(parts).toBeLessThan(10_000);
    for (const size of [1, 100 * GiB, 160 * GiB, 5 * 1024 * GiB]) {
      expect(Math.ceil(size / partBytes(0, { sizeBytes: size }))).toBeLessThanOrEqual(10_000);
      expect(partBytes(size / 2, { sizeBytes: size })).toBe(partBytes(0, { sizeBytes: size }));
    }
    expect(partBytes(99 * GiB)).toBe(16 * MiB);
  });

  it('has equal parts of 8 MiB or little more as far as was expected, and fits ten times that into 10 000', () => {
    for (const expectedBytes of [1, 50 * GiB, 100 * GiB, 400 * GiB]) {
      const first = partBytes(0, { expectedBytes });
      let parts = 0;
      for (let sent = 0; sent < 10 * expectedBytes; parts += 1) {
        const size = partBytes(sent, { expectedBytes });
        if (sent < expectedBytes) expect(size).toBe(first);
        sent += size;
      }
      expect(parts).toBeLessThan(10_000);
    }
    expect(partBytes(0, { expectedBytes: 70 * GiB })).toBe(8 * MiB);
    expect(partBytes(0, { expectedBytes: 100 * GiB })).toBe(12 * MiB);
  });
});

describe('a put', () => {
  it('A2: that was repeated because its answer was lost, and finds its own object, succeeded', async () => {
    await start((request, response) => {
      const puts = double.seen.filter(({ method }) => method === 'PUT');
      if (request.method === 'HEAD') {
        const id = puts[0]?.headers['x-amz-meta-walkeep-put'];
        answer(response, 200, '', { 'x-amz-meta-walkeep-put': String(id), 'content-length': '0' });
      } else if (puts.length === 1) response.destroy();
      else refuse(response, 412, 'PreconditionFailed');
    });
    expect(await double.store().put('k', Buffer.from('x'), { signal, ifAbsent: true })).toEqual({
      sizeBytes: 1,
    });
    expect(double.seen[0]?.headers).toMatchObject({ 'if-none-match': '*', 'content-length': '1' });
    expect(double.seen[0]?.headers['x-amz-checksum-crc32']).toBeDefined();
  });

  it('is tried again when the store throttles', async () => {
    await start((_, response) => {
      if (double.seen.length < 3) refuse(response, 503, 'SlowDown');
      else answer(response, 200);
    });
    expect(await double.store().put('k', Buffer.from('x'), options)).toEqual({ sizeBytes: 1 });
  });

  it('fails within its limit when the store takes the bytes and never answers', async () => {
    await start(() => undefined);
    const begin = performance.now();
    const store = double.store({ idleMs: 200, callMs: 1500 });
    await expect(store.put('k', Buffer.from('x'), options)).rejects.toMatchObject(code('store-unavailable'));
    expect(performance.now() - begin).toBeLessThan(3000);
  });

  it('is given up at once when it is aborted', async () => {
    await start(() => undefined);
    const aborter = new AbortController();
    setTimeout(() => aborter.abort(new Error('shutdown')), 50);
    const begin = performance.now();
    const putting = double.store({ idleMs: 60_000 }).put('k', Buffer.from('x'), { signal: aborter.signal });
    await expect(putting).rejects.toThrow('shutdown');
    expect(performance.now() - begin).toBeLessThan(1000);
  });

  it.for<{ status: number; said: string; becomes: ErrorCode }>([
    { status: 403, said: 'SignatureDoesNotMatch', becomes: 'access-denied' },
    { status: 403, said: 'InvalidAccessKeyId', becomes: 'access-denied' },
    { status: 404, said: 'XAdminUserNotFound', becomes: 'access-denied' },
    { status: 400, said: 'ExpiredToken', becomes: 'access-denied' },
    { status: 400, said: 'AuthorizationHeaderMalformed', becomes: 'config-invalid' },
    { status: 404, said: 'NoSuchBucket', becomes: 'bucket-missing' },
    { status: 507, said: 'InsufficientStorage', becomes: 'store-full' },
    { status: 403, said: 'QuotaExceeded', becomes: 'store-full' },
    { status: 412, said: 'PreconditionFailed', becomes: 'already-exists' },
    { status: 409, said: 'ConditionalRequestConflict', becomes: 'store-unavailable' },
    { status: 400, said: 'BadDigest', becomes: 'store-unavailable' },
    { status: 403, said: 'RequestTimeTooSkewed', becomes: 'store-unavailable' },
    { status: 500, said: 'InternalError', becomes: 'store-unavailable' },
    { status: 400, said: 'InvalidStorageClass', becomes: 'config-invalid' },
    { status: 501, said: 'NotImplemented', becomes: 'config-invalid' },
  ])(
    'S1: that is refused with $status $said is $becomes, in words of our own',
    async ({ status, said, becomes }) => {
      await start((_, response) =>
        refuse(response, status, said, '<StringToSign>AWS4 canary-secret</StringToSign>'),
      );
      const error = await double
        .store()
        .put('k', Buffer.from('x'), options)
        .catch((thrown: unknown) => thrown);
      expect(error).toMatchObject(code(becomes));
      expect((error as Error).message).toBe(`put s3://bucket/k failed: ${said}, status ${status}`);
      expect(JSON.stringify([error, (error as Error).cause, (error as Error).stack])).not.toMatch(
        /canary|AWS4/,
      );
    },
  );

  it('whose key may not do it, or that has none, is told where the key comes from', async () => {
    await start((_, response) => refuse(response, 403, 'AccessDenied', ''));
    const stores = /s3Credentials.*AWS_ACCESS_KEY_ID.*AWS_PROFILE.*role/;
    await expect(double.store().put('k', Buffer.from('x'), options)).rejects.toMatchObject({
      code: 'access-denied',
      hint: expect.stringMatching(stores),
    });
    const none = Object.assign(new Error('canary'), { name: 'CredentialsProviderError' });
    expect(toStoreError(none, 'put k')).toMatchObject({
      code: 'access-denied',
      hint: expect.stringMatching(
        /^there are no credentials: .*accessKeyId and secretAccessKey.*AWS_SECRET_ACCESS_KEY/,
      ),
    });
  });

  it('to a port where nobody listens is store-unavailable', async () => {
    await start(() => undefined);
    const store = double.store();
    await double.close();
    await expect(store.put('k', Buffer.from('x'), options)).rejects.toMatchObject(code('store-unavailable'));
    await start(() => undefined);
  });
});

describe('a body', () => {
  const content = Buffer.from(Array.from({ length: 300_000 }, (_, n) => n % 251));
  /** Serves `content`, or the range that was asked for; `atMost` bytes of it before `then`. */
  const serve = (
    response: Parameters<Script>[1],
    range: string | undefined,
    atMost: number,
    then: () => void,
  ) => {
    const [from = 0, to = content.length - 1] = (range?.match(/\d+/g) ?? []).map(Number);
    const part = content.subarray(from, to + 1);
    const where = range === undefined ? {} : { 'content-range': `bytes ${from}-${to}/${content.length}` };
    // of the whole, along with a range too, as some servers send it
    const sum = Buffer.alloc(4);
    sum.writeUInt32BE(crc32(content));
    const checksum = { 'x-amz-checksum-crc32': sum.toString('base64') };
    response.writeHead(range === undefined ? 200 : 206, {
      etag: '"v1"',
      'content-length': part.length,
      ...where,
      ...checksum,
    });
    response.write(part.subarray(0, atMost), then);
  };

  it('E2: that breaks off is resumed where it broke, of the same version', async () => {
    await start(({ headers }, response) =>
      serve(response, headers.range, 100_000, () => setTimeout(() => response.destroy(), 20)),
    );
    expect((await readAll('k')).equals(content)).toBe(true);
    expect(double.seen.length).toBeGreaterThan(2);
    for (const { headers } of double.seen.slice(1)) expect(headers).toMatchObject({ 'if-match': '"v1"' });
  });

  it('E2: that stalls is noticed and resumed', async () => {
    await start(({ headers }, response) => serve(response, headers.range, 200_000, () => undefined));
    expect((await readAll('k')).equals(content)).toBe(true);
  });

  it('E2: that stalls is noticed without the help of the SDK, which once did not', async () => {
    await start(({ headers }, response) => serve(response, headers.range, 200_000, () => undefined));
    const slow = { connectMs: 60_000, idleMs: 60_000, callMs: 60_000, completeMs: 60_000 };
    const connection = createS3Connection(double.config, slow);
    const place = { Bucket: 'bucket', root: '', named: (key: string) => key };
    const { body } = await download(connection, place, 'k', { signal, idleMs: 100 });
    expect((await collectBytes(body, 1e9)).equals(content)).toBe(true);
    await connection.close();
  });

  it('E2: that always breaks off is store-unavailable, not the end', async () => {
    await start(({ headers }, response) => {
      serve(response, headers.range, double.seen.length === 1 ? 1000 : 0, () =>
        setTimeout(() => response.destroy(), 5),
      );
    });
    await expect(readAll('k')).rejects.toMatchObject(code('store-unavailable'));
  });

  it('that stalls for ever ends with the signal, at once', async () => {
    await start(({ headers }, response) => serve(response, headers.range, 1000, () => undefined));
    const aborter = new AbortController();
    const body = await double.store({ idleMs: 60_000 }).get('k', { signal: aborter.signal });
    setTimeout(() => aborter.abort(new Error('shutdown')), 50);
    const begin = performance.now();
    await expect(collectBytes(body!, 1e9)).rejects.toThrow('shutdown');
    expect(performance.now() - begin).toBeLessThan(1000);
  });

  it('that was replaced meanwhile is not joined from two versions', async () => {
    await start(({ headers }, response) => {
      if (headers['if-match'] !== undefined) refuse(response, 412, 'PreconditionFailed');
      else serve(response, headers.range, 1000, () => setTimeout(() => response.destroy(), 5));
    });
    await expect(readAll('k')).rejects.toMatchObject({
      ...code('object-missing'),
      message: expect.stringContaining('replaced'),
    });
  });

  it('that comes with a wrong checksum is object-damaged', async () => {
    await start((_, response) => {
      response.writeHead(200, { etag: '"v"', 'content-length': 5, 'x-amz-checksum-crc32': 'AAAAAA==' });
      response.end('hello');
    });
    await expect(readAll('k')).rejects.toMatchObject(code('object-damaged'));
  });

  it('whose range is ignored by the store is refused', async () => {
    await start((_, response) => serve(response, undefined, content.length, () => response.end()));
    const reading = double.store().get('k', { signal, range: { offset: 5, length: 10 } });
    await expect(reading).rejects.toMatchObject(code('store-unavailable'));
  });

  it('without a length is refused', async () => {
    await start((_, response) => {
      response.writeHead(200, { etag: '"v"' });
      response.end('hello');
    });
    await expect(readAll('k')).rejects.toMatchObject(code('store-unavailable'));
  });

  it('C3: is absent only by the word of the store, not by any 404', async () => {
    await start((_, response) => refuse(response, 404, 'NoSuchKey'));
    expect(await double.store().get('k', options)).toBeUndefined();
    await double.close();
    await start((_, response) => {
      response.writeHead(404, { 'content-type': 'text/html' });
      response.end('<html>not here</html>');
    });
    await expect(double.store().get('k', options)).rejects.toMatchObject({ name: 'BackupError' });
  });
});

describe('absence by head', () => {
  test.for<{ said: string; becomes: ErrorCode | 'absent' }>([
    { said: 'NoSuchBucket', becomes: 'bucket-missing' },
    { said: 'XAdminUserNotFound', becomes: 'access-denied' },
    { said: '', becomes: 'absent' },
  ])('C3: 404 is confirmed by a listing (which says "$said": $becomes)', async ({ said, becomes }) => {
    await start(({ method }, response) => {
      if (method === 'HEAD') answer(response, 404);
      else if (said !== '') refuse(response, 404, said);
      else answer(response, 200, '<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>');
    });
    const looking = double.store().head('k', options);
    if (becomes === 'absent') expect(await looking).toBeUndefined();
    else await expect(looking).rejects.toMatchObject(code(becomes));
  });
});

describe('a listing', () => {
  const object = (key: string) =>
    `<Contents><Key>${key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>`;
  const page = (keys: string[], rest: string) =>
    `<ListBucketResult>${keys.map(object).join('')}${rest}</ListBucketResult>`;
  const last = '<IsTruncated>false</IsTruncated>';
  const more = (token: string) =>
    `<IsTruncated>true</IsTruncated><NextContinuationToken>${token}</NextContinuationToken>`;
  const pages = (...bodies: string[]) =>
    start((_, response) => answer(response, 200, bodies[Math.min(double.seen.length, bodies.length) - 1]));

  it('goes on with the token, and takes a last page without contents', async () => {
    await pages(page(['a', 'b'], more('t1')), page(['c'], more('t2')), page([], last));
    expect(await listAll()).toEqual(['a', 'b', 'c']);
    expect(double.seen.map(({ query }) => query.get('continuation-token'))).toEqual([null, 't1', 't2']);
  });

  it('leaves out the folder marks of consoles', async () => {
    await pages(page(['a/', 'a/b'], last));
    expect(await listAll()).toEqual(['a/b']);
  });

  it.for([
    { what: 'that does not say whether it is complete', bodies: [page(['a'], '')] },
    { what: 'that goes on without a token', bodies: [page(['a'], '<IsTruncated>true</IsTruncated>')] },
    { what: 'that gives the same token again', bodies: [page(['a'], more('t')), page(['b'], more('t'))] },
    { what: 'that gives a page again', bodies: [page(['a', 'b'], more('t')), page(['a', 'b'], last)] },
    { what: 'that is out of order', bodies: [page(['b', 'a'], last)] },
    { what: 'that breaks off in the middle', bodies: [page(['a'], last).slice(0, 60)] },
    { what: 'that is no listing', bodies: ['<html><body>welcome</body></html>'] },
    {
      what: 'without times',
      bodies: [`<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents>${last}</ListBucketResult>`],
    },
  ])('D3: $what fails, and is not shorter', async ({ bodies }) => {
    await pages(...bodies);
    await expect(listAll()).rejects.toMatchObject(code('store-unavailable'));
  });

  it('D3: whose second page fails, fails', async () => {
    await start((_, response) => {
      if (double.seen.length === 1) answer(response, 200, page(['a'], more('t')));
      else refuse(response, 403, 'AccessDenied');
    });
    await expect(listAll()).rejects.toMatchObject(code('access-denied'));
  });

  it('goes on behind what came when it is tried again', async () => {
    await start((_, response) => {
      const calls = double.seen.length;
      if (calls === 1) answer(response, 200, page(['a', 'b'], more('t')));
      else if (calls <= 4) refuse(response, 503, 'SlowDown');
      else answer(response, 200, page(['a', 'b', 'c'], last));
    });
    const keys: string[] = [];
    for await (const { key } of retrying(double.store(), { firstPauseMs: 1 }).list('', options))
      keys.push(key);
    expect(keys).toEqual(['a', 'b', 'c']);
  });
});

describe('deleting', () => {
  it('reads the result of every key', async () => {
    await start((_, response) =>
      answer(
        response,
        200,
        '<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>b</Key><Code>AccessDenied</Code></Error></DeleteResult>',
      ),
    );
    await expect(double.store().delete(['a', 'b'], options)).rejects.toMatchObject({
      ...code('access-denied'),
      message: expect.stringContaining('s3://bucket/b'),
    });
  });

  it('does not take a key that the answer leaves out for deleted', async () => {
    await start((_, response) =>
      answer(response, 200, '<DeleteResult><Deleted><Key>a</Key></Deleted></DeleteResult>'),
    );
    await expect(double.store().delete(['a', 'b'], options)).rejects.toMatchObject({
      ...code('store-unavailable'),
      message: expect.stringContaining('s3://bucket/b'),
    });
  });

  it('goes one by one where the store does not take them together', async () => {
    await start(({ method }, response) => {
      if (method === 'POST') refuse(response, 400, 'MissingContentMD5');
      else answer(response, 204);
    });
    await double.store().delete(['a', 'b'], options);
    expect(double.calls()).toEqual(['POST ?delete', 'DELETE a', 'DELETE b']);
  });
});

describe('an aborted upload', () => {
  it('is removed, and leaves no unhandled rejection', async () => {
    const aborter = new AbortController();
    await start(upload(() => aborter.abort(new Error('shutdown'))));
    const putting = double.store({ completeMs: 60_000 }).put('k', large(), { signal: aborter.signal });
    await expect(putting).rejects.toThrow('shutdown');
    expect(double.calls().at(-1)).toBe('DELETE k?uploadId');
    await sleep(20);
  });

  it('is removed although its id was not known yet', async () => {
    const aborter = new AbortController();
    const script = upload(() => undefined);
    await start((request, response) => {
      if (request.query.has('uploads')) aborter.abort(new Error('shutdown'));
      setTimeout(() => script(request, response), 100);
    });
    const putting = double
      .store({ idleMs: 20_000, callMs: 20_000 })
      .put('k', large(), { signal: aborter.signal });
    await expect(putting).rejects.toThrow('shutdown');
    expect(double.calls()).toEqual(['POST k?uploads', 'DELETE k?uploadId']);
  });

  it('is given up in three seconds when the store does not even say its id', async () => {
    const aborter = new AbortController();
    await start(() => aborter.abort(new Error('shutdown')));
    const begin = performance.now();
    const putting = double
      .store({ idleMs: 60_000, callMs: 60_000 })
      .put('k', large(), { signal: aborter.signal });
    await expect(putting).rejects.toThrow('shutdown');
    expect(performance.now() - begin).toBeLessThan(8000);
  });
});

describe('what is asked of the store beside the bytes', () => {
  const NONE = {
    'x-amz-server-side-encryption': undefined,
    'x-amz-server-side-encryption-aws-kms-key-id': undefined,
    'x-amz-tagging': undefined,
    'x-amz-storage-class': undefined,
  };
  const cases = [
    { why: 'nothing', asked: {}, sent: {} },
    {
      why: 'AES256',
      asked: { encryption: 'AES256' as const },
      sent: { 'x-amz-server-side-encryption': 'AES256' },
    },
    {
      why: 'aws:kms by the default key',
      asked: { encryption: 'aws:kms' as const },
      sent: { 'x-amz-server-side-encryption': 'aws:kms' },
    },
    {
      why: 'aws:kms by a key of its own',
      key: 'arn:aws:kms:eu-west-1:1:key/k',
      asked: { encryption: 'aws:kms' as const },
      sent: {
        'x-amz-server-side-encryption': 'aws:kms',
        'x-amz-server-side-encryption-aws-kms-key-id': 'arn:aws:kms:eu-west-1:1:key/k',
      },
    },
    {
      why: 'AES256, which uses no key',
      key: 'arn:aws:kms:eu-west-1:1:key/k',
      asked: { encryption: 'AES256' as const },
      sent: { 'x-amz-server-side-encryption': 'AES256' },
    },
    { why: 'nothing, with a key', key: 'k', asked: {}, sent: {} },
    {
      why: 'tags',
      asked: { tags: { team: 'a&b', 'x y': '' } },
      sent: { 'x-amz-tagging': 'team=a%26b&x%20y=' },
    },
  ];
  it.for(cases)('$why: of one request, and of the first one of many', async ({ key, asked, sent }) => {
    await start(
      upload(
        (_, response) => answer(response, 200, COMPLETED),
        (_, response) => answer(response, 200),
      ),
    );
    const store = createS3Store({ ...double.config, ...(key !== undefined && { kmsKeyId: key }) });
    await store.put('k', Buffer.from('x'), { signal, ...asked });
    await store.put('k', large(), { signal, ...asked });
    await store.close();
    const [single, created, ...parts] = double.seen;
    for (const request of [single, created]) {
      const seen = Object.fromEntries(Object.keys(NONE).map((name) => [name, request?.headers[name]]));
      expect(seen).toEqual({ ...NONE, ...sent });
    }
    expect(created?.query.has('uploads')).toBe(true);
    for (const part of parts) expect(part.headers).not.toHaveProperty('x-amz-server-side-encryption');
  });
});

it('a limit for silence of its own is heeded, and a call may last longer than that', async () => {
  await start(() => undefined);
  const store = createS3Store({ ...double.config, readTimeoutMs: 150 });
  const begin = performance.now();
  await expect(store.head('k', options)).rejects.toMatchObject(code('store-unavailable'));
  await store.close();
  expect(performance.now() - begin).toBeLessThan(10_000);
  expect(withReadTimeout(S3_TIMEOUTS, 300_000)).toMatchObject({ idleMs: 300_000, callMs: 310_000 });
  expect(withReadTimeout(S3_TIMEOUTS, 1000)).toEqual({ ...S3_TIMEOUTS, idleMs: 1000 });
});
