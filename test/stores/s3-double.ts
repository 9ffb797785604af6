import { createServer } from 'node:http';
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { Secret } from '../../core/secret.ts';
import type { S3Timeouts } from '../../stores/s3-client.ts';
import { createS3Store } from '../../stores/s3.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import type { S3StoreConfig } from '../../stores/store-config.ts';

/** A request as the double saw it. */
export interface SeenRequest {
  readonly method: string;
  /** Decoded path below the bucket. */
  readonly key: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  /** When its head came, in ms since 1970. */
  readonly at: number;
}

/** Answers one request, or breaks the connection. Returning undefined without an answer is a stall. */
export type Script = (request: SeenRequest, response: ServerResponse) => void;

/** A scripted S3 server, for what a real one does only on a bad day. */
export interface S3Double {
  readonly seen: SeenRequest[];
  /** Requests like `PUT k` or `POST k?uploadId`, in the order they came. */
  calls(): string[];
  readonly config: S3StoreConfig;
  store(timeouts?: Partial<S3Timeouts>): ObjectStore;
  close(): Promise<void>;
}

export async function startS3Double(
  script: Script,
  tls?: { readonly key: string; readonly cert: string },
): Promise<S3Double> {
  const seen: SeenRequest[] = [];
  const sockets = new Set<Socket>();
  const stores: ObjectStore[] = [];
  const listener = (incoming: IncomingMessage, response: ServerResponse) => {
    const at = Date.now();
    const pieces: Buffer[] = [];
    incoming.on('data', (piece: Buffer) => pieces.push(piece));
    incoming.on('error', () => undefined);
    incoming.on('end', () => {
      const url = new URL(incoming.url ?? '/', 'http://double');
      const key = decodeURIComponent(url.pathname).replace(/^\/bucket\/?/, '');
      const { method = '', headers } = incoming;
      const request = { method, key, query: url.searchParams, headers, body: Buffer.concat(pieces), at };
      seen.push(request);
      script(request, response);
    });
  };
  const server = tls ? createTlsServer(tls, listener) : createServer(listener);
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;

  const config: S3StoreConfig = {
    kind: 's3',
    bucket: 'bucket',
    prefix: '',
    endpointUrl: `${tls ? 'https' : 'http'}://127.0.0.1:${port}`,
    credentials: { accessKeyId: new Secret('canary-key-id'), secretAccessKey: new Secret('canary-secret') },
  };

  return {
    seen,
    config,
    calls: () =>
      seen.map(({ method, key, query }) => {
        const verbs = ['uploads', 'uploadId', 'delete', 'list-type'].filter((name) => query.has(name));
        return `${method} ${key}${verbs.length > 0 ? `?${verbs.join('&')}` : ''}`;
      }),
    store(timeouts) {
      const store = createS3Store(config, {
        connectMs: 1000,
        idleMs: 300,
        callMs: 5000,
        completeMs: 1000,
        ...timeouts,
      });
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

/** An answer in XML. */
export function answer(
  response: ServerResponse,
  status: number,
  xml = '',
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/xml', etag: '"e"', ...headers });
  response.end(xml === '' ? '' : `<?xml version="1.0" encoding="UTF-8"?>\n${xml}`);
}

/** An error as S3 says it. */
export function refuse(response: ServerResponse, status: number, code: string, more = ''): void {
  answer(
    response,
    status,
    `<Error><Code>${code}</Code><Message>signed with canary-secret</Message>${more}</Error>`,
  );
}
