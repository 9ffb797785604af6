import { BackupError, isBackupError } from '../core/errors.ts';
import type { AzureConnection, AzurePlace } from './azure-client.ts';
import { isFailure, NO_SUCH_BLOB } from './azure-errors.ts';

/** Requests in flight. A batch would be one request of 256, and cost the same; not every rights of a SAS allow it. */
const AT_ONCE = 16;

/**
 * Deletes every object of `keys` that is there. One that can't be deleted does not keep the others.
 *
 * @throws BackupError of the first key that could not be deleted, with the number of the others
 */
export async function deleteEach(
  connection: AzureConnection,
  { root, named }: AzurePlace,
  keys: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const rest = keys.values();
  const failures: BackupError[] = [];
  let isHopeless = false;

  async function worker(): Promise<void> {
    for (const key of rest) {
      if (isHopeless) return;
      try {
        await connection.call(`delete ${named(key)}`, { signal }, (container, sdk) =>
          container.getBlobClient(root + key).delete(sdk),
        );
      } catch (error) {
        if (isFailure(error, NO_SUCH_BLOB)) continue;
        isHopeless ||= !isBackupError(error) || isBackupError(error, 'bucket-missing', 'store-unavailable');
        if (!isBackupError(error)) throw error;
        failures.push(error);
      }
    }
  }

  // all have ended when this has: a request on its way would outlive the call
  const ended = await Promise.allSettled(Array.from({ length: Math.min(AT_ONCE, keys.length) }, worker));
  signal.throwIfAborted();
  for (const end of ended) if (end.status === 'rejected') throw end.reason;
  const [first, ...others] = failures;
  if (first === undefined) return;
  if (others.length === 0) throw first;
  throw new BackupError(first.code, `${first.message} (and ${others.length} more could not be deleted)`, {
    cause: first.cause,
    hint: first.hint,
  });
}
