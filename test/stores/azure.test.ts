import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../core/errors.ts';
import { Secret } from '../../core/secret.ts';
import { createAzureConnection } from '../../stores/azure-client.ts';
import { download } from '../../stores/azure-download.ts';
import { retrying } from '../../stores/retrying.ts';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import {
  answer,
  type AzureDouble,
  CANARY_KEY,
  refuse,
  type Script,
  startAzureDouble,
} from './azure-double.ts';

const MiB = 1024 * 1024;
const signal = new AbortController().signal;
const options = { signal };
const code = (expected: ErrorCode) => ({ name: 'BackupError', code: expected });
const md5 = (bytes: Uint8Array) => createHash('md5').update(bytes).digest('base64');

let double: AzureDouble;
const start = async (script: Script) => (double = await startAzureDouble(script));
afterEach(() => double.close());

const large = () => piecesOf(Buffer.alloc(20 * MiB, 'x'));
const readAll = async (key: string) => collectBytes((await double.store().get(key, options))!, 1e9);
const listAll = async (prefix = '') => {
  const keys: string[] = [];
  for await (const { key } of double.store().list(prefix, options)) keys.push(key);
  return keys;
};
const putId = (verb: string | null) =>
  double.seen.find(({ method, query }) => method === 'PUT' && query.get('comp') === verb)?.headers[
    'x-ms-meta-walkeep_put'
  ];

/** Answers an upload in blocks up to the list that ends it. */
const upload =
  (complete: Script, others: Script = (_, response) => refuse(response, 404, 'BlobNotFound')): Script =>
  (request, response) => {
    const verb = request.query.get('comp');
    if (verb === 'block') answer(response, 201);
    else if (verb === 'blocklist') complete(request, response);
    else others(request, response);
  };

