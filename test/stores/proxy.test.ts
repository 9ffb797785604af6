import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Agent, request } from 'node:http';
import { inspect } from 'node:util';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { ObjectStore } from '../../stores/object-store.ts';
import { askMetadataDirectly, proxiesOf } from '../../stores/proxy.ts';
import { createAzureStore } from '../../stores/azure.ts';
import { createGcsStore } from '../../stores/gcs.ts';
import { createS3Store } from '../../stores/s3.ts';
import { runSuccessfully } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { answer as azureAnswer, startAzureDouble } from './azure-double.ts';
import { startGcsDouble } from './gcs-double.ts';
import { startSignIn, type SignIn } from './gcs-sign-in.ts';
import { type ProxyDouble, startProxyDouble } from './proxy-double.ts';
import { answer, startS3Double } from './s3-double.ts';
import { Secret } from '../../core/secret.ts';

const signal = new AbortController().signal;
const closing: (() => Promise<unknown>)[] = [];

/** A certificate for a name that no name server knows: only the proxy leads there. */
let tls: { key: string; cert: string };
beforeAll(async () => {
  const directory = makeTempDir('tls');
  const line =
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=double -addext subjectAltName=DNS:store.test -keyout key.pem -out cert.pem';
  await runSuccessfully('openssl', line.split(' '), { cwd: directory });
  const read = (name: string) => readFileSync(join(directory, name), 'utf8');
  tls = { key: read('key.pem'), cert: read('cert.pem') };
});

const PROXY_NAMES = ['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY', 'http_proxy', 'https_proxy', 'no_proxy'];
beforeEach(() => {
  for (const name of [...PROXY_NAMES, 'STORAGE_EMULATOR_HOST']) vi.stubEnv(name, undefined);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  for (const close of closing.splice(0).toReversed()) await close();
});

interface Opened {
  /** Of the server on this host. */
  readonly port: number;
  readonly open: (endpoint: string, caPem?: string) => ObjectStore;
}
const portOf = (url: string | undefined) => Number(new URL(url ?? '').port);
const SHORT = { connectMs: 1000, idleMs: 2000, callMs: 3000 };

const KINDS: readonly { readonly kind: string; readonly start: (secure: boolean) => Promise<Opened> }[] = [
  {
    kind: 'S3',
    async start(secure) {
      const double = await startS3Double((_, response) => answer(response, 200), secure ? tls : undefined);
      closing.push(() => double.close());
      return {
        port: portOf(double.config.endpointUrl),
        open: (endpointUrl, caPem) =>
          createS3Store({ ...double.config, endpointUrl, ...(caPem !== undefined && { caPem }) }, SHORT),
      };
    },
  },
  {
    kind: 'Azure',
    async start(secure) {
      const double = await startAzureDouble(
        (_, response) => azureAnswer(response, 201),
        secure ? tls : undefined,
      );
      closing.push(() => double.close());
      return {
        port: portOf(double.config.serviceUrl),
        open: (endpoint, caPem) =>
          createAzureStore(
            { ...double.config, serviceUrl: `${endpoint}/acct`, ...(caPem !== undefined && { caPem }) },
            { ...SHORT, completeMs: 3000 },
          ),
      };
    },
  },
  {
    kind: 'Google',
    async start(secure) {
      const signIn: SignIn = await startSignIn();
      vi.stubEnv('GCE_METADATA_HOST', signIn.host);
      vi.stubEnv('CLOUDSDK_CONFIG', '/nowhere');
      vi.stubEnv('GOOGLE_APPLICATION_CREDENTIALS', undefined);
      const files = { key: Buffer.from(tls.key), cert: Buffer.from(tls.cert) };
      const double = await startGcsDouble(undefined, secure ? files : undefined);
      closing.push(
        () => signIn.close(),
        () => double.close(),
      );
      return {
        port: portOf(double.config.endpointUrl),
        open: (endpointUrl, caPem) =>
          createGcsStore({ ...double.config, endpointUrl, ...(caPem !== undefined && { caPem }) }, SHORT),
      };
    },
  },
];

const startProxy = async (port: Parameters<typeof startProxyDouble>[0]): Promise<ProxyDouble> => {
  const proxy = await startProxyDouble(port);
  closing.push(() => proxy.close());
  return proxy;
};
const put = async (store: ObjectStore) => {
  closing.push(() => store.close());
  await store.put('k', Buffer.from('x'), { signal });
  await store.put('l', Buffer.from('y'), { signal });
};
const failure = async (store: ObjectStore) => {
  const error: unknown = await put(store).catch((thrown: unknown) => thrown);
  expect(inspect(error, { depth: 9 })).not.toContain('canary');
  return error;
};

