import { readFileSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { openStore } from '../../stores/open-store.ts';
import { createS3Store } from '../../stores/s3.ts';
import type { S3Timeouts } from '../../stores/s3-client.ts';
import { runSuccessfully } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { type AwsSignIn, startAwsSignIn } from './aws-sign-in.ts';
import { startProxyDouble } from './proxy-double.ts';
import { answer, refuse, type S3Double, startS3Double } from './s3-double.ts';

const MiB = 1024 * 1024;
const signal = new AbortController().signal;

/** For 127.0.0.1, and its own authority. */
async function makeCertificate(): Promise<{ key: string; cert: string }> {
  const cwd = makeTempDir('tls');
  const line =
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=double -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem';
  await runSuccessfully('openssl', line.split(' '), { cwd });
  const read = (name: string) => readFileSync(join(cwd, name), 'utf8');
  return { key: read('key.pem'), cert: read('cert.pem') };
}

let signIn: AwsSignIn;
let double: S3Double;
let refused: number;
let tokenFile: string;

/** A store that takes only keys that were given and have not ended. */
beforeEach(async () => {
  for (const name of Object.keys(process.env).filter((key) => key.startsWith('AWS_')))
    vi.stubEnv(name, undefined);
  const directory = makeTempDir('aws');
  tokenFile = join(directory, 'token');
  writeFileSync(tokenFile, 'canary-web-token');
  vi.stubEnv('AWS_CONFIG_FILE', join(directory, 'none'));
  vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', join(directory, 'none'));
  signIn = await startAwsSignIn();
  refused = 0;
  double = await startS3Double(({ method, query, headers, at }, response) => {
    const [, id = ''] = /Credential=([^/]*)\//.exec(headers.authorization ?? '') ?? [];
    const isGood =
      (signIn.keys.get(id) ?? 0) > at && headers['x-amz-security-token'] === `canary-session-${id}`;
    if (!isGood) {
      refused += 1;
      return refuse(response, 400, 'ExpiredToken');
    }
    if (method === 'POST' && query.has('uploads'))
      return answer(
        response,
        200,
        '<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>',
      );
    if (method === 'POST')
      return answer(
        response,
        200,
        '<CompleteMultipartUploadResult><ETag>"m"</ETag></CompleteMultipartUploadResult>',
      );
    return answer(response, 200, '', { 'x-amz-checksum-crc32': 'AAAAAA==' });
  });
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await double.close();
  await signIn.close();
});

/** As a manifest with `inheritFromIAMRole` opens it: without keys. */
const open = (timeouts: Partial<S3Timeouts> = {}) => {
  const { credentials: _, ...config } = double.config;
  return createS3Store(config, { connectMs: 2000, idleMs: 20_000, callMs: 60_000, ...timeouts });
};
const usedIds = () =>
  double.seen.map(({ headers }) => /Credential=([^/]*)\//.exec(headers.authorization ?? '')?.[1]);

const WAYS = [
  {
    way: 'IRSA: STS, by the token of the service account',
    environment: () => ({
      AWS_WEB_IDENTITY_TOKEN_FILE: tokenFile,
      AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/backup',
      AWS_ENDPOINT_URL_STS: signIn.url,
    }),
    calls: ['POST /'],
    isRight: () => {
      const { form, headers } = signIn.asked[0]!;
      expect(Object.fromEntries(form)).toMatchObject({
        Action: 'AssumeRoleWithWebIdentity',
        RoleArn: 'arn:aws:iam::123456789012:role/backup',
        WebIdentityToken: 'canary-web-token',
      });
      // the token is the proof: nothing else signs this
      expect(headers.authorization).toBeUndefined();
    },
  },
  {
    way: 'EKS pod identity: the agent, by the token of its file',
    environment: () => ({
      AWS_CONTAINER_CREDENTIALS_FULL_URI: `${signIn.url}/v1/credentials`,
      AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: tokenFile,
    }),
    calls: ['GET /v1/credentials'],
    isRight: () => expect(signIn.asked[0]?.headers.authorization).toBe('canary-web-token'),
  },
  {
    way: 'the profile of the machine: IMDSv2',
    environment: () => ({ AWS_EC2_METADATA_SERVICE_ENDPOINT: signIn.url }),
    calls: [
      'PUT /latest/api/token',
      'GET /latest/meta-data/iam/security-credentials/',
      'GET /latest/meta-data/iam/security-credentials/the-role',
    ],
    isRight: () => {
      expect(signIn.asked[0]?.headers['x-aws-ec2-metadata-token-ttl-seconds']).toBe('21600');
      expect(signIn.asked[2]?.headers['x-aws-ec2-metadata-token']).toBe('canary-imds');
    },
  },
];

describe('the identity of this host', () => {
  it.for(WAYS)(
    'is asked by the right request, once for all calls: $way',
    async ({ environment, calls, isRight }) => {
      for (const [name, value] of Object.entries(environment())) vi.stubEnv(name, value);
      const store = open();
      await Promise.all(['a', 'b'].map((key) => store.put(key, Buffer.from('x'), { signal })));
      await store.put('c', Buffer.from('y'), { signal });
      await store.close();
      expect(signIn.asked.map(({ call }) => call)).toEqual(calls);
      isRight();
      expect(usedIds()).toEqual(['canary-id-1', 'canary-id-1', 'canary-id-1']);
      expect(refused).toBe(0);
    },
  );

  it.for(WAYS)(
    'is asked anew in the middle of a long upload, before its keys end: $way',
    async ({ environment }) => {
      for (const [name, value] of Object.entries(environment())) vi.stubEnv(name, value);
      signIn.livesMs = 2500;
      const slow = async function* () {
        for (let n = 0; n < 7; n++) {
          yield Buffer.alloc(16 * MiB);
          await sleep(450);
        }
      };
      const store = open();
      expect(await store.put('k', slow(), { signal })).toEqual({ sizeBytes: 7 * 16 * MiB });
      await store.close();
      expect(new Set(usedIds()).size).toBeGreaterThanOrEqual(2);
      expect(refused).toBe(0);
    },
  );

  it('is asked anew, once, when the store takes its keys for expired: its clock may be another', async () => {
    vi.stubEnv('AWS_EC2_METADATA_SERVICE_ENDPOINT', signIn.url);
    const store = open();
    await store.put('a', Buffer.from('x'), { signal });
    signIn.keys.set('canary-id-1', 0);
    await Promise.all(['b', 'c'].map((key) => store.put(key, Buffer.from('x'), { signal })));
    await store.put('d', Buffer.from('x'), { signal });
    await store.close();
    expect(signIn.keys.size).toBe(2);
    expect(usedIds().at(-1)).toBe('canary-id-2');
    expect(refused).toBeLessThanOrEqual(2);
  });

  it('however often keys are taken for expired, no connections are left behind', async () => {
    vi.stubEnv('AWS_EC2_METADATA_SERVICE_ENDPOINT', signIn.url);
    const store = open();
    await store.put('a', Buffer.from('x'), { signal });
    const sockets = () => process.getActiveResourcesInfo().filter((name) => /^TCP.*Wrap$/.test(name)).length;
    const before = sockets();
    for (let renewed = 1; renewed <= 12; renewed += 1) {
      signIn.keys.set(`canary-id-${renewed}`, 0);
      await store.put('b', Buffer.from('x'), { signal });
    }
    expect(signIn.keys.size).toBe(13);
    // One more for each renewal, were it not so.
    expect(sockets() - before).toBeLessThanOrEqual(4);
    await store.close();
  });

  it('keys that the store never takes are told as expired, not as the lack of an identity', async () => {
    vi.stubEnv('AWS_EC2_METADATA_SERVICE_ENDPOINT', signIn.url);
    vi.spyOn(signIn.keys, 'get').mockReturnValue(0);
    const store = open();
    await expect(store.put('k', Buffer.from('x'), { signal })).rejects.toMatchObject({
      code: 'access-denied',
      message: expect.stringContaining('ExpiredToken'),
    });
    await store.close();
    expect(double.seen).toHaveLength(2);
  });

  it('keys of a manifest can not be asked for anew', async () => {
    const store = double.store();
    await expect(store.put('k', Buffer.from('x'), { signal })).rejects.toMatchObject({
      code: 'access-denied',
    });
    expect(double.seen).toHaveLength(1);
  });

  const fails = async (environment: Record<string, string>) => {
    for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value);
    const store = open({ callMs: 20_000 });
    const error: unknown = await store
      .put('k', Buffer.from('x'), { signal })
      .catch((thrown: unknown) => thrown);
    await store.close();
    expect(double.seen).toEqual([]);
    expect(inspect(error, { depth: 9 })).not.toContain('canary');
    return error;
  };

  it('S1: that there is none of is access-denied, names the host and the field, and nothing is sent', async () => {
    expect(await fails({ AWS_EC2_METADATA_DISABLED: 'true' })).toMatchObject({
      code: 'access-denied',
      message: expect.stringContaining(hostname()),
      hint: expect.stringMatching(/inheritFromIAMRole.*instance profile.*accessKeyId.*AWS_ACCESS_KEY_ID/),
    });
  });

  it.for([
    {
      what: 'a machine without a role',
      refusal: { status: 404, body: 'canary' },
      way: 2,
      code: 'access-denied',
      hint: 'instance profile',
    },
    {
      what: 'a role that does not trust the token',
      refusal: {
        status: 403,
        body: '<ErrorResponse><Error><Code>AccessDenied</Code><Message>canary</Message></Error></ErrorResponse>',
      },
      way: 0,
      code: 'access-denied',
      hint: 'AWS_ROLE_ARN',
    },
    {
      what: 'an STS that is down',
      refusal: { status: 503, body: 'canary' },
      way: 0,
      code: 'store-unavailable',
      hint: 'STS',
    },
    {
      what: 'an STS that breaks off',
      refusal: { status: 0, body: '' },
      way: 0,
      code: 'store-unavailable',
      hint: 'STS',
    },
    {
      what: 'an agent that gives nothing',
      refusal: { status: 500, body: 'canary' },
      way: 1,
      code: 'store-unavailable',
      hint: 'AWS_CONTAINER_CREDENTIALS_FULL_URI',
    },
  ])('S1: $what is $code, with what to do', { timeout: 60_000 }, async ({ refusal, way, code, hint }) => {
    signIn.refusal = refusal;
    expect(await fails(WAYS[way]!.environment())).toMatchObject({
      code,
      message: expect.stringContaining('no credentials for the store'),
      hint: expect.stringContaining(hint),
    });
  });

  it('S5: STS is checked with the certificates of the system, not with endpointCA alone', async () => {
    const ofStore = await makeCertificate();
    const ofSts = await makeCertificate();
    const known = getCACertificates('default');
    const sts = await startAwsSignIn(ofSts);
    const secure = await startS3Double((_, response) => answer(response, 200), ofStore);
    for (const [name, value] of Object.entries(WAYS[0]!.environment())) vi.stubEnv(name, value);
    vi.stubEnv('AWS_ENDPOINT_URL_STS', sts.url);
    const { credentials: _, ...config } = secure.config;
    const store = createS3Store({ ...config, caPem: ofStore.cert });
    try {
      await expect(store.put('k', Buffer.from('x'), { signal })).rejects.toMatchObject({
        message: expect.stringContaining('no credentials for the store'),
      });
      setDefaultCACertificates([...known, ofSts.cert]);
      const again = createS3Store({ ...config, caPem: ofStore.cert });
      await again.put('k', Buffer.from('x'), { signal });
      await again.close();
      expect(secure.seen).toHaveLength(1);
    } finally {
      setDefaultCACertificates(known);
      await store.close();
      await secure.close();
      await sts.close();
    }
  });

  it('STS is reached by the proxy of the environment', async () => {
    const proxy = await startProxyDouble('refused');
    const { AWS_ENDPOINT_URL_STS: _, ...environment } = {
      AWS_ENDPOINT_URL_STS: '',
      ...WAYS[0]!.environment(),
    };
    for (const name of ['http_proxy', 'no_proxy', 'NO_PROXY', 'https_proxy']) vi.stubEnv(name, undefined);
    const error = await fails({ ...environment, HTTPS_PROXY: proxy.url });
    expect(error).toMatchObject({ code: 'store-unavailable', hint: expect.stringContaining('STS') });
    expect(proxy.seen[0]).toBe('CONNECT sts.us-east-1.amazonaws.com:443');
    await proxy.close();
  });

  it('a token file that is not there is access-denied, with its variable', async () => {
    expect(
      await fails({ ...WAYS[0]!.environment(), AWS_WEB_IDENTITY_TOKEN_FILE: '/nowhere/token' }),
    ).toMatchObject({
      code: 'access-denied',
      message: expect.stringContaining('ENOENT'),
      hint: expect.stringContaining('AWS_WEB_IDENTITY_TOKEN_FILE'),
    });
  });
});

it('opens by its configuration alone, too', async () => {
  vi.stubEnv('AWS_EC2_METADATA_SERVICE_ENDPOINT', signIn.url);
  const { credentials: _, ...config } = double.config;
  const store = openStore(config);
  await store.put('k', Buffer.from('x'), { signal });
  await store.close();
  expect(usedIds()).toEqual(['canary-id-1']);
});
