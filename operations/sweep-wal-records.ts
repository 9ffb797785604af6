import { concurrently } from '../repository/concurrently.ts';
import { walDigestKey, walDigestPrefix, walPrefix } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import { KEYS_AT_ONCE } from './sweep-wal.ts';

/** So many objects are asked for by name in one sweep; the next one goes on. */
const LOOKED_FOR = 20_000;
const LOOKS_AT_ONCE = 32;

export interface RecordQuestion {
  /** What was stored later than this stays, in ms by the store's time. */
  readonly youngAfter: number;
  readonly signal: AbortSignal;
}

export interface RemoveRecordOptions extends RecordQuestion {
  /** Asked before every batch: throws when nothing more may be deleted. */
  readonly mayGoOn: () => Promise<void>;
}

/** Records of WAL that is gone, counted. */
export interface OrphanedRecords {
  readonly count: number;
  /** What was left for the next sweep; whole phrases. */
  readonly warnings: readonly string[];
}

/** The records of WAL that is gone: whoever deletes WAL beside walkeep leaves them. */
export async function findOrphanedRecords(r: Repository, question: RecordQuestion): Promise<OrphanedRecords> {
  return eachOrphaned(r, question, () => Promise.resolve());
}

/** As `findOrphanedRecords`, and removes them. */
export async function removeOrphanedRecords(
  r: Repository,
  { mayGoOn, ...question }: RemoveRecordOptions,
): Promise<OrphanedRecords> {
  return eachOrphaned(r, question, async (records) => {
    await mayGoOn();
    await r.store.delete(records, { signal: question.signal });
  });
}

/** For people. */
export function describeOrphaned({ count }: OrphanedRecords): string[] {
  return count === 0 ? [] : [`the records of ${count} files of WAL that are gone`];
}

/**
 * A record is written after its object, so that one that was listed, and whose object is not there later, has lost it. One
 * listing without the object only says where to look, for it may be cut short: then the object is asked for by its name.
 */
async function eachOrphaned(
  r: Repository,
  { youngAfter, signal }: RecordQuestion,
  use: (records: readonly string[]) => Promise<void>,
): Promise<OrphanedRecords> {
  const prefix = walDigestPrefix(r.server);
  let count = 0;
  let lookedFor = 0;
  let left = 0;
  let folder = '';
  /** By the record's key: that of its object. */
  let records = new Map<string, string>();
  const flush = async () => {
    if (records.size === 0) return;
    for await (const { key } of r.store.list(walPrefix(r.server) + folder, { signal }))
      records.delete(walDigestKey(r.server, key));
    const unlisted = [...records];
    records = new Map();
    const here = unlisted.slice(0, LOOKED_FOR - lookedFor);
    left += unlisted.length - here.length;
    lookedFor += here.length;
    const gone = await concurrently(here, LOOKS_AT_ONCE, async ([record, object]) =>
      (await r.store.head(object, { signal })) === undefined ? [record] : [],
    );
    const orphaned = gone.flat();
    if (orphaned.length === 0) return;
    await use(orphaned);
    count += orphaned.length;
  };
  for await (const { key, modifiedAt } of r.store.list(prefix, { signal })) {
    const name = key.slice(prefix.length);
    if (!name.endsWith('.json') || modifiedAt.getTime() > youngAfter) continue;
    const object = name.slice(0, -'.json'.length);
    if (object === '' || object.endsWith('/')) continue;
    // A history lies beside the folders: what its name begins with is itself, and its other copies.
    const place = object.includes('/') ? object.slice(0, object.indexOf('/') + 1) : object;
    if (place !== folder || records.size >= KEYS_AT_ONCE) await flush();
    folder = place;
    records.set(key, walPrefix(r.server) + object);
  }
  await flush();
  const more = `${left} more records whose WAL is not listed are looked at by the next sweep`;
  return { count, warnings: left > 0 ? [more] : [] };
}
