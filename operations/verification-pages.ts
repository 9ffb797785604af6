import { existsSync } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { VerificationCheck } from '../core/verification.ts';
import { readControlData } from '../postgres/control-data.ts';
import { findDamagedPages, parseRelationFile } from '../postgres/page-checksum.ts';

const READ_BYTES = 1024 * 1024;
const NAMED = 5;

export interface PagesOptions {
  readonly signal: AbortSignal;
  readonly onProgress: (checkedBytes: number) => void;
  /** Files whose pages did not fit when the backup was taken, by path. */
  readonly knownBefore: ReadonlySet<string>;
}

/**
 * Checks the checksum of every page of every relation in a data directory whose server was shut down cleanly: then what
 * is on disk is what PostgreSQL wrote.
 */
export async function checkPages(
  data: string,
  { signal, onProgress, knownBefore }: PagesOptions,
): Promise<VerificationCheck> {
  const name = 'pageChecksums';
  const { dataChecksums, blockSize, segmentBlocks } = await readControlData(data, signal);
  if (!dataChecksums) return { name, result: 'skipped', detail: 'the cluster has no data checksums' };
  let [pages, files] = [0, 0];
  const damaged: { path: string; block: number }[] = [];
  const buffer = Buffer.alloc(Math.ceil(READ_BYTES / blockSize) * blockSize);
  for await (const path of relationFiles(data)) {
    const relation = parseRelationFile(path, segmentBlocks);
    if (relation === undefined) continue;
    files += 1;
    const file = await open(join(data, path), 'r');
    try {
      for (let offset = 0; ; offset += buffer.length) {
        signal.throwIfAborted();
        const { bytesRead } = await file.read(buffer, 0, buffer.length, offset);
        const firstBlock = relation.firstBlock + offset / blockSize;
        for (const index of findDamagedPages(buffer.subarray(0, bytesRead), firstBlock, blockSize)) {
          damaged.push({ path, block: firstBlock + index });
        }
        pages += Math.floor(bytesRead / blockSize);
        if (bytesRead < buffer.length) break;
      }
    } finally {
      await file.close();
    }
    onProgress(pages * blockSize);
  }
  if (damaged.length === 0) return { name, result: 'passed', detail: `${pages} pages in ${files} files` };
  const first = damaged[0] as { path: string; block: number };
  const told = damaged.slice(0, NAMED).map(({ path, block }) => `block ${block} of ${path}`);
  const more = damaged.length > NAMED ? ` and ${damaged.length - NAMED} more` : '';
  const before = damaged.some(({ path }) => knownBefore.has(path))
    ? '; such pages were there when the backup was taken'
    : '';
  return {
    name,
    result: 'failed',
    object: first.path,
    detail: `the checksum does not fit: ${told.join(', ')}${more}${before}`,
  };
}

/** Paths relative to the data directory, through the links of tablespaces. */
async function* relationFiles(data: string): AsyncGenerator<string, void, void> {
  yield* filesIn(data, 'global');
  yield* filesBelow(data, 'base');
  const links = existsSync(join(data, 'pg_tblspc')) ? await readdir(join(data, 'pg_tblspc')) : [];
  for (const oid of links.filter((name) => /^\d+$/.test(name))) {
    for (const version of await readdir(join(data, 'pg_tblspc', oid))) {
      if (/^PG_\d+_\d+$/.test(version)) yield* filesBelow(data, `pg_tblspc/${oid}/${version}`);
    }
  }
}

async function* filesBelow(data: string, folder: string): AsyncGenerator<string, void, void> {
  for (const entry of await readdir(join(data, folder), { withFileTypes: true })) {
    if (entry.isDirectory() && /^\d+$/.test(entry.name)) yield* filesIn(data, `${folder}/${entry.name}`);
  }
}

async function* filesIn(data: string, folder: string): AsyncGenerator<string, void, void> {
  for (const entry of await readdir(join(data, folder), { withFileTypes: true })) {
    if (entry.isFile()) yield `${folder}/${entry.name}`;
  }
}
