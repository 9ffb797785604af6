import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { TarReader } from '../repository/tar.ts';
import type { ObjectStore } from '../stores/object-store.ts';
import { decompress, type Codec } from '../streams/codec.ts';
import { digesting } from '../streams/digest.ts';
import { PartWriter, type PartPlace, type UnpackedPart } from './part-writer.ts';

/** What walkeep noted about a part when it was taken; backups of other tools have none. */
export interface ExpectedPart {
  readonly plainBytes: number;
  readonly plainSha256: string;
  readonly storedBytes: number;
  readonly storedSha256: string;
}

/** All that a worker thread needs to unpack one part; plain data. */
export interface UnpackTask extends PartPlace {
  readonly key: string;
  readonly codec: Codec;
  /** As listed. */
  readonly sizeBytes: number;
  readonly expected?: ExpectedPart | undefined;
}

export interface UnpackOptions {
  readonly signal: AbortSignal;
  /** Stored bytes read so far; it goes back when a part is begun again. */
  readonly onProgress: (storedBytes: number) => void;
}

/** What the file system says to members that can't be there together, or whose names are too long below the target. */
const NOT_WRITABLE = new Set(['EEXIST', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENAMETOOLONG', 'ENXIO', 'EINVAL']);
const ATTEMPTS = 4;
const FIRST_WAIT_MS = 500;

/**
 * Downloads, checks, decompresses and unpacks one part, in constant memory. When the store fails in the middle, the
 * part is read again from the beginning and overwrites what it had written.
 *
 * @throws BackupError `object-damaged` when anything differs from the record, or the tar is damaged or hostile;
 *   `disk-full` and `config-invalid` when this host can't hold it, which says nothing about the part; what the store throws
 */
export async function unpackPart(
  store: ObjectStore,
  task: UnpackTask,
  options: UnpackOptions,
): Promise<UnpackedPart> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await tryPart(store, task, options);
    } catch (error) {
      options.signal.throwIfAborted();
      if (isBackupError(error, 'object-damaged')) throw unusable(error, task);
      if (attempt === ATTEMPTS || !isBackupError(error, 'store-unavailable')) throw error;
      await sleep(FIRST_WAIT_MS * 4 ** (attempt - 1), undefined, { signal: options.signal });
    }
  }
}

async function tryPart(
  store: ObjectStore,
  task: UnpackTask,
  { signal, onProgress }: UnpackOptions,
): Promise<UnpackedPart> {
  const body = await store.get(task.key, { signal });
  if (body === undefined)
    throw new BackupError('object-missing', `${task.key} is not in the repository any more`);
  let read = 0;
  async function* counted(source: AsyncIterable<Uint8Array>) {
    for await (const piece of source) {
      read += piece.length;
      onProgress(read);
      yield piece;
    }
  }
  const stored = digesting(counted(body));
  const plain = digesting(decompress(task.codec, stored.bytes, { signal, name: task.key }));
  const writer = new PartWriter(task);
  const tar = new TarReader(
    {
      member: (entry) => writer.member(entry),
      data: (chunk) => writer.data(chunk),
      memberEnd: () => writer.memberEnd(),
      hole: (length) => writer.hole(length),
      skipped: (path, why) => writer.leftOut(path, why),
    },
    // Without a record nothing says how much there is, least of all the room here: it is sparse, or is compressed again.
    task.expected ? { maxTotalBytes: task.expected.plainBytes } : {},
  );
  const mostBytes = task.expected?.plainBytes ?? Number.POSITIVE_INFINITY;
  let plainBytes = 0;
  try {
    for await (const piece of plain.bytes) {
      plainBytes += piece.length;
      // not only at the end: of a few MiB may come more than any disk holds
      if (plainBytes > mostBytes)
        throw damaged(`it decompresses to more than the ${mostBytes} bytes that were recorded`);
      tar.write(piece);
    }
    tar.finish();
  } catch (error) {
    throw named(error, task);
  } finally {
    writer.close();
  }
  compare(task, 'stored', stored.result());
  compare(task, 'plain', plain.result());
  return writer.result();
}

const damaged = (message: string) => new BackupError('object-damaged', message);

function compare(
  task: UnpackTask,
  which: 'stored' | 'plain',
  found: { sha256: string; sizeBytes: number },
): void {
  const { expected } = task;
  if (expected === undefined) {
    if (which === 'plain' || found.sizeBytes === task.sizeBytes) return;
    throw new BackupError(
      'object-damaged',
      `${task.key}: ${found.sizeBytes} bytes came, ${task.sizeBytes} were listed`,
    );
  }
  const [bytes, sha256] =
    which === 'stored'
      ? [expected.storedBytes, expected.storedSha256]
      : [expected.plainBytes, expected.plainSha256];
  if (found.sizeBytes === bytes && found.sha256 === sha256) return;
  const what = which === 'stored' ? '' : ' decompressed';
  throw new BackupError(
    'object-damaged',
    `${task.key}${what} has ${found.sizeBytes} bytes with SHA-256 ${found.sha256.slice(0, 16)}…, recorded were ${bytes} with ${sha256.slice(0, 16)}…`,
  );
}

/** What was unpacked of it stays, and does not start: that has to be said, and what to do instead. */
function unusable({ code, message, cause }: BackupError, { directory }: UnpackTask): BackupError {
  return new BackupError(code, message, {
    cause,
    hint: `restore another backup (walkeep get backups, --backup-id ID) into another directory; what is in ${directory} does not start and can be removed`,
  });
}

function named(error: unknown, task: UnpackTask): unknown {
  if (isBackupError(error, 'object-damaged', 'not-yet') && !error.message.includes(task.key)) {
    return new BackupError(error.code, `${task.key}: ${error.message}`, { cause: error, hint: error.hint });
  }
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new BackupError('disk-full', `no room left for ${task.name} in ${task.directory}`, {
      cause: error,
      hint: 'make room there and run the same command again; it begins this backup anew in the same directory',
    });
  }
  if (code === 'EFBIG') {
    // It says something about this host alone: others take it, and what no host takes the reader has refused.
    return new BackupError(
      'config-invalid',
      `${task.key} holds a file larger than the file system of ${task.directory}, or this process (ulimit -f), may have one`,
      {
        cause: error,
        hint: 'choose a directory on another file system. A file of PostgreSQL has 1 GiB at most unless it was built otherwise: if yours was not, the tar is damaged',
      },
    );
  }
  if (typeof code === 'string' && NOT_WRITABLE.has(code)) {
    return new BackupError(
      'object-damaged',
      `${task.key}: a member can't be written below ${task.directory}: ${messageOf(error).slice(0, 300)}`,
      { cause: error },
    );
  }
  return error;
}
