import { isBackupError } from '../core/errors.ts';
import { cutText } from '../core/short-text.ts';
import type { Desire, HeldBesides } from '../manifests/desire.ts';
import type { ApplyInput, KnownInstance, RemovedObject } from './interface.ts';
import { awaitedHold } from './keeper-holds.ts';
import { MOST } from './keeper-desire.ts';
import { LIMITS } from './keeper-limits.ts';
import { desireOf, knowing, withDesire, type KeeperState } from './keeper-state.ts';

type Kind = RemovedObject['kind'];

/**
 * Takes over what a worker holds of an earlier keeper: with Temporal's state lost its workers are the only ones that
 * know. What was applied, or taken back, since then stays as it is.
 *
 * @param held what the worker told; `undefined`: one of a version that never held such things
 * @param revision of what it holds
 */
export function adopt(
  state: KeeperState,
  held: HeldBesides | undefined,
  revision: number | undefined,
): KeeperState {
  const names = new Set(state.adoption?.names);
  const next = held ? withHeld(desireOf(state), held, names, new Set(state.removed)) : undefined;
  // A policy that can't be read may keep more than all others say: whoever knows it applies it again.
  const problem =
    held?.problem !== undefined && next?.policy === undefined ? cutText(held.problem, 300) : undefined;
  try {
    const adopted = next ? withDesire(state, next) : state;
    if (problem !== undefined) return { ...adopted, besidesUnknown: true, heldProblem: problem };
    const known = knowing({ ...adopted, besidesUnknown: true }, revision);
    return {
      ...known,
      adoption: { revision: known.adoption?.revision ?? 0, names: [...names].toSorted() },
    };
  } catch (error) {
    if (!isBackupError(error)) throw error;
    return { ...state, besidesUnknown: true, heldProblem: cutText(error.message, 300) };
  }
}

/** @param adopted of an earlier worker; becomes what is adopted now */
function withHeld(
  desire: Desire,
  held: HeldBesides,
  adopted: Set<string>,
  removed: ReadonlySet<string>,
): Desire {
  const before = new Set(adopted);
  adopted.clear();
  const merged = <Manifest extends { readonly metadata: { readonly name: string } }>(
    kind: Kind,
    declared: readonly Manifest[],
    found: readonly Manifest[],
  ): Manifest[] => {
    const id = ({ metadata }: Manifest) => `${kind}/${metadata.name}`;
    const own = declared.filter((one) => !before.has(id(one)));
    const taken = new Set(own.map(id));
    const wanted = found.filter((one) => !taken.has(id(one)) && !removed.has(id(one)));
    const added = wanted.slice(0, Math.max(0, (kind === 'BackupPolicy' ? 1 : MOST) - own.length));
    for (const one of added) adopted.add(id(one));
    return [...own, ...added].toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  };
  const list = <Manifest>(one: Manifest | undefined): Manifest[] => (one === undefined ? [] : [one]);
  const [policy] = merged('BackupPolicy', list(desire.policy), list(held.policy));
  return {
    cluster: desire.cluster,
    ...(policy && { policy }),
    schedules: merged('ScheduledBackup', desire.schedules, held.schedules),
    verifications: merged('ScheduledVerification', desire.verifications, held.verifications),
  };
}

/** Whether a worker may hold what this keeper has to hear before it replaces it. */
export function hasToBeAsked(state: KeeperState, { revision = 0 }: KnownInstance): boolean {
  if (state.besidesUnknown) return true;
  return state.adoption !== undefined && revision > state.adoption.revision;
}

/** This revision was sent: what is older has nothing to tell any more. */
export function noteSent(state: KeeperState, revision: number): KeeperState {
  const { adoption } = state;
  if (!adoption || revision <= adoption.revision) return state;
  return { ...state, adoption: { ...adoption, revision } };
}

/** What an `apply` names is its own from then on; what it takes back no worker brings in again. */
export function noteNamed(state: KeeperState, input: ApplyInput): KeeperState {
  const id = (kind: Kind) => (one: { metadata: { name: string } }) => `${kind}/${one.metadata.name}`;
  const applied = [
    ...(input.policy ? [input.policy].map(id('BackupPolicy')) : []),
    ...(input.scheduledBackups ?? []).map(id('ScheduledBackup')),
    ...(input.verifications ?? []).map(id('ScheduledVerification')),
  ];
  const removed = (input.remove ?? []).map(({ kind, name }) => `${kind}/${name}`);
  if (applied.length + removed.length === 0) return state;
  const named = new Set([...applied, ...removed]);
  const { adoption, removed: before = [] } = state;
  const again = new Set(applied);
  const gone = [...new Set([...before.filter((one) => !named.has(one)), ...removed])];
  return {
    ...state,
    ...(adoption && {
      adoption: { ...adoption, names: adoption.names.filter((one) => !named.has(one)) },
    }),
    removed: gone.filter((one) => !again.has(one)).slice(-LIMITS.removed),
  };
}

/** Why nothing may be deleted at this moment, as a whole phrase; `undefined`: nothing speaks against it. */
export function doubtOf(state: KeeperState): string | undefined {
  if (state.besidesUnknown) {
    return (
      state.heldProblem ??
      'this keeper is new and no worker has told yet which BackupPolicy it holds: nothing is deleted until one has'
    );
  }
  const hold = awaitedHold(state);
  return hold === undefined
    ? undefined
    : `the hold of Backup "${hold}" is not placed yet, and nothing is deleted until it is`;
}
