import { nextAfter } from '../core/cron.ts';
import { fingerprint } from '../core/fingerprint.ts';
import type { ScheduledBackupManifest } from '../manifests/scheduled-backup.ts';
import { scheduleOf } from '../manifests/schedule.ts';
import type { SlotNews } from './interface.ts';
import { cutText } from '../core/short-text.ts';
import { doubtOf } from './keeper-adoption.ts';
import { unmadeHolds } from './keeper-holds.ts';
import { LIMITS } from './keeper-limits.ts';
import { unwrittenOutcomes } from './keeper-outcomes.ts';
import type { Agenda, KeeperState, KnownSchedule } from './keeper-state.ts';

/** How often the keeper does things. In ms. */
export interface KeeperPace {
  readonly sweepMs: number;
  readonly auditMs: number;
  /** How long after its due time a slot of a schedule may be heard of before it is looked for. */
  readonly missedMs: number;
  /** What runs and could end unnoticed is looked after. */
  readonly lookMs: number;
}

/** Something the keeper is to do now. */
export type DueWork =
  | { readonly kind: 'schedules' }
  | { readonly kind: 'sweep' }
  | { readonly kind: 'audit'; readonly readsWal: boolean }
  | { readonly kind: 'gap-backup'; readonly name: string }
  | { readonly kind: 'verification'; readonly name: string }
  | {
      readonly kind: 'hold';
      readonly name: string;
      readonly backupId: string;
      readonly reason: string | null;
    }
  | { readonly kind: 'outcome'; readonly name: string }
  | { readonly kind: 'slots'; readonly schedule: string; readonly since: string; readonly until: string };

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
/** WAL is read once and decoded, however often the archive is looked at. */
const READ_WAL_EVERY_MS = DAY;
const GAP_BACKUP_EVERY_MS = 6 * HOUR;
const SCHEDULES_AGAIN_MS = 15 * 60_000;
/** After a backup the archive is looked at soon, but not after each of many. */
const AFTER_BACKUP_MS = 10 * 60_000;

/** The defaults, and what a worker of the cluster says otherwise, which only tests do. */
export function keeperPace(state: KeeperState): KeeperPace {
  const told = state.instances.find(({ keeperPace: pace }) => pace)?.keeperPace ?? {};
  return {
    sweepMs: (told.sweep ?? 24 * 3600) * 1000,
    auditMs: (told.audit ?? 6 * 3600) * 1000,
    missedMs: (told.missed ?? 15 * 60) * 1000,
    lookMs: (told.look ?? 10 * 60) * 1000,
  };
}

/** An agenda that knows every declared schedule and verification, from `at` on, and nothing that is not declared. */
export function withAgenda(state: KeeperState, at: string): KeeperState {
  const { agenda = {}, schedules = [], verifications = [] } = state;
  const known = Object.fromEntries(
    schedules.map((manifest): [string, KnownSchedule] => {
      const { name } = manifest.metadata;
      const print = fingerprint([manifest.spec.schedule, manifest.metadata.annotations]);
      const before = agenda.schedules?.[name];
      // What was due while it was suspended, or by another schedule, is not missed.
      if (before?.fingerprint === print && !manifest.spec.suspend) return [name, before];
      return [name, { ...before, heardUntil: at, fingerprint: print }];
    }),
  );
  const verified = Object.fromEntries(
    verifications.map(({ metadata: { name }, spec }) => [
      name,
      spec.suspend ? at : (agenda.verified?.[name] ?? at),
    ]),
  );
  return { ...state, bornAt: state.bornAt ?? at, agenda: { ...agenda, schedules: known, verified } };
}

/** What is due at `now`; `state` has its agenda. */
export function dueWork(state: KeeperState, now: number, pace: KeeperPace): DueWork[] {
  return plannedWork(state, now, pace).flatMap(({ work, at }) => (at <= now ? [work] : []));
}

/** When something is due next; `undefined` when nothing ever is. */
export function nextWorkAt(state: KeeperState, now: number, pace: KeeperPace): number | undefined {
  const times = plannedWork(state, now, pace).map(({ at }) => at);
  return times.length === 0 ? undefined : Math.min(...times);
}

interface PlannedWork {
  readonly work: DueWork;
  /** Milliseconds since 1970. */
  readonly at: number;
}

function plannedWork(state: KeeperState, now: number, pace: KeeperPace): PlannedWork[] {
  const ready = state.instances.some(({ role }) => role !== 'absent');
  if (!state.manifest.spec.backup?.barmanObjectStore || !ready) return [];
  return [
    ...plannedSchedules(state, now),
    ...plannedHolds(state, now),
    ...plannedGapBackup(state, now),
    plannedAudit(state, now, pace),
    ...plannedSweep(state, pace),
    ...plannedVerifications(state, now),
    ...plannedSlots(state, now, pace),
    ...plannedOutcomes(state, now),
  ];
}

