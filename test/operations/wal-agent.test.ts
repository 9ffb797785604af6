import { existsSync, lstatSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { spawn } from 'node:child_process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BackupError } from '../../core/errors.ts';
import { parseWalFileName, type WalFile } from '../../core/segment.ts';
import { createArchiveSource, type ArchiveTarget } from '../../operations/archive-source.ts';
import {
  createWalAgent,
  type WalAgent,
  type WalAgentEvent,
  type WalAgentPorts,
} from '../../operations/wal-agent.ts';
import { createUploads } from '../../operations/wal-uploads.ts';
import { createRepository } from '../../repository/repository.ts';
import { faulty, type Fault } from '../../stores/faulty.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { makeTempDir } from '../support/temp.ts';
import { until } from '../support/wait.ts';
import { makeSegment, SYSTEM_ID } from '../support/wal-bytes.ts';

const { signal } = new AbortController();
const nth = (number: number) => `0000000100000000000000${number.toString(16).toUpperCase().padStart(2, '0')}`;

let pgdata: string;
let socketPath: string;
let store: ObjectStore;
let agents: WalAgent[];
let events: WalAgentEvent[];

beforeEach(() => {
  const home = makeTempDir('agent');
  pgdata = join(home, 'data');
  socketPath = join(home, 'run', 'a.sock');
  mkdirSync(join(pgdata, 'pg_wal', 'archive_status'), { recursive: true });
  store = createMemoryStore();
  agents = [];
  events = [];
});

afterEach(async () => {
  await Promise.all(agents.map((agent) => agent.stop({ drainMs: 0 })));
});

interface Setting {
  readonly store?: ObjectStore;
  readonly maxParallel?: number;
  readonly revision?: () => string;
  readonly open?: () => Promise<Omit<ArchiveTarget, 'revision'>>;
}

async function start(setting: Setting = {}, ports: Partial<WalAgentPorts> = {}): Promise<WalAgent> {
  const open =
    setting.open ??
    (async () => ({
      repository: createRepository(setting.store ?? store, 'pg'),
      storage: { codec: 'none' as const },
      maxParallel: setting.maxParallel ?? 1,
    }));
  const source = createArchiveSource(async () => ({ revision: setting.revision?.() ?? '1', open }));
  const identity = () => Promise.resolve({ systemId: SYSTEM_ID.toString(), segmentSize: 1024 * 1024 });
  const agent = createWalAgent({
    socketPath,
    pgdata,
    source,
    identity,
    report: (event) => events.push(event),
    ...ports,
  });
  await agent.start();
  agents.push(agent);
  return agent;
}

/** Writes segments into `pg_wal`, with the marks that say they are ready. */
function ready(...names: string[]): void {
  for (const name of names) {
    const bytes = name.endsWith('.history') ? Buffer.from('1\t0/100000\tx\n') : makeSegment(name);
    writeFileSync(join(pgdata, 'pg_wal', name), bytes);
    writeFileSync(join(pgdata, 'pg_wal', 'archive_status', `${name}.ready`), '');
  }
}

/** As PostgreSQL does when the command has answered 0. */
function done(name: string): void {
  rmSync(join(pgdata, 'pg_wal', 'archive_status', `${name}.ready`));
  writeFileSync(join(pgdata, 'pg_wal', 'archive_status', `${name}.done`), '');
}

function ask(path: string, method = 'POST'): Promise<string> {
  return new Promise((resolve, reject) => {
    const asking = request({ socketPath, path, method }, (response) => {
      let body = '';
      response.on('data', (data) => (body += data));
      response.once('end', () => resolve(body));
      response.once('error', reject);
    });
    asking.once('error', reject);
    asking.end();
  });
}

const push = (name: string) => ask(`/wal-push?name=${name}`);

async function walKeys(): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list('pg/wals/', { signal }))
    keys.push(key.slice(key.lastIndexOf('/') + 1));
  return keys;
}

/** A store whose puts of WAL wait for `release`, and that notes the order and how many run at once. */
function gated() {
  const begun: string[] = [];
  const waiting = new Map<string, () => void>();
  let isOpen = false;
  let running = 0;
  let most = 0;
  const gate: ObjectStore = {
    ...store,
    put: async (key, body, options) => {
      if (!key.includes('/wals/')) return store.put(key, body, options);
      const name = key.slice(key.lastIndexOf('/') + 1);
      begun.push(name);
      most = Math.max(most, ++running);
      if (!isOpen) await new Promise<void>((go) => waiting.set(name, go));
      running -= 1;
      return store.put(key, body, options);
    },
  };
  const release = (name: string) => waiting.get(name)?.();
  const open = () => {
    isOpen = true;
    for (const go of waiting.values()) go();
  };
  return { store: gate, begun, release, open, most: () => most };
}

