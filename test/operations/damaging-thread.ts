/** A thread of a backup whose codec turns a bit of each stream. */
import { parentPort, workerData } from 'node:worker_threads';
import type { ThreadData } from '../../operations/backup-messages.ts';
import { servePipeline } from '../../operations/backup-pipeline.ts';
import { damagingCodec } from './damaging-codec.ts';

if (!parentPort) throw new Error('this program runs in a worker thread');
servePipeline(parentPort, workerData as ThreadData, damagingCodec({ at: 10_000 }));
