import { setPriority } from 'node:os';
import type { MessagePort } from 'node:worker_threads';
import { BackupError } from '../core/errors.ts';
import { openStore } from '../stores/open-store.ts';
import { fromPlain } from '../stores/store-config.ts';
import type { Compress } from '../streams/proof.ts';
import { joinThrottle } from '../streams/throttle.ts';
import { writePart, type PartProgress } from './backup-part.ts';
import { toFailure, type FromThread, type ThreadData, type ToThread } from './backup-messages.ts';

const PROGRESS_INTERVAL_MS = 250;

/**
 * One pipeline, which a worker thread is: takes part after part, until it is told to end or to abort.
 *
 * @param compress of the parts, by default ours
 */
export function servePipeline(port: MessagePort, data: ThreadData, compress?: Compress): void {
  giveWay(data.nice);
  const store = openStore(fromPlain(data.store));
  const throttle = data.throttle && joinThrottle(data.throttle);
  const aborted = new AbortController();
  const send = (message: FromThread) => port.postMessage(message);
  const end = async () => {
    await store.close().catch(() => {});
    send({ kind: 'ended' });
    port.close();
  };

  port.on('message', (message: ToThread) => {
    if (message.kind === 'end') void end();
    if (message.kind === 'abort') aborted.abort(new BackupError('backup-interrupted', message.reason));
    if (message.kind === 'part') {
      const onProgress = atIntervals(send);
      writePart(store, message.task, {
        signal: aborted.signal,
        onProgress,
        ...(throttle && { throttle }),
        ...(compress && { compress }),
      }).then(
        (part) => send({ kind: 'written', part }),
        (error: unknown) => send({ kind: 'failed', failure: toFailure(error) }),
      );
    }
  });
}

/** Linux keeps niceness a thread: 0 is this one, and it ends with the backup. */
function giveWay(nice: number | undefined): void {
  if (!nice) return;
  try {
    setPriority(0, nice);
  } catch {
    // Politeness only: what the host does not allow is done without.
  }
}

function atIntervals(send: (message: FromThread) => void): (progress: PartProgress) => void {
  let last = 0;
  return (progress) => {
    const now = performance.now();
    if (now - last < PROGRESS_INTERVAL_MS) return;
    last = now;
    send({ kind: 'progress', ...progress });
  };
}
