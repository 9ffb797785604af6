import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, describe, expect, it, test } from 'vitest';
import type { ErrorCode } from '../../core/errors.ts';
import { crc32c, crc32cText } from '../../stores/gcs-crc32c.ts';
import { retrying } from '../../stores/retrying.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { answer, type GcsDouble, refuse, type Script, startGcsDouble } from './gcs-double.ts';

const signal = new AbortController().signal;
const options = { signal };
const code = (expected: ErrorCode) => ({ name: 'BackupError', code: expected });

let double: GcsDouble;
const start = async (script?: Script) => (double = await startGcsDouble(script));
afterEach(() => double.close());

const readAll = async (key: string) => collectBytes((await double.store().get(key, options))!, 1e9);

describe('a body', () => {
  const content = Buffer.from(Array.from({ length: 300_000 }, (_, n) => n % 251));
  const checksum = crc32cText(crc32c(content));
  /** Serves `content`, or the range that was asked for; `atMost` bytes of it before `then`. */
  const serve = (response: ServerResponse, range: string | undefined, atMost: number, then: () => void) => {
    const [from = 0, to = content.length - 1] = (range?.match(/\d+/g) ?? []).map(Number);
    const part = content.subarray(from, to + 1);
    response.writeHead(range === undefined ? 200 : 206, {
      'content-length': part.length,
      'x-goog-generation': '7',
      // of the whole, with a range too
      'x-goog-hash': `crc32c=${checksum},md5=AAAA`,
      ...(range === undefined ? {} : { 'content-range': `bytes ${from}-${to}/${content.length}` }),
    });
    response.write(part.subarray(0, atMost), then);
  };

  it('E2: that breaks off is resumed where it broke, of the same generation', async () => {
    await start(({ headers }, response) =>
      serve(response, headers.range, 100_000, () => setTimeout(() => response.destroy(), 20)),
    );
    expect((await readAll('k')).equals(content)).toBe(true);
    expect(double.seen.length).toBeGreaterThan(2);
    for (const { query } of double.seen.slice(1)) expect(query.get('generation')).toBe('7');
  });

  it('E2: that stalls is noticed and resumed', async () => {
    await start(({ headers }, response) => serve(response, headers.range, 200_000, () => undefined));
    const body = await double.store({}, { idleMs: 300 }).get('k', options);
    expect((await collectBytes(body!, 1e9)).equals(content)).toBe(true);
  });

  it('E2: that always breaks off is store-unavailable, not the end', async () => {
    await start(({ headers }, response) => {
      serve(response, headers.range, double.seen.length === 1 ? 1000 : 0, () =>
        setTimeout(() => response.destroy(), 5),
      );
    });
    await expect(readAll('k')).rejects.toMatchObject(code('store-unavailable'));
  });

  it('E2: that is resumed with another length is not put together', async () => {
    await start(({ headers }, response) => {
      if (headers.range === undefined) {
        serve(response, undefined, 1000, () => setTimeout(() => response.destroy(), 5));
      } else {
        const more = Buffer.alloc(content.length);
        const range = `bytes 1000-${content.length + 999}/${content.length + 1000}`;
        response.writeHead(206, { 'content-length': more.length, 'content-range': range }).end(more);
      }
    });
    await expect(readAll('k')).rejects.toMatchObject(code('store-unavailable'));
  });

  it('is not lost to a reader who pauses for longer than a store may', async () => {
    await start(({ headers }, response) => serve(response, headers.range, 1e9, () => response.end()));
    const body = await double.store({}, { idleMs: 300 }).get('k', options);
    let came = 0;
    for await (const piece of body!) {
      if (came === 0) await sleep(900);
      came += piece.length;
    }
    expect(came).toBe(content.length);
    expect(double.calls()).toEqual(['get k']);
  });

  it('that stalls for ever ends with the signal, at once', async () => {
    await start(({ headers }, response) => serve(response, headers.range, 1000, () => undefined));
    const aborter = new AbortController();
    const body = await double.store({}, { idleMs: 60_000 }).get('k', { signal: aborter.signal });
    setTimeout(() => aborter.abort(new Error('shutdown')), 50);
    const begin = performance.now();
    await expect(collectBytes(body!, 1e9)).rejects.toThrow('shutdown');
    expect(performance.now() - begin).toBeLessThan(3000);
  });

  it('that was replaced meanwhile is not joined from two versions', async () => {
    await start(({ query, headers }, response) => {
      if (query.get('generation') !== null) response.writeHead(404).end('No such object: bucket/k#7');
      else serve(response, headers.range, 1000, () => setTimeout(() => response.destroy(), 5));
    });
    await expect(readAll('k')).rejects.toMatchObject({
      ...code('object-missing'),
      message: expect.stringContaining('replaced'),
    });
  });

  it.for([false, true])('E1: with a byte changed is object-damaged (resumed: %s)', async (isResumed) => {
    await start(({ headers }, response) => {
      if (isResumed && headers.range === undefined) {
        serve(response, undefined, 1000, () => setTimeout(() => response.destroy(), 5));
        return;
      }
      const from = isResumed ? 1000 : 0;
      const bytes = Buffer.from(content.subarray(from));
      bytes[77] = (bytes[77] ?? 0) ^ 1;
      response.writeHead(isResumed ? 206 : 200, {
        'content-length': bytes.length,
        'content-range': `bytes ${from}-${content.length - 1}/${content.length}`,
        'x-goog-generation': '7',
        'x-goog-hash': `crc32c=${checksum}`,
      });
      response.end(bytes);
    });
    let given = 0;
    const reading = (async () => {
      for await (const piece of (await double.store().get('k', options))!) given += piece.length;
    })();
    await expect(reading).rejects.toMatchObject(code('object-damaged'));
    // so that nobody takes what came for the whole
    expect(given).toBeLessThan(content.length);
  });

  it('is asked for its metadata only when somebody wants it, and that of the very generation', async () => {
    await start(({ name, query, headers }, response) => {
      if (name === 'get k') serve(response, headers.range, 1e9, () => response.end());
      else if (query.get('generation') === '7')
        answer(response, 200, { metadata: { a: 'x', 'walkeep-put': 'y' } });
      else answer(response, 200, { metadata: { a: 'of another' } });
    });
    const body = await double.store().get('k', options);
    expect((await collectBytes(body!, 1e9)).equals(content)).toBe(true);
    expect(double.calls()).toEqual(['get k']);
    expect(await body!.metadata()).toEqual({ a: 'x' });
    expect(double.calls()).toEqual(['get k', 'look k']);
  });

  it('whose generation is gone when its metadata is wanted is object-missing, and not without any', async () => {
    await start(({ name, headers }, response) => {
      if (name === 'get k') serve(response, headers.range, 1e9, () => response.end());
      else refuse(response, 404, 'notFound', 'No such object: bucket/k');
    });
    const body = await double.store().get('k', options);
    for await (const _ of body!);
    await expect(body!.metadata()).rejects.toMatchObject({
      ...code('object-missing'),
      message: expect.stringContaining('replaced'),
    });
  });

  it('of which a part was asked for is not compared with the checksum of the whole', async () => {
    await start(({ headers }, response) => serve(response, headers.range, 1e9, () => response.end()));
    const body = await double.store().get('k', { signal, range: { offset: 5, length: 10 } });
    expect((await collectBytes(body!, 100)).equals(content.subarray(5, 15))).toBe(true);
  });

  it('whose range is ignored by the store is refused', async () => {
    await start((_, response) => serve(response, undefined, content.length, () => response.end()));
    const reading = double.store().get('k', { signal, range: { offset: 5, length: 10 } });
    await expect(reading).rejects.toMatchObject(code('store-unavailable'));
  });

  it('without a length is refused', async () => {
    await start((_, response) => response.writeHead(200, { 'x-goog-generation': '7' }).end('hello'));
    await expect(readAll('k')).rejects.toMatchObject(code('store-unavailable'));
    expect(double.seen).toHaveLength(1);
  });

  it('is looked for below the whole of the endpoint', async () => {
    await start(({ headers }, response) => serve(response, headers.range, 1e9, () => response.end()));
    const { endpointUrl } = double.config;
    for (const way of ['', '/', '/to/google', '/to/google/']) {
      await double
        .store({ endpointUrl: `${endpointUrl}${way}` })
        .get('a b', { signal, range: { offset: 0, length: 1 } });
    }
    const path = '/storage/v1/b/bucket/o/a%20b';
    expect(double.seen.map((request) => request.path)).toEqual([
      path,
      path,
      `/to/google${path}`,
      `/to/google${path}`,
    ]);
  });

  it('is asked for as it is stored, whatever label another tool gave it', async () => {
    await start(({ headers }, response) => serve(response, headers.range, 1e9, () => response.end()));
    await readAll('k');
    expect(double.seen[0]?.headers['accept-encoding']).toBe('gzip');
  });
});

