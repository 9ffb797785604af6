import { createHash } from 'node:crypto';
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { join, posix } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { isBackupError } from '../../core/errors.ts';
import { WITHHELD } from '../../operations/part-writer.ts';
import { planFromRepository } from '../../operations/recovery-plan.ts';
import { restore } from '../../operations/restore.ts';
import { unpackPart, type UnpackTask } from '../../operations/unpack-part.ts';
import { isDamage } from '../../operations/verification-damage.ts';
import { createRepository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { compress, compressBytes, type Codec } from '../../streams/codec.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { readTar } from '../repository/members.ts';
import { dataMembers, makeTar, putBackup, type Member } from '../support/hand-made-backup.ts';
import { makeTempDir } from '../support/temp.ts';
import { hostileMember, rawTar, type RawMember } from './hostile-members.ts';

const signal = new AbortController().signal;
const MiB = 1024 * 1024;
const options = { signal, onProgress: () => undefined };
vi.setConfig({ testTimeout: 180_000 });

const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** All that is in a directory: types, contents, and where links lead; nothing is followed. */
function contentOf(directory: string, path = ''): Map<string, string> {
  const found = new Map<string, string>();
  for (const name of readdirSync(join(directory, path))) {
    const at = posix.join(path, name);
    const stat = lstatSync(join(directory, at));
    if (stat.isDirectory()) {
      found.set(at, 'directory');
      for (const [below, what] of contentOf(directory, at)) found.set(below, what);
    } else if (stat.isFile()) found.set(at, `file ${hash(readFileSync(join(directory, at)))}`);
    else if (stat.isSymbolicLink()) found.set(at, `link ${readlinkSync(join(directory, at))}`);
    else found.set(at, 'something else');
  }
  return found;
}

let base: string | undefined;
let places = 0;

/** A place with canaries all around the directory that is written. */
function makePlace(): { root: string; target: string; around: () => Map<string, string> } {
  base ??= makeTempDir('hostile');
  const root = join(base, String((places += 1)));
  mkdirSync(root);
  const target = join(root, 'target');
  for (const folder of ['target', 'canary', 'targets']) mkdirSync(join(root, folder));
  for (const file of ['canary/file', 'canary/evil.conf', 'out.conf', 'targets/x'])
    writeFileSync(join(root, file), `data_directory = '/srv/${file}'\n`);
  const around = () => new Map([...contentOf(root)].filter(([path]) => !/^target(\/|$)/.test(path)));
  return { root, target, around };
}

async function taskFor(tar: Uint8Array, codec: Codec, directory: string, more: Partial<UnpackTask> = {}) {
  const store = createMemoryStore();
  const stored = await compressBytes(codec, tar);
  await store.put('part', stored, { signal });
  const task: UnpackTask = {
    key: 'part',
    name: 'data.tar',
    area: 'data',
    codec,
    sizeBytes: stored.length,
    directory,
    tablespaceOids: [5],
    ...more,
  };
  return { store, task, stored };
}

/** What belongs into a data directory, as docs/restore.md says it, and nothing about how it is written. */
function isLeftOut(path: string, type: string): boolean {
  const [first = '', second] = path.split('/');
  if (path.includes('.walkeep-')) return true;
  if (['postmaster.pid', 'standby.signal', 'tablespace_map'].includes(path)) return true;
  if (first === 'pg_wal')
    return type !== 'directory' || (second !== undefined && path !== 'pg_wal/archive_status');
  return first === 'pg_tblspc' && second !== undefined && (second === '5' || type === 'symlink');
}

/** What has to be on disk: the last of each file, and every directory on the way. Links come later. */
function modelOf(tar: Uint8Array): Map<string, string> {
  const model = new Map<string, string>();
  const parents = (path: string) => {
    for (let at = posix.dirname(path); at !== '.'; at = posix.dirname(at)) model.set(at, 'directory');
  };
  for (const { entry, data } of readTar([tar])) {
    const { path, type } = entry;
    if (isLeftOut(path, type) || path === '.') continue;
    parents(path);
    const isWithheld = path === 'global/pg_control' || path === 'backup_label';
    if (type === 'directory') model.set(path, 'directory');
    if (type === 'file') model.set(isWithheld ? `${path}${WITHHELD}` : path, `file ${hash(data)}`);
  }
  return model;
}

describe('a tar with any members', () => {
  const tars = fc.array(hostileMember, { minLength: 1, maxLength: 8 });

  it('S2: is refused by name, or unpacked as it says; nothing around changes, and there is no link and no device', async () => {
    let unpacked = 0;
    await fc.assert(
      fc.asyncProperty(tars, async (members) => {
        const { target, around } = makePlace();
        const before = around();
        const tar = rawTar(members);
        const { store, task } = await taskFor(tar, 'none', target);
        const error: unknown = await unpackPart(store, task, options).then(
          (part) => {
            unpacked += 1;
            // It travels in a result of at most 64 KiB.
            expect(JSON.stringify(part.warnings).length).toBeLessThan(20_000);
            return undefined;
          },
          (failure: unknown) => failure,
        );
        expect(around()).toEqual(before);
        const written = contentOf(target);
        for (const [path, what] of written)
          expect([path, what]).toEqual([path, expect.stringMatching(/^(file|dir)/)]);
        if (error === undefined) expect(written).toEqual(modelOf(tar));
        else if (!isBackupError(error, 'object-damaged', 'not-yet')) throw error;
      }),
      { numRuns: 500 },
    );
    expect(unpacked).toBeGreaterThan(15);
  });

  const inside = (root: string, path: string) => path === root || path.startsWith(`${root}/`);

  it('S2: beside a whole backup: restored or refused, and no link of it leads out', async () => {
    let restored = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(hostileMember, { minLength: 1, maxLength: 6 }), async (members) => {
        const { root, target, around } = makePlace();
        const before = around();
        const end = 2 * 512;
        const tar = Buffer.concat([makeTar(dataMembers()).subarray(0, -end), rawTar(members)]);
        const error = await restoreTo(target, { 'data.tar.gz': tar }).then(
          () => undefined,
          (failure: unknown) => failure,
        );
        expect(around()).toEqual(before);
        for (const [path, what] of contentOf(target)) {
          expect(what, path).toMatch(/^(file|dir|link)/);
          const real = resolved(join(target, path));
          expect(real === undefined || inside(realpathSync(target), real), `${root} ${path} ${real}`).toBe(
            true,
          );
        }
        if (error === undefined) restored += 1;
        else if (!isBackupError(error, 'object-damaged', 'not-yet')) throw error;
      }),
      { numRuns: 150 },
    );
    expect(restored).toBeGreaterThan(2);
  });

  async function restoreTo(targetDirectory: string, tars: Record<string, Uint8Array | readonly Member[]>) {
    const store = createMemoryStore();
    const repository = createRepository(store, 'pg');
    await putBackup(repository, { tars });
    const plan = await planFromRepository(repository, { target: {}, readsWal: false }, { signal });
    const barmanObjectStore = { destinationPath: 's3://b/p' };
    const reference = { namespace: 'default', serverName: 'pg', barmanObjectStore };
    const ports = { repository, restoreCommand: `walkeep wal-fetch '%f' "%p"`, reference };
    return restore(ports, { plan, targetDirectory }, { signal });
  }

  it('S2: a link through another link leads nowhere outside, and no configuration file is written there', async () => {
    const { target, around } = makePlace();
    const before = around();
    const members = dataMembers().filter(
      (member) => !(Array.isArray(member) && member[0] === 'postgresql.conf'),
    );
    const symlink = (path: string, linkPath: string): Member => ({ path, type: 'symlink', linkPath });
    const result = await restoreTo(target, {
      'data.tar': [
        ...members,
        ['postgresql.conf', "include 'door/canary/evil.conf'\ninclude 'door/out.conf'\n"],
        ['d', null],
        // `d/up` is the data directory: what looks like `d` behind it is the directory around.
        symlink('d/up', '..'),
        symlink('door', 'd/up/..'),
      ],
    });
    expect(around()).toEqual(before);
    expect(lstatSync(join(target, 'door'), { throwIfNoEntry: false })).toBeUndefined();
    expect(readlinkSync(join(target, 'd/up'))).toBe('..');
    expect(result.warnings.join()).toContain('door');
  });
});

