import { Agent as PlainAgent } from 'node:http';
import { Agent as TlsAgent } from 'node:https';
import { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { proxiesOf } from './proxy.ts';

/**
 * Connections that are kept and used again, and broken off with a `TimeoutError` when they can't be opened in time or
 * stand still, which the SDK itself does not notice. They go through the proxy that the environment names.
 *
 * @param connectMs to open a connection, TLS included; to a proxy, and through it
 * @param idleMs without a byte in either direction
 * @param caPem certificates to trust instead of the system's
 * @throws BackupError `config-invalid` when the environment names a proxy that is none
 */
export function createAgent(
  url: string,
  limits: { readonly connectMs: number; readonly idleMs: number; readonly caPem?: string },
): PlainAgent {
  const { connectMs, idleMs, caPem } = limits;
  const isTls = url.startsWith('https:');
  const proxies = proxiesOf(process.env);
  const kept = { keepAlive: true, ...(proxies === undefined ? {} : { proxyEnv: { ...proxies } }) };
  const agent = isTls
    ? new TlsAgent({ ...kept, ...(caPem === undefined ? {} : { ca: caPem }) })
    : new PlainAgent(kept);

  const connect = agent.createConnection.bind(agent);
  agent.createConnection = (options, callback) => {
    const socket = connect(options, (error, tunnelled) => {
      // without a proxy it is called, too, but with nothing
      if (tunnelled instanceof Socket && tunnelled !== socket) {
        release();
        limit(tunnelled, connectMs, idleMs);
      }
      callback?.(error, tunnelled);
    });
    const release = socket instanceof Socket ? limit(socket, connectMs, idleMs) : () => undefined;
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

/** @returns takes the limits off again */
function limit(socket: Socket, connectMs: number, idleMs: number): () => void {
  const breakOff = () => socket.destroy(Object.assign(new Error('no answer'), { code: 'TimeoutError' }));
  const timer = setTimeout(breakOff, connectMs);
  const stop = () => clearTimeout(timer);
  socket.once(socket instanceof TLSSocket ? 'secureConnect' : 'connect', stop).once('close', stop);
  socket.setTimeout(idleMs).on('timeout', breakOff);
  return () => {
    stop();
    socket.setTimeout(0);
  };
}
