import { parentPort, workerData } from 'node:worker_threads';
import { piecesOfSize, piecesOf, collectBytes } from '../../streams/chunks.ts';
import { compress, decompress } from '../../streams/codec.ts';
import { sha256 } from '../../streams/digest.ts';

const plain = Buffer.alloc(2_000_000, 'a page of a heap, again and again; ');
const signal = new AbortController().signal;
const packed = compress(workerData.codec, piecesOfSize(piecesOf(plain), 8192), { signal });
const back = await collectBytes(decompress(workerData.codec, packed, { signal }), plain.length);
parentPort?.postMessage(sha256(back) === sha256(plain) ? 'same' : 'different');
