import { parseWalFileName, type WalFile } from '../core/segment.ts';
import type { StoredObject } from '../stores/object-store.ts';
import { CODECS, type Codec } from '../streams/codec.ts';
import { parseWalObjectName, walFolder, walKey, walPrefix } from './layout.ts';
import type { Repository } from './repository.ts';

/** A file of the WAL archive, as it is stored. */
export interface WalObject {
  /** PostgreSQL's name of it, without the codec's suffix. */
  readonly fileName: string;
  readonly file: WalFile;
  readonly codec: Codec;
  readonly key: string;
  readonly sizeBytes: number;
  readonly modifiedAt: Date;
  /** As of `StoredObject`. */
  readonly lock?: NonNullable<StoredObject['lock']>;
}

/**
 * The objects that hold a WAL file: usually none or one, more when its codec was changed between two attempts. Only
 * exactly this file: a `.partial` or `.backup` of a segment is another one.
 *
 * @throws BackupError `format-invalid` when PostgreSQL never archives such a name; what the store throws
 */
export async function findWal(r: Repository, fileName: string, signal: AbortSignal): Promise<WalObject[]> {
  const found: WalObject[] = [];
  for await (const object of r.store.list(walFolder(r.server, fileName) + fileName, { signal })) {
    const wal = parseWalObject(r, object);
    if (wal?.fileName === fileName) found.push(wal);
  }
  return found;
}

/**
 * As `findWal`, without any listing: each name that the file can have is asked for. For whoever is about to say that it
 * is not there, and must not be wrong because a listing was late.
 *
 * @throws as `findWal`
 */
export async function findWalByName(
  r: Repository,
  fileName: string,
  signal: AbortSignal,
): Promise<WalObject[]> {
  const keys = CODECS.map((codec) => walKey(r.server, fileName, codec));
  const found = await Promise.all(keys.map((key) => r.store.head(key, { signal })));
  return found.flatMap((object) => (object && parseWalObject(r, object)) ?? []);
}

/** @returns `undefined` for what is not a WAL file, or lies where no tool would look for it */
export function parseWalObject(r: Repository, object: StoredObject): WalObject | undefined {
  const parsed = parseWalObjectName(object.key.slice(object.key.lastIndexOf('/') + 1));
  const file = parsed && parseWalFileName(parsed.fileName);
  if (!parsed || !file || walKey(r.server, parsed.fileName, parsed.codec) !== object.key) return undefined;
  const { key, sizeBytes, modifiedAt, lock } = object;
  return {
    fileName: parsed.fileName,
    file,
    codec: parsed.codec,
    key,
    sizeBytes,
    modifiedAt,
    ...(lock && { lock }),
  };
}

/** The folders of the archive, in order: 8 digits of a timeline, 8 of a log. */
export async function walFolders(
  r: Repository,
  signal: AbortSignal,
  onForeign?: (key: string) => void,
): Promise<string[]> {
  const prefix = walPrefix(r.server);
  const folders: string[] = [];
  for await (const folder of r.store.folders(prefix, { signal })) {
    const name = folder.slice(prefix.length, -1);
    if (/^[0-9A-F]{16}$/.test(name)) folders.push(name);
    else onForeign?.(folder);
  }
  return folders.toSorted();
}
