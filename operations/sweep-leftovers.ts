import { isBackupError, messageOf } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { deleteBackupRecord } from '../repository/backup-record.ts';
import { isOver, releaseHold } from '../repository/holds.ts';
import { backupInfoKey, isBackupId, ownKey } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import type { UnfinishedUpload } from '../stores/object-store.ts';
import { concludeDeletion, listGraves, takeBackTombstone } from '../repository/tombstones.ts';
import { clearAttempt, deleteParts, settleAttempt } from './backup-attempt.ts';
import type { SweepCatalogue } from './gather-retention.ts';
import { lockOfBackup, type LockQuestion } from './object-locks.ts';

/** Something that belongs to no backup, and what is to be done with it. */
export type Leftover =
  /** Tars and notes of an attempt that died. */
  | { readonly kind: 'attempt'; readonly backupId: string }
  /** Notes for steps of an attempt that came to its end. */
  | { readonly kind: 'notes'; readonly backupId: string }
  /** Walkeep's own record of a backup that is gone; `vanished`: not by a sweep of ours. */
  | { readonly kind: 'record'; readonly backupId: string; readonly vanished: boolean }
  /** A backup whose deletion went as far as its record. */
  | { readonly kind: 'unfinished'; readonly backupId: string }
  /** The mark of a backup that somebody else deleted. */
  | { readonly kind: 'mark'; readonly backupId: string }
  | { readonly kind: 'hold'; readonly id: string }
  /** Part of an object that was never finished. */
  | { readonly kind: 'upload'; readonly upload: UnfinishedUpload };

export interface Leftovers {
  readonly removable: readonly Leftover[];
  /** What is left alone, and why; whole phrases. */
  readonly warnings: readonly string[];
}

export interface LeftoverTimes {
  /** The store's time, or the host's where that is not known; ms. */
  readonly now: number;
  readonly graceMs: number;
  readonly deadlineMs: number;
}

/** Nobody minds an object of some bytes, and somebody may be about to renew. */
const OLD_HOLD_MS = 24 * 3_600_000;

/**
 * What belongs to no backup. An attempt counts as dead when its deadline and the grace period are over, and as long
 * nothing was stored for it: from any host it can't be the one that runs (D5).
 */
export async function findLeftovers(
  r: Repository,
  catalogue: SweepCatalogue,
  times: LeftoverTimes,
  signal: AbortSignal,
): Promise<Leftovers> {
  const { folders, attempts, tombstones } = catalogue;
  const recorded = new Set(catalogue.entries.map(({ backupId }) => backupId));
  const graves = await listGraves(r, signal);
  const own = await ownRecords(r, signal);
  const isOld = (at: Date | undefined, ms: number) => at !== undefined && at.getTime() < times.now - ms;
  const removable: Leftover[] = [];
  const warnings: string[] = [];

  const ids = new Set([...folders.keys(), ...attempts.keys(), ...own, ...tombstones.keys()]);
  for (const backupId of [...ids].toSorted()) {
    const attempt = attempts.get(backupId);
    const folder = folders.get(backupId);
    if (recorded.has(backupId)) {
      const hasNotes = attempt !== undefined && (attempt.leftOver > 0 || attempt.isSettled);
      if (hasNotes && isOld(attempt.touchedAt, times.graceMs)) removable.push({ kind: 'notes', backupId });
      continue;
    }
    const tombstone = tombstones.get(backupId);
    if (tombstone) {
      removable.push({ kind: tombstone.deletingSince ? 'unfinished' : 'mark', backupId });
      continue;
    }
    const parts = folder?.parts.length ?? 0;
    if (attempt === undefined && parts > 0) {
      warnings.push(
        `base/${backupId} has no backup.info and is not an attempt of walkeep: a backup of another tool that runs or died; it is left alone`,
      );
      continue;
    }
    const isDead =
      attempt === undefined ||
      (isOld(attempt.claimedAt ?? attempt.touchedAt, times.deadlineMs + times.graceMs) &&
        isOld(attempt.touchedAt, times.graceMs) &&
        (folder === undefined || isOld(folder.touchedAt, times.graceMs)));
    if (!isDead) continue;
    if (parts > 0 || (attempt?.leftOver ?? 0) > 0) removable.push({ kind: 'attempt', backupId });
    else if (own.has(backupId))
      removable.push({
        kind: 'record',
        backupId,
        vanished: !graves.has(backupId) && attempt?.isSettled !== true,
      });
    else if (folder && folder.foreign.length > 0)
      warnings.push(
        `base/${backupId} holds ${folder.foreign.length} objects that nobody restores; they are left alone`,
      );
  }
  for (const hold of catalogue.holds) {
    const over = isOver(
      { ...hold, lastsMs: (hold.lastsMs ?? Number.POSITIVE_INFINITY) + OLD_HOLD_MS },
      new Date(times.now),
    );
    if (over) removable.push({ kind: 'hold', id: hold.id });
  }
  try {
    for await (const upload of r.store.unfinished?.(`${r.server}/`, { signal }) ?? []) {
      if (isOld(upload.startedAt, times.deadlineMs + times.graceMs))
        removable.push({ kind: 'upload', upload });
    }
  } catch (error) {
    // A right of its own, and not every server knows the question.
    if (signal.aborted || !isBackupError(error)) throw error;
    warnings.push(`unfinished uploads could not be listed: ${messageOf(error)}`);
  }
  const locked: Leftover[] = [];
  for (const leftover of removable) {
    if (!isOfBackup(leftover)) continue;
    const lock = await lockOfBackup(r, leftover.backupId, { nowMs: times.now, signal });
    if (lock === undefined) continue;
    locked.push(leftover);
    warnings.push(`${describeLeftover(leftover)}: it stays, ${lock.why}`);
  }
  return {
    removable: removable.filter((leftover) => !locked.includes(leftover)),
    warnings: [...warnings, ...vanishedWarning(removable)],
  };
}

