import { readFileSync, statSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { DATA_AREA, lastDataIndex, planParts, type PlannedPart } from '../core/backup-plan.ts';
import { BackupError, messageOf } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { formatLsn, parseLsn } from '../core/lsn.ts';
import { segmentAt, segmentBefore } from '../core/segment.ts';
import { parseBackupLabel } from '../postgres/backup-label.ts';
import {
  holdLock,
  openBackupSession,
  type BackupSession,
  type BackupStart,
  type BackupStop,
} from '../postgres/backup-session.ts';
import type { ConnectionSettings } from '../postgres/connection.ts';
import { readControlData, readControlFile } from '../postgres/control-data.ts';
import {
  logDirectoryInside,
  outsideFiles,
  walkDataDirectory,
  type OutsideFile,
  type TablespaceLink,
  type WalkedArea,
} from '../postgres/data-directory.ts';
import { isRealDamage } from '../postgres/read-file-pages.ts';
import { parseWalHeader } from '../postgres/wal-page.ts';
import { partKey, partName, type PartArea } from '../repository/layout.ts';
import { claimOwner } from '../repository/owner.ts';
import type { Repository } from '../repository/repository.ts';
import type { PutOptions } from '../stores/object-store.ts';
import type { StoreConfig } from '../stores/store-config.ts';
import {
  claimAttempt,
  partFilesKey,
  saveDetails,
  type AttemptDetails,
  type AttemptOwner,
} from './backup-attempt.ts';
import type { BackupPorts, CopiedBackup, CopyWish, Progress, TakeBackupInput } from './backup-ports.ts';
import {
  writePart,
  type InlineFile,
  type PartProgress,
  type PartTask,
  type WrittenPart,
} from './backup-part.ts';
import { writeParts } from './backup-pool.ts';
import { CopyPace } from './copy-pace.ts';
import { discardBackup } from './discard-backup.ts';
import type { Wishes } from './job-registry.ts';

export type { BackupPorts, CopiedBackup, CopyWish, Progress, TakeBackupInput } from './backup-ports.ts';
export { confirmBackup } from './confirm-backup.ts';
export { discardBackup } from './discard-backup.ts';
export { recordBackup } from './record-backup.ts';

export interface CopyOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
  /** What an operator wants while it runs: to pause, or another rate. */
  readonly wishes?: Wishes<CopyWish>;
}

/**
 * Copies a running server into the repository: start, data, control file, stop, label. On whatever way it ends, no
 * session, lock or backup mode is left at the server; on failure no part is left in the repository either. On success
 * nothing is listed yet: `confirmBackup` and `recordBackup` follow.
 *
 * Paused, it reads nothing and holds its session; paused before it began, it does not open one.
 *
 * @throws BackupError `backup-in-progress` | `postgres-unsuitable` | `postgres-denied` | `postgres-unavailable` before
 *   anything was begun; `backup-interrupted` | `data-unreadable` and those of the store from then on
 */
export async function copyBackup(
  ports: BackupPorts,
  input: TakeBackupInput,
  { signal, onProgress = () => {}, wishes }: CopyOptions,
): Promise<CopiedBackup> {
  const pace = new CopyPace({ maxBytesPerSecond: input.maxBytesPerSecond, wishes, onProgress });
  try {
    pace.report('starting');
    await pace.untilWanted(signal);
    return await copyAtPace(ports, input, signal, pace);
  } finally {
    pace.end();
  }
}

