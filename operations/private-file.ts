import { randomBytes } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { chown, lstat, mkdir, open, readdir, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';

const TEMPORARY = '.tmp-';
/** Longer than any write of ours takes: what is older was left by a process that died. */
const STALE_MS = 3_600_000;
const MAX_FILE_BYTES = 16 * 1024 * 1024;

/**
 * The path of `names` below `root`, when each is one plain name and not that of a temporary file.
 *
 * @throws BackupError `format-invalid` for a name that would leave its folder or hide in it
 */
export function pathBelow(root: string, names: readonly string[]): string {
  for (const name of names) {
    const reserved = name === '' || name === '.' || name === '..' || name.startsWith(TEMPORARY);
    if (reserved || /[/\\\u0000-\u001f\u007f]/.test(name) || name.length > 253) {
      throw new BackupError('format-invalid', `not a file name: ${JSON.stringify(name)}`);
    }
  }
  return join(root, ...names);
}

/**
 * Writes a file that only its owner can read (0600, folders 0700): whole or not at all, and durable when it resolves.
 * As root it belongs to the owner of `root`, so that a worker which is not root reads what root applied.
 *
 * @throws BackupError `format-invalid` | `config-invalid` | `disk-full`
 */
export async function writePrivateFile(
  root: string,
  names: readonly string[],
  bytes: Uint8Array,
): Promise<string> {
  const path = pathBelow(root, names);
  try {
    const owner = await ownerOf(root);
    const directory = await makeFolders(root, names.slice(0, -1), owner);
    await removeStale(directory);
    await replace(directory, path, bytes, owner);
    return path;
  } catch (error) {
    throw writeFailure(error, path);
  }
}

async function replace(directory: string, path: string, bytes: Uint8Array, owner: Stats): Promise<void> {
  const temporary = join(directory, `${TEMPORARY}${process.pid}-${randomBytes(6).toString('hex')}`);
  const flags = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW;
  const file = await open(temporary, flags, 0o600);
  try {
    try {
      if (process.getuid?.() === 0) await file.chown(owner.uid, owner.gid);
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(directory);
}

/** Removes a file below `root`; one that is not there is fine. */
export async function removePrivateFile(root: string, names: readonly string[]): Promise<void> {
  const path = pathBelow(root, names);
  try {
    await rm(path, { force: true });
    await syncFolder(dirname(path)).catch((error: unknown) => {
      if (errorCode(error) !== 'ENOENT') throw error;
    });
  } catch (error) {
    throw writeFailure(error, path);
  }
}

/**
 * Reads a file below `root`. Links, pipes and devices are not followed.
 *
 * @returns `undefined` when there is none
 * @throws BackupError `format-invalid` | `config-invalid`
 */
export async function readPrivateFile(root: string, names: readonly string[]): Promise<Buffer | undefined> {
  const path = pathBelow(root, names);
  try {
    // Non-blocking: opening a pipe somebody put there would wait for ever.
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      return await readRegular(file, path);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR') return undefined;
    if (error instanceof BackupError) throw error;
    throw new BackupError('config-invalid', `can't read ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: 'run as the user who owns the state directory',
    });
  }
}

async function readRegular(file: FileHandle, path: string): Promise<Buffer> {
  const about = await file.stat();
  if (!about.isFile() || about.size > MAX_FILE_BYTES) {
    throw new BackupError('config-invalid', `${path} is no ordinary file of at most ${MAX_FILE_BYTES} bytes`);
  }
  return file.readFile();
}

/** The names in a folder below `root`, sorted, without temporary files; none when there is no such folder. */
export async function listPrivateFolder(root: string, names: readonly string[]): Promise<string[]> {
  const path = pathBelow(root, names);
  try {
    return (await readdir(path)).filter((name) => !name.startsWith(TEMPORARY)).toSorted();
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw new BackupError('config-invalid', `can't list ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: 'run as the user who owns the state directory',
    });
  }
}

/** The owner that files below `root` get; `root` is made when it is not there. */
async function ownerOf(root: string): Promise<Stats> {
  await mkdir(root, { recursive: true, mode: 0o700 });
  return stat(root);
}

async function makeFolders(root: string, names: readonly string[], owner: Stats): Promise<string> {
  let directory = root;
  for (const name of names) {
    const parent = directory;
    directory = join(parent, name);
    try {
      await mkdir(directory, { mode: 0o700 });
      if (process.getuid?.() === 0) await chown(directory, owner.uid, owner.gid);
      await syncFolder(parent);
    } catch (error) {
      if (errorCode(error) !== 'EEXIST') throw error;
      const about = await lstat(directory);
      // A link would lead the write elsewhere.
      if (!about.isDirectory())
        throw new BackupError('config-invalid', `${directory} is in the way: it is no directory`);
    }
  }
  return directory;
}

async function syncFolder(directory: string): Promise<void> {
  const folder = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function removeStale(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    if (!name.startsWith(TEMPORARY)) continue;
    const path = join(directory, name);
    const about = await lstat(path).catch(() => undefined);
    if (about && Date.now() - about.mtimeMs > STALE_MS) await rm(path, { force: true });
  }
}

function writeFailure(error: unknown, path: string): BackupError {
  if (error instanceof BackupError) return error;
  const code = errorCode(error);
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new BackupError('disk-full', `no room to write ${path}`, { cause: error });
  }
  return new BackupError('config-invalid', `can't write ${path}: ${messageOf(error)}`, {
    cause: error,
    hint: 'run as the owner of the state directory, or choose another with WALKEEP_STATE',
  });
}

/** The operating system's code of an error, such as `ENOENT`. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
