import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, test, vi } from 'vitest';
import type { ErrorCode } from '../../core/errors.ts';
import { Secret } from '../../core/secret.ts';
import { createGcsStore } from '../../stores/gcs.ts';
import { fromPlain, type GoogleCredentials, toPlain } from '../../stores/store-config.ts';
import { runSuccessfully } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { answer, type GcsDouble, refuse, type Script, startGcsDouble } from './gcs-double.ts';
import { EMAIL, type SignIn, startSignIn } from './gcs-sign-in.ts';

const MiB = 1024 * 1024;
const signal = new AbortController().signal;
const options = { signal };
const code = (expected: ErrorCode) => ({ name: 'BackupError', code: expected });
const SCOPE = 'https://www.googleapis.com/auth/devstorage.read_write';

let double: GcsDouble;
let signIn: SignIn;
const start = async (script?: Script) => (double = await startGcsDouble(script));
const open = (credentials: GoogleCredentials) => double.store({ credentials });
const withKey = () => open({ way: 'json', json: signIn.serviceAccount });
const authorizations = () => double.seen.map(({ headers }) => headers.authorization);

beforeEach(async () => {
  signIn = await startSignIn();
  for (const name of [
    'GOOGLE_APPLICATION_CREDENTIALS',
    'STORAGE_EMULATOR_HOST',
    'GOOGLE_CLOUD_QUOTA_PROJECT',
  ]) {
    vi.stubEnv(name, undefined);
  }
  vi.stubEnv('GCE_METADATA_HOST', signIn.host);
  vi.stubEnv('CLOUDSDK_CONFIG', '/nowhere');
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await double.close();
  await signIn.close();
});

/** A body of `chunks` chunks, the one after the other with a pause. */
async function* slowly(chunks: number, pauseMs: number) {
  for (let n = 0; n < chunks; n++) {
    yield Buffer.alloc(8 * MiB);
    await sleep(pauseMs);
  }
}

