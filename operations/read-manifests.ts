import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';
import type { ManifestSource } from '../manifests/load.ts';

/** How standard input is called in messages. */
const STANDARD_INPUT = 'standard input';
const MANIFEST_NAME = /\.(ya?ml|json)$/i;
const MAX_FILE_BYTES = 8 * 1024 * 1024;

/**
 * Reads what `-f` names: files, folders (their `.yaml`, `.yml` and `.json` files, by name, without subfolders) and
 * `-` for standard input.
 *
 * @throws BackupError `usage` naming what can't be read
 */
export async function readManifestSources(
  paths: readonly string[],
  readStandardInput: () => Promise<Uint8Array>,
): Promise<ManifestSource[]> {
  const sources: ManifestSource[] = [];
  for (const path of paths) {
    if (path === '-')
      sources.push({ file: STANDARD_INPUT, text: decode(await readStandardInput(), STANDARD_INPUT) });
    else for (const file of await filesAt(path)) sources.push(await readSource(file));
  }
  return sources;
}

async function filesAt(path: string): Promise<string[]> {
  const about = await stat(path).catch((error: unknown) => {
    throw new BackupError('usage', `can't read ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: 'check the path',
    });
  });
  if (!about.isDirectory()) return [path];
  const names = await readdir(path);
  const files = names.filter((name) => MANIFEST_NAME.test(name) && !name.startsWith('.')).toSorted();
  if (files.length === 0) {
    throw new BackupError('usage', `no .yaml, .yml or .json files in ${path}`, {
      hint: 'subfolders are not read',
    });
  }
  return files.map((name) => join(path, name));
}

async function readSource(file: string): Promise<ManifestSource> {
  const about = await stat(file);
  if (about.isFile() && about.size > MAX_FILE_BYTES) {
    throw new BackupError('usage', `${file} is larger than 8 MiB`, { hint: 'give manifests only' });
  }
  const bytes = await readFile(file).catch((error: unknown) => {
    throw new BackupError('usage', `can't read ${file}: ${messageOf(error)}`, {
      cause: error,
      hint: 'check its rights',
    });
  });
  return { file, text: decode(bytes, file) };
}

function decode(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new BackupError('usage', `${file} is not UTF-8 text`, { hint: 'save it as UTF-8' });
  }
}
