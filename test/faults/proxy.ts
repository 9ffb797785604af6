import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { onCleanUp } from '../support/cleanup.ts';

/** A way to a server on 127.0.0.1 that breaks as it is told. */
export interface Proxy {
  /** Instead of the server's. */
  readonly url: string;
  /** Resets a connection after so many bytes of it in that direction, and so many connections. */
  resetAfter(bytes: number, direction: 'sent' | 'received', connections: number): void;
  /** How many connections were reset. */
  resets(): number;
  /** Bytes that may come back in a second, over all connections; without a number as many as can. */
  limit(bytesPerSecond?: number): void;
}

interface Plan {
  readonly bytes: number;
  readonly direction: 'sent' | 'received';
  left: number;
}

export async function startProxy(serverUrl: string): Promise<Proxy> {
  const { hostname, port } = new URL(serverUrl);
  const sockets = new Set<Socket>();
  let plan: Plan | undefined;
  let resets = 0;
  let rate: number | undefined;
  /** When the next byte may pass, in ms. */
  let freeAt = 0;

  const pass = async (from: Socket, to: Socket, direction: Plan['direction']): Promise<void> => {
    let passed = 0;
    for await (const piece of from as AsyncIterable<Buffer>) {
      passed += piece.length;
      if (plan && plan.direction === direction && plan.left > 0 && passed > plan.bytes) {
        plan.left -= 1;
        resets += 1;
        for (const socket of [from, to]) socket.resetAndDestroy();
        return;
      }
      if (rate !== undefined && direction === 'received') await slowly(piece, to);
      else if (!to.write(piece)) await new Promise((done) => to.once('drain', done).once('close', done));
    }
    to.end();
  };
  const slowly = async (piece: Buffer, to: Socket): Promise<void> => {
    for (let at = 0; at < piece.length; at += 16_384) {
      const some = piece.subarray(at, at + 16_384);
      const now = performance.now();
      freeAt = Math.max(now, freeAt) + (rate === undefined ? 0 : (some.length / rate) * 1000);
      while (rate !== undefined && freeAt > performance.now())
        await sleep(Math.max(1, Math.min(50, freeAt - performance.now())));
      to.write(some);
    }
  };
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => undefined).once('close', () => sockets.delete(socket));
    }
    const end = () => [client, upstream].forEach((socket) => socket.destroy());
    pass(client, upstream, 'sent').catch(end);
    pass(upstream, client, 'received').catch(end);
  });
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  onCleanUp(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((done) => server.close(done));
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port was given');
  return {
    url: `http://127.0.0.1:${address.port}`,
    resetAfter: (bytes, direction, connections) => void (plan = { bytes, direction, left: connections }),
    resets: () => resets,
    limit: (bytesPerSecond) => void (rate = bytesPerSecond),
  };
}