/** What Temporal's Schedules are to be. */
export function schedulesFingerprint(state: KeeperState): string {
  return fingerprint(state.schedules ?? []);
}

function plannedSchedules(state: KeeperState, now: number): PlannedWork[] {
  const { agenda = {}, schedules = [] } = state;
  const none = schedules.length === 0 && agenda.schedulesFingerprint === undefined;
  const same = agenda.schedulesFingerprint === schedulesFingerprint(state);
  return none || same
    ? []
    : [{ work: { kind: 'schedules' }, at: Math.max(now, time(agenda.schedulesNotBefore)) }];
}

function plannedHolds(state: KeeperState, now: number): PlannedWork[] {
  const at = Math.max(now, time(state.agenda?.holdsNotBefore));
  return unmadeHolds(state).map((hold) => ({ work: { kind: 'hold', ...hold }, at }));
}

function plannedOutcomes(state: KeeperState, now: number): PlannedWork[] {
  const at = Math.max(now, time(state.agenda?.outcomesNotBefore));
  return unwrittenOutcomes(state).map((name) => ({ work: { kind: 'outcome', name }, at }));
}

function plannedGapBackup(state: KeeperState, now: number): PlannedWork[] {
  const { audit, agenda = {}, backups } = state;
  // A Backup that waits or runs closes the hole as well as another one would.
  if (!audit?.needsBackup || backups.length >= 1) return [];
  const newer = time(state.lastSuccessfulBackup) > time(audit.at);
  if (newer) return [];
  const at = Math.max(now, time(agenda.gapBackupAt) + GAP_BACKUP_EVERY_MS);
  const name = `${state.manifest.metadata.name}-gap-${digits(now)}`;
  return [{ work: { kind: 'gap-backup', name }, at }];
}

function plannedAudit(state: KeeperState, now: number, { auditMs }: KeeperPace): PlannedWork {
  const { agenda = {}, bornAt } = state;
  const regular = time(agenda.auditedAt ?? bornAt) + auditMs;
  const at = Math.min(regular, afterBackup(state, agenda.auditedAt, Math.min(auditMs, AFTER_BACKUP_MS)));
  const readsWal = now - time(agenda.walReadAt ?? bornAt) >= Math.min(READ_WAL_EVERY_MS, 4 * auditMs);
  return { work: { kind: 'audit', readsWal }, at };
}

/** Once a day, and after a Backup: then there may be one too many. None while what is to be kept may not be known. */
function plannedSweep(state: KeeperState, { sweepMs }: KeeperPace): PlannedWork[] {
  const { agenda = {}, bornAt } = state;
  if (state.careful && doubtOf(state) !== undefined) return [];
  const regular = time(agenda.sweptAt ?? bornAt) + sweepMs;
  const at = Math.min(regular, afterBackup(state, agenda.sweptAt, Math.min(sweepMs, HOUR)));
  return [{ work: { kind: 'sweep' }, at }];
}

function afterBackup(state: KeeperState, last: string | undefined, apartMs: number): number {
  const backupAt = time(state.lastSuccessfulBackup);
  if (backupAt === 0 || backupAt <= time(last)) return Number.POSITIVE_INFINITY;
  return last === undefined ? backupAt : Math.max(backupAt, time(last) + apartMs);
}

function plannedVerifications(state: KeeperState, now: number): PlannedWork[] {
  return (state.verifications ?? []).flatMap((manifest): PlannedWork[] => {
    const { name } = manifest.metadata;
    if (manifest.spec.suspend) return [];
    const { spec, timezone } = scheduleOf(manifest);
    const next = nextAfter(spec, new Date(time(state.agenda?.verified?.[name]) || now), timezone);
    return next ? [{ work: { kind: 'verification', name }, at: next.getTime() }] : [];
  });
}

/** Slots that were due and that nobody told of. */
function plannedSlots(state: KeeperState, now: number, { missedMs }: KeeperPace): PlannedWork[] {
  return (state.schedules ?? []).flatMap((manifest): PlannedWork[] => {
    const { name } = manifest.metadata;
    const { heardUntil, checkNotBefore } = state.agenda?.schedules?.[name] ?? {};
    const next =
      manifest.spec.suspend || heardUntil === undefined ? undefined : slotAfter(manifest, heardUntil);
    if (next === undefined || heardUntil === undefined) return [];
    const until = rfc3339(now - missedMs);
    const at = Math.max(next + missedMs, time(checkNotBefore));
    return [{ work: { kind: 'slots', schedule: name, since: heardUntil, until }, at }];
  });
}

function slotAfter(manifest: ScheduledBackupManifest, after: string): number | undefined {
  const { spec, timezone } = scheduleOf(manifest);
  return nextAfter(spec, new Date(after), timezone)?.getTime();
}

