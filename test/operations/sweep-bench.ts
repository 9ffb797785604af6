import { existsSync, readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { historyFileName } from '../../core/timeline.ts';
import { toLsn } from '../../core/lsn.ts';
import { segmentName, segmentStart, type SegmentName } from '../../core/segment.ts';
import { backupPolicySchema, WALKEEP_API } from '../../manifests/backup-policy.ts';
import type { PolicySpec } from '../../manifests/desire.ts';
import { sweepRules, type SweepRules } from '../../operations/gather-retention.ts';
import { writeBackupInfo } from '../../repository/catalogue.ts';
import type { Repository } from '../../repository/repository.ts';
import type { ObjectStore, StoredObject } from '../../stores/object-store.ts';
import { backupPrefix, walKey } from '../../repository/layout.ts';
import { MiB, SYSTEM_ID } from '../support/wal-segment.ts';

export const NEVER = new AbortController().signal;
export const DAY = 86_400_000;

/** A backup of one data part and one more, and the segments it needs, at a place in the WAL. */
export interface BenchBackup {
  /** The first segment's number; the backup ends in the one after it. */
  readonly at: number;
  readonly daysOld: number;
  readonly timeline?: number;
  readonly status?: 'DONE' | 'FAILED';
  readonly name?: string;
}

export function idOf(daysOld: number, now = Date.now()): string {
  return new Date(now - daysOld * DAY).toISOString().slice(0, 19).replaceAll(/[-:]/g, '');
}

/** Puts it there. @returns its id */
export async function putBenchBackup(r: Repository, backup: BenchBackup, now = Date.now()): Promise<string> {
  const { at, daysOld, timeline = 1, status = 'DONE', name } = backup;
  const backupId = idOf(daysOld, now);
  const put = (key: string, text: string) => r.store.put(key, Buffer.from(text), { signal: NEVER });
  const prefix = backupPrefix(r.server, backupId);
  await put(`${prefix}data.tar`, 'some files');
  await put(`${prefix}data_0001.tar`, 'more files');
  const [beginWal, endWal] = [at, at + 1].map((n) => segmentName(timeline, BigInt(n), MiB)) as [
    SegmentName,
    SegmentName,
  ];
  const beginTime = new Date(Math.floor((now - daysOld * DAY) / 1000) * 1000);
  await writeBackupInfo(
    r,
    {
      backupId,
      ...(name !== undefined && { backupName: name }),
      status,
      beginTime,
      beginLsn: toLsn(segmentStart(beginWal, MiB) + 40n),
      beginWal,
      ...(status === 'DONE' && {
        endTime: new Date(beginTime.getTime() + 60_000),
        endLsn: toLsn(segmentStart(endWal, MiB) + 4096n),
        endWal,
        backupLabel: 'START WAL LOCATION: …\n',
      }),
      timeline,
      systemId: SYSTEM_ID,
      version: 150_020,
      segmentSize: MiB,
      tablespaces: [],
      serverName: 'cloud',
      pgdata: '/srv/source',
      unknown: {},
    },
    NEVER,
  );
  return backupId;
}

/** Segments by number, both included, with one byte each: nobody reads them. */
export async function putBenchWal(r: Repository, first: number, last: number, timeline = 1): Promise<void> {
  for (let number = first; number <= last; number += 1) {
    const key = walKey(r.server, segmentName(timeline, BigInt(number), MiB), 'gzip');
    await r.store.put(key, Buffer.from('.'), { signal: NEVER });
  }
}

export async function putHistory(r: Repository, timeline: number, text: string): Promise<void> {
  const key = walKey(r.server, historyFileName(timeline), 'none');
  await r.store.put(key, Buffer.from(text), { signal: NEVER });
}

/** Every key of the repository, without what walkeep keeps beside it. */
export async function keysOf(r: Repository, { own = false } = {}): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of r.store.list(`${r.server}/`, { signal: NEVER })) {
    if (own || !key.startsWith(`${r.server}/walkeep/`)) keys.push(key.slice(r.server.length + 1));
  }
  return keys;
}

/** The numbers of the segments of a timeline that are there. */
export async function segmentsOf(r: Repository, timeline = 1): Promise<number[]> {
  const beginning = timeline.toString(16).toUpperCase().padStart(8, '0');
  return (await keysOf(r))
    .map((key) => /^wals\/[0-9A-F]{16}\/([0-9A-F]{24})\.gz$/.exec(key)?.[1] ?? '')
    .filter((name) => name.startsWith(beginning))
    .map((name) => Number.parseInt(name.slice(8, 16), 16) * 4096 + Number.parseInt(name.slice(16), 16));
}

/** A store in which what fits is older than it is. */
export function aged(store: ObjectStore, ageMs: (key: string) => number): ObjectStore {
  const older = <T extends StoredObject>(object: T): T => ({
    ...object,
    modifiedAt: new Date(object.modifiedAt.getTime() - ageMs(object.key)),
  });
  return {
    ...store,
    async head(key, options) {
      const found = await store.head(key, options);
      return found && older(found);
    },
    async *list(prefix, options) {
      for await (const object of store.list(prefix, options)) yield older(object);
    },
  };
}

export type PolicyChanges = Partial<PolicySpec['retention']>;

/** A policy that keeps the last two, and nothing for its age. */
export function benchRules(changes: PolicyChanges = {}, deadline = '1h'): SweepRules {
  const { spec } = backupPolicySchema.parse({
    apiVersion: WALKEEP_API,
    kind: 'BackupPolicy',
    metadata: { name: 'bench' },
    spec: {
      clusters: ['pg'],
      attempts: { deadline },
      retention: {
        keepLast: 2,
        daily: 0,
        weekly: 0,
        monthly: 0,
        yearly: 0,
        minimum: 1,
        grace: '1h',
        ...changes,
      },
    },
  });
  return sweepRules({ spec: {} as never }, spec, true);
}

/** Makes files in a directory repository as old as that: all of them, or those below a folder. */
export function makeOld(directory: string, ageMs: number): void {
  if (!existsSync(directory)) return;
  const time = new Date(Date.now() - ageMs);
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) utimesSync(join(entry.parentPath, entry.name), time, time);
  }
}

/** Four backups, 4, 3, 2 and 1 days old, each with ten segments to the next one. @returns their ids, the oldest first */
export async function putFourBackups(r: Repository, from = 10): Promise<string[]> {
  const ids: string[] = [];
  for (const [index, daysOld] of [4, 3, 2, 1].entries()) {
    ids.push(await putBenchBackup(r, { at: from + index * 10, daysOld }));
  }
  await putBenchWal(r, from - 5, from + 39);
  return ids;
}