describe('absence', () => {
  const absent: Script = ({ name }, response) =>
    name.startsWith('get') ? response.writeHead(404).end('No such object: bucket/k') : false;

  it('C3: is believed when the store says it in its own words', async () => {
    await start(absent);
    expect(await double.store().get('k', options)).toBeUndefined();
    expect(await double.store().head('k', options)).toBeUndefined();
    expect(double.calls()).toEqual(['get k', 'look k']);
  });

  test.for<{ what: string; listing: Script; becomes: ErrorCode | 'absent' }>([
    { what: 'has none', listing: () => false, becomes: 'absent' },
    {
      what: 'knows no such bucket',
      listing: (_, response) => refuse(response, 404, 'notFound', 'The specified bucket does not exist.'),
      becomes: 'bucket-missing',
    },
    {
      what: 'is refused',
      listing: (_, response) => refuse(response, 403, 'forbidden'),
      becomes: 'access-denied',
    },
    {
      what: 'is not there either',
      listing: (_, response) => response.writeHead(404).end('<html>not here</html>'),
      becomes: 'config-invalid',
    },
  ])('C3: another 404 is confirmed by a listing, which $what: $becomes', async ({ listing, becomes }) => {
    await start((request, response) =>
      request.name === 'list' ? listing(request, response) : response.writeHead(404).end('<html></html>'),
    );
    for (const looking of [double.store().get('k', options), double.store().head('k', options)]) {
      if (becomes === 'absent') expect(await looking).toBeUndefined();
      else await expect(looking).rejects.toMatchObject(code(becomes));
    }
  });

  it('C3: of an object that is listed is not believed', async () => {
    await start(({ name }, response) => {
      if (name !== 'list') return response.writeHead(404).end();
      const items = [{ name: 'k', size: '1', timeCreated: '2026-01-01T00:00:00Z' }];
      return answer(response, 200, { kind: 'storage#objects', items });
    });
    await expect(double.store().get('k', options)).rejects.toMatchObject(code('store-unavailable'));
    expect(await double.store().head('k', options)).toMatchObject({ sizeBytes: 1 });
  });
});

