import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { barmanObjectStoreSchema } from '../../manifests/object-store.ts';
import {
  examineDestination,
  parseDestination,
  toStoreRequest,
} from '../../manifests/object-store-location.ts';

describe('destinationPath', () => {
  test.for([
    ['s3://b/p', { kind: 's3', bucket: 'b', prefix: 'p', url: 's3://b/p' }],
    ['s3://b/p/q/', { kind: 's3', bucket: 'b', prefix: 'p/q', url: 's3://b/p/q' }],
    ['s3://b', { kind: 's3', bucket: 'b', prefix: '', url: 's3://b' }],
    ['s3://b/', { kind: 's3', bucket: 'b', prefix: '', url: 's3://b' }],
    ['S3://b/p', { kind: 's3', bucket: 'b', prefix: 'p', url: 's3://b/p' }],
    ['gs://b/p', { kind: 'gs', bucket: 'b', prefix: 'p', url: 'gs://b/p' }],
    ['file:///srv/b/', { kind: 'file', directory: '/srv/b', url: 'file:///srv/b' }],
    [
      'https://acct.blob.core.windows.net/box/pg/',
      {
        kind: 'azure',
        account: 'acct',
        container: 'box',
        prefix: 'pg',
        url: 'https://acct.blob.core.windows.net/box/pg',
      },
    ],
    [
      'http://127.0.0.1:10000/acct/box',
      {
        kind: 'azure',
        account: 'acct',
        container: 'box',
        prefix: '',
        endpoint: 'http://127.0.0.1:10000',
        url: 'http://127.0.0.1:10000/acct/box',
      },
    ],
  ] as const)('%s is understood', ([text, destination]) => {
    expect(parseDestination(text)).toEqual(destination);
  });

  test.for([
    '',
    's3://',
    's3:///p',
    's3://b//p',
    's3://b/p//',
    's3://b/../p',
    's3://b/./p',
    's3://../p',
    's3://b/p\u0000',
    's3://b/p\n',
    ' s3://b/p',
    's3://b/p?x=1',
    's3://b/p#x',
    's3://b\\p',
    '/srv/b',
    'file://srv/b',
    'file:///',
    'file:///a/../b',
    'file:///a//b',
    'file:///a%20b',
    'https://minio.example.com:9000',
    'https://acct.blob.core.windows.net/',
    'ftp://b/p',
    'b/p',
  ])('"%s" is refused', (text) => {
    expect(() => parseDestination(text)).toThrow(expect.objectContaining({ code: 'manifest-invalid' }));
  });

  test.for([
    [
      'https://acct.blob.core.windows.net/ab/pg',
      /names the Azure container "ab", and there can be none/,
      /3 to 63/,
    ],
    ['https://acct.blob.core.windows.net/Box', /names the Azure container "Box"/, /small letters/],
    ['http://127.0.0.1:10000/acct/a--b', /names the Azure container "a--b"/, /single hyphens/],
    ['https://ac.blob.core.windows.net/box/pg', /names no Azure account: "ac\.blob/, /3 to 24 small letters/],
    ['https://acct.blob.core.windows.net/', /names no Azure container/, /CONTAINER\/PREFIX/],
  ] as const)('%s: which part of it Azure would not take is said', ([text, message, fix]) => {
    expect(examineDestination(text)).toMatchObject({
      fault: { message: expect.stringMatching(message), fix: expect.stringMatching(fix) },
    });
  });

  it('tells what to write for a bare directory', () => {
    expect(examineDestination('/srv/b')).toMatchObject({
      fault: { fix: 'for a directory write file:///srv/b' },
    });
  });

  it('S2: never leaves its root, whatever is written', () => {
    const part = fc.constantFrom('..', '.', '', 'a', 'b%2e%2e', '%2e%2e', '\\..', 'ä', ' ');
    const text = fc
      .tuple(
        fc.constantFrom('s3://b/', 'gs://b/', 'file:///', 'https://acct.blob.core.windows.net/box/'),
        fc.array(part),
      )
      .map(([root, parts]) => root + parts.join('/'));
    fc.assert(
      fc.property(text, (path) => {
        const examined = examineDestination(path);
        if ('fault' in examined) return;
        const { destination } = examined;
        const key = destination.kind === 'file' ? destination.directory.slice(1) : destination.prefix;
        expect(key.startsWith('/') || key.endsWith('/')).toBe(false);
        if (key !== '') for (const folder of key.split('/')) expect(['', '.', '..']).not.toContain(folder);
      }),
    );
  });
});

describe('what is opened for a store', () => {
  const store = (fields: object) =>
    barmanObjectStoreSchema.parse({ destinationPath: 's3://b/p/', ...fields });
  const key = (name: string) => ({ name: 's3', key: name });

  it('lies below the name it is given, unless it has a serverName', () => {
    expect(toStoreRequest(store({}), 'orders').server).toBe('orders');
    expect(toStoreRequest(store({ serverName: 'orders-v2' }), 'orders').server).toBe('orders-v2');
    expect(() => toStoreRequest(store({}), '..')).toThrow('serverName');
  });

  it('asks for the secrets the manifest refers to, region included', () => {
    const s3Credentials = { accessKeyId: key('A'), secretAccessKey: key('B'), region: key('R') };
    expect(toStoreRequest(store({ s3Credentials, endpointCA: key('CA') }), 'x').secrets).toEqual({
      ...s3Credentials,
      endpointCA: key('CA'),
    });
  });

  it('asks for none where the machine has a role', () => {
    const s3Credentials = { inheritFromIAMRole: true, region: key('R') };
    expect(toStoreRequest(store({ s3Credentials }), 'x').secrets).toEqual({});
  });
});
