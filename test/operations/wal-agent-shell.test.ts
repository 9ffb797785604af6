import { spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';
import { makeTempDir } from '../support/temp.ts';

const CLIENT = fileURLToPath(new URL('../../deploy/walkeep-wal', import.meta.url));
const NAME = '00000001000000000000000A';

let directory: string;
let socket: string;
let servers: Server[];

beforeEach(() => {
  directory = makeTempDir('shell');
  socket = join(directory, 's');
  servers = [];
  mkdirSync(join(directory, 'pg_wal'));
});

afterEach(() => {
  for (const server of servers) server.close();
});

/** An agent that does with each connection, once its request is there, what the test says. */
async function agent(onRequest: (connection: Socket, request: string) => void): Promise<void> {
  const connections = new Set<Socket>();
  const server = createServer((connection) => {
    connections.add(connection);
    connection.on('error', () => undefined);
    connection.once('data', (data) => onRequest(connection, data.toString()));
  });
  servers.push(server);
  server.on('close', () => connections.forEach((connection) => connection.destroy()));
  await new Promise<void>((done) => server.listen(socket, done));
}

const http = (body: string, length = body.length) =>
  `HTTP/1.1 200 OK\r\nContent-Length: ${length}\r\n\r\n${body}`;
const answering = (body: string) => agent((connection) => connection.end(http(body)));

interface Outcome {
  readonly status: number | null;
  readonly stderr: string;
  readonly ms: number;
  /** What the full client was called with, if it was. */
  readonly fullClient: string | undefined;
}

/** Runs the shell client with a full client that notes its arguments, does `body` and exits with `status`. */
async function run(
  args: readonly string[],
  { status = 0, body = '', env = {}, onStart = (_pid: number): void => undefined } = {},
): Promise<Outcome> {
  const full = join(directory, 'full');
  const called = join(directory, 'called');
  writeFileSync(full, `#!/bin/sh\necho "$*" > ${called}\n${body}\nexit ${status}\n`);
  chmodSync(full, 0o755);
  const begin = performance.now();
  const child = spawn('/bin/sh', [CLIENT, ...args.map((arg) => (arg === 'FULL' ? full : arg))], {
    cwd: directory,
    env: { PATH: process.env['PATH'], ...env },
  });
  let stderr = '';
  child.stderr.on('data', (data) => (stderr += data));
  onStart(child.pid ?? 0);
  const code = await new Promise<number | null>((done) => child.once('close', done));
  const fullClient = existsSync(called) ? readFileSync(called, 'utf8').trim() : undefined;
  return { status: code, stderr, ms: performance.now() - begin, fullClient };
}

const PUSH = () => [
  'push',
  socket,
  `pg_wal/${NAME}`,
  'FULL',
  'wal-push',
  '--pgdata',
  '/a b',
  `pg_wal/${NAME}`,
];
const FETCH = () => [
  'fetch',
  socket,
  NAME,
  'pg_wal/RECOVERYXLOG',
  'FULL',
  'wal-fetch',
  NAME,
  'pg_wal/RECOVERYXLOG',
];

describe('walkeep-wal push', () => {
  it("A1: answers 0 on the agent's word for exactly this file, without the full client", async () => {
    let request = '';
    await agent((connection, text) => {
      request = text.split('\r\n')[0] ?? '';
      connection.end(http(`walkeep archived ${NAME}\n`));
    });
    expect(await run(PUSH())).toMatchObject({ status: 0, fullClient: undefined });
    expect(request).toBe(`POST /wal-push?name=${NAME} HTTP/1.1`);
  });

  it('A1: blanks before the word are signs of life', async () => {
    await answering(`      \n        walkeep archived ${NAME}\n`);
    expect(await run(PUSH())).toMatchObject({ status: 0, fullClient: undefined });
  });

  test.for([
    { why: 'another file', body: 'walkeep archived 00000001000000000000000B\n' },
    { why: 'a longer name', body: `walkeep archived ${NAME}.partial\n` },
    { why: 'more words', body: `walkeep archived ${NAME} not\n` },
    { why: 'another word', body: `walkeep stored ${NAME}\n` },
    { why: 'another program', body: 'OK\n' },
    { why: 'nothing', body: '' },
    { why: 'a pattern', body: 'walkeep archived *\n' },
    { why: 'no judgement', body: `walkeep unable ${NAME} cluster-unknown: nothing is applied\n` },
    { why: 'the failure of another file', body: 'walkeep failed 00000001000000000000000B wal-conflict: x\n' },
  ])('A1: an answer about $why is no answer: the full client decides', async ({ body }) => {
    await answering(body);
    const outcome = await run(PUSH(), { status: 7 });
    expect(outcome.status).toBe(7);
    expect(outcome.fullClient).toBe(`wal-push --pgdata /a b pg_wal/${NAME}`);
  });

  it("A5: the agent's failure of this file is passed on as one line, with 1", async () => {
    await answering(`walkeep failed ${NAME} wal-conflict: the archive holds other bytes\n`);
    expect(await run(PUSH())).toMatchObject({
      status: 1,
      stderr: `walkeep: ${NAME} wal-conflict: the archive holds other bytes\n`,
      fullClient: undefined,
    });
  });

  it('A1: an HTTP failure that says the word is still the word; an error page is not', async () => {
    await agent((connection) => connection.end('HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\noops\n'));
    expect(await run(PUSH(), { status: 3 })).toMatchObject({ status: 3 });
  });

  it('A1: an answer that is cut off is no answer, even when the word is whole', async () => {
    const body = `walkeep archived ${NAME}\n`;
    await agent((connection) => connection.end(http(body, body.length + 10)));
    expect(await run(PUSH(), { status: 4 })).toMatchObject({ status: 4 });
  });

  it('A1: an agent that goes away before it answers leaves the work to the full client', async () => {
    await agent((connection) => connection.destroy());
    expect(await run(PUSH())).toMatchObject({ status: 0, fullClient: expect.stringContaining('wal-push') });
  });

  it('A5: an agent that stalls is given up after seconds, in mid-answer too', async () => {
    await agent((connection) => connection.write(http('   ', 100)));
    const outcome = await run(PUSH(), { status: 5 });
    expect(outcome.status).toBe(5);
    expect(outcome.ms).toBeLessThan(9_000);
  });

  it('A5: an agent that shows signs of life may take its time', async () => {
    const line = `walkeep archived ${NAME}\n`;
    await agent((connection) => {
      connection.write('HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n');
      const life = setInterval(() => connection.write(' '.repeat(8)), 1_000);
      setTimeout(() => {
        clearInterval(life);
        connection.end(line);
      }, 9_500);
    });
    expect(await run(PUSH())).toMatchObject({ status: 0, fullClient: undefined });
  });

  it('A1: curl killed in the middle is no answer', async () => {
    let connected: () => void;
    const waiting = new Promise<void>((done) => (connected = done));
    await agent(() => connected());
    const outcome = run(PUSH(), {
      status: 6,
      onStart: (pid) => void waiting.then(() => killChildren(pid)),
    });
    expect((await outcome).status).toBe(6);
    expect((await outcome).ms).toBeLessThan(4_000);
  });

  test.for([
    { why: 'no socket', prepare: () => undefined },
    { why: 'a file in its place', prepare: () => writeFileSync(socket, '') },
  ])('works with the full client when there is $why', async ({ prepare }) => {
    prepare();
    expect(await run(PUSH())).toMatchObject({ status: 0, fullClient: expect.stringContaining('wal-push') });
  });

  it('works with the full client on a host without curl', async () => {
    await answering(`walkeep archived ${NAME}\n`);
    const outcome = await run(PUSH(), { env: { PATH: join(directory, 'nowhere') } });
    expect(outcome).toMatchObject({ status: 0, fullClient: expect.stringContaining('wal-push') });
  });

  it('does not ask for a name that can not be one', async () => {
    let asked = false;
    await agent(() => (asked = true));
    const outcome = await run(['push', socket, 'pg_wal/a b&c', 'FULL', 'pg_wal/a b&c'], { status: 9 });
    expect(outcome).toMatchObject({ status: 9, fullClient: 'pg_wal/a b&c' });
    expect(asked).toBe(false);
  });

  test.for([
    { why: 'is killed', body: 'kill -9 $$', expected: 1 },
    { why: 'is not there', full: '/nowhere/node', expected: 1 },
    { why: 'says 200', body: 'exit 200', expected: 1 },
    { why: 'says 125', body: 'exit 125', expected: 125 },
  ])('A5: exits 1 to 125 when the full client $why', async ({ body = '', full = 'FULL', expected }) => {
    expect((await run(['push', '-', `pg_wal/${NAME}`, full], { body })).status).toBe(expected);
  });

  it('follows no proxy and no .curlrc', async () => {
    await answering(`walkeep archived ${NAME}\n`);
    writeFileSync(join(directory, '.curlrc'), 'url = "http://127.0.0.1:1/"\n');
    const env = { http_proxy: 'http://127.0.0.1:1', ALL_PROXY: 'http://127.0.0.1:1', HOME: directory };
    expect(await run(PUSH(), { env })).toMatchObject({ status: 0, fullClient: undefined });
  });
});

describe('walkeep-wal fetch', () => {
  const asked = (request: string) => /[?&]to=(\S+)/.exec(request)?.[1] ?? '';

  it("C3: answers 0 on the agent's word when the file is there", async () => {
    await agent((connection, request) => {
      writeFileSync(join(directory, asked(request)), 'x');
      connection.end(http(`walkeep fetched ${NAME}\n`));
    });
    expect(await run(FETCH())).toMatchObject({ status: 0, fullClient: undefined });
    expect(readdirSync(join(directory, 'pg_wal'))).toEqual(['RECOVERYXLOG']);
  });

  it("C3: an agent that was given up can't write below a later question's file", async () => {
    const names: string[] = [];
    await agent((connection, request) => {
      names.push(asked(request));
      connection.destroy();
    });
    const body = 'echo x > pg_wal/RECOVERYXLOG';
    for (const _ of [1, 2]) expect((await run(FETCH(), { body })).status).toBe(0);
    expect(new Set([...names, 'pg_wal/RECOVERYXLOG']).size).toBe(3);
  });

  it('C3: does not believe in a file that is not there', async () => {
    await answering(`walkeep fetched ${NAME}\n`);
    expect(await run(FETCH(), { status: 64 })).toMatchObject({
      status: 1,
      fullClient: expect.stringContaining(NAME),
    });
  });

  it("C3: answers 1 on the agent's word that it is absent", async () => {
    await answering(`walkeep absent ${NAME}\n`);
    expect(await run(FETCH())).toMatchObject({ status: 1, fullClient: undefined });
  });

  test.for([
    { why: 'absence of another file', body: 'walkeep absent 00000001000000000000000B\n' },
    { why: 'a hole', body: `walkeep unable ${NAME} wal-hole: x\n` },
    { why: 'failure', body: `walkeep failed ${NAME} store-unavailable: x\n` },
  ])('C3: asks the full client about $why', async ({ body }) => {
    await answering(body);
    const outcome = await run(FETCH(), { status: 200 });
    expect(outcome).toMatchObject({ status: 200, fullClient: expect.stringContaining(NAME) });
  });

  test.for([
    { why: 'goes away', answer: (connection: Socket) => void connection.destroy() },
    { why: 'is cut in mid-answer', answer: (c: Socket) => void c.end(http(`walkeep absent ${NAME}\n`, 200)) },
    { why: 'stalls in mid-answer', answer: (c: Socket) => void c.write(http('walkeep absent', 200)) },
  ])('C3: an agent that $why says nothing about absence', async ({ answer }) => {
    await agent(answer);
    const outcome = await run(FETCH(), { status: 200 });
    expect(outcome).toMatchObject({ status: 200, fullClient: expect.stringContaining(NAME) });
    expect(outcome.ms).toBeLessThan(9_000);
  });

  it('C3: curl killed in mid-transfer says nothing about absence', async () => {
    let connected: () => void;
    const waiting = new Promise<void>((done) => (connected = done));
    await agent((connection) => {
      connection.write(http(`walkeep absent ${NAME}\n`, 200));
      connected();
    });
    const outcome = await run(FETCH(), {
      status: 200,
      onStart: (pid) => void waiting.then(() => killChildren(pid)),
    });
    expect(outcome).toMatchObject({ status: 200, fullClient: expect.stringContaining(NAME) });
  });

  test.for([
    { why: 'fetched', body: 'echo x > pg_wal/RECOVERYXLOG', status: 0, recovery: 0, standby: 0 },
    { why: 'claims to have fetched, but did not', body: '', status: 0, recovery: 200, standby: 2 },
    { why: 'proved it absent', body: '', status: 64, recovery: 1, standby: 1 },
    { why: 'could not start (Node exits 1)', body: '', status: 1, recovery: 200, standby: 2 },
    { why: 'failed', body: '', status: 200, recovery: 200, standby: 2 },
    { why: 'was killed', body: 'kill -9 $$', status: 0, recovery: 200, standby: 2 },
  ])('C3: a full client that $why: $recovery in recovery, $standby on a standby', async (row) => {
    const args = ['fetch', '-', NAME, 'pg_wal/RECOVERYXLOG', 'FULL'];
    expect((await run(args, row)).status).toBe(row.recovery);
    writeFileSync(join(directory, 'standby.signal'), '');
    expect((await run(args, row)).status).toBe(row.standby);
  });

  it('C3: a full client that is not there is no absence', async () => {
    expect((await run(['fetch', '-', NAME, 'pg_wal/RECOVERYXLOG', '/nowhere/node'])).status).toBe(200);
  });

  it('C3: tells the full client how to say that a file is absent', async () => {
    const args = ['fetch', '-', NAME, 'pg_wal/RECOVERYXLOG', 'FULL'];
    expect((await run(args, { body: 'exit "$WALKEEP_ABSENT_STATUS"' })).status).toBe(1);
  });

  it('C3: a line that is wrong is no absence', async () => {
    expect((await run([])).status).toBe(200);
    expect((await run(['fetch', NAME])).status).toBe(200);
    expect((await run(['push'])).status).toBe(2);
  });
});

/** Kills what the shell waits for at this moment: curl. */
function killChildren(pid: number): void {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .filter(Boolean);
  for (const child of children) {
    // `$(…)` is a process of its own, with curl below it
    killChildren(Number(child));
    process.kill(Number(child), 'SIGKILL');
  }
}
