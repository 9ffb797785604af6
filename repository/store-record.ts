import { z } from 'zod';
import { isBackupError } from '../core/errors.ts';
import type { StoreTraits, Trait } from '../stores/object-store.ts';
import { ownKey } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';

/** What a store really does, found out by trying it with objects of our own (E3). */
export interface StoreRecord extends StoreTraits {
  readonly version: 1;
  /** ISO 8601. */
  readonly probedAt: string;
  /** The version of walkeep that tried. */
  readonly walkeep: string;
  /** Whether a body in one request that is to create is refused where something is. */
  readonly ifAbsent: Trait;
  /** Whether the key that tried may delete; the archive's key may be one that can't. */
  readonly mayDelete: Trait;
  /** A creation tried no more than it needed to know: nobody has asked for the rest yet. */
  readonly onlyCreation?: true;
}

const DAY_MS = 24 * 60 * 60 * 1000;
/** A store may be exchanged, or updated, behind the same address. */
export const RECORD_LASTS_MS = 30 * DAY_MS;
const MAX_RECORD_BYTES = 64 * 1024;

const trait = z.enum(['yes', 'no', 'unknown']);
const recordSchema: z.ZodType<StoreRecord> = z.object({
  version: z.literal(1),
  probedAt: z.iso.datetime({ offset: true }),
  walkeep: z.string().max(100),
  ifAbsent: trait,
  mayDelete: trait,
  multipartIfAbsent: trait,
  checksums: trait,
  bulkDelete: trait,
  listPaging: trait,
  listStart: trait,
  versioning: z.enum(['on', 'off', 'suspended', 'unknown']),
  objectLock: z.enum(['on', 'off', 'unknown']),
  onlyCreation: z.literal(true).exactOptional(),
});

/** Whether what was found out then can be believed now. A time in the future can't. */
export function isCurrent({ probedAt }: StoreRecord, now: Date): boolean {
  const ageMs = now.getTime() - Date.parse(probedAt);
  return ageMs > -DAY_MS && ageMs < RECORD_LASTS_MS;
}

/** @returns `undefined` when nobody tried yet, or what was written can't be read: it is found out anew */
export async function readStoreRecord(r: Repository, signal: AbortSignal): Promise<StoreRecord | undefined> {
  try {
    const options = { schema: recordSchema, maxBytes: MAX_RECORD_BYTES, signal };
    return await readOwnRecord(r, recordKey(r), options);
  } catch (error) {
    if (!isBackupError(error, 'format-invalid', 'object-damaged')) throw error;
    return undefined;
  }
}

/**
 * Replaces what was known. A key that may only create writes the first record; one that may not write here at all keeps
 * what it knows to itself.
 */
export async function writeStoreRecord(
  r: Repository,
  record: StoreRecord,
  signal: AbortSignal,
): Promise<void> {
  // Not by turns: they ask for this very record.
  const store = r.bareStore ?? r.store;
  const bytes = ownRecordBytes(recordKey(r), record, recordSchema);
  const put = (ifAbsent: boolean) =>
    store.put(recordKey(r), bytes, { signal, ifAbsent, sizeBytes: bytes.length });
  try {
    await put(false).catch((error: unknown) => {
      if (!isBackupError(error, 'access-denied')) throw error;
      return put(true);
    });
  } catch (error) {
    if (!isBackupError(error, 'access-denied', 'already-exists', 'config-invalid')) throw error;
  }
}

/** What was found out, and where that is nothing, what was known: an answer is never replaced by none. */
export function newestKnown(known: StoreRecord | undefined, found: StoreRecord): StoreRecord {
  if (!known) return found;
  // Tried again soon.
  if (found.ifAbsent === 'unknown') return known;
  const answers = Object.entries(found).filter(([, answer]) => answer !== 'unknown');
  const { onlyCreation: _, ...before } = known;
  return { ...before, ...Object.fromEntries(answers) };
}

function recordKey({ server }: Repository): string {
  return ownKey(server, 'store.json');
}

/**
 * What is weaker on this store than elsewhere, in words for people; empty when nothing is.
 */
export function weaknessesOf(record: StoreRecord): string[] {
  const weak: string[] = [];
  const turns =
    'walkeep makes its writers take turns, looks before each creation and compares after it; two at the same moment are kept apart as long as its listings are up to date';
  if (record.ifAbsent === 'no') {
    weak.push(`it replaces an object that is only to be created (If-None-Match is ignored): ${turns}`);
  } else if (record.ifAbsent === 'unknown') {
    weak.push(
      'whether it refuses to create what exists is not known: walkeep asks it to (If-None-Match), and compares what it archived',
    );
  } else if (record.multipartIfAbsent === 'no') {
    weak.push(`an upload in parts replaces an object that is only to be created: for those, ${turns}`);
  } else if (record.multipartIfAbsent === 'unknown' && record.onlyCreation !== true) {
    weak.push(`whether an upload in parts refuses to create what exists is not known: for those, ${turns}`);
  }
  if (record.listPaging === 'no') weak.push('its listings do not go on page by page as they should');
  return weak;
}