describe('an upload in blocks', () => {
  it('E1: sends each block with its checksum, ids that no other upload has, and one list at the end', async () => {
    await start(upload((_, response) => answer(response, 201)));
    const store = double.store({}, { encryptionScope: 'ours' });
    await store.put('k', large(), { signal, tags: { team: 'a b@c' } });
    await store.put('k', large(), options);
    const staged = double.seen.filter(({ query }) => query.get('comp') === 'block');
    const lists = double.seen.filter(({ query }) => query.get('comp') === 'blocklist');
    for (const { headers, body } of staged) {
      expect(headers).toMatchObject({ 'content-md5': md5(body), 'x-ms-encryption-scope': 'ours' });
    }
    const ids = staged.map(({ query }) => Buffer.from(query.get('blockid') ?? '', 'base64').toString());
    expect(new Set(ids).size).toBe(4);
    // all of a name must have the same length
    expect(new Set(ids.map((id) => id.length)).size).toBe(1);
    expect(new Set(ids.map((id) => id.slice(0, 32))).size).toBe(2);
    expect(lists[0]?.headers).toMatchObject({
      'x-ms-tags': 'team=a%20b_c',
      'x-ms-encryption-scope': 'ours',
    });
    expect(lists[0]?.body.toString().match(/<Latest>[^<]+/g)).toEqual(
      staged
        .slice(0, 2)
        .map(({ query }) => `<Latest>${query.get('blockid')}`)
        .toSorted(),
    );
  });

  it.for([
    { what: 'an error', act: ((_, response) => refuse(response, 500, 'InternalError')) satisfies Script },
    { what: 'no ETag', act: ((_, response) => response.writeHead(201).end()) satisfies Script },
  ])('E2: whose list is answered by $what was not completed', async ({ act }) => {
    await start(upload(act));
    await expect(double.store().put('k', large(), options)).rejects.toMatchObject(code('store-unavailable'));
  });

  it('E2: whose completion has no answer is looked up: it counts when the object is this very upload', async () => {
    await start(
      upload(
        (_, response) => response.destroy(),
        (_, response) =>
          answer(response, 200, '', {
            'x-ms-meta-walkeep_put': String(putId('blocklist')),
            'content-length': '0',
          }),
      ),
    );
    expect(await double.store().put('k', large(), { signal, ifAbsent: true })).toEqual({
      sizeBytes: 20 * MiB,
    });
  });

  it.for([
    { status: 409, said: 'BlobAlreadyExists' },
    // the object of another made the store drop our blocks
    { status: 400, said: 'InvalidBlockList' },
  ])('A3: that is refused with $said is not taken for the object of another', async ({ status, said }) => {
    await start(
      upload(
        (_, response) => refuse(response, status, said),
        (_, response) =>
          answer(response, 200, '', { 'x-ms-meta-walkeep_put': 'of another', 'content-length': '0' }),
      ),
    );
    const putting = double.store().put('k', large(), { signal, ifAbsent: true });
    await expect(putting).rejects.toMatchObject(code('already-exists'));
    const list = double.seen.find(({ query }) => query.get('comp') === 'blocklist');
    expect(list?.headers['if-none-match']).toBe('*');
  });

  it('A3: whose blocks are gone, without an object there, did not store anything and does not say so', async () => {
    await start(upload((_, response) => refuse(response, 400, 'InvalidBlockList')));
    const putting = double.store().put('k', large(), { signal, ifAbsent: true });
    await expect(putting).rejects.toMatchObject(code('store-unavailable'));
  });

  it('has at most 16 MiB on their way, and stops at the first block that is refused', async () => {
    const held: { bytes: number; answerNow: () => void }[] = [];
    const heldBytes = () => held.reduce((sum, { bytes }) => sum + bytes, 0);
    const release = () => held.splice(0).forEach(({ answerNow }) => answerNow());
    let most = 0;
    let staged = 0;
    const refusing: { from: number } = { from: 99 };
    await start((request, response) => {
      if (request.query.get('comp') === 'blocklist') return answer(response, 201);
      const number = ++staged;
      const answerNow = () =>
        number >= refusing.from ? refuse(response, 403, 'AuthorizationFailure') : answer(response, 201);
      held.push({ bytes: request.body.length, answerNow });
      most = Math.max(most, heldBytes());
      // long enough for another to come, if it would
      setTimeout(release, heldBytes() >= 16 * MiB ? 150 : 3000);
    });
    const body = async function* () {
      for (let n = 0; n < 5; n++) yield Buffer.alloc(16 * MiB);
    };
    const store = double.store({ idleMs: 20_000, callMs: 20_000 });
    expect(await store.put('k', body(), options)).toEqual({ sizeBytes: 5 * 16 * MiB });
    expect(most).toBe(16 * MiB);
    refusing.from = staged + 3;
    await expect(store.put('k', body(), options)).rejects.toMatchObject(code('access-denied'));
    expect(double.calls().filter((call) => call === 'PUT k?blocklist')).toHaveLength(1);
  });

  it('a block is sent again when the connection breaks in the middle of it', async () => {
    let broken = 0;
    await start((request, response) => {
      if (request.query.get('comp') === 'block' && broken++ === 0) response.destroy();
      else answer(response, 201);
    });
    expect(await double.store().put('k', large(), options)).toEqual({ sizeBytes: 20 * MiB });
    expect(double.calls().filter((call) => call === 'PUT k?block')).toHaveLength(3);
  });

  it('that is aborted is never completed, and leaves no unhandled rejection', async () => {
    const aborter = new AbortController();
    await start(upload((_, response) => answer(response, 201)));
    const body = async function* () {
      yield Buffer.alloc(20 * MiB);
      yield Buffer.alloc(20 * MiB);
      aborter.abort(new Error('shutdown'));
      await sleep(5);
      yield Buffer.alloc(1);
    };
    const putting = double.store().put('k', body(), { signal: aborter.signal });
    await expect(putting).rejects.toThrow('shutdown');
    await sleep(50);
    expect(double.calls()).not.toContain('PUT k?blocklist');
  });
});