async function copyAtPace(
  ports: BackupPorts,
  input: TakeBackupInput,
  signal: AbortSignal,
  pace: CopyPace,
): Promise<CopiedBackup> {
  const repository = await ports.repository();
  const owner = ownerOf(input);
  const lockKey = `${input.namespace}/${input.cluster}`;
  const session = await openBackupSession(ports.postgres, {
    lockKey,
    pgdata: input.pgdata,
    applicationName: `walkeep backup ${input.backupName}`.slice(0, 63),
    signal,
  });
  let backupId: string | undefined;
  const primary =
    session.facts.inRecovery && ports.primary
      ? await guardPrimary(ports.primary, session, lockKey)
      : undefined;
  const held = primary ? AbortSignal.any([session.signal, primary.signal]) : session.signal;
  try {
    const put = { ...storeOptions(input), signal: held };
    await claimOwner(repository, session.facts, held, (head) => parseWalHeader(head));
    backupId = await claimAttempt(repository, owner, { now: (ports.now ?? (() => new Date()))(), ...put });
    const copy = new BackupCopy({ ports, input, repository, session, backupId, signal, held, pace });
    return await copy.run(owner);
  } catch (error) {
    // Leave the server first: whatever cleaning up does, the backup mode ends now.
    await session.close();
    if (backupId !== undefined) await discardBackup(ports, backupId).catch(() => {});
    throw held.aborted ? held.reason : error;
  } finally {
    await session.close();
    await primary?.close();
  }
}

async function guardPrimary(primary: ConnectionSettings, session: BackupSession, lockKey: string) {
  try {
    return await holdLock(primary, {
      lockKey,
      applicationName: 'walkeep backup of a standby',
      signal: session.signal,
    });
  } catch (error) {
    await session.close();
    throw error;
  }
}

interface CopyParts {
  readonly ports: BackupPorts;
  readonly input: TakeBackupInput;
  readonly repository: Repository;
  readonly session: BackupSession;
  readonly backupId: string;
  /** The caller's. */
  readonly signal: AbortSignal;
  /** Aborted, too, when a session of ours is lost. */
  readonly held: AbortSignal;
  readonly pace: CopyPace;
}

/** One copy, from the start to the last byte stored. */
class BackupCopy {
  readonly #parts: CopyParts;
  #totalBytes = 0;

  constructor(parts: CopyParts) {
    this.#parts = parts;
  }