describe.for(KINDS)('$kind through a proxy', ({ start }) => {
  it('HTTPS_PROXY leads to the endpoint, whose certificate is checked with endpointCA', async () => {
    const { port, open } = await start(true);
    const proxy = await startProxy(port);
    vi.stubEnv('HTTPS_PROXY', proxy.url.replace('//', '//user:canary-password@'));
    await put(open('https://store.test:9000', tls.cert));
    expect(new Set(proxy.seen)).toEqual(new Set(['CONNECT store.test:9000']));
    expect(proxy.authorization).toBe(`Basic ${Buffer.from('user:canary-password').toString('base64')}`);
  });

  it('S5: an endpoint that is not proved by endpointCA is config-invalid, behind a proxy, too', async () => {
    const { port, open } = await start(true);
    vi.stubEnv('HTTPS_PROXY', (await startProxy(port)).url);
    expect(await failure(open('https://store.test:9000'))).toMatchObject({ code: 'config-invalid' });
    expect(await failure(open('https://other.test:9000', tls.cert))).toMatchObject({
      code: 'config-invalid',
    });
  });

  it('NO_PROXY leaves hosts and all below them out', async () => {
    const { port, open } = await start(true);
    const proxy = await startProxy(port);
    vi.stubEnv('HTTPS_PROXY', proxy.url);
    vi.stubEnv('NO_PROXY', 'test');
    expect(await failure(open('https://store.test:9000', tls.cert))).toMatchObject({
      code: 'store-unavailable',
    });
    expect(proxy.seen).toEqual([]);
  });

  it('this host is asked directly', async () => {
    const { port, open } = await start(false);
    const proxy = await startProxy(port);
    for (const name of ['HTTP_PROXY', 'HTTPS_PROXY']) vi.stubEnv(name, proxy.url);
    await put(open(`http://127.0.0.1:${port}`));
    expect(proxy.seen).toEqual([]);
  });

  it('one that says nothing is given up in time', async () => {
    const { open } = await start(true);
    vi.stubEnv('HTTPS_PROXY', (await startProxy('silent')).url);
    const begin = performance.now();
    expect(await failure(open('https://store.test:9000', tls.cert))).toMatchObject({
      code: 'store-unavailable',
    });
    expect(performance.now() - begin).toBeLessThan(15_000);
  });

  it('S1: one that refuses is store-unavailable, without its password', async () => {
    const { open } = await start(true);
    const { url } = await startProxy('refused');
    vi.stubEnv('HTTPS_PROXY', url.replace('//', '//user:canary-password@'));
    expect(await failure(open('https://store.test:9000', tls.cert))).toMatchObject({
      code: 'store-unavailable',
    });
  });

  it('S1: what is no address of a proxy is config-invalid, and not quoted', async () => {
    const { open } = await start(true);
    vi.stubEnv('HTTPS_PROXY', 'socks5://user:canary-password@h');
    const error = await Promise.resolve()
      .then(() => failure(open('https://store.test:9000')))
      .catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'config-invalid', message: expect.stringContaining('HTTPS_PROXY') });
    expect(inspect(error)).not.toContain('canary');
  });
});

it('Azure: a store that stands still behind a proxy is noticed, before the limit of the call', async () => {
  const double = await startAzureDouble(() => undefined, tls);
  closing.push(() => double.close());
  vi.stubEnv('HTTPS_PROXY', (await startProxy(portOf(double.config.serviceUrl))).url);
  const store = createAzureStore(
    { ...double.config, serviceUrl: 'https://store.test:9000/acct', caPem: tls.cert },
    { connectMs: 5000, idleMs: 150, callMs: 60_000, completeMs: 60_000 },
  );
  expect(await failure(store)).toMatchObject({
    code: 'store-unavailable',
    message: expect.stringContaining('TimeoutError'),
  });
  expect(double.seen).toHaveLength(3);
});

describe('without TLS', () => {
  it.for(KINDS.filter(({ kind }) => kind !== 'Google'))(
    'HTTP_PROXY is asked for the whole address: $kind',
    async ({ start }) => {
      const { port, open } = await start(false);
      const proxy = await startProxy(port);
      vi.stubEnv('http_proxy', proxy.url);
      await put(open('http://store.test:9000'));
      expect(proxy.seen[0]).toMatch(/^PUT http:\/\/store\.test:9000\/.*k/);
    },
  );
});