describe('the archiving agent', () => {
  it('A1: answers with exactly one line, when the file is in the archive', async () => {
    await start();
    ready(nth(1));
    expect(await push(nth(1))).toBe(`walkeep archived ${nth(1)}\n`);
    expect(await walKeys()).toEqual([nth(1)]);
    expect(events).toMatchObject([{ request: 'wal-push', name: nth(1), answer: 'archived' }]);
  });

  it('A3: says that other bytes are refused, and it is final', async () => {
    await start();
    ready(nth(1));
    await push(nth(1));
    writeFileSync(join(pgdata, 'pg_wal', nth(1)), makeSegment(nth(1), { seed: 9 }));
    expect(await push(nth(1))).toMatch(new RegExp(`^walkeep failed ${nth(1)} wal-conflict: [^\n]+\n$`));
  });

  it('A3, fault 25: a copy that was damaged is replaced, counted, and told of', async () => {
    const alerts: string[] = [];
    ready(nth(1));
    await start();
    expect((await push(nth(1))).trim()).toBe(`walkeep archived ${nth(1)}`);
    const key = `pg/wals/0000000100000000/${nth(1)}`;
    const metadata = await (await store.get(key, { signal }))?.metadata();
    await store.put(key, makeSegment(nth(1), { seed: 2 }), { signal, ...(metadata && { metadata }) });
    await agents.pop()?.stop({ drainMs: 0 });
    const agent = await start({}, { alert: (message) => void alerts.push(message) });
    expect((await push(nth(1))).trim()).toBe(`walkeep archived ${nth(1)}`);
    expect(alerts).toEqual([expect.stringContaining(`${key} was damaged`)]);
    expect((await agent.status()).uploads).toMatchObject({ files: 1, repaired: 1, failed: 0 });
  });

  it('S2: names are parsed before anything is opened, and a hostile one can not forge an answer', async () => {
    await start();
    for (const name of ['../../etc/passwd', 'x', '', `${nth(1)}%0Awalkeep%20archived%20${nth(1)}`]) {
      const answer = await push(name);
      expect(answer).toMatch(/^walkeep failed \S+ format-invalid: [^\n]*\n$/);
    }
  });

  it('A5: a failure is never the answer to the next call', async () => {
    const plan: Fault[] = [{ on: 'put', matching: 'wals', nth: 2, does: 'error', code: 'store-full' }];
    await start({ store: faulty(store, plan) });
    ready(nth(1));
    expect(await push(nth(1))).toMatch(/^walkeep unable \S+ store-full: /);
    expect(await push(nth(1))).toBe(`walkeep archived ${nth(1)}\n`);
  });

  it('A5: with no manifest applied it says so, and goes on as soon as there is one', async () => {
    let isApplied = false;
    const open = async () => {
      if (!isApplied) throw new BackupError('cluster-unknown', 'no manifest of prod/pg is applied');
      return {
        repository: createRepository(store, 'pg'),
        storage: { codec: 'none' as const },
        maxParallel: 1,
      };
    };
    await start({ open });
    ready(nth(1));
    expect(await push(nth(1))).toMatch(
      /^walkeep unable \S+ cluster-unknown: no manifest of prod\/pg is applied; /,
    );
    isApplied = true;
    expect(await push(nth(1))).toBe(`walkeep archived ${nth(1)}\n`);
  });

  it('A5: a store that stalls gets a clear answer in time; the upload goes on and the next call finds it', async () => {
    const gate = gated();
    await start({ store: gate.store }, { answerWithinMs: 1_200 });
    ready(nth(1));
    const answer = await push(nth(1));
    // signs of life came before the one line
    expect(answer).toMatch(/^ +walkeep failed \S+ deadline-exceeded: [^\n]+\n$/);
    gate.open();
    expect(await push(nth(1))).toBe(`walkeep archived ${nth(1)}\n`);
    expect(gate.begun).toEqual([nth(1)]);
  });

  it('opens the archive anew when the manifest changed, and believes nothing it stored elsewhere', async () => {
    let revision = '1';
    const stores = { '1': store, '2': createMemoryStore() } as Record<string, ObjectStore>;
    const open = async () => ({
      repository: createRepository(stores[revision] as ObjectStore, 'pg'),
      storage: { codec: 'none' as const },
      maxParallel: 1,
    });
    await start({ open, revision: () => revision });
    ready(nth(1));
    await push(nth(1));
    revision = '2';
    store = stores['2'] as ObjectStore;
    expect(await walKeys()).toEqual([]);
    expect(await push(nth(1))).toBe(`walkeep archived ${nth(1)}\n`);
    expect(await walKeys()).toEqual([nth(1)]);
  });

  it('A4, A7: what is known of one archive is never believed of another, also when the manifest changes meanwhile', async () => {
    const stores = [createMemoryStore(), createMemoryStore()] as const;
    const [first, second] = stores.map((to, at): ArchiveTarget => ({
      repository: createRepository(to, 'pg'),
      storage: { codec: 'none' },
      maxParallel: 1,
      revision: String(at),
    })) as [ArchiveTarget, ArchiveTarget];
    const begun: ((target: ArchiveTarget) => void)[] = [];
    const source = {
      current: () => new Promise<ArchiveTarget>((open) => begun.push(open)),
      opened: () => undefined,
      forget: () => undefined,
      close: async () => undefined,
    };
    const identity = async () => ({ systemId: SYSTEM_ID.toString(), segmentSize: 1024 * 1024 });
    const uploads = createUploads({ pgdata, source, identity, signal });
    const segment = (number: number) => `00000002${nth(number).slice(8)}`;
    ready('00000002.history', ...[5, 6].map(segment));
    done('00000002.history');
    const ensure = (number: number) =>
      uploads.ensure(parseWalFileName(segment(number)) as WalFile, new AbortController().signal);
    // two questions at once, and the manifest changed between their looks at it
    const asked = [ensure(5), ensure(6)];
    begun[0]?.(first);
    begun[1]?.(second);
    await Promise.all(asked);
    await uploads.settled();
    const keys: string[] = [];
    for await (const { key } of stores[1].list('pg/wals/', { signal })) keys.push(key);
    expect(keys).toContain('pg/wals/00000002.history');
    expect(keys).toContain(`pg/wals/0000000200000000/${segment(6)}`);
  });

  it('reads a rotated secret: a refused key opens the archive anew', async () => {
    let opened = 0;
    const open = async () => {
      opened += 1;
      const plan: Fault[] = opened === 1 ? [{ on: 'list', does: 'error', code: 'access-denied' }] : [];
      return {
        repository: createRepository(faulty(store, plan), 'pg'),
        storage: { codec: 'none' as const },
        maxParallel: 1,
      };
    };
    await start({ open });
    ready(nth(1));
    expect(await push(nth(1))).toMatch(/^walkeep unable \S+ access-denied: /);
    expect(await push(nth(1))).toBe(`walkeep archived ${nth(1)}\n`);
  });
});