describe('a put', () => {
  it('A2: that was repeated because its answer was lost, and finds its own object, succeeded', async () => {
    await start((request, response) => {
      const puts = double.seen.filter(({ method }) => method === 'PUT');
      if (request.method === 'HEAD') {
        answer(response, 200, '', { 'x-ms-meta-walkeep_put': String(putId(null)), 'content-length': '0' });
      } else if (puts.length === 1) response.destroy();
      else refuse(response, 409, 'BlobAlreadyExists');
    });
    expect(await double.store().put('k', Buffer.from('x'), { signal, ifAbsent: true })).toEqual({
      sizeBytes: 1,
    });
    expect(double.seen[0]?.headers).toMatchObject({
      'if-none-match': '*',
      'content-length': '1',
      'content-md5': md5(Buffer.from('x')),
    });
  });

  it('A3: that finds the object of another is told', async () => {
    await start((request, response) => {
      if (request.method === 'HEAD')
        answer(response, 200, '', { 'x-ms-meta-walkeep_put': 'of another', 'content-length': '0' });
      else refuse(response, 409, 'BlobAlreadyExists');
    });
    const putting = double.store().put('k', Buffer.from('x'), { signal, ifAbsent: true });
    await expect(putting).rejects.toMatchObject(code('already-exists'));
  });

  it.for([
    { status: 503, said: 'ServerBusy' },
    { status: 429, said: 'TooManyRequests' },
    { status: 500, said: 'OperationTimedOut' },
  ])('is tried again after $status $said, and not before the store wants it', async ({ status, said }) => {
    const times: number[] = [];
    await start((_, response) => {
      times.push(performance.now());
      if (times.length < 2) refuse(response, status, said, { 'retry-after': '1' });
      else answer(response, 201);
    });
    expect(await double.store().put('k', Buffer.from('x'), options)).toEqual({ sizeBytes: 1 });
    expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThanOrEqual(990);
  });

  it('fails at once when the store wants a longer pause than the call may take', async () => {
    await start((_, response) => refuse(response, 503, 'ServerBusy', { 'retry-after': '3600' }));
    const begin = performance.now();
    await expect(double.store().put('k', Buffer.from('x'), options)).rejects.toMatchObject(
      code('store-unavailable'),
    );
    expect(performance.now() - begin).toBeLessThan(2000);
    expect(double.seen).toHaveLength(1);
  });

  it('fails within its limit when the store takes the bytes and never answers', async () => {
    await start(() => undefined);
    const begin = performance.now();
    const store = double.store({ idleMs: 60_000, callMs: 700 });
    await expect(store.put('k', Buffer.from('x'), options)).rejects.toMatchObject(code('store-unavailable'));
    expect(performance.now() - begin).toBeLessThan(2000);
  });

  it('notices a store that stands still, three times, before its limit', async () => {
    await start(() => undefined);
    const putting = double.store({ idleMs: 150, callMs: 60_000 }).put('k', Buffer.from('x'), options);
    await expect(putting).rejects.toMatchObject({
      ...code('store-unavailable'),
      message: expect.stringContaining('TimeoutError'),
    });
    expect(double.seen).toHaveLength(3);
  });

  it('notices it on a connection that is used again, too', async () => {
    await start((_, response) => {
      if (double.seen.length === 1) answer(response, 201);
    });
    const store = double.store({ idleMs: 500, callMs: 60_000 });
    await store.put('k', Buffer.from('x'), options);
    await expect(store.put('k', Buffer.from('y'), options)).rejects.toMatchObject(code('store-unavailable'));
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
    { status: 403, said: 'AuthenticationFailed', becomes: 'access-denied' },
    { status: 403, said: 'AuthorizationPermissionMismatch', becomes: 'access-denied' },
    { status: 401, said: 'InvalidAuthenticationInfo', becomes: 'access-denied' },
    { status: 409, said: 'PublicAccessNotPermitted', becomes: 'access-denied' },
    { status: 409, said: 'BlobImmutableDueToPolicy', becomes: 'access-denied' },
    { status: 412, said: 'LeaseIdMissing', becomes: 'access-denied' },
    { status: 404, said: 'ContainerNotFound', becomes: 'bucket-missing' },
    { status: 409, said: 'ContainerBeingDeleted', becomes: 'bucket-missing' },
    { status: 507, said: 'InsufficientStorage', becomes: 'store-full' },
    { status: 403, said: 'QuotaExceeded', becomes: 'store-full' },
    { status: 412, said: 'ConditionNotMet', becomes: 'already-exists' },
    { status: 400, said: 'Md5Mismatch', becomes: 'store-unavailable' },
    { status: 500, said: 'InternalError', becomes: 'store-unavailable' },
    { status: 400, said: 'InvalidTag', becomes: 'config-invalid' },
    { status: 409, said: 'SnapshotsPresent', becomes: 'config-invalid' },
    { status: 501, said: 'NotImplemented', becomes: 'config-invalid' },
  ])(
    'S1: that is refused with $status $said is $becomes, in words of our own',
    async ({ status, said, becomes }) => {
      await start((_, response) => refuse(response, status, said));
      const error = await double
        .store()
        .put('k', Buffer.from('x'), options)
        .catch((thrown: unknown) => thrown);
      expect(error).toMatchObject(code(becomes));
      expect((error as Error).message).toBe(
        `put ${double.config.serviceUrl}/box/k failed: ${said}, status ${status}`,
      );
      expect(JSON.stringify([error, (error as Error).cause, (error as Error).stack])).not.toContain(
        CANARY_KEY,
      );
    },
  );

  it('to a port where nobody listens is store-unavailable', async () => {
    await start(() => undefined);
    const store = double.store();
    await double.close();
    await expect(store.put('k', Buffer.from('x'), options)).rejects.toMatchObject({
      ...code('store-unavailable'),
      message: expect.stringContaining('ECONNREFUSED'),
    });
    await start(() => undefined);
  });
});