describe('a bucket in the host name', () => {
  it.for([
    { style: 'virtual' as const, at: 'http://bucket.store.test:9000/k' },
    { style: 'path' as const, at: 'http://store.test:9000/bucket/k' },
    { style: 'auto' as const, at: 'http://store.test:9000/bucket/k' },
    { style: undefined, at: 'http://store.test:9000/bucket/k' },
  ])('of an endpoint: $style', async ({ style, at }) => {
    const double = await startS3Double((_, response) => answer(response, 200));
    closing.push(() => double.close());
    const proxy = await startProxy(portOf(double.config.endpointUrl));
    vi.stubEnv('HTTP_PROXY', proxy.url);
    const change = { endpointUrl: 'http://store.test:9000', ...(style && { addressingStyle: style }) };
    await put(createS3Store({ ...double.config, ...change }, SHORT));
    expect(proxy.seen[0]).toMatch(new RegExp(`^PUT ${at.replaceAll('.', '\\.')}(\\?|$)`));
  });

  it.for([
    { style: undefined, host: 'bucket.s3.eu-west-1.amazonaws.com:443' },
    { style: 'path' as const, host: 's3.eu-west-1.amazonaws.com:443' },
  ])('of AWS: $style', async ({ style, host }) => {
    const proxy = await startProxy('refused');
    vi.stubEnv('HTTPS_PROXY', proxy.url);
    const credentials = { accessKeyId: new Secret('id'), secretAccessKey: new Secret('canary-secret') };
    await failure(
      createS3Store(
        {
          kind: 's3',
          bucket: 'bucket',
          prefix: '',
          region: 'eu-west-1',
          credentials,
          ...(style && { addressingStyle: style }),
        },
        SHORT,
      ),
    );
    expect(proxy.seen[0]).toBe(`CONNECT ${host}`);
  });
});

describe('metadata services', () => {
  it.for([
    {
      kind: 'Azure',
      open: () =>
        createAzureStore({
          kind: 'azure',
          serviceUrl: 'https://acme.blob.core.windows.net',
          container: 'c',
          prefix: '',
          credentials: { way: 'managed-identity' },
        }),
    },
    {
      kind: 'Google',
      open: () => createGcsStore({ kind: 'gs', bucket: 'b', prefix: '', credentials: { way: 'ambient' } }),
    },
    {
      kind: 'S3',
      open: () => createS3Store({ kind: 's3', bucket: 'b', prefix: '', region: 'eu-west-1' }),
    },
  ])('S1: are never asked through a proxy: $kind', async ({ open }) => {
    for (const name of Object.keys(process.env).filter((key) => /^(AWS|AZURE|GOOGLE|GCE)_/.test(key)))
      vi.stubEnv(name, undefined);
    vi.stubEnv('CLOUDSDK_CONFIG', '/nowhere');
    for (const name of ['AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE']) vi.stubEnv(name, '/nowhere');
    const proxy = await startProxy('refused');
    for (const name of ['HTTP_PROXY', 'HTTPS_PROXY', 'http_proxy', 'https_proxy'])
      vi.stubEnv(name, proxy.url);
    const store = open();
    closing.push(() => store.close());
    await store.head('k', { signal: AbortSignal.timeout(3000) }).catch(() => undefined);
    expect(proxy.seen.filter((call) => /169\.254|metadata|fd00/.test(call))).toEqual([]);
  });
});

