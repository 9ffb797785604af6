import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { logDirectoryInside, outsideFiles, walkDataDirectory } from '../../postgres/data-directory.ts';
import { makeTempDir } from '../support/temp.ts';

const signal = new AbortController().signal;
const VERSION = 'PG_15_202209061';

function write(root: string, ...paths: string[]): void {
  for (const path of paths) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), path);
  }
}

/** A data directory as PostgreSQL would have it, reduced to what the walk looks at. */
function makeDataDirectory(): string {
  const pgdata = join(realpathSync(makeTempDir('walk')), 'data');
  write(
    pgdata,
    'PG_VERSION',
    'postgresql.conf',
    'postmaster.pid',
    'global/pg_control',
    'global/1262',
    'base/5/1259',
    'base/5/16384',
    'base/5/16384_init',
    'base/5/t1_16390',
    'pg_wal/000000010000000000000001',
    'pg_replslot/s/state',
    'pg_xact/0000',
  );
  mkdirSync(join(pgdata, 'pg_tblspc'));
  mkdirSync(join(pgdata, 'pg_twophase'));
  chmodSync(pgdata, 0o700);
  return pgdata;
}

async function walk(pgdata: string, options: Partial<Parameters<typeof walkDataDirectory>[1]> = {}) {
  const { areas, tablespaces } = await walkDataDirectory(pgdata, {
    versionDirectory: VERSION,
    signal,
    ...options,
  });
  const found = areas.map(({ area, files, directories, skipped }) => ({
    area,
    files: files.map(({ path }) => path),
    directories: directories.map(({ path }) => path),
    skipped: skipped.map(({ path }) => path),
  }));
  return { data: found[0]!, others: found.slice(1), tablespaces, areas };
}

