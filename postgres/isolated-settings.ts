import { raisedLimits, type Setting } from './recovery-settings.ts';

export interface IsolationRequest {
  readonly majorVersion: number;
  /** Of WAL, in bytes. */
  readonly segmentSize: number;
  /** The only way to the server: a directory of mode 0700. */
  readonly socketDirectory: string;
  readonly hbaFile: string;
  readonly identFile: string;
  /** What the server loads at its start; see `neededLibraries`. */
  readonly libraries: readonly string[];
}

/**
 * What a scratch copy of a database is started with, on its command line, which wins over every file of the copy. It
 * reaches nothing of the source (C5) and nobody reaches it; it takes little memory; nothing in it begins to work by
 * itself; and nothing of the source's machine (certificates, directories, locales) keeps it from starting.
 *
 * During recovery nobody can connect, so PostgreSQL does not ask for limits as high as the source's.
 */
export function isolatedSettings(request: IsolationRequest): Setting[] {
  const { majorVersion, socketDirectory, hbaFile, identFile, libraries } = request;
  const segmentMiB = Math.ceil(request.segmentSize / 2 ** 20);
  const always: Setting[] = [
    // where it is reached
    ['listen_addresses', ''],
    ['port', '5432'],
    ['unix_socket_directories', quoteListEntry(socketDirectory)],
    ['unix_socket_permissions', '0700'],
    ['unix_socket_group', ''],
    ['bonjour', 'off'],
    ['ssl', 'off'],
    ['hba_file', hbaFile],
    ['ident_file', identFile],
    ['external_pid_file', ''],
    // what it could reach
    ['archive_mode', 'off'],
    ['archive_command', ''],
    ['archive_cleanup_command', ''],
    ['recovery_end_command', ''],
    ['primary_conninfo', ''],
    ['primary_slot_name', ''],
    ['synchronous_standby_names', ''],
    ['max_wal_senders', '0'],
    // a promoted copy's subscriptions would move the slots of the source's publishers
    ['max_logical_replication_workers', '0'],
    // what would begin to work in it
    ['shared_preload_libraries', libraries.map(quoteListEntry).join(', ')],
    ['session_preload_libraries', ''],
    ['local_preload_libraries', ''],
    ['autovacuum', 'off'],
    ['jit', 'off'],
    ['restart_after_crash', 'off'],
    ['hot_standby', 'off'],
    ['recovery_min_apply_delay', '0'],
    // memory and disk
    ['shared_buffers', '64MB'],
    ['huge_pages', 'off'],
    ['work_mem', '8MB'],
    ['maintenance_work_mem', '64MB'],
    ['temp_buffers', '8MB'],
    ['max_connections', '20'],
    ['max_parallel_workers', '0'],
    ['max_parallel_workers_per_gather', '0'],
    ['max_parallel_maintenance_workers', '0'],
    ['max_stack_depth', '2MB'],
    // PostgreSQL wants two segments at least
    ['max_wal_size', `${Math.max(256, 4 * segmentMiB)}MB`],
    ['min_wal_size', `${2 * segmentMiB}MB`],
    ['wal_keep_size', '0'],
    // a copy that is lost is made anew
    ['fsync', 'off'],
    ['synchronous_commit', 'off'],
    // what it says, and in which words
    ['logging_collector', 'off'],
    ['log_destination', 'stderr'],
    ['log_line_prefix', '%m [%p] '],
    ['log_min_messages', 'warning'],
    ['log_statement', 'none'],
    ['log_min_duration_statement', '-1'],
    ['timezone', 'UTC'],
    ['log_timezone', 'UTC'],
    ['lc_messages', 'C'],
    ['lc_monetary', 'C'],
    ['lc_numeric', 'C'],
    ['lc_time', 'C'],
    ['default_text_search_config', 'pg_catalog.simple'],
  ];
  return [
    ...always,
    ...(majorVersion >= 15 ? [['archive_library', ''] as const] : []),
    // of PostgreSQL 17: what a database does when somebody logs in is its owner's choice, not ours
    ...(majorVersion >= 17
      ? [
          ['event_triggers', 'off'] as const,
          ['sync_replication_slots', 'off'] as const,
          ['summarize_wal', 'off'] as const,
        ]
      : []),
    ...libraries.flatMap((library) => QUIET[library] ?? []),
  ];
}

/**
 * The copy's own configuration file; that of the source does not count, since it speaks of another machine. Limits are
 * those that the replay of its WAL may need.
 *
 * @param control the bytes of the copy's `pg_control`
 */
export function scratchConfiguration(control: Buffer, majorVersion: number): Setting[] {
  const limits = new Map(raisedLimits(control, new Map()));
  const prepared = Math.max(100, Number(limits.get('max_prepared_transactions') ?? 0));
  const locks = limits.get('max_locks_per_transaction');
  return [
    ['max_prepared_transactions', String(prepared)],
    ...(locks === undefined ? [] : [['max_locks_per_transaction', locks] as const]),
    // subscriptions keep their progress in these, which replay brings back
    ['max_replication_slots', '1000'],
    ...(majorVersion >= 18 ? [['max_active_replication_origins', '1000'] as const] : []),
  ];
}

/**
 * Libraries without which the copy can't be replayed or read: they bring WAL resource managers, or the way tables are
 * stored. All others (monitoring, jobs, audit) are left out: what they do belongs to the source.
 */
const NEEDED = new Set([
  'orioledb',
  'pg_tde',
  'pgroonga_wal_resource_manager',
  'pgroonga_crash_safer',
  'timescaledb',
]);

/** Settings that keep a needed library from working by itself. */
const QUIET: Readonly<Record<string, readonly Setting[]>> = {
  timescaledb: [
    ['timescaledb.max_background_workers', '0'],
    ['timescaledb.telemetry_level', 'off'],
  ],
};

/**
 * Which of the source's `shared_preload_libraries` the copy gets.
 *
 * @param setting its value at the source
 * @param all everything, since replay has asked for a resource manager that none of the usual ones brings
 */
export function neededLibraries(setting: string, all = false): { needed: string[]; left: string[] } {
  const libraries = parseList(setting);
  const nameOf = (library: string) => library.replace(/^.*\//, '').replace(/\.(so|dylib|dll)$/, '');
  const needed = libraries.filter((library) => all || NEEDED.has(nameOf(library)));
  return { needed, left: libraries.filter((library) => !needed.includes(library)) };
}

/** The entries of a setting that is a list. @see PostgreSQL `SplitDirectoriesString` */
function parseList(setting: string): string[] {
  return [...setting.matchAll(/\s*(?:"((?:[^"]|"")*)"|([^,"]+?))\s*(?:,|$)/g)]
    .map(([, quoted, plain]) => (quoted === undefined ? (plain ?? '') : quoted.replaceAll('""', '"')))
    .filter((entry) => entry !== '');
}

function quoteListEntry(text: string): string {
  return /^[A-Za-z0-9_/$.-]+$/.test(text) ? text : `"${text.replaceAll('"', '""')}"`;
}

/** What has to hold in a server that was started so; asked of the server itself. */
export const ISOLATION: Readonly<Record<string, string>> = {
  listen_addresses: '',
  archive_mode: 'off',
  primary_conninfo: '',
  max_logical_replication_workers: '0',

  max_wal_senders: '0',
};
