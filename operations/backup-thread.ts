import { parentPort, workerData } from 'node:worker_threads';
import type { ThreadData } from './backup-messages.ts';
import { servePipeline } from './backup-pipeline.ts';

if (!parentPort) throw new Error('this program runs in a worker thread');
servePipeline(parentPort, workerData as ThreadData);
