import { BackupError } from './errors.ts';

/** What `archive_command` and `restore_command` are made of; absolute paths, as they are on the database's host. */
export interface WalCommandParts {
  /** `deploy/walkeep-wal`. */
  readonly shellClient: string;
  /** The worker's socket; absent where no worker is to be asked. */
  readonly socket?: string;
  /** How the full client is started: the Node program and walkeep's main file, or one executable. */
  readonly fullClient: readonly string[];
  /** Options of the full client, such as `--cluster NS/NAME --pgdata DIR`. */
  readonly options: readonly string[];
}

/** The value of `archive_command`. @throws BackupError `config-invalid` for a path no setting can hold */
export function archiveCommand(parts: WalCommandParts): string {
  return line([parts.shellClient, 'push', parts.socket ?? '-'], [PATH], parts, 'wal-push', [PATH]);
}

/** The value of `restore_command`. @throws BackupError `config-invalid` for a path no setting can hold */
export function restoreCommand(parts: WalCommandParts): string {
  return line([parts.shellClient, 'fetch', parts.socket ?? '-'], ['%f', PATH], parts, 'wal-fetch', [
    '%f',
    PATH,
  ]);
}

/** Relative to PGDATA, except that pg_rewind gives an absolute path: hence the quotes. */
const PATH = '"%p"';

function line(
  client: readonly string[],
  asked: readonly string[],
  { fullClient, options }: WalCommandParts,
  verb: string,
  file: readonly string[],
): string {
  return [...client.map(word), ...asked, ...fullClient.map(word), verb, ...options.map(word), ...file].join(
    ' ',
  );
}

/** One word for sh, in which PostgreSQL sees no placeholder. */
function word(text: string): string {
  return quoteForShell(text).replaceAll('%', '%%');
}

/**
 * `text` as one word of a POSIX shell's command line.
 *
 * @throws BackupError `config-invalid` for line breaks and other control characters, which no setting can hold
 */
export function quoteForShell(text: string): string {
  if (/\p{Cc}/u.test(text)) {
    throw new BackupError('config-invalid', `no command line can hold ${JSON.stringify(text)}`, {
      hint: 'choose a path without control characters',
    });
  }
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** `value` as a string of `postgresql.conf`. */
export function quoteForConfiguration(value: string): string {
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}

/** `value` as an SQL string, whatever `standard_conforming_strings` is. */
export function quoteForSql(value: string): string {
  const doubled = value.replaceAll("'", "''");
  return value.includes('\\') ? `E'${doubled.replaceAll('\\', '\\\\')}'` : `'${doubled}'`;
}
