import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, test } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import type { RetentionPlan } from '../../core/retention.ts';
import { segmentName } from '../../core/segment.ts';
import { pushWal, type ArchivePorts } from '../../operations/archive-wal.ts';
import { fetchExitCode, fetchWal } from '../../operations/fetch-wal.ts';
import { contradictsItself, inspectWal } from '../../operations/inspect-wal.ts';
import { repairWal } from '../../operations/repair-wal.ts';
import { removeOrphanedRecords } from '../../operations/sweep-wal-records.ts';
import { deleteWal } from '../../operations/sweep-wal.ts';
import { walDigestKey, walDigestPrefix, walKey } from '../../repository/layout.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { digestMetadata, digestOf } from '../../repository/wal-digest.ts';
import { findWal, readWal } from '../../repository/wal.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { objectBody } from '../../stores/body.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { collectBytes, piecesOf } from '../../streams/chunks.ts';
import { compressBytes, CODEC_SUFFIX, type Codec } from '../../streams/codec.ts';
import { sha256 } from '../../streams/digest.ts';
import { makeTempDir } from '../support/temp.ts';
import { SYSTEM_ID } from '../support/wal-bytes.ts';
import { makeWal } from '../support/wal-with-records.ts';

const MiB = 1024 * 1024;
const CODECS = Object.keys(CODEC_SUFFIX) as Codec[];
const { signal } = new AbortController();
const owner = { systemId: SYSTEM_ID.toString(), segmentSize: MiB };
const name = (number: number) => segmentName(1, BigInt(number), MiB);
const SEGMENT = name(7);
/** Behind the switch, where no record and no page header is: nothing but a hash of the whole shows a change. */
const UNCHECKED = 1_040_000;
const WAL = makeWal(SEGMENT);
const OTHER = makeWal(SEGMENT, { seed: 2 });

interface OpenedStore {
  readonly store: ObjectStore;
  /** Of a directory: makes an object that was damaged, or recorded, as old as before, as a disk does. */
  readonly setTime: (key: string, modifiedAt: Date) => void;
}

const KINDS: readonly { readonly kind: string; readonly open: () => OpenedStore }[] = [
  { kind: 'with metadata', open: () => ({ store: createMemoryStore(), setTime: () => undefined }) },
  {
    kind: 'a directory',
    open: () => {
      const directory = makeTempDir('digests');
      const setTime = (key: string, time: Date) => utimesSync(join(directory, key), time, time);
      return { store: createFilesystemStore(directory), setTime };
    },
  },
];

