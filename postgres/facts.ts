import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type pg from 'pg';
import { BackupError } from '../core/errors.ts';
import { formatLsn, parseLsn, type Lsn } from '../core/lsn.ts';
import { readControlData, type ControlData } from './control-data.ts';
import { postgresError } from './postgres-error.ts';

/** A tablespace other than `pg_default` and `pg_global`. */
export interface ServerTablespace {
  readonly oid: number;
  readonly name: string;
  /** Absolute; or relative to the data directory, for one that lies in place (`allow_in_place_tablespaces`). */
  readonly location: string;
}

/** What a running server says about itself. Settings the role may not see are `undefined`. */
export interface ServerFacts {
  readonly systemId: string;
  /** `server_version_num`, such as 150020. */
  readonly version: number;
  readonly majorVersion: number;
  readonly inRecovery: boolean;
  /** Timeline of the last checkpoint; the current one is watched by `readPosition`. */
  readonly timeline: number;
  /** Of WAL, in bytes. */
  readonly segmentSize: number;
  readonly walLevel: string;
  readonly archiveMode: string;
  readonly archiveCommand: string;
  readonly archiveLibrary: string;
  readonly dataChecksums: boolean;
  /** Whether WAL since the last checkpoint holds full pages; what counts on a standby is what its primary wrote. */
  readonly fullPageWrites: boolean;
  readonly port: number;
  readonly startedAt: Date;
  readonly mayStartBackup: boolean;
  readonly maySwitchWal: boolean;
  readonly tablespaces: readonly ServerTablespace[];
  readonly dataDirectory?: string;
  readonly configFile?: string;
  readonly hbaFile?: string;
  readonly identFile?: string;
  readonly logDirectory?: string;
  /** Files that settings came from, apart from `configFile`. */
  readonly includedFiles?: readonly string[];
}

const SETTINGS = `
  select name, setting from pg_catalog.pg_settings where name = any($1)`;

const FACTS = `
  select s.system_identifier::text as system_id,
         pg_is_in_recovery() as in_recovery,
         c.timeline_id as timeline,
         c.full_page_writes,
         pg_postmaster_start_time() as started_at,
         has_function_privilege('pg_backup_start(text,boolean)', 'execute')
           and has_function_privilege('pg_backup_stop(boolean)', 'execute') as may_backup,
         has_function_privilege('pg_switch_wal()', 'execute') as may_switch
    from pg_control_system() s, pg_control_checkpoint() c`;

const WANTED = [
  'server_version_num',
  'wal_segment_size',
  'wal_level',
  'archive_mode',
  'archive_command',
  'archive_library',
  'data_checksums',
  'port',
  'data_directory',
  'config_file',
  'hba_file',
  'ident_file',
  'log_directory',
];

/** The oldest major version whose backup functions we call (`pg_backup_start` came with it). */
const OLDEST_MAJOR_VERSION = 15;

/**
 * Asks a server for everything a backup of it depends on.
 *
 * @throws BackupError `postgres-unavailable` | `postgres-denied`, `postgres-unsuitable` for PostgreSQL before 15
 */
export async function readServerFacts(client: pg.Client): Promise<ServerFacts> {
  try {
    const settings = await readSettings(client, WANTED);
    const version = Number(settings.get('server_version_num'));
    const majorVersion = Math.floor(version / 10_000);
    if (majorVersion < OLDEST_MAJOR_VERSION) {
      throw new BackupError(
        'postgres-unsuitable',
        `PostgreSQL ${majorVersion} is too old; 15 or later is needed`,
        {
          hint: 'upgrade PostgreSQL',
        },
      );
    }
    const { rows } = await client.query<{
      system_id: string;
      in_recovery: boolean;
      timeline: number;
      full_page_writes: boolean;
      started_at: Date;
      may_backup: boolean;
      may_switch: boolean;
    }>(FACTS);
    const row = rows[0];
    if (!row) throw new BackupError('postgres-unavailable', 'the server says nothing about itself');
    const included = await readIncludedFiles(client);
    return {
      systemId: row.system_id,
      version,
      majorVersion,
      inRecovery: row.in_recovery,
      timeline: row.timeline,
      segmentSize: Number(settings.get('wal_segment_size')),
      walLevel: settings.get('wal_level') ?? '',
      archiveMode: settings.get('archive_mode') ?? '',
      archiveCommand: settings.get('archive_command') ?? '',
      archiveLibrary: settings.get('archive_library') ?? '',
      dataChecksums: settings.get('data_checksums') === 'on',
      fullPageWrites: row.full_page_writes,
      port: Number(settings.get('port')),
      startedAt: row.started_at,
      mayStartBackup: row.may_backup,
      maySwitchWal: row.may_switch,
      tablespaces: await readTablespaces(client),
      ...visible('dataDirectory', settings.get('data_directory')),
      ...visible('configFile', settings.get('config_file')),
      ...visible('hbaFile', settings.get('hba_file')),
      ...visible('identFile', settings.get('ident_file')),
      ...visible('logDirectory', settings.get('log_directory')),
      ...(included === undefined ? {} : { includedFiles: included }),
    };
  } catch (error) {
    throw postgresError(error, 'reading the settings of the server');
  }
}

