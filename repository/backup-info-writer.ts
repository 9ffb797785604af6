import { BackupError } from '../core/errors.ts';
import { formatLsn, type Lsn } from '../core/lsn.ts';
import { segmentAt, segmentBefore, type SegmentName } from '../core/segment.ts';
import { validateTablespace, type BackupInfo } from './backup-info-fields.ts';
import { isBackupId, quoted, validateBackupId } from './layout.ts';
import { formatLiteral, Tuple, type LiteralValue } from './python-literal.ts';
import { formatRecordTime, parseRecordTime } from './record-time.ts';

/** Words that stock tools take for something else than the name of a backup. */
const RESERVED_NAMES = [
  'latest',
  'last',
  'oldest',
  'first',
  'last-failed',
  'latest-full',
  'last-full',
  'auto',
];
const MAX_ERROR_LENGTH = 500;

/**
 * Writes a `backup.info` that barman 3.10 and all later ones read: one unknown field in one record would make the
 * whole server unusable for them, so the set below is closed and does not follow barman's. `unknown` is not written.
 *
 * @throws BackupError `format-invalid` for a record that would be misread: a DONE without what a restore needs, one
 *   that is not DONE but has an end (CNPG takes both times for success, H3), a line break in a value
 */
export function formatBackupInfo(info: BackupInfo): string {
  validateBackupId(info.backupId);
  refuseForeign(info);
  if (info.status === 'DONE') refuseIncomplete(info);
  else refuseEnd(info);
  const lines = Object.entries(fieldsOf(info)).map(
    ([key, value]) => `${key}=${rawValue(info, key, value)}\n`,
  );
  return lines.join('');
}

function refused({ backupId }: BackupInfo, why: string): BackupError {
  return new BackupError('format-invalid', `the backup.info of ${backupId} can not be written: ${why}`);
}

/** All fields known to 3.10, in alphabetical order as stock writes them. */
function fieldsOf(info: BackupInfo): Record<string, string | null> {
  const { segmentSize, timesAsWritten, tablespaces, includedFiles } = info;
  const rows = tablespaces
    .map(validateTablespace)
    .map(({ name, oid, location }) => new Tuple([name, oid, location]));
  return {
    backup_label: literal(info.backupLabel),
    ...(info.backupName === undefined ? {} : { backup_name: validateBackupName(info, info.backupName) }),
    begin_offset: offsetIn(info.beginLsn, segmentSize),
    begin_time: time(info.beginTime, timesAsWritten?.begin),
    begin_wal: info.beginWal ?? null,
    begin_xlog: info.beginLsn === undefined ? null : formatLsn(info.beginLsn),
    compression: null,
    config_file: info.configFile ?? null,
    // numbers and their names; `formatLiteral` refuses what it does not know
    copy_stats: literal(info.copyStats as LiteralValue | undefined),
    deduplicated_size: null,
    end_offset: offsetIn(info.endLsn, segmentSize),
    end_time: time(info.endTime, timesAsWritten?.end),
    end_wal: info.endWal ?? null,
    end_xlog: info.endLsn === undefined ? null : formatLsn(info.endLsn),
    error: info.error === undefined ? null : oneLine(info.error),
    hba_file: info.hbaFile ?? null,
    ident_file: info.identFile ?? null,
    included_files: literal(includedFiles?.length ? includedFiles : undefined),
    mode: null,
    pgdata: info.pgdata ?? null,
    // literally: CNPG reads nothing from a record of any other name
    server_name: 'cloud',
    size: null,
    status: info.status,
    systemid: info.systemId ?? null,
    // stock never writes an empty list
    tablespaces: literal(rows.length === 0 ? undefined : rows),
    timeline: info.timeline === undefined ? null : String(info.timeline),
    version: info.version === undefined ? null : String(info.version),
    xlog_segment_size: String(segmentSize),
  };
}

function literal(value: LiteralValue | undefined): string | null {
  return value === undefined ? null : formatLiteral(value);
}

