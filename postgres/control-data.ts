import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BackupError } from '../core/errors.ts';
import { toLsn, type Lsn } from '../core/lsn.ts';
import { crc32c } from './crc32c.ts';

/** `DBState` of `pg_control.h`, in its order. */
const STATES = [
  'starting up',
  'shut down',
  'shut down in recovery',
  'shutting down',
  'in crash recovery',
  'in archive recovery',
  'in production',
] as const;

export type ControlState = (typeof STATES)[number];

/** What `pg_control` says about a data directory. */
export interface ControlData {
  readonly systemId: string;
  readonly pgControlVersion: number;
  readonly catalogVersion: number;
  readonly state: ControlState;
  /** Where the last checkpoint record is. */
  readonly checkpointLsn: Lsn;
  /** Where replay from the last checkpoint begins. */
  readonly redoLsn: Lsn;
  /** Timeline of the last checkpoint. */
  readonly timeline: number;
  /** During recovery: up to where, and on which timeline, replay has to get. `0` otherwise. */
  readonly minRecoveryLsn: Lsn;
  readonly minRecoveryTimeline: number;
  readonly blockSize: number;
  /** Blocks in one file of a large relation. */
  readonly segmentBlocks: number;
  /** Of WAL, in bytes. */
  readonly segmentSize: number;
  readonly dataChecksums: boolean;
}

/** The part of the file that counts; the rest of its 8 KiB is zeros. */
const MEANINGFUL_BYTES = 512;
/** Where the CRC is: PostgreSQL 18 has one more byte before the nonce. */
const CRC_OFFSETS = [288, 292];

/**
 * Reads `global/pg_control`. The server replaces it while we read, and on some file systems a reader sees half of
 * either: then the CRC does not fit, and it is read again.
 *
 * @throws BackupError `postgres-unsuitable` when it is absent, unreadable, or never whole
 */
export async function readControlData(pgdata: string, signal?: AbortSignal): Promise<ControlData> {
  return parseControlData(await readControlFile(pgdata, signal));
}

/** The bytes of `global/pg_control` with a valid CRC. @throws as {@link readControlData} */
export async function readControlFile(pgdata: string, signal?: AbortSignal): Promise<Buffer> {
  const path = join(pgdata, 'global', 'pg_control');
  const attempts = 20;
  for (let attempt = 1; ; attempt += 1) {
    signal?.throwIfAborted();
    const bytes = readFile(path);
    if (crcOffset(bytes) !== undefined) return bytes;
    if (attempt === attempts) {
      throw new BackupError(
        'postgres-unsuitable',
        `${path}: the checksum is wrong (read ${attempts} times)`,
        {
          hint: 'pg_controldata shows whether PostgreSQL can read it; a version we do not know looks like this too',
        },
      );
    }
    await sleep(10 * attempt, undefined, signal ? { signal } : undefined);
  }
}

/**
 * The fields of a `pg_control` of PostgreSQL 13 to 18 (pg_control versions 1300 and 1800) on a little-endian machine.
 *
 * @throws BackupError `postgres-unsuitable` when the CRC does not fit
 * @see PostgreSQL `src/include/catalog/pg_control.h`, `ControlFileData`
 */
export function parseControlData(bytes: Buffer): ControlData {
  if (crcOffset(bytes) === undefined) {
    throw new BackupError('postgres-unsuitable', 'pg_control: the checksum is wrong');
  }
  return {
    systemId: bytes.readBigUInt64LE(0).toString(),
    pgControlVersion: bytes.readUInt32LE(8),
    catalogVersion: bytes.readUInt32LE(12),
    state: STATES[bytes.readUInt32LE(16)] ?? 'starting up',
    checkpointLsn: toLsn(bytes.readBigUInt64LE(32)),
    redoLsn: toLsn(bytes.readBigUInt64LE(40)),
    timeline: bytes.readUInt32LE(48),
    minRecoveryLsn: toLsn(bytes.readBigUInt64LE(136)),
    minRecoveryTimeline: bytes.readUInt32LE(144),
    blockSize: bytes.readUInt32LE(216),
    segmentBlocks: bytes.readUInt32LE(220),
    segmentSize: bytes.readUInt32LE(228),
    dataChecksums: bytes.readUInt32LE(252) !== 0,
  };
}

function crcOffset(bytes: Buffer): number | undefined {
  if (bytes.length < MEANINGFUL_BYTES) return undefined;
  return CRC_OFFSETS.find((offset) => bytes.readUInt32LE(offset) === crc32c(bytes.subarray(0, offset)));
}

function readFile(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new BackupError('postgres-unsuitable', `can not read ${path}: ${(error as Error).message}`, {
      cause: error,
      hint: 'the worker has to run on the host of the data directory, as its owner (--pgdata)',
    });
  }
}
