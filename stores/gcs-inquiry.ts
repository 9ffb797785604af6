import { isBackupError } from '../core/errors.ts';
import type { GcsConnection, GcsPlace } from './gcs-client.ts';
import { field } from './gcs-errors.ts';
import type { StoreTraits } from './object-store.ts';

/** Of the service itself; every object is compared with its CRC-32C. */
const GOOGLE_TRAITS = {
  multipartIfAbsent: 'yes',
  checksums: 'yes',
  bulkDelete: 'no',
  listPaging: 'yes',
  listStart: 'yes',
} as const;

/** What the bucket is set to, where the key may look (`storage.buckets.get`). */
export async function inquireGcs(
  connection: GcsConnection,
  { bucket }: GcsPlace,
  signal: AbortSignal,
): Promise<StoreTraits> {
  try {
    const { json } = await connection.call(`look at the settings of gs://${bucket}`, {
      method: 'GET',
      path: `/storage/v1/b/${encodeURIComponent(bucket)}`,
      query: { fields: 'versioning,retentionPolicy,defaultEventBasedHold' },
      signal,
    });
    const isLocked =
      field(json, 'retentionPolicy') !== undefined || field(json, 'defaultEventBasedHold') === true;
    return {
      ...GOOGLE_TRAITS,
      versioning: field(field(json, 'versioning'), 'enabled') === true ? 'on' : 'off',
      objectLock: isLocked ? 'on' : 'off',
    };
  } catch (error) {
    signal.throwIfAborted();
    // Few keys may look at the bucket itself; those of an archive need not.
    if (!isBackupError(error)) throw error;
    return { ...GOOGLE_TRAITS, versioning: 'unknown', objectLock: 'unknown' };
  }
}
