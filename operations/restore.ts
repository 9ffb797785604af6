import { BackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import type { RecoveryPlan } from '../core/recovery.ts';
import type { RecoveryTargetAction } from '../postgres/recovery-settings.ts';
import { readBackupRecord, type BackupRecord, type PartRecord } from '../repository/backup-record.ts';
import { listParts, readBackup, type BackupPart } from '../repository/catalogue.ts';
import type { BackupInfo } from '../repository/backup-info.ts';
import type { Repository } from '../repository/repository.ts';
import { isBeingDeleted } from '../repository/tombstones.ts';
import type { StoreConfig } from '../stores/store-config.ts';
import { diskFailure } from './disk-failure.ts';
import { HOW_TO_SPARE } from './hold-backup.ts';
import type { RepositoryReference } from './recovery-file.ts';
import { finishRestore } from './restore-finish.ts';
import { unpackParts } from './restore-pool.ts';
import {
  checkRoom,
  checkTargets,
  chooseOwner,
  chooseTargets,
  markTargets,
  whileFilling,
  type RestoreTarget,
} from './restore-targets.ts';
import type { UnpackTask } from './unpack-part.ts';

export interface RestorePorts {
  readonly repository: Repository;
  /** What `repository` lies in: every thread opens it for itself. Without it one part is unpacked after another. */
  readonly store?: StoreConfig | undefined;
  /** The line that PostgreSQL runs to get WAL, with `%f` and `%p`, in the data directory. */
  readonly restoreCommand: string;
  /** How `wal-fetch` finds the repository again. */
  readonly reference: RepositoryReference;
  readonly now?: () => Date;
}

/** Plain JSON. */
export interface RestoreRequest {
  readonly plan: RecoveryPlan;
  readonly targetDirectory: string;
  /** Directories by tablespace name; the others go where they were. */
  readonly tablespaces?: Readonly<Record<string, string>> | undefined;
  /** As root: the user who is to own the files, by name or `UID:GID`. */
  readonly owner?: string | undefined;
  readonly jobs?: number | undefined;
  readonly action?: RecoveryTargetAction | undefined;
  /** Follow the archive as a standby instead of recovering to a target. */
  readonly isStandby?: boolean | undefined;
  /** Settings for `postgresql.auto.conf` that win over all others. */
  readonly settings?: Readonly<Record<string, string>> | undefined;
}

export interface RestoreProgress {
  readonly phase: 'checking' | 'restoring' | 'finishing' | 'done';
  /** Bytes of the repository's objects. */
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface RestoreOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: RestoreProgress) => void;
}

/** Plain JSON. */
export interface RestoredBackup {
  readonly backupId: string;
  readonly targetDirectory: string;
  readonly tablespaces: readonly { readonly name: string; readonly directory: string }[];
  readonly majorVersion: number;
  readonly files: number;
  /** Of all files, and of the objects they came from. */
  readonly contentBytes: number;
  readonly storedBytes: number;
  /** Every part was compared with the sizes and hashes recorded when it was taken. */
  readonly isVerified: boolean;
  readonly warnings: readonly string[];
}

const DEFAULT_JOBS = 4;

/**
 * Restores a base backup into empty directories and sets up the recovery of `request.plan`. Nothing is started.
 *
 * Everything is checked before the first write (C1). The directory becomes startable in the very last step (C2): until
 * then `pg_control` has another name, so that PostgreSQL refuses an interrupted restore; the same command begins it
 * anew. Nothing is deleted that this restore did not create.
 *
 * @throws BackupError `directory-not-empty` | `usage` | `backup-unusable` | `disk-full` before anything was written;
 *   `object-damaged` | `disk-full` | `data-unreadable` and what the store throws later
 */
