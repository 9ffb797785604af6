import { parentPort, workerData } from 'node:worker_threads';
import { joinThrottle } from '../../streams/throttle.ts';

/** Takes piece after piece, and says after each how many bytes have passed. */
const { memory, piece } = workerData as { memory: SharedArrayBuffer; piece: number };
const throttle = joinThrottle(memory);
const never = new AbortController().signal;
for (let passed = piece; ; passed += piece) {
  await throttle.take(piece, never);
  parentPort?.postMessage(passed);
}
