import { isBackupError } from '../core/errors.ts';
import type { ObjectLock } from '../core/object-lock.ts';
import type { AzureConnection, AzurePlace } from './azure-client.ts';
import { isFailure, NO_SUCH_BLOB } from './azure-errors.ts';
import { believed } from './believed.ts';
import type { LockReader } from './object-store.ts';

/** What of a container keeps blobs: all of them, or each for itself; `unknown` when the key may not ask. */
type Locking = { readonly all: ObjectLock } | 'each' | 'none' | 'unknown';

const UNTOLD =
  'the store keeps it: locked by the immutability policy of its container, until a time that Azure does not tell';
const DENIED =
  'whether the container has it locked is not known: this key may not read the properties of its blobs';
const UNSEEN =
  'whether the store locks them could not be asked: this key may read neither the properties of the container nor those of its blobs';

/**
 * Asks for the locks of single blobs. What the container has is asked once for some minutes: where it has nothing of the
 * kind, no blob is asked about.
 */
export function createAzureLockReader(connection: AzureConnection, { root, named }: AzurePlace): LockReader {
  const ofContainer = believed(askContainer);

  async function askContainer(signal: AbortSignal): Promise<Locking> {
    try {
      const found = await connection.call(`look at the locks of ${named('')}`, { signal }, (container, sdk) =>
        container.getProperties(sdk),
      );
      if (found.hasLegalHold === true) return { all: { legalHold: true } };
      if (found.isImmutableStorageWithVersioningEnabled === true) return 'each';
      return found.hasImmutabilityPolicy === true ? { all: { unknown: UNTOLD } } : 'none';
    } catch (error) {
      // a SAS of blobs alone may not ask this
      if (isBackupError(error, 'access-denied', 'config-invalid')) return 'unknown';
      throw error;
    }
  }

  async function lockOf(key: string, signal: AbortSignal): Promise<ObjectLock | undefined> {
    const locking = await ofContainer(signal);
    if (locking === 'none') return undefined;
    if (typeof locking === 'object') return locking.all;
    try {
      const { immutabilityPolicyExpiresOn: until, legalHold } = await connection.call(
        `look at the lock of ${named(key)}`,
        { signal },
        (container, sdk) => container.getBlobClient(root + key).getProperties(sdk),
      );
      if (until === undefined && legalHold !== true) return undefined;
      return { ...(until && { until }), ...(legalHold === true && { legalHold }) };
    } catch (error) {
      if (isFailure(error, NO_SUCH_BLOB)) return undefined;
      if (isBackupError(error, 'access-denied'))
        return locking === 'unknown' ? { unseen: UNSEEN } : { unknown: DENIED };
      throw error;
    }
  }

  return { lockOf, hasLocks: async (signal) => (await ofContainer(signal)) !== 'none' };
}
