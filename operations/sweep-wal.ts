import { BackupError } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import type { RetentionPlan } from '../core/retention.ts';
import { segmentNumber } from '../core/segment.ts';
import { walDigestKey, walDigestPrefix, walPrefix } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { findWal, parseWalObject, walFolders, type WalObject } from '../repository/wal-object.ts';

export interface DeletedWal {
  readonly segments: number;
  readonly bytes: number;
}

export interface DeleteWalOptions {
  readonly segmentSize: number;
  /** What was stored later than this stays, whatever is planned; in ms, by the store's time. */
  readonly youngAfter: number;
  /** Asked before every batch: throws when nothing more may be deleted. */
  readonly mayGoOn: () => Promise<void>;
  readonly onProgress: (done: DeletedWal) => void;
  readonly signal: AbortSignal;
}

/** How many objects a store deletes at once. */
export const KEYS_AT_ONCE = 1000;

/**
 * Deletes the WAL that a plan gives up: oldest first, so that what remains after a crash is whole from some segment on,
 * and histories last, since they tell where their segments belong (A7). Nothing is believed to be gone before a
 * listing says so.
 */
export async function deleteWal(
  r: Repository,
  plan: RetentionPlan,
  options: DeleteWalOptions,
): Promise<DeletedWal> {
  const isDoomed = doomedBy(plan, options.segmentSize);
  let done: DeletedWal = { segments: 0, bytes: 0 };
  let batch: WalObject[] = [];
  const flush = async () => {
    if (batch.length === 0) return;
    await deleteBatch(r, batch, options);
    done = {
      segments: done.segments + batch.filter(({ file }) => file.kind === 'segment').length,
      bytes: done.bytes + batch.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    };
    batch = [];
    options.onProgress(done);
  };
  for (const folder of await walFolders(r, options.signal)) {
    if (!isDoomed.anyIn(folder)) continue;
    const found = await listFolder(r, folder, options.signal);
    const doomed = found.filter(
      (wal) => wal.modifiedAt.getTime() <= options.youngAfter && isDoomed.object(wal),
    );
    for (const wal of doomed) {
      batch.push(wal);
      if (batch.length === KEYS_AT_ONCE) await flush();
    }
  }
  await flush();
  for (const { name, decision } of plan.histories) {
    if (decision === 'delete') batch.push(...(await findWal(r, name, options.signal)));
  }
  await flush();
  await deleteDigestsOfNothing(r, options);
  return done;
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
