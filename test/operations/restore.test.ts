import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, test, vi } from 'vitest';
import { readRecoveryFile } from '../../operations/recovery-file.ts';
import { planFromRepository } from '../../operations/recovery-plan.ts';
import { restore, type RestoreProgress, type RestoreRequest } from '../../operations/restore.ts';
import { RESTORE_MARKER } from '../../operations/restore-targets.ts';
import { parseControlData } from '../../postgres/control-data.ts';
import { parseSettings } from '../../postgres/recovery-settings.ts';
import { createRepository } from '../../repository/repository.ts';
import { faulty, type Fault } from '../../stores/faulty.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { openStore } from '../../stores/open-store.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import {
  controlFile,
  dataMembers,
  makeTar,
  putBackup,
  type HandMade,
  type Member,
} from '../support/hand-made-backup.ts';
import { serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';

const signal = new AbortController().signal;
const reference = {
  namespace: 'default',
  serverName: 'pg',
  barmanObjectStore: { destinationPath: 's3://b/p' },
};

let store: ObjectStore;
let parent: string;
let target: string;

beforeEach(() => {
  store = createMemoryStore();
  parent = makeTempDir('restore');
  target = join(parent, 'data');
});

const put = (options?: HandMade) => putBackup(createRepository(store, 'pg'), options);

async function run(
  request: Partial<RestoreRequest> & {
    faults?: readonly Fault[];
    signal?: AbortSignal;
    onProgress?: (progress: RestoreProgress) => void;
  } = {},
) {
  const { faults = [], signal: given = signal, onProgress = () => {}, ...rest } = request;
  const plan = await planFromRepository(
    createRepository(store, 'pg'),
    { target: {}, readsWal: false },
    { signal },
  );
  const repository = createRepository(faulty(store, faults), 'pg');
  const ports = { repository, restoreCommand: `walkeep wal-fetch '%f' "%p"`, reference };
  return restore(ports, { plan, targetDirectory: target, ...rest }, { signal: given, onProgress });
}

const read = (path: string) => readFileSync(join(target, path), 'utf8');

describe('a restored directory', () => {
  it('B5: holds what was in the tars, and says so', async () => {
    await put();
    const phases: string[] = [];
    const result = await run({ onProgress: ({ phase }) => phases.push(phase) });
    expect(result).toMatchObject({ backupId: '20261122T222531', majorVersion: 15, isVerified: true });
    expect(read('base/5/16384')).toBe('x'.repeat(20_000));
    expect([...new Set(phases)]).toEqual(['checking', 'restoring', 'finishing', 'done']);
  });

  it('has the recovery of its plan, and nothing of the source’s (C5)', async () => {
    await put();
    const result = await run({ settings: { port: '5499' } });
    const settings = parseSettings(read('postgresql.auto.conf'));
    expect(Object.fromEntries(settings)).toMatchObject({
      archive_mode: 'off',
      primary_conninfo: '',
      primary_slot_name: '',
      synchronous_standby_names: '',
      restore_command: `walkeep wal-fetch '%f' "%p"`,
      recovery_target_timeline: '1',
      recovery_target_action: 'promote',
      max_connections: '250',
      max_prepared_transactions: '5',
      port: '5499',
    });
    // What is high enough is left alone, and what was there stays readable.
    expect(settings.has('max_wal_senders')).toBe(false);
    expect(read('postgresql.auto.conf')).toContain('send home');
    expect(read('postgresql.conf')).toMatch(/^# walkeep restore.*data_directory/m);
    expect(result.warnings.join()).toContain('data_directory');
    expect(existsSync(join(target, 'recovery.signal'))).toBe(true);
    expect(existsSync(join(target, 'standby.signal'))).toBe(false);
  });

  it('C5: no included file leads back to the source’s places, nor to its subscriptions’ slots', async () => {
    const outside = join(parent, 'source.conf');
    writeFileSync(outside, `data_directory = '/srv/source'\n`);
    const members = dataMembers().filter(
      (member) => !(Array.isArray(member) && member[0] === 'postgresql.conf'),
    );
    const main = `include_dir 'conf.d'\ninclude_if_exists = '${outside}'\ninclude '${outside}'\nwork_mem = 8MB\n`;
    const files: Member[] = [
      ['postgresql.conf', main],
      ['conf.d', null],
      ['conf.d/a.conf', `data_directory = '/srv/source'\ninclude 'b.inc'\n`],
      ['conf.d/b.inc', `hba_file = '/srv/source/pg_hba.conf'\nport = 5433\n`],
    ];
    await put({ tars: { 'data.tar': [...members, ...files] } });
    const { warnings } = await run();
    const counts = (path: string) => [...parseSettings(read(path)).keys()];
    expect(counts('postgresql.conf')).toEqual(['include_dir', 'work_mem']);
    expect(counts('conf.d/a.conf')).toEqual(['include']);
    expect(counts('conf.d/b.inc')).toEqual(['port']);
    expect(warnings.join()).toContain('hba_file');
    expect(parseSettings(read('postgresql.auto.conf')).get('max_logical_replication_workers')).toBe('0');
  });

  it('of two targets only the plan’s is set, and it comes last: PostgreSQL refuses two', async () => {
    const members = dataMembers().map((member): Member =>
      Array.isArray(member) && member[0] === 'postgresql.auto.conf'
        ? ['postgresql.auto.conf', `recovery_target_xid = '5'\n`]
        : member,
    );
    await put({ tars: { 'data.tar': members } });
    const plan = await planFromRepository(
      createRepository(store, 'pg'),
      { target: { targetLSN: '0/300000' }, readsWal: false },
      { signal },
    );
    await run({ plan });
    const lines = read('postgresql.auto.conf').split('\n');
    const at = (start: string) => lines.findLastIndex((line) => line.startsWith(start));
    expect(parseSettings(lines.join('\n')).get('recovery_target_xid')).toBe('');
    expect(parseSettings(lines.join('\n')).get('recovery_target_lsn')).toBe('0/300000');
    expect(at('recovery_target_lsn =')).toBeGreaterThan(at('recovery_target_xid ='));
  });

  it('S1: refers to secrets and holds none', async () => {
    await put();
    await run();
    const file = await readRecoveryFile(target);
    expect(file).toMatchObject({
      backupId: '20261122T222531',
      repository: reference,
      plan: { segmentSize: 1024 * 1024, timelinePath: [{ timeline: 1, beginsAt: '0/0' }] },
    });
    expect(statSync(join(target, 'walkeep_recovery.json')).mode & 0o777).toBe(0o600);
  });

  it('C2: pg_control names no checkpoint, and nothing withheld is left', async () => {
    await put();
    await run();
    const control = parseControlData(readFileSync(join(target, 'global/pg_control')));
    expect(control.checkpointLsn).toBe(0xdead_beef_dead_beefn);
    expect(
      readdirSync(target, { recursive: true }).filter((name) => String(name).includes('walkeep-')),
    ).toEqual([]);
  });

  it('as a standby follows the archive', async () => {
    await put();
    await run({ isStandby: true });
    expect(existsSync(join(target, 'standby.signal'))).toBe(true);
    expect(existsSync(join(target, 'recovery.signal'))).toBe(false);
    expect(parseSettings(read('postgresql.auto.conf')).get('recovery_target_timeline')).toBe('latest');
    expect((await readRecoveryFile(target))?.plan).toBeUndefined();
  });

  it('has only what belongs into a copy: no map, no signals, no slots, no WAL, no pid', async () => {
    const stray: Member[] = [
      ['tablespace_map', '16384 /srv/ts\n'],
      ['postmaster.pid', '1\n'],
      ['recovery.signal', 'x'],
      ['standby.signal', ''],
      ['recovery.conf', ''],
      ['pg_replslot/s1', null],
      ['pg_replslot/s1/state', 'slot'],
      ['pg_wal/000000010000000000000009', 'wal'],
      ['walkeep_recovery.json', '{}'],
    ];
    await put({ tars: { 'data.tar': [...dataMembers(), ...stray] } });
    await run();
    for (const path of [
      'tablespace_map',
      'postmaster.pid',
      'standby.signal',
      'recovery.conf',
      'pg_replslot/s1',
      'pg_wal/000000010000000000000009',
    ]) {
      expect(existsSync(join(target, path)), path).toBe(false);
    }
    expect(read('recovery.signal')).toBe('');
    expect(existsSync(join(target, 'pg_wal/archive_status'))).toBe(true);
  });

  it('is unpacked from several parts of mixed codecs', async () => {
    await put({
      tars: {
        'data.tar.lz4': dataMembers(),
        'data_0001.tar.zst': [['base/5/16385', 'more']],
        'data_0002.tar': [['base/6/1', 'without its directory']],
      },
    });
    await run();
    expect(read('base/5/16385')).toBe('more');
    expect(read('base/6/1')).toBe('without its directory');
  });

  it('E5: is restored from a backup without walkeep’s record, strictly read', async () => {
    await put({ isRecorded: false });
    expect(await run()).toMatchObject({ isVerified: false });
  });

  it('has modes that PostgreSQL accepts, whatever the tar says', async () => {
    const members = dataMembers().map((member): Member =>
      Array.isArray(member) && member[0] === '.' ? { path: '.', type: 'directory', mode: 0o755 } : member,
    );
    await put({ tars: { 'data.tar': members } });
    await run();
    expect(statSync(target).mode & 0o777).toBe(0o750);
  });

  it('belongs to the owner of its parent, when root restores', async () => {
    await put();
    await run();
    const uid = serverUser?.uid ?? process.getuid?.();
    for (const path of ['.', 'base/5/16384', 'base', 'pg_wal', 'postgresql.auto.conf', 'global/pg_control'])
      expect(statSync(join(target, path)).uid, path).toBe(uid);
  });
});

describe('tablespaces', () => {
  const tablespaces = [{ name: 'Ts "é', oid: 16_384, location: '/srv/source/inner' }];
  const tars = {
    'data.tar': [...dataMembers(), ['pg_tblspc/16384', null] as Member],
    '16384.tar': [
      ['PG_15_202209061', null],
      ['PG_15_202209061/5/16400', 'row'],
    ] as Member[],
  };

  it('go where they are mapped to, by a link of ours', async () => {
    await put({ tablespaces, tars });
    const directory = join(parent, 'space');
    const { tablespaces: placed } = await run({ tablespaces: { 'Ts "é': directory } });
    expect(placed).toEqual([{ name: 'Ts "é', directory }]);
    expect(readlinkSync(join(target, 'pg_tblspc/16384'))).toBe(directory);
    expect(read('pg_tblspc/16384/PG_15_202209061/5/16400')).toBe('row');
    expect(existsSync(join(directory, RESTORE_MARKER))).toBe(false);
  });

  it('C1: are never taken for those of an interrupted restore once the copy can be started', async () => {
    await put({ tablespaces, tars });
    const mapping = { 'Ts "é': join(parent, 'space') };
    vi.stubEnv('WALKEEP_FAILPOINT', 'restore.activated:throw');
    await expect(run({ tablespaces: mapping })).rejects.toThrow('restore.activated');
    vi.unstubAllEnvs();
    // the server may run by now; another copy of the same backup must not be unpacked below it
    await expect(run({ tablespaces: mapping, targetDirectory: join(parent, 'other') })).rejects.toMatchObject(
      { code: 'directory-not-empty', message: expect.stringContaining('space') },
    );
    expect(existsSync(join(parent, 'other'))).toBe(false);
  });

  it('S2: get PostgreSQL’s folder and nothing else, since the record says where they go', async () => {
    await put({
      tablespaces,
      tars: { ...tars, '16384.tar': [...tars['16384.tar'], ['authorized_keys', 'x']] },
    });
    const directory = join(parent, 'space');
    const { warnings } = await run({ tablespaces: { 'Ts "é': directory } });
    expect(readdirSync(directory)).toEqual(['PG_15_202209061']);
    expect(warnings.join()).toContain('authorized_keys');
  });

  it('that lay inside the data directory stay inside', async () => {
    await put({ tablespaces, tars });
    await run();
    expect(readlinkSync(join(target, 'pg_tblspc/16384'))).toBe(join(target, 'inner'));
  });

  it('C1: overlapping directories are refused', async () => {
    await put({ tablespaces, tars });
    for (const directory of [target, parent, join(target, 'base/x'), join(target, 'pg_tblspc/y')]) {
      await expect(run({ tablespaces: { 'Ts "é': directory } }), directory).rejects.toMatchObject({
        code: 'usage',
      });
    }
    expect(existsSync(target)).toBe(false);
  });

  it('C1: one that is not empty is refused before the first write', async () => {
    await put({ tablespaces, tars });
    const directory = join(parent, 'space');
    mkdirSync(join(directory, 'PG_15_202209061'), { recursive: true });
    await expect(run({ tablespaces: { 'Ts "é': directory } })).rejects.toMatchObject({
      code: 'directory-not-empty',
      message: expect.stringContaining('holds a tablespace'),
    });
    expect(existsSync(target)).toBe(false);
  });

  it('an unknown name in a mapping is refused, naming the known', async () => {
    await put({ tablespaces, tars });
    await expect(run({ tablespaces: { other: parent } })).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining('Ts "é'),
    });
  });

  it('a backup without the tar of one is refused before the first write', async () => {
    await put({ tablespaces, tars: { 'data.tar': dataMembers() } });
    await expect(run()).rejects.toMatchObject({
      code: 'object-damaged',
      message: expect.stringContaining('16384'),
    });
    expect(existsSync(target)).toBe(false);
  });
});

