/** A scripted HTTP proxy in front of an S3 server: it answers by itself as it is told, and passes everything else on. */
import { createServer, request as ask, type IncomingMessage, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { onCleanUp } from '../support/cleanup.ts';

/** What the way to the store is like. */
export interface Climate {
  /** Share of the requests that are answered with 503 or 429 instead, 0 to 1. */
  readonly refused?: number;
  /** Share of the answers whose connection is reset in the middle. */
  readonly reset?: number;
  /** From the request with this number on all are answered with 400 ExpiredToken; 0: at once. */
  readonly expiresAfter?: number;
  /** Milliseconds before an upload is passed on. */
  readonly uploadDelayMs?: number;
  /** Uploads whose path contains this are answered with 200 and an error in the body, and not passed on. */
  readonly swallows?: string;
  /** Whether such an answer has an ETag, as that of a success has. */
  readonly withETag?: boolean;
}

export interface Weather {
  /** Instead of the store's. */
  readonly url: string;
  become(climate: Climate): void;
  /** Requests since the last `become`: all, and those that were answered here. */
  counts(): { readonly asked: number; readonly refused: number; readonly reset: number };
}

/** @param seed of the choices: the same requests meet the same fate */
export async function startWeather(
  storeUrl: string,
  { seed = 19 }: { seed?: number } = {},
): Promise<Weather> {
  const store = new URL(storeUrl);
  const random = randomFrom(seed);
  let climate: Climate = {};
  const counts = { asked: 0, refused: 0, reset: 0 };

  const serve = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    counts.asked += 1;
    const { refused = 0, reset = 0, expiresAfter = Infinity, uploadDelayMs = 0 } = climate;
    const { swallows, withETag = false } = climate;
    if (swallows !== undefined && incoming.method === 'PUT' && incoming.url?.includes(swallows) === true)
      return answer(incoming, outgoing, 200, 'InternalError', withETag ? { etag: '"0"' } : {});
    if (counts.asked > expiresAfter) return answer(incoming, outgoing, 400, 'ExpiredToken');
    if (random() < refused) {
      counts.refused += 1;
      const isBusy = random() < 0.5;
      return answer(incoming, outgoing, isBusy ? 503 : 429, isBusy ? 'SlowDown' : 'TooManyRequests');
    }
    const isReset = random() < reset;
    if (isReset) counts.reset += 1;
    if (incoming.method === 'PUT' && uploadDelayMs > 0) await sleep(uploadDelayMs);
    pass(incoming, outgoing, isReset);
  };
  const pass = (incoming: IncomingMessage, outgoing: ServerResponse, isReset: boolean): void => {
    const { method, url: path, headers } = incoming;
    // It was answered here already. Everything that is signed, the host's name too, stays as it came.
    const { expect: _, ...passed } = headers;
    const upstream = ask(
      { host: store.hostname, port: store.port, method, path, headers: passed },
      (answered) => {
        outgoing.writeHead(answered.statusCode ?? 502, answered.rawHeaders);
        if (isReset) {
          // Half of what was announced, and then nothing more.
          const half = Number(answered.headers['content-length'] ?? 0) / 2;
          let came = 0;
          answered.on('data', (piece: Buffer) => {
            outgoing.write(piece);
            came += piece.length;
            if (came >= half) outgoing.socket?.resetAndDestroy();
          });
          answered.on('end', () => outgoing.socket?.resetAndDestroy());
        } else answered.pipe(outgoing);
        answered.on('error', () => outgoing.destroy());
      },
    );
    upstream.on('error', () => outgoing.destroy());
    outgoing.on('close', () => upstream.destroy());
    incoming.on('error', () => upstream.destroy());
    incoming.pipe(upstream);
  };

  const server = createServer((incoming, outgoing) => {
    outgoing.on('error', () => undefined);
    serve(incoming, outgoing).catch(() => outgoing.destroy());
  });
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  onCleanUp(async () => {
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port was given');
  return {
    url: `http://127.0.0.1:${address.port}`,
    become(next) {
      climate = next;
      Object.assign(counts, { asked: 0, refused: 0, reset: 0 });
    },
    counts: () => ({ ...counts }),
  };
}

function answer(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  status: number,
  code: string,
  headers: Record<string, string> = {},
): void {
  incoming.resume();
  const body = `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code><Message>scripted</Message></Error>`;
  outgoing.writeHead(status, { 'content-type': 'application/xml', connection: 'close', ...headers });
  outgoing.end(incoming.method === 'HEAD' ? undefined : body);
}

/** Numbers from 0 to 1 that are the same every time. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
