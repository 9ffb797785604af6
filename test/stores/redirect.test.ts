import { createServer } from 'node:http';
import type { IncomingHttpHeaders, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { startAzureDouble } from './azure-double.ts';
import { startGcsDouble } from './gcs-double.ts';
import { startS3Double } from './s3-double.ts';

const signal = new AbortController().signal;
const closing: (() => Promise<unknown>)[] = [];

/** Another host, which takes whatever comes. */
let other: {
  readonly url: string;
  readonly seen: { readonly headers: IncomingHttpHeaders; readonly url: string }[];
};
beforeEach(async () => {
  const seen: { headers: IncomingHttpHeaders; url: string }[] = [];
  const server = createServer((incoming, response) => {
    seen.push({ headers: incoming.headers, url: incoming.url ?? '' });
    incoming.resume().on('end', () => response.writeHead(200, { etag: '"e"', 'content-length': '0' }).end());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  other = { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
  closing.push(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
});
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

const lead = (status: number) => (_: unknown, response: ServerResponse) =>
  response.writeHead(status, { location: `${other.url}/bucket/k` }).end();

const KINDS: readonly { readonly kind: string; readonly open: (status: number) => Promise<ObjectStore> }[] = [
  {
    kind: 'S3',
    async open(status) {
      const double = await startS3Double(lead(status));
      closing.push(() => double.close());
      return double.store();
    },
  },
  {
    kind: 'Azure with a key',
    async open(status) {
      const double = await startAzureDouble(lead(status));
      closing.push(() => double.close());
      return double.store();
    },
  },
  {
    kind: 'Azure with a SAS',
    async open(status) {
      const double = await startAzureDouble(lead(status));
      closing.push(() => double.close());
      return double.store(
        {},
        { credentials: { way: 'sas-token', token: new Secret('sv=1&sig=canary-sas') } },
      );
    },
  },
  {
    kind: 'Google',
    async open(status) {
      const double = await startGcsDouble(lead(status));
      closing.push(() => double.close());
      return double.store({}, { callMs: 2000 });
    },
  },
];

describe.for(KINDS)('$kind: a redirect to another host', ({ open }) => {
  it.for([301, 307])('S5: %i is not followed, with no credential nor any byte', async (status) => {
    const store = await open(status);
    for (const call of [
      () => store.head('k', { signal }),
      () => store.get('k', { signal }),
      () => store.put('k', Buffer.from('x'), { signal }),
      () => store.delete(['k'], { signal }),
    ]) {
      const error: unknown = await call().catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ name: 'BackupError' });
      expect(inspect(error, { depth: 9 })).not.toContain('canary');
    }
    expect(other.seen).toEqual([]);
  });
});
