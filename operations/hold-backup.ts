import { createHash } from 'node:crypto';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { DEFAULT_HOLD_MS, placeHold, releaseHold } from '../repository/holds.ts';
import type { Repository } from '../repository/repository.ts';
import { isBeingDeleted } from '../repository/tombstones.ts';

export interface HeldBackup {
  /** Why nothing holds the backup although it is in use; a whole phrase. */
  readonly warning?: string;
  /** Lets it last as long again from now on. Never throws. */
  renew(): Promise<void>;
  /** Lets go of it. Never throws: a hold runs out by itself. */
  release(): Promise<void>;
}

/** For whoever needs a backup that is said to be deleted. */
export const HOW_TO_SPARE =
  'if it is still whole, as after a sweep that died, walkeep keep CLUSTER BACKUP makes it a backup again; walkeep sweep --dry-run says why it was to go';

const RENEW_EVERY_MS = 6 * 3_600_000;
const CALL_MS = 30_000;

/**
 * Keeps sweeps away from a backup and its WAL while it is restored into `targetDirectory`, and for two days from then
 * on: the recovery that follows reads WAL. The same target holds once, however often it is tried. A key that may only
 * read can't hold anything; the restore goes on, and it is said.
 *
 * @throws BackupError `backup-unusable` when a sweep is deleting the backup already
 */
export async function holdForRestore(
  r: Repository,
  backupId: string,
  targetDirectory: string,
  signal: AbortSignal,
): Promise<HeldBackup> {
  const target = resolve(targetDirectory);
  const name = createHash('sha256').update(`${hostname()}\0${target}`).digest('hex').slice(0, 16);
  const hold = {
    id: `restore-${name}`,
    kind: 'restore' as const,
    backupId,
    reason: `restored to ${target.slice(0, 500)} on ${hostname()}`,
    lastsMs: DEFAULT_HOLD_MS,
  };
  let warning: string | undefined;
  try {
    await placeHold(r, hold, signal);
  } catch (error) {
    if (signal.aborted || !isBackupError(error)) throw error;
    warning = `nothing keeps a sweep from deleting backup ${backupId} while it is restored: ${messageOf(error)}`;
  }
  const quietly = (work: (signal: AbortSignal) => Promise<void>) =>
    work(AbortSignal.timeout(CALL_MS)).catch(() => undefined);
  const renew = () => (warning === undefined ? quietly((own) => placeHold(r, hold, own)) : Promise.resolve());
  const timer = setInterval(() => void renew(), RENEW_EVERY_MS);
  timer.unref();
  const held: HeldBackup = {
    ...(warning !== undefined && { warning }),
    async renew() {
      clearInterval(timer);
      await renew();
    },
    async release() {
      clearInterval(timer);
      if (warning === undefined) await quietly((own) => releaseHold(r, hold.id, own));
    },
  };
  // In this order: whoever deletes looks at the holds after it has said so.
  const isGoing = await isBeingDeleted(r, backupId, signal).catch(async (error: unknown) => {
    await held.release();
    throw error;
  });
  if (!isGoing) return held;
  await held.release();
  throw new BackupError('backup-unusable', `backup ${backupId} is being deleted by a sweep`, {
    hint: `plan again: another backup leads there, too; ${HOW_TO_SPARE}`,
  });
}