/** All tablespaces of the catalogue but the two built-in ones, by oid. */
export async function readTablespaces(client: pg.Client): Promise<ServerTablespace[]> {
  const { rows } = await client.query<{ oid: number; name: string; location: string }>(
    `select oid, spcname as name, pg_tablespace_location(oid) as location
       from pg_catalog.pg_tablespace where spcname not in ('pg_default', 'pg_global') order by oid`,
  );
  return rows;
}

/**
 * Why no backup can be taken from this server, in the first thing that is in the way.
 *
 * @throws BackupError `postgres-unsuitable` | `postgres-denied`
 */
export function requireSuitable(facts: ServerFacts): void {
  const refuse = (message: string, hint: string) => {
    throw new BackupError('postgres-unsuitable', message, { hint });
  };
  if (facts.walLevel === 'minimal') {
    refuse(
      'wal_level is minimal, expected replica or logical',
      'set wal_level = replica and restart PostgreSQL',
    );
  }
  if (facts.inRecovery) {
    if (!facts.fullPageWrites) {
      refuse(
        'full_page_writes is off on the primary of this standby',
        'set full_page_writes = on on the primary',
      );
    }
  } else {
    if (facts.archiveMode !== 'on' && facts.archiveMode !== 'always') {
      refuse(
        `archive_mode is ${facts.archiveMode || 'unknown'}, expected on or always: without the WAL no backup can be restored`,
        'set archive_mode = on and archive_command as walkeep archive-command prints it, then restart PostgreSQL',
      );
    }
    if (isUnset(facts.archiveCommand) && facts.archiveLibrary === '') {
      refuse(
        'archive_command is empty, so no WAL is archived',
        'set it to what walkeep archive-command prints, and reload',
      );
    }
  }
  if (!facts.mayStartBackup) {
    throw new BackupError('postgres-denied', 'the role may not call pg_backup_start and pg_backup_stop');
  }
}

/**
 * Makes sure that `pgdata` is the data directory of the server we talk to: its system identifier fits, it is in use,
 * and by a server on the same port, started at the same time, in the same role. (The identifier alone is the same for
 * primary, standbys and restored copies.)
 *
 * @throws BackupError `postgres-unsuitable`
 */
export async function requireSameServer(
  pgdata: string,
  facts: ServerFacts,
  backendPid: number,
  signal: AbortSignal,
): Promise<ControlData> {
  const control = await readControlData(pgdata, signal);
  const refuse = (message: string): never => {
    throw new BackupError(
      'postgres-unsuitable',
      `${pgdata} is not the data directory of this server: ${message}`,
      {
        hint: 'correct --pgdata, or PGHOST and PGPORT',
      },
    );
  };
  if (control.systemId !== facts.systemId) {
    refuse(`its system identifier is ${control.systemId}, the server's is ${facts.systemId}`);
  }
  if (isWorkingDirectory(pgdata, backendPid)) return control;

  const lines = readPostmasterPid(pgdata);
  if (!lines) return refuse('it has no postmaster.pid, so no server uses it');
  const [startedAt, port] = [Number(lines[2]), Number(lines[3])];
  if (port !== facts.port) refuse(`its postmaster.pid says port ${port}, the server's is ${facts.port}`);
  if (Math.abs(facts.startedAt.getTime() / 1000 - startedAt) > START_TOLERANCE_S) {
    refuse(
      `its server was started at ${new Date(startedAt * 1000).toISOString()}, this one at ${facts.startedAt.toISOString()}`,
    );
  }
  if ((control.state === 'in production') === facts.inRecovery) {
    refuse(`it is "${control.state}", the server is ${facts.inRecovery ? 'a standby' : 'a primary'}`);
  }
  return control;
}