describe('a listing', () => {
  const item = (name: string) => ({ name, size: '1', timeCreated: '2026-01-01T00:00:00.000Z' });
  const page = (names: string[], nextPageToken?: string) => ({
    kind: 'storage#objects',
    items: names.map(item),
    nextPageToken,
  });
  const pages = (...bodies: object[]) =>
    start((_, response) => answer(response, 200, bodies[Math.min(double.seen.length, bodies.length) - 1]));
  const listAll = async (store = double.store()) => {
    const keys: string[] = [];
    for await (const { key } of store.list('', options)) keys.push(key);
    return keys;
  };

  it('goes on with the token, through pages without items', async () => {
    await pages(page(['a', 'b'], 't1'), { kind: 'storage#objects', nextPageToken: 't2' }, page(['c']));
    expect(await listAll()).toEqual(['a', 'b', 'c']);
    expect(double.seen.map(({ query }) => query.get('pageToken'))).toEqual([null, 't1', 't2']);
  });

  it('leaves out the folder marks of consoles', async () => {
    await pages(page(['a/', 'a/b']));
    expect(await listAll()).toEqual(['a/b']);
  });

  it.for([
    { what: 'that gives the same token again', bodies: [page(['a'], 't'), page([], 't')] },
    { what: 'that gives a page again', bodies: [page(['a', 'b'], 't'), page(['a', 'b'])] },
    { what: 'that is out of order', bodies: [page(['b', 'a'])] },
    { what: 'that is no listing', bodies: [{}] },
    { what: 'whose items are no list', bodies: [{ kind: 'storage#objects', items: {} }] },
    { what: 'without times', bodies: [{ kind: 'storage#objects', items: [{ name: 'a', size: '1' }] }] },
  ])('D3: $what fails, and is not shorter', async ({ bodies }) => {
    await pages(...bodies);
    await expect(listAll()).rejects.toMatchObject(code('store-unavailable'));
  });

  it('D3: that breaks off in the middle fails', async () => {
    await start((_, response) => {
      const text = JSON.stringify(page(['a']));
      response.writeHead(200, { 'content-length': text.length }).write(text.slice(0, -9), () => {
        response.destroy();
      });
    });
    await expect(listAll()).rejects.toMatchObject(code('store-unavailable'));
  });

  it('D3: whose second page fails, fails', async () => {
    await start((_, response) => {
      if (double.seen.length === 1) answer(response, 200, page(['a'], 't'));
      else refuse(response, 403, 'forbidden');
    });
    await expect(listAll()).rejects.toMatchObject(code('access-denied'));
  });

  it('goes on behind what came when it is tried again', async () => {
    await start((_, response) => {
      const calls = double.seen.length;
      if (calls === 1) answer(response, 200, page(['a', 'b'], 't'));
      else if (calls <= 4) refuse(response, 503, 'backendError');
      else answer(response, 200, page(['a', 'b', 'c']));
    });
    expect(await listAll(retrying(double.store(), { firstPauseMs: 1 }))).toEqual(['a', 'b', 'c']);
  });
});

