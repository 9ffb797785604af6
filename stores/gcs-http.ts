import { Agent as PlainAgent, request as plainRequest } from 'node:http';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { Agent as TlsAgent, request as tlsRequest } from 'node:https';
import { finished } from 'node:stream/promises';
import { proxiesOf } from './proxy.ts';

export interface HttpRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  /** Sent one behind the other, with their length. */
  readonly body?: readonly Uint8Array[];
  /** Ends the request and the answer's body. */
  readonly signal: AbortSignal;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** Must be read to its end or destroyed. */
  readonly body: IncomingMessage;
}

/** Requests without any policy: no tries, no redirects, no meaning of a status. */
export interface Http {
  /** @throws Error with a `code` such as `ECONNREFUSED` or `TimeoutError`; the signal's reason */
  send(request: HttpRequest): Promise<HttpAnswer>;
  close(): void;
}

/**
 * @param connectMs to open a connection
 * @param idleMs without a byte in either direction
 * @param ca certificates to trust instead of the system's
 * @throws BackupError `config-invalid` when the environment names a proxy that is none
 */
export function createHttp(limits: {
  readonly connectMs: number;
  readonly idleMs: number;
  readonly ca?: readonly string[] | undefined;
}): Http {
  const { connectMs, idleMs, ca } = limits;
  const proxies = proxiesOf(process.env);
  const kept = { keepAlive: true, ...(proxies === undefined ? {} : { proxyEnv: { ...proxies } }) };
  const plain = new PlainAgent(kept);
  const tls = new TlsAgent({ ...kept, ...(ca === undefined ? {} : { ca: [...ca] }) });

  const send = ({ method, url, headers, body = [], signal }: HttpRequest) =>
    new Promise<HttpAnswer>((resolve, reject) => {
      signal.throwIfAborted();
      const length = body.reduce((sum, piece) => sum + piece.length, 0);
      const hasBody = method === 'POST' || method === 'PUT';
      const options = {
        method,
        signal,
        headers: { ...headers, ...(hasBody ? { 'content-length': String(length) } : {}) },
      };
      const request =
        url.protocol === 'https:'
          ? tlsRequest(url, { ...options, agent: tls })
          : plainRequest(url, { ...options, agent: plain });
      const tooSlow = (what: string) =>
        request.destroy(Object.assign(new Error(`${what} took too long`), { code: 'TimeoutError' }));

      // through a proxy there is no socket before the tunnel is open
      const tunnel = setTimeout(() => tooSlow('the connection'), connectMs);
      request.once('close', () => clearTimeout(tunnel));
      request.once('socket', (socket) => {
        clearTimeout(tunnel);
        // the pause of an earlier request on this connection is over
        socket.setTimeout(idleMs);
        if (!socket.connecting) return;
        const timer = setTimeout(() => tooSlow('the connection'), connectMs);
        const connected = () => clearTimeout(timer);
        socket.once(url.protocol === 'https:' ? 'secureConnect' : 'connect', connected);
        socket.once('close', connected);
      });
      request.setTimeout(idleMs, () => tooSlow('the next byte'));
      // what breaks after the answer has begun is seen by who reads its body
      request.on('error', (error) => reject(signal.aborted ? signal.reason : error));
      request.once('response', (answer) => {
        // from here on the reader decides what is too slow: one who pauses must not lose the connection
        request.setTimeout(0);
        // a server that refuses before it has read everything does not read the rest either
        if (!request.writableFinished) answer.once('close', () => request.destroy());
        answer.on('error', () => undefined);
        resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: answer });
      });
      for (const piece of body) request.write(piece);
      request.end();
    });

  return {
    send,
    close() {
      plain.destroy();
      tls.destroy();
    },
  };
}

/** The body as text. @throws Error with the code `BodyTooLong`; what breaks the connection */
export async function readText(body: IncomingMessage, maxBytes: number): Promise<string> {
  const pieces: Buffer[] = [];
  let sizeBytes = 0;
  body.on('data', (piece: Buffer) => {
    sizeBytes += piece.length;
    if (sizeBytes > maxBytes) {
      body.destroy(Object.assign(new Error('the answer is too long'), { code: 'BodyTooLong' }));
    } else pieces.push(piece);
  });
  await finished(body);
  return Buffer.concat(pieces, sizeBytes).toString();
}