  async run(owner: AttemptOwner): Promise<CopiedBackup> {
    const { input, session, backupId, repository, signal, held } = this.#parts;
    const { facts } = session;
    const startedAt = performance.now();
    const begun = await session.start(`walkeep ${backupId}`, {
      immediateCheckpoint: input.immediateCheckpoint,
    });

    const outside = outsideFiles(await realpath(input.pgdata), [
      facts.configFile,
      facts.hbaFile,
      facts.identFile,
    ]);
    const { areas, tablespaces } = await this.#walk(outside);
    const plan = planParts(areas, input);
    this.#totalBytes = areas.flatMap(({ files }) => files).reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const written = await this.#copy(plan, areas);

    // Last of all files: on a standby it says how far replay has to go before the copy is consistent.
    const control = await readControlFile(input.pgdata, held);
    const inline = [...readOutside(outside), inlineControl(input.pgdata, control)];
    this.#report('stopping', sumOf(written));
    const stopped = await session.stop();
    await session.close();

    const index = lastDataIndex(plan);
    const last = await this.#writeLast(index, areas[0] as WalkedArea, [
      ...inline,
      inlineLabel(input.pgdata, stopped),
    ]);
    failpoint('backup.last-part-uploaded');
    const details = this.#details({
      owner,
      begun,
      stopped,
      tablespaces,
      areas,
      parts: [...written, last],
      startedAt,
    });
    await saveDetails(repository, details, { ...storeOptions(input), signal });
    failpoint('backup.copied');
    return details.copied;
  }

  async #walk(outside: readonly OutsideFile[]) {
    const { input, session, held, ports } = this.#parts;
    const { facts } = session;
    const control = await readControlData(input.pgdata, held);
    const logDirectory = logDirectoryInside(await realpath(input.pgdata), facts.logDirectory);
    return walkDataDirectory(input.pgdata, {
      versionDirectory: `PG_${facts.majorVersion}_${control.catalogVersion}`,
      notInto: await repositoryDirectory(ports.store),
      replaced: outside.map(({ path }) => path),
      signal: held,
      ...(logDirectory === undefined ? {} : { logDirectory }),
    });
  }

  async #copy(plan: readonly PlannedPart[], areas: readonly WalkedArea[]): Promise<WrittenPart[]> {
    const { input, ports, held, pace } = this.#parts;
    const control = await readControlData(input.pgdata, held);
    const pages = { blockSize: control.blockSize, segmentBlocks: control.segmentBlocks };
    const tasks = plan.map((part): PartTask => {
      const area = areas.find((one) => one.area === part.area) as WalkedArea;
      return {
        ...this.#task(part.area as PartArea, part.index),
        root: area.root,
        directories: part.index === 0 ? area.directories : [],
        files: part.files,
        ...(control.dataChecksums ? { pages } : {}),
      };
    });
    this.#report('copying', { contentBytes: 0, storedBytes: 0 });
    return writeParts(tasks, {
      jobs: input.jobs,
      store: ports.store,
      signal: held,
      throttle: pace.memory,
      nice: input.nice,
      program: ports.partThread,
      onProgress: (progress) => this.#report('copying', progress),
    });
  }

  #writeLast(index: number, data: WalkedArea, inline: readonly InlineFile[]): Promise<WrittenPart> {
    const { repository, signal } = this.#parts;
    const task = { ...this.#task(DATA_AREA, index), root: data.root, inline };
    return writePart(repository.store, task, { signal, onProgress: () => {} });
  }

  #task(area: PartArea, index: number): PartTask {
    const { input, repository, backupId } = this.#parts;
    const name = partName(area, index, input.codec);
    return {
      area,
      name,
      key: partKey(repository.server, backupId, area, index, input.codec),
      filesKey: partFilesKey(repository.server, backupId, name),
      root: '',
      directories: [],
      files: [],
      inline: [],
      codec: input.codec,
      ...storeOptions(input),
    };
  }

  #details(made: {
    readonly owner: AttemptOwner;
    readonly begun: BackupStart;
    readonly stopped: BackupStop;
    readonly tablespaces: readonly TablespaceLink[];
    readonly areas: readonly WalkedArea[];
    readonly parts: readonly WrittenPart[];
    readonly startedAt: number;
  }): AttemptDetails {
    const { input, session, backupId } = this.#parts;
    const { facts } = session;
    const { begun, stopped, parts } = made;
    const label = parseBackupLabel(stopped.backupLabel);
    const beginWal = segmentAt(label.timeline, begun.beginLsn, facts.segmentSize);
    if (label.beginLsn !== begun.beginLsn || label.beginWal !== beginWal) {
      throw new BackupError('backup-interrupted', `the label says ${label.beginWal}, expected ${beginWal}`);
    }
    // A standby begins at its last restartpoint, which right after a failover lies on the timeline before: the WAL
    // from begin to end is then on two, and what lies between can't be named by one (B1, B6).
    if (begun.position.timeline !== 0 && begun.position.timeline !== label.timeline) {
      throw new BackupError(
        'backup-interrupted',
        `the backup begins on timeline ${label.timeline}, and the server follows ${begun.position.timeline} already`,
        { hint: 'a new attempt succeeds after the next checkpoint of the primary' },
      );
    }
    const failures = damageOf(parts, begun, stopped);
    const copied: CopiedBackup = {
      backupId,
      backupName: input.backupName,
      beginLsn: formatLsn(begun.beginLsn),
      endLsn: formatLsn(stopped.endLsn),
      beginWal,
      endWal: segmentBefore(label.timeline, stopped.endLsn, facts.segmentSize),
      timeline: label.timeline,
      systemId: facts.systemId,
      beginTime: begun.beginTime.toISOString(),
      endTime: stopped.endTime.toISOString(),
      segmentSize: facts.segmentSize,
      postgresVersion: facts.version,
      fromStandby: facts.inRecovery,
      bytes: total(parts, 'contentBytes'),
      storedBytes: total(parts, 'storedBytes'),
      files: total(parts, 'files'),
      pageChecksumFailures: failures.count,
    };
    const settings = [facts.configFile, facts.hbaFile, facts.identFile, facts.includedFiles] as const;
    return {
      version: 1,
      owner: made.owner,
      copied,
      backupLabel: stopped.backupLabel,
      tablespaceMap: stopped.tablespaceMap,
      tablespaces: nameTablespaces(made.tablespaces, [...stopped.tablespaces, ...begun.tablespaces]),
      parts: parts.map(({ damage: _damage, damagedPages: _damagedPages, ...part }) => part),
      pageChecksumFailures: failures.pages,
      skipped: made.areas.flatMap(({ skipped }) => skipped),
      dataChecksums: facts.dataChecksums,
      pgdata: facts.dataDirectory ?? input.pgdata,
      ...storeOptions(input),
      copySeconds: (performance.now() - made.startedAt) / 1000,
      jobs: input.jobs,
      ...(settings[0] === undefined ? {} : { configFile: settings[0] }),
      ...(settings[1] === undefined ? {} : { hbaFile: settings[1] }),
      ...(settings[2] === undefined ? {} : { identFile: settings[2] }),
      ...(settings[3] === undefined ? {} : { includedFiles: settings[3] }),
    };
  }

  #report(phase: Progress['phase'], { contentBytes, storedBytes }: PartProgress): void {
    const totalBytes = this.#totalBytes;
    this.#parts.pace.report(phase, { doneBytes: contentBytes, totalBytes, storedBytes });
  }
}