describe('a body', () => {
  const content = Buffer.from(Array.from({ length: 300_000 }, (_, n) => n % 251));
  /** Serves `content`, or the range that was asked for; `atMost` bytes of it before `then`. */
  const serve = (response: Parameters<Script>[1], headers: SeenHeaders, atMost: number, then: () => void) => {
    const range = rangeOf(headers);
    const [from = 0, to = content.length - 1] = (range?.match(/\d+/g) ?? []).map(Number);
    const part = content.subarray(from, to + 1);
    const where = range === undefined ? {} : { 'content-range': `bytes ${from}-${to}/${content.length}` };
    response.writeHead(range === undefined ? 200 : 206, {
      etag: '"v1"',
      'content-length': part.length,
      ...where,
      ...(range === undefined ? { 'content-md5': md5(content) } : {}),
    });
    response.write(part.subarray(0, atMost), then);
  };
  type SeenHeaders = Parameters<Script>[0]['headers'];
  const rangeOf = (headers: SeenHeaders) => {
    const range = headers['x-ms-range'] ?? headers.range;
    return typeof range === 'string' ? range : undefined;
  };

  it('E2: that breaks off is resumed where it broke, of the same version', async () => {
    await start(({ headers }, response) =>
      serve(response, headers, 100_000, () => setTimeout(() => response.destroy(), 20)),
    );
    expect((await readAll('k')).equals(content)).toBe(true);
    expect(double.seen.length).toBeGreaterThan(2);
    for (const { headers } of double.seen.slice(1)) expect(headers).toMatchObject({ 'if-match': '"v1"' });
  });

  it('E2: that stalls is noticed and resumed', async () => {
    await start(({ headers }, response) => serve(response, headers, 200_000, () => undefined));
    expect((await readAll('k')).equals(content)).toBe(true);
  });

  it('E2: that stalls is noticed where a proxy of the environment has connections without limits', async () => {
    await start(({ headers }, response) => serve(response, headers, 200_000, () => undefined));
    const slow = { connectMs: 60_000, idleMs: 60_000, callMs: 60_000, completeMs: 60_000 };
    const connection = createAzureConnection(double.config, slow);
    const place = { root: '', named: (key: string) => key };
    const { body } = await download(connection, place, 'k', { signal, idleMs: 100 });
    expect((await collectBytes(body, 1e9)).equals(content)).toBe(true);
    await connection.close();
  });

  it('E2: that always breaks off is store-unavailable, not the end', async () => {
    await start(({ headers }, response) => {
      serve(response, headers, double.seen.length === 1 ? 1000 : 0, () =>
        setTimeout(() => response.destroy(), 5),
      );
    });
    await expect(readAll('k')).rejects.toMatchObject(code('store-unavailable'));
  });

  it('that stalls for ever ends with the signal, at once', async () => {
    await start(({ headers }, response) => serve(response, headers, 1000, () => undefined));
    const aborter = new AbortController();
    const body = await double.store({ idleMs: 60_000 }).get('k', { signal: aborter.signal });
    setTimeout(() => aborter.abort(new Error('shutdown')), 50);
    const begin = performance.now();
    await expect(collectBytes(body!, 1e9)).rejects.toThrow('shutdown');
    expect(performance.now() - begin).toBeLessThan(1000);
  });

  it('that was replaced meanwhile is not joined from two versions', async () => {
    await start(({ headers }, response) => {
      if (headers['if-match'] !== undefined) refuse(response, 412, 'ConditionNotMet');
      else serve(response, headers, 1000, () => setTimeout(() => response.destroy(), 5));
    });
    await expect(readAll('k')).rejects.toMatchObject({
      ...code('object-missing'),
      message: expect.stringContaining('replaced'),
    });
  });

  it('E2: that does not have the checksum it was stored with is object-damaged', async () => {
    await start((_, response) => {
      response.writeHead(200, { etag: '"v"', 'content-length': 5, 'content-md5': md5(Buffer.from('other')) });
      response.end('hello');
    });
    await expect(readAll('k')).rejects.toMatchObject(code('object-damaged'));
  });

  it('whose range is ignored by the store is refused', async () => {
    await start((_, response) => serve(response, {}, content.length, () => response.end()));
    const reading = double.store().get('k', { signal, range: { offset: 5, length: 10 } });
    await expect(reading).rejects.toMatchObject(code('store-unavailable'));
  });

  it.for([
    { what: 'a length', headers: { etag: '"v"', 'transfer-encoding': 'chunked' } },
    { what: 'a version', headers: { 'content-length': '5' } },
  ])('without $what is refused', async ({ headers }) => {
    await start((_, response) => {
      response.writeHead(200, headers);
      response.end('hello');
    });
    await expect(readAll('k')).rejects.toMatchObject(code('store-unavailable'));
  });
});