describe('deleting', () => {
  it('does what it can, and names the first key that it could not delete', async () => {
    await start(({ name }, response) =>
      /[bd]$/.test(name) ? refuse(response, 403, 'retentionPolicyNotMet') : false,
    );
    await expect(double.store().delete(['a', 'b', 'c', 'd'], options)).rejects.toMatchObject({
      ...code('access-denied'),
      message: 'delete gs://bucket/b failed: retentionPolicyNotMet, status 403, and 1 more of 4',
    });
    expect(double.calls().toSorted()).toEqual(['delete a', 'delete b', 'delete c', 'delete d']);
  });

  it('takes what is not there for deleted, and its lost answers too', async () => {
    await start(({ name }, response) => {
      if (name === 'delete a') return refuse(response, 404, 'notFound', 'No such object: bucket/a');
      if (name !== 'delete b') return false;
      const again = double.calls().filter((call) => call === name).length > 1;
      return again ? refuse(response, 404, 'notFound', 'No such object: bucket/b') : response.destroy();
    });
    await double.store().delete(['a', 'b'], options);
    expect(double.calls().toSorted()).toEqual(['delete a', 'delete b', 'delete b']);
  });

  it('C3: does not take the page of a proxy for a deletion', async () => {
    await start((_, response) => response.writeHead(404).end('<html>not here</html>'));
    await expect(double.store().delete(['a'], options)).rejects.toMatchObject(code('config-invalid'));
  });

  it('has at most sixteen requests at once, and ends at once when it is aborted', async () => {
    const aborter = new AbortController();
    await start(() => {
      if (double.seen.length === 16) setTimeout(() => aborter.abort(new Error('shutdown')), 100);
    });
    const keys = Array.from({ length: 40 }, (_, n) => `k${n}`);
    const deleting = double.store({}, { idleMs: 60_000 }).delete(keys, { signal: aborter.signal });
    await expect(deleting).rejects.toThrow('shutdown');
    expect(double.seen).toHaveLength(16);
  });
});

describe('the checksum', () => {
  it('is CRC-32C, in pieces of any size', async () => {
    await start();
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(300), (all, cut) => {
        expect(crc32c(all.subarray(cut), crc32c(all.subarray(0, cut)))).toBe(bitByBit(all));
      }),
    );
  });

  function bitByBit(all: Uint8Array): number {
    let crc = 0xffffffff;
    for (const byte of all) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    }
    return ~crc >>> 0;
  }
});
