import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../core/errors.ts';
import { crc32c, crc32cText } from '../../stores/gcs-crc32c.ts';
import { piecesOf } from '../../streams/chunks.ts';
import {
  answer,
  type GcsDouble,
  incomplete,
  partsOf,
  refuse,
  type Script,
  startGcsDouble,
} from './gcs-double.ts';

const MiB = 1024 * 1024;
const CHUNK = 8 * MiB;
const SIZE = 2 * CHUNK + 5;
const signal = new AbortController().signal;
const options = { signal };
const code = (expected: ErrorCode) => ({ name: 'BackupError', code: expected });

let double: GcsDouble;
const start = async (script?: Script) => (double = await startGcsDouble(script));
afterEach(() => double.close());

const bytes = Buffer.alloc(SIZE, 'walkeep ');
const large = () => piecesOf(bytes);
const FIRST = `chunk 0-${CHUNK - 1}/*`;
const SECOND = `chunk ${CHUNK}-${2 * CHUNK - 1}/*`;
const LAST = `chunk ${2 * CHUNK}-${SIZE - 1}/${SIZE}`;
const isNth = (name: string, n: number) => double.calls().filter((call) => call === name).length === n;

describe('an upload in chunks', () => {
  it('sends one after the other, and with the last one the size and the checksum of the whole', async () => {
    await start();
    const store = double.store({ kmsKeyName: 'projects/p/locations/l/keyRings/r/cryptoKeys/k' });
    const put = { signal, ifAbsent: true, tags: { team: 'ä b' } };
    expect(await store.put('a/k', large(), put)).toEqual({ sizeBytes: SIZE });
    expect(double.stored()?.equals(bytes)).toBe(true);
    expect(double.calls()).toEqual(['begin', FIRST, SECOND, LAST]);
    const [begin, ...chunks] = double.seen;
    expect(Object.fromEntries(begin!.query)).toEqual({
      uploadType: 'resumable',
      name: 'a/k',
      ifGenerationMatch: '0',
      kmsKeyName: 'projects/p/locations/l/keyRings/r/cryptoKeys/k',
    });
    expect(JSON.parse(begin!.body.toString())).toEqual({
      name: 'a/k',
      contentType: 'application/octet-stream',
      metadata: { team: 'ä b', 'walkeep-put': expect.any(String) },
    });
    expect(chunks.map(({ headers }) => headers['x-goog-hash'])).toEqual([
      undefined,
      undefined,
      `crc32c=${crc32cText(crc32c(bytes))}`,
    ]);
  });

  it('holds three chunks at most, however fast the source is', async () => {
    let given = 0;
    let taken = 0;
    let most = 0;
    await start(({ name, body }, response) => {
      if (!name.startsWith('chunk')) return false;
      most = Math.max(most, given - taken);
      taken += body.length;
      setTimeout(() => {
        const end = / (\d+)-(\d+)\/(.*)$/.exec(name);
        if (end?.[3] === '*') incomplete(response, Number(end[2]) + 1);
        else answer(response, 200, { size: String(given) });
      }, 50);
      return true;
    });
    const source = async function* () {
      for (let n = 0; n < 6 * 16; n++) {
        given += MiB;
        yield Buffer.alloc(MiB);
      }
    };
    await double.store({}, { idleMs: 5000 }).put('k', source(), options);
    expect(most).toBeLessThanOrEqual(3 * CHUNK + MiB);
  });

  it.for<{ what: string; idleMs?: number; fault: Script }>([
    { what: 'a reset', fault: (_, response) => response.destroy() },
    { what: 'a 503', fault: (_, response) => refuse(response, 503, 'backendError') },
    { what: 'a 429', fault: (_, response) => refuse(response, 429, 'rateLimitExceeded') },
    { what: 'a stall', idleMs: 1500, fault: () => undefined },
    { what: 'a page of a proxy', fault: (_, response) => response.writeHead(200).end('<html>hello</html>') },
  ])('E2: after $what asks what the store has, and goes on from there', async ({ fault, idleMs = 5000 }) => {
    await start((request, response) => {
      if (request.name !== SECOND || !isNth(SECOND, 1)) return false;
      fault(request, response);
      return true;
    });
    await double.store({}, { idleMs }).put('k', large(), options);
    expect(double.stored()?.equals(bytes)).toBe(true);
    expect(double.calls()).toEqual(['begin', FIRST, SECOND, 'chunk */*', SECOND, LAST]);
  });

  it('E2: sends the rest of a chunk of which the store has only a part', async () => {
    const half = CHUNK / 2;
    await start((request, response) => {
      if (request.name !== SECOND) return false;
      incomplete(response, CHUNK + half);
      return true;
    });
    const rest = `chunk ${CHUNK + half}-${2 * CHUNK - 1}/*`;
    await double
      .store()
      .put('k', large(), options)
      .catch(() => undefined);
    expect(double.calls().slice(0, 4)).toEqual(['begin', FIRST, SECOND, rest]);
  });

  it.for<{ what: string; has: number }>([
    { what: 'fewer bytes than it had taken', has: CHUNK - 256 * 1024 },
    { what: 'nothing any more', has: 0 },
    { what: 'more bytes than were sent', has: SIZE },
  ])('E2: to a store that has $what fails, and is cancelled', async ({ has }) => {
    await start((request, response) => {
      if (request.name !== SECOND) return false;
      incomplete(response, has);
      return true;
    });
    await expect(double.store().put('k', large(), options)).rejects.toMatchObject(code('store-unavailable'));
    expect(double.calls()).toEqual(['begin', FIRST, SECOND, 'cancel']);
    expect(double.stored()).toBeUndefined();
  });

  it.for([404, 410])('E2: that the store has lost (%i) fails, and is cancelled', async (status) => {
    await start((request, response) => {
      if (request.name !== SECOND) return false;
      answer(response, status);
      return true;
    });
    await expect(double.store().put('k', large(), options)).rejects.toMatchObject(code('store-unavailable'));
    expect(double.calls()).toEqual(['begin', FIRST, SECOND, 'cancel']);
  });

  it('E2: of which the store takes no more comes to an end', async () => {
    await start((request, response) => {
      if (!request.name.startsWith('chunk')) return false;
      incomplete(response, 0);
      return true;
    });
    await expect(double.store().put('k', large(), options)).rejects.toMatchObject(code('store-unavailable'));
    expect(double.calls().length).toBeLessThan(10);
    expect(double.calls().at(-1)).toBe('cancel');
  });

  it('E2: whose last answer was lost is asked for, and has succeeded', async () => {
    let lost = false;
    await start((request, response) => {
      if (request.name !== LAST || lost) return false;
      lost = true;
      // taken, and the answer lost on the way
      setTimeout(() => response.destroy(), 20);
      return true;
    });
    await double.store().put('k', large(), options);
    expect(double.stored()?.equals(bytes)).toBe(true);
    expect(double.calls()).toEqual(['begin', FIRST, SECOND, LAST, `chunk */${SIZE}`, LAST]);
  });

  /** Loses the answer to the last chunk, and then the upload. */
  const forgetful =
    (idOfObject: (id: unknown) => unknown): Script =>
    (request, response) => {
      if (request.name === LAST) response.destroy();
      else if (request.name.startsWith('chunk */')) answer(response, 410);
      else if (request.name === 'look k') {
        const { metadata } = JSON.parse(double.seen[0]!.body.toString()) as {
          metadata: Record<string, unknown>;
        };
        const record = { size: String(SIZE), crc32c: crc32cText(crc32c(bytes)), generation: '7' };
        answer(response, 200, {
          ...record,
          metadata: { 'walkeep-put': idOfObject(metadata['walkeep-put']) },
        });
      } else return false;
      return true;
    };

  it('E2: that is gone, and its object is this very one, has succeeded', async () => {
    await start(forgetful((id) => id));
    expect(await double.store().put('k', large(), options)).toEqual({ sizeBytes: SIZE });
    expect(double.calls()).not.toContain('cancel');
  });

  it('A3: that is gone, and the object is that of another, has failed', async () => {
    await start(forgetful(() => 'of another'));
    await expect(double.store().put('k', large(), options)).rejects.toMatchObject(code('store-unavailable'));
    expect(double.calls().at(-1)).toBe('cancel');
  });

  it('A3: that is refused because the object exists is not taken for the object of another', async () => {
    await start((request, response) => {
      if (request.name === LAST) refuse(response, 412, 'conditionNotMet');
      else if (request.name === 'look k')
        answer(response, 200, { size: String(SIZE), metadata: { 'walkeep-put': 'of another' } });
      else return false;
      return true;
    });
    const putting = double.store().put('k', large(), { signal, ifAbsent: true });
    await expect(putting).rejects.toMatchObject(code('already-exists'));
    expect(double.calls().at(-1)).toBe('cancel');
  });

  it.for([
    { what: 'another checksum', record: { size: String(SIZE), crc32c: 'AAAAAA==' } },
    { what: 'another size', record: { size: '7' } },
    { what: 'no record', record: {} },
  ])(
    'E2: that was stored with $what counts for nothing, and that very object is removed',
    async ({ record }) => {
      await start((request, response) => {
        if (request.name !== LAST) return false;
        answer(response, 200, { ...record, generation: '42' });
        return true;
      });
      await expect(double.store().put('k', large(), options)).rejects.toMatchObject(
        code('store-unavailable'),
      );
      const removal = double.seen.find(({ name }) => name === 'delete k');
      expect(removal?.query.get('ifGenerationMatch')).toBe('42');
    },
  );

  it('whose body fails is cancelled', async () => {
    await start();
    const failing = async function* () {
      yield Buffer.alloc(2 * CHUNK + 1);
      throw new Error('read error on the disk');
    };
    await expect(double.store().put('k', failing(), options)).rejects.toThrow('read error on the disk');
    expect(double.calls().at(-1)).toBe('cancel');
    expect(double.stored()).toBeUndefined();
  });

  it('that is aborted in the middle of a chunk ends at once, and is cancelled', async () => {
    const aborter = new AbortController();
    await start((request) => {
      if (request.name !== SECOND) return false;
      aborter.abort(new Error('shutdown'));
      return true;
    });
    const begin = performance.now();
    const putting = double.store({}, { idleMs: 60_000 }).put('k', large(), { signal: aborter.signal });
    await expect(putting).rejects.toThrow('shutdown');
    expect(performance.now() - begin).toBeLessThan(3000);
    expect(double.calls()).toEqual(['begin', FIRST, SECOND, 'cancel']);
  });

  it('that is aborted before its address is known is cancelled all the same', async () => {
    const aborter = new AbortController();
    await start((request, response) => {
      if (request.name !== 'begin') return false;
      aborter.abort(new Error('shutdown'));
      const location = `${double.config.endpointUrl}/upload/x?upload_id=canary-session`;
      setTimeout(() => answer(response, 200, undefined, { location }), 100);
      return true;
    });
    const putting = double.store().put('k', large(), { signal: aborter.signal });
    await expect(putting).rejects.toThrow('shutdown');
    expect(double.calls()).toEqual(['begin', 'cancel']);
    await sleep(20);
  });

  it('does not wait for a source that hangs when the store has refused it', async () => {
    await start((request, response) => {
      if (!request.name.startsWith('chunk')) return false;
      refuse(response, 403, 'forbidden');
      return true;
    });
    const hanging = async function* () {
      yield Buffer.alloc(2 * CHUNK + 1);
      await sleep(60_000);
    };
    const begin = performance.now();
    await expect(double.store().put('k', hanging(), options)).rejects.toMatchObject(code('access-denied'));
    expect(performance.now() - begin).toBeLessThan(5000);
  });

  it('S1: says nothing of its address, with which anybody could go on with it', async () => {
    await start((request, response) => {
      if (!request.name.startsWith('chunk')) return false;
      refuse(response, 403, 'forbidden', 'no: canary-session');
      return true;
    });
    const error = await double
      .store()
      .put('k', large(), options)
      .catch((thrown: unknown) => thrown);
    expect(JSON.stringify([error, String(error), (error as Error).cause])).not.toContain('canary');
  });
});

