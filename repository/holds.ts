import { hostname } from 'node:os';
import { z } from 'zod';
import { BackupError } from '../core/errors.ts';
import { isSegmentName } from '../core/segment.ts';
import { concurrently } from './concurrently.ts';
import { isBackupId, ownKey, quoted } from './layout.ts';
import { ownRecordBytes, readOwnRecord } from './own-record.ts';
import type { Repository } from './repository.ts';

/** Who holds: a restore or a verification that reads, or a person. */
export type HoldKind = 'restore' | 'verification' | 'manual';

/** What is to be held. */
export interface HoldRequest {
  /** Names the hold, for renewing and releasing it: letters, digits, `.`, `_`, `-`. The same id replaces. */
  readonly id: string;
  readonly kind: HoldKind;
  /** The backup that may not be deleted, with all WAL that leads on from it. */
  readonly backupId: string;
  /** WAL that may not be deleted besides: from this segment's number on, of these timelines. */
  readonly firstSegment?: string;
  readonly timelines?: readonly number[];
  /** For people: who needs it, and what for. */
  readonly reason: string;
  /** How long it holds since the store got it (by the store's time), in ms. Absent: until it is released. */
  readonly lastsMs?: number;
}

/** A hold: something that retention has to spare (D5). */
export interface Hold extends HoldRequest {
  readonly version: 1;
  readonly host: string;
  /** By the clock of the host that placed it, for people; ISO 8601. */
  readonly placedAt: string;
}

/** A hold as the store has it. */
export interface StoredHold extends Hold {
  /** The store's time of the last placing or renewing. */
  readonly storedAt: Date;
}

/** How long a restore or a verification holds unless it renews or says otherwise. */
export const DEFAULT_HOLD_MS = 48 * 3_600_000;

const FOLDER = 'holds';
const MAX_HOLD_BYTES = 64 * 1024;
const MAX_HOLDS = 10_000;
const READS_AT_ONCE = 8;
const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/;

const holdSchema: z.ZodType<Hold> = z.object({
  version: z.literal(1),
  id: z.string().regex(ID),
  kind: z.enum(['restore', 'verification', 'manual']),
  backupId: z.string().refine(isBackupId, 'not a backup id'),
  firstSegment: z.string().refine(isSegmentName, 'not a WAL segment').exactOptional(),
  timelines: z.array(z.number().int().positive().max(0xffff_ffff)).max(1000).exactOptional(),
  reason: z.string().min(1).max(1000),
  lastsMs: z.number().int().positive().exactOptional(),
  host: z.string().max(255),
  placedAt: z.iso.datetime({ offset: true }),
});

/**
 * Places a hold, or replaces the one of that id. It counts from the moment this resolves: a sweep looks at the holds
 * after it has made known what it is about to delete, so whoever places one has to look for that afterwards
 * (`isBeingDeleted`).
 *
 * @throws BackupError `access-denied` for a key that may not write; what the store throws
 */
export async function placeHold(r: Repository, request: HoldRequest, signal: AbortSignal): Promise<void> {
  const key = holdKey(r, request.id);
  const hold: Hold = { version: 1, ...request, host: hostname(), placedAt: new Date().toISOString() };
  const bytes = ownRecordBytes(key, hold, holdSchema);
  await r.store.put(key, bytes, { signal, sizeBytes: bytes.length });
}

/** Lets a hold begin anew, so that it lasts as long again. @throws BackupError `object-missing` when there is none */
export async function renewHold(r: Repository, id: string, signal: AbortSignal): Promise<void> {
  const held = await readHold(r, id, signal);
  if (held === undefined) {
    throw new BackupError('object-missing', `there is no hold ${quoted(id)} in ${r.url} any more`);
  }
  await placeHold(r, held, signal);
}

/** Lets go. Releasing what is not held succeeds. */
export async function releaseHold(r: Repository, id: string, signal: AbortSignal): Promise<void> {
  await r.store.delete([holdKey(r, id)], { signal });
}

/**
 * All holds, by id, those that are over too.
 *
 * @throws BackupError `format-invalid` for one that can't be read: what it holds is not known, so nothing may be deleted
 */
export async function listHolds(r: Repository, signal: AbortSignal): Promise<StoredHold[]> {
  const prefix = `${ownKey(r.server, FOLDER)}/`;
  const found: { id: string; storedAt: Date }[] = [];
  for await (const { key, modifiedAt } of r.store.list(prefix, { signal })) {
    const name = key.slice(prefix.length);
    const id = name.replace(/\.json$/, '');
    if (id === name || !ID.test(id)) {
      throw new BackupError('format-invalid', `${key} is not a hold of walkeep`, {
        hint: 'remove it, or move it out of the folder of holds; nothing is deleted while it is there',
      });
    }
    found.push({ id, storedAt: modifiedAt });
    if (found.length > MAX_HOLDS)
      throw new BackupError('format-invalid', `${r.url}/walkeep/holds has more than ${MAX_HOLDS} holds`);
  }
  const holds = await concurrently(found, READS_AT_ONCE, async ({ id, storedAt }) => {
    const hold = await readHold(r, id, signal);
    // released since it was listed
    return hold && { ...hold, storedAt };
  });
  return holds.filter((hold) => hold !== undefined);
}

/** Whether a hold has lasted as long as it was to last. Without the store's time none has. */
export function isOver(hold: Pick<StoredHold, 'lastsMs' | 'storedAt'>, storeNow: Date | undefined): boolean {
  if (hold.lastsMs === undefined || storeNow === undefined) return false;
  return storeNow.getTime() >= hold.storedAt.getTime() + hold.lastsMs;
}

async function readHold(r: Repository, id: string, signal: AbortSignal): Promise<Hold | undefined> {
  const key = holdKey(r, id);
  const hold = await readOwnRecord(r, key, { schema: holdSchema, maxBytes: MAX_HOLD_BYTES, signal });
  if (hold && hold.id !== id) {
    throw new BackupError('format-invalid', `${key} is about the hold ${quoted(hold.id)}`);
  }
  return hold;
}

function holdKey(r: Repository, id: string): string {
  if (!ID.test(id)) throw new BackupError('format-invalid', `not the id of a hold: ${quoted(id)}`);
  return ownKey(r.server, FOLDER, `${id}.json`);
}