describe('looking ahead', () => {
  it('uploads what is ready in PostgreSQL’s order, histories first, never more than maxParallel at once', async () => {
    const gate = gated();
    const agent = await start({ store: gate.store, maxParallel: 2 });
    ready(nth(5), nth(3), nth(4), nth(6), nth(7));
    ready('00000002.history');
    const asked = push(nth(3));
    await until('two uploads', () => gate.begun.length === 2);
    expect(gate.begun.toSorted()).toEqual([nth(3), '00000002.history']);
    gate.release('00000002.history');
    await until('a third upload', () => gate.begun.length === 3);
    expect(gate.begun[2]).toBe(nth(4));
    gate.open();
    expect(await asked).toBe(`walkeep archived ${nth(3)}\n`);
    await until('all of it', async () => (await agent.status()).uploads.files === 6);
    expect(gate.most()).toBe(2);
  });

  it('answers from what it stored ahead, after it compared the file again', async () => {
    const agent = await start({ maxParallel: 2 });
    ready(nth(1), nth(2), nth(3));
    await push(nth(1));
    await until('uploads ahead', async () => (await agent.status()).uploads.ahead === 2);
    expect(await push(nth(2))).toBe(`walkeep archived ${nth(2)}\n`);
    expect((await agent.status()).answers).toMatchObject({ archived: 2, archivedAhead: 1 });

    // A1: what was stored is not what PostgreSQL asks about now
    writeFileSync(join(pgdata, 'pg_wal', nth(3)), makeSegment(nth(3), { seed: 7 }));
    expect(await push(nth(3))).toMatch(/^walkeep failed \S+ wal-conflict: /);
  });

  it('takes only what is marked ready', async () => {
    const agent = await start({ maxParallel: 4 });
    ready(nth(1), nth(2), nth(3));
    done(nth(2));
    rmSync(join(pgdata, 'pg_wal', 'archive_status', `${nth(3)}.ready`));
    await push(nth(1));
    await until('quiet', async () => (await agent.status()).uploads.running === 0);
    expect(await walKeys()).toEqual([nth(1)]);
  });

  it('does not run away from PostgreSQL: so many files ahead, and no more', async () => {
    const agent = await start({ maxParallel: 1 });
    ready(...Array.from({ length: 12 }, (_, at) => nth(at + 1)));
    await push(nth(1));
    await until('uploads ahead', async () => (await agent.status()).uploads.ahead === 4);
    await push(nth(2));
    await until('one more', async () => (await agent.status()).uploads.files === 6);
    expect((await agent.status()).uploads).toMatchObject({ ahead: 4, running: 0 });
  });

  it('stops at a failure, which is nobody’s answer, and goes on with the next question', async () => {
    const plan: Fault[] = [{ on: 'put', matching: nth(2), does: 'error', code: 'store-full' }];
    const agent = await start({ store: faulty(store, plan), maxParallel: 1 });
    ready(nth(1), nth(2), nth(3));
    expect(await push(nth(1))).toBe(`walkeep archived ${nth(1)}\n`);
    await until('the failure', async () => (await agent.status()).uploads.failed === 1);
    expect(await walKeys()).toEqual([nth(1)]);
    expect((await agent.status()).lastFailure).toBeUndefined();
  });

  it('A5: a question that joins an upload begun earlier does not get its failure', async () => {
    const gate = gated();
    let failures = 1;
    const once: ObjectStore = {
      ...gate.store,
      put: async (key, body, options) => {
        const result = await gate.store.put(key, body, options);
        if (key.endsWith(nth(2)) && failures-- > 0) {
          await store.delete([key], options);
          throw new BackupError('store-full', 'no room');
        }
        return result;
      },
    };
    await start({ store: once, maxParallel: 2 });
    ready(nth(1), nth(2));
    const first = push(nth(1));
    await until('the upload ahead', () => gate.begun.includes(nth(2)));
    const second = push(nth(2));
    await new Promise((wait) => setTimeout(wait, 50));
    gate.open();
    expect(await first).toBe(`walkeep archived ${nth(1)}\n`);
    expect(await second).toBe(`walkeep archived ${nth(2)}\n`);
  });
});

