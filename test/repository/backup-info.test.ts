import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { parseLsn, toLsn } from '../../core/lsn.ts';
import { parseSegmentName, segmentAt, segmentBefore } from '../../core/segment.ts';
import { formatBackupInfo, parseBackupInfo, type BackupInfo } from '../../repository/backup-info.ts';
import { literalToJson, type LiteralValue } from '../../repository/python-literal.ts';
import { done } from './records/done.ts';

const golden = readFileSync(new URL('records/barman-3.19.info', import.meta.url), 'utf8');
const ID = '20261122T222531';
const parse = (text: string) => parseBackupInfo(ID, text);

/** What barman learned after 3.10; a record with these is unreadable for it. */
const SINCE_3_11 =
  /^(?:cluster_size|data_checksums|summarize_wal|parent_backup_id|children_backup_ids|encryption)=.*\n/gm;

describe('the record of a backup that barman 3.19 took', () => {
  it('E5: is read whole', () => {
    const { copyStats, ...info } = parse(golden);
    expect(info).toEqual({
      backupId: ID,
      backupName: 'backup-20251122225000',
      status: 'DONE',
      beginTime: new Date('2026-11-22T22:25:31.966Z'),
      endTime: new Date('2026-11-22T22:25:44.424Z'),
      timesAsWritten: { begin: '2026-11-22 22:25:31.966889+00:00', end: '2026-11-22 22:25:44.424559+00:00' },
      beginWal: '000000010000000000000003',
      endWal: '000000010000000000000003',
      beginLsn: 0x3000028n,
      endLsn: 0x300c0b8n,
      timeline: 1,
      systemId: '7711125222447432971',
      version: 170010,
      segmentSize: 16777216,
      tablespaces: [
        { name: 'ts_a', oid: 16384, location: '/srv/ts_a' },
        { name: 'inner_ts', oid: 16385, location: '/srv/pg17/inner_ts' },
        { name: 'Ts B "ü', oid: 16401, location: '/srv/ts b x' },
      ],
      backupLabel: expect.stringMatching(/^START WAL LOCATION: 0\/3000028 \(file .*\nSTART TIMELINE: 1\n$/s),
      serverName: 'cloud',
      pgdata: '/srv/pg17',
      configFile: '/srv/pg17/postgresql.conf',
      hbaFile: '/srv/pg17/pg_hba.conf',
      identFile: '/srv/pg17/pg_ident.conf',
      includedFiles: ['/srv/pg17/custom.conf'],
      unknown: { cluster_size: '29703443', data_checksums: 'on', summarize_wal: 'on' },
    });
    expect(literalToJson(copyStats as LiteralValue)).toMatchObject({
      total_time: 17.902042,
      number_of_workers: 2,
    });
  });

  it('E5: is written with the same bytes, less the fields that barman 3.10 can not read', () => {
    expect(formatBackupInfo(parse(golden))).toBe(golden.replace(SINCE_3_11, ''));
  });

  it('E5: is the same when it was written on another system', () => {
    const info = parse(golden);
    expect(parse(golden.replaceAll('\n', '\r\n'))).toEqual(info);
    expect(parse(golden.trimEnd())).toEqual(info);
    expect(parse(golden.replaceAll(/^(\w+)=/gm, '  $1 =  '))).toEqual(info);
    expect(parse(`\ufeff# a comment\n\n${golden}`)).toEqual(info);
    expect(parse(golden.replace(SINCE_3_11, ''))).toEqual({ ...info, unknown: {} });
  });
});

describe('odd records', () => {
  test.for<{ why: string; text: string; info: object }>([
    { why: 'nothing at all', text: '', info: { status: 'EMPTY', tablespaces: [], segmentSize: 16777216 } },
    {
      why: 'STARTED',
      text: 'status=STARTED\nbegin_time=2026-11-22 22:25:31+00:00\nend_time=None\n',
      info: { status: 'STARTED' },
    },
    {
      why: 'FAILED',
      text: 'status=FAILED\nerror=failure x (a=b)\n',
      info: { status: 'FAILED', error: 'failure x (a=b)' },
    },
    {
      why: 'FAILED with an end',
      text: 'status=FAILED\nend_time=2026-11-22 22:25:31+00:00\n',
      info: { endTime: new Date('2026-11-22T22:25:31Z') },
    },
    {
      why: 'a key nobody knows',
      text: 'foo=bar\nnull=None\n',
      info: { unknown: { foo: 'bar', null: 'None' } },
    },
    {
      why: 'a hostile key',
      text: '__proto__=x\n',
      info: { unknown: Object.fromEntries([['__proto__', 'x']]) },
    },
    { why: 'no tablespaces', text: 'tablespaces=[]\n', info: { tablespaces: [] } },
    {
      why: 'tablespaces as JSON',
      text: 'tablespaces=[["a\\"b", "16384", "/x"]]\n',
      info: { tablespaces: [{ name: 'a"b', oid: 16384, location: '/x' }] },
    },
    {
      why: 'a parent',
      text: 'parent_backup_id=20261122T222530\n',
      info: { parentBackupId: '20261122T222530' },
    },
    { why: 'snapshots', text: "snapshots_info={'provider': 'aws'}\n", info: { snapshots: true } },
    {
      why: 'a barman server',
      text: 'server_name=main\nmode=rsync-concurrent\n',
      info: { serverName: 'main', unknown: { mode: 'rsync-concurrent' } },
    },
    { why: 'small segments', text: 'xlog_segment_size=1048576\n', info: { segmentSize: 1048576 } },
  ])('E5: $why is read', ({ text, info }) => {
    expect(parse(text)).toMatchObject(info);
  });

  test.for([
    ['2026-11-22 22:25:31.5+02:00', '2026-11-22T20:25:31.500Z', false],
    ['2026-11-22 22:25:31.123456+05:30', '2026-11-22T16:55:31.123Z', false],
    ['2026-11-22T22:25:31Z', '2026-11-22T22:25:31.000Z', false],
    ['2026-11-22 22:25:31+00', '2026-11-22T22:25:31.000Z', false],
    ['2026-11-22 22:25:31', '2026-11-22T22:25:31.000Z', true],
    ['Sun Nov 22 22:25:31 2026', '2026-11-22T22:25:31.000Z', true],
    ['Sun Nov  2 22:25:31 2026', '2026-11-02T22:25:31.000Z', true],
  ] as const)('E5: the time "%s" is %s', ([written, time, withoutZone]) => {
    const info = parse(`begin_time=${written}\n`);
    expect(info.beginTime?.toISOString()).toBe(time);
    expect(info.hasTimesWithoutZone ?? false).toBe(withoutZone);
  });

  test.for([
    ['a line without =', 'status=DONE\ngarbage\n', /line 2 is not key=value: "garbage"/],
    ['a line without a key', '=x\n', /line 1/],
    ['a status nobody writes', 'status=done\n', /status: no such status/],
    ['a time that is none', 'begin_time=yesterday\n', /begin_time: not a time/],
    ['a day that is none', 'end_time=2026-02-30 00:00:00+00:00\n', /end_time: not a time/],
    ['a zone that is none', 'end_time=2026-02-20 00:00:00+99:00\n', /end_time: not a time/],
    ['a month that is none', 'end_time=Sun Foo 22 22:25:31 2026\n', /end_time: not a time/],
    ['a lower-case segment', 'begin_wal=00000001000000000000000a\n', /begin_wal: not a WAL segment name/],
    ['an LSN that is none', 'begin_xlog=12\n', /begin_xlog: not an LSN/],
    ['timeline 0', 'timeline=0\n', /timeline: not a number/],
    ['a huge version', 'version=99999999999\n', /version: not a number/],
    ['a strange segment size', 'xlog_segment_size=1000\n', /no segment has 1000 bytes/],
    ['a system identifier with letters', 'systemid=12a\n', /systemid/],
    ['tablespaces cut off', "tablespaces=[('a', 1,\n", /tablespaces: not a Python literal/],
    ['a tablespace without a location', "tablespaces=[('a', 1)]\n", /tablespaces: a text was expected/],
    ['a tablespace with more', "tablespaces=[('a', 1, '/x', 2)]\n", /more than name, oid and location/],
    ['a relative tablespace', "tablespaces=[('a', 1, 'x')]\n", /no absolute location/],
    ['a tablespace that climbs', "tablespaces=[('a', 1, '/srv/../etc')]\n", /no absolute location/],
    ['an oid that is none', "tablespaces=[('a', '../x', '/x')]\n", /tablespaces: not a number/],
    ['a tablespace twice', "tablespaces=[('a', 1, '/x'), ('b', 1, '/y')]\n", /comes twice/],
    ['a label that is no text', 'backup_label=12\n', /backup_label: a text was expected/],
    ['a deep literal', `copy_stats=${'['.repeat(1000)}\n`, /copy_stats: .*deeper/],
    ['more than 1 MiB', `error=${'x'.repeat(1024 * 1024)}\n`, /more than 1048576/],
  ] as const)('S2: %s is refused by name', ([, text, message]) => {
    expect(() => parse(text)).toThrow(
      expect.objectContaining({ code: 'format-invalid', message: expect.stringMatching(message) }),
    );
  });

  it('S2: whatever the text, it is read or refused', () => {
    const line = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc
        .tuple(fc.constantFrom(...(golden.match(/^\w+/gm) ?? [])), fc.string())
        .map(([key, value]) => `${key}=${value}`),
      fc.constantFrom(...golden.trimEnd().split('\n')),
    );
    fc.assert(
      fc.property(fc.array(line, { maxLength: 8 }), (lines) => {
        try {
          parse(lines.join('\n'));
        } catch (error) {
          expect(error).toMatchObject({ code: 'format-invalid' });
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('writing a record', () => {
  it('E1: what is written is read', () => {
    const path = fc.stringMatching(/^\/[^\p{C}\p{Z}]{1,20}$/u);
    const record = fc.record({
      begin: fc.bigInt({ min: 1n, max: 2n ** 60n }),
      length: fc.bigInt({ min: 1n, max: 2n ** 40n }),
      timeline: fc.integer({ min: 1, max: 0xffff_ffff }),
      segmentSize: fc.constantFrom(1, 16, 64, 1024).map((mebibytes) => mebibytes * 1024 * 1024),
      label: fc.string({ unit: 'binary' }),
      tablespaces: fc.uniqueArray(fc.tuple(fc.integer({ min: 1, max: 0xffff_ffff }), path), {
        selector: ([oid]) => oid,
        maxLength: 4,
      }),
      pgdata: path,
      included: fc.array(path, { minLength: 1, maxLength: 3 }),
      name: fc.stringMatching(/^[a-z][a-z0-9-]{0,20}x$/),
      seconds: fc.integer({ min: 0, max: 4e9 }),
    });
    fc.assert(
      fc.property(record, ({ begin, length, timeline, segmentSize, seconds, ...some }) => {
        const [beginLsn, endLsn] = [toLsn(begin), toLsn(begin + length)];
        const info: BackupInfo = {
          ...done,
          backupName: some.name,
          timeline,
          segmentSize,
          beginLsn,
          endLsn,
          beginWal: segmentAt(timeline, beginLsn, segmentSize),
          endWal: segmentBefore(timeline, endLsn, segmentSize),
          backupLabel: some.label,
          tablespaces: some.tablespaces.map(([oid, location]) => ({ name: `${oid}`, oid, location })),
          pgdata: some.pgdata,
          includedFiles: some.included,
          beginTime: new Date(seconds * 1000),
          endTime: new Date(seconds * 1000 + 1234),
        };
        const { timesAsWritten: _, ...read } = parse(formatBackupInfo(info));
        expect(read).toEqual(info);
      }),
    );
  });

  it('E5: holds the closed set of fields, in order, and nothing of ours', () => {
    const text = formatBackupInfo({ ...done, unknown: { walkeep: 'x' }, copyStats: { total_time: 1.5 } });
    const keys = text
      .trimEnd()
      .split('\n')
      .map((line) => line.split('=')[0]);
    expect(keys).toEqual([
      'backup_label',
      'backup_name',
      'begin_offset',
      'begin_time',
      'begin_wal',
      'begin_xlog',
      'compression',
      'config_file',
      'copy_stats',
      'deduplicated_size',
      'end_offset',
      'end_time',
      'end_wal',
      'end_xlog',
      'error',
      'hba_file',
      'ident_file',
      'included_files',
      'mode',
      'pgdata',
      'server_name',
      'size',
      'status',
      'systemid',
      'tablespaces',
      'timeline',
      'version',
      'xlog_segment_size',
    ]);
    expect(text).toContain("copy_stats={'total_time': 1.5}\n");
    expect(text).toContain('begin_time=2026-11-22 22:25:31.966000+00:00\nbegin_wal');
    expect(text).toContain('end_time=2026-11-22 22:25:44+00:00\n');
    expect(text).toContain('server_name=cloud\n');
  });

  it('E5: leaves out the name that a backup does not have, and writes None for no tablespaces', () => {
    const { backupName: _, ...nameless } = done;
    const text = formatBackupInfo({ ...nameless, tablespaces: [] });
    expect(text).not.toContain('backup_name');
    expect(text).toContain('tablespaces=None\n');
  });

  it('writes the failure of a backup in one line, without an end', () => {
    const { endTime: _1, endWal: _2, endLsn: _3, ...begun } = done;
    const text = formatBackupInfo({ ...begun, status: 'FAILED', error: 'failure x (line one\n line\ttwo)' });
    expect(text).toContain('error=failure x (line one line two)\n');
    expect(text).toContain('end_time=None\nend_wal=None\nend_xlog=None\n');
  });

  test.for<[string, Partial<Record<keyof BackupInfo, unknown>>, RegExp]>([
    ['H3: FAILED with an end', { status: 'FAILED' }, /FAILED but has endTime/],
    [
      'H3: STARTED with an end',
      { status: 'STARTED', endTime: undefined, endWal: undefined },
      /STARTED but has endLsn/,
    ],
    ['B1: DONE without a label', { backupLabel: undefined }, /no backupLabel/],
    [
      'B1: DONE without an end and a version',
      { endTime: undefined, version: undefined },
      /no endTime, version/,
    ],
    ['B1: DONE with an error', { error: 'x' }, /has an error/],
    ['B1: an end before the begin', { endLsn: parseLsn('0/3000028') }, /not after/],
    ['B1: time running backwards', { endTime: new Date(0) }, /ends before it begins/],
    ['B1: another begin_wal than its LSN has', { beginWal: '000000010000000000000002' }, /begin_wal is/],
    ['B1: another end_wal than its LSN has', { endWal: '000000010000000000000004' }, /end_wal is/],
    ['E5: a line break in a path', { pgdata: '/srv/a\nstatus=DONE' }, /pgdata holds a line break/],
    ['E5: a paragraph separator in a path', { hbaFile: '/srv/a\u2029' }, /hba_file holds a line break/],
    ['E5: a blank at the end of a path', { pgdata: '/srv/a ' }, /begins or ends with a blank/],
    ['E5: a value that reads as null', { pgdata: 'None' }, /reads as nothing/],
    ['E5: an id as a name', { backupName: '20261122T222531' }, /can not be the name/],
    ['E5: a word as a name', { backupName: 'latest' }, /can not be the name/],
    ['E5: another server name', { serverName: 'main' }, /must be "cloud"/],
    ['E5: an incremental', { parentBackupId: ID }, /incremental/],
    ['E5: snapshots', { snapshots: true }, /snapshots/],
    ['S2: a backup id that is none', { backupId: '../x' }, /not a backup id/],
    [
      'S2: a relative tablespace',
      { tablespaces: [{ name: 'a', oid: 1, location: 'x' }] },
      /no absolute location/,
    ],
  ])('%s is refused', ([, change, message]) => {
    const info = { ...done, ...change } as BackupInfo;
    expect(() => formatBackupInfo(info)).toThrow(
      expect.objectContaining({ code: 'format-invalid', message: expect.stringMatching(message) }),
    );
  });

  it('accepts both names for an end at the boundary of two segments', () => {
    for (const endWal of ['000000010000000000000003', '000000010000000000000004']) {
      const text = formatBackupInfo({
        ...done,
        endLsn: parseLsn('0/4000000'),
        endWal: parseSegmentName(endWal),
      });
      expect(text).toContain(`end_offset=0\n`);
    }
  });
});