describe('the environment', () => {
  it.for([
    { given: {}, proxies: undefined },
    { given: { HTTPS_PROXY: '', NO_PROXY: 'x' }, proxies: undefined },
    { given: { HTTPS_PROXY: 'p:3128' }, proxies: { HTTPS_PROXY: 'http://p:3128' } },
    {
      given: { HTTPS_PROXY: 'http://big', https_proxy: 'http://small' },
      proxies: { HTTPS_PROXY: 'http://small' },
    },
    { given: { HTTP_PROXY: 'http://p', no_proxy: '*' }, proxies: { HTTP_PROXY: 'http://p', NO_PROXY: '*' } },
  ])('$given', ({ given, proxies }) => {
    const found = proxiesOf(given);
    if (proxies === undefined) expect(found).toBeUndefined();
    else expect(found).toMatchObject(proxies);
  });

  it.for([
    { entry: 'example.com', means: ['example.com', '.example.com'] },
    { entry: '.example.com', means: ['example.com', '.example.com'] },
    { entry: '*.example.com', means: ['example.com', '.example.com'] },
    { entry: 'example.com:8080', means: ['example.com:8080'] },
    { entry: '10.1.2.3', means: ['10.1.2.3'] },
    { entry: '10.1.0.0/16', means: ['10.1.0.0-10.1.255.255'] },
    { entry: '10.1.2.3/30', means: ['10.1.2.0-10.1.2.3'] },
    { entry: '0.0.0.0/0', means: ['0.0.0.0-255.255.255.255'] },
    { entry: 'example.com.', means: ['example.com', '.example.com'] },
    { entry: 'minio.:9000', means: ['minio:9000'] },
    { entry: '10.1.', means: ['10.1.0.0-10.1.255.255'] },
    { entry: '10.*', means: ['10.0.0.0-10.255.255.255'] },
    { entry: '10.1.2.3.', means: ['10.1.2.3'] },
    { entry: '10.1.2.3:9000', means: ['10.1.2.3:9000'] },
    { entry: '10.1.2.3-10.1.2.9', means: ['10.1.2.3-10.1.2.9'] },
    { entry: 'fd00::1', means: ['fd00::1', '[fd00::1]'] },
    { entry: '[fd00::1]', means: ['fd00::1', '[fd00::1]'] },
    { entry: '[fd00::1]:9000', means: ['fd00::1:9000', '[fd00::1]:9000'] },
    { entry: 'fd00::1/128', means: ['fd00::1', '[fd00::1]'] },
  ])('NO_PROXY=$entry in the spelling of Node', ({ entry, means }) => {
    const base = proxiesOf({ HTTP_PROXY: 'http://p' })?.NO_PROXY;
    const all = proxiesOf({ HTTP_PROXY: 'http://p', NO_PROXY: ` ${entry} ,` })?.NO_PROXY;
    expect(all).toBe([base, ...means].join(','));
  });

  it.for([
    { entry: '192.0.2.', host: '192.0.2.7', isDirect: true },
    { entry: '192.0.2.', host: '192.0.3.7', isDirect: false },
    { entry: 'store.test.', host: 'store.test', isDirect: true },
    { entry: '2001:db8::1', host: '2001:db8::1', isDirect: true },
    { entry: '2001:db8::1', host: '2001:db8::2', isDirect: false },
  ])('NO_PROXY=$entry as Node takes it: $host', async ({ entry, host, isDirect }) => {
    const proxy = await startProxy('refused');
    const proxyEnv = { ...proxiesOf({ HTTP_PROXY: proxy.url, NO_PROXY: entry }) };
    await new Promise<void>((resolve) => {
      const asked = request({ host, port: 9, timeout: 300, agent: new Agent({ proxyEnv }) }, (answered) => {
        answered.resume().on('end', resolve);
      });
      asked.on('timeout', () => asked.destroy()).on('error', () => resolve());
      asked.end();
    });
    expect(proxy.seen).toHaveLength(isDirect ? 0 : 1);
  });

  it('what NO_PROXY says and is not understood is named in one warning, however often it is read', () => {
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
    const entries = [
      'fd00::/8',
      '10.0.0.0/40',
      'http://minio',
      '999.1.',
      'a..b',
      'u:canary@h',
      'good.example',
    ];
    const base = proxiesOf({ HTTP_PROXY: 'http://p' })?.NO_PROXY;
    for (let time = 1; time <= 3; time += 1)
      expect(proxiesOf({ HTTP_PROXY: 'http://p', NO_PROXY: entries.join() })?.NO_PROXY).toBe(
        `${base},good.example,.good.example`,
      );
    expect(warned).toHaveBeenCalledTimes(1);
    const [text] = warned.mock.calls[0] as [string];
    for (const entry of entries.slice(0, -2)) expect(text).toContain(`"${entry}"`);
    expect(text).not.toContain('canary');
    expect(text).not.toContain('good.example');
    proxiesOf({ NO_PROXY: '::/0' });
    expect(warned).toHaveBeenCalledTimes(1);
    warned.mockRestore();
  });

  it('is left as it is without a proxy, and gets the metadata services besides what it has with one', () => {
    const none = { NO_PROXY: 'x' };
    askMetadataDirectly(none);
    expect(none).toEqual({ NO_PROXY: 'x' });
    const some: Record<string, string | undefined> = { HTTP_PROXY: 'http://p', no_proxy: 'x' };
    askMetadataDirectly(some);
    expect(some['NO_PROXY']).toMatch(
      /^x,localhost,127\.0\.0\.1,.*169\.254\.169\.254,.*metadata\.google\.internal/,
    );
    expect(some['no_proxy']).toBe(some['NO_PROXY']);
    const again = { ...some };
    askMetadataDirectly(some);
    expect(some).toEqual(again);
  });
});