describe('absence', () => {
  it('C3: is the word of the store, for head as for get', async () => {
    await start((_, response) => refuse(response, 404, 'BlobNotFound'));
    expect(await double.store().get('k', options)).toBeUndefined();
    expect(await double.store().head('k', options)).toBeUndefined();
  });

  it.for<{ what: string; status: number; said?: string; becomes: ErrorCode }>([
    { what: 'a page of a proxy', status: 404, becomes: 'config-invalid' },
    {
      what: 'a container that is not there',
      status: 404,
      said: 'ContainerNotFound',
      becomes: 'bucket-missing',
    },
    {
      what: 'an account that is not there',
      status: 404,
      said: 'ResourceNotFound',
      becomes: 'bucket-missing',
    },
    { what: 'a refusal', status: 403, said: 'AuthorizationFailure', becomes: 'access-denied' },
  ])('C3: is not concluded from $what', async ({ status, said, becomes }) => {
    await start((_, response) => {
      if (said !== undefined) return refuse(response, status, said);
      response.writeHead(status, { 'content-type': 'text/html' });
      response.end('<html>not here</html>');
    });
    await expect(double.store().get('k', options)).rejects.toMatchObject(code(becomes));
    await expect(double.store().head('k', options)).rejects.toMatchObject(code(becomes));
  });
});