/** Where a server stands: role, timeline and end of its WAL; what must not change in the middle of a backup. */
export interface ServerPosition {
  readonly inRecovery: boolean;
  readonly timeline: number;
  readonly lsn: Lsn;
}

/** @param control on a standby, its pg_control: functions that name the current timeline do not work in recovery */
export async function readPosition(
  client: pg.Client,
  control: () => Promise<ControlData>,
): Promise<ServerPosition> {
  const { rows } = await client.query<{ in_recovery: boolean; timeline: string | null; lsn: string }>(
    `select r as in_recovery,
            case when r then null else substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) end as timeline,
            coalesce(case when r then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end, '0/0')::text as lsn
       from pg_is_in_recovery() r`,
  );
  const row = rows[0];
  if (!row) throw new BackupError('postgres-unavailable', 'the server does not say where it stands');
  const timeline =
    row.timeline === null ? (await control()).minRecoveryTimeline : Number.parseInt(row.timeline, 16);
  return { inRecovery: row.in_recovery, timeline, lsn: parseLsn(row.lsn) };
}

/**
 * @throws BackupError `backup-interrupted` when the server changed its role or its timeline (B6): the WAL from start to
 * stop is then not one unbroken piece of one timeline
 */
export function requireSamePosition(before: ServerPosition, now: ServerPosition): void {
  const role = (position: ServerPosition) => (position.inRecovery ? 'a standby' : 'a primary');
  if (before.inRecovery !== now.inRecovery) {
    throw new BackupError(
      'backup-interrupted',
      `the server was ${role(before)} and became ${role(now)} during the backup`,
    );
  }
  // On a standby 0 stands for "nothing replayed yet".
  if (now.timeline !== 0 && before.timeline !== 0 && before.timeline !== now.timeline) {
    throw new BackupError(
      'backup-interrupted',
      `the server went from timeline ${before.timeline} to ${now.timeline} during the backup (at ${formatLsn(now.lsn)})`,
    );
  }
}

/** A server needs its time to come up; two servers of one cluster are rarely started in the same minute. */
const START_TOLERANCE_S = 60;

async function readSettings(client: pg.Client, names: readonly string[]): Promise<Map<string, string>> {
  const { rows } = await client.query<{ name: string; setting: string }>(SETTINGS, [names]);
  return new Map(rows.map(({ name, setting }) => [name, setting]));
}

async function readIncludedFiles(client: pg.Client): Promise<string[] | undefined> {
  const { rows } = await client.query<{ sourcefile: string }>(
    `select distinct sourcefile from pg_catalog.pg_settings
      where sourcefile is not null and sourcefile <> coalesce(
        (select setting from pg_catalog.pg_settings where name = 'config_file'), '')
      order by sourcefile`,
  );
  return rows.length === 0 ? undefined : rows.map(({ sourcefile }) => sourcefile);
}

/** Definite where worker and server see the same processes: a backend's working directory is its data directory. */
function isWorkingDirectory(pgdata: string, pid: number): boolean {
  try {
    const [ours, theirs] = [statSync(pgdata), statSync(`/proc/${pid}/cwd`)];
    return ours.dev === theirs.dev && ours.ino === theirs.ino;
  } catch {
    return false;
  }
}

function readPostmasterPid(pgdata: string): string[] | undefined {
  try {
    return readFileSync(join(pgdata, 'postmaster.pid'), 'utf8').split('\n');
  } catch {
    return undefined;
  }
}

function isUnset(command: string): boolean {
  return command === '' || command === '(disabled)';
}

function visible<K extends string>(name: K, value: string | undefined): { [key in K]?: string } {
  return value === undefined || value === '' ? {} : ({ [name]: value } as { [key in K]: string });
}
