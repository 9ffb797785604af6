import { createServer, type Server, type ServerResponse } from 'node:http';
import type { Registry } from 'prom-client';
import type { Log } from './log.ts';

export interface HealthReport {
  /** The process does what it is there for, as far as this host is concerned. */
  readonly healthy: boolean;
  /** And it can be told what to do: it is connected to Temporal. */
  readonly ready: boolean;
  /** What is wrong, or the state of each part; shown as JSON. */
  readonly details: Readonly<Record<string, unknown>>;
}

export interface HealthSources {
  readonly registry: Registry;
  readonly health: () => HealthReport;
}

export interface HealthServer {
  /** Where it listens; `undefined` while the port is taken. */
  address(): string | undefined;
  close(): Promise<void>;
}

const RETRY_MS = 30_000;

/**
 * Serves `/metrics`, `/healthz` and `/readyz`. A port that is taken is tried again for ever: archiving must not
 * depend on it.
 */
export async function serveHealth(
  options: { readonly host: string; readonly port: number },
  sources: HealthSources,
  log: Log,
): Promise<HealthServer> {
  const server = createServer({ requestTimeout: 10_000 }, (request, response) => {
    void answer(request.url ?? '/', response, sources).catch((error: unknown) => {
      log.warn({ error }, 'a question about health could not be answered');
      response.destroy();
    });
  });
  server.maxConnections = 32;
  let closed = false;
  let retry: NodeJS.Timeout | undefined;
  const listen = async (): Promise<void> => {
    try {
      await listenOn(server, options);
      log.info({ address: addressOf(server) }, 'serving /metrics, /healthz and /readyz');
    } catch (error) {
      log.error(
        { error },
        `can not listen on ${options.host}:${options.port}; there are no metrics until it is free`,
      );
      if (!closed) retry = setTimeout(() => void listen(), RETRY_MS).unref();
    }
  };
  await listen();
  return {
    address: () => addressOf(server),
    async close() {
      closed = true;
      clearTimeout(retry);
      server.closeAllConnections();
      if (server.listening) await new Promise<void>((done) => server.close(() => done()));
    },
  };
}

async function answer(
  url: string,
  response: ServerResponse,
  { registry, health }: HealthSources,
): Promise<void> {
  const path = url.split('?')[0];
  if (path === '/metrics') {
    const text = await registry.metrics();
    response.writeHead(200, { 'content-type': registry.contentType }).end(text);
  } else if (path === '/healthz' || path === '/readyz') {
    const report = health();
    const good = path === '/healthz' ? report.healthy : report.healthy && report.ready;
    response
      .writeHead(good ? 200 : 503, { 'content-type': 'application/json' })
      .end(`${JSON.stringify(report)}\n`);
  } else {
    response.writeHead(404, { 'content-type': 'text/plain' }).end('try /metrics, /healthz or /readyz\n');
  }
}

function listenOn(
  server: Server,
  { host, port }: { readonly host: string; readonly port: number },
): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
}

function addressOf(server: Server): string | undefined {
  const address = server.listening ? server.address() : null;
  return address && typeof address === 'object' ? `${address.address}:${address.port}` : undefined;
}
