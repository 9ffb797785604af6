import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { BackupError } from '../core/errors.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The parameters of one service, as libpq finds them: `PGSERVICEFILE`, else `~/.pg_service.conf`, then
 * `$PGSYSCONFDIR/pg_service.conf`. The first file that has the service wins.
 *
 * @throws BackupError `config-invalid` when no file has it, or a line can not be read
 * @see https://www.postgresql.org/docs/current/libpq-pgservice.html
 */
export function readService(name: string, env: Environment): ReadonlyMap<string, string> {
  const files = [
    env['PGSERVICEFILE'] ?? (env['HOME'] && join(env['HOME'], '.pg_service.conf')),
    env['PGSYSCONFDIR'] && join(env['PGSYSCONFDIR'], 'pg_service.conf'),
  ].filter((file): file is string => Boolean(file));
  for (const file of files) {
    const text = readIfThere(file);
    const service = text === undefined ? undefined : parseServices(text, file).get(name);
    if (service) return service;
  }
  throw new BackupError(
    'config-invalid',
    `no definition of service "${name}" in ${files.join(' or ') || 'any file'}`,
    {
      hint: 'correct PGSERVICE or PGSERVICEFILE',
    },
  );
}

/** All services of a `pg_service.conf`. @throws BackupError `config-invalid` naming file and line, never its content */
export function parseServices(text: string, file: string): Map<string, Map<string, string>> {
  const services = new Map<string, Map<string, string>>();
  let current: Map<string, string> | undefined;
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const header = /^\[(.*)\]$/.exec(line);
    const setting = /^([a-z_]+)\s*=\s*(.*)$/.exec(line);
    if (header) {
      current = new Map();
      // Like libpq: the first definition of a service counts.
      if (!services.has(header[1] as string)) services.set(header[1] as string, current);
    } else if (setting && current) {
      current.set(setting[1] as string, setting[2] as string);
    } else {
      throw new BackupError('config-invalid', `${file}:${index + 1}: not a line of a service file`);
    }
  }
  return services;
}

/** What a password file is looked up with. */
export interface PasswordKey {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
}

/**
 * The first matching password of a `.pgpass` file.
 *
 * @see https://www.postgresql.org/docs/current/libpq-pgpass.html
 */
export function findPassword(text: string, key: PasswordKey): string | undefined {
  // A socket directory is looked up as `localhost`, and under its own name too.
  const hosts = key.host.startsWith('/') ? [key.host, 'localhost'] : [key.host];
  for (const line of text.split('\n')) {
    if (line.startsWith('#')) continue;
    const [host, port, database, user, password] = splitFields(line.replace(/\r$/, ''));
    if (password === undefined) continue;
    const fits = (field: string | undefined, values: readonly string[]) =>
      field === '*' || values.includes(field ?? '');
    if (
      fits(host, hosts) &&
      fits(port, [String(key.port)]) &&
      fits(database, [key.database]) &&
      fits(user, [key.user])
    ) {
      return password;
    }
  }
  return undefined;
}

function splitFields(line: string): string[] {
  const fields = [''];
  for (let i = 0; i < line.length; i += 1) {
    if (line[i] === '\\' && i + 1 < line.length) fields.push(`${fields.pop()}${line[(i += 1)]}`);
    else if (line[i] === ':' && fields.length < 5) fields.push('');
    else fields.push(`${fields.pop()}${line[i]}`);
  }
  return fields;
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new BackupError('config-invalid', `can not read ${file}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}
