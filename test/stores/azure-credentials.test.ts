import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { accessOf } from '../../stores/azure-credentials.ts';
import { createTokenSource } from '../../stores/azure-tokens.ts';
import { fromPlain, toPlain } from '../../stores/store-config.ts';
import type { AzureCredentials } from '../../stores/store-config.ts';

const KEY = Buffer.from('canary').toString('base64');
const SAS = 'sv=2022-11-02&sp=r&sig=canary%3D';
const config = (credentials?: AzureCredentials, serviceUrl = 'https://acct.blob.core.windows.net') => ({
  kind: 'azure' as const,
  serviceUrl,
  container: 'box',
  prefix: '',
  ...(credentials && { credentials }),
});
const connect = (text = '') =>
  accessOf(config({ way: 'connection-string', connectionString: new Secret(text) }));
const revealed = ({ signing }: ReturnType<typeof accessOf>) =>
  signing.by === 'key' ? signing.key.reveal() : signing.by === 'sas' ? signing.query.reveal() : '';

describe('a connection string', () => {
  it.for([
    [
      'of the portal',
      `DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=${KEY};EndpointSuffix=core.windows.net`,
      'https://acct.blob.core.windows.net',
    ],
    [
      'of another cloud',
      `AccountName=acct;AccountKey=${KEY};EndpointSuffix=core.chinacloudapi.cn;`,
      'https://acct.blob.core.chinacloudapi.cn',
    ],
    [
      'of an emulator',
      `DefaultEndpointsProtocol=http;AccountName=acct;AccountKey=${KEY};BlobEndpoint=http://127.0.0.1:10000/acct;`,
      'http://127.0.0.1:10000/acct',
    ],
    [
      'with a domain of its own, in other letters',
      `accountname=acct; accountkey=${KEY}; blobendpoint=https://backups.example.com/`,
      'https://backups.example.com',
    ],
  ])('%s says where and how, whatever the address is', ([, text, serviceUrl]) => {
    const access = connect(text);
    expect(access).toMatchObject({ serviceUrl, signing: { by: 'key', account: 'acct' } });
    expect(revealed(access)).toBe(KEY);
  });

  it('with a shared access signature needs no account', () => {
    const access = connect(`BlobEndpoint=https://backups.example.com;SharedAccessSignature=${SAS}`);
    expect(access).toMatchObject({ serviceUrl: 'https://backups.example.com', signing: { by: 'sas' } });
    expect(revealed(access)).toBe(SAS);
  });

  it.for([
    ['of something else', 'postgres://user:canary@host/db'],
    ['without an account', `AccountKey=${KEY}`],
    ['without a key', 'AccountName=acct;EndpointSuffix=canary'],
    ['with a key that is no base64', 'AccountName=acct;AccountKey=canary!'],
    ['with an address that is none', `AccountName=acct;AccountKey=${KEY};BlobEndpoint=canary`],
    ['with a signature that is none', 'BlobEndpoint=https://b.example.com;SharedAccessSignature=canary'],
    ['for a development machine', 'UseDevelopmentStorage=true'],
  ])('S1: %s is refused, without being quoted', ([, text]) => {
    let error: unknown;
    try {
      connect(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: 'config-invalid' });
    expect(inspect(error) + JSON.stringify(error)).not.toMatch(/canary|Y2FuYXJ5/);
  });
});

describe('other credentials', () => {
  it('are used at the address of the store', () => {
    expect(accessOf(config({ way: 'account-key', account: 'acct', key: new Secret(KEY) }))).toMatchObject({
      serviceUrl: 'https://acct.blob.core.windows.net',
      signing: { by: 'key', account: 'acct' },
    });
    expect(accessOf(config({ way: 'managed-identity' })).signing).toEqual({
      by: 'token',
      identity: 'managed',
    });
    expect(accessOf(config()).signing).toEqual({ by: 'token', identity: 'default' });
  });

  it('S1: a token is not sent in the clear', () => {
    expect(() => accessOf(config({ way: 'default' }, 'http://127.0.0.1:10000/acct'))).toThrow(
      'a token is not sent in the clear',
    );
  });
});

