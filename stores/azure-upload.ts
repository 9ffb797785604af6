import { createHash, randomBytes } from 'node:crypto';
import { BackupError, isBackupError } from '../core/errors.ts';
import { abortable } from '../streams/abortable.ts';
import { release } from '../streams/chunks.ts';
import { odd } from './azure-client.ts';
import type { AzureConnection } from './azure-client.ts';
import { BLOCKS_GONE, isFailure } from './azure-errors.ts';
import type { PutOptions } from './object-store.ts';

/** Where an object goes: the whole name in the container, and its address for messages. */
export interface AzureTarget {
  readonly name: string;
  readonly address: string;
}

/** Who made the object at a target: this very put, or another one; `nobody` also when that can't be found out. */
export type Whose = 'ours' | 'another' | 'nobody';

/** What a new object is given beside its bytes. */
export interface AzureAttributes {
  readonly metadata: Record<string, string>;
  readonly tags?: Record<string, string>;
  readonly encryptionScope?: string;
}

const MiB = 1024 * 1024;
/** Bodies up to here go in one request: a segment of WAL does. Of larger ones this much is the first block. */
export const WHOLE_BYTES = 16 * MiB;
const BLOCK_BYTES = 8 * MiB;
const BYTES_AT_ONCE = 2 * BLOCK_BYTES;
const LONGEST_BLOCK_LIST = 50_000;

/**
 * The size of the next block. Azure takes 50 000 blocks of at most 4000 MiB: of a body of unknown size the blocks grow
 * with what has been sent (beyond 86 GiB), so that 2 TiB fit and no more than a block in 11 000 is held in memory.
 */
export function blockBytes(sentBytes: number, sizeBytes?: number): number {
  const needed = sizeBytes === undefined ? sentBytes / 11_000 : sizeBytes / LONGEST_BLOCK_LIST;
  const least = sentBytes === 0 ? WHOLE_BYTES : BLOCK_BYTES;
  return Math.max(least, Math.ceil(needed / MiB) * MiB);
}

/** For the store to compare with what came. The checksum that is quicker (CRC64) is one that few servers know. */
export const md5Of = (bytes: Uint8Array): Buffer => createHash('md5').update(bytes).digest();

/**
 * Stages `blocks`, at most 16 MiB at once (or one that is larger), and then makes one object of them all, in one
 * request. Until then there is nothing at the target; blocks that were staged and never used are seen by nobody, can't be
 * removed, and are dropped by Azure after a week, or when another object is put there.
 *
 * Their ids begin with random bytes: blocks belong to a name, and two writers of one name would mix theirs.
 *
 * @param whose the object is that is at the target; asked when the answer to its completion was lost or odd
 */
export async function uploadBlocks(
  connection: AzureConnection,
  target: AzureTarget,
  blocks: AsyncIterable<Uint8Array>,
  options: PutOptions & { readonly attributes: AzureAttributes; readonly whose: () => Promise<Whose> },
): Promise<{ sizeBytes: number }> {
  const { signal } = options;
  const upload = randomBytes(16).toString('hex');
  const idOf = (number: number) =>
    Buffer.from(`${upload}-${String(number).padStart(5, '0')}`).toString('base64');
  const stage = (number: number, body: Uint8Array, stop: AbortSignal) =>
    stageBlock(connection, target, { number, id: idOf(number), body }, options.attributes, stop);
  const sent = await sendTogether(blocks, stage, signal);
  const ids = Array.from({ length: sent.count }, (_, at) => idOf(at + 1));
  await commit(connection, target, ids, options);
  return { sizeBytes: sent.sizeBytes };
}

async function sendTogether(
  blocks: AsyncIterable<Uint8Array>,
  send: (number: number, body: Uint8Array, stop: AbortSignal) => Promise<void>,
  signal: AbortSignal,
): Promise<{ count: number; sizeBytes: number }> {
  // one that fails stops the others
  const stop = new AbortController();
  const onAbort = () => stop.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  const inFlight = new Set<Promise<void>>();
  let flyingBytes = 0;
  let sizeBytes = 0;
  let count = 0;
  let failure: { error: unknown } | undefined;

  const begin = (body: Uint8Array) => {
    flyingBytes += body.length;
    sizeBytes += body.length;
    const sentBytes = body.length;
    const sending = send(++count, body, stop.signal)
      // Only now: of a call that failed, the socket may still be sending.
      .then(() => release(body))
      .catch((error: unknown) => {
        failure ??= { error };
        stop.abort(error);
      })
      .finally(() => {
        flyingBytes -= sentBytes;
        inFlight.delete(sending);
      });
    inFlight.add(sending);
  };

  try {
    // a failure also ends the wait for a source that is slow
    for await (const body of abortable(blocks, stop.signal)) {
      while (inFlight.size > 0 && flyingBytes + body.length > BYTES_AT_ONCE) {
        await Promise.race(inFlight);
      }
      stop.signal.throwIfAborted();
      begin(body);
    }
    await Promise.all(inFlight);
  } finally {
    stop.abort(signal.reason);
    await Promise.all(inFlight);
    signal.removeEventListener('abort', onAbort);
  }
  if (failure) throw failure.error;
  return { count, sizeBytes };
}

async function stageBlock(
  connection: AzureConnection,
  target: AzureTarget,
  block: { readonly number: number; readonly id: string; readonly body: Uint8Array },
  { encryptionScope }: AzureAttributes,
  signal: AbortSignal,
): Promise<void> {
  const { id, body } = block;
  const transactionalContentMD5 = md5Of(body);
  await connection.call(
    `put block ${block.number} of ${target.address}`,
    { signal, sendsBytes: body.length },
    (container, sdk) =>
      container.getBlockBlobClient(target.name).stageBlock(id, body, body.length, {
        ...sdk,
        transactionalContentMD5,
        ...(encryptionScope === undefined ? {} : { encryptionScope }),
      }),
  );
}

async function commit(
  connection: AzureConnection,
  target: AzureTarget,
  ids: string[],
  options: PutOptions & { readonly attributes: AzureAttributes; readonly whose: () => Promise<Whose> },
): Promise<void> {
  const what = `put ${target.address}`;
  const { signal, ifAbsent = false, attributes } = options;
  const conditions = ifAbsent ? { conditions: { ifNoneMatch: '*' } } : {};
  try {
    const answer = await connection.call(what, { signal, completes: true }, (container, sdk) =>
      container
        .getBlockBlobClient(target.name)
        .commitBlockList(ids, { ...sdk, ...attributes, ...conditions }),
    );
    if (answer.etag === undefined) throw odd(what, 'the answer to its completion has no ETag');
  } catch (error) {
    if (signal.aborted) throw error;
    // a completion that was carried out may be refused the second time, and its first answer may be lost
    if (!isBackupError(error) || isBackupError(error, 'access-denied')) throw error;
    const whose = await options.whose();
    if (whose === 'ours') return;
    // whoever puts an object there makes the store drop our blocks
    if (!ifAbsent || whose !== 'another' || !isFailure(error, BLOCKS_GONE)) throw error;
    throw new BackupError('already-exists', `${what} failed: another was put there meanwhile`);
  }
}
