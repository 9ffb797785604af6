import { createServer } from 'node:http';
import type { IncomingHttpHeaders, RequestListener, ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { GcsTimeouts } from '../../stores/gcs-client.ts';
import { crc32c, crc32cText } from '../../stores/gcs-crc32c.ts';
import { createGcsStore } from '../../stores/gcs.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import type { GcsStoreConfig } from '../../stores/store-config.ts';

/** A request as the double saw it. */
export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  /** `begin`, `chunk 0-9/*`, `cancel`, `put`, `get k`, `look k`, `delete k`, `list`. */
  readonly name: string;
}

/** Answers one request, or breaks the connection. Returning without an answer is a stall; `false` leaves it to the double. */
export type Script = (request: SeenRequest, response: ServerResponse) => unknown;

/**
 * A scripted Google Cloud Storage, for what an emulator does not do: what the script leaves alone, it takes as the real
 * one does (resumable uploads with their questions, one object).
 */
export interface GcsDouble {
  readonly seen: SeenRequest[];
  /** The names of the requests in the order they came. */
  calls(): string[];
  readonly config: GcsStoreConfig;
  /** What was stored last, if anything. */
  stored(): Buffer | undefined;
  store(change?: Partial<GcsStoreConfig>, timeouts?: Partial<GcsTimeouts>): ObjectStore;
  close(): Promise<void>;
}

export async function startGcsDouble(
  script: Script = () => false,
  tls?: { readonly cert: Buffer; readonly key: Buffer },
): Promise<GcsDouble> {
  const seen: SeenRequest[] = [];
  const sockets = new Set<Socket>();
  const stores: ObjectStore[] = [];
  const bucket = createOneObjectBucket();
  const scheme = tls === undefined ? 'http' : 'https';
  const listener: RequestListener = (incoming, response) => {
    const pieces: Buffer[] = [];
    incoming.on('data', (piece: Buffer) => pieces.push(piece));
    incoming.on('error', () => undefined);
    incoming.on('end', () => {
      const url = new URL(incoming.url ?? '/', 'http://double');
      const { method = '', headers } = incoming;
      const part = { method, path: url.pathname, query: url.searchParams, headers };
      const request = { ...part, body: Buffer.concat(pieces), name: nameOf(part) };
      seen.push(request);
      if (script(request, response) === false)
        bucket.answer(request, response, `${scheme}://${headers.host}`);
    });
  };
  const server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener);
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const config: GcsStoreConfig = {
    kind: 'gs',
    bucket: 'bucket',
    prefix: '',
    endpointUrl: `${scheme}://127.0.0.1:${port}`,
  };
  return {
    seen,
    config,
    calls: () => seen.map(({ name }) => name),
    stored: () => bucket.stored(),
    store(change, timeouts) {
      const limits = { connectMs: 5000, idleMs: 5000, callMs: 20_000, ...timeouts };
      const store = createGcsStore({ ...config, ...change }, limits);
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

const SESSION = 'canary-session';

function nameOf({ method, path, query, headers }: Omit<SeenRequest, 'name' | 'body'>): string {
  const key = decodeURIComponent(/\/o\/(.*)$/.exec(path)?.[1] ?? '');
  if (query.get('upload_id') === SESSION) {
    return method === 'DELETE' ? 'cancel' : `chunk ${headers['content-range']?.replace('bytes ', '')}`;
  }
  if (method === 'POST') return query.get('uploadType') === 'resumable' ? 'begin' : 'put';
  if (method === 'DELETE') return `delete ${key}`;
  if (key === '') return 'list';
  return query.get('alt') === 'media' ? `get ${key}` : `look ${key}`;
}

function createOneObjectBucket() {
  let received = Buffer.alloc(0);
  let begun: Record<string, unknown> = {};
  let object: { readonly bytes: Buffer; readonly record: object } | undefined;

  function store(bytes: Buffer, given: object): object {
    const crc = crc32cText(crc32c(bytes));
    const record = { ...given, size: String(bytes.length), crc32c: crc, generation: '7' };
    object = { bytes, record: { ...record, timeCreated: '2026-01-01T00:00:00Z' } };
    return object.record;
  }

  function takeChunk({ headers, body }: SeenRequest, response: ServerResponse): void {
    const [, from, total] = /^bytes (\*|\d+-\d+)\/(\*|\d+)$/.exec(String(headers['content-range'])) ?? [];
    if (from !== '*') {
      const begin = Number(from?.split('-')[0]);
      // what it has already it takes as the same
      if (begin <= received.length) received = Buffer.concat([received.subarray(0, begin), body]);
    }
    if (total !== undefined && total !== '*' && received.length === Number(total)) {
      answer(response, 200, store(received, begun));
    } else incomplete(response, received.length);
  }

  return {
    stored: () => object?.bytes,
    answer(request: SeenRequest, response: ServerResponse, origin: string): void {
      const [verb] = request.name.split(' ');
      if (verb === 'begin') {
        received = Buffer.alloc(0);
        begun = JSON.parse(request.body.toString()) as Record<string, unknown>;
        const location = `${origin}/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id=${SESSION}`;
        answer(response, 200, undefined, { location });
      } else if (verb === 'chunk') takeChunk(request, response);
      else if (verb === 'cancel') answer(response, 499);
      else if (verb === 'put') {
        const { record, bytes } = partsOf(request);
        answer(response, 200, store(bytes, record));
      } else if (verb === 'look') {
        if (object === undefined) refuse(response, 404, 'notFound', 'No such object: bucket/k');
        else answer(response, 200, object.record);
      } else if (verb === 'list') answer(response, 200, { kind: 'storage#objects' });
      else if (verb === 'delete') answer(response, 204);
      else refuse(response, 404, 'notFound', 'No such object: bucket/k');
    },
  };
}

/** The record and the bytes of an upload in one request. */
export function partsOf({ body, headers }: SeenRequest): { record: Record<string, unknown>; bytes: Buffer } {
  const boundary = /boundary=(.*)$/.exec(String(headers['content-type']))?.[1] ?? '';
  const text = body.toString('latin1');
  const [recordAt = 0, bytesAt = 0] = [...text.matchAll(/\r\n\r\n/g)].map(({ index }) => index + 4);
  const record = body.subarray(recordAt, text.indexOf(`\r\n--${boundary}`)).toString();
  return {
    record: JSON.parse(record) as Record<string, unknown>,
    bytes: body.subarray(bytesAt, text.lastIndexOf(`\r\n--${boundary}--`)),
  };
}

/** An answer in JSON. */
export function answer(
  response: ServerResponse,
  status: number,
  json?: object,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(json === undefined ? '' : JSON.stringify(json));
}

/** "Go on": the store has so many bytes. */
export function incomplete(response: ServerResponse, bytes: number): void {
  answer(response, 308, undefined, bytes === 0 ? {} : { range: `bytes=0-${bytes - 1}` });
}

/** An error as Google says it. */
export function refuse(
  response: ServerResponse,
  status: number,
  reason: string,
  message = 'for canary-token',
): void {
  answer(response, status, {
    error: { code: status, message, errors: [{ domain: 'global', reason, message }] },
  });
}