function ownerOf({ backupName, cluster, namespace, instance }: TakeBackupInput): AttemptOwner {
  return { backupName, cluster, namespace, instance };
}

function storeOptions({ encryption, tags }: TakeBackupInput): Pick<PutOptions, 'encryption' | 'tags'> {
  return { ...(encryption === undefined ? {} : { encryption }), ...(tags === undefined ? {} : { tags }) };
}

/** A repository that lies inside the data directory would be copied into itself for ever. */
async function repositoryDirectory(store: StoreConfig): Promise<string[]> {
  if (store.kind !== 'file') return [];
  return [await realpath(store.directory).catch(() => store.directory)];
}

function readOutside(files: readonly OutsideFile[]): InlineFile[] {
  return files.flatMap(({ source, path }) => {
    try {
      return [inlineFile(path, readFileSync(source), source)];
    } catch (error) {
      // PostgreSQL starts without pg_ident.conf.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw new BackupError('data-unreadable', `can not read ${source}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  });
}

function inlineControl(pgdata: string, content: Uint8Array): InlineFile {
  return inlineFile('global/pg_control', content, join(pgdata, 'global', 'pg_control'));
}

function inlineLabel(pgdata: string, { backupLabel, endTime }: BackupStop): InlineFile {
  const label = inlineFile('backup_label', Buffer.from(backupLabel), join(pgdata, 'PG_VERSION'));
  return { ...label, mode: 0o600, mtimeMs: endTime.getTime() };
}

/** @param like whose owner, mode and time it has */
function inlineFile(path: string, content: Uint8Array, like: string): InlineFile {
  const { mode, uid, gid, mtimeMs } = statSync(like);
  return { path, content, mode, uid, gid, mtimeMs };
}

function nameTablespaces(
  links: readonly TablespaceLink[],
  catalogue: readonly { readonly oid: number; readonly name: string }[],
): AttemptDetails['tablespaces'] {
  return links.map(({ oid, location }) => {
    // Without a name it was dropped meanwhile, or is just being made: replay does the same to the restored one.
    const name = catalogue.find((row) => row.oid === oid)?.name ?? `tablespace_${oid}`;
    return { oid, name, location };
  });
}

function damageOf(parts: readonly WrittenPart[], { beginLsn }: BackupStart, { endLsn }: BackupStop) {
  const real = parts.flatMap(({ damage }) =>
    damage.filter(({ lsn }) => isRealDamage(parseLsn(lsn), beginLsn, endLsn)),
  );
  const unnamed = parts.reduce((sum, { damage, damagedPages }) => sum + damagedPages - damage.length, 0);
  const pages = [...new Set(real.map(({ path }) => path))].map((path) => ({
    path,
    blocks: real.filter((page) => page.path === path).map(({ block }) => block),
  }));
  return { pages, count: real.length + unnamed };
}

function total(parts: readonly WrittenPart[], field: 'contentBytes' | 'storedBytes' | 'files'): number {
  return parts.reduce((sum, part) => sum + part[field], 0);
}

function sumOf(parts: readonly WrittenPart[]): PartProgress {
  return { contentBytes: total(parts, 'contentBytes'), storedBytes: total(parts, 'storedBytes') };
}
