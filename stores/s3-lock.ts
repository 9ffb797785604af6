import type { ObjectLock } from '../core/object-lock.ts';
import { isBackupError } from '../core/errors.ts';
import { believed } from './believed.ts';
import type { S3Connection, S3Place } from './s3-client.ts';
import { isFailure } from './s3-errors.ts';

/** Of a bucket: `unknown` when the key may not ask. */
type Locking = 'on' | 'off' | 'unknown';

/** Words for "nothing of that kind is set". */
const NONE = ['NoSuchObjectLockConfiguration', 'ObjectLockConfigurationNotFoundError'];
const UNSEEN =
  'whether the bucket has it locked is not known: this key may see neither s3:GetObjectRetention nor s3:GetObjectLegalHold';

/**
 * Asks for the locks of single objects. Whether the bucket has object lock at all is asked once for some minutes: where it
 * has none, nothing else is. With it one `HEAD` tells the lock of an object, but leaves it out for a key that may not see
 * it; so the first object without one is asked for by the requests that say "denied".
 */
export function createS3LockReader(
  connection: S3Connection,
  { Bucket, root, named }: S3Place,
): (key: string, signal: AbortSignal) => Promise<ObjectLock | undefined> {
  const ofBucket = believed(askBucket);
  let seesLocks: boolean | undefined;

  async function askBucket(signal: AbortSignal): Promise<Locking> {
    try {
      const answer = await connection.call(
        `look at the locks of s3://${Bucket}`,
        { signal },
        (client, sdk, send) => client.send(new sdk.GetObjectLockConfigurationCommand({ Bucket }), send),
      );
      return answer.ObjectLockConfiguration?.ObjectLockEnabled === 'Enabled' ? 'on' : 'off';
    } catch (error) {
      if (isFailure(error, ...NONE, 'NotImplemented', 'MethodNotAllowed')) return 'off';
      if (isBackupError(error, 'access-denied', 'config-invalid')) return 'unknown';
      throw error;
    }
  }

  /** Whether the key may see the locks of objects; those of `key` are asked for. */
  async function maySeeLocks(key: string, signal: AbortSignal): Promise<boolean> {
    const what = `look at the lock of ${named(key)}`;
    const target = { Bucket, Key: root + key };
    const answers = (error: unknown) => {
      if (isFailure(error, ...NONE, 'NoSuchKey')) return true;
      if (isBackupError(error, 'access-denied')) return false;
      throw error;
    };
    const retention = await connection
      .call(what, { signal }, (client, sdk, send) =>
        client.send(new sdk.GetObjectRetentionCommand(target), send),
      )
      .then(() => true, answers);
    if (!retention) return false;
    return connection
      .call(what, { signal }, (client, sdk, send) =>
        client.send(new sdk.GetObjectLegalHoldCommand(target), send),
      )
      .then(() => true, answers);
  }

  return async (key, signal) => {
    const locking = await ofBucket(signal);
    if (locking === 'off') return undefined;
    try {
      const answer = await connection.call(
        `look at the lock of ${named(key)}`,
        { signal },
        (client, sdk, send) => client.send(new sdk.HeadObjectCommand({ Bucket, Key: root + key }), send),
      );
      const until = answer.ObjectLockRetainUntilDate;
      const legalHold = answer.ObjectLockLegalHoldStatus === 'ON';
      if (until !== undefined || legalHold)
        return { ...(until && { until }), ...(legalHold && { legalHold }) };
    } catch (error) {
      if (isFailure(error, 'NotFound', 'NoSuchKey')) return undefined;
      throw error;
    }
    // a key that may not even ask about the bucket is believed: most buckets have no locks, and most keys few rights
    if (locking === 'unknown') return undefined;
    seesLocks ??= await maySeeLocks(key, signal);
    return seesLocks ? undefined : { unknown: UNSEEN };
  };
}
