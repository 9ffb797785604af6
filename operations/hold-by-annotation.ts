import { listHolds, placeHold, releaseHold } from '../repository/holds.ts';
import { readKeep, releaseKeep, writeKeep } from '../repository/keeps.ts';
import type { Repository } from '../repository/repository.ts';
import { requireKeepable, requireSpared } from './spare-backup.ts';

/** What `walkeep.io/hold` on a Backup asks for. */
export interface AnnotatedHold {
  readonly backupId: string;
  /** Why, in the user's words; `null`: the annotation is gone. */
  readonly reason: string | null;
}

/**
 * Makes the annotation true in the repository: a hold that every walkeep heeds, and barman's keep, which stock tools
 * heed. Taken back, it leaves a keep that somebody else had put there before. Doing it twice changes nothing.
 *
 * @throws BackupError `backup-unusable` when the backup is gone, or a sweep has begun to delete its data; `lease-held`
 *   (to be tried again) while a sweep that said so may still spare it
 */
export async function setAnnotatedHold(
  r: Repository,
  { backupId, reason }: AnnotatedHold,
  signal: AbortSignal,
): Promise<void> {
  const hold = `annotation-${backupId}`;
  const keepIsOurs = `annotation-keep-${backupId}`;
  if (reason === null) {
    const held = new Set((await listHolds(r, signal)).map(({ id }) => id));
    if (held.has(keepIsOurs)) await releaseKeep(r, backupId, signal);
    await releaseHold(r, keepIsOurs, signal);
    await releaseHold(r, hold, signal);
    return;
  }
  await requireKeepable(r, backupId, signal);
  const text = reason.trim() === '' ? 'walkeep.io/hold' : reason.slice(0, 500);
  await placeHold(r, { id: hold, kind: 'manual', backupId, reason: text }, signal);
  if ((await readKeep(r, backupId, signal)) === undefined) {
    // In this order: a crash in between leaves a note about a keep that is not there, and not a keep nobody owns.
    await placeHold(r, { id: keepIsOurs, kind: 'manual', backupId, reason: `${text} (its keep)` }, signal);
    await writeKeep(r, backupId, 'full', signal);
  }
  await requireSpared(r, backupId, signal);
}