/** Where a path ends after all links; `undefined` where nothing is. */
function resolved(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}

const member = (more: Partial<RawMember>): RawMember => ({
  name: 'f',
  flag: '0',
  link: '',
  data: new Uint8Array(),
  pax: [],
  isLong: false,
  ...more,
});

describe('a tar that is a bomb', () => {
  const zeros = async function* (mebibytes: number) {
    for (let n = 0; n < mebibytes; n++) yield Buffer.alloc(MiB);
  };

  it.each(['gzip', 'zstd', 'bzip2', 'xz', 'lz4', 'snappy'] as const)(
    'S2: %s: no more is written than was recorded, and the memory stays small',
    async (codec) => {
      const { target } = makePlace();
      // The file says 20 MiB, the record of the part 1 MiB.
      const head = rawTar([member({ name: 'big', declared: 20 * MiB })]).subarray(0, 512);
      const tar = async function* () {
        yield head;
        yield* zeros(20);
        yield Buffer.alloc(1024);
      };
      const stored = await collectBytes(compress(codec, tar(), { signal }), 20 * MiB);
      const expected = {
        plainBytes: MiB,
        plainSha256: hash(Buffer.alloc(0)),
        storedBytes: stored.length,
        storedSha256: hash(stored),
      };
      const { store, task } = await taskFor(Buffer.alloc(0), codec, target, { expected });
      await store.put('part', stored, { signal });
      await expect(unpackPart(store, task, options)).rejects.toMatchObject({ code: 'object-damaged' });
      expect(contentOf(target).size).toBe(0);
    },
  );

  it('S2: of one that goes on behind its record little is read', async () => {
    const { target } = makePlace();
    const bomb = async function* () {
      // Headers that declare nothing: only their sum is beyond the record.
      for (let n = 0; n < 64; n++) yield Buffer.concat(Array.from({ length: 2048 }, () => fifo));
    };
    const fifo = rawTar([member({ name: 'p', flag: '6' })]).subarray(0, 512);
    const stored = await collectBytes(compress('gzip', bomb(), { signal }), 20 * MiB);
    const expected = {
      plainBytes: 10_000,
      plainSha256: hash(Buffer.alloc(0)),
      storedBytes: stored.length,
      storedSha256: hash(stored),
    };
    const { store, task } = await taskFor(Buffer.alloc(0), 'gzip', target, { expected });
    await store.put('part', stored, { signal });
    await expect(unpackPart(store, task, options)).rejects.toMatchObject({
      code: 'object-damaged',
      message: expect.stringContaining('more than the 10000 bytes'),
    });
  });

  it('S2: a file larger than any of PostgreSQL’s is refused before a byte is written, record or not', async () => {
    const { target } = makePlace();
    const realsize = '99999999999999999'.slice(0, 15);
    for (const bomb of [
      member({ name: 'big', pax: [['size', realsize]] }),
      member({
        name: 'holes',
        pax: [
          ['GNU.sparse.major', '0'],
          ['GNU.sparse.minor', '1'],
          ['GNU.sparse.map', ''],
          ['GNU.sparse.realsize', realsize],
        ],
      }),
    ]) {
      const { store, task } = await taskFor(rawTar([bomb]), 'none', target);
      await expect(unpackPart(store, task, options)).rejects.toMatchObject({
        code: 'object-damaged',
        message: expect.stringMatching(/more than \d+ bytes/),
      });
      expect(contentOf(target).size).toBe(0);
    }
  });

  const holesOf = (bytes: number) =>
    member({
      name: 'holes',
      pax: [
        ['GNU.sparse.major', '0'],
        ['GNU.sparse.minor', '1'],
        ['GNU.sparse.map', ''],
        ['GNU.sparse.realsize', String(bytes)],
      ],
    });

  it('C6: without a record, holes that count more than the file system here has are unpacked: they take no room', async () => {
    const { target } = makePlace();
    const { blocks, bsize } = statfsSync(target);
    const bytes = blocks * bsize + 64 * MiB;
    const { store, task } = await taskFor(rawTar([holesOf(bytes)]), 'none', target);
    expect(await unpackPart(store, task, options)).toMatchObject({ files: 1, contentBytes: 0 });
    const { size, blocks: taken } = lstatSync(join(target, 'holes'));
    expect(size).toBe(bytes);
    expect(taken * 512).toBeLessThan(MiB);
  });

  it('C6: a file that this host can not have, and another could, does not make a part damaged', async () => {
    const { target } = makePlace();
    // More than ext4 takes, and no more than XFS does.
    const { store, task } = await taskFor(rawTar([holesOf(2 ** 47)]), 'none', target);
    const error: unknown = await unpackPart(store, task, options).then(
      () => undefined,
      (failure: unknown) => failure,
    );
    expect(error === undefined || isBackupError(error, 'config-invalid'), String(error)).toBe(true);
    expect(isDamage(error)).toBe(false);
  });

  it('S2: what global headers say does not fill the memory', () => {
    const globals = Array.from({ length: 40 }, (_, n) => {
      const record = ` GNU.c${n}=${'x'.repeat(60_000)}\n`;
      const data = Buffer.from(`${record.length + 5}${record}`);
      return Buffer.concat([
        rawTar([member({ flag: 'g', declared: data.length })]).subarray(0, 512),
        data,
        Buffer.alloc((512 - (data.length % 512)) % 512),
      ]);
    });
    expect(() => readTar([Buffer.concat(globals)])).toThrow(/global headers/);
  });
});
