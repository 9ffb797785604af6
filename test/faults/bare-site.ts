/**
 * Every operation of a cluster, on a repository and without any server: what a store does to them is seen in a fraction
 * of a second. A data directory is a folder of files, a backup of it can be restored, and `pg_wal` holds made segments.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { formatLsn, parseLsn } from '../../core/lsn.ts';
import { segmentName, type SegmentName } from '../../core/segment.ts';
import { slotBackupName } from '../../core/slots.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { pushWal, type ArchivePorts, type PushedWal } from '../../operations/archive-wal.ts';
import { auditArchive } from '../../operations/audit-archive.ts';
import { claimAttempt, partFilesKey, saveDetails } from '../../operations/backup-attempt.ts';
import type { BackupPorts, CopiedBackup } from '../../operations/backup-ports.ts';
import { writePart, type PartTask, type WrittenPart } from '../../operations/backup-part.ts';
import { confirmBackup } from '../../operations/confirm-backup.ts';
import { discardBackup } from '../../operations/discard-backup.ts';
import { fetchExitCode, fetchWal } from '../../operations/fetch-wal.ts';
import { readProtection } from '../../operations/protection.ts';
import { recordBackup } from '../../operations/record-backup.ts';
import { planFromRepository } from '../../operations/recovery-plan.ts';
import { restore } from '../../operations/restore.ts';
import { considerSlot } from '../../operations/schedule-slots.ts';
import { sweep } from '../../operations/sweep.ts';
import { verifyBackup } from '../../operations/verify-backup.ts';
import { partKey, partName } from '../../repository/layout.ts';
import { claimOwner } from '../../repository/owner.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import type { Codec } from '../../streams/codec.ts';
import { benchRules, type PolicyChanges } from '../operations/sweep-bench.ts';
import { dataMembers, LABEL } from '../support/hand-made-backup.ts';
import { makeTempDir } from '../support/temp.ts';
import { makeSegment, MiB, SYSTEM_ID } from '../support/wal-segment.ts';

export const NEVER = new AbortController().signal;
export const SERVER = 'pg';
/** Of the backups: begin and end, in segments 2 and 2. */
const [BEGIN, END] = ['0/200028', '0/201000'];

export const segment = (number: number): SegmentName => segmentName(1, BigInt(number), MiB);

export interface BareSite {
  /** What the store truly holds. */
  readonly inner: ObjectStore;
  readonly repository: Repository;
  readonly pgWal: string;
  readonly pgdata: string;
  /** The same world through another store. */
  through(store: ObjectStore): BareSite;
  /** A whole backup as the workflow takes it: copy, confirm, record; an attempt that fails is discarded. @returns its id */
  backUp(options?: {
    readonly signal?: AbortSignal;
    readonly walDeadlineMs?: number;
    readonly now?: Date;
  }): Promise<string>;
  push(name: string, ports?: Partial<ArchivePorts>): Promise<PushedWal>;
  /** As `archive_command` sees it. */
  pushExit(name: string, ports?: Partial<ArchivePorts>): Promise<number>;
  /** As `restore_command` sees it. */
  fetchExit(
    name: string,
    options?: { readonly deadlineMs?: number; readonly isStandby?: boolean },
  ): Promise<number>;
  /** Plans and restores the latest. @returns the new data directory */
  restore(options?: { readonly signal?: AbortSignal; readonly into?: string }): Promise<string>;
  /** Without any PostgreSQL, unless `binDirectory` says where it is: then as far as a made backup goes. */
  verify(options?: {
    readonly signal?: AbortSignal;
    readonly deadline?: string;
    readonly binDirectory?: string;
  }): Promise<{
    readonly result: string;
    readonly why: string;
    readonly mayTryAgain: boolean;
  }>;
  sweep(options?: {
    readonly rules?: PolicyChanges;
    readonly signal?: AbortSignal;
    readonly settleMs?: number;
  }): ReturnType<typeof sweep>;
  /** Decides an hourly slot. @returns what is recorded of it, or the Backup that it asks about */
  slot(slot: Date, signal?: AbortSignal): Promise<string>;
  audit(): ReturnType<typeof auditArchive>;
  protection(signal?: AbortSignal): ReturnType<typeof readProtection>;
}

export interface BareSiteOptions {
  readonly inner?: ObjectStore;
  readonly codec?: Codec;
}

