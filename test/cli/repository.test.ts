import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { parse } from 'yaml';
import { runProgram } from '../../cli/program.ts';
import { formatDescription } from '../../cli/repository-show.ts';
import { formatSurvey } from '../../cli/repository-list.ts';
import type { RepositoryDescription } from '../../operations/describe-repository.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { readStoreRecord } from '../../repository/store-record.ts';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { putBenchWal, putFourBackups } from '../operations/sweep-bench.ts';
import { applyTestCluster } from '../support/applied-cluster.ts';
import { makeTempDir } from '../support/temp.ts';

const { signal } = new AbortController();
let directory: string;
let state: string;
let r: Repository;
let ids: string[];
let out: string[];
let errors: string[];

beforeEach(async () => {
  [directory, state] = [makeTempDir('repository'), makeTempDir('state')];
  r = createRepository(createFilesystemStore(directory), 'pg');
  ids = await putFourBackups(r);
  await putBenchWal(r, 60, 61, 2);
  await applyTestCluster(state, { name: 'pg', destinationPath: `file://${directory}` });
  [out, errors] = [[], []];
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => out.push(String(text)) > 0);
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => errors.push(String(text)) > 0);
});
afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

async function walkeep(...words: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  [out, errors] = [[], []];
  process.exitCode = undefined;
  const code = await runProgram(['repository', ...words, '--state', state]);
  return { code, stdout: out.join(''), stderr: errors.join('') };
}

describe('walkeep repository', () => {
  const cluster = () => `apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata: {name: other}
spec:
  instances: 1
  storage: {size: 1Gi}
  backup: {barmanObjectStore: {destinationPath: 'file://${directory}', serverName: pg}}
`;

  it('is that of an applied Cluster, of one in a file, or the one that is named', async () => {
    const file = join(state, 'cluster.yaml');
    writeFileSync(file, cluster());
    const ways = [
      ['pg'],
      ['-f', file],
      ['other', '-f', file],
      ['--repository', `file://${directory}`, '--server-name', 'pg'],
    ];
    for (const way of [...ways, ['pg', '--repository', `file://${directory}`]]) {
      const { code, stdout, stderr } = await walkeep('show', ...way, '-o', 'json');
      expect({ code, stderr }, way.join(' ')).toEqual({ code: 0, stderr: '' });
      expect(JSON.parse(stdout)).toMatchObject({ server: 'pg', backups: { usable: 4 } });
    }
  });

  it.for([
    { why: 'none is said', words: ['show'], code: 2, said: /which repository is not said; name an applied/ },
    {
      why: 'no folder is said',
      words: ['ls', '--repository', 'file:///x'],
      code: 2,
      said: /needs --server-name/,
    },
    {
      why: 'it is no address',
      words: ['check', 'pg', '--repository', 'x'],
      code: 2,
      said: /--repository "x"/,
    },
    {
      why: 'the cluster is not known',
      words: ['check', 'nobody'],
      code: 4,
      said: /no Cluster default\/nobody/,
    },
    {
      why: 'the name of the cluster is none',
      words: ['show', 'my_Shop'],
      code: 2,
      said: /^walkeep: expected NAME or NAMESPACE\/NAME of a cluster, got "my_Shop"; names have [^\n]+\n$/,
    },
    {
      why: 'the endpoint belongs to no --repository',
      words: ['check', 'pg', '--endpoint-url', 'http://127.0.0.1:9'],
      code: 2,
      said: /--endpoint-url is of --repository/,
    },
    {
      why: 'the server name belongs to no --repository',
      words: ['show', 'pg', '--server-name', 'other'],
      code: 2,
      said: /--server-name is of --repository/,
    },
    {
      why: 'it is named and in a file',
      words: ['show', '--repository', 'file:///x', '--server-name', 'pg', '-f', 'x.yaml'],
      code: 2,
      said: /--repository and -f both/,
    },
    {
      why: 'the server name leads away',
      words: ['show', '--repository', 'file:///x', '--server-name', '../x'],
      code: 2,
      said: /^walkeep: --server-name .*; write a folder name/,
    },
    {
      why: 'the prefix begins with a slash',
      words: ['ls', 'pg', '/base/'],
      code: 2,
      said: /^walkeep: no key begins with "\/base\/"; write base\/: /,
    },
    {
      why: 'a cluster stands where the prefix does',
      words: ['ls', 'shop', '--repository', 'file:///x', '--server-name', 'pg'],
      code: 2,
      said: /"shop" is taken for PREFIX/,
    },
    {
      why: 'two prefixes are given',
      words: ['ls', 'a', 'b', '--repository', 'file:///x', '--server-name', 'pg'],
      code: 2,
      said: /give PREFIX alone/,
    },
  ])('is refused when $why', async ({ words, code, said }) => {
    vi.stubEnv('TEMPORAL_ADDRESS', '127.0.0.1:1');
    const answer = await walkeep(...words);
    vi.unstubAllEnvs();
    expect(answer).toMatchObject({ code, stdout: '', stderr: expect.stringMatching(said) });
  });

  it('E3: check exits 11 when there is a problem, and 0 with a warning', async () => {
    expect((await walkeep('check', 'pg')).code).toBe(0);
    await r.store.put('pg/base/strange', Buffer.from('x'), { signal });
    const warned = await walkeep('check', 'pg');
    expect(warned).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/WARNING {2}strangers +1 object /),
    });
    await r.store.put(`pg/base/${ids[0]}/data_1.json`, Buffer.from('x'), { signal });
    const sick = await walkeep('check', 'pg', '-o', 'json');
    expect(sick.code).toBe(11);
    expect(JSON.parse(sick.stdout)).toContainEqual(expect.objectContaining({ state: 'problem' }));
  });

  it('E3: a mistyped server name is a problem, and nothing is written there', async () => {
    const typo = ['--repository', `file://${directory}`, '--server-name', 'gp'];
    const before = readdirSync(directory);
    const checked = await walkeep('check', ...typo);
    expect(checked).toMatchObject({ code: 11, stderr: '' });
    expect(checked.stdout).toContain(`nothing lies at file://${directory}/gp: is the server name right?`);
    expect((await walkeep('show', ...typo)).stdout).toContain(
      'nothing lies there: is the server name right?',
    );
    expect((await walkeep('ls', ...typo)).stderr).toContain('gp: is the server name right?');
    expect(readdirSync(directory)).toEqual(before);
    await r.store.put('gp/walkeep/store.json', Buffer.from('{}'), { signal });
    const ours = await walkeep('check', ...typo, '--read-only');
    expect(ours).toMatchObject({ code: 11, stdout: expect.stringContaining('nobody’s: neither') });
  });

  it('ls counts by kind, or lists objects below a prefix', async () => {
    const { stdout } = await walkeep('ls', 'pg');
    const rows = stdout.split('\n').map((row) => row.split(/ {2,}/).slice(0, 3).join(' '));
    expect(rows).toEqual([
      'KIND WHAT OBJECTS',
      ...ids.map((id) => `backup ${id} 3`),
      'wal timeline 1 45',
      'wal timeline 2 2',
      '',
      expect.stringMatching(/^59 objects, /),
      '',
    ]);
    const long = await walkeep('ls', 'pg', 'wals/00000002', '-l');
    expect(long.stdout).toMatch(
      /^ +1 {2}\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ {2}wal +wals\/0000000200000000\/0{7}20{14}3C\.gz$/m,
    );
    expect(long.stdout.trim().split('\n')).toHaveLength(2);
    const objects = await walkeep('ls', 'pg', 'nothing/', '-l', '-o', 'json');
    expect(JSON.parse(objects.stdout)).toEqual([]);
    const said = `walkeep: nothing at file://${directory}/pg begins with "nothing/"\n`;
    expect(objects.stderr).toBe(said);
    expect(await walkeep('ls', 'pg', 'nothing/')).toEqual({ code: 0, stdout: '', stderr: said });
  });

  it('show as YAML keeps yes and off as words for older readers', async () => {
    await walkeep('check', 'pg');
    const { stdout } = await walkeep('show', 'pg', '-o', 'yaml');
    expect(parse(stdout, { version: '1.1' })).toMatchObject({
      store: { ifAbsent: 'yes', versioning: 'off' },
    });
  });

  it('E3: status names a store that does not create only, and no other', async () => {
    vi.stubEnv('TEMPORAL_ADDRESS', '127.0.0.1:1');
    const status = async () => {
      [out, errors] = [[], []];
      expect(await runProgram(['status', 'pg', '--state', state])).toBe(0);
      return out.join('');
    };
    await walkeep('check', 'pg');
    expect(await status()).not.toContain('Weak store');
    const key = 'pg/walkeep/store.json';
    const record = (await readStoreRecord(r, signal)) ?? {};
    await r.store.put(key, Buffer.from(JSON.stringify({ ...record, ifAbsent: 'no' })), { signal });
    expect(await status()).toMatch(/Weak store: +it replaces an object that is only to be created/);
    vi.unstubAllEnvs();
  });

  it('S2: names of others can’t write to the terminal', async () => {
    await r.store.put('pg/wals/\u001b]0;x\u0007', Buffer.from('x'), { signal });
    for (const words of [
      ['check', 'pg'],
      ['ls', 'pg'],
      ['ls', 'pg', '-l'],
      ['show', 'pg'],
    ]) {
      const { stdout } = await walkeep(...words);
      expect(stdout).not.toMatch(/[\u001b\u0007]/);
    }
  });
});