/** Whose removal deletes tars or records. */
function isOfBackup(leftover: Leftover): leftover is Extract<Leftover, { backupId: string }> {
  return leftover.kind === 'attempt' || leftover.kind === 'record' || leftover.kind === 'unfinished';
}

function vanishedWarning(leftovers: readonly Leftover[]): string[] {
  const gone = leftovers.flatMap((leftover) =>
    leftover.kind === 'mark' || (leftover.kind === 'record' && leftover.vanished) ? [leftover.backupId] : [],
  );
  if (gone.length === 0) return [];
  const names = gone.slice(0, 5).join(', ') + (gone.length > 5 ? ` and ${gone.length - 5} more` : '');
  return [
    `deleted by something else: ${names}. A retention of barman-cloud or CNPG seems to work on the same server name; let only one of them delete`,
  ];
}

/** The ids that have a record of ours. */
async function ownRecords(r: Repository, signal: AbortSignal): Promise<Set<string>> {
  const prefix = `${ownKey(r.server, 'backups')}/`;
  const ids = new Set<string>();
  for await (const folder of r.store.folders(prefix, { signal })) {
    const id = folder.slice(prefix.length, -1);
    if (isBackupId(id)) ids.add(id);
  }
  return ids;
}

/** For people. */
export function describeLeftover(leftover: Leftover): string {
  switch (leftover.kind) {
    case 'attempt':
      return `the dead attempt ${leftover.backupId}: its tars and notes`;
    case 'notes':
      return `notes of the attempt that made ${leftover.backupId}`;
    case 'record':
      return leftover.vanished
        ? `walkeep's record of ${leftover.backupId}, which something else deleted`
        : `walkeep's record of ${leftover.backupId}, which is gone`;
    case 'unfinished':
      return `the rest of ${leftover.backupId}, whose deletion was interrupted`;
    case 'mark':
      return `the tombstone of ${leftover.backupId}, which something else deleted`;
    case 'hold':
      return `the hold ${leftover.id}, which is over`;
    case 'upload':
      return `an upload of ${leftover.upload.key} that nobody finished, begun at ${leftover.upload.startedAt.toISOString()}`;
  }
}

export interface RemoveOptions {
  /** Asked before each: throws when nothing more may be deleted. */
  readonly mayGoOn: () => Promise<void>;
  readonly signal: AbortSignal;
}

