import { BackupError, messageOf } from '../core/errors.ts';
import { parseLsn } from '../core/lsn.ts';
import { DEFAULT_SEGMENT_SIZE, isSegmentSize, parseSegmentName } from '../core/segment.ts';
import { cutText } from '../core/short-text.ts';
import {
  STATUSES,
  validateTablespace,
  type BackupInfo,
  type BackupInfoStatus,
  type Tablespace,
} from './backup-info-fields.ts';
import { quoted, validateBackupId } from './layout.ts';
import { parseLiteral, Tuple, type LiteralValue } from './python-literal.ts';
import { parseRecordTime } from './record-time.ts';

export type { BackupInfo, Tablespace } from './backup-info-fields.ts';
export { formatBackupInfo } from './backup-info-writer.ts';

/** No record is larger; more is refused before it is read. */
export const MAX_BACKUP_INFO_BYTES = 1024 * 1024;
const MAX_TABLESPACES = 10_000;

/** Follow from other fields, or are null in object stores: not interpreted, and not worth showing when null. */
const KNOWN_BY_NAME = [
  'compression',
  'size',
  'deduplicated_size',
  'mode',
  'cluster_size',
  'data_checksums',
  'summarize_wal',
  'encryption',
  'children_backup_ids',
] as const;

/**
 * Reads a `backup.info`, of any version of barman.
 *
 * @throws BackupError `format-invalid` naming the backup, and the line or field that no version would write
 */
export function parseBackupInfo(backupId: string, text: string): BackupInfo {
  validateBackupId(backupId);
  if (text.length > MAX_BACKUP_INFO_BYTES) {
    throw invalid(backupId, `it has ${text.length} characters, more than ${MAX_BACKUP_INFO_BYTES}`);
  }
  const fields = new RecordFields(backupId, text);
  const times = readTimes(fields);
  const known = {
    backupId,
    backupName: fields.text('backup_name'),
    status: fields.read('status', parseStatus) ?? 'EMPTY',
    beginTime: times.begin?.time,
    endTime: times.end?.time,
    beginWal: fields.read('begin_wal', parseSegmentName),
    endWal: fields.read('end_wal', parseSegmentName),
    beginLsn: fields.read('begin_xlog', parseLsn),
    endLsn: fields.read('end_xlog', parseLsn),
    timeline: fields.read('timeline', (value) => parseNumber(value, 1, 0xffff_ffff)),
    systemId: fields.read('systemid', parseSystemId),
    version: fields.read('version', (value) => parseNumber(value, 80_000, 2_000_000)),
    segmentSize: fields.read('xlog_segment_size', parseSegmentSize) ?? DEFAULT_SEGMENT_SIZE,
    tablespaces: fields.read('tablespaces', parseTablespaces) ?? [],
    backupLabel: fields.read('backup_label', (value) => asText(parseLiteral(value))),
    serverName: fields.text('server_name'),
    pgdata: fields.text('pgdata'),
    configFile: fields.text('config_file'),
    hbaFile: fields.text('hba_file'),
    identFile: fields.text('ident_file'),
    includedFiles: fields.read('included_files', (value) => asList(parseLiteral(value)).map(asText)),
    error: fields.text('error'),
    copyStats: fields.read('copy_stats', parseLiteral),
    parentBackupId: fields.text('parent_backup_id'),
    // what it holds depends on the cloud; that it holds anything is what matters
    snapshots: fields.text('snapshots_info') === undefined ? undefined : true,
    ...times.notes,
  };
  fields.dropNulls(KNOWN_BY_NAME);
  fields.drop(['begin_offset', 'end_offset']);
  return { ...withoutUndefined(known), unknown: fields.rest() };
}

function invalid(backupId: string, message: string, cause?: unknown): BackupError {
  return new BackupError('format-invalid', `the backup.info of ${backupId} is unreadable: ${message}`, {
    cause,
    hint: 'the backup is not used and holds back every deletion; repair or remove this record',
  });
}

/** The lines of a record; every field is taken out once, and what is left was unknown. */
class RecordFields {
  readonly #backupId: string;
  readonly #values = new Map<string, string>();

  constructor(backupId: string, text: string) {
    this.#backupId = backupId;
    const lines = text.replace(/^\ufeff/, '').split(/\r\n|\n|\r/);
    for (const [index, line] of lines.entries()) {
      const content = line.trim();
      if (content === '' || content.startsWith('#')) continue;
      const equals = content.indexOf('=');
      if (equals <= 0) throw invalid(backupId, `line ${index + 1} is not key=value: ${quoted(content)}`);
      this.#values.set(content.slice(0, equals).trim(), content.slice(equals + 1).trim());
    }
  }

