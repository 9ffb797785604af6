import { isBackupError } from '../core/errors.ts';
import type { StoredObject } from '../stores/object-store.ts';
import { basePrefix, isBackupId } from './layout.ts';
import type { Repository } from './repository.ts';
import { readSmallObject } from './small-object.ts';

/** What an annotation asks to be kept: the backup and all WAL after it, or what it needs to be restored by itself. */
export type Keep = 'full' | 'standalone';

const MAX_KEEP_BYTES = 64 * 1024;

/**
 * The annotations that keep backups, by backup id. They are looked for under both keys: stock tools that were given a
 * `destinationPath` with a trailing slash put one slash too many into theirs (H8).
 */
export async function readKeeps(r: Repository, signal: AbortSignal): Promise<Map<string, Keep>> {
  const prefix = basePrefix(r.server);
  const objects = [
    ...(await annotations(r, prefix, signal)),
    ...(await annotations(r, `/${prefix}`, signal)),
  ];
  const keeps = new Map<string, Keep>();
  for (const { key } of objects) {
    const backupId = key.slice(key.indexOf('/base/') + '/base/'.length).slice(0, 15);
    const keep = await readKeep(r, key, signal);
    // of two that differ, the one that keeps more
    if (keep !== undefined && keeps.get(backupId) !== 'full') keeps.set(backupId, keep);
  }
  return keeps;
}

async function annotations(r: Repository, prefix: string, signal: AbortSignal): Promise<StoredObject[]> {
  const found: StoredObject[] = [];
  try {
    for await (const object of r.store.list(prefix, { signal })) {
      const [backupId = '', ...rest] = object.key.slice(prefix.length).split('/');
      if (isBackupId(backupId) && rest.join('/') === 'annotations/keep') found.push(object);
    }
  } catch (error) {
    // in a directory there is no such key, and such a store says so
    if (!prefix.startsWith('/') || !isBackupError(error, 'format-invalid')) throw error;
  }
  return found;
}

/** Stock takes everything but exactly `standalone` for `full`. */
async function readKeep(r: Repository, key: string, signal: AbortSignal): Promise<Keep | undefined> {
  const bytes = await readSmallObject(r.store, key, { maxBytes: MAX_KEEP_BYTES, signal });
  if (bytes === undefined) return undefined;
  return Buffer.from(bytes).toString('utf8') === 'standalone' ? 'standalone' : 'full';
}