describe('a service account', () => {
  it('signs in with its key at the address of its file, once for all calls', async () => {
    await start();
    const store = withKey();
    await Promise.all([store.put('k', Buffer.from('x'), options), store.head('k', options)]);
    await store.head('k', options);
    expect(signIn.seen).toHaveLength(1);
    const [request] = signIn.seen;
    expect(request).toMatchObject({ method: 'POST', path: '/token' });
    expect(request!.form.get('grant_type')).toBe('urn:ietf:params:oauth:grant-type:jwt-bearer');
    const claims = signIn.claimsOf(request!);
    expect(claims).toMatchObject({ iss: EMAIL, scope: SCOPE, aud: `http://${signIn.host}/token` });
    expect(Math.abs(Number(claims['iat']) - Date.now() / 1000)).toBeLessThan(10);
    expect(Number(claims['exp']) - Number(claims['iat'])).toBe(3600);
    expect(authorizations()).toEqual(Array.from({ length: 3 }, () => 'Bearer canary-token-1'));
  });

  it('gets another token before the first ends, in the middle of an upload', async () => {
    signIn.lifetimeSeconds = 301; // a second longer than it is used
    const accepted: boolean[] = [];
    await start(({ headers }) => {
      accepted.push(headers.authorization === `Bearer ${signIn.token()}`);
      return false;
    });
    await withKey().put('k', slowly(4, 500), options);
    expect(double.calls().filter((name) => name.startsWith('chunk'))).toHaveLength(4);
    expect(accepted).not.toContain(false);
    expect(new Set(authorizations()).size).toBeGreaterThan(1);
    expect(double.stored()).toHaveLength(32 * MiB);
  });

  it('uses its token for its last minutes while no other can be had', async () => {
    signIn.lifetimeSeconds = 200;
    await start();
    const store = withKey();
    await store.head('k', options);
    signIn.refuse = (response) => answer(response, 503);
    expect(await store.head('k', options)).toBeUndefined();
    expect(authorizations()).toEqual(['Bearer canary-token-1', 'Bearer canary-token-1']);
  });

  it('gets another token when the store refuses the first, once', async () => {
    await start(({ headers }, response) =>
      headers.authorization === 'Bearer canary-token-1' ? refuse(response, 401, 'authError') : false,
    );
    await withKey().put('k', Buffer.from('x'), options);
    expect(authorizations()).toEqual(['Bearer canary-token-1', 'Bearer canary-token-2']);
    await double.close();
    await start((_, response) => refuse(response, 401, 'authError'));
    await expect(withKey().put('k', Buffer.from('x'), options)).rejects.toMatchObject(code('access-denied'));
    expect(double.seen).toHaveLength(2);
  });

  it.for<{ status: number; error: string; becomes: ErrorCode }>([
    { status: 400, error: 'invalid_grant', becomes: 'access-denied' },
    { status: 401, error: 'invalid_client', becomes: 'access-denied' },
    { status: 429, error: 'rate', becomes: 'store-unavailable' },
    { status: 500, error: 'internal_failure', becomes: 'store-unavailable' },
    { status: 200, error: 'none', becomes: 'store-unavailable' },
  ])(
    'S1: that is refused with $status $error is $becomes, without its key',
    async ({ status, error, becomes }) => {
      await start();
      signIn.refuse = (response) => answer(response, status, { error, error_description: 'canary-text' });
      const thrown: unknown = await withKey()
        .head('k', options)
        .catch((failure: unknown) => failure);
      expect(thrown).toMatchObject(code(becomes));
      expect(double.seen).toEqual([]);
      expectNoSecret(thrown);
    },
  );

  it('whose token server does not listen is store-unavailable', async () => {
    await start();
    const store = withKey();
    await signIn.close();
    await expect(store.head('k', options)).rejects.toMatchObject(code('store-unavailable'));
    signIn = await startSignIn();
  });

  it('whose token server hangs ends with the signal, at once', async () => {
    await start();
    signIn.refuse = () => undefined;
    const aborter = new AbortController();
    setTimeout(() => aborter.abort(new Error('shutdown')), 50);
    const begin = performance.now();
    await expect(withKey().head('k', { signal: aborter.signal })).rejects.toThrow('shutdown');
    expect(performance.now() - begin).toBeLessThan(3000);
  });

  test.for([
    ['no JSON', 'canary {'],
    ['no object', '"canary"'],
    ['no type', '{"canary":1}'],
    ['no key', '{"type":"service_account","client_email":"canary"}'],
    ['no real key', '{"type":"service_account","client_email":"a@b","private_key":"canary"}'],
  ] as const)('S1: a file with %s is refused, and nothing of it shown', async ([, text]) => {
    await start();
    const thrown: unknown = await open({ way: 'json', json: new Secret(text) })
      .head('k', options)
      .catch((failure: unknown) => failure);
    expect(thrown).toMatchObject(code('config-invalid'));
    expectNoSecret(thrown);
  });

  it('S1: is sent to nobody in the clear', async () => {
    await start();
    const credentials = { way: 'json' as const, json: signIn.serviceAccount };
    const store = double.store({ endpointUrl: 'http://storage.example.com', credentials });
    await expect(store.head('k', options)).rejects.toMatchObject(code('config-invalid'));
    expect(signIn.seen).toEqual([]);
  });

  it('S1: does not follow an upload to another host', async () => {
    const other = await startGcsDouble();
    await start((request, response) => {
      if (request.name !== 'begin') return false;
      const location = `${other.config.endpointUrl}/upload/x?upload_id=canary-session`;
      answer(response, 200, undefined, { location });
      return true;
    });
    await withKey().put('k', slowly(2, 0), options);
    expect(other.seen.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined]);
    await other.close();
  });
});

describe('an endpoint with TLS', () => {
  it('is checked with endpointCA, and sent a token', async () => {
    const cwd = makeTempDir('gcs-tls');
    for (const name of ['own', 'other']) {
      const words = `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=${name} -addext subjectAltName=IP:127.0.0.1 -keyout ${name}.key -out ${name}.pem`;
      await runSuccessfully('openssl', words.split(' '), { cwd });
    }
    const file = (name: string) => readFileSync(join(cwd, name));
    double = await startGcsDouble(undefined, { cert: file('own.pem'), key: file('own.key') });
    const credentials = { way: 'json', json: signIn.serviceAccount } as const;
    const trusting = double.store({ credentials, caPem: file('own.pem').toString() });
    await trusting.put('k', slowly(2, 0), options);
    expect(double.stored()).toHaveLength(16 * MiB);
    expect(new Set(authorizations())).toEqual(new Set(['Bearer canary-token-1']));
    const seen = double.seen.length;
    for (const caPem of [undefined, file('other.pem').toString()]) {
      const store = double.store({ credentials, ...(caPem === undefined ? {} : { caPem }) });
      await expect(store.head('k', options)).rejects.toMatchObject(code('config-invalid'));
    }
    expect(double.seen).toHaveLength(seen);
  });
});