/** @param options.inner of an own kind; in memory by default */
export function makeBareSite({
  inner = createMemoryStore(),
  codec = 'gzip',
}: BareSiteOptions = {}): BareSite {
  const root = makeTempDir('bare');
  const pgdata = join(root, 'data');
  const pgWal = join(pgdata, 'pg_wal');
  mkdirSync(join(pgWal, 'archive_status'), { recursive: true });
  for (const member of dataMembers()) {
    if (!Array.isArray(member) || member[0] === '.') continue;
    const [path, content] = member;
    if (content === null) mkdirSync(join(pgdata, path), { recursive: true });
    else {
      mkdirSync(dirname(join(pgdata, path)), { recursive: true });
      writeFileSync(join(pgdata, path), content, { mode: 0o600 });
    }
  }
  for (let number = 1; number <= 9; number += 1)
    writeFileSync(join(pgWal, segment(number)), makeSegment(segment(number)));
  return siteThrough(inner, { inner, pgdata, pgWal, root, codec });
}

interface World {
  readonly inner: ObjectStore;
  readonly pgdata: string;
  readonly pgWal: string;
  readonly root: string;
  readonly codec: Codec;
}

function siteThrough(store: ObjectStore, world: World): BareSite {
  const { inner, pgdata, pgWal, root, codec } = world;
  const repository = createRepository(store, SERVER);
  const identity = { systemId: SYSTEM_ID, segmentSize: MiB };
  const push: BareSite['push'] = (name, ports = {}) =>
    pushWal(
      {
        repository: async () => repository,
        pgWalDirectory: pgWal,
        codec: 'none',
        identity: async () => identity,
        ...ports,
      },
      name,
      { signal: NEVER },
    );

  return {
    inner,
    repository,
    pgWal,
    pgdata,
    through: (other) => siteThrough(other, world),
    backUp: (options = {}) => backUp({ repository, pgdata, codec, ...options }),
    push,
    pushExit: (name, ports) =>
      push(name, ports).then(
        () => 0,
        () => 1,
      ),
    async fetchExit(name, { deadlineMs = 400, isStandby = false } = {}) {
      const destination = join(makeTempDir('fetched'), 'RECOVERYXLOG');
      const ports = { repository: async () => repository, deadlineMs, retryAfterMs: 20 };
      const outcome = await fetchWal(ports, name, destination, { signal: NEVER }).then(
        (fetched) => fetched.outcome,
        () => 'failed' as const,
      );
      return fetchExitCode(outcome, isStandby);
    },
    async restore({ signal = NEVER, into = join(makeTempDir('restored'), 'data') } = {}) {
      const plan = await planFromRepository(repository, { target: {}, readsWal: false }, { signal });
      const reference = { namespace: 'default', serverName: SERVER, barmanObjectStore: {} };
      await restore(
        { repository, restoreCommand: `walkeep wal-fetch '%f' "%p"`, reference },
        { plan, targetDirectory: into },
        { signal },
      );
      return into;
    },
    async verify({ signal = NEVER, deadline = '1m', binDirectory = '/nowhere' } = {}) {
      const { verification, mayTryAgain } = await verifyBackup(
        {
          repository,
          reference: { namespace: 'default', serverName: SERVER, barmanObjectStore: {} },
          restoreCommand: () => 'false',
          scratchRoot: join(root, 'scratch'),
          binDirectory,
          instance: 'pg-1',
          walkeepVersion: '0',
        },
        {
          id: '20261125T040000-bare',
          seed: 'seed',
          namespace: 'default',
          cluster: SERVER,
          backup: 'latest',
          target: 'end',
          checks: { manifest: true, pageChecksums: true, amcheck: false, queries: [] },
          readBudget: null,
          scratch: { directory: null, minFree: '0%' },
          deadline,
        },
        { signal },
      );
      const checks = verification.checks.map(
        ({ name, object = '', detail = '' }) => `${name} ${object} ${detail}`,
      );
      return { result: verification.result, why: [verification.error, ...checks].join('; '), mayTryAgain };
    },
    sweep: ({ rules = {}, signal = NEVER, settleMs = 50 } = {}) =>
      sweep(repository, benchRules(rules), { signal, holder: 'bare', lease: { settleMs } }),
    async slot(slot, signal = NEVER) {
      const schedule = scheduledBackupSchema.parse({
        apiVersion: 'postgresql.cnpg.io/v1',
        kind: 'ScheduledBackup',
        metadata: { name: 'hourly' },
        spec: { schedule: '0 0 * * * *', cluster: { name: SERVER } },
      });
      const backupName = slotBackupName('hourly', slot);
      const asked = {
        series: 'hourly',
        schedule,
        key: slot,
        slot,
        now: slot,
        backupName,
        deadlineMs: 3_600_000,
      };
      const answer = await considerSlot(repository, asked, signal);
      return 'ask' in answer ? `asks about ${answer.ask}` : answer.record.outcome;
    },
    audit: () => auditArchive(repository, { read: 'all' }, { signal: NEVER }),
    protection: (signal = NEVER) => readProtection(repository, signal),
  };
}

