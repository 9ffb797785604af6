import { BackupError, isBackupError } from '../core/errors.ts';
import type { GcsConnection, GcsPlace } from './gcs-client.ts';
import { NO_SUCH_OBJECT } from './gcs-errors.ts';
import { listObjects } from './gcs-list.ts';
import { isFailure } from './s3-errors.ts';

/** Google takes batches of a hundred, and carries them out one by one: requests side by side are as fast. */
const AT_ONCE = 16;
/** After so many failures the rest would fail, too. */
const MOST_FAILURES = 100;

/**
 * Deletes every key, whatever becomes of the others; one that is not there is deleted already.
 *
 * @throws BackupError that names the first key that could not be deleted, and says how many there are
 */
export async function deleteObjects(
  connection: GcsConnection,
  place: GcsPlace,
  keys: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const failures: { readonly key: string; readonly error: unknown }[] = [];
  let hasUnclearAbsence = false;
  const left = keys.values();
  const work = async () => {
    // they share one iterator: each takes the next key that is left
    for (const key of left) {
      if (failures.length >= MOST_FAILURES) return;
      const outcome = await deleteObject(connection, place, key, signal).catch((error: unknown) => {
        signal.throwIfAborted();
        failures.push({ key, error });
      });
      if (outcome === 'unclear') hasUnclearAbsence = true;
    }
  };
  signal.throwIfAborted();
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, keys.length) }, work));
  if (failures.length > 0) throw summary(failures, keys);
  // a bucket that is missing has none of them either
  if (hasUnclearAbsence) {
    for await (const _ of listObjects(connection, place, '', { signal, pageKeys: 1 })) break;
  }
}

async function deleteObject(
  connection: GcsConnection,
  { bucket, root, named }: GcsPlace,
  key: string,
  signal: AbortSignal,
): Promise<'done' | 'unclear'> {
  try {
    await connection.call(`delete ${named(key)}`, {
      method: 'DELETE',
      path: `/storage/v1/b/${encodeURIComponent(bucket)}/o/${encodeURIComponent(root + key)}`,
      signal,
    });
    return 'done';
  } catch (error) {
    if (isFailure(error, NO_SUCH_OBJECT)) return 'done';
    if (isFailure(error, 'notFound')) return 'unclear';
    throw error;
  }
}

function summary(
  failures: readonly { readonly key: string; readonly error: unknown }[],
  keys: readonly string[],
) {
  const [first, ...others] = failures.toSorted((a, b) => keys.indexOf(a.key) - keys.indexOf(b.key));
  if (others.length === 0 || !isBackupError(first?.error)) return first?.error;
  const { code, message, hint, cause } = first.error;
  return new BackupError(code, `${message}, and ${others.length} more of ${keys.length}`, { hint, cause });
}
