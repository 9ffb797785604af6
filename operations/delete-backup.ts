import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { formatDuration } from '../core/duration.ts';
import { failpoint } from '../core/failpoint.ts';
import { inspectBackup, type BackupPart } from '../repository/catalogue.ts';
import { isOver, listHolds } from '../repository/holds.ts';
import { readKeep } from '../repository/keeps.ts';
import { ownKey } from '../repository/layout.ts';
import type { Lease } from '../repository/lease.ts';
import type { Repository } from '../repository/repository.ts';
import { utf8 } from '../repository/small-object.ts';
import { listTombstones, readMark, stopDeletion } from '../repository/tombstones.ts';
import { isFirstPart } from './sweep-backup.ts';
import { KEYS_AT_ONCE } from './sweep-wal.ts';

/**
 * Proves that this key may delete, on an object made for that: one that may not would leave backups that are said to be
 * deleted, and that nobody restores from.
 *
 * @throws BackupError `access-denied` when it may not; what the store throws
 */
export async function requireMayDelete(r: Repository, signal: AbortSignal): Promise<void> {
  // Always the same, so that a key that may not delete leaves one and no more.
  const key = ownKey(r.server, 'deletion-probe');
  const bytes = utf8('written and deleted by a sweep, to see that it may delete\n');
  try {
    await r.store.put(key, bytes, { signal, sizeBytes: bytes.length });
    await r.store.delete([key], { signal });
  } catch (error) {
    if (!isBackupError(error, 'access-denied')) throw error;
    const lock = await r.store.lockOf?.(key, { signal }).catch(() => undefined);
    if (lock?.until !== undefined || lock?.legalHold === true) throw lockedAsWritten(r, key, error);
    throw new BackupError(
      'access-denied',
      `a sweep of ${r.url} needs a key that may write and delete: ${error.message}`,
      {
        cause: error,
        hint: 'no backup was touched; let a worker with a key that may delete sweep (retention.queue)',
      },
    );
  }
  if ((await r.store.head(key, { signal })) !== undefined) throw stillThere(r, key);
}

function lockedAsWritten(r: Repository, key: string, cause: unknown): BackupError {
  return new BackupError(
    'access-denied',
    `the store locks what is written, ${r.store.url}/${key} too: a sweep could not take back its own marks there`,
    {
      cause,
      hint: 'no backup was touched; switch versions on for the bucket, as AWS has it with locks, or delete there by a rule of the store',
    },
  );
}

/** Why a backup stays for now. */
export interface Reprieve {
  readonly why: string;
  /** `keep`: its mark is to be taken back; `wait`: the mark stays; `undecided`: it is half gone, and stays so. */
  readonly decision: 'keep' | 'wait' | 'undecided';
  /** When it may go, in ms since 1970, where that is known. */
  readonly dueAt?: number;
}

export interface LastLook {
  readonly storeNow: Date;
  /** The grace period that is declared now. */
  readonly graceMs: number;
  readonly signal: AbortSignal;
}

/**
 * Why a backup may not go after all: asked right before its first object goes, of what somebody may have changed in
 * the last moment.
 */
export async function whyNotNow(
  r: Repository,
  backupId: string,
  { storeNow, graceMs, signal }: LastLook,
): Promise<Reprieve | undefined> {
  const held = (await listHolds(r, signal)).find(
    (hold) => hold.backupId === backupId && !isOver(hold, storeNow),
  );
  if (held) return { why: `in use by a ${held.kind}: ${held.reason}`, decision: 'keep' };
  const keep = await readKeep(r, backupId, signal);
  if (keep !== undefined) return { why: `somebody put a keep on it (${keep})`, decision: 'keep' };
  const mark = await readMark(r, backupId, signal);
  if (mark === undefined) return { why: 'its tombstone was removed', decision: 'keep' };
  const grace = Math.max(mark.graceMs, graceMs);
  const dueAt = mark.markedAt.getTime() + grace;
  if (dueAt <= storeNow.getTime()) return undefined;
  const why = `the grace period of its tombstone, ${formatDuration(grace)}, is not over`;
  return { why, decision: 'wait', dueAt };
}

export interface DeleteDataOptions {
  /** Asked before every batch: throws when nothing more may be deleted. */
  readonly mayGoOn: () => Promise<void>;
  readonly signal: AbortSignal;
}