describe('walkDataDirectory', () => {
  it('B4: finds the files of a backup, keeps empty directories, and begins with PGDATA itself', async () => {
    const { data, areas } = await walk(makeDataDirectory());
    expect(data.files).toEqual([
      'PG_VERSION',
      'base/5/1259',
      'base/5/16384_init',
      'global/1262',
      'pg_xact/0000',
      'postgresql.conf',
    ]);
    expect(data.directories).toEqual([
      '.',
      'base',
      'base/5',
      'global',
      'pg_replslot',
      'pg_tblspc',
      'pg_twophase',
      'pg_wal',
      'pg_xact',
    ]);
    expect(areas[0]!.directories[0]).toMatchObject({ path: '.', mode: 0o700 });
    expect(areas[0]!.files.find(({ path }) => path === 'base/5/1259')?.sizeBytes).toBe('base/5/1259'.length);
  });

  it('B4: a data directory that is a link, and pg_wal behind one', async () => {
    const real = makeDataDirectory();
    const wal = makeTempDir('wal');
    write(wal, '000000010000000000000001');
    execFileSync('rm', ['-r', join(real, 'pg_wal')]);
    symlinkSync(wal, join(real, 'pg_wal'));
    const link = join(makeTempDir('link'), 'data');
    symlinkSync(real, link);
    const { data, areas } = await walk(link);
    expect(areas[0]!.root).toBe(real);
    expect(data.directories).toContain('pg_wal');
    expect(data.files.some((path) => path.startsWith('pg_wal'))).toBe(false);
    expect(data.files).toContain('base/5/1259');
  });

  it('B4: tablespaces are areas of their own, with this version’s folder only', async () => {
    const pgdata = makeDataDirectory();
    const outside = realpathSync(makeTempDir('ts'));
    write(outside, `${VERSION}/5/16400`, `${VERSION}/5/t2_1`, 'PG_14_202107181/5/16400', 'other');
    symlinkSync(outside, join(pgdata, 'pg_tblspc', '16385'));
    const { data, others, tablespaces } = await walk(pgdata);
    expect(data.files.some((path) => path.startsWith('pg_tblspc'))).toBe(false);
    expect(others).toEqual([
      { area: '16385', files: [`${VERSION}/5/16400`], directories: [VERSION, `${VERSION}/5`], skipped: [] },
    ]);
    expect(tablespaces).toEqual([{ oid: 16385, location: outside, root: outside }]);
  });

  it('B4: a tablespace inside PGDATA is not stored twice; its neighbour of a common prefix is stored', async () => {
    const pgdata = makeDataDirectory();
    write(pgdata, `inner/${VERSION}/5/16400`, 'inner2/file');
    symlinkSync(join(pgdata, 'inner'), join(pgdata, 'pg_tblspc', '16385'));
    const { data, others } = await walk(pgdata);
    expect(data.directories).toContain('inner');
    expect(data.files.filter((path) => path.startsWith('inner'))).toEqual(['inner2/file']);
    expect(others[0]!.files).toEqual([`${VERSION}/5/16400`]);
  });

  it('B4: a tablespace in place (allow_in_place_tablespaces) is part of PGDATA', async () => {
    const pgdata = makeDataDirectory();
    write(pgdata, `pg_tblspc/16386/${VERSION}/5/16400`, `pg_tblspc/16386/${VERSION}/5/t1_16401`);
    const { data, others } = await walk(pgdata);
    expect(data.files).toContain(`pg_tblspc/16386/${VERSION}/5/16400`);
    expect(data.files).not.toContain(`pg_tblspc/16386/${VERSION}/5/t1_16401`);
    expect(others).toEqual([]);
  });

  it('B4: other links are followed, and what they lead to is stored in their place', async () => {
    const pgdata = makeDataDirectory();
    const outside = makeTempDir('out');
    write(outside, 'conf.d/a.conf', 'hba.conf');
    symlinkSync(join(outside, 'conf.d'), join(pgdata, 'conf.d'));
    symlinkSync(join(outside, 'hba.conf'), join(pgdata, 'pg_hba.conf'));
    symlinkSync('/nowhere/at/all', join(pgdata, 'dangling'));
    const { data } = await walk(pgdata);
    expect(data.files).toEqual(expect.arrayContaining(['conf.d/a.conf', 'pg_hba.conf']));
    expect(data.directories).toContain('conf.d');
    expect(data.skipped).toEqual(['dangling']);
  });

  it('does not run in circles', async () => {
    const pgdata = makeDataDirectory();
    mkdirSync(join(pgdata, 'extra'));
    symlinkSync(pgdata, join(pgdata, 'extra', 'up'));
    const { data } = await walk(pgdata);
    expect(data.skipped).toEqual(['extra/up']);
  });

  it('does not copy a repository that lies inside into itself', async () => {
    const pgdata = makeDataDirectory();
    write(pgdata, 'backups/srv/base/x/data.tar');
    const { data } = await walk(pgdata, { notInto: [join(pgdata, 'backups')] });
    expect(data.directories).toContain('backups');
    expect(data.files.some((path) => path.startsWith('backups/'))).toBe(false);
  });

  it('passes over a FIFO, and says so', async () => {
    const pgdata = makeDataDirectory();
    execFileSync('mkfifo', [join(pgdata, 'pipe')]);
    expect((await walk(pgdata)).data.skipped).toEqual(['pipe']);
  });

  it('leaves out what is taken from elsewhere, and the logs', async () => {
    const pgdata = makeDataDirectory();
    write(pgdata, 'log/today.log');
    const { data } = await walk(pgdata, { replaced: ['postgresql.conf'], logDirectory: 'log' });
    expect(data.files).not.toContain('postgresql.conf');
    expect(data.files).not.toContain('log/today.log');
    expect(data.directories).toContain('log');
  });

  it('names what it can not read', async () => {
    await expect(walk('/nowhere')).rejects.toMatchObject({
      code: 'postgres-unsuitable',
      message: expect.stringContaining('/nowhere'),
    });
  });
});

describe('what lies outside', () => {
  it('is judged by whole names, not by their beginning', () => {
    expect(
      outsideFiles('/srv/pg', [
        '/srv/pg/postgresql.conf',
        '/srv/pg-conf/pg_hba.conf',
        undefined,
        '/etc/pg/pg_ident.conf',
      ]),
    ).toEqual([
      { source: '/srv/pg-conf/pg_hba.conf', path: 'pg_hba.conf' },
      { source: '/etc/pg/pg_ident.conf', path: 'pg_ident.conf' },
    ]);
  });

  it.for([
    ['log', 'log'],
    ['/srv/pg/var/log', 'var/log'],
    ['/var/log/postgresql', undefined],
    ['.', undefined],
    ['../log', undefined],
  ] as const)('log_directory %s is %s', ([setting, expected]) => {
    expect(logDirectoryInside('/srv/pg', setting)).toBe(expected);
  });
});
