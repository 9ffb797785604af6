import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import type { ErrorCode } from '../../core/errors.ts';
import { compareKeys } from '../../stores/keys.ts';
import type { ObjectStore, StoredObject } from '../../stores/object-store.ts';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

/** What a kind of store offers to its tests. */
export interface StoreUnderTest {
  /** Empty, or with nothing below the keys of the suite. */
  readonly store: ObjectStore;
  /** A store whose bucket or root is not there; left out where there is no such thing. */
  readonly missing?: ObjectStore;
  /** A store that is refused: wrong keys, no rights. */
  readonly denied?: readonly {
    readonly why: string;
    readonly store: ObjectStore;
    /** Values that no message may hold. */
    readonly secrets: readonly string[];
  }[];
  /** What an aborted or failed put left behind the scenes: temporary files, unfinished uploads. */
  readonly leftovers?: () => Promise<number>;
}

/** The definition of a correct store. Every adapter runs it. */
export function describeObjectStore(name: string, open: () => Promise<StoreUnderTest>): void {
  describe(`${name} as an object store`, () => {
    let tested: StoreUnderTest;
    let store: ObjectStore;
    beforeAll(async () => {
      tested = await open();
      store = tested.store;
    });
    afterAll(async () => {
      await store.close();
    });
    const signal = new AbortController().signal;
    const options = { signal };

    const read = async (key: string, range?: { offset: number; length: number }) => {
      const body = await store.get(key, { signal, ...(range ? { range } : {}) });
      return body && collectBytes(body, 1e9);
    };
    const listed = async (prefix: string) => {
      const found: StoredObject[] = [];
      for await (const object of store.list(prefix, options)) found.push(object);
      return found;
    };
    const keysBelow = async (prefix: string) => (await listed(prefix)).map(({ key }) => key);
    const foldersBelow = async (prefix: string) => {
      const found: string[] = [];
      for await (const folder of store.folders(prefix, options)) found.push(folder);
      return found;
    };
    const code = (expected: ErrorCode) => expect.objectContaining({ name: 'BackupError', code: expected });
    const text = (words: string) => Buffer.from(words);
    async function* slowly(...pieces: Uint8Array[]) {
      for (const piece of pieces) {
        await sleep(1);
        yield piece;
      }
    }

    describe('put and get', () => {
      test.for([
        0,
        1,
        64 * KiB - 1,
        64 * KiB,
        256 * KiB + 1,
        5 * MiB,
        16 * MiB - 1,
        16 * MiB,
        16 * MiB + 1,
        37 * MiB + 5,
      ])('E1: out = in for %i bytes, in memory and as a stream', async (size) => {
        const bytes = randomBytes(size);
        expect(await store.put('size/memory', bytes, options)).toMatchObject({ sizeBytes: size });
        expect(bytes.equals((await read('size/memory'))!)).toBe(true);
        const cut = Math.floor(size / 3);
        const pieces = slowly(
          bytes.subarray(0, cut),
          Buffer.alloc(0),
          bytes.subarray(cut, 2 * cut),
          bytes.subarray(2 * cut),
        );
        const put = await store.put('size/stream', pieces, options);
        expect(put).toMatchObject({ sizeBytes: size });
        expect(bytes.equals((await read('size/stream'))!)).toBe(true);
        expect(await store.head('size/stream', options)).toMatchObject({
          key: 'size/stream',
          sizeBytes: size,
        });
      });

      it('replaces an object as a whole', async () => {
        await store.put('replaced', randomBytes(300 * KiB), options);
        await store.put('replaced', text('new'), options);
        expect((await read('replaced'))?.toString()).toBe('new');
      });

      it('gives a part of an object, as much as it has of it', async () => {
        await store.put('part', text('0123456789'), options);
        expect((await read('part', { offset: 3, length: 4 }))?.toString()).toBe('3456');
        expect((await read('part', { offset: 8, length: 4 }))?.toString()).toBe('89');
        expect((await read('part', { offset: 10, length: 4 }))?.toString()).toBe('');
        expect((await read('part', { offset: 2, length: 0 }))?.toString()).toBe('');
        expect(await read('no/part', { offset: 0, length: 4 })).toBeUndefined();
        expect(await read('no/part', { offset: 0, length: 0 })).toBeUndefined();
      });

      it('says undefined for what is not there, whatever is beside it', async () => {
        await store.put('beside/x.gz', text('x'), options);
        for (const key of ['beside/x', 'beside', 'beside/x.gzz', 'beside/x.gz/y', 'nowhere/at/all']) {
          expect(await store.get(key, options)).toBeUndefined();
          expect(await store.head(key, options)).toBeUndefined();
        }
      });

      it('tells size and time', async () => {
        const before = Date.now();
        await store.put('told', text('12345'), options);
        const head = await store.head('told', options);
        expect(head).toMatchObject({ key: 'told', sizeBytes: 5 });
        expect(Math.abs(head!.modifiedAt.getTime() - before)).toBeLessThan(10_000);
        expect((await listed('told')).map(({ sizeBytes }) => sizeBytes)).toEqual([5]);
      });

      it('D7: says of no lock what has none, and what is not there', async () => {
        await store.put('unlocked', text('x'), options);
        for (const key of ['unlocked', 'not-there'])
          expect(await store.lockOf?.(key, options)).toBeUndefined();
      });

      it('takes encryption and tags, wherever the store does not have them', async () => {
        await store.put('tagged', text('x'), {
          signal,
          encryption: 'AES256',
          tags: { team: 'a+b=c @d', 'walkeep/kind': 'wal' },
        });
        expect((await read('tagged'))?.toString()).toBe('x');
      });

      describe('metadata', () => {
        const metadata = { 'walkeep-sha256': 'a'.repeat(64), 'walkeep-bytes': '16777216', plain: '!~=+/%20' };
        const both = async (key: string) => {
          const body = await store.get(key, options);
          for await (const _ of body!);
          return [await body!.metadata(), (await store.head(key, options))!.metadata];
        };
        const given = () => (store.features.metadata ? metadata : {});

        test.for([0, 1, 16 * MiB, 17 * MiB, 33 * MiB])(
          'E1: of %i bytes comes back with the body and by a look, in memory and as a stream',
          async (size) => {
            const bytes = Buffer.alloc(size, 'm');
            await store.put('meta/memory', bytes, { signal, metadata });
            expect(await both('meta/memory')).toEqual([given(), given()]);
            await store.put('meta/stream', piecesOf(bytes), { signal, metadata, ifAbsent: true });
            expect(await both('meta/stream')).toEqual([given(), given()]);
            await store.delete(['meta/stream'], options);
          },
        );

        it('stands beside encryption and tags', async () => {
          const tags = { team: 'a' };
          await store.put('meta/tagged', text('x'), { signal, encryption: 'AES256', tags, metadata });
          for (const found of await both('meta/tagged')) expect(found).toMatchObject(given());
        });

        it('goes with the object it was given with: another has none, or its own', async () => {
          await store.put('meta/again', text('old'), { signal, metadata });
          await store.put('meta/again', text('new'), { signal, metadata: { plain: 'p' } });
          const own = store.features.metadata ? { plain: 'p' } : {};
          expect(await both('meta/again')).toEqual([own, own]);
          await store.put('meta/again', text('newest'), options);
          expect(await both('meta/again')).toEqual([{}, {}]);
        });

        it('comes with a part of an object, and with nothing of it', async () => {
          await store.put('meta/part', text('0123456789'), { signal, metadata });
          for (const range of [
            { offset: 2, length: 3 },
            { offset: 2, length: 0 },
          ]) {
            const body = await store.get('meta/part', { signal, range });
            for await (const _ of body!);
            expect(await body!.metadata()).toEqual(given());
          }
        });

        test.for([
          { Upper: 'x' },
          { a_b: 'x' },
          { '': 'x' },
          { a: '' },
          { a: 'x y' },
          { a: 'ü' },
          { a: 'x\n' },
        ])('S2: that some store would change is refused: %j', async (bad: Record<string, string>) => {
          const putting = store.put('meta/bad', text('x'), { signal, metadata: bad });
          await expect(putting).rejects.toEqual(code('format-invalid'));
          expect(await store.head('meta/bad', options)).toBeUndefined();
        });
      });

      test.for(['a b', 'üä€', 'x+y=z&a%20b', "q'uote", '#hash', '🐘', 'x'.repeat(255), '-', '..a', 'a..'])(
        'takes %j for a name',
        async (odd) => {
          const key = `odd/${odd}/${odd}`;
          await store.put(key, text(odd), options);
          expect((await read(key))?.toString()).toBe(odd);
          expect(await keysBelow(`odd/${odd}/`)).toEqual([key]);
          expect(await foldersBelow('odd/')).toContain(`odd/${odd}/`);
          await store.delete([key], options);
          expect(await read(key)).toBeUndefined();
        },
      );

      test.for(['', '/', '/abs', 'a//b', 'a/', 'a/../b', '..', './a', 'a/.', 'nul\0', 'x'.repeat(256)])(
        'S2: refuses %j for a name',
        async (bad) => {
          const refused = code('format-invalid');
          await expect(store.put(bad, text('x'), options)).rejects.toEqual(refused);
          await expect(store.get(bad, options)).rejects.toEqual(refused);
          await expect(store.head(bad, options)).rejects.toEqual(refused);
          await expect(store.delete([bad], options)).rejects.toEqual(refused);
        },
      );
    });

    describe('all or nothing', () => {
      const MANY = 20 * MiB;

      it.for([5, MANY])(
        'refuses a body of another size than announced, and stores nothing (%i bytes)',
        async (size) => {
          const bytes = Buffer.alloc(size, 'x');
          for (const sizeBytes of [size - 1, size + 1]) {
            await expect(store.put('wrong/size', bytes, { signal, sizeBytes })).rejects.toEqual(
              code('object-damaged'),
            );
            await expect(store.put('wrong/size', piecesOf(bytes), { signal, sizeBytes })).rejects.toEqual(
              code('object-damaged'),
            );
          }
          expect(await read('wrong/size')).toBeUndefined();
          expect(await store.put('right/size', piecesOf(bytes), { signal, sizeBytes: size })).toMatchObject({
            sizeBytes: size,
          });
          expect((await tested.leftovers?.()) ?? 0).toBe(0);
        },
      );

      it.for([1, 25 * MiB])(
        'stores nothing when the body fails after %i bytes, and says why',
        async (size) => {
          await store.put('failing', text('old'), options);
          const failing = async function* () {
            for (let sent = 0; sent < size; sent += MiB) yield Buffer.alloc(Math.min(MiB, size - sent));
            throw new Error('read error on the disk');
          };
          await expect(store.put('failing', failing(), options)).rejects.toThrow('read error on the disk');
          expect((await read('failing'))?.toString()).toBe('old');
          expect((await tested.leftovers?.()) ?? 0).toBe(0);
        },
      );

      it.for([1, 25 * MiB])(
        'stores nothing when it is aborted after %i bytes, at once and although the body hangs',
        async (size) => {
          const aborter = new AbortController();
          const reason = new Error('shutdown');
          let stopped = false;
          const hanging = async function* () {
            try {
              for (let sent = 0; sent < size; sent += MiB) yield Buffer.alloc(Math.min(MiB, size - sent));
              setTimeout(() => aborter.abort(reason), 20);
              for (;;) {
                await sleep(5);
                yield Buffer.alloc(1);
              }
            } finally {
              stopped = true;
            }
          };
          await expect(store.put('aborted', hanging(), { signal: aborter.signal })).rejects.toBe(reason);
          expect(await read('aborted')).toBeUndefined();
          expect((await tested.leftovers?.()) ?? 0).toBe(0);
          await sleep(20);
          expect(stopped).toBe(true);
        },
      );

      it('does nothing for a signal that is aborted already', async () => {
        const aborted = { signal: AbortSignal.abort(new Error('gone')) };
        await expect(store.put('late', text('x'), aborted)).rejects.toThrow('gone');
        await expect(store.get('late', aborted)).rejects.toThrow('gone');
        await expect(store.head('late', aborted)).rejects.toThrow('gone');
        await expect(store.list('', aborted)[Symbol.asyncIterator]().next()).rejects.toThrow('gone');
        await expect(store.folders('', aborted)[Symbol.asyncIterator]().next()).rejects.toThrow('gone');
        await store.put('late', text('x'), options);
        await expect(store.delete(['late'], aborted)).rejects.toThrow('gone');
        expect(await store.head('late', options)).toBeDefined();
      });

      it('stops giving a body when it is aborted', async () => {
        await store.put('long', Buffer.alloc(8 * MiB), options);
        const aborter = new AbortController();
        const body = await store.get('long', { signal: aborter.signal });
        const reading = (async () => {
          for await (const _ of body!) aborter.abort(new Error('enough'));
        })();
        await expect(reading).rejects.toThrow('enough');
      });
    });

    describe('create-if-absent', () => {
      it('stores what is new, and leaves alone what is there', async () => {
        expect(store.features.ifAbsent).toBe(true);
        const once = { signal, ifAbsent: true };
        await store.put('once/small', text('first'), once);
        await expect(store.put('once/small', text('first'), once)).rejects.toEqual(code('already-exists'));
        await expect(store.put('once/small', piecesOf(text('second')), once)).rejects.toEqual(
          code('already-exists'),
        );
        await expect(store.put('once/small', Buffer.alloc(20 * MiB), once)).rejects.toEqual(
          code('already-exists'),
        );
        expect((await read('once/small'))?.toString()).toBe('first');
        expect((await tested.leftovers?.()) ?? 0).toBe(0);
      });

      it.for([
        { what: 'small', size: 1000, writers: 12 },
        { what: 'large', size: 17 * MiB, writers: 3 },
      ])(
        'A3: of $writers writers of a $what object at once, one wins and the others are told',
        async ({ what, size, writers }) => {
          const bodies = Array.from({ length: writers }, (_, n) => Buffer.alloc(size, n + 1));
          const results = await Promise.allSettled(
            bodies.map((body) => store.put(`race/${what}`, piecesOf(body), { signal, ifAbsent: true })),
          );
          const winners = results.flatMap((result, n) => (result.status === 'fulfilled' ? [n] : []));
          expect(winners).toHaveLength(1);
          for (const result of results) {
            if (result.status === 'rejected') expect(result.reason).toEqual(code('already-exists'));
          }
          expect(bodies[winners[0]!]!.equals((await read(`race/${what}`))!)).toBe(true);
          expect((await tested.leftovers?.()) ?? 0).toBe(0);
        },
      );
    });

    describe('list, folders and delete', () => {
      const TREE = [
        't/a',
        't/a-',
        't/a/b',
        't/a/b-c',
        't/a/b/c',
        't/a0',
        't/b/x',
        't/b/y',
        't/ü',
        't/€',
        't/🐘',
        't/\uffee',
      ];
      // a directory can't hold an object and others below it
      const TREE_OF_FILES = TREE.filter((key) => !TREE.some((other) => other.startsWith(`${key}/`)));
      const inOrder = TREE_OF_FILES.toSorted(compareKeys);
      beforeAll(async () => {
        for (const key of TREE_OF_FILES) await store.put(key, text(key), options);
      });

      it('lists keys in the order of their bytes, of any beginning', async () => {
        expect(await keysBelow('t/')).toEqual(inOrder);
        for (const prefix of [
          't/a',
          't/a/',
          't/a/b',
          't/a/b-',
          't/b/x',
          't/b/xx',
          't/c',
          'no/where/',
          't/a-/x',
        ]) {
          expect(await keysBelow(prefix)).toEqual(inOrder.filter((key) => key.startsWith(prefix)));
        }
        expect(await keysBelow('')).toEqual(expect.arrayContaining(inOrder));
      });

      it('names folders, each once and in order', async () => {
        expect(await foldersBelow('t/')).toEqual(['t/a/', 't/b/']);
        expect(await foldersBelow('t/b/')).toEqual([]);
        expect(await foldersBelow('t/none/')).toEqual([]);
        expect(await foldersBelow('')).toContain('t/');
        await expect(foldersBelow('t')).rejects.toEqual(code('format-invalid'));
      });

      it('D3: reads a listing of more than one page to its end, and deletes it', async () => {
        const keys = Array.from({ length: 1250 }, (_, n) => `many/${String(n).padStart(5, '0')}`);
        for (let at = 0; at < keys.length; at += 50) {
          await Promise.all(keys.slice(at, at + 50).map((key) => store.put(key, text('x'), options)));
        }
        await store.put('many/x/1', text('x'), options);
        expect(await keysBelow('many/')).toEqual([...keys, 'many/x/1']);
        expect(await keysBelow('many/001')).toHaveLength(100);
        expect(await foldersBelow('many/')).toEqual(['many/x/']);
        await store.delete([...keys, 'many/x/1', 'many/never-there'], options);
        expect(await keysBelow('many/')).toEqual([]);
        expect(await foldersBelow('')).not.toContain('many/');
      });

      it('deletes only what was named, and succeeds for what is not there', async () => {
        await store.put('gone/1', text('1'), options);
        await store.put('gone/11', text('11'), options);
        await store.delete(['gone/1'], options);
        await store.delete(['gone/1', 'never'], options);
        await store.delete([], options);
        expect(await keysBelow('gone/')).toEqual(['gone/11']);
      });

      it('a reader that stops early leaves nothing open', async () => {
        for await (const object of store.list('t/', options)) if (object.key !== '') break;
        for await (const folder of store.folders('t/', options)) if (folder !== '') break;
        const body = await store.get('t/b/x', options);
        for await (const _ of body!) break;
      });
    });

    it('a missing bucket is not an empty store', async () => {
      const { missing } = tested;
      if (missing === undefined) return;
      const refused = code('bucket-missing');
      await expect(missing.get('x', options)).rejects.toEqual(refused);
      await expect(missing.head('x', options)).rejects.toEqual(refused);
      await expect(missing.put('x', text('x'), options)).rejects.toEqual(refused);
      await expect(missing.put('x', piecesOf(Buffer.alloc(17 * MiB)), options)).rejects.toEqual(refused);
      await expect(missing.list('', options)[Symbol.asyncIterator]().next()).rejects.toEqual(refused);
      await expect(missing.list('a/b/', options)[Symbol.asyncIterator]().next()).rejects.toEqual(refused);
      await expect(missing.folders('', options)[Symbol.asyncIterator]().next()).rejects.toEqual(refused);
      await expect(missing.delete(['x'], options)).rejects.toEqual(refused);
      await missing.close();
    });

    it('S1: refused access is not absence, and the message holds no secret', async () => {
      for (const { why, store: denied, secrets } of tested.denied ?? []) {
        const errors = await Promise.all(
          [
            denied.get('x', options),
            denied.head('x', options),
            denied.put('x', text('x'), options),
            denied.list('', options)[Symbol.asyncIterator]().next(),
            denied.folders('', options)[Symbol.asyncIterator]().next(),
            denied.delete(['x'], options),
          ].map((call) =>
            call.then(
              () => new Error(`${why}: not refused`),
              (error: unknown) => error,
            ),
          ),
        );
        for (const error of errors) {
          expect(error, why).toEqual(code('access-denied'));
          const said = JSON.stringify([error, String(error), (error as Error).cause]);
          for (const value of secrets) expect(said).not.toContain(value);
          expect(said).not.toMatch(/signature=|authorization["']?\s*[:=]|credential=/i);
        }
        await denied.close();
      }
    });
  });
}