export async function restore(
  ports: RestorePorts,
  request: RestoreRequest,
  options: RestoreOptions,
): Promise<RestoredBackup> {
  const { repository } = ports;
  const { signal, onProgress = () => {} } = options;
  onProgress({ phase: 'checking', doneBytes: 0, totalBytes: 0 });
  const { backupId } = request.plan;
  const info = await restorable(repository, backupId, signal);
  const parts = await listParts(repository, backupId, signal);
  const record = await readBackupRecord(repository, backupId, signal);
  const targets = chooseTargets(
    request.targetDirectory,
    info.tablespaces,
    request.tablespaces ?? {},
    info.pgdata,
  );
  requireParts(info, parts, targets, record);
  checkTargets(targets, backupId, ports.store?.kind === 'file' ? [ports.store.directory] : []);
  const owner = chooseOwner((targets[0] as RestoreTarget).directory, request.owner);
  const tasks = plannedTasks(parts, targets, record, owner);
  checkRoom(targets, ({ area }) => neededBytes(tasks.filter((task) => task.area === area)));

  const totalBytes = tasks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const filled = whileFilling(targets, async () => {
    failpoint('restore.before-write');
    markTargets(targets, backupId, owner, (ports.now ?? (() => new Date()))());
    const written = await unpackParts(tasks, {
      jobs: request.jobs ?? DEFAULT_JOBS,
      store: ports.store,
      openStore: repository.store,
      signal,
      onProgress: (doneBytes) => onProgress({ phase: 'restoring', doneBytes, totalBytes }),
    });
    failpoint('restore.unpacked');
    onProgress({ phase: 'finishing', doneBytes: totalBytes, totalBytes });
    return {
      unpacked: written,
      finished: await finishRestore({ ports, request, info, targets, unpacked: written, owner, signal }),
    };
  });
  const { unpacked, finished } = await filled.catch((error: unknown) => {
    throw diskFailure(error, request.targetDirectory);
  });
  onProgress({ phase: 'done', doneBytes: totalBytes, totalBytes });
  return {
    backupId,
    targetDirectory: (targets[0] as RestoreTarget).directory,
    tablespaces: targets.slice(1).map(({ name = '', directory }) => ({ name, directory })),
    majorVersion: finished.majorVersion,
    files: unpacked.reduce((sum, { files }) => sum + files, 0),
    contentBytes: unpacked.reduce((sum, { contentBytes }) => sum + contentBytes, 0),
    storedBytes: totalBytes,
    isVerified: record !== undefined,
    warnings: [...unpacked.flatMap(({ warnings }) => warnings), ...finished.warnings],
  };
}

const BEING_DELETED = 'a sweep is deleting it';

async function restorable(
  repository: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<BackupInfo> {
  const info = await readBackup(repository, backupId, signal);
  if (info === undefined) {
    throw new BackupError('backup-unknown', `backup ${backupId} is not in ${repository.url} any more`);
  }
  const why =
    info.status !== 'DONE'
      ? `its status is ${info.status}`
      : info.parentBackupId !== undefined
        ? 'it is incremental'
        : info.snapshots
          ? 'it consists of volume snapshots'
          : (await isBeingDeleted(repository, backupId, signal))
            ? BEING_DELETED
            : undefined;
  if (why !== undefined)
    throw new BackupError('backup-unusable', `backup ${backupId} can't be restored: ${why}`, {
      ...(why === BEING_DELETED && { hint: HOW_TO_SPARE }),
    });
  return info;
}

/** Whether the objects are what the records say, before anything is read of them. */
function requireParts(
  info: BackupInfo,
  parts: readonly BackupPart[],
  targets: readonly RestoreTarget[],
  record: BackupRecord | undefined,
): void {
  const refuse = (why: string, notListed?: string): never => {
    throw new BackupError('object-damaged', `backup ${info.backupId} is not whole: ${why}`, {
      notListed,
      hint: 'choose another backup',
    });
  };
  for (const { area, name } of targets) {
    if (!parts.some((part) => part.area === area))
      refuse(
        name === undefined ? 'data.tar is missing' : `the tar of tablespace "${name}" (${area}) is missing`,
        `${area}.tar`,
      );
  }
  if (record === undefined) return;
  const stored = new Map(parts.map((part) => [nameOf(part), part]));
  for (const { name, storedBytes } of record.parts) {
    const part = stored.get(name);
    if (part === undefined) refuse(`${name} is missing`, name);
    else if (part.sizeBytes !== storedBytes)
      refuse(`${name} has ${part.sizeBytes} bytes, ${storedBytes} were recorded`);
    stored.delete(name);
  }
  const [extra] = stored.keys();
  if (extra !== undefined) refuse(`${extra} was not in it when it was taken`);
}

function nameOf({ key }: BackupPart): string {
  return key.slice(key.lastIndexOf('/') + 1);
}

function plannedTasks(
  parts: readonly BackupPart[],
  targets: readonly RestoreTarget[],
  record: BackupRecord | undefined,
  owner: UnpackTask['owner'],
): UnpackTask[] {
  const oids = targets.slice(1).map(({ area }) => Number(area));
  const recorded = new Map<string, PartRecord>(record?.parts.map((part) => [part.name, part]));
  return parts.flatMap((part): UnpackTask[] => {
    const target = targets.find(({ area }) => area === part.area);
    // as stock does: a tar of a tablespace that the record does not know is not restored
    if (target === undefined) return [];
    const name = nameOf(part);
    return [
      {
        key: part.key,
        name,
        area: part.area,
        codec: part.codec,
        sizeBytes: part.sizeBytes,
        expected: recorded.get(name),
        directory: target.directory,
        owner,
        tablespaceOids: oids,
      },
    ];
  });
}

function neededBytes(tasks: readonly UnpackTask[]): number {
  return tasks.reduce((sum, { expected, sizeBytes }) => sum + (expected?.plainBytes ?? sizeBytes), 0);
}
