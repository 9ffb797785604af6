import type { Payload, PayloadCodec } from '@temporalio/common';
import { Command, Option } from 'commander';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { BackupError, messageOf } from '../core/errors.ts';
import { createPayloadCodec, readPayloadKeys } from '../workers/payload-codec.ts';
import { parseAddress } from './options.ts';
import { note } from './output.ts';
import { signalled } from './signals.ts';

const DEFAULT_LISTEN = { host: '127.0.0.1', port: 8088 } as const;
/** Where Temporal's development server shows its Web UI. */
const DEFAULT_ORIGINS = ['http://localhost:8233', 'http://127.0.0.1:8233'];
/** One page of a history. */
const MOST_BYTES = 16 * 1024 * 1024;

interface CodecServerOptions {
  readonly listen: { readonly host: string; readonly port: number };
  readonly origin: readonly string[];
}

/** `walkeep codec-server` */
export function codecServerCommand(): Command {
  return new Command('codec-server')
    .summary('show encrypted payloads to the Temporal command line and Web UI')
    .description(
      'Decrypts and encrypts payloads for those who look at workflows with Temporal’s own tools, with the keys of\n' +
        'WALKEEP_PAYLOAD_KEY_FILE or WALKEEP_PAYLOAD_KEY. Whoever reaches it can read what it decrypts: it listens on this\n' +
        'host only unless it is told otherwise, and answers only the Web UIs it is told.',
    )
    .addOption(
      new Option('--listen <address>', 'where it listens')
        .argParser(parseAddress)
        .default(DEFAULT_LISTEN, `${DEFAULT_LISTEN.host}:${DEFAULT_LISTEN.port}`),
    )
    .addOption(
      new Option('--origin <url...>', 'addresses of the Web UIs that may ask').default(
        DEFAULT_ORIGINS,
        DEFAULT_ORIGINS.join(' '),
      ),
    )
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  WALKEEP_PAYLOAD_KEY_FILE=/etc/walkeep/payload-keys walkeep codec-server\n' +
        '  temporal workflow show -w cluster/default/main --codec-endpoint http://127.0.0.1:8088\n' +
        '  temporal server start-dev --ui-codec-endpoint http://127.0.0.1:8088\n',
    )
    .action(run);
}

async function run({ listen, origin }: CodecServerOptions): Promise<void> {
  const keys = readPayloadKeys(process.env);
  if (keys.length === 0) {
    throw new BackupError('config-invalid', 'there is no key to decrypt with', {
      hint: 'set WALKEEP_PAYLOAD_KEY_FILE to the file that the workers have',
    });
  }
  const server = createCodecServer(createPayloadCodec(keys), origin.map(originOf));
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        new BackupError('config-invalid', `can't listen on ${listen.host}:${listen.port}: ${cause.message}`),
      ),
    );
    server.listen(listen.port, listen.host, resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : listen.port;
  note(`codec endpoint http://${listen.host}:${port}   keys ${keys.map(({ id }) => id).join(', ')}`);
  await signalled();
  server.closeAllConnections();
  server.close();
}

/** The codec as Temporal's tools ask for it: `POST /encode` and `POST /decode` of `{payloads}` as JSON. */
export function createCodecServer(codec: PayloadCodec, origins: readonly string[]): Server {
  const server = createServer({ requestTimeout: 30_000 }, (request, response) => {
    void answer(request, response, codec, origins).catch((error: unknown) => {
      // Why, and nothing of what was asked.
      refuse(response, 400, messageOf(error));
    });
  });
  server.maxConnections = 64;
  return server;
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  codec: PayloadCodec,
  origins: readonly string[],
): Promise<void> {
  const { origin } = request.headers;
  if (origin !== undefined) {
    // A page in a browser: any page could ask in the name of who looks at it.
    if (!origins.includes(origin))
      return refuse(response, 403, `${origin} is no Web UI this was told of: --origin`);
    response.setHeader('access-control-allow-origin', origin);
    response.setHeader('access-control-allow-credentials', 'true');
    response.setHeader('vary', 'origin');
  }
  if (request.method === 'OPTIONS') {
    response.setHeader('access-control-allow-methods', 'POST, OPTIONS');
    response.setHeader(
      'access-control-allow-headers',
      'content-type, x-namespace, authorization, authorization-extras',
    );
    response.setHeader('access-control-allow-private-network', 'true');
    response.writeHead(204).end();
    return;
  }
  const [path] = (request.url ?? '').split('?');
  // Those who put it below a path of theirs, such as /{namespace}, keep that.
  const operation = path?.endsWith('/encode') ? 'encode' : path?.endsWith('/decode') ? 'decode' : undefined;
  if (!operation || request.method !== 'POST') return refuse(response, 404, 'POST /encode or /decode');
  const payloads = await codec[operation](parsePayloads(await readBody(request)));
  response
    .writeHead(200, { 'content-type': 'application/json' })
    .end(JSON.stringify({ payloads: payloads.map(toJson) }));
}

function refuse(response: ServerResponse, status: number, why: string): void {
  if (response.headersSent) response.destroy();
  else response.writeHead(status, { 'content-type': 'text/plain' }).end(`${why}\n`);
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MOST_BYTES) throw new Error(`more than ${MOST_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Payloads as Protocol Buffers' JSON has them: bytes in base64. */
function parsePayloads(text: string): Payload[] {
  const body: unknown = JSON.parse(text);
  const list = isRecord(body) ? (body['payloads'] ?? []) : undefined;
  if (!Array.isArray(list)) throw new Error('expected {"payloads": […]}');
  return list.map((one: unknown) => {
    if (!isRecord(one)) throw new Error('a payload is no object');
    const metadata = isRecord(one['metadata']) ? one['metadata'] : {};
    return {
      metadata: Object.fromEntries(Object.entries(metadata).map(([name, value]) => [name, bytesOf(value)])),
      data: bytesOf(one['data'] ?? ''),
    };
  });
}

function toJson({ metadata, data }: Payload): object {
  const encoded = Object.entries(metadata ?? {}).map(([name, value]) => [
    name,
    Buffer.from(value).toString('base64'),
  ]);
  return { metadata: Object.fromEntries(encoded), data: Buffer.from(data ?? []).toString('base64') };
}

function bytesOf(value: unknown): Uint8Array {
  if (typeof value !== 'string') throw new Error('bytes are a text in base64');
  return Buffer.from(value, 'base64');
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function originOf(text: string): string {
  if (URL.canParse(text)) return new URL(text).origin;
  throw new BackupError(
    'usage',
    `not an address of a Web UI: "${text}" (expected one like http://localhost:8233)`,
  );
}
