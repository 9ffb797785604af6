import { Worker } from 'node:worker_threads';
import { BackupError } from '../core/errors.ts';
import { toPlain, type StoreConfig } from '../stores/store-config.ts';
import type { PartProgress, PartTask, WrittenPart } from './backup-part.ts';
import { fromFailure, type FromThread, type ThreadData, type ToThread } from './backup-messages.ts';

export interface PoolOptions {
  /** Threads that work side by side. */
  readonly jobs: number;
  readonly store: StoreConfig;
  readonly signal: AbortSignal;
  /** Memory of the throttle that all threads join. */
  readonly throttle?: SharedArrayBuffer;
  /** Niceness of the threads. */
  readonly nice?: number | undefined;
  /** What the threads run, by default `backup-thread.ts`. */
  readonly program?: URL | undefined;
  /** Of all parts together, at most four times a second and thread. */
  readonly onProgress: (progress: PartProgress) => void;
}

/** Small, so that pieces which were read and sent are given back soon: a quarter less memory, and no slower. */
const YOUNG_GENERATION_MB = 2;
/** How long a thread may take to abort its uploads before it is ended by force. */
const ABORT_DEADLINE_MS = 20_000;

/**
 * Writes all parts, `jobs` of them at a time, each in a worker thread, so that this thread stays free. The first
 * failure, or `signal`, aborts all others; when this returns or throws, no thread is left and no upload is open.
 *
 * @param tasks the longest first
 * @returns in the order of `tasks`
 */
export async function writeParts(tasks: readonly PartTask[], options: PoolOptions): Promise<WrittenPart[]> {
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const progress = new Map<number, PartProgress>();
  const written: WrittenPart[] = [];
  let next = 0;

  const pipeline = async () => {
    const thread = startThread(options, signal);
    try {
      while (next < tasks.length) {
        const index = next++;
        const part = await thread.write(tasks[index] as PartTask, (at) => {
          progress.set(index, at);
          options.onProgress(sum(progress.values()));
        });
        written[index] = part;
        progress.set(index, { contentBytes: part.contentBytes, storedBytes: part.storedBytes });
        options.onProgress(sum(progress.values()));
      }
    } catch (error) {
      // What follows in the other threads is only the echo of this.
      stop.abort(error);
      throw error;
    } finally {
      await thread.end();
    }
  };

  const pipelines = Array.from({ length: Math.max(1, Math.min(options.jobs, tasks.length)) }, pipeline);
  await Promise.allSettled(pipelines);
  if (signal.aborted) throw signal.reason;
  return written;
}

interface Thread {
  write(task: PartTask, onProgress: (progress: PartProgress) => void): Promise<WrittenPart>;
  end(): Promise<void>;
}

function startThread({ store, throttle, nice, program }: PoolOptions, signal: AbortSignal): Thread {
  const data: ThreadData = {
    store: toPlain(store),
    ...(throttle && { throttle }),
    ...(nice !== undefined && { nice }),
  };
  const worker = new Worker(program ?? threadFile(), {
    workerData: data,
    resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
  });
  const send = (message: ToThread) => worker.postMessage(message);
  let pending: { resolve(part: WrittenPart): void; reject(error: unknown): void } | undefined;
  let onProgress: (progress: PartProgress) => void = () => {};
  let dead: Error | undefined;
  const gone = new Promise<void>((resolve) => worker.once('exit', () => resolve()));

  const fail = (error: Error) => {
    dead ??= error;
    pending?.reject(error);
  };
  worker.on('error', fail);
  worker.on('exit', (code) =>
    fail(new BackupError('backup-interrupted', `a thread of the backup ended with ${code}`)),
  );
  worker.on('message', (message: FromThread) => {
    if (message.kind === 'progress') onProgress(message);
    if (message.kind === 'written') pending?.resolve(message.part);
    if (message.kind === 'failed') pending?.reject(fromFailure(message.failure));
  });
  const abort = () => send({ kind: 'abort', reason: 'the backup was given up' });
  signal.addEventListener('abort', abort, { once: true });

  return {
    async write(task, listener) {
      signal.throwIfAborted();
      if (dead) throw dead;
      onProgress = listener;
      const late = deadlineAfter(signal, () =>
        fail(new BackupError('backup-interrupted', 'a thread did not stop')),
      );
      try {
        return await new Promise<WrittenPart>((resolve, reject) => {
          pending = { resolve, reject };
          send({ kind: 'part', task });
        });
      } finally {
        pending = undefined;
        late.clear();
      }
    },
    async end() {
      signal.removeEventListener('abort', abort);
      send({ kind: 'end' });
      const timer = setTimeout(() => void worker.terminate(), dead ? 0 : 5_000);
      await gone;
      clearTimeout(timer);
    },
  };
}

/** Calls `action` some time after `signal` aborted, unless cleared before. */
function deadlineAfter(signal: AbortSignal, action: () => void): { clear(): void } {
  let timer: NodeJS.Timeout | undefined;
  const begin = () => {
    timer = setTimeout(action, ABORT_DEADLINE_MS);
  };
  if (signal.aborted) begin();
  else signal.addEventListener('abort', begin, { once: true });
  return {
    clear() {
      signal.removeEventListener('abort', begin);
      clearTimeout(timer);
    },
  };
}

function sum(all: Iterable<PartProgress>): PartProgress {
  let [contentBytes, storedBytes] = [0, 0];
  for (const one of all) {
    contentBytes += one.contentBytes;
    storedBytes += one.storedBytes;
  }
  return { contentBytes, storedBytes };
}

/** The thread's program: source in development, compiled otherwise (a path in a string is not rewritten). */
function threadFile(): URL {
  return new URL(
    import.meta.url.endsWith('.ts') ? './backup-thread.ts' : './backup-thread.js',
    import.meta.url,
  );
}