describe('a put in one request', () => {
  it('sends what it is with its checksum, and nothing of the bytes is changed', async () => {
    await start();
    const body = Buffer.from('\r\n--walkeep\r\n\r\nü');
    await double.store().put('k', body, { signal, tags: { a: 'b' } });
    const { record, bytes: sent } = partsOf(double.seen[0]!);
    expect(sent.equals(body)).toBe(true);
    expect(record).toMatchObject({ name: 'k', crc32c: crc32cText(crc32c(body)), metadata: { a: 'b' } });
  });

  it('A2: that was repeated because its answer was lost, and finds its own object, succeeded', async () => {
    await start((request, response) => {
      const puts = double.seen.filter(({ name }) => name === 'put');
      if (request.name === 'look k') answer(response, 200, { ...partsOf(puts[0]!).record, size: '1' });
      else if (puts.length === 1) response.destroy();
      else refuse(response, 412, 'conditionNotMet');
      return true;
    });
    const put = { signal, ifAbsent: true };
    expect(await double.store().put('k', Buffer.from('x'), put)).toEqual({ sizeBytes: 1 });
    expect(double.seen[0]?.query.get('ifGenerationMatch')).toBe('0');
  });

  it.for([429, 500, 503])('is tried again when the store says %i', async (status) => {
    await start((_, response) => {
      if (double.seen.length >= 3) return false;
      refuse(response, status, 'backendError');
      return true;
    });
    expect(await double.store().put('k', Buffer.from('x'), options)).toEqual({ sizeBytes: 1 });
  });

  it('is tried three times, and left to others then', async () => {
    await start((_, response) => refuse(response, 503, 'backendError'));
    const putting = double.store().put('k', Buffer.from('x'), options);
    await expect(putting).rejects.toMatchObject(code('store-unavailable'));
    expect(double.calls().filter((name) => name === 'put')).toHaveLength(3);
  });

  it('fails within its limit when the store takes the bytes and never answers', async () => {
    await start(() => undefined);
    const begin = performance.now();
    const store = double.store({}, { idleMs: 60_000, callMs: 1000 });
    await expect(store.put('k', Buffer.from('x'), options)).rejects.toMatchObject(code('store-unavailable'));
    expect(performance.now() - begin).toBeLessThan(4000);
  });

  it('is given up at once when it is aborted', async () => {
    await start(() => undefined);
    const aborter = new AbortController();
    setTimeout(() => aborter.abort(new Error('shutdown')), 50);
    const begin = performance.now();
    const store = double.store({}, { idleMs: 60_000, callMs: 60_000 });
    await expect(store.put('k', Buffer.from('x'), { signal: aborter.signal })).rejects.toThrow('shutdown');
    expect(performance.now() - begin).toBeLessThan(3000);
  });

  it.for<{ status: number; said: string; message?: string; becomes: ErrorCode }>([
    { status: 401, said: 'authError', becomes: 'access-denied' },
    { status: 401, said: 'required', becomes: 'access-denied' },
    { status: 403, said: 'forbidden', becomes: 'access-denied' },
    { status: 403, said: 'accountDisabled', becomes: 'access-denied' },
    { status: 403, said: 'retentionPolicyNotMet', becomes: 'access-denied' },
    { status: 403, said: 'rateLimitExceeded', becomes: 'store-unavailable' },
    { status: 403, said: 'quotaExceeded', becomes: 'store-full' },
    { status: 507, said: 'insufficientStorage', becomes: 'store-full' },
    { status: 404, said: 'notFound', becomes: 'bucket-missing' },
    { status: 412, said: 'conditionNotMet', becomes: 'already-exists' },
    { status: 409, said: 'conflict', becomes: 'store-unavailable' },
    { status: 400, said: 'invalid', becomes: 'config-invalid' },
    { status: 501, said: 'notImplemented', becomes: 'config-invalid' },
    { status: 500, said: 'internalError', becomes: 'store-unavailable' },
  ])(
    'S1: that is refused with $status $said is $becomes, in words of our own',
    async ({ status, said, becomes }) => {
      await start(({ name }, response) => (name === 'put' ? refuse(response, status, said) : false));
      const error = await double
        .store()
        .put('k', Buffer.from('x'), options)
        .catch((thrown: unknown) => thrown);
      expect(error).toMatchObject(code(becomes));
      expect((error as Error).message).toBe(`put gs://bucket/k failed: ${said}, status ${status}`);
      expect(JSON.stringify([error, (error as Error).cause, (error as Error).stack])).not.toContain('canary');
    },
  );

  it('E2: whose checksum the store finds wrong is store-unavailable, and tried again', async () => {
    await start((_, response) => {
      if (double.seen.length > 1) return false;
      refuse(response, 400, 'invalid', 'Provided CRC32C "a" doesn\'t match calculated CRC32C "b".');
      return true;
    });
    expect(await double.store().put('k', Buffer.from('x'), options)).toEqual({ sizeBytes: 1 });
  });

  it('to a port where nobody listens is store-unavailable', async () => {
    await start();
    const store = double.store();
    await double.close();
    await expect(store.put('k', Buffer.from('x'), options)).rejects.toMatchObject(code('store-unavailable'));
    await start();
  });
});
