import type { ObjectLock } from '../core/object-lock.ts';
import { field } from './gcs-errors.ts';

/** Of an object's record: what its lock is read from. */
export const LOCK_FIELDS = 'retentionExpirationTime,temporaryHold,eventBasedHold,retention(retainUntilTime)';

/**
 * The lock in the record of an object: the retention of its bucket (`retentionExpirationTime`) or of its own, whichever
 * ends later, and both kinds of holds. A hold can be on any object of any bucket.
 */
export function lockOfRecord(record: unknown): ObjectLock | undefined {
  const isHeld = field(record, 'temporaryHold') === true || field(record, 'eventBasedHold') === true;
  const times = [
    field(record, 'retentionExpirationTime'),
    field(field(record, 'retention'), 'retainUntilTime'),
  ].filter((time) => time !== undefined);
  if (!isHeld && times.length === 0) return undefined;
  // one that can't be read is no end, and so the longest
  const ends = times.map((time) => new Date(typeof time === 'string' ? time : Number.NaN).getTime());
  return {
    ...(ends.length > 0 && { until: new Date(Math.max(...ends)) }),
    ...(isHeld && { legalHold: true }),
  };
}
