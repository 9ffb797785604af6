import type { ConnectionSettings } from '../postgres/connection.ts';
import type { Repository } from '../repository/repository.ts';
import type { PutOptions } from '../stores/object-store.ts';
import type { StoreConfig } from '../stores/store-config.ts';
import type { Codec } from '../streams/codec.ts';
import type { Wish } from './job-registry.ts';

/** What a backup needs from outside. */
export interface BackupPorts {
  /** The server to be backed up; its own address, no pooler. */
  readonly postgres: ConnectionSettings;
  /** For a standby: its primary, where a second lock keeps other instances from backing up at the same time. */
  readonly primary?: ConnectionSettings;
  /** What `repository()` lies in: every thread opens it for itself. */
  readonly store: StoreConfig;
  repository(): Promise<Repository>;
  readonly walkeepVersion: string;
  /** The clock of backup ids. */
  readonly now?: () => Date;
  /** The program of the threads that write parts, for tests: theirs may have a codec that errs. */
  readonly partThread?: URL;
}

export interface TakeBackupInput {
  readonly cluster: string;
  readonly namespace: string;
  readonly instance: string;
  /** The Backup's name: one a run, while every attempt has its own id. */
  readonly backupName: string;
  /** Whether PostgreSQL writes the first checkpoint at once, or spreads it over minutes. */
  readonly immediateCheckpoint: boolean;
  /** Pipelines side by side. */
  readonly jobs: number;
  readonly codec: Codec;
  readonly maxPartBytes?: number;
  readonly encryption?: NonNullable<PutOptions['encryption']>;
  readonly tags?: Readonly<Record<string, string>>;
  readonly pgdata: string;
  /** Of all files read by all pipelines together, unless an operator says otherwise; absent: no limit. */
  readonly maxBytesPerSecond?: number;
  /** Added to the niceness of the threads that read, compress and send; absent: 0. */
  readonly nice?: number;
}

/** A backup whose bytes are all stored, and that nobody can see yet. Plain JSON: LSNs and times are text. */
export interface CopiedBackup {
  readonly backupId: string;
  readonly backupName: string;
  readonly beginLsn: string;
  readonly endLsn: string;
  readonly beginWal: string;
  readonly endWal: string;
  readonly timeline: number;
  readonly systemId: string;
  readonly beginTime: string;
  readonly endTime: string;
  /** Of WAL, in bytes. */
  readonly segmentSize: number;
  /** `server_version_num`. */
  readonly postgresVersion: number;
  readonly fromStandby: boolean;
  /** Of all files. */
  readonly bytes: number;
  /** Of all tars, compressed. */
  readonly storedBytes: number;
  readonly files: number;
  /** Pages whose checksum is wrong: the backup counts, "with warnings". */
  readonly pageChecksumFailures: number;
}

/** Where a backup is. `totalBytes` is known once the data directory was walked. */
export interface Progress {
  readonly phase: 'starting' | 'copying' | 'paused' | 'stopping' | 'waiting-for-wal' | 'verifying' | 'done';
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly storedBytes: number;
  /** Smoothed; absent while that can't be said. */
  readonly bytesPerSecond?: number;
  /** When all is likely to be read, RFC 3339. */
  readonly eta?: string;
}

/** What an operator wants of a copy that runs. */
export interface CopyWish extends Wish {
  readonly paused: boolean;
  /** `null`: no limit. Absent: what the input says. */
  readonly maxBytesPerSecond?: number | null;
}
