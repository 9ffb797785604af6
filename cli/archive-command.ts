import { Command } from 'commander';
import { quoteForConfiguration, quoteForSql } from '../core/wal-commands.ts';
import { archiveCommandLine } from '../operations/wal-command-lines.ts';
import { note } from './output.ts';
import { addPlaceOptions, findPlace, hasCurl, type PlaceOptions } from './wal-command-place.ts';

/** `walkeep archive-command` */
export function archiveCommandCommand(): Command {
  return addPlaceOptions(new Command('archive-command'))
    .summary("print PostgreSQL's archive_command for this host")
    .description(
      'Prints the line for postgresql.conf. PostgreSQL then calls a small shell client, which asks the worker and, ' +
        'without one, archives by itself. Run it on the host of the database, as the owner of the data directory.',
    )
    .option('--sql', 'print ALTER SYSTEM statements instead, to be run by a superuser')
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep archive-command --cluster production-postgres --pgdata /srv/pg >> /srv/pg/postgresql.conf\n' +
        '  walkeep archive-command --cluster production-postgres --pgdata /srv/pg --sql | psql\n',
    )
    .action(async (options: PlaceOptions & { readonly sql?: true }) => {
      const value = archiveCommandLine(await findPlace(options));
      process.stdout.write(options.sql ? archiveSql(value) : archiveConfiguration(value));
      if (!hasCurl()) {
        note(
          'walkeep: there is no curl here: every file starts the full client, which takes about 0.2 s longer',
        );
      }
    });
}

/** A restart makes `archive_mode` count; the command by itself only needs a reload. */
function archiveSql(value: string): string {
  return [
    '-- archive_mode needs a restart of PostgreSQL, archive_command only a reload',
    "ALTER SYSTEM SET archive_mode = 'on';",
    `ALTER SYSTEM SET archive_command = ${quoteForSql(value)};`,
    'SELECT pg_reload_conf();',
    '',
  ].join('\n');
}

function archiveConfiguration(value: string): string {
  return `archive_command = ${quoteForConfiguration(value)}\n`;
}
