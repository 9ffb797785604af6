import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { scrub } from '../../activities/scrub.ts';

const CANARY = 'c4n4ryS3cr3t';

const names = fc.constantFrom(
  'password',
  'PGPASSWORD',
  'sslpassword',
  'secretAccessKey',
  'AWS_SECRET_ACCESS_KEY',
  'AWSAccessKeyId',
  'client_secret',
  'AccountKey',
  'account_key',
  'AZURE_STORAGE_KEY',
  'storageSasToken',
  'SharedAccessKey',
  'SharedAccessSignature',
  'X-Amz-Signature',
  'x-amz-security-token',
  'refresh_token',
  'api-key',
  'WALKEEP_PAYLOAD_KEY',
  'passphrase',
);
/** Of an address, where what is no letter is escaped. */
const namesOfParameters = fc.oneof(names, fc.constant('sig'));

/** The canary amid characters that a secret may have, so that none of them may end it. */
function secretOf(characters: string) {
  const around = fc.string({ unit: fc.constantFrom(...characters.split('')), maxLength: 8 });
  return fc.tuple(around, around).map(([before, after]) => `${before}${CANARY}${after}`);
}

const UNRESERVED = 'aZ09-._~';
const WORD = `${UNRESERVED}!#$%&()*+,/:<=>?@[]^{|}'`;
/** Of a word whose first character is none of those that begin something else. */
const word = secretOf(WORD).map((text) => `x${text}`);
const any = secretOf(`${WORD} "\\\n\té`);
/** `/` begins a path, unless it is escaped. */
const password = secretOf(WORD.replaceAll('/', ''));
const user = secretOf(UNRESERVED);

const nested = (name: string, value: string, depth: number): string =>
  depth === 0
    ? JSON.stringify({ user: 'u', [name]: value, more: [1, null] })
    : JSON.stringify({ status: 403, error: nested(name, value, depth - 1) });

const SPELLINGS = {
  'an assignment': fc
    .tuple(names, fc.constantFrom('=', ' = ', ': ', ':', '=>'), word)
    .map(([name, separator, value]) => `${name}${separator}${value}`),
  'JSON, and JSON within JSON': fc
    .tuple(names, any, fc.integer({ min: 0, max: 3 }))
    .map(([name, value, depth]) => nested(name, value, depth)),
  'JSON with spaces': fc
    .tuple(names, any)
    .map(([name, value]) => JSON.stringify({ [name]: value, x: 1 }, null, 2)),
  'words in quotes': fc
    .tuple(names, secretOf(WORD.replaceAll("'", ' ')))
    .map(([name, value]) => `'${name}': '${value}'`),
  'connection parameters': fc
    .tuple(fc.constantFrom('password', 'sslpassword'), secretOf(`${WORD} \\`))
    .map(([name, value]) => `host=h ${name}='${value.replaceAll(/['\\]/g, '\\$&')}' user=u`),
  'the query of an address': fc
    .tuple(namesOfParameters, any)
    .map(([name, value]) => `https://h/k?a=b&${name}=${encodeURIComponent(value)}&x=1`),
  'an address in an address': fc
    .tuple(namesOfParameters, any, fc.integer({ min: 1, max: 2 }))
    .map(([name, value, depth]) =>
      Array.from({ length: depth }).reduce<string>(
        (text) => `https://h/k?to=${encodeURIComponent(text)}`,
        `https://i/?a=1&${name}=${encodeURIComponent(value)}`,
      ),
    ),
  'the password of an address': fc
    .tuple(fc.constantFrom('postgres', 'https', 's3', 'http'), password)
    .map(([scheme, value]) => `${scheme}://user:x${value}@h:1/d`),
  'the user of an address': user.map((value) => `http://x${value}@proxy:3128`),
  'a header': fc
    .tuple(
      fc.constantFrom('Authorization: ', 'proxy-authorization: ', '"authorization":"', "Authorization: ['"),
      fc.constantFrom(
        '',
        'Basic ',
        'SharedKey acct:',
        'Bearer ',
        'AWS4-HMAC-SHA256 Credential=a, Signature=',
      ),
      secretOf(`${UNRESERVED}+/=`),
    )
    .map(([name, scheme, value]) => `${name}${scheme}${value}`),
  'a scheme alone': fc
    .tuple(fc.constantFrom('Basic', 'Bearer', 'SharedKey', 'SharedKeyLite'), secretOf(`${UNRESERVED}+/=:`))
    .map(([scheme, value]) => `${scheme} ${value}`),
  'a list': fc
    .tuple(names, secretOf(`${WORD.replaceAll(']', ' ')}"`))
    .map(([name, value]) => JSON.stringify({ [`${name}s`]: ['a', value, 'b'] })),
};