describe('the agent’s socket', () => {
  it('S7: is for its user alone: 0600 in a directory of 0700', async () => {
    mkdirSync(join(socketPath, '..'), { mode: 0o755 });
    await start();
    expect(lstatSync(socketPath).mode & 0o777).toBe(0o600);
    expect(statSync(join(socketPath, '..')).mode & 0o777).toBe(0o700);
  });

  it('replaces what a killed process left', async () => {
    mkdirSync(join(socketPath, '..'), { recursive: true });
    const script = `require('net').createServer().listen(${JSON.stringify(socketPath)}, () => console.log('x'))`;
    const child = spawn(process.execPath, ['-e', script]);
    await new Promise((heard) => child.stdout.once('data', heard));
    child.kill('SIGKILL');
    await new Promise((ended) => child.once('close', ended));
    expect(existsSync(socketPath)).toBe(true);
    await start();
    ready(nth(1));
    expect(await push(nth(1))).toBe(`walkeep archived ${nth(1)}\n`);
  });

  it('leaves a live one alone, and says so', async () => {
    await start();
    await expect(start()).rejects.toMatchObject({
      code: 'config-invalid',
      message: expect.stringContaining('another agent'),
    });
    ready(nth(1));
    expect(await push(nth(1))).toBe(`walkeep archived ${nth(1)}\n`);
  });

  it('leaves a file that is in the way alone', async () => {
    mkdirSync(join(socketPath, '..'), { recursive: true });
    writeFileSync(socketPath, 'precious');
    await expect(start()).rejects.toMatchObject({ code: 'config-invalid' });
    expect(readFileSync(socketPath, 'utf8')).toBe('precious');
  });

  it('refuses a path that no socket can have', async () => {
    const long = join(socketPath, '..', 'x'.repeat(120));
    await expect(start({}, { socketPath: long })).rejects.toMatchObject({ code: 'config-invalid' });
  });

  it('does not remove its successor’s socket when it stops', async () => {
    const agent = await start();
    rmSync(socketPath);
    const successor = createServer();
    await new Promise<void>((listening) => successor.listen(socketPath, listening));
    await agent.stop();
    expect(existsSync(socketPath)).toBe(true);
    successor.close();
  });
});