describe('what show and ls print', () => {
  it('nothing, where nothing is', () => {
    const none = { count: 0, bytes: 0, keys: [] };
    expect(
      formatSurvey({
        backups: [],
        timelines: [],
        histories: { count: 0, bytes: 0, timelines: [] },
        own: new Map(),
        strangers: none,
        hazards: none,
        emptyWal: none,
        secondCopies: { count: 0, names: [] },
      }),
    ).toBe('nothing lies there\n');
  });

  it('H2, E3: what stops barman-cloud, and what is weak', () => {
    const none = { count: 0, bytes: 0 };
    const found: RepositoryDescription = {
      repository: 's3://b/pg',
      server: 'pg',
      owner: { systemId: '4711', segmentSize: 16 << 20 },
      sizes: { backups: none, wal: none, own: none, strangers: none },
      store: undefined,
      backups: { usable: 0, unusable: 1 },
      timelines: [{ timeline: 2, count: 1, bytes: 1, hasHistory: false }],
      barman: {
        shown: [{ id: '20261122T222531', status: 'DONE' }],
        unreadable: [{ folder: 'a', why: 'line 1 is not key=value' }],
        blocking: [{ folder: 'b', why: 'it knows no field "colour"' }],
      },
    };
    const text = formatDescription(found);
    expect(text).toMatch(/Owner: +system identifier 4711, .*not claimed by walkeep/);
    expect(text).toMatch(/Timeline 2: +no whole segment, .* its history is missing/);
    expect(text).toMatch(/Store: +not tried yet/);
    expect(text).toMatch(
      /sees nothing, because of b: it knows no field "colour"\n +would list 20261122T222531 DONE\n +passes over a/,
    );
  });
});