describe('scrub', () => {
  const prose = fc.constantFrom('', 'failed: ', 'object base/20260101T000000/data.tar (5 bytes), ', 'é\n');

  it.for(Object.entries(SPELLINGS))('S1: no secret survives in %s', ([, spelling]) => {
    fc.assert(
      fc.property(prose, spelling, prose, (before, text, after) => {
        const whole = `${before}${text} ${after}`;
        expect(scrub(whole)).not.toContain(CANARY);
        expect(scrub(scrub(whole))).not.toContain(CANARY);
      }),
      { numRuns: 300 },
    );
  });

  it('S1: nor in a text that was cut', () => {
    const texts = fc.oneof(
      SPELLINGS['an assignment'],
      SPELLINGS['JSON, and JSON within JSON'],
      SPELLINGS['the query of an address'],
      SPELLINGS['a header'],
    );
    fc.assert(
      fc.property(texts, fc.nat(), (text, at) => {
        const end = text.indexOf(CANARY) + CANARY.length;
        expect(scrub(text.slice(0, end + (at % (text.length - end + 1))))).not.toContain(CANARY);
      }),
      { numRuns: 1_000 },
    );
  });

  it('S1: nor in a line of the log, which is JSON before and after', () => {
    fc.assert(
      fc.property(fc.oneof(...Object.values(SPELLINGS)), names, any, (text, name, value) => {
        const line = scrub(
          `${JSON.stringify({ level: 'info', [name]: value, token: 12, hasSecret: true, error: { message: text }, last: 'z' })}\n`,
        );
        expect(line).not.toContain(CANARY);
        expect(JSON.parse(line)).toMatchObject({
          level: 'info',
          [name]: '[secret]',
          token: '[secret]',
          hasSecret: true,
          last: 'z',
        });
      }),
      { numRuns: 1_000 },
    );
  });

  it.for([
    'segment 000000010000000000000002 is not in s3://bucket/prefix (expected 16777216 bytes)',
    'put https://h:9000/bucket/base/20260101T000000/data.tar failed: SlowDown, status 503',
    'the object s3://bucket/x@y and https://h:9000/bucket/a@b?versionId=3',
    'connect ECONNREFUSED postgres://walkeep@db:5432/postgres',
    'password authentication failed for user "walkeep"',
    'walkeep create secret generic NAME --from-literal=KEY=VALUE',
    'it looks like sv=…&sp=racwdl&sig=…, and is the part of a SAS URL behind the question mark',
    'restore: field "source.barmanObjectStore.s3Credentials": half a key pair: accessKeyId is given',
    'write googleCredentials: {gkeEnvironment: true}, or accessKeyId: {name: SECRET, key: KEY}',
    'cannot read /run/secrets/store/SECRET_ACCESS_KEY: ENOENT: no such file or directory',
    'SignatureDoesNotMatch: The request signature we calculated does not match',
    'InvalidToken: The provided token is malformed; CredentialsProviderError: Could not load credentials',
    'AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/token is no file; token_uri: https://oauth2.googleapis.com/token',
    '{"hasPassword":true,"token":null,"key":"wals/0000000100000000/000000010000000000000002.gz"}',
    'at createSecretResolver (file:///srv/walkeep/operations/secret-resolver.ts:12:3)',
  ])('%s stays as it is', (text) => {
    expect(scrub(text)).toBe(text);
    expect(scrub(JSON.stringify({ msg: text }))).toBe(JSON.stringify({ msg: text }));
  });

  it.for([
    `postgresql://walkeep:${CANARY}@db:5432/postgres`,
    `password=${CANARY} host=db`,
    `BlobEndpoint=https://a/;SharedAccessSignature=sv=1&sig=${CANARY}`,
    `got ya29.${CANARY} from the metadata server`,
    `refused 1//0${CANARY}`,
    `assertion eyJhbGciOiJSUzI1NiJ9.${CANARY}.${CANARY} was refused`,
    `-----BEGIN PRIVATE KEY-----\n${CANARY}\n-----END PRIVATE KEY-----`,
    `{"private_key":"-----BEGIN PRIVATE KEY-----\\n${CANARY}`,
    `https%3A%2F%2Fuser%3A${CANARY}%40proxy`,
    `Authorization: SharedKey acct:${CANARY}=`,
    `{\\"password\\": \\"${CANARY}\\"}`,
    `{"error":"{\\"AccountKey\\":\\"${CANARY}==\\"}"}`,
    `sig: ${CANARY}`,
    `url?x=1%26sig%3D${CANARY}`,
    `?AWSAccessKeyId=${CANARY}&Signature=${CANARY}&Expires=1`,
  ])('S1: takes the secret out of %s', (text) => {
    expect(scrub(text)).not.toContain(CANARY);
  });

  it('what stands around a secret stays readable', () => {
    expect(scrub('get https://a/c/k?sv=1&sig=abc%2F%3D&se=2 failed')).toBe(
      'get https://a/c/k?sv=1&sig=[secret]&se=2 failed',
    );
    expect(scrub('AccountName=a;AccountKey=abc==;EndpointSuffix=core.windows.net')).toBe(
      'AccountName=a;AccountKey=[secret];EndpointSuffix=core.windows.net',
    );
    expect(scrub('connect postgres://u:p@x@db:5432/shop failed, password=abc host=db')).toBe(
      'connect postgres://u:[secret]@db:5432/shop failed, password=[secret] host=db',
    );
  });

  it('takes no time over long lines', () => {
    const began = performance.now();
    for (const part of [
      'token-',
      'a',
      'password',
      '\\"',
      'https://',
      'eyJa.',
      "secret:'",
      'secret:\\"',
      '&sig=c',
      '[',
    ])
      scrub(part.repeat(40_000 / part.length));
    expect(performance.now() - began).toBeLessThan(20_000);
  });
});
