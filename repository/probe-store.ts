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

/** Of a store that was asked nothing. */
export const NOT_KNOWN: StoreTraits = {
  multipartIfAbsent: 'unknown',
  checksums: 'unknown',
  bulkDelete: 'unknown',
  listPaging: 'unknown',
  listStart: 'unknown',
  versioning: 'unknown',
  objectLock: 'unknown',
};
const CLEAN_UP_MS = 30_000;

/**
 * Finds out what the store of a repository really does, with tiny objects below `walkeep/probe/` under names that nobody
 * else has. Nothing else is written, and they are removed again; a key that may not delete leaves them to a sweep. It
 * creates only, as far as the store knows how to: there are keys that may do nothing else.
 *
 * @throws what the store throws, when it doesn't answer or isn't there; what is denied is told in `refused`
 */
export async function probeStore(r: Repository, signal: AbortSignal): Promise<Probe> {
  const store = r.bareStore ?? r.store;
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
  const folder = newFolder(r);
  let isWritten = false;
  try {
    const tried = await tryCreation(r, signal, folder);
    if (tried.refused !== undefined) refused.write = tried.refused;
    isWritten = tried.bytes !== undefined;
    ifAbsent = tried.ifAbsent;
    await asks('read', async () => {
      const kept = await store.get(tried.key, { signal });
      // Refused, and replaced all the same.
      if (kept && tried.bytes && ifAbsent === 'yes' && !(await hasBytes(kept, tried.bytes))) ifAbsent = 'no';
    });
    await asks('list', () => firstOf(store.list(folder, { signal })));
    if (isWritten)
      traits = (await store.inquire?.(folder, { signal })) ?? { ...NOT_KNOWN, multipartIfAbsent: ifAbsent };
  } finally {
    // Also when the store did not say whether it stored anything.
    if (refused.write === undefined) left = await removeAll(store, folder, refused);
  }
  const mayDelete = refused.delete !== undefined ? 'no' : isWritten && left.length === 0 ? 'yes' : 'unknown';
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

/** What two creations of one object said. */
export interface TriedCreation {
  readonly ifAbsent: Trait;
  readonly key: string;
  /** What was stored, if anything. */
  readonly bytes?: Uint8Array;
  /** Why nothing may be. */
  readonly refused?: string;
}

/**
 * Creates an object below `walkeep/probe/` twice: the first has to succeed, and the second, with other bytes, to be
 * refused. The object stays. Two requests.
 *
 * @throws what the store throws, but what is denied
 */
export async function tryCreation(
  r: Repository,
  signal: AbortSignal,
  folder = newFolder(r),
): Promise<TriedCreation> {
  const store = r.bareStore ?? r.store;
  const key = `${folder}create`;
  const put = async (ifAbsent: boolean) => {
    const bytes = utf8(`${randomUUID()}\n`);
    await store.put(key, bytes, { signal, ifAbsent, sizeBytes: bytes.length });
    return bytes;
  };
  let bytes: Uint8Array | undefined;
  try {
    bytes = await put(true);
    await put(true);
    return { ifAbsent: 'no', key, bytes };
  } catch (error) {
    if (isBackupError(error, 'already-exists'))
      // Before there was anything: such an answer says nothing.
      return bytes ? { ifAbsent: 'yes', key, bytes } : { ifAbsent: 'unknown', key };
    if (isBackupError(error, 'access-denied'))
      return { ifAbsent: 'unknown', key, ...(bytes ? { bytes } : { refused: error.message }) };
    if (!isBackupError(error, 'config-invalid')) throw error;
  }
  // A server that does not know the condition may refuse all that ask for it, and only those.
  try {
    return { ifAbsent: 'no', key, bytes: bytes ?? (await put(false)) };
  } catch (error) {
    if (!isBackupError(error, 'access-denied')) throw error;
    return { ifAbsent: 'unknown', key, refused: error.message };
  }
}

function newFolder({ server }: Repository): string {
  return `${ownKey(server, 'probe')}/${randomUUID()}/`;
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
