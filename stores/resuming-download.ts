import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError, isBackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { failureOf } from './s3-errors.ts';

/** How often a body that breaks off is asked for again without a byte having come. */
const FRUITLESS_RESUMES = 4;

/** An answer whose body can be read once, or left. */
export interface DownloadAnswer {
  /** What it says it has; `undefined` when it does not say. */
  readonly sizeBytes: number | undefined;
  readonly body: AsyncIterable<Uint8Array | string> | undefined;
  /** Gives the body up, read or not. What breaks in it later is of no interest. */
  readonly discard: () => void;
}

/** Compares the bytes of a whole object with what the store knows of them. */
export interface BodyChecksum {
  update(piece: Uint8Array): void;
  /** Asked once, after the last piece. */
  isRight(): boolean;
}

export interface Download {
  /** The call and its object, for messages. */
  readonly what: string;
  readonly first: DownloadAnswer;
  /**
   * Asks for what is behind the first `came` bytes, of the same version only. Without it a body that breaks off is
   * given up: another version could be joined to the beginning of this one.
   */
  readonly resume: ((came: number, announced: number) => Promise<DownloadAnswer>) | undefined;
  readonly checksum?: BodyChecksum | undefined;
  /** A name for what broke a body, for messages. */
  readonly nameOf?: (error: unknown) => string;
  /** Without a byte, after which a body has stalled; in ms. */
  readonly idleMs: number;
  readonly signal: AbortSignal;
}

/**
 * The body of an answer: as many bytes as it announced, of one version. Where it breaks off or stalls it is asked for
 * again from there. The last bytes are given only when all are known to be right.
 *
 * @throws BackupError `object-damaged` when they are not, `object-missing` when the version is gone meanwhile,
 *   `store-unavailable`
 */
export async function* resumingDownload(download: Download): AsyncGenerator<Uint8Array, void, void> {
  const { what, first, resume, checksum, signal } = download;
  const announced = first.sizeBytes;
  if (announced === undefined) {
    first.discard();
    throw odd(what, 'the answer does not say its length');
  }
  let answer: DownloadAnswer | undefined = first;
  let last: Uint8Array | undefined;
  let came = 0;
  for (let fruitless = 0; came < announced || answer !== undefined; fruitless++) {
    try {
      answer ??= await requireRest(what, announced - came, resume?.(came, announced));
      for await (const piece of piecesOf(answer, download)) {
        came += piece.length;
        if (came > announced)
          throw new BackupError('object-damaged', `${what}: more came than ${announced} bytes`);
        checksum?.update(piece);
        fruitless = 0;
        // what wraps the body may say at its end that it is damaged
        if (came === announced) last = piece;
        else yield piece;
      }
      if (came < announced) throw odd(what, `it ended after ${came} of ${announced} bytes`);
      answer = undefined;
    } catch (error) {
      signal.throwIfAborted();
      const failure = toBodyError(error, download, `${came} of ${announced} bytes`);
      answer = undefined;
      if (failure.code === 'store-unavailable' && came === announced) break;
      if (failure.code !== 'store-unavailable' || fruitless >= FRUITLESS_RESUMES || resume === undefined)
        throw failure;
      await sleep(Math.random() * 100 * 2 ** fruitless, undefined, { signal });
    }
  }
  if (checksum?.isRight() === false) throw damaged(what);
  if (last !== undefined) yield last;
}

async function requireRest(
  what: string,
  expectedBytes: number,
  asking: Promise<DownloadAnswer> | undefined,
): Promise<DownloadAnswer> {
  const answer = await asking;
  if (answer?.sizeBytes === expectedBytes) return answer;
  answer?.discard();
  throw odd(what, 'it was resumed with another length');
}

/** The pieces of one answer; `TimeoutError` when nothing comes for a while. */
async function* piecesOf(
  { body, discard }: DownloadAnswer,
  { idleMs, signal }: Download,
): AsyncGenerator<Uint8Array, void, void> {
  if (body === undefined) return;
  const idle = new AbortController();
  const onAbort = () => idle.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  const iterator = body[Symbol.asyncIterator]();
  try {
    for (;;) {
      const timer = setTimeout(
        () => idle.abort(Object.assign(new Error('idle'), { name: 'TimeoutError' })),
        idleMs,
      );
      const step = await unlessAborted(iterator.next(), idle.signal).finally(() => clearTimeout(timer));
      if (step.done === true) return;
      yield typeof step.value === 'string' ? Buffer.from(step.value) : step.value;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    discard();
  }
}

function toBodyError(error: unknown, { what, nameOf }: Download, came: string): BackupError {
  // the condition on the version failed, or there is none any more
  if (isBackupError(error, 'already-exists', 'object-missing', 'bucket-missing')) {
    return new BackupError('object-missing', `${what} failed: it was replaced or removed while it was read`, {
      hint: 'whoever writes to this repository beside walkeep has to stop',
    });
  }
  if (isBackupError(error)) return error;
  // the SDK of S3 compares by itself, and has no code for a difference
  if (error instanceof Error && /checksum mismatch/i.test(error.message)) return damaged(what);
  return odd(what, `it broke off after ${came} (${nameOf?.(error) ?? failureOf(error).code})`);
}

const damaged = (what: string) =>
  new BackupError('object-damaged', `${what}: the bytes do not have the checksum they were stored with`);

/** An answer that came and makes no sense. */
const odd = (what: string, why: string) => new BackupError('store-unavailable', `${what} failed: ${why}`);