describe('the identity of the host', () => {
  it('asks the metadata server for a token, and says so to the store', async () => {
    await start();
    await open({ way: 'ambient' }).put('k', Buffer.from('x'), options);
    expect(signIn.seen).toHaveLength(1);
    expect(signIn.seen[0]).toMatchObject({
      method: 'GET',
      path: '/computeMetadata/v1/instance/service-accounts/default/token',
      headers: { 'metadata-flavor': 'Google' },
    });
    expect(signIn.seen[0]!.query.get('scopes')).toBe(SCOPE);
    expect(authorizations()).toEqual(['Bearer canary-token-1']);
  });

  it('gets another token before the first ends, in the middle of an upload', async () => {
    signIn.lifetimeSeconds = 301;
    const accepted: boolean[] = [];
    await start(({ headers }) => {
      accepted.push(headers.authorization === `Bearer ${signIn.token()}`);
      return false;
    });
    await open({ way: 'ambient' }).put('k', slowly(4, 500), options);
    expect(accepted).not.toContain(false);
    expect(new Set(authorizations()).size).toBeGreaterThan(1);
  });

  it.for<{ status: number; becomes: ErrorCode }>([
    { status: 403, becomes: 'access-denied' },
    { status: 404, becomes: 'access-denied' },
  ])('S1: that is refused with $status is $becomes', async ({ status, becomes }) => {
    await start();
    signIn.refuse = (response) => answer(response, status, undefined, { 'metadata-flavor': 'Google' });
    const thrown: unknown = await open({ way: 'ambient' })
      .head('k', options)
      .catch((failure: unknown) => failure);
    expect(thrown).toMatchObject(code(becomes));
    expect(double.seen).toEqual([]);
  });

  it('comes back when the metadata server was away', { timeout: 60_000 }, async () => {
    await start();
    const store = open({ way: 'ambient' });
    signIn.refuse = (response) => answer(response, 503, undefined, { 'metadata-flavor': 'Google' });
    await expect(store.head('k', options)).rejects.toMatchObject(code('store-unavailable'));
    signIn.refuse = undefined;
    expect(await store.head('k', options)).toBeUndefined();
  });

  it('that there is none of is told, and found when it comes', async () => {
    await start();
    vi.stubEnv('METADATA_SERVER_DETECTION', 'none');
    const store = open({ way: 'ambient' });
    await expect(store.head('k', options)).rejects.toMatchObject({
      ...code('access-denied'),
      hint: expect.stringContaining('applicationCredentials'),
    });
    vi.stubEnv('METADATA_SERVER_DETECTION', undefined);
    expect(await store.head('k', options)).toBeUndefined();
  });
});

describe('a configuration', () => {
  test.for([{ way: 'json', json: new Secret('canary') }, { way: 'ambient' }, undefined] as const)(
    'S1: crosses into a worker thread and back, and shows no secret: %j',
    async (credentials) => {
      await start();
      const config = { ...double.config, ...(credentials && { credentials }) };
      const crossed = fromPlain(structuredClone(toPlain(config)));
      expect(toPlain(crossed)).toEqual(toPlain(config));
      expect(JSON.stringify(crossed) + inspect(crossed, { depth: 9 })).not.toContain('canary');
    },
  );
});

describe('an emulator', () => {
  it('at an endpoint without TLS is asked by nobody, unless credentials are given', async () => {
    await start();
    await double.store().head('k', options);
    expect(authorizations()).toEqual([undefined]);
    expect(signIn.seen).toEqual([]);
  });

  test.for(['http://HOST', 'HOST'])(
    'S1: in STORAGE_EMULATOR_HOST (%s) never sees what opens the real store',
    async (form) => {
      await start();
      vi.stubEnv('STORAGE_EMULATOR_HOST', form.replace('HOST', new URL(double.config.endpointUrl!).host));
      for (const credentials of [{ way: 'json', json: signIn.serviceAccount }, { way: 'ambient' }] as const) {
        const store = createGcsStore({ kind: 'gs', bucket: 'bucket', prefix: '', credentials });
        await store.head('k', options);
        await store.close();
      }
      expect(authorizations()).toEqual([undefined, undefined]);
    },
  );
});

function expectNoSecret(thrown: unknown): void {
  const shown = inspect(thrown, { depth: 9, showHidden: true }) + JSON.stringify(thrown);
  expect(shown).not.toContain('canary');
  for (const line of signIn.keyLines) expect(shown).not.toContain(line);
  expect(shown).not.toMatch(/assertion|bearer/i);
}
