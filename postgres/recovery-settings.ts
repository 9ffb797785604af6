import { BackupError } from '../core/errors.ts';
import { crc32c } from './crc32c.ts';

/** A setting and its value, as PostgreSQL is to have it; the order counts. */
export type Setting = readonly [name: string, value: string];

/** What PostgreSQL does when the target is reached. */
export type RecoveryTargetAction = 'promote' | 'pause' | 'shutdown';

export interface RecoveryOptions {
  /** `recovery_target*` of the plan. */
  readonly target: Readonly<Record<string, string>>;
  readonly restoreCommand: string;
  readonly action: RecoveryTargetAction;
  /** Follow the archive for ever instead of ending somewhere. */
  readonly isStandby?: boolean;
  /** Limits that must not be lower than the source's were, and are. */
  readonly raised?: readonly Setting[];
  /** More settings, which win over all others. */
  readonly extra?: Readonly<Record<string, string>>;
}

/**
 * Everything of the source that would reach back to it (C5), or that would end this recovery elsewhere. Targets are
 * cleared first: two of them, one from the source's files, and PostgreSQL refuses to start.
 */
const NEUTRAL: readonly Setting[] = [
  ['archive_mode', 'off'],
  ['archive_cleanup_command', ''],
  ['recovery_end_command', ''],
  ['primary_conninfo', ''],
  ['primary_slot_name', ''],
  ['synchronous_standby_names', ''],
  // after a promotion the copy's subscriptions would take over, and move, the slots of the source's
  ['max_logical_replication_workers', '0'],
  ['recovery_min_apply_delay', '0'],
  ['recovery_target', ''],
  ['recovery_target_lsn', ''],
  ['recovery_target_name', ''],
  ['recovery_target_time', ''],
  ['recovery_target_xid', ''],
];

/** The settings of a recovery, in the order in which they have to be written. */
export function recoverySettings(options: RecoveryOptions): Setting[] {
  const target: Record<string, string> = options.isStandby
    ? { recovery_target_timeline: 'latest' }
    : { ...options.target };
  const all: Setting[] = [
    ...NEUTRAL,
    ['restore_command', options.restoreCommand],
    ['recovery_target_action', options.action],
    ...(options.raised ?? []),
    ...Object.entries(target),
    ...Object.entries(options.extra ?? {}),
  ];
  // PostgreSQL takes the last of two, in its place: what is said twice is said there only.
  return all.filter(([name], index) => all.findLastIndex(([other]) => other === name) === index);
}

/** Lines for `postgresql.auto.conf`. @throws BackupError `config-invalid` for names and values no such file can hold */
export function formatSettings(settings: readonly Setting[]): string {
  return settings.map(([name, value]) => `${settingName(name)} = ${quoteSetting(value)}\n`).join('');
}

function settingName(name: string): string {
  if (/^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$/.test(name)) return name;
  throw new BackupError('config-invalid', `not the name of a setting: ${JSON.stringify(name)}`);
}

/** A value as PostgreSQL's configuration files quote it. @see `guc-file.l`, `DeescapeQuotedString` */
export function quoteSetting(value: string): string {
  if (/[\r\n\0]/.test(value))
    throw new BackupError('config-invalid', 'a setting has one line, and this value has more');
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}

const LINE =
  /^[ \t]*([A-Za-z_][A-Za-z0-9_.$]*)[ \t]*(?:=[ \t]*|[ \t])[ \t]*('(?:[^'\\\n]|''|\\.)*'|[^\s#']+)/;

/** The settings of one configuration file, the last of a name winning; includes are not followed. */
export function parseSettings(text: string): Map<string, string> {
  const settings = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = LINE.exec(line);
    if (match) settings.set((match[1] as string).toLowerCase(), unquote(match[2] as string));
  }
  return settings;
}

function unquote(value: string): string {
  if (!value.startsWith("'")) return value;
  return value
    .slice(1, -1)
    .replaceAll(/''|\\(.)/g, (pair, escaped: string | undefined) => escaped ?? (pair === "''" ? "'" : pair));
}

/** Settings that say where the source's files are; in a copy elsewhere they would lead PostgreSQL back to them. */
const PLACES = ['data_directory', 'config_file', 'hba_file', 'ident_file', 'external_pid_file'];
const INCLUDES = ['include', 'include_dir', 'include_if_exists'];

/**
 * A configuration file without what would lead a restored copy back to the source's directories.
 *
 * @param isThere whether the file or directory of an include exists, and is the copy's own
 * @returns `included`: the paths of the includes that stay
 */
export function withoutPlaces(
  text: string,
  isThere: (path: string) => boolean,
): { text: string; disabled: string[]; included: string[] } {
  const disabled: string[] = [];
  const included: string[] = [];
  const lines = text.split('\n').map((line) => {
    const match = LINE.exec(line);
    const name = match?.[1]?.toLowerCase();
    if (match === null || name === undefined) return line;
    const path = unquote(match[2] as string);
    const isKept = INCLUDES.includes(name) && isThere(path);
    if (isKept) included.push(path);
    if (isKept || !(PLACES.includes(name) || INCLUDES.includes(name))) return line;
    disabled.push(line.trim());
    return `# walkeep restore, not of this copy: ${line}`;
  });
  return { text: lines.join('\n'), disabled, included };
}

/** Limits that a server in recovery must have at least as high as the primary had, and PostgreSQL's defaults. */
const LIMITS = [
  { name: 'max_connections', offset: 180, byDefault: 100 },
  { name: 'max_worker_processes', offset: 184, byDefault: 8 },
  { name: 'max_wal_senders', offset: 188, byDefault: 10 },
  { name: 'max_prepared_transactions', offset: 192, byDefault: 0 },
  { name: 'max_locks_per_transaction', offset: 196, byDefault: 64 },
] as const;

/**
 * The limits that the configuration of a restored copy has lower than `pg_control` says the source had.
 *
 * @param control the bytes of `pg_control` of PostgreSQL 13 to 18
 */
export function raisedLimits(control: Buffer, configured: ReadonlyMap<string, string>): Setting[] {
  return LIMITS.flatMap(({ name, offset, byDefault }): Setting[] => {
    const needed = control.readInt32LE(offset);
    const set = configured.get(name);
    const has = set === undefined ? byDefault : Number(set);
    return needed > has || Number.isNaN(has) ? [[name, String(needed)]] : [];
  });
}

/** Where the checkpoint's position is in `pg_control`, and where the checksum may be. */
const CHECKPOINT_OFFSET = 32;
const CHECKSUM_OFFSETS = [288, 292];
/** No WAL reaches there. */
const NOWHERE = 0xdead_beef_dead_beefn;

/**
 * `pg_control` with a checkpoint that does not exist. With `backup_label` PostgreSQL takes the checkpoint from there
 * and never looks at this one; when somebody removes the label, it refuses to start instead of starting from the
 * wrong checkpoint with a corrupt database (C2).
 *
 * @throws BackupError `object-damaged` when the checksum of `control` is wrong
 */
export function withoutCheckpoint(control: Buffer): Buffer {
  const checksumAt = CHECKSUM_OFFSETS.find(
    (offset) => control.readUInt32LE(offset) === crc32c(control.subarray(0, offset)),
  );
  if (checksumAt === undefined)
    throw new BackupError('object-damaged', 'the checksum of pg_control in the backup is wrong');
  const changed = Buffer.from(control);
  changed.writeBigUInt64LE(NOWHERE, CHECKPOINT_OFFSET);
  changed.writeUInt32LE(crc32c(changed.subarray(0, checksumAt)), checksumAt);
  return changed;
}