describe.each(KINDS)('the hash of archived WAL, in a store $kind', ({ open }) => {
  let pgWalDirectory: string;
  let store: ObjectStore;
  let setTime: OpenedStore['setTime'];
  let r: Repository;
  let alerts: string[];
  beforeEach(() => {
    pgWalDirectory = join(makeTempDir('digests-wal'), 'pg_wal');
    mkdirSync(join(pgWalDirectory, 'archive_status'), { recursive: true });
    ({ store, setTime } = open());
    r = createRepository(store, 'pg');
    alerts = [];
    inPgWal(SEGMENT, WAL);
  });

  const inPgWal = (fileName: string, bytes: Uint8Array | string) =>
    writeFileSync(join(pgWalDirectory, fileName), bytes);
  const ports = (more: Partial<ArchivePorts> = {}): ArchivePorts => ({
    repository: () => Promise.resolve(r),
    pgWalDirectory,
    codec: 'none',
    identity: () => Promise.resolve(owner),
    alert: (message) => void alerts.push(message),
    ...more,
  });
  const push = (fileName: string = SEGMENT, more: Partial<ArchivePorts> = {}) =>
    pushWal(ports(more), fileName, { signal });
  const fetch = async (fileName = SEGMENT) => {
    const destination = join(makeTempDir('digests-fetch'), 'RECOVERYXLOG');
    const options = { repository: () => Promise.resolve(r), retryAfterMs: 1, deadlineMs: 2000 };
    const outcome = await fetchWal(options, fileName, destination, { signal }).catch((error: unknown) => {
      expect(existsSync(destination)).toBe(false);
      throw error;
    });
    return { ...outcome, bytes: readFileSync(destination) };
  };
  const inspect = async (fileName = SEGMENT) => {
    const [object] = await findWal(r, fileName, signal);
    return inspectWal(r, object!, { owner, isFollowed: true, signal });
  };
  const repair = (fileName = SEGMENT) =>
    repairWal(
      { ...ports(), instance: 'pg-1' },
      [{ kind: 'damaged', timeline: 1, first: fileName, last: fileName, count: 1 }],
      { signal },
    );
  const stored = async (key: string) => {
    const body = await store.get(key, { signal });
    return body && { bytes: await collectBytes(body, 1e9), metadata: await body.metadata() };
  };
  const timeOf = async (key: string) => (await store.head(key, { signal }))!.modifiedAt;
  /** Changes the bytes of an object, and nothing else of it. */
  const damage = async (key: string, change: (bytes: Uint8Array) => Uint8Array) => {
    const { bytes, metadata } = (await stored(key))!;
    const modifiedAt = await timeOf(key);
    await store.put(key, change(Uint8Array.from(bytes)), { signal, metadata });
    setTime(key, modifiedAt);
  };
  const flipped = (at: number) => (bytes: Uint8Array) => {
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    return bytes;
  };
  /** Gives an object another record. */
  const record = async (key: string, sha: string | undefined, bytes = String(MiB)) => {
    const metadata = sha === undefined ? {} : { 'walkeep-sha256': sha, 'walkeep-bytes': bytes };
    await store.put(key, (await stored(key))!.bytes, { signal, metadata });
    if (store.features.metadata) return;
    const recordKey = walDigestKey('pg', key);
    if (sha === undefined) await store.delete([recordKey], { signal });
    else {
      const objectModifiedAt = await timeOf(key);
      const text = JSON.stringify({ version: 1, sha256: sha, bytes: Number(bytes), objectModifiedAt });
      await store.put(recordKey, Buffer.from(text), { signal });
    }
  };
  const recorded = async (key: string): Promise<unknown> => {
    if (store.features.metadata) return digestOf((await stored(key))!.metadata);
    const found = await stored(walDigestKey('pg', key));
    if (!found) return undefined;
    const { sha256: hash, bytes } = JSON.parse(found.bytes.toString()) as Record<string, unknown>;
    return { sha256: hash, sizeBytes: bytes };
  };
  const keys = async () => {
    const found: string[] = [];
    for await (const { key } of store.list('', { signal })) found.push(key);
    return found;
  };
  const contents = async () => Promise.all((await keys()).map(async (key) => [key, await stored(key)]));
  const code = (expected: string) => expect.objectContaining({ code: expected }) as BackupError;

  describe('a push', () => {
    test.for(CODECS)('A1: records the plain bytes of what it stores as %s', async (codec) => {
      await push(SEGMENT, { codec });
      const key = walKey('pg', SEGMENT, codec);
      expect(await recorded(key)).toEqual({ sha256: sha256(WAL), sizeBytes: MiB });
      expect((await fetch()).bytes.equals(WAL)).toBe(true);
      expect((await inspect()).fault).toBeUndefined();
    });

    test.for(['00000002.history', `${SEGMENT}.partial`, `${SEGMENT}.00000028.backup`])(
      'A1: records %s, too',
      async (fileName) => {
        const text = fileName.endsWith('.history')
          ? '1\t0/800000\tno recovery target specified\n'
          : `START WAL LOCATION: 0/700028 (file ${SEGMENT})\n`;
        inPgWal(fileName, fileName.endsWith('.partial') ? WAL : text);
        await push(fileName);
        const { bytes } = (await stored(walKey('pg', fileName, 'none')))!;
        expect(await recorded(walKey('pg', fileName, 'none'))).toEqual({
          sha256: sha256(bytes),
          sizeBytes: bytes.length,
        });
      },
    );

    it('E5: adds nothing to base/ and wals/ but the file itself', async () => {
      await push();
      const ours = new RegExp(`^pg/(?:walkeep/|wals/${SEGMENT.slice(0, 16)}/${SEGMENT}$)`);
      for (const key of await keys()) expect(key).toMatch(ours);
    });

    it('A2: equal bytes without a record are a success, whoever stored them', async () => {
      await store.put(walKey('pg', SEGMENT, 'gzip'), await compressBytes('gzip', WAL), { signal });
      expect(await push()).toMatchObject({ outcome: 'already-archived' });
      expect(alerts).toEqual([]);
      expect((await fetch()).bytes.equals(WAL)).toBe(true);
    });

    it('A2: equal bytes whose record is another file’s are a success, and can be fetched again', async () => {
      await push();
      const key = walKey('pg', SEGMENT, 'none');
      await record(key, sha256(OTHER));
      await expect(fetch()).rejects.toEqual(code('object-damaged'));
      expect(await push()).toMatchObject({ outcome: 'already-archived' });
      expect(await recorded(key)).toEqual({ sha256: sha256(WAL), sizeBytes: MiB });
      expect(alerts).toEqual([expect.stringContaining('recorded with another hash')]);
      expect((await fetch()).bytes.equals(WAL)).toBe(true);
    });
  });

  describe('a damaged copy, fault 25 and 27', () => {
    const DAMAGES: readonly {
      readonly what: string;
      readonly codec: Codec;
      readonly change: (bytes: Uint8Array) => Uint8Array;
    }[] = [
      { what: 'a bit that no checksum of PostgreSQL covers', codec: 'none', change: flipped(UNCHECKED) },
      { what: 'a bit of the header', codec: 'none', change: flipped(9) },
      { what: 'a bit of a compressed one', codec: 'gzip', change: flipped(500) },
      { what: 'a bit of a zstd frame', codec: 'zstd', change: flipped(300) },
      { what: 'a cut', codec: 'none', change: (bytes) => bytes.subarray(0, 70_000) },
      { what: 'a cut of a compressed one', codec: 'lz4', change: (bytes) => bytes.subarray(0, 3000) },
      { what: 'nothing', codec: 'none', change: () => new Uint8Array() },
      { what: 'nothing of a compressed one', codec: 'gzip', change: () => new Uint8Array() },
      { what: 'too much', codec: 'none', change: (bytes) => Buffer.concat([bytes, Buffer.alloc(8192)]) },
    ];

    test.for(DAMAGES)('C3: $what ($codec) is never handed to PostgreSQL', async ({ codec, change }) => {
      await push(SEGMENT, { codec });
      await damage(walKey('pg', SEGMENT, codec), change);
      await expect(fetch()).rejects.toEqual(code('object-damaged'));
      expect(fetchExitCode('failed', false)).toBeGreaterThan(125);
    });

    test.for(DAMAGES)(
      'A3: $what ($codec) is healed by a push of the same file',
      async ({ codec, change }) => {
        await push(SEGMENT, { codec });
        const before = await contents();
        await damage(walKey('pg', SEGMENT, codec), change);
        // whatever the codec is now: the key stays
        expect(await push(SEGMENT, { codec: 'zstd' })).toMatchObject({ outcome: 'repaired' });
        expect(alerts).toEqual([expect.stringContaining(`${walKey('pg', SEGMENT, codec)} was damaged`)]);
        expect(await keys()).toEqual(before.map(([key]) => key));
        expect((await fetch()).bytes.equals(WAL)).toBe(true);
        expect(await recorded(walKey('pg', SEGMENT, codec))).toEqual({ sha256: sha256(WAL), sizeBytes: MiB });
        expect(await push()).toMatchObject({ outcome: 'already-archived' });
      },
    );

    test.for(DAMAGES)('C6: $what ($codec) is found by an audit, and repaired', async ({ codec, change }) => {
      await push(SEGMENT, { codec });
      inPgWal(name(8), makeWal(name(8)));
      await damage(walKey('pg', SEGMENT, codec), change);
      const { fault } = await inspect();
      expect(fault && contradictsItself(fault.kind)).toBe(true);
      expect(await repair()).toMatchObject([{ outcome: 'repaired', first: SEGMENT }]);
      expect(alerts).toHaveLength(1);
      expect((await inspect()).fault).toBeUndefined();
      expect(await recorded(walKey('pg', SEGMENT, codec))).toEqual({ sha256: sha256(WAL), sizeBytes: MiB });
    });

    it('C6: that nothing but its hash speaks against is called altered', async () => {
      await push();
      await damage(walKey('pg', SEGMENT, 'none'), flipped(UNCHECKED));
      const { fault } = await inspect();
      expect(fault?.kind).toBe('altered');
      expect(fault?.detail).toContain(sha256(WAL));
    });

    it('C3: another copy of the name that is whole is taken', async () => {
      await push();
      await store.put(walKey('pg', SEGMENT, 'gzip'), await compressBytes('gzip', WAL), { signal });
      await damage(walKey('pg', SEGMENT, 'none'), flipped(UNCHECKED));
      expect((await fetch()).bytes.equals(WAL)).toBe(true);
    });

    it('C3: of another place or cluster, it is called that, and not only another', async () => {
      await push();
      const key = walKey('pg', SEGMENT, 'none');
      await damage(key, () => makeWal(name(9)));
      await expect(fetch()).rejects.toThrow(/page of/);
      await damage(key, () => makeWal(SEGMENT, { systemId: 4711n }));
      const plan = { ...owner, systemId: owner.systemId, timelinePath: [{ timeline: 1, beginsAt: '0/0' }] };
      const ports = { repository: () => Promise.resolve(r), plan, retryAfterMs: 1 };
      const target = join(makeTempDir('digests-fetch'), 'RECOVERYXLOG');
      await expect(fetchWal(ports, SEGMENT, target, { signal })).rejects.toEqual(code('wal-foreign'));
      expect((await inspect()).fault?.kind).toBe('foreign');
    });

    it('C3: is in the way of nobody who asks for another', async () => {
      await push();
      await damage(walKey('pg', SEGMENT, 'none'), flipped(UNCHECKED));
      const history = '1\t0/950000\tno recovery target specified\n';
      await store.put(walKey('pg', '00000002.history', 'none'), Buffer.from(history), { signal });
      await store.put(walKey('pg', segmentName(2, 10n, MiB), 'none'), makeWal(name(10)), { signal });
      // timeline 2 began within it, so that this is the end of timeline 1: told by the size of segments
      const ports = { repository: () => Promise.resolve(r), retryAfterMs: 1 };
      const target = join(makeTempDir('digests-fetch'), 'RECOVERYXLOG');
      expect(await fetchWal(ports, name(9), target, { signal })).toEqual({ outcome: 'absent' });
    });

    test.for(DAMAGES)('A3: $what ($codec) is left to whoever has its bytes', async ({ codec, change }) => {
      await push(SEGMENT, { codec });
      await damage(walKey('pg', SEGMENT, codec), change);
      const before = await contents();
      inPgWal(SEGMENT, OTHER);
      await expect(push(SEGMENT, { codec })).rejects.toMatchObject({
        code: expect.stringMatching(/^(?:wal-conflict|object-damaged)$/),
      });
      inPgWal(name(8), makeWal(name(8)));
      expect(await repair()).toMatchObject([{ outcome: 'refused' }]);
      expect(await contents()).toEqual(before);
      expect(alerts).toEqual([]);
    });

    it('A3: is left as it is when another copy holds other bytes', async () => {
      await push();
      await damage(walKey('pg', SEGMENT, 'none'), flipped(UNCHECKED));
      await store.put(walKey('pg', SEGMENT, 'gzip'), await compressBytes('gzip', OTHER), { signal });
      const before = await contents();
      await expect(push()).rejects.toEqual(code('wal-conflict'));
      expect(await contents()).toEqual(before);
    });

    it('A3: is healed once, whoever comes at the same time', async () => {
      await push();
      await damage(walKey('pg', SEGMENT, 'none'), flipped(UNCHECKED));
      const rival = join(makeTempDir('digests-rival'), 'pg_wal');
      mkdirSync(rival);
      writeFileSync(join(rival, SEGMENT), OTHER);
      const results = await Promise.allSettled([
        push(),
        push(),
        push(SEGMENT, { pgWalDirectory: rival }),
        push(),
      ]);
      expect(results.map(({ status }) => status)).toEqual([
        'fulfilled',
        'fulfilled',
        'rejected',
        'fulfilled',
      ]);
      expect((await fetch()).bytes.equals(WAL)).toBe(true);
    });

    it('S6: that may not be replaced is named, with what to do', async () => {
      await push();
      await damage(walKey('pg', SEGMENT, 'none'), flipped(UNCHECKED));
      const denying: ObjectStore = {
        ...store,
        put: (key, body, options) =>
          options.ifAbsent === true
            ? store.put(key, body, options)
            : Promise.reject(new BackupError('access-denied', 'no right to replace')),
      };
      const pushing = push(SEGMENT, { repository: async () => createRepository(denying, 'pg') });
      await expect(pushing).rejects.toMatchObject({
        code: 'object-damaged',
        message: expect.stringContaining('may not replace'),
      });
    });
  });

  describe('an archive without records', () => {
    beforeEach(async () => {
      await push();
      await record(walKey('pg', SEGMENT, 'none'), undefined);
      expect(await recorded(walKey('pg', SEGMENT, 'none'))).toBeUndefined();
    });

    it('E5: is fetched from, read, pushed to and audited as before', async () => {
      expect((await fetch()).bytes.equals(WAL)).toBe(true);
      expect(await inspect()).toEqual({ sha256: sha256(WAL) });
      expect(await push()).toMatchObject({ outcome: 'already-archived' });
    });

    it('A3: other bytes in it are refused, damaged or not', async () => {
      await damage(walKey('pg', SEGMENT, 'none'), flipped(UNCHECKED));
      const before = await contents();
      await expect(push()).rejects.toEqual(code('wal-conflict'));
      expect(await contents()).toEqual(before);
    });
  });

  test.for([
    { why: 'no hash', sha: 'x', bytes: '1' },
    { why: 'a hash in capitals', sha: 'A'.repeat(64), bytes: '1' },
    { why: 'no size', sha: sha256(OTHER), bytes: 'many' },
    { why: 'a size below nothing', sha: sha256(OTHER), bytes: '-1' },
  ])(
    'C3: a record that makes no sense ($why) does not make a good object unusable',
    async ({ sha, bytes }) => {
      await push();
      await record(walKey('pg', SEGMENT, 'none'), sha, bytes);
      expect((await fetch()).bytes.equals(WAL)).toBe(true);
      expect((await inspect()).fault).toBeUndefined();
      expect(await push()).toMatchObject({ outcome: 'already-archived' });
      inPgWal(SEGMENT, OTHER);
      await expect(push()).rejects.toEqual(code('wal-conflict'));
    },
  );
});

