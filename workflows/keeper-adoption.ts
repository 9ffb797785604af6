import { isBackupError } from '../core/errors.ts';
import { cutText } from '../core/short-text.ts';
import type { Besides, Desire, HeldBesides } from '../manifests/desire.ts';
import type { ApplyInput, InstanceFacts, RemovedObject } from './interface.ts';
import { awaitedHold } from './keeper-holds.ts';
import { MOST } from './keeper-desire.ts';
import { LIMITS } from './keeper-limits.ts';
import { desireOf, withDesire, type Adoption, type KeeperState } from './keeper-state.ts';

type Kind = RemovedObject['kind'];

/** What one worker told. */
export interface Told {
  readonly instance: string;
  /** Of what it holds; absent: it holds no manifest, or can't read what it holds. */
  readonly revision?: number;
  readonly held: HeldBesides;
}

const NOTHING: Adoption = { heard: [], revision: 0, names: [] };

/**
 * Takes over what a worker holds of an earlier keeper: with Temporal's state lost its workers are the only ones that
 * know. What was applied, or taken back, since then stays as it is. Of several workers the newest revision counts; of an
 * older one only a policy is taken where none is known, since without it too much could be deleted.
 */
export function adopt(state: KeeperState, { instance, revision = 0, held }: Told): KeeperState {
  const before = state.adoption ?? NOTHING;
  const heard = [...before.heard.filter((one) => one !== instance), instance].slice(-LIMITS.instances);
  const isNewest = revision >= before.revision;
  const merged = merge(state, isNewest ? held : policyAlone(held), isNewest);
  const adoption: Adoption = {
    heard,
    revision: isNewest ? revision : before.revision,
    names: merged.names,
  };
  const { besidesUnknown: _unknown, heldProblem: _earlier, unplaced: _before, ...rest } = state;
  try {
    const next = {
      ...withDesire(rest, merged.desire),
      adoption,
      ...(merged.unplaced.length > 0 && { unplaced: merged.unplaced }),
    };
    return merged.problem === undefined ? next : doubting(next, merged.problem);
  } catch (error) {
    if (!isBackupError(error)) throw error;
    return doubting({ ...state, adoption: { ...before, heard } }, error.message);
  }
}

function doubting(state: KeeperState, why: string): KeeperState {
  return { ...state, besidesUnknown: true, heldProblem: cutText(why, 300) };
}

function policyAlone(held: HeldBesides): HeldBesides {
  return { ...held, schedules: [], verifications: [] };
}

interface Merged {
  readonly desire: Desire;
  readonly names: readonly string[];
  readonly unplaced: readonly string[];
  /** Why not all of it could be taken over. */
  readonly problem?: string;
}

/** @param replaces whether what was adopted before is superseded by it */
function merge(state: KeeperState, found: HeldBesides, replaces: boolean): Merged {
  const desire = desireOf(state);
  const adopted = new Set(state.adoption?.names);
  const superseded = replaces ? adopted : new Set<string>();
  const removed = new Set(state.removed);
  const names: string[] = [...adopted].filter((one) => !superseded.has(one));
  const unplaced: string[] = [];
  const take = <Manifest extends Named>(
    kind: Kind,
    declared: readonly Manifest[],
    wanted: readonly Manifest[],
    most: number,
  ): Manifest[] => {
    const id = ({ metadata }: Manifest) => `${kind}/${metadata.name}`;
    const own = declared.filter((one) => !superseded.has(id(one)));
    const taken = new Set(own.map(id));
    const fresh = wanted.filter((one) => !taken.has(id(one)) && !removed.has(id(one)));
    const room = Math.max(0, most - own.length);
    for (const one of fresh.slice(0, room)) names.push(id(one));
    unplaced.push(...fresh.slice(room).map(id));
    return [...own, ...fresh.slice(0, room)].toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  };
  const [policy] = take('BackupPolicy', asList(desire.policy), asList(found.policy), 1);
  const besides: Besides = {
    ...(policy && { policy }),
    schedules: take('ScheduledBackup', desire.schedules, found.schedules, MOST),
    verifications: take('ScheduledVerification', desire.verifications, found.verifications, MOST),
  };
  // A policy that can't be read may keep more than all others say: whoever knows it applies it again.
  const unread = policy === undefined ? found.problem : undefined;
  const left =
    unplaced.length === 0
      ? undefined
      : `a worker holds ${unplaced.slice(0, 3).join(', ')} besides what is declared, for which there is no place; take back what is not wanted: ${commandFor(unplaced[0] ?? '', desire)}`;
  const problem = unread ?? left;
  return {
    desire: { cluster: desire.cluster, ...besides },
    names: names.toSorted(),
    unplaced,
    ...(problem !== undefined && { problem }),
  };
}

function commandFor(id: string, { cluster }: Desire): string {
  const [kind = '', name = ''] = id.split('/');
  return `walkeep delete ${kind.toLowerCase()} ${name} --cluster ${cluster.metadata.name}`;
}

interface Named {
  readonly metadata: { readonly name: string };
}

function asList<Manifest>(one: Manifest | undefined): Manifest[] {
  return one === undefined ? [] : [one];
}

/** Whether this worker may hold what this keeper has never heard of, which has to be known before it is replaced. */
export function hasToBeAsked(
  { besidesUnknown, adoption }: KeeperState,
  { instance, keepsBesides }: InstanceFacts,
): boolean {
  if (!keepsBesides) return false;
  if (adoption) return !adoption.heard.includes(instance);
  return besidesUnknown === true;
}

/** What an `apply` names is its own from then on; what it takes back no worker brings in again. */
export function noteNamed(state: KeeperState, input: ApplyInput): KeeperState {
  const id = (kind: Kind) => (one: Named) => `${kind}/${one.metadata.name}`;
  const applied = [
    ...asList(input.policy).map(id('BackupPolicy')),
    ...(input.scheduledBackups ?? []).map(id('ScheduledBackup')),
    ...(input.verifications ?? []).map(id('ScheduledVerification')),
  ];
  const removed = (input.remove ?? []).map(({ kind, name }) => `${kind}/${name}`);
  if (applied.length + removed.length === 0) return state;
  const named = new Set([...applied, ...removed]);
  const { adoption, heldProblem, removed: before = [] } = state;
  const again = new Set(applied);
  const gone = [...new Set([...before.filter((one) => !named.has(one)), ...removed])];
  return {
    ...state,
    ...(adoption && {
      adoption: {
        ...adoption,
        names: adoption.names.filter((one) => !named.has(one)),
        // It may be what was in the way: the workers are asked once more.
        heard: heldProblem === undefined ? adoption.heard : [],
      },
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
