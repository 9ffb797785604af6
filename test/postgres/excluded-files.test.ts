import { describe, expect, it } from 'vitest';
import { isDatabaseDirectory, judgePath, withoutTransientRelations } from '../../postgres/excluded-files.ts';

describe('judgePath', () => {
  it.for([
    'postmaster.pid',
    'postmaster.opts',
    'backup_label',
    'backup_label.old',
    'tablespace_map',
    'backup_manifest',
    'postgresql.auto.conf.tmp',
    'current_logfiles.tmp',
    'standby.signal',
    'recovery.signal',
    'walkeep_recovery.json',
    '.walkeep-restore',
    'lost+found',
    'global/pg_internal.init',
    'base/5/pg_internal.init.4711',
    'base/pgsql_tmp',
    'base/5/pgsql_tmp1.2',
    '.s.PGSQL.5432.lock',
  ])('B4: %s belongs to the running server and is left out', (path) => {
    expect(judgePath(path)).toBe('exclude');
  });

  it.for([
    'pg_wal',
    'pg_dynshmem',
    'pg_notify',
    'pg_replslot',
    'pg_serial',
    'pg_snapshots',
    'pg_stat_tmp',
    'pg_subtrans',
  ])('B4: %s is stored as an empty directory', (path) => {
    expect(judgePath(path)).toBe('empty-directory');
  });

  it.for([
    'postgresql.conf',
    'postgresql.auto.conf',
    'pg_hba.conf',
    'PG_VERSION',
    'global/1262',
    'pg_xact/0000',
    'pg_logical/mappings',
    'pg_stat',
    'base/5/16384',
    'extra/postmaster.pid',
    'extra/pg_wal',
    'pg_multixact/members/0000',
    'recovery.done',
  ])('B4: %s is part of a backup', (path) => {
    expect(judgePath(path)).toBe('include');
  });

  it('leaves out the logs inside PGDATA, under any name that is not a system directory', () => {
    expect(judgePath('log', { logDirectory: 'log' })).toBe('empty-directory');
    expect(judgePath('log', { logDirectory: 'elsewhere' })).toBe('include');
    expect(judgePath('var/log/pg', { logDirectory: 'var/log/pg' })).toBe('empty-directory');
    expect(judgePath('pg_log', { logDirectory: 'pg_log' })).toBe('empty-directory');
    for (const vital of ['base', 'global', 'pg_xact', 'base/5']) {
      expect(judgePath(vital, { logDirectory: vital })).toBe('include');
    }
  });
});

describe('withoutTransientRelations', () => {
  it('B4: leaves out unlogged relations but for their init forks, and temporary ones', () => {
    const names = [
      '16384',
      '16384.1',
      '16384_fsm',
      '16384_vm',
      '16384_init',
      '16390',
      '16390.1',
      '16390_fsm',
      '16390_vm',
      '16390_vm.1',
      't3_16400',
      't3_16400_fsm',
      't12_16400.1',
      'PG_VERSION',
      'pg_filenode.map',
      '163840',
    ];
    expect(withoutTransientRelations(names)).toEqual([
      '16384_init',
      '16390',
      '16390.1',
      '16390_fsm',
      '16390_vm',
      '16390_vm.1',
      'PG_VERSION',
      'pg_filenode.map',
      '163840',
    ]);
  });

  it('is asked only about directories of a database', () => {
    expect(
      ['base/5', 'PG_17_202406281/5', 'pg_tblspc/16384/PG_17_202406281/5'].every(isDatabaseDirectory),
    ).toBe(true);
    expect(['base', 'global', 'PG_17_202406281', 'extra/base/5', 'base/5/x'].some(isDatabaseDirectory)).toBe(
      false,
    );
  });
});