describe('stopping and status', () => {
  it('F2: what was asked for is answered before it stops; who comes later is not kept waiting', async () => {
    const gate = gated();
    const agent = await start({ store: gate.store });
    ready(nth(1), nth(2));
    const asked = push(nth(1));
    await until('the upload', () => gate.begun.length === 1);
    const stopping = agent.stop({ drainMs: 5_000 });
    await until('no socket', () => !existsSync(socketPath));
    await expect(push(nth(2))).rejects.toThrow(/ENOENT|ECONNREFUSED/);
    gate.open();
    expect(await asked).toBe(`walkeep archived ${nth(1)}\n`);
    await stopping;
  });

  it('F2: what does not end in time is given up, without the word', async () => {
    const agent = await start({ store: faulty(store, [{ on: 'put', matching: 'wals', does: 'stall' }]) });
    ready(nth(1));
    const asked = push(nth(1)).catch(() => 'cut');
    await until('the upload', async () => (await agent.status()).uploads.running === 1);
    await agent.stop({ drainMs: 50 });
    expect(await asked).not.toContain('archived');
  });

  it('tells what it did and what waits', async () => {
    const agent = await start();
    ready(nth(1), nth(2));
    await push(nth(1));
    done(nth(1));
    await push('nonsense');
    const status: unknown = JSON.parse(await ask('/status', 'GET'));
    expect(status).toMatchObject({
      version: 1,
      pid: process.pid,
      archive: { url: 'memory:/pg', codec: 'none', maxParallel: 1, revision: '1' },
      lastArchived: { name: nth(1) },
      lastFailure: { name: 'nonsense', code: 'format-invalid' },
      answers: { archived: 1, failed: 1 },
      waiting: { files: 1, segments: 1, oldest: nth(2) },
      pushLatency: { count: 2 },
    });
    expect((await agent.status()).uploads.plainBytes).toBeGreaterThanOrEqual(1024 * 1024);
  });
});

describe('fetching for a recovery', () => {
  it('C3: only the explicit outcomes are words', async () => {
    const outcomes = { [nth(1)]: 'fetched', [nth(2)]: 'absent', [nth(3)]: 'hole' } as const;
    await start({}, { fetch: async (name) => ({ outcome: outcomes[name] ?? 'hole' }) });
    const fetch = (name: string, to = 'pg_wal/RECOVERYXLOG') => ask(`/wal-fetch?name=${name}&to=${to}`);
    expect(await fetch(nth(1))).toBe(`walkeep fetched ${nth(1)}\n`);
    expect(await fetch(nth(2))).toBe(`walkeep absent ${nth(2)}\n`);
    expect(await fetch(nth(3))).toMatch(/^walkeep unable \S+ wal-hole: /);
  });

  it('C3: a failure is no absence', async () => {
    await start({}, { fetch: () => Promise.reject(new BackupError('store-unavailable', 'no answer')) });
    expect(await ask(`/wal-fetch?name=${nth(1)}&to=pg_wal/RECOVERYXLOG`)).toMatch(
      /^walkeep unable \S+ store-unavailable: /,
    );
  });

  it('C3: ends when whoever asked has gone, so that nothing is written late', async () => {
    let reason: unknown;
    await start(
      {},
      {
        fetch: (_name, _to, { signal }) =>
          new Promise((_, reject) =>
            signal.addEventListener('abort', () => reject((reason = signal.reason)), { once: true }),
          ),
      },
    );
    const asking = request({
      socketPath,
      method: 'POST',
      path: `/wal-fetch?name=${nth(1)}&to=pg_wal/RECOVERYXLOG`,
    });
    asking.on('error', () => undefined).end();
    await new Promise((resolve) => setTimeout(resolve, 100));
    asking.destroy();
    await until('the end of the work', async () => reason !== undefined);
    expect(reason).toMatchObject({ code: 'agent-unavailable' });
  });

  it('A8, S2: only a file of pg_wal can be the destination', async () => {
    const asked: string[] = [];
    await start({}, { fetch: async (_name, to) => (asked.push(to), { outcome: 'fetched' }) });
    for (const to of [
      '../x',
      '/etc/passwd',
      'pg_wal/../x',
      'pg_wal/archive_status/x',
      'global/pg_control',
      'pg_wal',
      '',
    ]) {
      expect(await ask(`/wal-fetch?name=${nth(1)}&to=${encodeURIComponent(to)}`)).toMatch(/^walkeep unable /);
    }
    expect(asked).toEqual([]);
    await ask(`/wal-fetch?name=${nth(1)}&to=pg_wal/RECOVERYXLOG`);
    expect(asked).toEqual([join(pgdata, 'pg_wal', 'RECOVERYXLOG')]);
  });
});
