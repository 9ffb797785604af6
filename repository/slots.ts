import { z } from 'zod';
import { BackupError, isBackupError } from '../core/errors.ts';
import { parseSlotStamp, rfc3339, slotStamp, type SlotOutcome } from '../core/slots.ts';
import { ownKey, quoted } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';
import { createSmallObject } from './small-object.ts';

/** What became of one slot of a schedule. Written once, never changed. */
export interface SlotRecord {
  readonly version: 1;
  readonly scheduledBackup: string;
  /** The due time, RFC 3339 in whole seconds. Of an immediate run: when it began. */
  readonly slot: string;
  readonly outcome: SlotOutcome;
  readonly reason?: string;
  /** The slot's own Backup when it ran; the one that was in its way when it was skipped. */
  readonly backupName?: string;
  /** RFC 3339. */
  readonly recordedAt: string;
}

/** Since when a schedule has been due at which times: what Temporal is not needed to know. */
export interface SeriesRecord {
  readonly version: 1;
  readonly scheduledBackup: string;
  readonly schedule: string;
  readonly dialect: 'cnpg' | 'unix';
  readonly timezone: string;
  /** Where `@every` counts from, RFC 3339. */
  readonly anchor: string;
  readonly suspended: boolean;
  /** Nothing before was due, RFC 3339. */
  readonly since: string;
}

/** A slot, or the one run that `immediate: true` asks for. */
export type SlotKey = Date | 'immediate';

const MAX_RECORD_BYTES = 64 * 1024;
const DAY_MS = 86_400_000;
const MONTHS_BACK = 14;

const time = z.iso.datetime({ offset: true });
const shortText = z.string().min(1).max(255);
const slotSchema: z.ZodType<SlotRecord> = z.object({
  version: z.literal(1),
  scheduledBackup: shortText,
  slot: time,
  outcome: z.enum(['ran', 'skipped', 'missed']),
  reason: z.string().max(2000).exactOptional(),
  backupName: shortText.exactOptional(),
  recordedAt: time,
});
const seriesSchema: z.ZodType<SeriesRecord> = z.object({
  version: z.literal(1),
  scheduledBackup: shortText,
  schedule: z.string().max(2000),
  dialect: z.enum(['cnpg', 'unix']),
  timezone: shortText,
  anchor: time,
  suspended: z.boolean(),
  since: time,
});

function slotKey(r: Repository, schedule: string, key: SlotKey): string {
  return ownKey(r.server, 'slots', schedule, `${key === 'immediate' ? key : slotStamp(key)}.json`);
}

/**
 * Records what became of a slot, unless that is recorded already.
 *
 * @returns the record that counts: this one, or the one that was there
 */
export async function writeSlot(
  r: Repository,
  record: SlotRecord,
  signal: AbortSignal,
  key: SlotKey = new Date(record.slot),
): Promise<SlotRecord> {
  const name = slotKey(r, record.scheduledBackup, key);
  try {
    await createSmallObject(r.store, name, ownRecordBytes(name, record, slotSchema), { signal });
    return record;
  } catch (error) {
    if (!isBackupError(error, 'already-exists')) throw error;
    const first = await readSlot(r, record.scheduledBackup, key, signal);
    if (!first) throw error;
    return first;
  }
}

/** @returns `undefined` when nothing is recorded @throws BackupError `format-invalid` | `object-damaged` */
export async function readSlot(
  r: Repository,
  schedule: string,
  key: SlotKey,
  signal: AbortSignal,
): Promise<SlotRecord | undefined> {
  const name = slotKey(r, schedule, key);
  const record = await readOwnRecord(r, name, { schema: slotSchema, maxBytes: MAX_RECORD_BYTES, signal });
  if (!record) return undefined;
  const isIts = record.scheduledBackup === schedule && (key === 'immediate' || record.slot === rfc3339(key));
  if (isIts) return record;
  throw new BackupError(
    'format-invalid',
    `${name} is about the slot ${quoted(record.slot)} of ${quoted(record.scheduledBackup)}`,
  );
}

/** The slots after `since` and not after `until` that have a record, oldest first. */
export async function listSlots(
  r: Repository,
  schedule: string,
  { since, until }: { readonly since: Date; readonly until: Date },
  signal: AbortSignal,
): Promise<Date[]> {
  const slots: Date[] = [];
  for (const prefix of prefixesBack(until, since)) {
    const found = await slotsUnder(r, schedule, prefix, signal);
    slots.push(...found.filter((slot) => slot > since && slot <= until));
  }
  return uniqueAscending(slots);
}

/** The slots before `before` that have a record, newest first, as far back as `notBefore`. Read as they are asked for. */
export async function* slotsBefore(
  r: Repository,
  schedule: string,
  before: Date,
  notBefore: Date,
  signal: AbortSignal,
): AsyncGenerator<Date> {
  let bound = before;
  for (const prefix of prefixesBack(before, notBefore)) {
    const found = await slotsUnder(r, schedule, prefix, signal);
    for (const slot of found.toReversed()) {
      if (slot >= bound || slot < notBefore) continue;
      bound = slot;
      yield slot;
    }
  }
}

async function slotsUnder(
  r: Repository,
  schedule: string,
  prefix: string,
  signal: AbortSignal,
): Promise<Date[]> {
  const folder = `${ownKey(r.server, 'slots', schedule)}/`;
  const slots: Date[] = [];
  for await (const { key } of r.store.list(folder + prefix, { signal })) {
    const slot = key.endsWith('.json')
      ? parseSlotStamp(key.slice(folder.length, -'.json'.length))
      : undefined;
    if (slot) slots.push(slot);
  }
  return slots;
}

/** Beginnings of stamps that cover the time from `until` back to `since`: three days, then months, so far as that goes. */
function prefixesBack(until: Date, since: Date): string[] {
  const prefixes: string[] = [];
  const daysBack = Math.floor(until.getTime() / DAY_MS) - Math.floor(since.getTime() / DAY_MS);
  for (let day = 0; day <= Math.min(daysBack, 2); day += 1) {
    prefixes.push(slotStamp(new Date(until.getTime() - day * DAY_MS)).slice(0, 8));
  }
  if (daysBack <= 2) return prefixes;
  for (let back = 0; back < MONTHS_BACK; back += 1) {
    const month = new Date(
      Date.UTC(until.getUTCFullYear(), until.getUTCMonth() - back + 1, 0, 23, 59, 59, 999),
    );
    if (month < since) break;
    prefixes.push(slotStamp(month).slice(0, 6));
  }
  return prefixes;
}

function uniqueAscending(slots: readonly Date[]): Date[] {
  const times = new Set(slots.map((slot) => slot.getTime()));
  return [...times].toSorted((a, b) => a - b).map((ms) => new Date(ms));
}

function seriesKey(r: Repository, schedule: string): string {
  return ownKey(r.server, 'slots', schedule, 'schedule.json');
}

/** @returns `undefined` when the schedule was never made true here */
export function readSeries(
  r: Repository,
  schedule: string,
  signal: AbortSignal,
): Promise<SeriesRecord | undefined> {
  const options = { schema: seriesSchema, maxBytes: MAX_RECORD_BYTES, signal };
  return readOwnRecord(r, seriesKey(r, schedule), options);
}

/** Writes down when a schedule is due from now on; an earlier record is replaced. */
export async function writeSeries(r: Repository, record: SeriesRecord, signal: AbortSignal): Promise<void> {
  const key = seriesKey(r, record.scheduledBackup);
  const bytes = ownRecordBytes(key, record, seriesSchema);
  await r.store.put(key, bytes, { signal, sizeBytes: bytes.length });
}