/** A run told what became of its slot. */
export function noteSlot(state: KeeperState, news: SlotNews): KeeperState {
  const known = state.agenda?.schedules?.[news.scheduledBackup];
  const manifest = state.schedules?.find(({ metadata }) => metadata.name === news.scheduledBackup);
  if (!known || !manifest) return state;
  const expected = slotAfter(manifest, known.heardUntil);
  const slot = time(news.slot);
  // One that is further on leaves a slot between of which nobody told: it is looked for when its time is over.
  const isNext = slot > time(known.heardUntil) && (expected === undefined || slot <= expected);
  const last = known.last && time(known.last.slot) > slot ? known.last : shortened(news);
  return withSchedule(state, news.scheduledBackup, {
    ...known,
    last,
    heardUntil: isNext ? rfc3339(slot) : known.heardUntil,
  });
}

/** Everything that was due until then has a record. */
export function noteSlotsChecked(state: KeeperState, schedule: string, until: string): KeeperState {
  const known = state.agenda?.schedules?.[schedule];
  if (!known || time(until) <= time(known.heardUntil)) return state;
  const { checkNotBefore: _done, ...rest } = known;
  return withSchedule(state, schedule, { ...rest, heardUntil: until });
}

/** The repository could not be asked what became of the slots. */
export function putOffSlots(state: KeeperState, schedule: string, checkNotBefore: string): KeeperState {
  const known = state.agenda?.schedules?.[schedule];
  return known ? withSchedule(state, schedule, { ...known, checkNotBefore }) : state;
}

/** What Temporal's Schedules have become. @param at when that was, in ms */
export function noteSchedules(
  state: KeeperState,
  print: string,
  told: readonly { readonly name: string; readonly outcome?: string; readonly problem?: string }[],
  at: number,
): KeeperState {
  const schedules = Object.fromEntries(
    Object.entries(state.agenda?.schedules ?? {}).map(([name, { problem: _before, ...known }]) => {
      const problem = told.find((one) => one.name === name)?.problem;
      return [
        name,
        { ...known, ...(problem !== undefined && { problem: cutText(problem, LIMITS.textBytes) }) },
      ];
    }),
  );
  const { schedulesNotBefore: _done, ...agenda } = state.agenda ?? {};
  const declared = (state.schedules ?? []).map(({ metadata }) => metadata.name);
  // Also one that was taken back meanwhile, or could not be removed.
  const there = told.flatMap(({ name, outcome }) =>
    outcome === 'deleted' || outcome === 'foreign' ? [] : [name],
  );
  const knownSchedules = state.careful ? [...new Set([...declared, ...there])] : declared;
  // What could not be made true is tried again: what was in its way may be gone.
  const isTrue = !state.careful || told.every(({ problem }) => problem === undefined);
  return {
    ...state,
    agenda: {
      ...agenda,
      schedules,
      knownSchedules,
      schedulesFingerprint: isTrue ? print : '',
      ...(!isTrue && { schedulesNotBefore: rfc3339(at + SCHEDULES_AGAIN_MS) }),
    },
  };
}

export function noteAgenda(state: KeeperState, change: Partial<Agenda>): KeeperState {
  return { ...state, agenda: { ...state.agenda, ...change } };
}

/** What is due next, soonest first, for people. */
export function nextRunsOf(state: KeeperState, now: number): { what: string; at: string }[] {
  const pace = keeperPace(state);
  const backups = (state.schedules ?? []).flatMap((manifest) => {
    const { spec, timezone } = scheduleOf(manifest);
    const next = manifest.spec.suspend ? undefined : nextAfter(spec, new Date(now), timezone);
    return next ? [{ what: `backup by ${manifest.metadata.name}`, at: next.getTime() }] : [];
  });
  const own = plannedWork(state, now, pace).flatMap(({ work, at }) => {
    const what = TEXT[work.kind];
    if (what === undefined || !Number.isFinite(at)) return [];
    return [{ what: work.kind === 'verification' ? `${what} by ${work.name}` : what, at }];
  });
  return [...backups, ...own]
    .toSorted((a, b) => a.at - b.at)
    .map(({ what, at }) => ({ what, at: rfc3339(Math.max(at, now)) }));
}

const TEXT: Partial<Record<DueWork['kind'], string>> = {
  sweep: 'sweep',
  audit: 'audit of the archive',
  verification: 'verification',
};

function withSchedule(state: KeeperState, name: string, known: KnownSchedule): KeeperState {
  const schedules = { ...state.agenda?.schedules, [name]: known };
  return { ...state, agenda: { ...state.agenda, schedules } };
}

function shortened(news: SlotNews): SlotNews {
  return news.reason === undefined ? news : { ...news, reason: cutText(news.reason, LIMITS.textBytes) };
}

function time(text: string | undefined): number {
  return text === undefined ? 0 : Date.parse(text);
}

function rfc3339(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');
}

function digits(ms: number): string {
  return new Date(ms).toISOString().replaceAll(/[-:T]|\.\d+Z$/g, '');
}
