import { canonicalJson, utf8Bytes } from '../core/fingerprint.ts';
import { cutText } from '../core/short-text.ts';
import type { KnownInstance } from './interface.ts';
import { LIMITS } from './keeper-limits.ts';
import { outcomesToKeep } from './keeper-outcomes.ts';
import type { EndedBackup, KeeperState } from './keeper-state.ts';

/** What can be done without, the least missed first: all of it is in the repository, or is reported again. */
const SHORTER: readonly ((state: KeeperState) => KeeperState)[] = [
  withoutVerificationTexts,
  withoutAuditLists,
  withoutErrors,
  withoutSlotReasons,
  ({ lastVerification: _verification, ...state }) => state,
  withoutEnded,
  ({ audit: _audit, ...state }) => state,
  (state) => ({ ...state, instances: state.instances.map(withShortWords) }),
  withNewestInstances,
  // How it ended is written all the same, without why.
  (state) => ({ ...state, ended: state.ended.map(withoutError) }),
];

/**
 * F4: the state, small enough to be carried on. What is declared, what waits, which holds are to be made and which
 * outcomes to be written is never left out.
 */
export function fitting(state: KeeperState): KeeperState {
  let next = state;
  for (const shorten of SHORTER) {
    if (utf8Bytes(canonicalJson(next)) <= LIMITS.stateBytes) break;
    next = shorten(next);
  }
  return next;
}

function withoutVerificationTexts(state: KeeperState): KeeperState {
  if (!state.lastVerification) return state;
  const checks = state.lastVerification.checks.map(({ name, result }) => ({ name, result }));
  return { ...state, lastVerification: { ...state.lastVerification, checks, warnings: [] } };
}

function withoutAuditLists(state: KeeperState): KeeperState {
  if (!state.audit) return state;
  const { intervals, damages } = state.audit;
  return {
    ...state,
    audit: { ...state.audit, intervals: intervals.slice(-2), damages: damages.slice(-2), warnings: [] },
  };
}

function withoutError({ error: _error, ...one }: EndedBackup): EndedBackup {
  return one;
}

/** Of what is still to be written why it failed is known nowhere else. */
function withoutErrors(state: KeeperState): KeeperState {
  return { ...state, ended: state.ended.map((one) => (one.unwritten ? one : withoutError(one))) };
}

function withoutEnded(state: KeeperState): KeeperState {
  const unwritten = outcomesToKeep(state);
  const isLeft = (one: EndedBackup, at: number) =>
    isOpen(one) || unwritten.has(one.name) || at >= state.ended.length - 3;
  return { ...state, ended: state.ended.filter(isLeft) };
}

function isOpen({ hold, held }: EndedBackup): boolean {
  return held !== (hold ?? '');
}

/** Words for people. */
function withShortWords(one: KnownInstance): KnownInstance {
  return { ...one, host: cutText(one.host, 32), version: cutText(one.version, 32) };
}

/** Every worker reports every few minutes. */
function withNewestInstances(state: KeeperState): KeeperState {
  const newest = state.instances.toSorted((a, b) => (a.seenAt < b.seenAt ? 1 : -1)).slice(0, 4);
  return { ...state, instances: state.instances.filter((one) => newest.includes(one)) };
}

function withoutSlotReasons(state: KeeperState): KeeperState {
  const schedules = Object.entries(state.agenda?.schedules ?? {}).map(([name, known]) => {
    if (!known.last) return [name, known];
    const { reason: _reason, ...last } = known.last;
    return [name, { ...known, last }];
  });
  return { ...state, agenda: { ...state.agenda, schedules: Object.fromEntries(schedules) } };
}