describe('what is refused before the first write', () => {
  beforeEach(() => put());

  test.for<{ why: string; make: () => void; says: string }>([
    {
      why: 'a file of somebody',
      make: () => writeFileSync(join(target, 'mine'), 'x'),
      says: 'is not empty (mine)',
    },
    {
      why: 'a database',
      make: () => writeFileSync(join(target, 'PG_VERSION'), '15'),
      says: 'holds a database',
    },
    {
      why: 'a running server',
      make: () => writeFileSync(join(target, 'postmaster.pid'), '1'),
      says: 'that runs',
    },
    {
      why: 'a marker that is none',
      make: () => writeFileSync(join(target, RESTORE_MARKER), 'x'),
      says: "can't be read",
    },
  ])('C1: a target with $why', async ({ make, says }) => {
    mkdirSync(target);
    make();
    const before = readdirSync(target);
    await expect(run()).rejects.toMatchObject({
      code: 'directory-not-empty',
      message: expect.stringContaining(says),
    });
    expect(readdirSync(target)).toEqual(before);
  });

  it('C1: a target inside another data directory', async () => {
    mkdirSync(join(parent, 'global'));
    writeFileSync(join(parent, 'PG_VERSION'), '15');
    await expect(run()).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining('inside the data directory'),
    });
  });

  it('C1: a target that is a file', async () => {
    writeFileSync(target, '');
    await expect(run()).rejects.toMatchObject({ code: 'directory-not-empty' });
  });

  it('C1: a link to a full directory is seen through', async () => {
    mkdirSync(join(parent, 'full'));
    writeFileSync(join(parent, 'full/mine'), '');
    symlinkSync(join(parent, 'full'), target);
    await expect(run()).rejects.toMatchObject({ code: 'directory-not-empty' });
  });

  it('a mount point with lost+found is as good as empty', async () => {
    mkdirSync(join(target, 'lost+found'), { recursive: true });
    expect((await run()).backupId).toBe('20261122T222531');
    expect(existsSync(join(target, 'lost+found'))).toBe(true);
  });

  it('C1: the marker of a restore that runs', async () => {
    mkdirSync(target);
    const { hostname } = await import('node:os');
    writeFileSync(
      join(target, RESTORE_MARKER),
      JSON.stringify({ backupId: '20261122T222531', host: hostname(), pid: process.ppid, processStart: '' }),
    );
    await expect(run()).rejects.toMatchObject({ message: expect.stringContaining('another restore') });
  });

  it('C1: the marker of an interrupted restore of another backup', async () => {
    mkdirSync(target);
    writeFileSync(
      join(target, RESTORE_MARKER),
      JSON.stringify({ backupId: '20260101T000000', host: 'elsewhere', pid: 1, processStart: '' }),
    );
    await expect(run()).rejects.toMatchObject({
      hint: expect.stringContaining('--backup-id 20260101T000000'),
    });
  });
});

