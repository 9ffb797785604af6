import { describe, expect, it } from 'vitest';
import { parseLsn } from '../../core/lsn.ts';
import type pg from 'pg';
import { refusePooler } from '../../postgres/connection.ts';
import { parseBackupLabel } from '../../postgres/backup-label.ts';
import { requireSamePosition, requireSuitable, type ServerFacts } from '../../postgres/facts.ts';
import { postgresError } from '../../postgres/postgres-error.ts';

const facts: ServerFacts = {
  systemId: '1',
  version: 150018,
  majorVersion: 15,
  inRecovery: false,
  timeline: 1,
  segmentSize: 2 ** 24,
  walLevel: 'replica',
  archiveMode: 'on',
  archiveCommand: 'x %p',
  archiveLibrary: '',
  dataChecksums: true,
  fullPageWrites: true,
  port: 5432,
  startedAt: new Date(0),
  mayStartBackup: true,
  maySwitchWal: true,
  tablespaces: [],
};

describe('requireSuitable', () => {
  it.for([
    ['a primary that archives', {}],
    ['an archive library in the place of a command', { archiveCommand: '', archiveLibrary: 'basic_archive' }],
    ['logical decoding', { walLevel: 'logical', archiveMode: 'always' }],
    [
      'a standby, whose primary archives',
      { inRecovery: true, archiveMode: 'off', archiveCommand: '(disabled)' },
    ],
  ] as const)('%s is fine', ([, change]) => {
    expect(() => requireSuitable({ ...facts, ...change })).not.toThrow();
  });

  it.for([
    ['postgres-unsuitable', { walLevel: 'minimal' }, 'wal_level is minimal, expected replica or logical'],
    ['postgres-unsuitable', { archiveMode: 'off' }, 'archive_mode is off, expected on or always'],
    ['postgres-unsuitable', { archiveCommand: '' }, 'archive_command is empty'],
    [
      'postgres-unsuitable',
      { inRecovery: true, fullPageWrites: false },
      'full_page_writes is off on the primary',
    ],
    ['postgres-denied', { mayStartBackup: false }, 'may not call pg_backup_start'],
  ] as const)('refused (%s): %j', ([code, change, message]) => {
    const refused = () => requireSuitable({ ...facts, ...change });
    expect(refused).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }));
  });
});

describe('requireSamePosition', () => {
  const here = { inRecovery: false, timeline: 3, lsn: parseLsn('0/5000000') };

  it('B6: the same role on the same timeline is fine', () => {
    expect(() => requireSamePosition(here, { ...here, lsn: parseLsn('0/9000000') })).not.toThrow();
    expect(() => requireSamePosition({ ...here, timeline: 0 }, here)).not.toThrow();
  });

  it.for([
    ['a promotion', { inRecovery: true }, { inRecovery: false }, 'was a standby and became a primary'],
    ['another timeline', {}, { timeline: 4 }, 'from timeline 3 to 4'],
  ] as const)('B6: %s is not', ([, before, now, message]) => {
    expect(() => requireSamePosition({ ...here, ...before }, { ...here, ...now })).toThrow(
      expect.objectContaining({ code: 'backup-interrupted', message: expect.stringContaining(message) }),
    );
  });
});

describe('refusePooler', () => {
  const client = (announced: number, answers: number) =>
    ({
      processID: announced,
      query: () => Promise.resolve({ rows: [{ pid: answers }] }),
    }) as unknown as pg.Client;

  it('F1: the server process that answers must be the one that was announced', async () => {
    await expect(refusePooler(client(7, 7))).resolves.toBeUndefined();
    await expect(refusePooler(client(7, 8))).rejects.toMatchObject({
      code: 'postgres-unsuitable',
      message: expect.stringContaining('pooler'),
    });
  });
});

describe('parseBackupLabel', () => {
  const label =
    'START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\nCHECKPOINT LOCATION: 0/3000080\nBACKUP METHOD: streamed\n' +
    'BACKUP FROM: primary\nSTART TIME: 2026-11-22 22:25:32 UTC\nLABEL: x\nSTART TIMELINE: 1\n';

  it('reads what recovery depends on', () => {
    expect(parseBackupLabel(label)).toEqual({
      beginLsn: parseLsn('0/3000028'),
      beginWal: '000000010000000000000003',
      timeline: 1,
    });
    expect(() => parseBackupLabel(label.replace('START TIMELINE', 'X'))).toThrow('not a backup_label');
  });
});

describe('postgresError', () => {
  const thrown = (code: string, message: string, hint?: string) =>
    Object.assign(new Error(message), { code, hint });

  it.for([
    ['28P01', 'postgres-denied'],
    ['42501', 'postgres-denied'],
    ['57P03', 'postgres-unavailable'],
    ['ECONNREFUSED', 'postgres-unavailable'],
    ['53300', 'postgres-unavailable'],
    ['3D000', 'config-invalid'],
    ['55000', 'postgres-unsuitable'],
  ] as const)('%s is %s', ([code, expected]) => {
    expect(postgresError(thrown(code, 'text\nmore'), 'doing')).toMatchObject({
      code: expected,
      message: 'doing: text',
    });
  });

  it('passes on what the server advises, where we know no better', () => {
    expect(postgresError(thrown('55000', 'no', 'set it\nplease'), 'doing').hint).toBe('set it');
  });
});
