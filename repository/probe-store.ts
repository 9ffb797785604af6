import { randomUUID } from 'node:crypto';
import { isBackupError } from '../core/errors.ts';
import type { ObjectStore, StoreTraits, Trait } from '../stores/object-store.ts';
import { ownKey } from './layout.ts';
import type { Repository } from './repository.ts';
import { hasBytes, utf8 } from './small-object.ts';
import type { StoreRecord } from './store-record.ts';
import { walkeepVersion } from './walkeep-version.ts';

/** Whether the credentials may do something: `undefined` yes, else why not. */
export interface Permissions {
  readonly write?: string;
  readonly read?: string;
  readonly list?: string;
  readonly delete?: string;
}

export interface Probe {
  readonly record: StoreRecord;
  readonly refused: Permissions;
  /** Keys that could not be removed. */
  readonly left: readonly string[];
}

const NOT_KNOWN: StoreTraits = {
  multipartIfAbsent: 'unknown',
  checksums: 'unknown',
  bulkDelete: 'unknown',
  listPaging: 'unknown',
  listStart: 'unknown',
  versioning: 'unknown',
  objectLock: 'unknown',
};
/** Objects of a probe that was killed are taken away by a later one. */
const LEFTOVER_MS = 60 * 60_000;
const CLEAN_UP_MS = 30_000;
/** Of one probe there are five; a folder that holds more than this was not made by probes. */
const MOST_LEFTOVERS = 1000;

/**
 * Finds out what the store of a repository really does, with tiny objects below `walkeep/probe/` under names that nobody
 * else has. Nothing else is written, and they are removed again; a key that may not delete leaves them.
 *
 * @throws what the store throws, when it doesn't answer or isn't there; what is denied is told in `refused`
 */
export async function probeStore(r: Repository, signal: AbortSignal): Promise<Probe> {
  const store = r.bareStore ?? r.store;
  const root = `${ownKey(r.server, 'probe')}/`;
  const folder = `${root}${randomUUID()}/`;
  const key = `${folder}create`;
  const refused: { -readonly [Name in keyof Permissions]: Permissions[Name] } = {};
  const asks = async <T>(what: keyof Permissions, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      if (!isBackupError(error, 'access-denied')) throw error;
      refused[what] = error.message;
      return undefined;
    }
  };

  let ifAbsent: Trait = 'unknown';
  let traits = NOT_KNOWN;
  let left: string[] = [];
  let isWritten = false;
  try {
    const bytes = utf8(`${randomUUID()}\n`);
    const written = await asks('write', () => store.put(key, bytes, { signal, sizeBytes: bytes.length }));
    await asks('read', async () => (await store.get(key, { signal })) ?? undefined);
    await asks('list', () => firstOf(store.list(folder, { signal })));
    if (written) {
      isWritten = true;
      ifAbsent = await tryCondition(store, key, bytes, signal);
      traits = (await store.inquire?.(folder, { signal })) ?? { ...NOT_KNOWN, multipartIfAbsent: ifAbsent };
    }
  } finally {
    if (isWritten) left = await removeAll(store, folder, refused);
  }
  const mayDelete = refused.delete !== undefined ? 'no' : isWritten && left.length === 0 ? 'yes' : 'unknown';
  if (mayDelete === 'yes') await removeLeftovers(store, root, signal);
  return {
    record: {
      version: 1,
      probedAt: new Date().toISOString(),
      walkeep: walkeepVersion(),
      ifAbsent,
      mayDelete,
      ...traits,
    },
    refused,
    left,
  };
}

/** Creates onto what is there, with other bytes: what lies there afterwards has the last word. */
async function tryCondition(
  store: ObjectStore,
  key: string,
  before: Uint8Array,
  signal: AbortSignal,
): Promise<Trait> {
  const other = utf8(`${randomUUID()}\n`);
  try {
    await store.put(key, other, { signal, ifAbsent: true, sizeBytes: other.length });
    return 'no';
  } catch (error) {
    // A server that does not know the condition may refuse all that ask for it.
    if (isBackupError(error, 'config-invalid')) return 'no';
    if (isBackupError(error, 'access-denied')) return 'unknown';
    if (!isBackupError(error, 'already-exists')) throw error;
  }
  const kept = await store.get(key, { signal }).catch((error: unknown) => {
    if (isBackupError(error, 'access-denied')) return undefined;
    throw error;
  });
  // Without the right to read, the refusal has to do.
  return kept === undefined || (await hasBytes(kept, before)) ? 'yes' : 'no';
}

async function firstOf<T>(items: AsyncIterable<T>): Promise<T | undefined> {
  for await (const item of items) return item;
  return undefined;
}

/** Also when the probe was given up: under a time of its own. @returns what is still there */
async function removeAll(
  store: ObjectStore,
  folder: string,
  refused: { delete?: string },
): Promise<string[]> {
  const signal = AbortSignal.timeout(CLEAN_UP_MS);
  const names = ['create', 'list-1', 'list-2', 'list-3', 'checksum'];
  const keys = names.map((name) => folder + name);
  try {
    await store.delete(keys, { signal });
    const there: string[] = [];
    for await (const { key } of store.list(folder, { signal })) there.push(key);
    if (there.length > 0) refused.delete = 'what was deleted is still there';
    return there;
  } catch (error) {
    // What does not answer in time is a matter of the next call, and no answer to this question.
    if (isBackupError(error, 'access-denied')) refused.delete = error.message;
    return [folder];
  }
}

async function removeLeftovers(store: ObjectStore, root: string, signal: AbortSignal): Promise<void> {
  try {
    const old: string[] = [];
    const before = Date.now() - LEFTOVER_MS;
    for await (const { key, modifiedAt } of store.list(root, { signal })) {
      if (modifiedAt.getTime() < before) old.push(key);
      if (old.length >= MOST_LEFTOVERS) break;
    }
    if (old.length > 0) await store.delete(old, { signal });
  } catch {
    // Tidiness: the next one tries again.
    signal.throwIfAborted();
  }
}