describe('metadata of archived WAL', () => {
  const ports = (store: ObjectStore, bytes = WAL): ArchivePorts => {
    const pgWalDirectory = join(makeTempDir('digests-wal'), 'pg_wal');
    mkdirSync(pgWalDirectory);
    writeFileSync(join(pgWalDirectory, SEGMENT), bytes);
    const repository = createRepository(store, 'pg');
    return {
      repository: async () => repository,
      pgWalDirectory,
      codec: 'none',
      identity: () => Promise.resolve(owner),
    };
  };

  it('E2, fault 20: a push is not confirmed when the store holds another file’s afterwards', async () => {
    const store = createMemoryStore();
    const odd: ObjectStore = {
      ...store,
      async put(key, body, options) {
        const metadata = { 'walkeep-sha256': sha256(OTHER), 'walkeep-bytes': String(MiB) };
        const answer = await store.put(key, body, options);
        if (key.includes('/wals/')) await store.put(key, OTHER, { signal, metadata });
        return answer;
      },
    };
    await expect(pushWal(ports(odd), SEGMENT, { signal })).rejects.toMatchObject({
      code: 'store-unavailable',
      message: expect.stringContaining('of another file'),
    });
  });

  it('is missed by nobody where something on the way drops it', async () => {
    const store = createMemoryStore();
    const dropping: ObjectStore = {
      ...store,
      put: (key, body, options) => store.put(key, body, { ...options, metadata: {} }),
    };
    const own = ports(dropping);
    expect(await pushWal(own, SEGMENT, { signal })).toMatchObject({ outcome: 'archived' });
    expect(await pushWal(own, SEGMENT, { signal })).toMatchObject({ outcome: 'already-archived' });
    const r = createRepository(dropping, 'pg');
    const [object] = await findWal(r, SEGMENT, signal);
    expect(Buffer.compare(await readWal(r, object!, MiB, signal), WAL)).toBe(0);
  });

  it('belongs to the version that was read: one that is replaced meanwhile is read again', async () => {
    const store = createMemoryStore();
    const r = createRepository(store, 'pg');
    const metadata = digestMetadata(r, { sha256: sha256(WAL), sizeBytes: MiB });
    const key = walKey('pg', SEGMENT, 'none');
    const flipped = Uint8Array.from(WAL);
    flipped[UNCHECKED] = 1;
    await store.put(key, flipped, { signal, metadata });
    let reads = 0;
    const replaced: ObjectStore = {
      ...store,
      async get(asked, options) {
        const body = await store.get(asked, options);
        if (reads++ > 0 || !body) return body;
        return {
          [Symbol.asyncIterator]: () => body[Symbol.asyncIterator](),
          async metadata() {
            await store.put(key, WAL, { signal, metadata });
            throw new BackupError('object-missing', 'replaced');
          },
        };
      },
    };
    const read = await readWal(
      createRepository(replaced, 'pg'),
      (await findWal(r, SEGMENT, signal))[0]!,
      MiB,
      signal,
    );
    expect(Buffer.compare(read, WAL)).toBe(0);
  });
});

