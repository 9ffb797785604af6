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
  /** Bytes that may come back in a second, over all connections; without a number as many as can. `both`: and as many sent. */
  limit(bytesPerSecond?: number, both?: boolean): void;
  /** On every connection so many bytes pass in that direction, and then nothing more, without a word. */
  stallAfter(bytes: number, direction: 'sent' | 'received'): void;
  /** What stalls is reset, and all that comes passes. */
  heal(): void;
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
  let isLimitedBothWays = false;
  /** When the next byte may pass in each direction, in ms. */
  const freeAt = { sent: 0, received: 0 };
  let stall: Omit<Plan, 'left'> | undefined;

  const pass = async (from: Socket, to: Socket, direction: Plan['direction']): Promise<void> => {
    let passed = 0;
    for await (const whole of from as AsyncIterable<Buffer>) {
      const room = stall?.direction === direction ? Math.max(0, stall.bytes - passed) : whole.length;
      const piece = whole.subarray(0, room);
      passed += whole.length;
      // Nothing more is read or said on this connection, which stays.
      if (piece.length < whole.length) {
        if (piece.length > 0) to.write(piece);
        await new Promise((done) => from.once('close', done));
        return;
      }
      if (plan && plan.direction === direction && plan.left > 0 && passed > plan.bytes) {
        plan.left -= 1;
        resets += 1;
        for (const socket of [from, to]) socket.resetAndDestroy();
        return;
      }
      if (rate !== undefined && (direction === 'received' || isLimitedBothWays))
        await slowly(piece, to, direction);
      else if (!to.write(piece)) await new Promise((done) => to.once('drain', done).once('close', done));
    }
    to.end();
  };
  const slowly = async (piece: Buffer, to: Socket, direction: Plan['direction']): Promise<void> => {
    for (let at = 0; at < piece.length; at += 16_384) {
      const some = piece.subarray(at, at + 16_384);
      const now = performance.now();
      freeAt[direction] =
        Math.max(now, freeAt[direction]) + (rate === undefined ? 0 : (some.length / rate) * 1000);
      while (rate !== undefined && freeAt[direction] > performance.now())
        await sleep(Math.max(1, Math.min(50, freeAt[direction] - performance.now())));
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
    limit(bytesPerSecond, both = false) {
      rate = bytesPerSecond;
      isLimitedBothWays = both;
    },
    stallAfter: (bytes, direction) => void (stall = { bytes, direction }),
    heal() {
      stall = undefined;
      for (const socket of sockets) socket.resetAndDestroy();
    },
  };
}
