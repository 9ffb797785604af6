import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, Server } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { runSuccessfully } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { answer, type AzureDouble, refuse, startAzureDouble } from './azure-double.ts';

const MiB = 1024 * 1024;
const signal = new AbortController().signal;

/** A certificate for 127.0.0.1 that is its own authority: tokens go over TLS only. */
let tls: { key: string; cert: string };
beforeAll(async () => {
  const directory = makeTempDir('tls');
  const line =
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=double -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem';
  await runSuccessfully('openssl', line.split(' '), { cwd: directory });
  const read = (name: string) => readFileSync(join(directory, name), 'utf8');
  tls = { key: read('key.pem'), cert: read('cert.pem') };
});

/** The library keeps longer ones for the whole process, and would give one test those of another. */
const SHORT_SECONDS = 240;

/** Azure's token service for machines (IMDS), on loopback. */
interface Imds {
  readonly asked: { readonly url: URL; readonly metadata: string | undefined }[];
  /** By token, until when it is valid. */
  readonly tokens: Map<string, number>;
  /** How long the next tokens live, in seconds; at 0 they are refused, below there is no answer. */
  livesSeconds: number;
  /** Requests to the store with no token, or one that has run out. */
  refused: number;
  readonly server: Server;
}

let imds: Imds;
let double: AzureDouble;

