import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import type { Stats } from 'node:fs';
import { link, lstat, mkdir, open, readdir, realpath, rename, rmdir, stat, unlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join, resolve, sep } from 'node:path';
import { pathToFileURL } from 'node:url';
import { BackupError, isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { release } from '../streams/chunks.ts';
import { checkedBody, objectBody } from './body.ts';
import { systemCodeOf, toStoreError } from './filesystem-errors.ts';
import { checkFolder, checkKey, checkPrefix, compareKeys } from './keys.ts';
import { checkMetadata, NO_METADATA } from './metadata.ts';
import type { ObjectStore, PutOptions, StoredObject, StoreTraits } from './object-store.ts';

/** Unfinished files, directly below the root: the same file system, and no part of any key. */
const TEMP_DIRECTORY = '.walkeep-tmp';
/** What a file system puts into its own root. */
const NOT_OURS = new Set([TEMP_DIRECTORY, 'lost+found']);
const READ_BYTES = 256 << 10;
const STATS_AT_ONCE = 32;
const CLEANING_MS = 60_000;
const DAY_MS = 24 * 60 * 60 * 1000;

/** A directory does what it does: nothing of it has to be tried. */
const DIRECTORY_TRAITS: StoreTraits = {
  multipartIfAbsent: 'yes',
  checksums: 'no',
  bulkDelete: 'no',
  listPaging: 'yes',
  listStart: 'no',
  versioning: 'off',
  objectLock: 'off',
};

/**
 * A directory as an object store: the key is the path below it.
 *
 * - An object appears whole: it is written to a temporary file below `.walkeep-tmp`, which no listing shows, synced, and
 *   then linked (create-if-absent) or renamed into place; the directory, and every directory made on the way, is synced
 *   after that. A crash or power loss leaves the old object, or none, or the new one.
 * - The root must exist; nothing makes it. One that is not there is `bucket-missing`, never an empty store: it is most
 *   likely a disk that is not mounted, and what was stored in its place would be out of sight when it is mounted again.
 * - Symbolic links below the root are not followed: a listing that meets one fails, since what lies behind it would be
 *   missing from it.
 * - Directories without objects are no folders. Deleting the last object of a directory removes the directory.
 * - Encryption and tags are the file system's business, and metadata has no place in a file that every program copies: those
 *   options change nothing.
 *
 * @param directory absolute path of the root
 */
export function createFilesystemStore(directory: string): ObjectStore {
  const root = resolve(directory);
  const url = pathToFileURL(root).href.replace(/\/$/, '');
  const pathOf = (key: string) => {
    checkKey(key);
    if (key === TEMP_DIRECTORY || key.startsWith(`${TEMP_DIRECTORY}/`)) {
      throw new BackupError(
        'format-invalid',
        `${key} can not be an object: the name is kept for unfinished files`,
      );
    }
    return join(root, key);
  };
  const named = (key: string) => `${url}/${key}`;
  /** Folders that this process has seen to: their names in their parents are on the disk. */
  const durable = new Set<string>();
  let cleaning: Promise<number> | undefined;

  /** What is at `path`, if it is reached without a symbolic link. @throws BackupError `bucket-missing` and others */
  async function look(path: string, key: string): Promise<Stats | undefined> {
    try {
      const found = await lstat(path);
      if ((await realpath(path)) !== join(await realpath(root), key)) {
        throw new BackupError(
          'access-denied',
          `${named(key)} leads through a symbolic link, which is not followed`,
          {
            hint: 'make it a directory or a file of the repository itself',
          },
        );
      }
      return found;
    } catch (error) {
      if (!isAbsence(error)) throw toStoreError(error, named(key));
      await requireRoot(root, url);
      return undefined;
    }
  }

  async function lookForObject(path: string, key: string): Promise<StoredObject | undefined> {
    const found = await look(path, key);
    if (found === undefined || !found.isFile()) return undefined;
    return { key, sizeBytes: found.size, modifiedAt: found.mtime };
  }

  async function* list(prefix: string, signal: AbortSignal): AsyncGenerator<StoredObject, void, void> {
    const base = prefix.slice(0, prefix.lastIndexOf('/') + 1);
    const found = await look(join(root, base), base.slice(0, -1));
    if (found?.isDirectory() === true) yield* walk(base, prefix.slice(base.length), signal);
  }

  /** @param folder empty, or ending in `/` */
  async function* walk(
    folder: string,
    beginning: string,
    signal: AbortSignal,
  ): AsyncGenerator<StoredObject, void, void> {
    const entries = await entriesOf(folder, signal);
    const wanted = entries.filter((entry) => entry.sortKey.startsWith(beginning));
    for (let at = 0; at < wanted.length; at += STATS_AT_ONCE) {
      signal.throwIfAborted();
      const some = wanted.slice(at, at + STATS_AT_ONCE);
      const stats = await Promise.all(
        some.map(async (entry) => (entry.isFolder ? undefined : statOf(folder + entry.name))),
      );
      for (const [index, entry] of some.entries()) {
        const key = folder + entry.name;
        const found = stats[index];
        if (entry.isFolder) yield* walk(`${key}/`, '', signal);
        // gone since the directory was read, and so no longer an object
        else if (found !== undefined) yield { key, sizeBytes: found.size, modifiedAt: found.mtime };
      }
    }
  }

  async function statOf(key: string): Promise<Stats | undefined> {
    try {
      return await lstat(join(root, key));
    } catch (error) {
      if (isAbsence(error)) return undefined;
      throw toStoreError(error, named(key));
    }
  }

  /** Files and directories directly in `folder`, in the byte order of the keys below them: `a-` is before `a/b`. */
  async function entriesOf(folder: string, signal: AbortSignal) {
    let found;
    try {
      found = await unlessAborted(readdir(join(root, folder), { withFileTypes: true }), signal);
    } catch (error) {
      if (signal.aborted) throw error;
      if (isAbsence(error)) {
        await requireRoot(root, url);
        return [];
      }
      throw toStoreError(error, named(folder));
    }
    const entries = found
      .filter((entry) => folder !== '' || !NOT_OURS.has(entry.name))
      .map((entry) => {
        if (entry.isSymbolicLink()) {
          throw new BackupError(
            'access-denied',
            `${named(folder + entry.name)} is a symbolic link, which is not followed`,
            {
              hint: 'make it a directory or a file of the repository itself: what lies behind it would be missing here',
            },
          );
        }
        const isFolder = entry.isDirectory();
        return {
          name: entry.name,
          isFolder,
          isFile: entry.isFile(),
          sortKey: isFolder ? `${entry.name}/` : entry.name,
        };
      });
    return entries
      .filter((entry) => entry.isFolder || entry.isFile)
      .toSorted((a, b) => compareKeys(a.sortKey, b.sortKey));
  }

  return {
    url,
    features: { ifAbsent: true, metadata: false },
    async put(key, body, options) {
      const path = pathOf(key);
      checkMetadata(key, options.metadata);
      options.signal.throwIfAborted();
      await requireRoot(root, url);
      // what a killed process left, once a process; nobody waits for it
      cleaning ??= removeLeftovers(root, { signal: AbortSignal.timeout(CLEANING_MS) }).catch(() => 0);
      // spares reading the body; what decides is the link below
      if (options.ifAbsent === true && (await look(path, key)) !== undefined) {
        // whoever put it there may have crashed before this
        await syncDirectory(dirname(path));
        throw alreadyThere(named(key));
      }
      const temp = join(root, TEMP_DIRECTORY, `${process.pid}-${randomUUID()}`);
      try {
        await makeFolder(dirname(temp));
        const sizeBytes = await writeSynced(temp, checkedBody(key, body, options), options.signal);
        // of our own file, before anybody else can replace it: moving it changes nothing of this
        const { mtime: modifiedAt } = await lstat(temp);
        await moveIntoPlace({ root, durable, temp, key }, options);
        return { sizeBytes, modifiedAt };
      } catch (error) {
        if (isBackupError(error) || options.signal.aborted) throw error;
        if (isSystemError(error)) throw toStoreError(error, named(key));
        throw error;
      } finally {
        // after a rename there is nothing, and what can't be removed is left to removeLeftovers
        await unlink(temp).catch(() => undefined);
      }
    },
    async get(key, { signal, range }) {
      const path = pathOf(key);
      signal.throwIfAborted();
      if ((await lookForObject(path, key)) === undefined) return undefined;
      return objectBody(readFile(path, named(key), signal, range));
    },
    async head(key, { signal }) {
      signal.throwIfAborted();
      const found = await lookForObject(pathOf(key), key);
      return found && { ...found, metadata: NO_METADATA };
    },
    async makeDurable(key, { signal }) {
      signal.throwIfAborted();
      try {
        await syncDirectory(dirname(pathOf(key)));
      } catch (error) {
        throw toStoreError(error, named(key));
      }
    },
    async *list(prefix, { signal }) {
      checkPrefix(prefix);
      signal.throwIfAborted();
      yield* list(prefix, signal);
    },
    async *folders(prefix, { signal }) {
      checkFolder(prefix);
      signal.throwIfAborted();
      const found = await look(join(root, prefix), prefix.slice(0, -1));
      if (found?.isDirectory() !== true) return;
      for (const entry of await entriesOf(prefix, signal)) {
        if (!entry.isFolder) continue;
        const folder = prefix + entry.sortKey;
        const first = await walk(folder, '', signal).next();
        if (first.done !== true) yield folder;
      }
    },
    async delete(keys, { signal }) {
      const paths = keys.map((key) => ({ key, path: pathOf(key) }));
      await requireRoot(root, url);
      const changed = new Set<string>();
      for (const { key, path } of paths) {
        signal.throwIfAborted();
        const found = await look(path, key);
        if (found === undefined || !found.isFile()) continue;
        try {
          await unlink(path);
        } catch (error) {
          if (!isAbsence(error)) throw toStoreError(error, named(key));
        }
        changed.add(dirname(path));
      }
      for (const folder of changed) await removeEmptyFolders(root, folder);
    },
    inquire: async () => DIRECTORY_TRAITS,
    async close() {},
  };
}

/**
 * Removes the temporary files that a crash left, when nothing was written to them for a day.
 *
 * @param directory root of the store
 * @returns how many were removed
 */
export async function removeLeftovers(
  directory: string,
  options: { readonly signal: AbortSignal; readonly olderThanMs?: number },
): Promise<number> {
  const folder = join(resolve(directory), TEMP_DIRECTORY);
  const before = Date.now() - (options.olderThanMs ?? DAY_MS);
  let removed = 0;
  try {
    for (const name of await readdir(folder)) {
      options.signal.throwIfAborted();
      const path = join(folder, name);
      const found = await lstat(path).catch(() => undefined);
      if (found?.isFile() !== true || found.mtimeMs > before) continue;
      await unlink(path);
      removed += 1;
    }
  } catch (error) {
    if (options.signal.aborted) throw error;
    if (!isAbsence(error)) throw toStoreError(error, folder);
  }
  return removed;
}

/** @returns bytes written */
async function writeSynced(
  path: string,
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<number> {
  const file = await open(path, 'wx', 0o640);
  try {
    let sizeBytes = 0;
    for await (const piece of body) {
      for (let at = 0; at < piece.length;) {
        signal.throwIfAborted();
        at += (await file.write(piece, at, piece.length - at)).bytesWritten;
      }
      sizeBytes += piece.length;
      release(piece);
    }
    await unlessAborted(file.sync(), signal);
    return sizeBytes;
  } finally {
    await file.close();
  }
}

interface Move {
  readonly root: string;
  readonly durable: Set<string>;
  readonly temp: string;
  readonly key: string;
}

async function moveIntoPlace({ root, durable, temp, key }: Move, options: PutOptions): Promise<void> {
  const target = join(root, key);
  for (let attempt = 1; ; attempt++) {
    options.signal.throwIfAborted();
    await makeFolders(root, dirname(key), durable);
    try {
      if (options.ifAbsent === true) await link(temp, target);
      else await rename(temp, target);
      break;
    } catch (error) {
      // a delete next door may have removed the folder that was just made
      if (systemCodeOf(error) === 'ENOENT' && attempt < 10) continue;
      if (systemCodeOf(error) !== 'EEXIST') throw error;
      await syncDirectory(dirname(target));
      throw alreadyThere(pathToFileURL(target).href);
    }
  }
  await syncDirectory(dirname(target));
}

/** Makes the directories of `folder` below `root`, each durable before anything is put into it. */
async function makeFolders(root: string, folder: string, durable: Set<string>): Promise<void> {
  let path = await realpath(root);
  for (const name of folder === '.' ? [] : folder.split('/')) {
    const parent = path;
    path = join(parent, name);
    const made = await makeFolder(path);
    if (!made && durable.has(path)) continue;
    // one that exists may be the work of a process that crashed before this
    await syncDirectory(parent);
    durable.add(path);
  }
}

/** @returns whether it is new */
async function makeFolder(path: string): Promise<boolean> {
  try {
    await mkdir(path, { mode: 0o750 });
    return true;
  } catch (error) {
    if (systemCodeOf(error) !== 'EEXIST') throw error;
    if (!(await lstat(path)).isSymbolicLink()) return false;
    throw new BackupError('access-denied', `${path} is a symbolic link, which is not followed`, {
      hint: 'make it a directory of the repository itself',
    });
  }
}

async function requireRoot(root: string, url: string): Promise<void> {
  try {
    if ((await stat(root)).isDirectory()) return;
  } catch (error) {
    if (!isAbsence(error)) throw toStoreError(error, url);
  }
  throw rootMissing(url);
}

const rootMissing = (url: string) =>
  new BackupError('bucket-missing', `${url} is not a directory of this host`, {
    hint: 'mount it, or create it, or correct destinationPath',
  });

const alreadyThere = (name: string) => new BackupError('already-exists', `${name} exists already`);

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Removes `folder` and what is above it as far as it is empty. */
async function removeEmptyFolders(root: string, folder: string): Promise<void> {
  for (let path = folder; path.startsWith(root + sep); path = dirname(path)) {
    try {
      await rmdir(path);
    } catch {
      // not empty, or not ours to remove: the objects are gone, and that is what was asked for
      break;
    }
  }
}

/** Opens the file only when it is read, so that a body nobody reads holds nothing. */
async function* readFile(
  path: string,
  name: string,
  signal: AbortSignal,
  range?: { readonly offset: number; readonly length: number },
): AsyncGenerator<Uint8Array, void, void> {
  let file: FileHandle | undefined;
  let hasFailed = false;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    const { size } = await file.stat();
    let at = range?.offset ?? 0;
    const end = range === undefined ? size : Math.min(size, range.offset + range.length);
    while (at < end) {
      const piece = Buffer.allocUnsafe(Math.min(READ_BYTES, end - at));
      const { bytesRead } = await unlessAborted(file.read(piece, 0, piece.length, at), signal);
      if (bytesRead === 0) {
        throw new BackupError('store-unavailable', `${name} ended after ${at} bytes; ${end} were announced`);
      }
      yield piece.subarray(0, bytesRead);
      at += bytesRead;
    }
  } catch (error) {
    hasFailed = true;
    if (!isSystemError(error)) throw error;
    if (isAbsence(error)) throw new BackupError('object-missing', `${name} was removed before it was read`);
    throw toStoreError(error, name);
  } finally {
    await file?.close().catch((error: unknown) => {
      // what went wrong before says more
      if (!hasFailed) throw toStoreError(error, name);
    });
  }
}

const isAbsence = (error: unknown) => ['ENOENT', 'ENOTDIR'].includes(systemCodeOf(error) ?? '');
const isSystemError = (error: unknown) => systemCodeOf(error) !== undefined;