function offsetIn(lsn: Lsn | undefined, segmentSize: number): string | null {
  return lsn === undefined ? null : String(lsn % BigInt(segmentSize));
}

/** The record's own spelling, as long as it still says the same. */
function time(value: Date | undefined, written: string | undefined): string | null {
  if (value === undefined) return null;
  const isSame = written !== undefined && parseRecordTime(written).time.getTime() === value.getTime();
  return isSame ? written : formatRecordTime(value);
}

function rawValue(info: BackupInfo, key: string, value: string | null): string {
  if (value === null) return 'None';
  // line and paragraph separators, too: some readers split there
  if (/[\p{Cc}\p{Cs}\u2028\u2029]/u.test(value))
    throw refused(info, `${key} holds a line break or control character`);
  if (value !== value.trim()) throw refused(info, `${key} begins or ends with a blank: ${quoted(value)}`);
  if (value === '' || value === 'None')
    throw refused(info, `${key} is ${quoted(value)}, which reads as nothing`);
  return value;
}

function oneLine(text: string): string {
  return (
    text
      .replace(/[\p{Cc}\p{Cs}\s]+/gu, ' ')
      .trim()
      .slice(0, MAX_ERROR_LENGTH)
      .trim() || 'unknown'
  );
}

function validateBackupName(info: BackupInfo, name: string): string {
  if (isBackupId(name) || RESERVED_NAMES.includes(name)) {
    throw refused(
      info,
      `${quoted(name)} can not be the name of a backup, stock tools take it for something else`,
    );
  }
  return name;
}

function refuseForeign(info: BackupInfo): void {
  if (info.parentBackupId !== undefined)
    throw refused(info, 'stock tools restore an incremental as if it were full');
  if (info.snapshots) throw refused(info, 'it is a backup by snapshots');
  if (info.serverName !== undefined && info.serverName !== 'cloud') {
    throw refused(info, `server_name must be "cloud", not ${quoted(info.serverName)}`);
  }
}

function refuseEnd(info: BackupInfo): void {
  for (const key of ['endTime', 'endWal', 'endLsn'] as const) {
    if (info[key] !== undefined)
      throw refused(info, `it is ${info.status} but has ${key}, so CNPG would take it for good`);
  }
}

const REQUIRED = [
  'beginTime',
  'endTime',
  'beginWal',
  'endWal',
  'beginLsn',
  'endLsn',
  'timeline',
  'systemId',
  'version',
  'backupLabel',
  'pgdata',
] as const;

function refuseIncomplete(info: BackupInfo): void {
  const missing = REQUIRED.filter((key) => info[key] === undefined);
  if (missing.length > 0) throw refused(info, `it is DONE but has no ${missing.join(', ')}`);
  const { beginTime, endTime, beginLsn, endLsn } = info as Required<BackupInfo>;
  if (endTime < beginTime) throw refused(info, 'it ends before it begins');
  if (endLsn <= beginLsn)
    throw refused(info, `it ends at ${formatLsn(endLsn)}, not after ${formatLsn(beginLsn)}`);
  if (info.error !== undefined) throw refused(info, 'it is DONE but has an error');
  refuseWrongSegments(info as Required<BackupInfo>);
}

function refuseWrongSegments(info: Required<BackupInfo>): void {
  const { timeline, beginLsn, endLsn, segmentSize } = info;
  const begin = segmentAt(timeline, beginLsn, segmentSize);
  if (info.beginWal !== begin)
    throw refused(info, `begin_wal is ${info.beginWal}, ${formatLsn(beginLsn)} is in ${begin}`);
  // at a boundary both names are in use: that of the last byte, and that of the next
  const ends: SegmentName[] = [
    segmentBefore(timeline, endLsn, segmentSize),
    segmentAt(timeline, endLsn, segmentSize),
  ];
  if (!ends.includes(info.endWal)) {
    throw refused(info, `end_wal is ${info.endWal}, ${formatLsn(endLsn)} ends ${ends[0]}`);
  }
}
