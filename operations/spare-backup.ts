import { hostname } from 'node:os';
import { BackupError, isBackupError } from '../core/errors.ts';
import { inspectBackup } from '../repository/backup-parts.ts';
import { backupInfoKey } from '../repository/layout.ts';
import { takeLease } from '../repository/lease.ts';
import type { Repository } from '../repository/repository.ts';
import { isBeingDeleted, stopDeletion } from '../repository/tombstones.ts';
import { isFirstPart } from './sweep-backup.ts';
import { SWEEP_LEASE } from './sweep.ts';

/**
 * Whether a backup can be kept at all, looked at before anything is written about it: one that is said to be deleted can
 * as long as the first tar of its data is there.
 *
 * @throws BackupError `backup-unusable` when it is gone, or half gone
 */
export async function requireKeepable(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  await requireRecord(r, backupId, signal);
  if (await isBeingDeleted(r, backupId, signal)) await requireFirstPart(r, backupId, signal);
}

/**
 * Whether what was put on a backup, to keep it, came in time: looked at afterwards, since a sweep says first what it is
 * about to delete and looks then at what keeps it. While a sweep runs that said so of this backup nobody knows. When none
 * runs, a backup that an ended one left as "being deleted" is one again at once: this sweeps nothing, so no doubt about
 * what may be deleted speaks against it.
 *
 * @throws BackupError `backup-unusable` when it came too late, `lease-held` when that is not decided yet
 */
export async function requireSpared(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  if (await isBeingDeleted(r, backupId, signal)) await takeItBack(r, backupId, signal);
  // After the look above, in this order: what is deleted loses its record before that word about it.
  await requireRecord(r, backupId, signal);
}

async function takeItBack(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  const holder = `whoever keeps backup ${backupId}, on ${hostname()}`;
  const lease = await takeLease(r, SWEEP_LEASE, { signal, holder }).catch((error: unknown) => {
    if (!isBackupError(error, 'lease-held')) throw error;
    throw new BackupError(
      'lease-held',
      `a sweep said that it deletes backup ${backupId}, and whether it spares it is seen when it has ended: ${error.message}`,
      { cause: error, hint: 'what keeps the backup is written; do the same again in some minutes' },
    );
  });
  try {
    // What a sweep that has ended meanwhile did not spare.
    await requireRecord(r, backupId, signal);
    if (!(await isBeingDeleted(r, backupId, signal))) return;
    await requireFirstPart(r, backupId, signal);
    await lease.check(signal);
    await stopDeletion(r, backupId, signal).catch((error: unknown) => {
      // A key that may not delete: it is kept all the same, and the next sweep takes the word back.
      if (!isBackupError(error, 'access-denied')) throw error;
    });
  } finally {
    await lease.release();
  }
}

async function requireRecord(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  if ((await r.store.head(backupInfoKey(r.server, backupId), { signal })) !== undefined) return;
  throw new BackupError('backup-unusable', `backup ${backupId} is not in ${r.url} any more`, {
    hint: 'nothing can keep it; walkeep get backups lists what there is',
  });
}

async function requireFirstPart(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  if ((await inspectBackup(r, backupId, signal)).parts.some(isFirstPart)) return;
  throw new BackupError('backup-unusable', `backup ${backupId} is being deleted already`, {
    hint: 'its data is gone, nothing can keep it; walkeep get backups shows what is left',
  });
}
