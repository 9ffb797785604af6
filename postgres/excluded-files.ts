/** What becomes of a name the walk meets. */
export type Verdict = 'include' | 'exclude' | 'empty-directory';

/** Directories of PGDATA whose content PostgreSQL makes anew; the directory itself has to be there. */
const EMPTY_DIRECTORIES = new Set([
  'pg_dynshmem',
  'pg_notify',
  'pg_replslot',
  'pg_serial',
  'pg_snapshots',
  'pg_stat_tmp',
  'pg_subtrans',
  'pg_wal',
]);

/** Files in the root of PGDATA that belong to the running server, to an earlier restore, or to a backup itself. */
const ROOT_FILES = new Set([
  'backup_label',
  'backup_label.old',
  'backup_manifest',
  'backup_manifest.tmp',
  'lost+found',
  'postmaster.opts',
  'postmaster.pid',
  'recovery.signal',
  'standby.signal',
  'tablespace_map',
  'tablespace_map.old',
  'walkeep_recovery.json',
]);

/** Ours; and a socket, whose lock file would make the restored server believe that another one runs. */
const OWN_OR_SOCKET = /^\.(?:walkeep|s\.PGSQL\.\d)/;

/** What a log directory must not be called, whatever `log_directory` says: without these there is no database. */
const SYSTEM_DIRECTORIES =
  /^(?:base|global|pg_(?:commit_ts|dynshmem|logical|multixact|notify|replslot|serial|snapshots|stat|stat_tmp|subtrans|tblspc|twophase|wal|xact))(?:\/|$)/;

/** One server's own circumstances. */
export interface ExclusionOptions {
  /** `log_directory`, relative to PGDATA, when it lies inside. */
  readonly logDirectory?: string;
}

/**
 * What of PGDATA is not part of a base backup: PostgreSQL's own list, the server's logs, and our own files.
 *
 * @param path relative to PGDATA (or to a tablespace), without `./`
 * @see PostgreSQL `src/backend/backup/basebackup.c`, `excludeFiles`, `excludeDirContents`
 */
export function judgePath(path: string, { logDirectory }: ExclusionOptions = {}): Verdict {
  const name = path.slice(path.lastIndexOf('/') + 1);
  if (name.startsWith('pgsql_tmp') || name.startsWith('pg_internal.init')) return 'exclude';
  if (name === 'postgresql.auto.conf.tmp' || name === 'current_logfiles.tmp') return 'exclude';
  if (path === logDirectory && !SYSTEM_DIRECTORIES.test(path)) return 'empty-directory';
  if (path.includes('/')) return 'include';
  if (EMPTY_DIRECTORIES.has(path)) return 'empty-directory';
  return ROOT_FILES.has(path) || OWN_OR_SOCKET.test(path) ? 'exclude' : 'include';
}

/** Whether `path` is a directory with the relations of one database, where unlogged and temporary ones are left out. */
export function isDatabaseDirectory(path: string): boolean {
  return /^(?:base|(?:pg_tblspc\/\d+\/)?PG_\d+_\d+)\/\d+$/.test(path);
}

/**
 * The names in one database's directory that are not backed up: temporary relations, and of unlogged relations
 * everything but the init fork, from which they are made empty at the end of recovery.
 */
export function withoutTransientRelations(names: readonly string[]): string[] {
  const unlogged = new Set(names.flatMap((name) => /^(\d+)_init$/.exec(name)?.[1] ?? []));
  return names.filter((name) => {
    if (/^t\d+_\d+(?:_[a-z]+)?(?:\.\d+)?$/.test(name)) return false;
    const relation = /^(\d+)(_(?:fsm|vm))?(?:\.\d+)?$/.exec(name);
    return !relation || !unlogged.has(relation[1] as string);
  });
}
