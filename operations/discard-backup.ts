import { isBackupError } from '../core/errors.ts';
import { backupInfoKey } from '../repository/layout.ts';
import { clearAttempt, deleteParts, settleAttempt } from './backup-attempt.ts';
import type { BackupPorts } from './backup-ports.ts';

/** Cleaning up must not hang, and has its own time: the signal of what failed is aborted already. */
const DEADLINE_MS = 60_000;

/**
 * Removes what an attempt that failed left in the repository: its tars, and what it had put down for its next steps.
 * A backup with a record, or with one on its way, is left alone, whatever it says. Discarding nothing succeeds.
 */
export async function discardBackup(ports: Pick<BackupPorts, 'repository'>, backupId: string): Promise<void> {
  const signal = AbortSignal.timeout(DEADLINE_MS);
  const repository = await ports.repository();
  const isRecorded = async () =>
    (await repository.store.head(backupInfoKey(repository.server, backupId), { signal })) !== undefined;
  if (await isRecorded()) return;
  try {
    await settleAttempt(repository, backupId, 'discard', { signal });
    // Once more: recorded in between, it has no verdict any more.
    if (await isRecorded()) return;
    await deleteParts(repository, backupId, signal);
    await clearAttempt(repository, backupId, signal, { keepsVerdict: true });
  } catch (error) {
    // An archiver's key may not delete, and what is being recorded must stay; the sweep finds what is left.
    if (!isBackupError(error, 'access-denied', 'already-exists')) throw error;
  }
}
