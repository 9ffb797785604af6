import {
  CATCH_UP_MS,
  dueSlots,
  judgeSlot,
  judgeSlots,
  newestSlot,
  nextSlot,
  rfc3339,
  type SlotJudgement,
  type SlotTimes,
} from '../core/slots.ts';
import type { ScheduledBackupManifest } from '../manifests/scheduled-backup.ts';
import { scheduleOf } from '../manifests/schedule.ts';
import { concludeLost } from './lost-backup.ts';
import { concurrently } from '../repository/concurrently.ts';
import { readOutcome } from '../repository/outcome.ts';
import { unlessUnreadable } from '../repository/own-record.ts';
import type { Repository } from '../repository/repository.ts';
import {
  listSlots,
  readSeries,
  readSlot,
  slotsBefore,
  writeSeries,
  writeSlot,
  type SeriesRecord,
  type SlotKey,
  type SlotRecord,
} from '../repository/slots.ts';

const DAY_MS = 86_400_000;
/** Of slots that nobody began, so many of the newest get a record at once: a schedule can be due every second. */
const MOST_MISSED = 2_000;
/** Records read to find the Backup before: those between them are of slots that were missed. */
const MOST_READ = 100;
const WRITES_AT_ONCE = 8;
/** A run has recorded that it will begin its Backup: so soon after, nobody can tell yet that it did not. */
const BEGINS_WITHIN_MS = 30_000;
/** How far back slots without a record are looked for when nothing is recorded in between. */
const LOOK_BACK_MS = 60 * DAY_MS;

/** A slot that could begin now. */
export interface SlotQuestion {
  /** Of the ScheduledBackup; of the cluster where none is named. */
  readonly series: string;
  /** Absent where none is named. */
  readonly schedule?: ScheduledBackupManifest;
  readonly key: SlotKey;
  readonly slot: Date;
  readonly now: Date;
  readonly backupName: string;
  /** How long a Backup may take. */
  readonly deadlineMs: number;
  /** What was found out about a Backup after `ask`. */
  readonly asked?: { readonly backupName: string; readonly isOpen: boolean };
}

/** `ask`: find out whether this Backup is still going on, and come again. */
export type SlotAnswer =
  | { readonly ask: string }
  | {
      readonly record: SlotRecord;
      /** Slots before this one that nobody began. */
      readonly missed: readonly SlotRecord[];
    };

/**
 * Decides what becomes of a slot and writes that down; what was written first counts. Slots before it that have no
 * record have been overtaken by this one, and are written down as missed.
 */
export async function considerSlot(
  r: Repository,
  question: SlotQuestion,
  signal: AbortSignal,
): Promise<SlotAnswer> {
  const { series, schedule, key, slot, now, backupName } = question;
  const known = await readSlot(r, series, key, signal);
  if (known) return { record: known, missed: [] };
  const write = (judgement: SlotJudgement) =>
    writeSlot(r, { ...recordOf(series, slot, now, judgement) }, signal, key);
  if (key === 'immediate') return { record: await write({ outcome: 'ran', backupName }), missed: [] };
  const lost = await concludeLost(r, question, signal);
  if (lost) return lost;

  const times = schedule && (await timesOf(r, schedule, signal));
  const next = times && nextSlot(times, slot);
  const suspended = schedule?.spec.suspend ?? false;
  const facts = { slot, now, suspended, ...(next && { next }) };
  let judgement = judgeSlot(facts);
  if (judgement.outcome === 'ran') {
    const open = await openBackup(r, question, signal);
    if (open && 'ask' in open) return open;
    judgement = judgeSlot({ ...facts, ...(open && { openBackup: open.backupName }) });
  }
  const missed = times ? await recordOvertaken(r, series, times, slot, now, signal) : [];
  const named = judgement.outcome === 'ran' ? { ...judgement, backupName } : judgement;
  return { record: await write(named), missed };
}

