import { BackupError } from '../core/errors.ts';
import type { Lsn } from '../core/lsn.ts';
import type { SegmentName } from '../core/segment.ts';
import { quoted } from './layout.ts';

/** A tablespace as the catalogue of the server had it. */
export interface Tablespace {
  readonly name: string;
  readonly oid: number;
  /** An absolute path on the server that was backed up. */
  readonly location: string;
}

export type BackupInfoStatus = (typeof STATUSES)[number];

/** What `backup.info` says of a base backup. Only with `status` `DONE` may a backup be restored from. */
export interface BackupInfo {
  readonly backupId: string;
  readonly backupName?: string;
  readonly status: BackupInfoStatus;
  readonly beginTime?: Date;
  readonly endTime?: Date;
  readonly beginWal?: SegmentName;
  readonly endWal?: SegmentName;
  readonly beginLsn?: Lsn;
  readonly endLsn?: Lsn;
  /** On which the backup began. */
  readonly timeline?: number;
  /** PostgreSQL's system identifier: digits, more than a number can hold. */
  readonly systemId?: string;
  /** `server_version_num`, such as 170010. */
  readonly version?: number;
  /** Bytes of a WAL segment. */
  readonly segmentSize: number;
  readonly tablespaces: readonly Tablespace[];
  readonly backupLabel?: string;
  /** `cloud` for backups made by object-store tools, ours included. */
  readonly serverName?: string;
  readonly pgdata?: string;
  readonly configFile?: string;
  readonly hbaFile?: string;
  readonly identFile?: string;
  readonly includedFiles?: readonly string[];
  readonly error?: string;
  /** Numbers about the copy: a plain object to be written, a `LiteralValue` when it was read. */
  readonly copyStats?: unknown;
  /** An incremental backup: it can't be restored by itself. Never written by us. */
  readonly parentBackupId?: string;
  /** A backup by volume snapshots: its data isn't in the store. Never written by us. */
  readonly snapshots?: boolean;
  /** The times as the record spells them, which may be more exact than a `Date`. */
  readonly timesAsWritten?: { readonly begin?: string; readonly end?: string };
  /** A time without a zone was taken for UTC. */
  readonly hasTimesWithoutZone?: boolean;
  /** Fields that this version doesn't interpret, as they were written. */
  readonly unknown: Readonly<Record<string, string>>;
}

/** What barman writes; `DONE`, `FAILED` and `STARTED` come from object-store tools. */
export const STATUSES = ['STARTED', 'DONE', 'FAILED', 'EMPTY', 'WAITING_FOR_WALS', 'SYNCING'] as const;

/** `tablespace` itself. @throws BackupError `format-invalid` when no server can have it (S2) */
export function validateTablespace(tablespace: Tablespace): Tablespace {
  const { name, oid, location } = tablespace;
  const isPath = location.startsWith('/') && !location.includes('\0') && !location.split('/').includes('..');
  if (!isPath) {
    throw new BackupError(
      'format-invalid',
      `tablespace ${quoted(name)} has no absolute location: ${quoted(location)}`,
    );
  }
  if (name === '' || name.includes('\0') || !Number.isInteger(oid) || oid < 1 || oid > 0xffff_ffff) {
    throw new BackupError('format-invalid', `not a tablespace: ${quoted(name)} with oid ${oid}`);
  }
  return tablespace;
}
