import { Agent as PlainAgent } from 'node:http';
import { Agent as TlsAgent } from 'node:https';
import { Socket } from 'node:net';

/**
 * Connections that are kept and used again, and broken off with a `TimeoutError` when they can't be opened in time or
 * stand still, which the SDK itself does not notice.
 *
 * @param connectMs to open a connection, TLS included
 * @param idleMs without a byte in either direction
 * @param caPem certificates to trust instead of the system's
 */
export function createAgent(
  url: string,
  limits: { readonly connectMs: number; readonly idleMs: number; readonly caPem?: string },
): PlainAgent {
  const { connectMs, idleMs, caPem } = limits;
  const isTls = url.startsWith('https:');
  const agent = isTls
    ? new TlsAgent({ keepAlive: true, ...(caPem === undefined ? {} : { ca: caPem }) })
    : new PlainAgent({ keepAlive: true });

  const connect = agent.createConnection.bind(agent);
  agent.createConnection = (options, callback) => {
    const socket = connect(options, callback);
    if (socket instanceof Socket) limit(socket, isTls ? 'secureConnect' : 'connect', connectMs, idleMs);
    return socket;
  };
  const reuse = agent.reuseSocket.bind(agent);
  agent.reuseSocket = (socket, request) => {
    reuse(socket, request);
    // Node takes the limit off while a connection is free
    if (socket instanceof Socket) socket.setTimeout(idleMs);
  };
  return agent;
}

function limit(socket: Socket, opened: string, connectMs: number, idleMs: number): void {
  const breakOff = () => socket.destroy(Object.assign(new Error('no answer'), { code: 'TimeoutError' }));
  const timer = setTimeout(breakOff, connectMs);
  const stop = () => clearTimeout(timer);
  socket.once(opened, stop).once('close', stop);
  socket.setTimeout(idleMs).on('timeout', breakOff);
}