describe('a configuration', () => {
  const ways: AzureCredentials[] = [
    { way: 'connection-string', connectionString: new Secret('canary') },
    { way: 'account-key', account: 'acct', key: new Secret('canary') },
    { way: 'sas-token', token: new Secret('canary') },
    { way: 'managed-identity' },
    { way: 'default' },
  ];
  it.for(ways)('S1: with $way crosses into a worker thread and back, and shows no secret', (credentials) => {
    const guarded = config(credentials);
    const crossed = fromPlain(structuredClone(toPlain(guarded)));
    const plain = JSON.stringify(toPlain(crossed));
    expect(plain).toBe(JSON.stringify(toPlain(guarded)));
    expect(plain.includes('canary')).toBe(!['managed-identity', 'default'].includes(credentials.way));
    expect(JSON.stringify(crossed) + inspect(crossed, { depth: 9 })).not.toContain('canary');
  });
});

describe('tokens', () => {
  const MINUTE = 60_000;
  const { signal } = new AbortController();
  /** A giver whose tokens live an hour, and a clock to turn. */
  const giver = () => {
    const state = { now: 0, asked: 0, away: false, hangs: false };
    const source = createTokenSource(
      {
        async getToken() {
          state.asked += 1;
          if (state.hangs) await new Promise(() => undefined);
          if (state.away) throw new Error('canary: not today');
          return { token: `t${state.asked}`, expiresOnTimestamp: state.now + 60 * MINUTE };
        },
      },
      () => state.now,
    );
    return { state, source };
  };

  it('are asked for once by many, and kept', async () => {
    const { state, source } = giver();
    expect(await Promise.all([1, 2, 3].map(() => source.token(signal)))).toEqual(['t1', 't1', 't1']);
    state.now = 55 * MINUTE;
    expect(await source.token(signal)).toBe('t1');
    expect(state.asked).toBe(1);
  });

  it('are renewed before they end', async () => {
    const { state, source } = giver();
    await source.token(signal);
    state.now = 57 * MINUTE;
    expect(await source.token(signal)).toBe('t2');
  });

  it('are used to their end while no other is to be had, and it is asked for again and again', async () => {
    const { state, source } = giver();
    await source.token(signal);
    state.away = true;
    state.now = 58 * MINUTE;
    expect(await source.token(signal)).toBe('t1');
    expect(await source.token(signal)).toBe('t1');
    expect(state.asked).toBe(2);
    state.now = 59 * MINUTE;
    expect(await source.token(signal)).toBe('t1');
    expect(state.asked).toBe(3);
    state.now = 60 * MINUTE;
    await expect(source.token(signal)).rejects.toMatchObject({
      code: 'access-denied',
      message: expect.not.stringContaining('canary'),
    });
    state.away = false;
    expect(await source.token(signal)).toBe('t5');
  });

  it('are used while a renewal hangs, which nobody waits for long', async () => {
    const { state, source } = giver();
    await source.token(signal);
    state.hangs = true;
    state.now = 58 * MINUTE;
    const begin = performance.now();
    expect(await Promise.all([source.token(signal), source.token(signal)])).toEqual(['t1', 't1']);
    expect(performance.now() - begin).toBeLessThan(4000);
    expect(state.asked).toBe(2);
  });

  it('that the store refused are not used again', async () => {
    const { source } = giver();
    const first = await source.token(signal);
    source.forget('another');
    expect(await source.token(signal)).toBe(first);
    source.forget(first);
    expect(await source.token(signal)).toBe('t2');
  });

  it('are not waited for by who was aborted, and come for the others', async () => {
    let give: (token: string) => void = () => undefined;
    const source = createTokenSource({
      getToken: () =>
        new Promise((resolve) => {
          give = (token) => resolve({ token, expiresOnTimestamp: Date.now() + 60 * MINUTE });
        }),
    });
    const aborter = new AbortController();
    const [one, other] = [source.token(aborter.signal), source.token(signal)];
    aborter.abort(new Error('shutdown'));
    await expect(one).rejects.toThrow('shutdown');
    give('t');
    expect(await other).toBe('t');
  });
});