  /** @returns `undefined` when the field is absent or null */
  text(key: string): string | undefined {
    const value = this.#values.get(key);
    this.#values.delete(key);
    return value === 'None' ? undefined : value;
  }

  read<T>(key: string, parse: (value: string) => T): T | undefined {
    const value = this.text(key);
    if (value === undefined) return undefined;
    try {
      return parse(value);
    } catch (cause) {
      // it may quote the whole value, and goes into logs and histories
      throw invalid(this.#backupId, `${cutText(key, 100)}: ${cutText(messageOf(cause), 500)}`, cause);
    }
  }

  drop(keys: readonly string[]): void {
    for (const key of keys) this.#values.delete(key);
  }

  dropNulls(keys: readonly string[]): void {
    this.drop(keys.filter((key) => this.#values.get(key) === 'None'));
  }

  rest(): Readonly<Record<string, string>> {
    return Object.fromEntries(this.#values);
  }
}

function readTimes(fields: RecordFields) {
  const read = (key: string) => fields.read(key, (written) => ({ written, ...parseRecordTime(written) }));
  const begin = read('begin_time');
  const end = read('end_time');
  const written = { ...(begin && { begin: begin.written }), ...(end && { end: end.written }) };
  const hasTimesWithoutZone = begin?.hasZone === false || end?.hasZone === false;
  const notes = {
    ...(begin || end ? { timesAsWritten: written } : {}),
    ...(hasTimesWithoutZone ? { hasTimesWithoutZone } : {}),
  };
  return { begin, end, notes };
}

function parseStatus(text: string): BackupInfoStatus {
  const status = STATUSES.find((known) => known === text);
  if (status === undefined) throw new BackupError('format-invalid', `no such status: ${quoted(text)}`);
  return status;
}

function parseNumber(text: string, min: number, max: number): number {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= min && value <= max)) {
    throw new BackupError('format-invalid', `not a number from ${min} to ${max}: ${quoted(text)}`);
  }
  return value;
}

function parseSystemId(text: string): string {
  if (!/^\d{1,20}$/.test(text))
    throw new BackupError('format-invalid', `not a system identifier: ${quoted(text)}`);
  return text;
}

function parseSegmentSize(text: string): number {
  const bytes = parseNumber(text, 1, 2 ** 31);
  if (!isSegmentSize(bytes)) throw new BackupError('format-invalid', `no segment has ${bytes} bytes`);
  return bytes;
}

function asText(value: LiteralValue): string {
  if (typeof value !== 'string') throw new BackupError('format-invalid', 'a text was expected');
  return value;
}

function asList(value: LiteralValue): readonly LiteralValue[] {
  if (value instanceof Tuple) return value.items;
  if (Array.isArray(value)) return value as readonly LiteralValue[];
  throw new BackupError('format-invalid', 'a list was expected');
}

function parseTablespaces(text: string): Tablespace[] {
  const rows = asList(parseLiteral(text));
  if (rows.length > MAX_TABLESPACES)
    throw new BackupError('format-invalid', `${rows.length} tablespaces are too many`);
  const tablespaces = rows.map((row) => {
    const [name = null, oid = null, location = null, ...more] = asList(row);
    if (more.length > 0)
      throw new BackupError('format-invalid', 'a tablespace is more than name, oid and location');
    return validateTablespace({
      name: asText(name),
      // very old records have it as text
      oid: parseNumber(typeof oid === 'number' ? String(oid) : asText(oid), 1, 0xffff_ffff),
      location: asText(location),
    });
  });
  const oids = new Set(tablespaces.map(({ oid }) => oid));
  const names = new Set(tablespaces.map(({ name }) => name));
  if (Math.min(oids.size, names.size) < tablespaces.length) {
    throw new BackupError('format-invalid', 'the same tablespace comes twice');
  }
  return tablespaces;
}

/** The object without the keys that have no value. */
function withoutUndefined<T extends object>(object: T): WithoutUndefined<T> {
  const entries = Object.entries(object).filter(([, value]) => value !== undefined);
  // the type says no more than the filter does
  return Object.fromEntries(entries) as WithoutUndefined<T>;
}

type WithoutUndefined<T> = {
  [K in keyof T as undefined extends T[K] ? never : K]: T[K];
} & { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> };
