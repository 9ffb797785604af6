import { createServer, request, type IncomingMessage, type ServerResponse } from 'node:http';
import { onCleanUp } from '../support/cleanup.ts';
import { freePort } from '../support/processes.ts';

const BOUNDARY = 'answers';

/**
 * Google's batches of deletions, in front of an emulator that has none: barman-cloud deletes by nothing else. All the rest
 * is passed on.
 *
 * @returns the address to be used instead
 */
export async function serveBatches(endpointUrl: string): Promise<string> {
  const port = await freePort();
  const server = createServer((incoming, answer) => {
    const handled = incoming.url?.startsWith('/batch/')
      ? answerBatch(endpointUrl, incoming, answer)
      : passOn(endpointUrl, incoming, answer);
    handled.catch((error: unknown) => answer.destroy(error instanceof Error ? error : undefined));
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  onCleanUp(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${port}`;
}

async function answerBatch(endpointUrl: string, incoming: IncomingMessage, answer: ServerResponse) {
  let body = '';
  for await (const chunk of incoming) body += String(chunk);
  const paths = [...body.matchAll(/^DELETE (?:https?:\/\/[^/\s]+)?(\S+) HTTP/gm)].map(
    ([, path = '']) => path,
  );
  const parts: string[] = [];
  for (const path of paths) {
    const { status, statusText } = await fetch(`${endpointUrl}${path}`, { method: 'DELETE' });
    const line = `HTTP/1.1 ${status} ${statusText}\r\nContent-Length: 0\r\n\r\n`;
    parts.push(`--${BOUNDARY}\r\nContent-Type: application/http\r\n\r\n${line}\r\n`);
  }
  answer.setHeader('Content-Type', `multipart/mixed; boundary=${BOUNDARY}`);
  answer.end(`${parts.join('')}--${BOUNDARY}--\r\n`);
}

async function passOn(endpointUrl: string, incoming: IncomingMessage, answer: ServerResponse): Promise<void> {
  const { method, url = '/', headers } = incoming;
  const onward = request(new URL(url, endpointUrl), { method, headers: { ...headers } });
  incoming.pipe(onward);
  await new Promise<void>((resolve, reject) => {
    onward.on('error', reject).on('response', (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(answer).on('finish', resolve).on('error', reject);
    });
  });
}