describe('an interrupted restore', () => {
  it('C2: leaves nothing startable, and the same command begins it anew', async () => {
    await put({ tars: { 'data.tar': dataMembers(), 'data_0001.tar': [['base/5/16385', 'more']] } });
    await expect(
      run({ faults: [{ on: 'get', matching: 'data_0001', does: 'error', code: 'access-denied' }] }),
    ).rejects.toMatchObject({ code: 'access-denied' });
    expect(existsSync(join(target, 'global/pg_control'))).toBe(false);
    expect(existsSync(join(target, 'backup_label'))).toBe(false);
    expect(existsSync(join(target, RESTORE_MARKER))).toBe(true);
    const marker = JSON.parse(read(RESTORE_MARKER)) as Record<string, unknown>;
    // As if by a process that is gone.
    writeFileSync(join(target, RESTORE_MARKER), JSON.stringify({ ...marker, pid: 2 ** 22 + 1 }));
    chmodSync(join(target, 'base/5/16384'), 0o600);
    writeFileSync(join(target, 'base/5/16384'), 'y'.repeat(30_000));
    await run();
    expect(read('base/5/16384')).toBe('x'.repeat(20_000));
    expect(read('base/5/16385')).toBe('more');
    expect(existsSync(join(target, RESTORE_MARKER))).toBe(false);
  });

  it('F2: the same process begins it anew too, as a worker that tries again does', async () => {
    await put({ tars: { 'data.tar': dataMembers(), 'data_0001.tar': [['base/5/16385', 'more']] } });
    await expect(
      run({ faults: [{ on: 'get', matching: 'data_0001', does: 'error', code: 'access-denied' }] }),
    ).rejects.toMatchObject({ code: 'access-denied' });
    await run();
    expect(read('base/5/16385')).toBe('more');
  });

  it('F1: but not while the first one still goes on in this process', async () => {
    await put();
    const controller = new AbortController();
    const first = run({
      signal: controller.signal,
      faults: [{ on: 'get', matching: 'data.tar', does: 'stall' }],
    });
    while (!existsSync(join(target, RESTORE_MARKER))) await new Promise((resolve) => setTimeout(resolve, 5));
    await expect(run()).rejects.toMatchObject({ message: expect.stringContaining('another restore') });
    controller.abort(new Error('stopped'));
    await expect(first).rejects.toThrow('stopped');
  });

  it('C2: by an abort ends as such', async () => {
    await put();
    const controller = new AbortController();
    const running = run({
      signal: controller.signal,
      faults: [{ on: 'get', matching: 'data.tar', does: 'stall' }],
    });
    setTimeout(() => controller.abort(new Error('stopped')), 100);
    await expect(running).rejects.toThrow('stopped');
    expect(existsSync(join(target, 'global/pg_control'))).toBe(false);
  });

  it('a store that fails for a moment is read again', async () => {
    await put();
    await run({ faults: [{ on: 'get', nth: 3, matching: 'data.tar', does: 'cut', afterBytes: 200 }] });
    expect(read('base/5/16384')).toBe('x'.repeat(20_000));
  });
});

