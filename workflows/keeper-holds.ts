import { cutText } from '../core/short-text.ts';
import type { BackupManifest } from '../manifests/backup.ts';
import { LIMITS } from './keeper-limits.ts';
import { outcomesToKeep } from './keeper-outcomes.ts';
import type { EndedBackup, KeeperState } from './keeper-state.ts';

/** What `walkeep.io/hold` says; one without a reason holds as well. */
export function holdOf({ metadata }: BackupManifest): string | undefined {
  const text = metadata.annotations['walkeep.io/hold'];
  if (text === undefined) return undefined;
  return text.trim() === '' ? 'walkeep.io/hold' : cutText(text, LIMITS.holdBytes);
}

/** The annotation may change when nothing else of a Backup may. */
export function withHold(state: KeeperState, name: string, hold: string | undefined): KeeperState {
  const put = <Backup extends { readonly name: string; readonly hold?: string }>(one: Backup): Backup => {
    if (one.name !== name || one.hold === hold) return one;
    const { hold: _before, ...rest } = one;
    return { ...rest, ...(hold !== undefined && { hold }) } as Backup;
  };
  // What could not be done is tried again for another reason, or for none.
  const afresh = (one: EndedBackup): EndedBackup => {
    const { holdProblem: _solved, ...rest } = one;
    return one.name === name && one.hold !== hold ? put(rest) : one;
  };
  return { ...state, backups: state.backups.map(put), ended: state.ended.map(afresh) };
}

/** Completed Backups whose annotation is not true in the repository yet. */
export function unmadeHolds({
  ended,
}: Pick<KeeperState, 'ended'>): { name: string; backupId: string; reason: string | null }[] {
  return ended.flatMap(({ name, phase, backupId, hold, held, holdProblem }) => {
    const isMade = held === (hold ?? '') || holdProblem !== undefined;
    if (phase !== 'completed' || backupId === undefined || isMade) return [];
    return [{ name, backupId, reason: hold ?? null }];
  });
}

/** Which hold something waits for that could delete what it is to keep; `undefined`: none. */
export function awaitedHold(state: KeeperState): string | undefined {
  const unmade = unmadeHolds(state).find(({ reason }) => reason !== null);
  // One that waits may be an old Backup, completed long ago, which only its run will find out.
  return unmade?.name ?? state.backups.find(({ hold }) => hold !== undefined)?.name;
}

export function noteHold(state: KeeperState, name: string, reason: string | null): KeeperState {
  const ended = state.ended.map((one) => (one.name === name ? { ...one, held: reason ?? '' } : one));
  if (state.agenda === undefined) return { ...state, ended };
  const { holdProblem: _solved, holdFailures: _before, ...agenda } = state.agenda;
  return { ...state, ended, agenda };
}

/**
 * A hold that came too late: trying again would not help, and waiting for it would keep sweeps waiting for ever. What of
 * it was placed all the same is not known, so that it is taken back with the annotation.
 */
export function giveUpHold(state: KeeperState, name: string, why: string): KeeperState {
  const holdProblem = cutText(why, LIMITS.textBytes);
  const ended = state.ended.map((one): EndedBackup => {
    if (one.name !== name) return one;
    const { held: _unknown, ...rest } = one;
    return { ...rest, holdProblem };
  });
  return { ...state, ended };
}

/** As many Backups may wait or run, or have a hold that is not made true yet: none of these is ever forgotten. */
const MOST_OPEN = LIMITS.waiting + LIMITS.ended;

/**
 * Why no further Backup, or annotation of an ended one, can be remembered until it is made true; a whole phrase.
 * `undefined`: there is room.
 */
export function noRoomForHold(state: Pick<KeeperState, 'backups' | 'ended'>): string | undefined {
  const open = unmadeHolds(state).length;
  if (state.backups.length + open < MOST_OPEN) return undefined;
  return `the holds (walkeep.io/hold) of ${open} Backups are not made true in the repository yet, and ${state.backups.length} Backups wait: no more can be remembered until they are`;
}

/**
 * The newest ones that ended. One whose hold is not made yet is not forgotten: it could be deleted then. Nor is one whose
 * outcome is not written yet, within `LIMITS.unwritten`: it could run again.
 */
export function newestEnded(ended: readonly EndedBackup[]): EndedBackup[] {
  const open = new Set(unmadeHolds({ ended }).map(({ name }) => name));
  const newest = new Set(ended.slice(-LIMITS.ended));
  const unwritten = outcomesToKeep({ ended });
  const isLeft = (one: EndedBackup) => newest.has(one) || open.has(one.name) || unwritten.has(one.name);
  return ended.filter(isLeft).slice(-(MOST_OPEN + LIMITS.ended + LIMITS.unwritten));
}