describe('records beside WAL in a directory', () => {
  let directory: string;
  let store: ObjectStore;
  let r: Repository;
  let pgWalDirectory: string;
  let alerts: string[];
  beforeEach(() => {
    directory = makeTempDir('digests');
    store = createFilesystemStore(directory);
    r = createRepository(store, 'pg');
    pgWalDirectory = join(makeTempDir('digests-wal'), 'pg_wal');
    mkdirSync(pgWalDirectory);
    alerts = [];
  });
  const push = async (number: number, bytes = makeWal(name(number)), on = store) => {
    writeFileSync(join(pgWalDirectory, name(number)), bytes);
    const ports: ArchivePorts = {
      repository: async () => createRepository(on, 'pg'),
      pgWalDirectory,
      codec: 'none',
      identity: () => Promise.resolve(owner),
      alert: (message) => void alerts.push(message),
    };
    return pushWal(ports, name(number), { signal });
  };
  const keyOf = (number: number) => walKey('pg', name(number), 'none');
  const recordOf = (number: number) => join(directory, walDigestKey('pg', keyOf(number)));
  const recordedHash = (number: number) =>
    (JSON.parse(readFileSync(recordOf(number), 'utf8')) as { sha256: string }).sha256;
  /** Ends a push between its object and the record of it. */
  const killed = (): ObjectStore => ({
    ...store,
    head: (key, options) =>
      key === keyOf(7) ? Promise.reject(new Error('killed')) : store.head(key, options),
  });
  const recordKeys = async () => {
    const found: string[] = [];
    for await (const { key } of store.list(walDigestPrefix('pg'), { signal })) found.push(key);
    return found;
  };

  it('lie where docs/repository.md says', async () => {
    await push(7);
    expect(recordOf(7)).toBe(join(directory, `pg/walkeep/wal/${SEGMENT.slice(0, 16)}/${SEGMENT}.json`));
    expect(walDigestKey('pg', walKey('pg', '00000002.history', 'none'))).toBe(
      'pg/walkeep/wal/00000002.history.json',
    );
    expect(existsSync(recordOf(7))).toBe(true);
  });

  it('A1, E4: are written by the next push when a crash came in between', async () => {
    await expect(push(7, WAL, killed())).rejects.toThrow('killed');
    expect(existsSync(join(directory, keyOf(7)))).toBe(true);
    expect(existsSync(recordOf(7))).toBe(false);
    expect(await push(7)).toMatchObject({ outcome: 'already-archived' });
    expect(recordedHash(7)).toBe(sha256(makeWal(name(7))));
  });

  it('A3: one whose object is gone does not speak for another file of the name', async () => {
    await push(7, OTHER);
    rmSync(join(directory, keyOf(7)));
    await expect(push(7, WAL, killed())).rejects.toThrow('killed');
    // for whoever has the old bytes it would be a damaged copy of theirs
    await expect(push(7, OTHER)).rejects.toMatchObject({ code: 'wal-conflict' });
    expect(await push(7, WAL)).toMatchObject({ outcome: 'already-archived' });
    expect(recordedHash(7)).toBe(sha256(WAL));
  });

  const fetch = async (number: number, on = store) => {
    const destination = join(makeTempDir('digests-fetch'), 'RECOVERYXLOG');
    const repository = async () => createRepository(on, 'pg');
    const alert = (message: string) => void alerts.push(message);
    await fetchWal({ repository, retryAfterMs: 1, deadlineMs: 5000, alert }, name(number), destination, {
      signal,
    });
    return readFileSync(destination);
  };
  const inspect = async (number: number, on = r) => {
    const [object] = await findWal(on, name(number), signal);
    return inspectWal(on, object!, { owner, isFollowed: true, signal });
  };
  /** As a program that knows nothing of records: another file, written now, which is later than before. */
  const copyOver = (bytes: Uint8Array) => {
    const path = join(directory, keyOf(7));
    const later = new Date(statSync(path).mtimeMs + 60);
    rmSync(path);
    const source = join(makeTempDir('digests-copy'), 'source');
    writeFileSync(source, bytes);
    copyFileSync(source, path);
    utimesSync(path, later, later);
  };
  const flip = (root = directory) => {
    const path = join(root, keyOf(7));
    const { mtime } = statSync(path);
    const bytes = readFileSync(path);
    bytes[UNCHECKED] = (bytes[UNCHECKED] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    utimesSync(path, mtime, mtime);
  };

  it('C3, A3: do not speak for another file that was put in the place of theirs', async () => {
    await push(7, WAL);
    copyOver(OTHER);
    expect((await fetch(7)).equals(OTHER)).toBe(true);
    expect(await inspect(7)).toEqual({ sha256: sha256(OTHER) });
    await expect(push(7, WAL)).rejects.toMatchObject({ code: 'wal-conflict' });
    expect(readFileSync(join(directory, keyOf(7))).equals(OTHER)).toBe(true);
    expect(recordedHash(7)).toBe(sha256(WAL));
    // whoever has its bytes records them
    expect(await push(7, OTHER)).toMatchObject({ outcome: 'already-archived' });
    expect(recordedHash(7)).toBe(sha256(OTHER));
    flip();
    await expect(fetch(7)).rejects.toMatchObject({ code: 'object-damaged' });
    expect(alerts).toEqual([]);
  });

  it('A3: another file in the place of theirs is left as it is, whole or not', async () => {
    await push(7, WAL);
    copyOver(OTHER.subarray(0, 70_000));
    await expect(push(7, WAL)).rejects.toMatchObject({ code: 'wal-conflict' });
    expect(statSync(join(directory, keyOf(7))).size).toBe(70_000);
  });

  it('A3: of a push that was frozen until another file had the name, they do not speak for that', async () => {
    let thaw = (): void => undefined;
    const frozen = new Promise<void>((resolve) => (thaw = resolve));
    let tell = (): void => undefined;
    const stored = new Promise<void>((resolve) => (tell = resolve));
    const freezing: ObjectStore = {
      ...store,
      async put(key, body, options) {
        const put = await store.put(key, body, options);
        if (key !== keyOf(7)) return put;
        tell();
        await frozen;
        return put;
      },
    };
    const late = push(7, WAL, freezing);
    await stored;
    await store.delete([keyOf(7)], { signal });
    // times are told apart by the millisecond
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(await push(7, OTHER)).toMatchObject({ outcome: 'archived' });
    thaw();
    await late.catch(() => undefined);
    expect(recordedHash(7)).toBe(sha256(WAL));
    expect((await fetch(7)).equals(OTHER)).toBe(true);
    await expect(push(7, WAL)).rejects.toMatchObject({ code: 'wal-conflict' });
    expect(await push(7, OTHER)).toMatchObject({ outcome: 'already-archived' });
    expect(recordedHash(7)).toBe(sha256(OTHER));
  });

  it('C3: are not compared with another file that is put in the place of theirs while it is read', async () => {
    await push(7, WAL);
    const swapping: ObjectStore = {
      ...store,
      get(key, options) {
        if (key === keyOf(7)) copyOver(OTHER);
        return store.get(key, options);
      },
    };
    const [object] = await findWal(r, name(7), signal);
    const read = await readWal(createRepository(swapping, 'pg'), object!, MiB, signal);
    expect(Buffer.compare(read, OTHER)).toBe(0);
  });

  it('C3: of an object that came after the one that was read are not compared with that', async () => {
    await push(7, OTHER);
    const swapping: ObjectStore = {
      ...store,
      async get(key, options) {
        const body = await store.get(key, options);
        if (key !== keyOf(7) || !body) return body;
        const read = await collectBytes(body, MiB);
        rmSync(join(directory, keyOf(7)));
        // times are told apart by the millisecond
        await new Promise((resolve) => setTimeout(resolve, 10));
        await push(7, WAL);
        return objectBody(piecesOf(read));
      },
    };
    const [object] = await findWal(r, name(7), signal);
    const read = await readWal(createRepository(swapping, 'pg'), object!, MiB, signal);
    expect(Buffer.compare(read, OTHER)).toBe(0);
  });

  it('C3: say the same in a copy that kept the times, and nothing in one that did not, until a push', async () => {
    await push(7, WAL);
    const copy = makeTempDir('digests-copy');
    cpSync(directory, copy, { recursive: true, preserveTimestamps: true });
    flip(copy);
    const kept = createFilesystemStore(copy);
    await expect(fetch(7, kept)).rejects.toMatchObject({ code: 'object-damaged' });
    expect(await push(7, WAL, kept)).toMatchObject({ outcome: 'repaired' });

    const young = new Date(statSync(join(copy, keyOf(7))).mtimeMs + 5000);
    utimesSync(join(copy, keyOf(7)), young, young);
    expect((await fetch(7, kept)).equals(WAL)).toBe(true);
    expect(await inspect(7, createRepository(kept, 'pg'))).toEqual({ sha256: sha256(WAL) });
    alerts = [];
    expect(await push(7, WAL, kept)).toMatchObject({ outcome: 'already-archived' });
    expect(alerts).toEqual([]);
    flip(copy);
    await expect(fetch(7, kept)).rejects.toMatchObject({ code: 'object-damaged' });
  });

  describe('that a bad disk does not give', () => {
    let asked: number;
    let failing: ObjectStore;
    beforeEach(async () => {
      await push(7, WAL);
      asked = 0;
      failing = {
        ...store,
        get(key, options) {
          if (!key.startsWith(walDigestPrefix('pg'))) return store.get(key, options);
          asked += 1;
          return Promise.reject(new BackupError('store-unavailable', `${key}: EIO`));
        },
      };
    });

    it('C3: take no good file from a recovery: asked for twice, and then it is said', async () => {
      expect((await fetch(7, failing)).equals(WAL)).toBe(true);
      expect(asked).toBe(2);
      expect(alerts).toEqual([expect.stringMatching(/without comparing the hash.*EIO/)]);
    });

    it('C3: come a moment later, and are compared then', async () => {
      flip();
      const once: ObjectStore = {
        ...store,
        get: (key, options) => (asked === 0 ? failing : store).get(key, options),
      };
      await expect(fetch(7, once)).rejects.toMatchObject({ code: 'object-damaged' });
      expect(alerts).toEqual([]);
    });

    it('C3: are not needed to refuse what is wrong by itself', async () => {
      copyOver(makeWal(name(9)));
      await expect(fetch(7, failing)).rejects.toMatchObject({ code: 'object-damaged' });
    });

    it('A2: do not hold up WAL whose bytes are there, and are written anew', async () => {
      rmSync(recordOf(7));
      expect(await push(7, WAL, failing)).toMatchObject({ outcome: 'already-archived' });
      expect(recordedHash(7)).toBe(sha256(WAL));
    });

    it('A3: keep other bytes from being judged', async () => {
      flip();
      const before = readFileSync(join(directory, keyOf(7)));
      await expect(push(7, WAL, failing)).rejects.toMatchObject({ code: 'store-unavailable' });
      expect(readFileSync(join(directory, keyOf(7))).equals(before)).toBe(true);
    });

    it('C6: let no audit call their file whole', async () => {
      await expect(inspect(7, createRepository(failing, 'pg'))).rejects.toMatchObject({
        code: 'store-unavailable',
      });
    });
  });

  it('A1: that can’t be written do not hold up WAL, and that is told', async () => {
    const full: ObjectStore = {
      ...store,
      put: (key, body, options) =>
        key.startsWith(walDigestPrefix('pg'))
          ? Promise.reject(new BackupError('store-full', 'no room'))
          : store.put(key, body, options),
    };
    expect(await push(7, WAL, full)).toMatchObject({ outcome: 'archived' });
    expect(alerts).toEqual([expect.stringContaining('could not be recorded: no room')]);
  });

  const UNDATED = JSON.stringify({ version: 1, sha256: sha256(OTHER), bytes: MiB });
  test.for([
    '',
    '{',
    '{"version":2}',
    UNDATED,
    '{"version":1,"sha256":"x","bytes":1}',
    'x'.repeat(5000),
    '\xff\xfe',
  ])('E4: half of one is none: %j', async (text) => {
    await push(7, WAL);
    writeFileSync(recordOf(7), text, 'latin1');
    const [object] = await findWal(r, name(7), signal);
    expect(Buffer.compare(await readWal(r, object!, MiB, signal), WAL)).toBe(0);
    expect((await inspectWal(r, object!, { owner, isFollowed: true, signal })).fault).toBeUndefined();
  });

  describe('and a sweep', () => {
    const plan = (first: number, last: number): RetentionPlan =>
      ({
        wal: [{ timeline: 1, first: BigInt(first), last: BigInt(last), decision: 'delete' }],
        partials: [],
        labels: [],
        histories: [],
      }) as unknown as RetentionPlan;
    const sweep = async (
      of: RetentionPlan,
      youngAfter = Date.now() + 60_000,
      on = r,
      mayGoOn = () => Promise.resolve(),
    ) => {
      await deleteWal(on, of, {
        segmentSize: MiB,
        youngAfter,
        nowMs: Date.now(),
        mayGoOn,
        onProgress: () => undefined,
        signal,
      });
      await removeOrphanedRecords(on, { youngAfter, mayGoOn, signal });
    };

    it('D1, D4: go after their WAL, and those of WAL that stays stay', async () => {
      for (const number of [1, 2, 3, 4]) await push(number);
      const order: string[] = [];
      const watched: ObjectStore = {
        ...store,
        delete: (keys, options) => {
          order.push(...keys);
          return store.delete(keys, options);
        },
      };
      await sweep(plan(1, 2), undefined, createRepository(watched, 'pg'));
      expect(order).toEqual([
        ...[1, 2].map(keyOf),
        ...[1, 2].map((number) => walDigestKey('pg', keyOf(number))),
      ]);
      expect(await recordKeys()).toEqual([3, 4].map((number) => walDigestKey('pg', keyOf(number))));
    });

    it('D4: are gone with their WAL when a sweep has to end right then', async () => {
      for (const number of [1, 2, 3]) await push(number);
      rmSync(join(directory, keyOf(3)));
      let asked = 0;
      const ending = sweep(plan(1, 1), undefined, r, () =>
        asked++ === 0 ? Promise.resolve() : Promise.reject(new Error('not declared any more')),
      );
      await expect(ending).rejects.toThrow('not declared');
      expect(await recordKeys()).toEqual([2, 3].map((number) => walDigestKey('pg', keyOf(number))));
    });

    it('D4, E5: of WAL that others deleted, or a crash left, are removed', async () => {
      for (const number of [1, 2, 3, 0x1001]) await push(number);
      await store.put('pg/walkeep/wal/00000002.history.json', Buffer.from('{}'), { signal });
      await store.put('pg/walkeep/wal/00000003.history.json', Buffer.from('{}'), { signal });
      await store.put('pg/wals/00000003.history', Buffer.from('x'), { signal });
      await store.put('pg/walkeep/wal/note.txt', Buffer.from('by hand'), { signal });
      for (const number of [1, 0x1001]) rmSync(join(directory, keyOf(number)));
      await sweep(plan(2, 2));
      expect(await recordKeys()).toEqual([
        walDigestKey('pg', keyOf(3)),
        'pg/walkeep/wal/00000003.history.json',
        'pg/walkeep/wal/note.txt',
      ]);
    });

    it('D5: that are young stay', async () => {
      for (const number of [1, 2]) await push(number);
      rmSync(join(directory, keyOf(1)));
      await sweep(plan(2, 2), Date.now() - 60_000);
      expect(await recordKeys()).toHaveLength(2);
    });

    it('D3: nothing of them is deleted when a listing fails', async () => {
      for (const number of [1, 2]) await push(number);
      rmSync(join(directory, keyOf(1)));
      const failing: ObjectStore = {
        ...store,
        async *list(prefix, options) {
          let came = 0;
          for await (const object of store.list(prefix, options)) {
            if (prefix.startsWith('pg/wals/') && came++ > 0) break;
            yield object;
          }
          if (prefix.startsWith('pg/wals/')) throw new BackupError('store-unavailable', 'cut');
        },
      };
      await expect(sweep(plan(9, 9), undefined, createRepository(failing, 'pg'))).rejects.toThrow('cut');
      expect(await recordKeys()).toHaveLength(2);
    });
  });
});
