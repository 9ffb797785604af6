import { BackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { LockedWal, withLockedWal } from '../core/locked-wal.ts';
import type { RetentionPlan } from '../core/retention.ts';
import { segmentNumber, type SegmentName } from '../core/segment.ts';
import { walDigestKey, walPrefix } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { findWal, parseWalObject, walFolders, type WalObject } from '../repository/wal-object.ts';
import { asksForLocks, locksOf, type LockQuestion } from './object-locks.ts';

export interface DeletedWal {
  readonly segments: number;
  readonly bytes: number;
  /** What the store keeps, and was not asked to delete. It grows with what is done. */
  readonly locked: LockedWal;
}

/** What of a plan's WAL is meant. */
interface WalQuestion extends LockQuestion {
  readonly segmentSize: number;
  /** What was stored later than this stays, whatever is planned; in ms, by the store's time. */
  readonly youngAfter: number;
}

export interface DeleteWalOptions extends WalQuestion {
  /** Asked before every batch: throws when nothing more may be deleted. */
  readonly mayGoOn: () => Promise<void>;
  readonly onProgress: (done: DeletedWal) => void;
}

/** How many objects a store deletes at once. */
export const KEYS_AT_ONCE = 1000;

/**
 * Deletes the WAL that a plan gives up: oldest first, so that what remains after a crash is whole from some segment on,
 * and histories last, since they tell where their segments belong (A7). What the store keeps is passed over, and then
 * the histories stay with it (D7). Nothing is believed to be gone before a listing says so.
 */
export async function deleteWal(
  r: Repository,
  plan: RetentionPlan,
  options: DeleteWalOptions,
): Promise<DeletedWal> {
  const locked = new LockedWal();
  let done: DeletedWal = { segments: 0, bytes: 0, locked };
  const remove = async (batch: readonly WalObject[]) => {
    const free = await addLocked(r, batch, { locked, ...options });
    if (free.length > 0) await deleteBatch(r, free, options);
    done = {
      segments: done.segments + free.filter(({ file }) => file.kind === 'segment').length,
      bytes: done.bytes + free.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      locked,
    };
    options.onProgress(done);
  };
  for await (const batch of doomedWal(r, plan, options)) await remove(batch);
  const histories = await doomedHistories(r, plan, options.signal);
  if (histories.length > 0 && locked.count === 0) await remove(histories);
  return done;
}

/** So many files of WAL are asked about for a plan: a dozen seconds. A listing may tell of more. */
const ASKED_FOR_PLAN = 10_000;

export interface PlannedLocks {
  readonly locked: LockedWal;
  /** Of what nobody looked at yet; whole phrases. */
  readonly warnings: readonly string[];
}

/**
 * The same without deleting anything: what of it the store keeps. The oldest are asked about, up to a number; each of the
 * others is when it is to be deleted. A first sweep of a big archive would not come to its plan otherwise.
 */
export async function lockedWal(
  r: Repository,
  plan: RetentionPlan,
  options: WalQuestion,
): Promise<PlannedLocks> {
  const locked = new LockedWal();
  if (!(await asksForLocks(r, options.signal))) return { locked, warnings: [] };
  let asked = 0;
  for await (const batch of doomedWal(r, plan, options)) {
    const untold = batch.filter(({ lock }) => lock === undefined).length;
    if (asked + untold > ASKED_FOR_PLAN) {
      const warnings = [
        `whether the store keeps WAL was asked about the ${asked} oldest files that would go; about the others it is asked right before they are deleted`,
      ];
      return { locked, warnings };
    }
    asked += untold;
    await addLocked(r, batch, { locked, ...options });
  }
  if (locked.count === 0)
    await addLocked(r, await doomedHistories(r, plan, options.signal), { locked, ...options });
  return { locked, warnings: [] };
}

/** @returns those that are free */
async function addLocked(
  r: Repository,
  batch: readonly WalObject[],
  { locked, segmentSize, ...question }: WalQuestion & { readonly locked: LockedWal },
): Promise<readonly WalObject[]> {
  const locks = await locksOf(r, batch, question);
  return batch.filter(({ key, file }) => {
    const lock = locks.get(key);
    if (lock === undefined) return true;
    locked.add(lock, file.kind === 'segment' ? placeOf(file.segment, segmentSize) : undefined);
    return false;
  });
}

function placeOf(segment: SegmentName, segmentSize: number): { timeline: number; number: bigint } {
  return { timeline: Number.parseInt(segment.slice(0, 8), 16), number: segmentNumber(segment, segmentSize) };
}

/** As the plan has it once what the store keeps stays. */
export function withoutLocked(plan: RetentionPlan, locked: LockedWal): RetentionPlan {
  if (locked.count === 0) return plan;
  return {
    ...plan,
    wal: withLockedWal(plan.wal, locked.runs),
    warnings: [...plan.warnings, ...locked.warnings],
  };
}

/** In batches of what a store deletes at once, oldest first; histories are not among them. */
async function* doomedWal(
  r: Repository,
  plan: RetentionPlan,
  { segmentSize, youngAfter, signal }: WalQuestion,
): AsyncGenerator<readonly WalObject[], void, void> {
  const isDoomed = doomedBy(plan, segmentSize);
  let batch: WalObject[] = [];
  for (const folder of await walFolders(r, signal)) {
    if (!isDoomed.anyIn(folder)) continue;
    const found = await listFolder(r, folder, signal);
    for (const wal of found) {
      if (wal.modifiedAt.getTime() > youngAfter || !isDoomed.object(wal)) continue;
      batch.push(wal);
      if (batch.length < KEYS_AT_ONCE) continue;
      yield batch;
      batch = [];
    }
  }
  if (batch.length > 0) yield batch;
}

async function doomedHistories(
  r: Repository,
  plan: RetentionPlan,
  signal: AbortSignal,
): Promise<readonly WalObject[]> {
  const found: WalObject[] = [];
  for (const { name, decision } of plan.histories) {
    if (decision === 'delete') found.push(...(await findWal(r, name, signal)));
  }
  return found;
}

async function deleteBatch(
  r: Repository,
  batch: readonly WalObject[],
  { mayGoOn, signal }: DeleteWalOptions,
): Promise<void> {
  failpoint('sweep.before-delete-wal');
  await mayGoOn();
  const keys = batch.map(({ key }) => key);
  await r.store.delete(keys, { signal });
  failpoint('sweep.wal-deleted');
  const gone = new Set(keys);
  const folders = new Set(keys.map((key) => key.slice(0, key.lastIndexOf('/') + 1)));
  for (const folder of folders) {
    // History files lie beside everything else: they are looked up by name.
    const prefixes = folder === walPrefix(r.server) ? keys.filter((key) => key.startsWith(folder)) : [folder];
    for (const prefix of prefixes) await requireGone(r, prefix, gone, signal);
  }
  // Behind their objects: a crash in between leaves records of nothing, which the next sweep removes.
  if (!r.store.features.metadata) {
    await r.store.delete(
      keys.map((key) => walDigestKey(r.server, key)),
      { signal },
    );
  }
}

/** Some stores say "deleted" and did not; others do part of what was asked. */
async function requireGone(
  r: Repository,
  prefix: string,
  gone: ReadonlySet<string>,
  signal: AbortSignal,
): Promise<void> {
  for await (const { key } of r.store.list(prefix, { signal })) {
    // A listing may be late: the object itself has the last word.
    if (!gone.has(key) || (await r.store.head(key, { signal })) === undefined) continue;
    throw new BackupError(
      'store-unavailable',
      `${r.store.url}/${key} was deleted, said the store, and is there`,
    );
  }
}

async function listFolder(r: Repository, folder: string, signal: AbortSignal): Promise<WalObject[]> {
  const found: WalObject[] = [];
  for await (const object of r.store.list(`${walPrefix(r.server)}${folder}/`, { signal })) {
    const wal = parseWalObject(r, object);
    if (wal) found.push(wal);
  }
  return found;
}

/** Whether a plan gives up anything that lies in `wals/`. */
export function deletesWal({ wal, partials, labels, histories }: RetentionPlan): boolean {
  return [wal, partials, labels, histories].flat().some(({ decision }) => decision === 'delete');
}

/** Questions about what a plan gives up. */
function doomedBy(plan: RetentionPlan, segmentSize: number) {
  const ranges = new Map<number, RetentionPlan['wal'][number][]>();
  for (const range of plan.wal) {
    if (range.decision !== 'delete') continue;
    const known = ranges.get(range.timeline);
    if (known) known.push(range);
    else ranges.set(range.timeline, [range]);
  }
  const named = (files: RetentionPlan['labels']) =>
    new Set(files.filter(({ decision }) => decision === 'delete').map(({ segment }) => segment));
  const partials = named(plan.partials);
  const labels = named(plan.labels);
  const folders = new Set([...partials, ...labels].map((segment) => segment.slice(0, 16)));
  const perLog = 0x1_0000_0000n / BigInt(segmentSize);
  return {
    /** @param folder 8 digits of a timeline, 8 of a log */
    anyIn(folder: string): boolean {
      if (folders.has(folder)) return true;
      const timeline = Number.parseInt(folder.slice(0, 8), 16);
      const first = BigInt(`0x${folder.slice(8)}`) * perLog;
      const last = first + perLog - 1n;
      return (ranges.get(timeline) ?? []).some((range) => range.first <= last && range.last >= first);
    },
    object({ file }: WalObject): boolean {
      if (file.kind === 'history') return false;
      if (file.kind === 'partial') return partials.has(file.segment);
      if (file.kind === 'backup-history') return labels.has(file.segment);
      const { timeline, number } = placeOf(file.segment, segmentSize);
      return (ranges.get(timeline) ?? []).some((range) => range.first <= number && number <= range.last);
    },
  };
}
