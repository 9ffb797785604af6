import { describe, expect, it } from 'vitest';
import { isolatedSettings, ISOLATION, neededLibraries } from '../../postgres/isolated-settings.ts';

const request = {
  majorVersion: 17,
  segmentSize: 64 << 20,
  socketDirectory: '/srv/a b/run',
  hbaFile: '/h',
  identFile: '/i',
  libraries: ['timescaledb'],
};

describe('an isolated server', () => {
  it('C5: is started with everything that is asked of it afterwards', () => {
    const settings = new Map(isolatedSettings(request));
    for (const [name, value] of Object.entries(ISOLATION)) expect(settings.get(name), name).toBe(value);
    expect(settings.get('unix_socket_directories')).toBe('"/srv/a b/run"');
    expect(settings.get('min_wal_size')).toBe('128MB');
    expect(settings.get('event_triggers')).toBe('off');
    expect(settings.get('timescaledb.max_background_workers')).toBe('0');
  });

  it('an older PostgreSQL is not told what it does not know', () => {
    const names = isolatedSettings({ ...request, majorVersion: 14 }).map(([name]) => name);
    expect(names).not.toContain('event_triggers');
    expect(names).not.toContain('archive_library');
    expect(new Set(names).size).toBe(names.length);
  });

  it.for([
    { setting: '', needed: [], left: [] },
    { setting: 'pg_stat_statements, pg_cron', needed: [], left: ['pg_stat_statements', 'pg_cron'] },
    { setting: 'pg_cron, "$libdir/orioledb"', needed: ['$libdir/orioledb'], left: ['pg_cron'] },
    { setting: '"odd, name", timescaledb', needed: ['timescaledb'], left: ['odd, name'] },
  ])('of "$setting" it loads $needed', ({ setting, needed, left }) => {
    expect(neededLibraries(setting)).toEqual({ needed, left });
    expect(neededLibraries(setting, true).left).toEqual([]);
  });
});
