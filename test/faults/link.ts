/** The TCP connection between a worker and its server, to be cut: with a reset, or so that nothing arrives any more. */
import { connect, createServer, type Socket } from 'node:net';
import { onCleanUp } from '../support/cleanup.ts';

export interface Link {
  readonly port: number;
  /** `reset`: as with a firewall that refuses · `silence`: connections stay, and nothing passes. */
  cut(how: 'reset' | 'silence'): void;
  /** What was connected through the cut is reset: whoever still waits learns it now. */
  mend(): void;
}

export async function startLink(serverPort: number): Promise<Link> {
  const pairs = new Set<readonly [Socket, Socket]>();
  let state: 'up' | 'reset' | 'silence' = 'up';
  const reset = (): void => {
    for (const socket of [...pairs].flat()) socket.resetAndDestroy();
  };
  const server = createServer((client) => {
    if (state === 'reset') return void client.resetAndDestroy();
    const upstream = connect(serverPort, '127.0.0.1');
    const pair = [client, upstream] as const;
    pairs.add(pair);
    for (const [from, to] of [pair, [upstream, client] as const]) {
      from.on('error', () => undefined);
      from.on('data', (piece) => {
        if (state !== 'silence') to.write(piece);
      });
      from.once('close', () => {
        // On a silent link nobody hears that the other one has left.
        if (state === 'silence') return;
        to.destroy();
        pairs.delete(pair);
      });
    }
  });
  await new Promise<void>((resolve, refuse) => server.once('error', refuse).listen(0, '127.0.0.1', resolve));
  onCleanUp(async () => {
    reset();
    await new Promise((done) => server.close(done));
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port was given');
  return {
    port: address.port,
    cut(how) {
      state = how;
      if (how === 'reset') reset();
    },
    mend() {
      reset();
      pairs.clear();
      state = 'up';
    },
  };
}