describe('a listing', () => {
  const blob = (name: string) =>
    `<Blob><Name>${name}</Name><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified><Etag>e</Etag><Content-Length>1</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>`;
  const page = (names: string[], next: string) =>
    `<EnumerationResults ServiceEndpoint="http://x/" ContainerName="box"><Blobs>${names.map(blob).join('')}</Blobs>${next}</EnumerationResults>`;
  const last = '<NextMarker />';
  const more = (token: string) => `<NextMarker>${token}</NextMarker>`;
  const pages = (...bodies: string[]) =>
    start((_, response) => answer(response, 200, bodies[Math.min(double.seen.length, bodies.length) - 1]));

  it('goes on with the marker, over pages without entries, to the last', async () => {
    await pages(page(['a', 'b'], more('t1')), page([], more('t2')), page(['c'], more('t3')), page([], last));
    expect(await listAll()).toEqual(['a', 'b', 'c']);
    expect(double.seen.map(({ query }) => query.get('marker'))).toEqual([null, 't1', 't2', 't3']);
  });

  it('leaves out the folder marks of consoles', async () => {
    await pages(page(['a/', 'a/b'], last));
    expect(await listAll()).toEqual(['a/b']);
  });

  it('is in the order of bytes, whichever of two orders the store has', async () => {
    const names = ['a', 'p/ü', 'p/🐘', 'p/🐘2', 'p/\uffee', 'p/\uffee🐘', 'q', '\ue000', '🐘'];
    const byUnits = names.toSorted();
    const byBytes = names.toSorted((one, other) => Buffer.compare(Buffer.from(one), Buffer.from(other)));
    expect(byUnits).not.toEqual(byBytes);
    await pages(page(byUnits.slice(0, 3), more('t1')), page(byUnits.slice(3), last));
    expect(await listAll()).toEqual(byBytes);
    await double.close();
    await pages(page(byBytes, last));
    expect(await listAll()).toEqual(byBytes);
  });

  it.for([
    { what: 'that does not say whether it is complete', bodies: [page(['a'], '')] },
    { what: 'that gives the same marker again', bodies: [page(['a'], more('t')), page(['b'], more('t'))] },
    { what: 'that gives a page again', bodies: [page(['a', 'b'], more('t')), page(['a', 'b'], last)] },
    { what: 'that is out of order', bodies: [page(['b', 'a'], last)] },
    { what: 'that breaks off in the middle', bodies: [page(['a'], last).slice(0, 120)] },
    { what: 'that is no listing', bodies: ['<html><body>welcome</body></html>'] },
    { what: 'that is empty', bodies: [''] },
    {
      what: 'without sizes',
      bodies: [page(['a'], last).replace(/<Content-Length>.*?<\/Content-Length>/, '')],
    },
    {
      what: 'without times',
      bodies: [page(['a'], last).replace(/<Last-Modified>.*?<\/Last-Modified>/, '')],
    },
  ])('D3: $what fails, and is not shorter', async ({ bodies }) => {
    await pages(...bodies);
    await expect(listAll()).rejects.toMatchObject(code('store-unavailable'));
  });

  it('D3: with something that is not below the prefix fails', async () => {
    await pages(page(['a'], last));
    await expect(listAll('b')).rejects.toMatchObject(code('store-unavailable'));
  });

  it('D3: whose second page fails, fails', async () => {
    await start((_, response) => {
      if (double.seen.length === 1) answer(response, 200, page(['a'], more('t')));
      else refuse(response, 403, 'AuthorizationFailure');
    });
    await expect(listAll()).rejects.toMatchObject(code('access-denied'));
  });

  it('goes on behind what came when it is tried again', async () => {
    await start((_, response) => {
      const calls = double.seen.length;
      if (calls === 1) answer(response, 200, page(['a', 'b'], more('t')));
      else if (calls <= 4) refuse(response, 503, 'ServerBusy');
      else answer(response, 200, page(['a', 'b', 'c'], last));
    });
    const keys: string[] = [];
    for await (const { key } of retrying(double.store(), { firstPauseMs: 1 }).list('', options))
      keys.push(key);
    expect(keys).toEqual(['a', 'b', 'c']);
  });

  it('of folders is read to its end', async () => {
    const prefix = (name: string) => `<BlobPrefix><Name>${name}</Name></BlobPrefix>`;
    const folders = (names: string[], next: string) =>
      page(['a0'], next).replace('<Blobs>', `<Blobs>${names.map(prefix).join('')}`);
    await pages(folders(['a/'], more('t')), page(['a1'], more('t2')), folders(['b/'], last));
    const found: string[] = [];
    for await (const folder of double.store().folders('', options)) found.push(folder);
    expect(found).toEqual(['a/', 'b/']);
    expect(double.seen[0]?.query.get('delimiter')).toBe('/');
  });
});

