import { Worker } from 'node:worker_threads';
import { BackupError } from '../core/errors.ts';
import type { ObjectStore } from '../stores/object-store.ts';
import { toPlain, type PlainStoreConfig, type StoreConfig } from '../stores/store-config.ts';
import { fromFailure, type PlainFailure } from './backup-messages.ts';
import type { UnpackedPart } from './part-writer.ts';
import { unpackPart, type UnpackTask } from './unpack-part.ts';

export interface RestoreThreadData {
  readonly store: PlainStoreConfig;
}

export type ToRestoreThread =
  | { readonly kind: 'part'; readonly task: UnpackTask }
  | { readonly kind: 'abort' }
  | { readonly kind: 'end' };

export type FromRestoreThread =
  | { readonly kind: 'progress'; readonly storedBytes: number }
  | { readonly kind: 'unpacked'; readonly part: UnpackedPart }
  | { readonly kind: 'failed'; readonly failure: PlainFailure };

export interface UnpackPoolOptions {
  /** Threads side by side. */
  readonly jobs: number;
  /** Every thread opens it for itself. Without it all is done here, one part after another. */
  readonly store: StoreConfig | undefined;
  readonly openStore: ObjectStore;
  readonly signal: AbortSignal;
  /** Stored bytes read, of all parts together. */
  readonly onProgress: (storedBytes: number) => void;
}

/** How long a thread may take to stop before it is ended by force. */
const STOP_DEADLINE_MS = 10_000;

/**
 * Unpacks all parts, each in a worker thread, so that this thread stays free. The first failure, or `signal`, stops
 * all others; when this returns or throws, no thread is left.
 *
 * @returns in the order of `tasks`
 */
export async function unpackParts(
  tasks: readonly UnpackTask[],
  options: UnpackPoolOptions,
): Promise<UnpackedPart[]> {
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const progress = new Map<number, number>();
  const unpacked: UnpackedPart[] = [];
  // The largest first: a long one that begins last would be waited for alone.
  const order = tasks
    .map((_, index) => index)
    .toSorted((a, b) => (tasks[b] as UnpackTask).sizeBytes - (tasks[a] as UnpackTask).sizeBytes);

  const pipeline = async () => {
    const worker =
      options.store === undefined
        ? inThisThread(options.openStore, signal)
        : startThread(options.store, signal);
    try {
      for (let index = order.shift(); index !== undefined; index = order.shift()) {
        const at = index;
        signal.throwIfAborted();
        const onProgress = (storedBytes: number) => {
          progress.set(at, storedBytes);
          options.onProgress([...progress.values()].reduce((sum, bytes) => sum + bytes, 0));
        };
        unpacked[at] = await worker.unpack(tasks[at] as UnpackTask, onProgress);
        onProgress((tasks[at] as UnpackTask).sizeBytes);
      }
    } catch (error) {
      // What follows in the other threads is only the echo of this.
      stop.abort(error);
    } finally {
      await worker.end();
    }
  };

  const count = options.store === undefined ? 1 : Math.max(1, Math.min(options.jobs, tasks.length));
  await Promise.all(Array.from({ length: count }, pipeline));
  if (signal.aborted) throw signal.reason;
  return unpacked;
}

interface Unpacker {
  unpack(task: UnpackTask, onProgress: (storedBytes: number) => void): Promise<UnpackedPart>;
  end(): Promise<void>;
}

function inThisThread(store: ObjectStore, signal: AbortSignal): Unpacker {
  return {
    unpack: (task, onProgress) => unpackPart(store, task, { signal, onProgress }),
    end: async () => {},
  };
}

function startThread(store: StoreConfig, signal: AbortSignal): Unpacker {
  const data: RestoreThreadData = { store: toPlain(store) };
  const worker = new Worker(threadFile(), { workerData: data });
  const send = (message: ToRestoreThread) => worker.postMessage(message);
  const gone = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
  let pending: { resolve(part: UnpackedPart): void; reject(error: unknown): void } | undefined;
  let onProgress: (storedBytes: number) => void = () => {};
  let dead: unknown;
  const fail = (error: unknown) => {
    dead ??= error;
    pending?.reject(error);
  };
  worker.on('error', fail);
  worker.on('exit', (code) =>
    fail(new BackupError('restore-interrupted', `a thread of the restore ended with ${code}`)),
  );
  worker.on('message', (message: FromRestoreThread) => {
    if (message.kind === 'progress') onProgress(message.storedBytes);
    if (message.kind === 'unpacked') pending?.resolve(message.part);
    if (message.kind === 'failed') pending?.reject(fromFailure(message.failure));
  });
  let timer: NodeJS.Timeout | undefined;
  const abort = () => {
    send({ kind: 'abort' });
    timer = setTimeout(() => void worker.terminate(), STOP_DEADLINE_MS);
  };
  signal.addEventListener('abort', abort, { once: true });

  return {
    async unpack(task, listener) {
      if (dead !== undefined) throw dead;
      onProgress = listener;
      try {
        return await new Promise<UnpackedPart>((resolve, reject) => {
          pending = { resolve, reject };
          send({ kind: 'part', task });
        });
      } finally {
        pending = undefined;
      }
    },
    async end() {
      signal.removeEventListener('abort', abort);
      send({ kind: 'end' });
      timer ??= setTimeout(() => void worker.terminate(), STOP_DEADLINE_MS);
      await gone;
      clearTimeout(timer);
    },
  };
}

/** The thread's program: source in development, compiled otherwise (a path in a string is not rewritten). */
function threadFile(): URL {
  return new URL(
    import.meta.url.endsWith('.ts') ? './restore-thread.ts' : './restore-thread.js',
    import.meta.url,
  );
}
