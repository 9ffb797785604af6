import { createServer, request } from 'node:http';
import { connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';

/** A proxy for HTTP on loopback, to which all names lead to one server. */
export interface ProxyDouble {
  readonly url: string;
  /** `CONNECT store.test:9000`, or a request with its whole address. */
  readonly seen: string[];
  /** Of the last request. */
  authorization: string | undefined;
  close(): Promise<void>;
}

/** @param port where everything leads on this host; `silent`: nowhere, and nothing is said; `refused`: with 407 */
export async function startProxyDouble(port: number | 'silent' | 'refused'): Promise<ProxyDouble> {
  const sockets = new Set<Socket>();
  const server = createServer((incoming, response) => {
    double.seen.push(`${incoming.method} ${incoming.url}`);
    double.authorization = incoming.headers['proxy-authorization'];
    if (port === 'silent') return;
    if (port === 'refused') return void response.writeHead(407).end();
    const { pathname, search } = new URL(incoming.url ?? '', 'http://none');
    const { method, headers } = incoming;
    const onward = request(
      { host: '127.0.0.1', port, method, headers, path: pathname + search, agent: false },
      (answer) => {
        response.writeHead(answer.statusCode ?? 500, answer.headers);
        answer.pipe(response);
      },
    );
    incoming.pipe(onward);
  });
  server.on('connect', (incoming, client: Socket) => {
    double.seen.push(`CONNECT ${incoming.url}`);
    double.authorization = incoming.headers['proxy-authorization'];
    client.on('error', () => undefined);
    if (port === 'silent') return;
    if (port === 'refused') return void client.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
    const onward = connect(port, '127.0.0.1', () =>
      client.write('HTTP/1.1 200 Connection established\r\n\r\n'),
    );
    sockets.add(onward);
    onward.on('error', () => client.destroy());
    client.pipe(onward).pipe(client);
  });
  server.on('connection', (socket: Socket) => sockets.add(socket));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const double: ProxyDouble = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen: [],
    authorization: undefined,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return double;
}
