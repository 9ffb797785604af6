import { cutText } from '../core/short-text.ts';
import type { BackupManifest } from '../manifests/backup.ts';
import { LIMITS } from './keeper-limits.ts';
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
  const { holdProblem: _solved, ...agenda } = state.agenda;
  return { ...state, ended, agenda };
}

/** A hold that came too late: trying again would not help, and waiting for it would keep sweeps waiting for ever. */
export function giveUpHold(state: KeeperState, name: string, why: string): KeeperState {
  const holdProblem = cutText(why, LIMITS.textBytes);
  return { ...state, ended: state.ended.map((one) => (one.name === name ? { ...one, holdProblem } : one)) };
}
