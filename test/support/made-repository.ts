import { utimesSync } from 'node:fs';
import { join } from 'node:path';
import { formatLsn, toLsn } from '../../core/lsn.ts';
import { segmentAt, segmentBefore } from '../../core/segment.ts';
import { backupPrefix, walKey } from '../../repository/layout.ts';
import type { SharedRepository } from './barman-cases.ts';
import { SYSTEM_ID } from './wal-segment.ts';

const MiB = 1024 * 1024;
const DAY = 86_400_000;

/** A backup as barman-cloud would have recorded it. */
export interface MadeBackup {
  /** Days before now at which it ended. */
  readonly ago: number;
  /** The segment in which it begins, and, unless said, ends. */
  readonly at: number;
  readonly endsAt?: number;
  readonly timeline?: number;
  readonly status?: 'DONE' | 'FAILED' | 'STARTED';
  readonly keep?: 'full' | 'standalone';
  /** Days before now at which it was stored; when it ended, unless said. */
  readonly storedAgo?: number;
}

export interface MadeRepository {
  readonly backups: readonly MadeBackup[];
  /** Archived segments: timeline, first and last. */
  readonly wal: readonly (readonly [timeline: number, first: number, last: number])[];
  /** What each `.history` says, by timeline. */
  readonly histories?: Readonly<Record<number, string>>;
}

/** The id of a backup that ended so long before `now`, in ms. */
export function idOf({ ago }: Pick<MadeBackup, 'ago'>, now: number): string {
  const began = new Date(now - ago * DAY - 60_000).toISOString();
  return began.slice(0, 19).replaceAll(/[-:]/g, '');
}

/**
 * Makes a repository without any PostgreSQL, every object with the time at which it would have been stored.
 *
 * @param now ms since 1970
 */
export async function makeRepository(
  shared: SharedRepository,
  made: MadeRepository,
  now: number,
  signal: AbortSignal,
): Promise<void> {
  const { repository, s3, server } = shared;
  const put = async (key: string, content: string, ago: number) => {
    await repository.store.put(key, Buffer.from(content), { signal });
    // versitygw keeps an object as a file, and its time is that of the file
    const seconds = (now - ago * DAY) / 1000;
    const prefix = new URL(shared.destination).pathname;
    utimesSync(join(s3.directory, s3.bucket, prefix, key), seconds, seconds);
  };
  const oldest = Math.max(...made.backups.map(({ ago }) => ago));
  for (const [timeline, first, last] of made.wal) {
    for (let number = first; number <= last; number++) {
      const name = segmentAt(timeline, toLsn(BigInt(number * MiB)), MiB);
      await put(walKey(server, name, 'none'), 'segment', oldest);
    }
  }
  for (const [timeline, text] of Object.entries(made.histories ?? {})) {
    const name = `${Number(timeline).toString(16).toUpperCase().padStart(8, '0')}.history`;
    await put(walKey(server, name, 'none'), text, oldest);
  }
  for (const backup of made.backups) {
    const { ago, storedAgo = ago, keep } = backup;
    const prefix = backupPrefix(server, idOf(backup, now));
    await put(`${prefix}data.tar`, 'the parts are not read here', storedAgo);
    if (keep !== undefined) await put(`${prefix}annotations/keep`, keep, storedAgo);
    await put(`${prefix}backup.info`, recordOf(backup, now), storedAgo);
  }
}

/** A `backup.info` with the fields that barman-cloud needs. */
export function recordOf(backup: MadeBackup, now: number): string {
  const { ago, at, endsAt = at, timeline = 1, status = 'DONE' } = backup;
  const begin = toLsn(BigInt(at * MiB + 0x28));
  const end = toLsn(BigInt(endsAt * MiB + 0x1000));
  const text = (time: number) => new Date(time).toISOString().replace('T', ' ').replace('Z', '000+00:00');
  const ended = status === 'DONE';
  const fields = {
    backup_label: ended ? "'START WAL LOCATION: made by hand\\n'" : 'None',
    begin_offset: 0x28,
    begin_time: text(now - ago * DAY - 60_000),
    begin_wal: segmentAt(timeline, begin, MiB),
    begin_xlog: formatLsn(begin),
    compression: 'None',
    end_offset: ended ? 0x1000 : 'None',
    end_time: ended ? text(now - ago * DAY) : 'None',
    end_wal: ended ? segmentBefore(timeline, end, MiB) : 'None',
    end_xlog: ended ? formatLsn(end) : 'None',
    error: status === 'FAILED' ? "'failure uploading data (connection reset)'" : 'None',
    pgdata: '/srv/source',
    server_name: 'cloud',
    status,
    systemid: SYSTEM_ID,
    tablespaces: 'None',
    timeline,
    version: 170_010,
    xlog_segment_size: MiB,
  };
  return Object.entries(fields)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('');
}