/** The Backup of an earlier slot that has not ended, as far as the repository can tell. */
async function openBackup(
  r: Repository,
  { series, slot, now, deadlineMs, asked }: SlotQuestion,
  signal: AbortSignal,
): Promise<{ readonly ask: string } | { readonly backupName: string } | undefined> {
  const notBefore = new Date(slot.getTime() - Math.max(DAY_MS, 2 * deadlineMs + CATCH_UP_MS));
  let read = 0;
  for await (const past of slotsBefore(r, series, slot, notBefore, signal)) {
    if ((read += 1) > MOST_READ) return undefined;
    // One damaged record must not end a schedule: what it said is unknown, and two Backups at once are fenced elsewhere.
    const record = await unlessUnreadable(readSlot(r, series, past, signal), undefined);
    if (record?.backupName === undefined) continue;
    const { backupName, outcome, recordedAt } = record;
    // Written at its end, whatever it said.
    if (await unlessUnreadable(readOutcome(r, backupName, signal), 'unreadable')) return undefined;
    if (asked?.backupName !== backupName) return { ask: backupName };
    const sinceMs = now.getTime() - Date.parse(recordedAt);
    const mayBegin = outcome === 'ran' && sinceMs >= 0 && sinceMs < BEGINS_WITHIN_MS;
    return asked.isOpen || mayBegin ? { backupName } : undefined;
  }
  return undefined;
}

async function recordOvertaken(
  r: Repository,
  series: string,
  times: SeriesTimes,
  slot: Date,
  now: Date,
  signal: AbortSignal,
): Promise<SlotRecord[]> {
  if (!times.since || times.since >= slot) return [];
  const since = (await newestRecordBefore(r, series, slot, times.since, signal)) ?? times.since;
  const { spec, timezone, anchor } = times;
  const until = new Date(slot.getTime() - 1000);
  const overtaken = dueSlots(spec, timezone, since, until, MOST_MISSED, anchor);
  return recordMissed(
    r,
    series,
    overtaken,
    now,
    signal,
    'the next one was begun, and nothing had begun this one',
  );
}

async function newestRecordBefore(
  r: Repository,
  series: string,
  before: Date,
  since: Date,
  signal: AbortSignal,
): Promise<Date | undefined> {
  for await (const slot of slotsBefore(r, series, before, since, signal)) return slot;
  return undefined;
}

export interface AuditSlotsQuestion {
  readonly schedule: ScheduledBackupManifest;
  /** What is due after. */
  readonly since: Date;
  readonly until: Date;
  readonly now: Date;
}

export interface AuditedSlots {
  /** Written now, oldest first. */
  readonly missed: readonly SlotRecord[];
  /** The newest slot when it has no record and may still be begun. */
  readonly open?: Date;
}

/**
 * Looks for slots that were due and that nothing began, and records them as missed. Also such as lie before `since`,
 * back to the newest record: whoever asks may have forgotten with Temporal what was due before.
 */
export async function auditSlots(
  r: Repository,
  { schedule, since, until, now }: AuditSlotsQuestion,
  signal: AbortSignal,
): Promise<AuditedSlots> {
  const series = schedule.metadata.name;
  const times = await timesOf(r, schedule, signal);
  if (schedule.spec.suspend || times.suspended) return { missed: [] };
  const begin = later(times.since ?? since, new Date(until.getTime() - LOOK_BACK_MS));
  const recordedBefore = await newestRecordBefore(r, series, since, begin, signal);
  const from = later(
    begin,
    earlier(recordedBefore ?? begin, new Date(since.getTime() - CATCH_UP_MS - DAY_MS)),
  );
  const recorded = await listSlots(r, series, { since: from, until }, signal);
  const { missed, reason, open } = judgeSlots({
    ...times,
    since: from,
    until,
    recorded: new Set(recorded.map((slot) => slot.getTime())),
    limit: MOST_MISSED,
  });
  const written = await recordMissed(r, series, missed, now, signal, reason);
  return { missed: written, ...(open && { open }) };
}