/** One for all: the library remembers the first. */
beforeAll(async () => {
  const server = createServer((incoming: IncomingMessage, response) => {
    const url = new URL(incoming.url ?? '/', 'http://imds');
    const metadata = incoming.headers['metadata'];
    imds.asked.push({ url, metadata: typeof metadata === 'string' ? metadata : undefined });
    response.setHeader('content-type', 'application/json');
    // what looks whether somebody is there asks without the header
    if (metadata === undefined) return response.writeHead(400).end('{"error":"invalid_request"}');
    if (imds.livesSeconds < 0) return response.destroy();
    if (imds.livesSeconds === 0) return response.writeHead(400).end('{"error":"identity_not_found"}');
    const token = `canary-token-${imds.tokens.size + 1}`;
    const endsAt = Math.floor(Date.now() / 1000) + imds.livesSeconds;
    imds.tokens.set(token, endsAt * 1000);
    return response.writeHead(200).end(
      JSON.stringify({
        access_token: token,
        expires_in: String(imds.livesSeconds),
        expires_on: String(endsAt),
        resource: 'https://storage.azure.com',
        token_type: 'Bearer',
      }),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  imds = { asked: [], tokens: new Map(), livesSeconds: SHORT_SECONDS, refused: 0, server };
  const { port } = server.address() as AddressInfo;
  vi.stubEnv('AZURE_POD_IDENTITY_AUTHORITY_HOST', `http://127.0.0.1:${port}`);
  for (const name of [
    'AZURE_CLIENT_ID',
    'AZURE_TENANT_ID',
    'AZURE_CLIENT_SECRET',
    'AZURE_FEDERATED_TOKEN_FILE',
  ])
    vi.stubEnv(name, undefined);
  vi.stubEnv('AZURE_TOKEN_CREDENTIALS', 'prod');
});

afterAll(async () => {
  vi.unstubAllEnvs();
  imds.server.closeAllConnections();
  await new Promise((resolve) => imds.server.close(resolve));
});

beforeEach(() => {
  imds.asked.length = 0;
  imds.tokens.clear();
  imds.livesSeconds = SHORT_SECONDS;
  imds.refused = 0;
});

afterEach(() => double.close());

/** A blob server that lets in only tokens that IMDS gave and that have not run out. */
const startGuarded = async () => {
  double = await startAzureDouble(({ headers }, response) => {
    const [, token = ''] = /^Bearer (.*)$/.exec(headers.authorization ?? '') ?? [];
    const endsAt = imds.tokens.get(token);
    if (endsAt === undefined || endsAt < Date.now()) {
      imds.refused += 1;
      refuse(response, 401, 'InvalidAuthenticationInfo');
    } else answer(response, 201);
  }, tls);
  return double;
};

describe('the identity of the machine', () => {
  it.for([
    ['managed-identity', undefined, null],
    // of several identities of a machine, the chain takes the one that the environment names
    ['default', undefined, null],
    ['default', 'id-1', 'id-1'],
  ] as const)('%s: is asked by the right request (AZURE_CLIENT_ID %s)', async ([way, clientId, asks]) => {
    vi.stubEnv('AZURE_CLIENT_ID', clientId);
    await startGuarded();
    const store = double.store({}, { credentials: { way }, caPem: tls.cert });
    await store.put('k', Buffer.from('x'), { signal });
    await store.put('k', Buffer.from('y'), { signal });
    const asked = imds.asked.filter(({ metadata }) => metadata !== undefined);
    expect(asked).toHaveLength(1);
    expect(asked[0]?.metadata).toBe('true');
    expect(asked[0]?.url.pathname).toMatch(/^\/metadata\/identity\/oauth2\/token\/?$/);
    expect(asked[0]?.url.searchParams.get('resource')?.replace(/\/$/, '')).toBe('https://storage.azure.com');
    expect(asked[0]?.url.searchParams.get('client_id')).toBe(asks);
    expect(double.seen.map(({ headers }) => headers.authorization)).toEqual([
      'Bearer canary-token-1',
      'Bearer canary-token-1',
    ]);
    vi.stubEnv('AZURE_CLIENT_ID', undefined);
  });

  it('its tokens are renewed in the middle of a long upload, before they end', async () => {
    await startGuarded();
    imds.livesSeconds = 4;
    const store = double.store(
      { idleMs: 20_000, callMs: 60_000 },
      { credentials: { way: 'managed-identity' }, caPem: tls.cert },
    );
    const slow = async function* () {
      for (let n = 0; n < 6; n++) {
        yield Buffer.alloc(16 * MiB);
        await sleep(900);
      }
    };
    expect(await store.put('k', slow(), { signal })).toEqual({ sizeBytes: 96 * MiB });
    const used = new Set(double.seen.map(({ headers }) => headers.authorization));
    expect(used.size).toBeGreaterThanOrEqual(2);
    expect(imds.refused).toBe(0);
  });

  it.for([
    { status: 401, said: 'InvalidAuthenticationInfo' },
    { status: 403, said: 'AuthenticationFailed' },
  ])(
    'a token that the store takes for expired ($status $said) is renewed, once',
    async ({ status, said }) => {
      double = await startAzureDouble(({ headers }, response) => {
        if (double.seen.length === 2) refuse(response, status, said);
        else answer(response, headers.authorization === undefined ? 500 : 201);
      }, tls);
      const store = double.store({}, { credentials: { way: 'managed-identity' }, caPem: tls.cert });
      await store.put('k', Buffer.from('x'), { signal });
      await store.put('k', Buffer.from('y'), { signal });
      expect(double.seen.map(({ headers }) => headers.authorization)).toEqual([
        'Bearer canary-token-1',
        'Bearer canary-token-1',
        'Bearer canary-token-2',
      ]);
    },
  );

  it('S1: a token that is never taken is access-denied, and in no message', async () => {
    double = await startAzureDouble((_, response) => refuse(response, 401, 'InvalidAuthenticationInfo'), tls);
    const store = double.store({}, { credentials: { way: 'managed-identity' }, caPem: tls.cert });
    const error = await store.head('k', { signal }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'access-denied', hint: expect.stringContaining('clock') });
    expect(JSON.stringify([error, (error as Error).cause, (error as Error).stack])).not.toContain('canary');
  });

  it('a token service that is away is store-unavailable, and says so', async () => {
    await startGuarded();
    imds.livesSeconds = -1;
    const store = double.store(
      { callMs: 20_000 },
      { credentials: { way: 'managed-identity' }, caPem: tls.cert },
    );
    await expect(store.head('k', { signal })).rejects.toMatchObject({
      code: 'store-unavailable',
      message: expect.stringContaining('Azure gave no token'),
    });
    // asked again by the library, with pauses; not three times more by us
    expect(imds.asked.length).toBeLessThan(10);
  });

  it('that is not there is access-denied, with what to do', async () => {
    await startGuarded();
    imds.livesSeconds = 0;
    const store = double.store(
      { callMs: 10_000 },
      { credentials: { way: 'managed-identity' }, caPem: tls.cert },
    );
    await expect(store.head('k', { signal })).rejects.toMatchObject({
      code: 'access-denied',
      message: expect.stringContaining('Azure gave no token'),
      hint: expect.stringContaining('inheritFromAzureAD'),
    });
    expect(double.seen).toEqual([]);
  });
});

describe('az login', () => {
  /** A program `az` that stands first on PATH, and writes down how it was called. */
  const fakeAz = (script: string): string => {
    const directory = makeTempDir('az');
    const calls = join(directory, 'calls');
    writeFileSync(join(directory, 'az'), `#!/bin/sh\necho "$@" >> ${calls}\n${script}\n`, { mode: 0o755 });
    vi.stubEnv('PATH', `${directory}:${process.env['PATH']}`);
    return calls;
  };
  const give = () => {
    const endsAt = Math.floor(Date.now() / 1000) + 3600;
    imds.tokens.set('canary-cli-token', endsAt * 1000);
    return `echo '${JSON.stringify({ accessToken: 'canary-cli-token', expires_on: endsAt, expiresOn: '2099-01-01 00:00:00.000000', subscription: 's', tenant: 't', tokenType: 'Bearer' })}'`;
  };

  it('azure-cli: asks the program alone, once for all calls', async () => {
    const calls = fakeAz(give());
    await startGuarded();
    const store = double.store({}, { credentials: { way: 'azure-cli' }, caPem: tls.cert });
    await store.put('k', Buffer.from('x'), { signal });
    await store.put('k', Buffer.from('y'), { signal });
    const asked = readFileSync(calls, 'utf8').trim().split('\n');
    expect(asked).toHaveLength(1);
    expect(asked[0]).toMatch(/^account get-access-token .*--resource https:\/\/storage\.azure\.com/);
    expect(double.seen.map(({ headers }) => headers.authorization)).toEqual([
      'Bearer canary-cli-token',
      'Bearer canary-cli-token',
    ]);
    expect(imds.asked).toEqual([]);
  });

  it('S1: azure-cli: nobody logged in is access-denied, with what to do', async () => {
    fakeAz("echo 'Please run az login to setup account. canary' >&2; exit 1");
    await startGuarded();
    const store = double.store({ callMs: 10_000 }, { credentials: { way: 'azure-cli' }, caPem: tls.cert });
    const error: unknown = await store.head('k', { signal }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'access-denied', hint: expect.stringContaining('az login') });
    expect(JSON.stringify([error, (error as Error).stack])).not.toContain('canary');
    expect(double.seen).toEqual([]);
  });
});

describe('TLS', () => {
  it('with an authority that is not known is config-invalid, and nothing is sent', async () => {
    await startGuarded();
    await expect(double.store().head('k', { signal })).rejects.toMatchObject({
      code: 'config-invalid',
      hint: expect.stringContaining('endpointCA'),
    });
    expect(double.seen).toEqual([]);
  });

  it('that is never spoken at the other end is given up in time', async () => {
    await startGuarded();
    const silent = createTcpServer();
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo;
    const open = double.store(
      { connectMs: 150, idleMs: 60_000, callMs: 60_000 },
      { serviceUrl: `https://127.0.0.1:${port}/acct` },
    );
    const begin = performance.now();
    await expect(open.head('k', { signal })).rejects.toMatchObject({
      code: 'store-unavailable',
      message: expect.stringContaining('TimeoutError'),
    });
    expect(performance.now() - begin).toBeLessThan(5000);
    silent.close();
  });
});