interface BackUp {
  readonly repository: Repository;
  readonly pgdata: string;
  readonly codec: Codec;
  readonly signal?: AbortSignal;
  readonly walDeadlineMs?: number;
  readonly now?: Date;
}

async function backUp({
  repository,
  pgdata,
  codec,
  signal = NEVER,
  walDeadlineMs = 300,
  now = new Date(),
}: BackUp) {
  const ports: BackupPorts = {
    postgres: {
      host: '/nowhere',
      port: 1,
      user: 'nobody',
      database: 'none',
    } as unknown as BackupPorts['postgres'],
    store: { kind: 'file', directory: '/nowhere' },
    repository: async () => repository,
    walkeepVersion: '0.0.0-bare',
  };
  const owner = { backupName: 'nightly', cluster: SERVER, namespace: 'default', instance: 'pg-1' };
  await claimOwner(repository, { systemId: SYSTEM_ID, segmentSize: MiB }, signal);
  const backupId = await claimAttempt(repository, owner, { now, signal });
  try {
    const parts: WrittenPart[] = [];
    for (const task of tasksOf(pgdata, backupId, codec)) {
      parts.push(await writePart(repository.store, task, { signal, onProgress: () => undefined }));
    }
    const copied = copiedOf(backupId, parts, now);
    await saveDetails(
      repository,
      {
        version: 1,
        owner,
        copied,
        backupLabel: LABEL,
        tablespaceMap: '',
        tablespaces: [],
        parts: parts.map(({ damage: _damage, damagedPages: _pages, ...part }) => part),
        pageChecksumFailures: [],
        skipped: [],
        dataChecksums: false,
        pgdata,
        copySeconds: 1,
        jobs: 1,
      },
      { signal },
    );
    const options = { signal, deadlineMs: walDeadlineMs, requestSwitch: async () => undefined };
    await confirmBackup(ports, copied, { ...options, verify: 'hash' });
    await recordBackup(ports, copied, { signal });
    return backupId;
  } catch (error) {
    await discardBackup(ports, backupId).catch((problem: unknown) => {
      if (process.env['DEBUG'] !== undefined) process.stderr.write(`${messageOf(problem)}\n`);
    });
    throw error;
  }
}

/** Two parts, so that one can be missing. */
function tasksOf(pgdata: string, backupId: string, codec: Codec): PartTask[] {
  const inFirst = ['PG_VERSION', 'postgresql.conf', 'postgresql.auto.conf', 'pg_hba.conf', 'global/1262'];
  const inSecond = ['base/5/16384', 'global/pg_control'];
  const directories = ['.', 'global', 'base', 'base/5', 'pg_wal', 'pg_tblspc'];
  const meta = { uid: 0, gid: 0, mtimeMs: 0 };
  const task = (index: number, files: readonly string[], inline: PartTask['inline']): PartTask => {
    const name = partName('data', index, codec);
    return {
      area: 'data',
      name,
      key: partKey(SERVER, backupId, 'data', index, codec),
      filesKey: partFilesKey(SERVER, backupId, name),
      root: pgdata,
      directories: index === 0 ? directories.map((path) => ({ path, mode: 0o700, ...meta })) : [],
      files: files.map((path) => ({ path, sizeBytes: 1 })),
      inline,
      codec,
    };
  };
  const label = { path: 'backup_label', content: Buffer.from(LABEL), mode: 0o600, ...meta };
  return [task(0, inFirst, []), task(1, inSecond, [label])];
}

function copiedOf(backupId: string, parts: readonly WrittenPart[], now: Date): CopiedBackup {
  return {
    backupId,
    backupName: 'nightly',
    beginLsn: formatLsn(parseLsn(BEGIN)),
    endLsn: formatLsn(parseLsn(END)),
    beginWal: segment(2),
    endWal: segment(2),
    timeline: 1,
    systemId: SYSTEM_ID,
    beginTime: now.toISOString(),
    endTime: new Date(now.getTime() + 5_000).toISOString(),
    segmentSize: MiB,
    postgresVersion: 150_020,
    fromStandby: false,
    bytes: 1,
    storedBytes: parts.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
    files: 1,
    pageChecksumFailures: 0,
  };
}