/** Removes all of them, one after the other. @returns what is gone, for people, and why the rest was left */
export async function removeLeftovers(
  r: Repository,
  leftovers: readonly Leftover[],
  { mayGoOn, signal }: RemoveOptions,
): Promise<{ removed: string[]; warnings: string[] }> {
  const removed: string[] = [];
  const warnings: string[] = [];
  for (const leftover of leftovers) {
    await mayGoOn();
    const why = await removeLeftover(r, leftover, signal);
    if (why === undefined) removed.push(describeLeftover(leftover));
    else warnings.push(why);
  }
  return { removed, warnings };
}

/**
 * The last steps of deletions whose data and WAL are gone. Their locks are asked for once more: there may be hours of WAL
 * between the data and this. What is locked by now stays as it is, and the next sweeps finish it.
 *
 * @returns why something was left, as whole phrases
 */
export async function deleteRecords(
  r: Repository,
  backupIds: readonly string[],
  { mayGoOn, onNext, ...question }: RemoveOptions & LockQuestion & { readonly onNext: () => void },
): Promise<string[]> {
  const { signal } = question;
  const left: string[] = [];
  for (const backupId of backupIds) {
    onNext();
    const lock = await lockOfBackup(r, backupId, question);
    if (lock) {
      left.push(`the data of ${backupId} is gone, and its record stays for now: ${lock.why}`);
      continue;
    }
    failpoint('sweep.before-delete-record');
    await mayGoOn();
    await r.store.delete([backupInfoKey(r.server, backupId)], { signal });
    failpoint('sweep.record-deleted');
    const why = await removeLeftover(r, { kind: 'unfinished', backupId }, signal);
    if (why !== undefined) left.push(why);
  }
  return left;
}

/**
 * Removes one leftover. Removing what is not there succeeds.
 *
 * @returns why it was left, as a whole phrase
 */
async function removeLeftover(
  r: Repository,
  leftover: Leftover,
  signal: AbortSignal,
): Promise<string | undefined> {
  switch (leftover.kind) {
    case 'hold':
      await releaseHold(r, leftover.id, signal);
      return undefined;
    case 'upload':
      await r.store.abandon?.(leftover.upload, { signal });
      return undefined;
    case 'mark':
      await takeBackTombstone(r, leftover.backupId, signal);
      return undefined;
    case 'unfinished':
      return finish(r, leftover.backupId, signal);
    case 'notes':
      if (await hasRecord(r, leftover.backupId, signal)) await clearAttempt(r, leftover.backupId, signal);
      return undefined;
    case 'record':
    case 'attempt':
      return discard(r, leftover.backupId, signal);
  }
}

/** As a failed attempt itself does: the word that it is discarded comes first, so that nobody records it any more. */
async function discard(r: Repository, backupId: string, signal: AbortSignal): Promise<string | undefined> {
  if (await hasRecord(r, backupId, signal)) return undefined;
  try {
    await settleAttempt(r, backupId, 'discard', { signal });
  } catch (error) {
    if (!isBackupError(error, 'already-exists')) throw error;
    return `attempt ${backupId} was about to be recorded when it died; it is left alone: remove base/${backupId} by hand if it is of no use`;
  }
  if (await hasRecord(r, backupId, signal)) return undefined;
  failpoint('sweep.before-delete-data');
  await deleteParts(r, backupId, signal);
  failpoint('sweep.data-deleted');
  await deleteBackupRecord(r, backupId, signal);
  await clearAttempt(r, backupId, signal, { keepsVerdict: true });
  return undefined;
}

/** The last steps of a deletion that was interrupted after the record went. */
async function finish(r: Repository, backupId: string, signal: AbortSignal): Promise<string | undefined> {
  if (await hasRecord(r, backupId, signal)) return undefined;
  await deleteParts(r, backupId, signal);
  await deleteBackupRecord(r, backupId, signal);
  await clearAttempt(r, backupId, signal);
  failpoint('sweep.before-grave');
  await concludeDeletion(r, backupId, signal);
  failpoint('sweep.concluded');
  return undefined;
}

async function hasRecord(r: Repository, backupId: string, signal: AbortSignal): Promise<boolean> {
  return (await r.store.head(backupInfoKey(r.server, backupId), { signal })) !== undefined;
}
