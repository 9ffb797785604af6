import { isBackupError } from '../core/errors.ts';
import type { StoredObject } from '../stores/object-store.ts';
import { basePrefix, isBackupId, keepKey } from './layout.ts';
import type { Repository } from './repository.ts';
import { readSmallObject, utf8 } from './small-object.ts';

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
    const keep = await readAnnotation(r, key, signal);
    // of two that differ, the one that keeps more
    if (keep !== undefined && keeps.get(backupId) !== 'full') keeps.set(backupId, keep);
  }
  return keeps;
}

async function annotations(r: Repository, prefix: string, signal: AbortSignal): Promise<StoredObject[]> {
  const found: StoredObject[] = [];
  await whereItCanBe(prefix, async () => {
    for await (const object of r.store.list(prefix, { signal })) {
      const [backupId = '', ...rest] = object.key.slice(prefix.length).split('/');
      if (isBackupId(backupId) && rest.join('/') === 'annotations/keep') found.push(object);
    }
  });
  return found;
}

/** The annotation of one backup, under either key. @returns `undefined` when nobody keeps it */
export async function readKeep(
  r: Repository,
  backupId: string,
  signal: AbortSignal,
): Promise<Keep | undefined> {
  const found: Keep[] = [];
  for (const key of bothKeys(r, backupId)) {
    await whereItCanBe(key, async () => {
      const keep = await readAnnotation(r, key, signal);
      if (keep) found.push(keep);
    });
  }
  return found.includes('full') ? 'full' : found[0];
}

/** Keeps a backup from every retention, ours and stock's: the annotation is written exactly as barman does. */
export async function writeKeep(
  r: Repository,
  backupId: string,
  keep: Keep,
  signal: AbortSignal,
): Promise<void> {
  const bytes = utf8(keep);
  await r.store.put(keepKey(r.server, backupId), bytes, { signal, sizeBytes: bytes.length });
}

/** Takes the annotation back, under either key. Releasing what nobody keeps succeeds. */
export async function releaseKeep(r: Repository, backupId: string, signal: AbortSignal): Promise<void> {
  for (const key of bothKeys(r, backupId)) {
    await whereItCanBe(key, () => r.store.delete([key], { signal }));
  }
}

function bothKeys(r: Repository, backupId: string): string[] {
  const key = keepKey(r.server, backupId);
  return [key, `/${key}`];
}

/** Where a key with one slash too many can't be, such as in a directory, the store says that there is no such key. */
async function whereItCanBe(key: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!key.startsWith('/') || !isBackupError(error, 'format-invalid')) throw error;
  }
}

/** Stock takes everything but exactly `standalone` for `full`. */
async function readAnnotation(r: Repository, key: string, signal: AbortSignal): Promise<Keep | undefined> {
  const bytes = await readSmallObject(r.store, key, { maxBytes: MAX_KEEP_BYTES, signal });
  if (bytes === undefined) return undefined;
  return Buffer.from(bytes).toString('utf8') === 'standalone' ? 'standalone' : 'full';
}
