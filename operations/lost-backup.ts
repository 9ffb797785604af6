import { isBackupError } from '../core/errors.ts';
import { rfc3339 } from '../core/slots.ts';
import { listBackups } from '../repository/catalogue.ts';
import { readOutcome, writeOutcome } from '../repository/outcome.ts';
import { unlessUnreadable } from '../repository/own-record.ts';
import type { Repository } from '../repository/repository.ts';
import { readSlot, slotsBefore } from '../repository/slots.ts';
import type { SlotQuestion } from './schedule-slots.ts';

/** Slots between may have been missed or skipped. */
const MOST_READ = 3;
const DAY_MS = 86_400_000;

/**
 * Looks at the newest slots whose Backup must have ended by now, whatever becomes of this one. A Backup that left no
 * outcome and does not run was lost: with Temporal's state, or because its run could not write. That is written down as
 * its end, or nobody would ever hear of it. Each slot of a schedule comes by here once.
 *
 * @returns `ask`: find out whether this Backup is still going on, and come again
 */
export async function concludeLost(
  r: Repository,
  { series, schedule, now, deadlineMs, asked }: SlotQuestion,
  signal: AbortSignal,
): Promise<{ readonly ask: string } | undefined> {
  const until = new Date(now.getTime() - deadlineMs);
  const notBefore = new Date(until.getTime() - Math.max(DAY_MS, 2 * deadlineMs));
  let read = 0;
  for await (const past of slotsBefore(r, series, until, notBefore, signal)) {
    if ((read += 1) > MOST_READ) return undefined;
    const record = await unlessUnreadable(readSlot(r, series, past, signal), undefined);
    // It may have begun late.
    if (record?.outcome !== 'ran' || Date.parse(record.recordedAt) > until.getTime()) continue;
    const { backupName } = record;
    if (backupName === undefined) continue;
    if (await unlessUnreadable(readOutcome(r, backupName, signal), 'unreadable')) continue;
    // Whoever has been asked about another one has been asked about this one before, and it runs.
    if (asked === undefined) return { ask: backupName };
    if (asked.backupName !== backupName || asked.isOpen) continue;
    await writeLost(r, { backupName, now, ...(schedule && { schedule }) }, signal);
  }
  return undefined;
}

async function writeLost(
  r: Repository,
  { backupName, schedule, now }: Pick<SlotQuestion, 'backupName' | 'schedule' | 'now'>,
  signal: AbortSignal,
): Promise<void> {
  const entries = await listBackups(r, signal);
  // It succeeded; only its outcome was not written any more.
  if (entries.some(({ info }) => info?.backupName === backupName && info.status === 'DONE')) return;
  const outcome = {
    version: 1 as const,
    backupName,
    ...(schedule && { namespace: schedule.metadata.namespace, cluster: schedule.spec.cluster.name }),
    status: {
      phase: 'failed',
      backupName,
      error: "its run was lost with Temporal's state, or could not write down how it ended",
      stoppedAt: rfc3339(now),
    },
    recordedAt: now.toISOString(),
  };
  try {
    await writeOutcome(r, outcome, { mode: 'create', signal });
  } catch (error) {
    // It ended at this moment, or somebody else was faster: that counts.
    if (!isBackupError(error, 'already-exists')) throw error;
  }
}
