import { createServer } from 'node:http';
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { Secret } from '../../core/secret.ts';
import type { AzureTimeouts } from '../../stores/azure-client.ts';
import { createAzureStore } from '../../stores/azure.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import type { AzureStoreConfig } from '../../stores/store-config.ts';

/** A request as the double saw it. */
export interface SeenRequest {
  readonly method: string;
  /** Decoded path below the container. */
  readonly key: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** Answers one request, or breaks the connection. Returning undefined without an answer is a stall. */
export type Script = (request: SeenRequest, response: ServerResponse) => void;

/** A scripted blob server, for what a real one does only on a bad day. */
export interface AzureDouble {
  readonly seen: SeenRequest[];
  /** Requests like `PUT k` or `PUT k?block`, in the order they came. */
  calls(): string[];
  readonly config: AzureStoreConfig;
  store(timeouts?: Partial<AzureTimeouts>, change?: Partial<AzureStoreConfig>): ObjectStore;
  close(): Promise<void>;
}

/** Planted where it is a secret, so that it can be looked for where it is not. */
export const CANARY_KEY = Buffer.from('canary-canary-canary').toString('base64');

export async function startAzureDouble(
  script: Script,
  tls?: { readonly key: string; readonly cert: string },
): Promise<AzureDouble> {
  const seen: SeenRequest[] = [];
  const sockets = new Set<Socket>();
  const stores: ObjectStore[] = [];
  const answerTo = (incoming: IncomingMessage, response: ServerResponse) => {
    const pieces: Buffer[] = [];
    incoming.on('data', (piece: Buffer) => pieces.push(piece));
    incoming.on('error', () => undefined);
    incoming.on('end', () => {
      const url = new URL(incoming.url ?? '/', 'http://double');
      const key = decodeURIComponent(url.pathname).replace(/^\/acct\/box\/?/, '');
      const { method = '', headers } = incoming;
      const request = { method, key, query: url.searchParams, headers, body: Buffer.concat(pieces) };
      seen.push(request);
      script(request, response);
    });
  };
  const server = tls ? createTlsServer(tls, answerTo) : createServer(answerTo);
  server.on(tls ? 'secureConnection' : 'connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket)).on('error', () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;

  const config: AzureStoreConfig = {
    kind: 'azure',
    serviceUrl: `${tls ? 'https' : 'http'}://127.0.0.1:${port}/acct`,
    container: 'box',
    prefix: '',
    credentials: { way: 'account-key', account: 'acct', key: new Secret(CANARY_KEY) },
  };

  return {
    seen,
    config,
    calls: () =>
      seen.map(({ method, key, query }) => {
        const verb = query.get('comp');
        return `${method} ${key}${verb === null ? '' : `?${verb}`}`;
      }),
    store(timeouts, change) {
      const store = createAzureStore(
        { ...config, ...change },
        { connectMs: 3000, idleMs: 1000, callMs: 5000, completeMs: 3000, ...timeouts },
      );
      stores.push(store);
      return store;
    },
    async close() {
      await Promise.all(stores.map((store) => store.close()));
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** A success without a body, or with one in XML. */
export function answer(
  response: ServerResponse,
  status: number,
  xml = '',
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, {
    'content-type': 'application/xml',
    etag: '"e"',
    'last-modified': new Date(0).toUTCString(),
    'x-ms-request-id': '1',
    ...headers,
  });
  response.end(xml === '' ? '' : `<?xml version="1.0" encoding="utf-8"?>${xml}`);
}

/** An error as Azure says it. */
export function refuse(
  response: ServerResponse,
  status: number,
  code: string,
  headers: Record<string, string> = {},
): void {
  const said = `<Error><Code>${code}</Code><Message>signed with ${CANARY_KEY}</Message></Error>`;
  answer(response, status, said, { 'x-ms-error-code': code, ...headers });
}
