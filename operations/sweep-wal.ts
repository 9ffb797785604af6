import { BackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { withLockedWal, type LockedSegment } from '../core/locked-wal.ts';
import { longestLock, type LockInForce } from '../core/object-lock.ts';
import type { RetentionPlan } from '../core/retention.ts';
import { segmentNumber } from '../core/segment.ts';
import { walDigestKey, walDigestPrefix, walPrefix } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { findWal, parseWalObject, walFolders, type WalObject } from '../repository/wal-object.ts';
import { locksOf, type LockQuestion } from './object-locks.ts';

export interface DeletedWal {
  readonly segments: number;
  readonly bytes: number;
  /** What the store keeps, and was not asked to delete. */
  readonly locked: readonly LockedWal[];
}

/** An object of WAL that is to go, and that the store keeps. */
export interface LockedWal {
  readonly key: string;
  readonly file: WalObject['file'];
  readonly lock: LockInForce;
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
  let done: DeletedWal = { segments: 0, bytes: 0, locked: [] };
  const remove = async (batch: readonly WalObject[]) => {
    const locked = await lockedAmong(r, batch, options);
    const free = batch.filter(({ key }) => !locked.some((one) => one.key === key));
    if (free.length > 0) await deleteBatch(r, free, options);
    done = {
      segments: done.segments + free.filter(({ file }) => file.kind === 'segment').length,
      bytes: done.bytes + free.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      locked: [...done.locked, ...locked],
    };
    options.onProgress(done);
  };
  for await (const batch of doomedWal(r, plan, options)) await remove(batch);
  const histories = await doomedHistories(r, plan, options.signal);
  if (histories.length > 0 && done.locked.length === 0) await remove(histories);
  await deleteDigestsOfNothing(r, options);
  return done;
}

/** The same without deleting anything: what of it the store keeps. */
export async function lockedWal(
  r: Repository,
  plan: RetentionPlan,
  options: WalQuestion,
): Promise<readonly LockedWal[]> {
  if (r.store.lockOf === undefined) return [];
  const locked: LockedWal[] = [];
  for await (const batch of doomedWal(r, plan, options)) {
    locked.push(...(await lockedAmong(r, batch, options)));
  }
  if (locked.length > 0) return locked;
  return lockedAmong(r, await doomedHistories(r, plan, options.signal), options);
}

async function lockedAmong(
  r: Repository,
  batch: readonly WalObject[],
  question: LockQuestion,
): Promise<LockedWal[]> {
  const locks = await locksOf(
    r,
    batch.map(({ key }) => key),
    question,
  );
  return batch.flatMap(({ key, file }) => {
    const lock = locks.get(key);
    return lock ? [{ key, file, lock }] : [];
  });
}

/** As the plan has it once what the store keeps stays. */
export function withoutLocked(
  plan: RetentionPlan,
  locked: readonly LockedWal[],
  segmentSize: number,
): RetentionPlan {
  const lock = longestLock(locked.map((one) => one.lock));
  if (lock === undefined) return plan;
  const segments = locked.flatMap(({ file, lock: own }): LockedSegment[] => {
    if (file.kind !== 'segment') return [];
    const timeline = Number.parseInt(file.segment.slice(0, 8), 16);
    return [{ timeline, number: segmentNumber(file.segment, segmentSize), lock: own }];
  });
  const others = locked.length - segments.length;
  const what = [
    ...(segments.length > 0 ? [`${segments.length} segments`] : []),
    ...(others > 0 ? [`${others} files beside them`] : []),
  ];
  return {
    ...plan,
    wal: withLockedWal(plan.wal, segments),
    warnings: [
      ...plan.warnings,
      `of the WAL that nobody needs, ${what.join(' and ')} stay, and timeline histories with them; the longest: ${lock.why}`,
    ],
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

/**
 * Removes the records of WAL that is gone: whoever deletes WAL beside walkeep leaves them. A record is written after its
 * object, so that one that was listed, and whose object a later listing does not show, has lost it.
 */
async function deleteDigestsOfNothing(
  r: Repository,
  { youngAfter, mayGoOn, signal }: DeleteWalOptions,
): Promise<void> {
  const prefix = walDigestPrefix(r.server);
  let folder = '';
  let records = new Set<string>();
  const flush = async () => {
    if (records.size === 0) return;
    for await (const { key } of r.store.list(walPrefix(r.server) + folder, { signal }))
      records.delete(walDigestKey(r.server, key));
    if (records.size > 0) await mayGoOn();
    await r.store.delete([...records], { signal });
    records = new Set();
  };
  for await (const { key, modifiedAt } of r.store.list(prefix, { signal })) {
    const name = key.slice(prefix.length);
    if (!name.endsWith('.json') || modifiedAt.getTime() > youngAfter) continue;
    // A history lies beside the folders: what its name begins with is itself, and its other copies.
    const place = name.includes('/') ? name.slice(0, name.indexOf('/') + 1) : name.slice(0, -'.json'.length);
    if (place !== folder || records.size >= KEYS_AT_ONCE) await flush();
    folder = place;
    records.add(key);
  }
  await flush();
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
    if (!gone.has(key)) continue;
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
      const timeline = Number.parseInt(file.segment.slice(0, 8), 16);
      const number = segmentNumber(file.segment, segmentSize);
      return (ranges.get(timeline) ?? []).some((range) => range.first <= number && number <= range.last);
    },
  };
}