describe('deleting', () => {
  it('reads the result of every key: one that is refused keeps no other, and is named', async () => {
    await start(({ key }, response) => {
      if (key === 'b') refuse(response, 409, 'BlobImmutableDueToPolicy');
      else if (key === 'c') refuse(response, 404, 'BlobNotFound');
      else answer(response, 202);
    });
    await expect(double.store().delete(['a', 'b', 'c', 'd'], options)).rejects.toMatchObject({
      ...code('access-denied'),
      message: expect.stringMatching(/\/box\/b failed: BlobImmutableDueToPolicy, status 409$/),
    });
    expect(double.calls().toSorted()).toEqual(['DELETE a', 'DELETE b', 'DELETE c', 'DELETE d']);
  });

  it('has at most 16 requests on their way, and stops when the store is away', async () => {
    let flying = 0;
    let most = 0;
    const away: { from: number } = { from: 1e9 };
    await start((_, response) => {
      most = Math.max(most, ++flying);
      setTimeout(() => {
        flying -= 1;
        if (double.seen.length >= away.from) response.destroy();
        else answer(response, 202);
      }, 30);
    });
    const keys = Array.from({ length: 60 }, (_, n) => `k${n}`);
    await double.store().delete(keys, options);
    expect(most).toBe(16);
    away.from = double.seen.length + 20;
    await expect(double.store().delete(keys, options)).rejects.toMatchObject(code('store-unavailable'));
    // those on their way are tried three times
    expect(double.seen.length).toBeLessThan(60 + 20 + 3 * 16 + 20);
  });

  it('of a container that is not there is given up soon', async () => {
    await start((_, response) => refuse(response, 404, 'ContainerNotFound'));
    const keys = Array.from({ length: 200 }, (_, n) => `k${n}`);
    await expect(double.store().delete(keys, options)).rejects.toMatchObject(code('bucket-missing'));
    expect(double.seen.length).toBeLessThan(60);
  });
});

describe('a shared access signature', () => {
  const token = 'sv=2022-11-02&sp=racwdl&sig=canary%2Fsignature%3D';
  const bySas = (given = token) => ({ credentials: { way: 'sas-token' as const, token: new Secret(given) } });

  it.for([token, `?${token}`, ` ${token}\n`])(
    'goes along with every request, however it is written',
    async (given) => {
      await start(upload((_, response) => answer(response, 201)));
      const store = double.store({}, bySas(given));
      await store.put('k', large(), options);
      await store.head('a b', options);
      expect(double.seen.map(({ query }) => query.get('sig'))).toEqual(Array(4).fill('canary/signature='));
      for (const { headers } of double.seen) expect(headers.authorization).toBeUndefined();
    },
  );

  it('S1: is in no address, and in no error', async () => {
    await start((_, response) => refuse(response, 403, 'AuthenticationFailed'));
    const store = double.store({}, bySas());
    const error = await store.head('k', options).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject(code('access-denied'));
    const said = [store.url, JSON.stringify([error, (error as Error).cause]), (error as Error).stack].join();
    expect(said).not.toMatch(/canary|sig=/);
  });
});
