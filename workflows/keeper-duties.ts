import { log } from '@temporalio/workflow';
import { cutText } from '../core/short-text.ts';
import { troubleOf } from './failures.ts';
import { clusterQueue } from './interface.ts';
import * as agenda from './keeper-agenda.ts';
import {
  clusterErrands,
  holdErrands,
  outcomeErrands,
  rethrowCancellation,
  type Own,
} from './keeper-errands.ts';
import { giveUpHold, noteHold } from './keeper-holds.ts';
import { LIMITS } from './keeper-limits.ts';
import { giveUpOutcome, noteWritten, outcomeOf } from './keeper-outcomes.ts';
import type { KeeperState } from './keeper-state.ts';

/** What came of a duty, to be put into the state as it is by then. */
export type Change = (state: KeeperState) => KeeperState;

const AGAIN_MS = 10 * 60_000;
const AGAIN_AT_MOST_MS = 2 * 3600_000;

/**
 * A name that is too long for a record, or a record of that name that can not be read: no run of that name gets past it
 * either. Trying again would keep the other outcomes waiting for ever.
 */
const NEVER_WRITTEN: readonly string[] = ['format-invalid', 'object-damaged'];

/** @param failures how often it failed before: what fails for long is tried less and less often, each try is paid for */
function againAt(failures = 0): string {
  return new Date(Date.now() + Math.min(AGAIN_MS * 2 ** failures, AGAIN_AT_MOST_MS)).toISOString();
}

/** Makes Temporal's Schedules those that are declared, and removes those that are not any more. */
export async function convergeSchedules(own: Own, state: KeeperState): Promise<Change> {
  const { schedules = [], agenda: kept, manifest } = state;
  const print = agenda.schedulesFingerprint(state);
  const known = [...(kept?.knownSchedules ?? []), ...schedules.map(({ metadata }) => metadata.name)];
  try {
    const told = await clusterErrands(own, 'make the schedules true').convergeSchedules({
      ...own,
      manifest,
      schedules,
      known: [...new Set(known)],
    });
    const at = Date.now();
    return (now) => agenda.noteSchedules(now, print, told, at);
  } catch (error) {
    rethrowCancellation(error);
    log.warn(`the schedules could not be made true; it is tried again: ${String(error)}`);
    const schedulesNotBefore = againAt();
    return (now) => agenda.noteAgenda(now, { schedulesNotBefore });
  }
}

/** Makes the annotation `walkeep.io/hold` of a Backup true in the repository. */
export async function placeHold(
  own: Own,
  { manifest, careful, agenda: kept }: KeeperState,
  { name, backupId, reason }: Extract<agenda.DueWork, { kind: 'hold' }>,
): Promise<Change> {
  const what = reason === null ? `release ${name}` : `hold ${name}: ${reason}`;
  try {
    await holdErrands(own, what).holdBackup({ ...own, manifest, backupName: name, backupId, reason });
    return (now) => noteHold(now, name, reason);
  } catch (error) {
    rethrowCancellation(error);
    const trouble = troubleOf(error, clusterQueue(own.namespace, own.cluster));
    const why = trouble?.message ?? String(error);
    if (careful && trouble?.code === 'backup-unusable') {
      log.warn(`the hold of ${name} came too late: ${why}`);
      return (now) => giveUpHold(now, name, why);
    }
    log.warn(`the hold of ${name} could not be made true; it is tried again: ${why}`);
    const holdProblem = cutText(`${name}: ${why}`, 2 * LIMITS.textBytes);
    const failures = kept?.holdFailures ?? 0;
    const holdsNotBefore = againAt(failures);
    return (now) => agenda.noteAgenda(now, { holdsNotBefore, holdProblem, holdFailures: failures + 1 });
  }
}

/** Writes how a Backup ended, where its run could not. Whatever the repository says of that name by now stays. */
export async function writeOutcome(
  own: Own,
  { manifest, ended, agenda: kept }: KeeperState,
  { name }: Extract<agenda.DueWork, { kind: 'outcome' }>,
): Promise<Change> {
  const one = ended.find((backup) => backup.name === name);
  if (!one) return (now) => now;
  try {
    const input = { ...own, manifest, backupName: name, status: outcomeOf(one) };
    await outcomeErrands(own, name).recordOutcome(input);
    return (now) => noteWritten(now, name);
  } catch (error) {
    rethrowCancellation(error);
    const trouble = troubleOf(error, clusterQueue(own.namespace, own.cluster));
    const why = trouble?.message ?? String(error);
    if (trouble && NEVER_WRITTEN.includes(trouble.code)) {
      log.warn(`how ${name} ended can not be written into the repository: ${why}`);
      return (now) => giveUpOutcome(now, name);
    }
    log.warn(`how ${name} ended could not be written into the repository; it is tried again: ${why}`);
    const failures = kept?.outcomeFailures ?? 0;
    const outcomesNotBefore = againAt(failures);
    return (now) => agenda.noteAgenda(now, { outcomesNotBefore, outcomeFailures: failures + 1 });
  }
}

/** Looks what became of slots that were due and of which nobody told. */
export async function auditSlots(
  own: Own,
  { manifest, schedules }: KeeperState,
  { schedule, since, until }: Extract<agenda.DueWork, { kind: 'slots' }>,
): Promise<Change> {
  const declared = schedules?.find(({ metadata }) => metadata.name === schedule);
  if (!declared) return (now) => now;
  try {
    const news = await clusterErrands(own, `what became of the slots of ${schedule}?`).auditSlots({
      ...own,
      manifest,
      schedule: declared,
      since,
      until,
    });
    return (now) =>
      agenda.noteSlotsChecked(
        news.reduce((state, one) => agenda.noteSlot(state, one), now),
        schedule,
        until,
      );
  } catch (error) {
    rethrowCancellation(error);
    log.warn(`the slots of ${schedule} could not be looked at; it is tried again: ${String(error)}`);
    const later = againAt();
    return (now) => agenda.putOffSlots(now, schedule, later);
  }
}
