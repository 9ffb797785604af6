import { parentPort, workerData } from 'node:worker_threads';
import { BackupError } from '../core/errors.ts';
import { openStore } from '../stores/open-store.ts';
import { fromPlain } from '../stores/store-config.ts';
import { toFailure } from './backup-messages.ts';
import type { FromRestoreThread, RestoreThreadData, ToRestoreThread } from './restore-pool.ts';
import { unpackPart } from './unpack-part.ts';

const PROGRESS_INTERVAL_MS = 200;

/** Unpacks part after part, until it is told to end or to abort. */
function serve(port: NonNullable<typeof parentPort>, data: RestoreThreadData): void {
  const store = openStore(fromPlain(data.store));
  const aborted = new AbortController();
  const send = (message: FromRestoreThread) => port.postMessage(message);
  port.on('message', (message: ToRestoreThread) => {
    if (message.kind === 'abort')
      aborted.abort(new BackupError('restore-interrupted', 'the restore was given up'));
    if (message.kind === 'end') {
      port.close();
      void store.close();
    }
    if (message.kind === 'part') {
      unpackPart(store, message.task, { signal: aborted.signal, onProgress: atIntervals(send) }).then(
        (part) => send({ kind: 'unpacked', part }),
        (error: unknown) => send({ kind: 'failed', failure: toFailure(error) }),
      );
    }
  });
}

function atIntervals(send: (message: FromRestoreThread) => void): (storedBytes: number) => void {
  let last = 0;
  return (storedBytes) => {
    const now = performance.now();
    if (now - last < PROGRESS_INTERVAL_MS) return;
    last = now;
    send({ kind: 'progress', storedBytes });
  };
}

if (!parentPort) throw new Error('this program runs in a worker thread');
serve(parentPort, workerData as RestoreThreadData);