/** Writes `missed` for slots. @returns what was not there before */
async function recordMissed(
  r: Repository,
  series: string,
  slots: readonly Date[],
  now: Date,
  signal: AbortSignal,
  reason: string,
): Promise<SlotRecord[]> {
  const judgement: SlotJudgement = { outcome: 'missed', reason };
  const written = await concurrently(slots, WRITES_AT_ONCE, async (slot) => {
    const record = recordOf(series, slot, now, judgement);
    return (await writeSlot(r, record, signal)) === record ? record : undefined;
  });
  return written.filter((record) => record !== undefined);
}

/**
 * A slot that nothing begins by itself when Temporal is told of a schedule anew, as after the loss of its state: due,
 * not recorded, and not too old.
 */
export async function slotToMakeUpFor(
  r: Repository,
  schedule: ScheduledBackupManifest,
  now: Date,
  signal: AbortSignal,
): Promise<Date | undefined> {
  const times = await timesOf(r, schedule, signal);
  if (!times.since || times.suspended || schedule.spec.suspend) return undefined;
  const slot = newestSlot(times, later(times.since, new Date(now.getTime() - CATCH_UP_MS)), now);
  return slot && !(await readSlot(r, schedule.metadata.name, slot, signal)) ? slot : undefined;
}

/** When a schedule is due, with what the repository knows of it. */
export interface SeriesTimes extends SlotTimes {
  /** Nothing before was due; absent where nobody wrote that down for these times. */
  readonly since?: Date;
  readonly suspended: boolean;
}

/** The times of a schedule as they were written down; nothing counts of what was written about other times. */
export async function timesOf(
  r: Repository,
  schedule: ScheduledBackupManifest,
  signal: AbortSignal,
): Promise<SeriesTimes> {
  const { spec, timezone } = scheduleOf(schedule);
  const series = await readSeries(r, schedule.metadata.name, signal);
  if (!series || !isAbout(series, schedule)) return { spec, timezone, suspended: schedule.spec.suspend };
  return {
    spec,
    timezone,
    anchor: new Date(series.anchor),
    since: new Date(series.since),
    suspended: series.suspended,
  };
}

function isAbout(series: SeriesRecord, schedule: ScheduledBackupManifest): boolean {
  const { spec, timezone } = scheduleOf(schedule);
  return series.schedule === spec.text && series.dialect === spec.dialect && series.timezone === timezone;
}

/**
 * Writes down since when a schedule is due at these times. The same schedule again changes nothing, with Temporal's
 * state lost or not: `@every` goes on in step.
 *
 * @returns where `@every` counts from
 */
export async function keepSeries(
  r: Repository,
  schedule: ScheduledBackupManifest,
  now: Date,
  signal: AbortSignal,
): Promise<Date> {
  const { spec, timezone } = scheduleOf(schedule);
  const { suspend } = schedule.spec;
  const earlierSeries = await readSeries(r, schedule.metadata.name, signal);
  const same = earlierSeries && isAbout(earlierSeries, schedule) ? earlierSeries : undefined;
  if (same && same.suspended === suspend) return new Date(same.anchor);
  const series: SeriesRecord = {
    version: 1,
    scheduledBackup: schedule.metadata.name,
    schedule: spec.text,
    dialect: spec.dialect,
    timezone,
    anchor: same?.anchor ?? rfc3339(now),
    suspended: suspend,
    // What was due while it was suspended is not made up for.
    since: rfc3339(now),
  };
  await writeSeries(r, series, signal);
  return new Date(series.anchor);
}

/** A schedule that is taken back is due at nothing until it is declared again. */
export async function endSeries(r: Repository, name: string, now: Date, signal: AbortSignal): Promise<void> {
  const series = await readSeries(r, name, signal);
  if (!series || series.suspended) return;
  await writeSeries(r, { ...series, suspended: true, since: rfc3339(now) }, signal);
}

function recordOf(series: string, slot: Date, now: Date, judgement: SlotJudgement): SlotRecord {
  return {
    version: 1,
    scheduledBackup: series,
    slot: rfc3339(slot),
    ...judgement,
    recordedAt: now.toISOString(),
  };
}

function later(a: Date, b: Date): Date {
  return a > b ? a : b;
}

function earlier(a: Date, b: Date): Date {
  return a < b ? a : b;
}
