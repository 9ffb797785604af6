import { spawn } from 'node:child_process';
import { chmod, link, mkdir, mkdtemp, readdir, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { createFilesystemStore, removeLeftovers } from '../../stores/filesystem.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { describeObjectStore } from './conformance.ts';

const signal = new AbortController().signal;
const options = { signal };
const base = await mkdtemp(join(tmpdir(), 'walkeep-fs-'));
afterAll(() => rm(base, { recursive: true, force: true }));

describeObjectStore('filesystem', async () => {
  const root = join(base, 'conformance');
  await mkdir(root, { recursive: true });
  return {
    store: createFilesystemStore(root),
    missing: createFilesystemStore(join(base, 'not', 'mounted')),
    leftovers: async () => (await readdir(join(root, '.walkeep-tmp'))).length,
  };
});

describe('a directory store', () => {
  let root: string;
  let store: ObjectStore;
  beforeEach(async () => {
    root = await mkdtemp(join(base, 'root-'));
    store = createFilesystemStore(root);
  });
  const keys = async (prefix = '') => {
    const found: string[] = [];
    for await (const { key } of store.list(prefix, options)) found.push(key);
    return found;
  };

  it('A1: is never made: a disk that is not mounted must not be written beside', async () => {
    for (const missing of [join(root, 'repository'), join(root, 'no', 'repository')]) {
      const store = createFilesystemStore(missing);
      const refusal = { code: 'bucket-missing', hint: expect.stringContaining('mount') };
      await expect(store.put('a/x', Buffer.from('x'), options)).rejects.toMatchObject(refusal);
      await expect(store.head('a/x', options)).rejects.toMatchObject(refusal);
    }
    expect(await readdir(root)).toEqual([]);
  });

  it('a disk that is unmounted under it is missing, not empty', async () => {
    await store.put('s/base/1/x', Buffer.from('x'), options);
    await rm(root, { recursive: true });
    await expect(keys('s/base/')).rejects.toMatchObject({ code: 'bucket-missing' });
    await expect(store.get('s/base/1/x', options)).rejects.toMatchObject({ code: 'bucket-missing' });
  });

  it('S2: follows no symbolic link, in reading, writing and deleting', async () => {
    const outside = await mkdtemp(join(base, 'outside-'));
    await writeFile(join(outside, 'secret'), 'secret');
    await mkdir(join(root, 'a'));
    await symlink(join(outside, 'secret'), join(root, 'a', 'file'));
    await symlink(outside, join(root, 'a', 'folder'));
    const refused = { code: 'access-denied' };
    for (const key of ['a/file', 'a/folder/secret']) {
      await expect(store.get(key, options)).rejects.toMatchObject(refused);
      await expect(store.head(key, options)).rejects.toMatchObject(refused);
      await expect(store.delete([key], options)).rejects.toMatchObject(refused);
    }
    await expect(store.put('a/folder/new', Buffer.from('x'), options)).rejects.toMatchObject(refused);
    await expect(keys()).rejects.toMatchObject(refused);
    await expect(keys('a/folder/')).rejects.toMatchObject(refused);
    expect(await readdir(outside)).toEqual(['secret']);
  });

  it('A3: a put tells the time of just what it stored, as it is listed', async () => {
    const put = await store.put('a/b', Buffer.from('x'), { ...options, ifAbsent: true });
    const found = await store.head('a/b', options);
    expect(put).toEqual({ sizeBytes: 1, modifiedAt: found?.modifiedAt });
  });

  it('a root that is itself a symbolic link is followed', async () => {
    const linked = `${root}-link`;
    await symlink(root, linked);
    const other = createFilesystemStore(linked);
    await other.put('a/x', Buffer.from('x'), options);
    expect(await keys()).toEqual(['a/x']);
    expect(await other.head('a/x', options)).toBeDefined();
  });

  it('does not show unfinished files, empty directories and what is no file', async () => {
    await store.put('a/x', Buffer.from('x'), options);
    await mkdir(join(root, 'empty', 'inside'), { recursive: true });
    await mkdir(join(root, 'lost+found'));
    await writeFile(join(root, '.walkeep-tmp', 'half'), 'half');
    expect(await keys()).toEqual(['a/x']);
    const folders: string[] = [];
    for await (const folder of store.folders('', options)) folders.push(folder);
    expect(folders).toEqual(['a/']);
    await expect(store.put('.walkeep-tmp/x', Buffer.from('x'), options)).rejects.toMatchObject({
      code: 'format-invalid',
    });
  });

  it('an object in the way of a folder is a clear refusal, and the other way round', async () => {
    await store.put('a', Buffer.from('x'), options);
    await expect(store.put('a/b', Buffer.from('x'), options)).rejects.toMatchObject({
      code: 'config-invalid',
    });
    await store.put('c/d', Buffer.from('x'), options);
    await expect(store.put('c', Buffer.from('x'), options)).rejects.toMatchObject({ code: 'config-invalid' });
    expect(await store.get('c', options)).toBeUndefined();
  });

  it('writers and deleters of one folder do not disturb each other', async () => {
    await Promise.all(
      Array.from({ length: 200 }, async (_, n) => {
        const key = `busy/folder/${n % 7}`;
        if (n % 2 === 0) await store.put(key, Buffer.from('x'), options);
        else await store.delete([key], options);
      }),
    );
    await store.put('busy/folder/last', Buffer.from('x'), options);
    expect(await keys('busy/folder/last')).toEqual(['busy/folder/last']);
  });

  it('an object that shrinks while it is read is noticed', async () => {
    await store.put('shrinks', Buffer.alloc(2_000_000), options);
    const body = await store.get('shrinks', options);
    const reading = (async () => {
      for await (const _ of body!) await writeFile(join(root, 'shrinks'), 'short');
    })();
    await expect(reading).rejects.toMatchObject({ code: 'store-unavailable' });
  });

  it('old leftovers are removed, recent ones are left', async () => {
    await store.put('x', Buffer.from('x'), options);
    const temp = join(root, '.walkeep-tmp');
    await writeFile(join(temp, 'old'), 'x');
    await writeFile(join(temp, 'new'), 'x');
    const twoDaysAgo = new Date(Date.now() - 2 * 24 * 60 * 60 * 1000);
    await utimes(join(temp, 'old'), twoDaysAgo, twoDaysAgo);
    expect(await removeLeftovers(root, options)).toBe(1);
    expect(await readdir(temp)).toEqual(['new']);
    expect(await removeLeftovers(join(root, 'nowhere'), options)).toBe(0);
  });

  it('E2: what a killed process left is removed by the first write of a later one', async () => {
    const temp = join(root, '.walkeep-tmp');
    await mkdir(temp, { recursive: true });
    await writeFile(join(temp, 'old'), 'x');
    await writeFile(join(temp, 'new'), 'x');
    const twoDaysAgo = new Date(Date.now() - 2 * 24 * 60 * 60 * 1000);
    await utimes(join(temp, 'old'), twoDaysAgo, twoDaysAgo);
    await createFilesystemStore(root).put('y', Buffer.from('y'), options);
    for (let tries = 0; tries < 200 && (await readdir(temp)).includes('old'); tries++) await sleep(10);
    expect(await readdir(temp)).toEqual(['new']);
  });

  it('E4: after kill -9 there is the old object, none, or the new one, and never half of one', async () => {
    const program = new URL('filesystem-writer.ts', import.meta.url).pathname;
    for (let round = 0; round < 6; round++) {
      const child = spawn(process.execPath, [program, root], { stdio: ['ignore', 'pipe', 'inherit'] });
      await new Promise((resolve) => child.stdout.once('data', resolve));
      await sleep(10 + round * 17);
      child.kill('SIGKILL');
      await new Promise((resolve) => child.once('close', resolve));
      for await (const { key, sizeBytes } of store.list('crash/', options)) {
        const bytes = await collectBytes((await store.get(key, options))!, 1e9);
        expect(sizeBytes).toBe(1_000_000);
        expect(bytes.every((byte) => byte === bytes[0])).toBe(true);
      }
    }
    expect((await keys('crash/')).length).toBeGreaterThan(0);
  });

  it.skipIf(process.getuid?.() === 0)('a directory without rights is refused, not empty', async () => {
    await store.put('a/x', Buffer.from('x'), options);
    await chmod(join(root, 'a'), 0o000);
    await expect(keys()).rejects.toMatchObject({ code: 'access-denied' });
    await expect(store.put('a/y', Buffer.from('x'), options)).rejects.toMatchObject({
      code: 'access-denied',
    });
    await chmod(join(root, 'a'), 0o700);
  });

  it('objects may be hard links and read-only files of another tool', async () => {
    await store.put('a/x', Buffer.from('x'), options);
    await link(join(root, 'a', 'x'), join(root, 'a', 'y'));
    await chmod(join(root, 'a', 'y'), 0o400);
    expect(await keys()).toEqual(['a/x', 'a/y']);
    expect((await stat(join(root, 'a', 'x'))).nlink).toBe(2);
  });
});
