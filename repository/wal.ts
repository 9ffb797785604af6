import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { parseHistory, type TimelineSwitch } from '../core/timeline.ts';
import type { Put, PutOptions } from '../stores/object-store.ts';
import { decompress, decompressBytes, type Codec } from '../streams/codec.ts';
import { sha256, type Digest } from '../streams/digest.ts';
import { listHistories } from './histories.ts';
import { walKey, walPrefix } from './layout.ts';
import type { Repository } from './repository.ts';
import { collectSmall } from './small-object.ts';
import { digestMetadata, findDigest, readWithDigest, type Recorded } from './wal-digest.ts';
import { parseWalObject, walFolders, type WalObject } from './wal-object.ts';

export { findWal, type WalObject } from './wal-object.ts';

/** A stored copy as it is, before anything is believed of it. */
export interface WalCopy {
  /** Its plain bytes, or why they can't be had: `object-damaged`. */
  readonly plain: Uint8Array | BackupError;
  /** What was recorded of the plain bytes when they were stored, if anything was, or why that can't be had. */
  readonly recorded: Recorded;
}

/**
 * The plain bytes of a WAL file, as they were archived: where a hash of them is recorded, it is compared. Whether a
 * segment has the size of a segment is the caller's to check.
 *
 * @param maxBytes plain size that is refused to be exceeded
 * @throws BackupError `object-damaged` | `object-missing` when it vanished since it was found
 */
export async function readWal(
  r: Repository,
  object: WalObject,
  maxBytes: number,
  signal: AbortSignal,
): Promise<Uint8Array> {
  return asArchived(object, await readWalCopy(r, object, maxBytes, signal));
}

/**
 * The plain bytes of a copy, compared with what is recorded of them.
 *
 * @throws BackupError `object-damaged`; `store-unavailable` when what is recorded can't be had
 */
export function asArchived(object: WalObject, { plain, recorded }: WalCopy): Uint8Array {
  if (plain instanceof BackupError) throw plain;
  if (recorded instanceof BackupError) throw recorded;
  if (recorded && recorded.sha256 !== sha256(plain)) throw altered(object);
  return plain;
}

/** As `readWal`, for whoever has to tell what is wrong with a copy. @throws BackupError `object-missing` */
export async function readWalCopy(
  r: Repository,
  object: WalObject,
  maxBytes: number,
  signal: AbortSignal,
): Promise<WalCopy> {
  try {
    return await readCopyOnce(r, object, maxBytes, signal);
  } catch (error) {
    // replaced while it was read, by a repair: what there is now is what to judge
    if (!isBackupError(error, 'object-missing')) throw error;
    return readCopyOnce(r, object, maxBytes, signal);
  }
}

async function readCopyOnce(
  r: Repository,
  object: WalObject,
  maxBytes: number,
  signal: AbortSignal,
): Promise<WalCopy> {
  const { key, codec } = object;
  const decode = (body: AsyncIterable<Uint8Array>) =>
    damageOr(async () => {
      // what can't be compressed grows a little
      const maxStored = maxBytes + Math.ceil(maxBytes / 64) + 65_536;
      return decompressBytes(codec, await collectSmall(body, key, maxStored), maxBytes, key);
    });
  const found = await readWithDigest(r, key, decode, signal);
  if (found === undefined) throw vanished(object);
  return { plain: found.value, recorded: found.recorded };
}

/** What is recorded of a copy, without reading it. @throws BackupError `object-missing` */
export async function recordedDigest(
  r: Repository,
  object: WalObject,
  signal: AbortSignal,
): Promise<Recorded> {
  const found = await findDigest(r, object.key, signal);
  if (found === undefined) throw vanished(object);
  return found.recorded;
}

async function damageOr<T>(work: () => Promise<T>): Promise<T | BackupError> {
  try {
    return await work();
  } catch (error) {
    if (!isBackupError(error, 'object-damaged')) throw error;
    return error;
  }
}

function altered({ key }: WalObject): BackupError {
  return new BackupError(
    'object-damaged',
    `${key} is damaged: its plain bytes do not have the SHA-256 they were archived with`,
    {
      hint: 'walkeep audit CLUSTER --repair sends it again from an instance that still has it; nothing of it was used',
    },
  );
}

/**
 * The first bytes of a WAL file, without reading the rest; fewer when it is shorter.
 *
 * @throws BackupError as `readWal`
 */
export async function readWalHead(
  r: Repository,
  object: WalObject,
  bytes: number,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const source = await r.store.get(object.key, { signal });
  if (source === undefined) throw vanished(object);
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of decompress(object.codec, source, { signal, name: object.key })) {
    chunks.push(chunk);
    sizeBytes += chunk.length;
    if (sizeBytes >= bytes) break;
  }
  return Buffer.concat(chunks).subarray(0, bytes);
}

