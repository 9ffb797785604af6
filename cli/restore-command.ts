import { Command } from 'commander';
import { quoteForConfiguration, quoteForSql } from '../core/wal-commands.ts';
import { restoreCommandLine } from '../operations/wal-command-lines.ts';
import { addPlaceOptions, findPlace, type PlaceOptions } from './wal-command-place.ts';

/** `walkeep restore-command` */
export function restoreCommandCommand(): Command {
  return addPlaceOptions(new Command('restore-command'))
    .summary("print PostgreSQL's restore_command for this host")
    .description(
      "Prints the line for the postgresql.conf of a standby that follows the cluster's archive. A data directory that " +
        '`walkeep restore` made has its own line already.',
    )
    .option('--sql', 'print ALTER SYSTEM statements instead, to be run by a superuser')
    .addHelpText(
      'after',
      '\nExample:\n  walkeep restore-command --cluster production-postgres --pgdata /srv/standby >> /srv/standby/postgresql.conf\n',
    )
    .action(async (options: PlaceOptions & { readonly sql?: true }) => {
      const value = restoreCommandLine(await findPlace(options));
      process.stdout.write(
        options.sql
          ? `ALTER SYSTEM SET restore_command = ${quoteForSql(value)};\nSELECT pg_reload_conf();\n`
          : `restore_command = ${quoteForConfiguration(value)}\n`,
      );
    });
}
