import { chmodSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { inspect } from 'node:util';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { connect, connectionFromEnvironment, describeConnection } from '../../postgres/connection.ts';
import { findPassword, parseServices } from '../../postgres/service-file.ts';
import { makeTempDir } from '../support/temp.ts';

const CANARY = 'canary-pa55word-7f3a';
const options = { applicationName: 'test', signal: new AbortController().signal };
let server: Server | undefined;

async function listen(onConnection: (socket: Socket) => void): Promise<number> {
  server = createServer(onConnection).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as { port: number }).port;
}

afterEach(() => server?.close());

describe('connectionFromEnvironment', () => {
  it('reads libpq’s variables', () => {
    const env = {
      PGHOST: '/run/pg',
      PGPORT: '5433',
      PGUSER: 'me',
      PGSSLMODE: 'verify-full',
      PGPASSWORD: CANARY,
      HOME: '/x',
    };
    const settings = connectionFromEnvironment({ ...env, PGCONNECT_TIMEOUT: '3' });
    expect(settings).toMatchObject({
      host: '/run/pg',
      port: 5433,
      user: 'me',
      database: 'postgres',
      sslMode: 'verify-full',
      connectTimeoutMs: 3000,
      passwordFile: '/x/.pgpass',
    });
    expect(describeConnection(settings)).toBe('me@/run/pg:5433/postgres');
  });

  it('S1: never shows the password', () => {
    const settings = connectionFromEnvironment({ PGHOST: 'h', PGPASSWORD: CANARY });
    expect(settings.password?.reveal()).toBe(CANARY);
    expect(
      `${inspect(settings, { depth: 9 })} ${JSON.stringify(settings)} ${describeConnection(settings)}`,
    ).not.toContain(CANARY);
  });

  it('takes from a service what the environment leaves open', () => {
    const file = join(makeTempDir(), 'service');
    writeFileSync(
      file,
      '# mine\n[other]\nhost=wrong\n[prod]\nhost = db.example\nport=6000\nuser=backup\ndbname=app\n',
    );
    const settings = connectionFromEnvironment({ PGSERVICE: 'prod', PGSERVICEFILE: file, PGPORT: '7000' });
    expect(settings).toMatchObject({ host: 'db.example', port: 7000, user: 'backup', database: 'app' });
    expect(() => connectionFromEnvironment({ PGSERVICE: 'none', PGSERVICEFILE: file })).toThrow(
      'no definition of service',
    );
  });

  it.for([
    [{ PGPORT: 'abc' }, 'PGPORT'],
    [{ PGSSLMODE: 'maybe' }, 'PGSSLMODE'],
    [{ PGHOST: 'a,b' }, 'several hosts'],
  ] as const)('refuses %j', ([env, text]) => {
    expect(() => connectionFromEnvironment(env)).toThrow(text);
  });
});

describe('the files beside it', () => {
  it('a service file that can not be read is named by line, not by content', () => {
    expect(() => parseServices(`[a]\nhost=x\n${CANARY}\n`, '/etc/s')).toThrow(
      '/etc/s:3: not a line of a service file',
    );
  });

  it('finds passwords as libpq does', () => {
    const text = '#c\nother:*:*:me:no\nlocalhost:5432:*:me:so\\:cket\\\\\n*:*:*:*:any\n';
    const key = { host: 'db', port: 5432, database: 'postgres', user: 'me' };
    expect(findPassword(text, { ...key, host: '/run/pg' })).toBe('so:cket\\');
    expect(findPassword(text, key)).toBe('any');
    expect(findPassword('db:5432:postgres:you:x\n', key)).toBeUndefined();
  });
});

describe('connect', () => {
  it.for([
    [{ PGHOST: '/nowhere' }, 'postgres-unavailable', 'set PGHOST and PGPORT'],
    [{ PGHOST: '127.0.0.1', PGPORT: '1' }, 'postgres-unavailable', 'set PGHOST and PGPORT'],
  ] as const)('says where nobody listens: %j', async ([env, code, hint]) => {
    const settings = connectionFromEnvironment({ ...env, PGUSER: 'me', PGPASSWORD: CANARY });
    await expect(connect(settings, options)).rejects.toMatchObject({
      code,
      message: expect.stringContaining('connecting to me@'),
      hint: expect.stringContaining(hint),
    });
  });

  it('gives up on a server that does not answer', async () => {
    const port = await listen(() => {});
    const settings = connectionFromEnvironment(
      { PGHOST: '127.0.0.1', PGUSER: 'me' },
      { port, connectTimeoutMs: 200 },
    );
    await expect(connect({ ...settings, sslMode: 'disable' }, options)).rejects.toMatchObject({
      code: 'postgres-unavailable',
    });
    const signal = AbortSignal.timeout(100);
    const waiting = connect(
      { ...settings, connectTimeoutMs: 10_000, sslMode: 'disable' },
      { ...options, signal },
    );
    await expect(waiting).rejects.toThrow(/abort|timeout/i);
  });

  it('S1: a password file that others can read is not used, and no message or cause holds what is in it', async () => {
    const passwordFile = join(makeTempDir(), 'pgpass');
    writeFileSync(passwordFile, `*:*:*:*:${CANARY}\n`);
    chmodSync(passwordFile, 0o644);
    const askForPassword = Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 3]);
    const refuse = Buffer.from('E\0\0\0\x2bSFATAL\0C28P01\0Mpassword wrong for me\0\0', 'latin1');
    refuse.writeInt32BE(refuse.length - 1, 1);
    const port = await listen((socket) => {
      socket.once('data', () => {
        socket.write(askForPassword);
        socket.once('data', () => socket.end(refuse));
      });
      socket.on('error', () => {});
    });
    const settings = connectionFromEnvironment(
      { PGHOST: '127.0.0.1', PGUSER: 'me' },
      { port, passwordFile, sslMode: 'disable' },
    );
    const first = await connect(settings, options).catch((error: unknown) => error);
    expect(first).toMatchObject({
      code: 'postgres-denied',
      message: expect.stringContaining('can be read by others'),
    });
    chmodSync(passwordFile, 0o600);
    const second = await connect(settings, options).catch((error: unknown) => error);
    expect(second).toMatchObject({
      code: 'postgres-denied',
      message: expect.stringContaining('password wrong'),
    });
    expect(inspect([first, second], { depth: 9, showHidden: true })).not.toContain(CANARY);
  });
});