function vanished({ key }: WalObject): BackupError {
  return new BackupError('object-missing', `${key} was there a moment ago and is gone`, {
    hint: 'something else deletes from this archive: a retention of barman-cloud or CNPG?',
  });
}

/**
 * Stores a WAL file, compressed already, where nothing of that key is. Other suffixes are the caller's to look up
 * before (`findWal`): one object a name.
 *
 * @throws BackupError `already-exists`, whatever the bytes there are; what the store throws
 */
export async function putWal(
  r: Repository,
  fileName: string,
  stored: Uint8Array,
  codec: Codec,
  { digest, ...options }: PutWalOptions,
): Promise<Put> {
  const key = walKey(r.server, fileName, codec);
  const metadata = digest && digestMetadata(r, digest);
  const conditions = { ifAbsent: true, sizeBytes: stored.length };
  return r.store.put(key, stored, { ...options, ...conditions, ...(metadata && { metadata }) });
}

export interface PutWalOptions extends Omit<PutOptions, 'ifAbsent' | 'sizeBytes' | 'metadata'> {
  /** Of the plain bytes, to be recorded with the object where the store can; `writeDigest` does it elsewhere. */
  readonly digest?: Digest;
}

export interface ListWalOptions {
  /** The first folder (16 digits, such as `0000000100000003`) to list; those before it are passed over. */
  readonly fromFolder?: string;
  /** Leave out the history files. */
  readonly withoutHistories?: boolean;
  /** Told of every key or folder that is no WAL file; otherwise they are passed over. */
  readonly onForeign?: (key: string) => void;
}

/**
 * All WAL files of the archive: the history files, then folder by folder in the order of names (which is that of
 * timelines, and on a timeline that of the WAL). Any failing page makes the iteration throw.
 */
export async function* listWal(
  r: Repository,
  signal: AbortSignal,
  options: ListWalOptions = {},
): AsyncGenerator<WalObject, void, void> {
  const folders = await walFolders(r, signal, options.onForeign);
  if (!options.withoutHistories) yield* listHistories(r, folders, signal);
  for (const folder of folders) {
    if (options.fromFolder !== undefined && folder < options.fromFolder) continue;
    for await (const object of r.store.list(`${walPrefix(r.server)}${folder}/`, { signal })) {
      const wal = parseWalObject(r, object);
      if (wal) yield wal;
      else options.onForeign?.(object.key);
    }
  }
}

const MAX_HISTORY_BYTES = 1024 * 1024;

/**
 * Where each timeline of the archive left its ancestors, by timeline. The first timeline has no history.
 *
 * @param onProblem told of a history that can't be read, which is then left out; without it that is thrown
 * @throws BackupError `object-damaged` | `format-invalid` naming the history; what the store throws
 */
export async function readHistories(
  r: Repository,
  signal: AbortSignal,
  onProblem?: (fileName: string, error: BackupError) => void,
): Promise<Map<number, TimelineSwitch[]>> {
  const histories = new Map<number, TimelineSwitch[]>();
  const texts = new Map<number, string>();
  for await (const object of listHistories(r, await walFolders(r, signal), signal)) {
    if (object.file.kind !== 'history') continue;
    const { timeline } = object.file;
    try {
      const text = Buffer.from(await readWal(r, object, MAX_HISTORY_BYTES, signal)).toString('utf8');
      if ((texts.get(timeline) ?? text) !== text) throw contradicting(object);
      texts.set(timeline, text);
      histories.set(timeline, switchesOf(object, timeline, text));
    } catch (error) {
      if (!onProblem || !isBackupError(error, 'object-damaged', 'format-invalid')) throw error;
      onProblem(object.fileName, error);
    }
  }
  return histories;
}

function contradicting({ key, fileName }: WalObject): BackupError {
  return new BackupError(
    'object-damaged',
    `${key} and another object of ${fileName} have different contents`,
    {
      hint: 'find out which one is right, and move the other one out of the archive',
    },
  );
}

function switchesOf({ key }: WalObject, timeline: number, text: string): TimelineSwitch[] {
  try {
    const switches = parseHistory(text);
    const last = switches.at(-1);
    if (last === undefined) throw new BackupError('format-invalid', 'it is empty');
    if (last.timeline >= timeline)
      throw new BackupError('format-invalid', `it ends with timeline ${last.timeline}`);
    return switches;
  } catch (cause) {
    throw new BackupError(
      'object-damaged',
      `${key} is not the history of timeline ${timeline}: ${messageOf(cause)}`,
      {
        cause,
      },
    );
  }
}