describe('damaged and hostile backups', () => {
  const replaced = (path: string, content: string | Uint8Array) =>
    dataMembers().map((member): Member =>
      Array.isArray(member) && member[0] === path ? [path, content] : member,
    );
  const without = (path: string) =>
    dataMembers().filter((member) => !(Array.isArray(member) && member[0] === path));

  test.for<{ why: string; members: () => readonly Member[] | Uint8Array; says: RegExp }>([
    { why: 'without pg_control', members: () => without('global/pg_control'), says: /no global\/pg_control/ },
    { why: 'without a label', members: () => without('backup_label'), says: /no backup_label/ },
    {
      why: 'of another system',
      members: () => replaced('global/pg_control', controlFile({ systemId: '42' })),
      says: /system 42/,
    },
    { why: 'of another version', members: () => replaced('PG_VERSION', '16\n'), says: /PG_VERSION/ },
    {
      why: 'with a label of another backup',
      members: () =>
        replaced(
          'backup_label',
          'START WAL LOCATION: 0/900028 (file 000000010000000000000009)\nSTART TIMELINE: 1\n',
        ),
      says: /backup_label begins at/,
    },
    {
      why: 'cut at a member',
      members: () => makeTar(dataMembers()).slice(0, 512 * 20),
      says: /cut|end mark/,
    },
    { why: 'without an end', members: () => makeTar(dataMembers()).slice(0, -1024), says: /cut|end mark/ },
  ])('C6, E2: one $why is refused and not startable', async ({ members, says }) => {
    await put({ tars: { 'data.tar': members() }, isRecorded: false });
    await expect(run()).rejects.toMatchObject({
      code: expect.stringMatching(/object-damaged|format-invalid|postgres-unsuitable/),
      message: expect.stringMatching(says),
    });
    expect(existsSync(join(target, 'global/pg_control'))).toBe(false);
  });

  test.for<{
    why: string;
    member: Partial<{ path: string; linkPath: string; type: 'symlink' | 'hardlink' }>;
  }>([
    { why: 'an absolute link', member: { path: 'base/out', type: 'symlink', linkPath: '/etc/passwd' } },
    {
      why: 'a link that leaves',
      member: { path: 'base/out', type: 'symlink', linkPath: '../../../etc/passwd' },
    },
  ])('S2: $why is left out, and said', async ({ member }) => {
    await put({ tars: { 'data.tar': [...dataMembers(), member as Member] } });
    const { warnings } = await run();
    expect(existsSync(join(target, 'base/out'))).toBe(false);
    expect(warnings.join()).toContain('base/out');
  });

  it('S2: links inside are made, when everything else is there', async () => {
    const links = [
      { path: 'link.conf', type: 'symlink', linkPath: 'pg_hba.conf' },
      { path: 'base/hard', type: 'hardlink', linkPath: 'base/5/16384' },
    ] as unknown as Member[];
    await put({ tars: { 'data.tar': [...dataMembers(), ...links] } });
    await run();
    expect(readlinkSync(join(target, 'link.conf'))).toBe('pg_hba.conf');
    expect(statSync(join(target, 'base/hard')).ino).toBe(statSync(join(target, 'base/5/16384')).ino);
  });

  it('S2: a link planted in the target is not followed', async () => {
    const outside = makeTempDir('outside');
    await put({
      tars: {
        'data.tar': dataMembers(),
        'data_0001.tar': [
          ['base/7/1', 'x'],
          ['base/8', 'y'],
        ],
      },
    });
    await expect(
      run({ faults: [{ on: 'get', matching: 'data_0001', does: 'error', code: 'access-denied' }] }),
    ).rejects.toThrow('scripted fault');
    const marker = JSON.parse(read(RESTORE_MARKER)) as Record<string, unknown>;
    for (const planted of ['base/7', 'base/8']) {
      writeFileSync(join(target, RESTORE_MARKER), JSON.stringify({ ...marker, pid: 2 ** 22 + 1 }));
      symlinkSync(planted === 'base/7' ? outside : join(outside, 'file'), join(target, planted));
      await expect(run(), planted).rejects.toThrow(/EEXIST|ELOOP/);
      unlinkSync(join(target, planted));
    }
    expect(readdirSync(outside)).toEqual([]);
  });

  it('B5, fault 25: every bit counts: stored and plain hashes decide', async () => {
    await put({ tars: { 'data.tar': dataMembers() } });
    await expect(
      run({ faults: [{ on: 'get', matching: 'data.tar', does: 'flip', afterBytes: 9000 }] }),
    ).rejects.toMatchObject({ code: 'object-damaged', message: expect.stringContaining('recorded') });
    expect(existsSync(join(target, 'global/pg_control'))).toBe(false);
  });

  it('an object of another size than recorded is refused before the first write', async () => {
    const id = await put({ tars: { 'data.tar': dataMembers() } });
    await store.put(`pg/base/${id}/data.tar`, new Uint8Array(10_240), { signal });
    await expect(run()).rejects.toMatchObject({
      code: 'object-damaged',
      message: expect.stringContaining('were recorded'),
    });
    expect(existsSync(target)).toBe(false);
  });
});

it('runs in worker threads on a store they open themselves', async () => {
  const config = { kind: 'file', directory: makeTempDir('store') } as const;
  const repository = createRepository(openStore(config), 'pg');
  await putBackup(repository, {
    tars: { 'data.tar.gz': dataMembers(), 'data_0001.tar.zst': [['base/5/16385', 'more']] },
  });
  const plan = await planFromRepository(repository, { target: {}, readsWal: false }, { signal });
  const ports = { repository, store: config, restoreCommand: 'x', reference };
  await restore(ports, { plan, targetDirectory: target, jobs: 2 }, { signal });
  expect(read('base/5/16385')).toBe('more');
  await expect(
    restore(ports, { plan, targetDirectory: join(config.directory, 'inside') }, { signal }),
  ).rejects.toMatchObject({ code: 'usage' });
});
