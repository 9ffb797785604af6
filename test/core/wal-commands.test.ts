import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  archiveCommand,
  quoteForConfiguration,
  quoteForShell,
  quoteForSql,
  restoreCommand,
} from '../../core/wal-commands.ts';

const PARTS = {
  shellClient: '/opt/walkeep/deploy/walkeep-wal',
  socket: '/var/lib/walkeep/run/prod/pg.sock',
  fullClient: ['/usr/bin/node', '/opt/walkeep/cli/main.js'],
  options: ['--cluster', 'prod/pg', '--pgdata', '/srv/pg'],
};

/** What PostgreSQL does with the placeholders of a command. */
function substitute(command: string, file: string, path: string): string {
  return command.replaceAll(/%[%fp]/g, (found) => ({ '%%': '%', '%f': file, '%p': path })[found] ?? found);
}

const text = () => fc.string({ minLength: 1, maxLength: 30 }).filter((s) => !/\p{Cc}/u.test(s));

describe('the lines for PostgreSQL', () => {
  it('are the same for everybody to read', () => {
    expect(archiveCommand(PARTS)).toBe(
      '/opt/walkeep/deploy/walkeep-wal push /var/lib/walkeep/run/prod/pg.sock "%p" ' +
        '/usr/bin/node /opt/walkeep/cli/main.js wal-push --cluster prod/pg --pgdata /srv/pg "%p"',
    );
    expect(restoreCommand({ ...PARTS, socket: undefined as never })).toBe(
      '/opt/walkeep/deploy/walkeep-wal fetch - %f "%p" ' +
        '/usr/bin/node /opt/walkeep/cli/main.js wal-fetch --cluster prod/pg --pgdata /srv/pg %f "%p"',
    );
  });

  it('S3: a path with spaces, quotes, dollars and per cents reaches the client as it is', () => {
    fc.assert(
      fc.property(text(), text(), (directory, node) => {
        const parts = {
          shellClient: 'printf',
          socket: '/s',
          fullClient: [node],
          options: ['--pgdata', directory],
        };
        const command = substitute(archiveCommand(parts), 'F', 'pg_wal/F').replace(
          'printf push',
          `printf '%s\\0'`,
        );
        const words = execFileSync('/bin/sh', ['-c', command]).toString().split('\0');
        expect(words).toEqual(['/s', 'pg_wal/F', node, 'wal-push', '--pgdata', directory, 'pg_wal/F', '']);
      }),
      { numRuns: 60 },
    );
  });

  it('S3: refuses what no setting can hold', () => {
    expect(() => quoteForShell('a\nb')).toThrow(/no command line can hold/);
  });

  it('S3: doubles quotes and backslashes where the configuration file and SQL read them', () => {
    expect(quoteForConfiguration(`a'b\\c`)).toBe(`'a''b\\\\c'`);
    expect(quoteForSql(`a'b`)).toBe(`'a''b'`);
    expect(quoteForSql(`a'b\\c`)).toBe(`E'a''b\\\\c'`);
  });
});