/**
 * Deletes the tars of a backup. The first of the data directory goes first and alone: without it no tool, ours or
 * stock, begins a restore, whatever the record says. Foreign objects in its folder stay.
 *
 * @returns how many were there to be deleted
 */
export async function deleteData(
  r: Repository,
  backupId: string,
  { mayGoOn, signal }: DeleteDataOptions,
): Promise<number> {
  const { parts } = await inspectBackup(r, backupId, signal);
  const first = parts.filter(isFirstPart).map(({ key }) => key);
  const rest = parts.filter((part) => !isFirstPart(part)).map(({ key }) => key);
  failpoint('sweep.before-delete-data');
  await mayGoOn();
  if (first.length > 0) {
    await r.store.delete(first, { signal });
    failpoint('sweep.first-part-deleted');
  }
  for (let at = 0; at < rest.length; at += KEYS_AT_ONCE) {
    await mayGoOn();
    await r.store.delete(rest.slice(at, at + KEYS_AT_ONCE), { signal });
  }
  for (const { key } of (await inspectBackup(r, backupId, signal)).parts) {
    // Asked for by its name: a listing may still show what has just been deleted.
    if ((await r.store.head(key, { signal })) !== undefined) throw stillThere(r, key);
  }
  failpoint('sweep.data-deleted');
  return parts.length;
}

/** For taking back what was said, when something went wrong; also when the sweep itself was aborted. */
const SPARE_MS = 30_000;

/**
 * Takes backups that are still whole out of "being deleted"; their marks stay. Best effort, in a time of its own: the
 * next sweep sees to what is not reached. Without the lease nothing is written: whoever has it may be deleting these
 * very backups.
 *
 * @param whole by id: how many tars each had
 */
export async function spareWhole(
  r: Repository,
  whole: ReadonlyMap<string, number>,
  lease: Pick<Lease, 'check' | 'lost'>,
): Promise<void> {
  const signal = AbortSignal.any([AbortSignal.timeout(SPARE_MS), lease.lost]);
  for (const [backupId, count] of whole) {
    if (signal.aborted) return;
    try {
      const { parts } = await inspectBackup(r, backupId, signal);
      if (parts.length !== count || !(await isThere(r, parts.find(isFirstPart), signal))) continue;
      await lease.check(signal);
      await stopDeletion(r, backupId, signal);
    } catch {
      // What went wrong before is told, not what went wrong with this.
    }
  }
}

/**
 * Takes back what a sweep that died has said to be deleting and did not touch: while sweeps are refused nobody finishes
 * it, and nobody could restore it. Their marks stay, and nothing is lost by it. Best effort; a key that may not delete
 * is no news.
 *
 * @returns what was taken back or could not be, as warnings
 * @throws BackupError `lease-lost`: whoever has the lease may be deleting these very backups
 */
export async function takeBackUntouched(
  r: Repository,
  lease: Pick<Lease, 'check' | 'lost'>,
  sweepSignal: AbortSignal,
): Promise<string[]> {
  const warnings: string[] = [];
  const signal = AbortSignal.any([AbortSignal.timeout(SPARE_MS), sweepSignal, lease.lost]);
  try {
    for (const { backupId, deletingSince } of (await listTombstones(r, signal)).values()) {
      if (deletingSince === undefined) continue;
      await lease.check(signal);
      const { parts } = await inspectBackup(r, backupId, signal);
      if (!(await isThere(r, parts.find(isFirstPart), signal))) continue;
      await stopDeletion(r, backupId, signal);
      warnings.push(`${backupId} was about to be deleted, and is whole: it can be restored again`);
    }
  } catch (error) {
    sweepSignal.throwIfAborted();
    lease.lost.throwIfAborted();
    warnings.push(
      `what is whole of the backups that are said to be deleted could not be made restorable again: ${messageOf(error)}`,
    );
  }
  return warnings;
}

/** Asked for by its name: a listing may still show what has just been deleted, the first part before all others. */
async function isThere(r: Repository, part: BackupPart | undefined, signal: AbortSignal): Promise<boolean> {
  return part !== undefined && (await r.store.head(part.key, { signal })) !== undefined;
}

function stillThere(r: Repository, key: string): BackupError {
  return new BackupError(
    'store-unavailable',
    `${r.store.url}/${key} was deleted, said the store, and is there`,
  );
}
