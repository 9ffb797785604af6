import type { ObjectLock } from '../core/object-lock.ts';
import { isBackupError } from '../core/errors.ts';
import { believed } from './believed.ts';
import type { LockReader } from './object-store.ts';
import type { S3Connection, S3Place } from './s3-client.ts';
import { isFailure } from './s3-errors.ts';

/** Of a bucket: `unknown` when the key may not ask. */
type Locking = 'on' | 'off' | 'unknown';

/** What the two requests for one object say: a lock, none, or the rights that are missing. */
type Told = { readonly lock: ObjectLock | undefined } | { readonly missing: readonly string[] };

/** Words for "nothing of that kind is set". */
const NONE = ['NoSuchObjectLockConfiguration', 'ObjectLockConfigurationNotFoundError'];
/** Of servers that do not know the question. */
const NO_SUCH_QUESTION = ['NotImplemented', 'MethodNotAllowed'];
const UNSEEN =
  'whether the store locks them could not be asked: this key may look neither at the locks of the bucket (s3:GetBucketObjectLockConfiguration) nor at its objects (s3:GetObject)';

/**
 * Asks for the locks of single objects. Whether the bucket has object lock at all is asked once for some minutes: where it
 * has none, nothing else is. With it one `HEAD` tells the lock of an object, but leaves it out for a key that may not see
 * it, and some servers leave it out always; so the first object without one in some minutes is asked for by the requests
 * that say "denied". Where they tell what the `HEAD` did not, they are asked for every object.
 */
export function createS3LockReader(
  connection: S3Connection,
  { Bucket, root, named }: S3Place,
  now: () => number = Date.now,
): LockReader {
  const ofBucket = believed(askBucket);
  /** What a `HEAD` without a lock means: `none`, nothing, or that the key lacks rights. */
  const silence = believed(async (signal, key: string) => {
    const told = await askObject(key, signal);
    if ('missing' in told) return told;
    return told.lock === undefined ? 'none' : 'nothing';
  });

  async function askBucket(signal: AbortSignal): Promise<Locking> {
    try {
      const answer = await connection.call(
        `look at the locks of s3://${Bucket}`,
        { signal },
        (client, sdk, send) => client.send(new sdk.GetObjectLockConfigurationCommand({ Bucket }), send),
      );
      return answer.ObjectLockConfiguration?.ObjectLockEnabled === 'Enabled' ? 'on' : 'off';
    } catch (error) {
      // a server that takes the question for one about an object knows no locks
      if (isFailure(error, ...NONE, ...NO_SUCH_QUESTION, 'NoSuchKey')) return 'off';
      if (isBackupError(error, 'access-denied', 'config-invalid')) return 'unknown';
      throw error;
    }
  }

  /** By the requests that have a right each, and so can be denied. */
  async function askObject(key: string, signal: AbortSignal): Promise<Told> {
    const what = `look at the lock of ${named(key)}`;
    const target = { Bucket, Key: root + key };
    const missing: string[] = [];
    const unless = (right: string) => (error: unknown) => {
      if (isFailure(error, ...NONE, ...NO_SUCH_QUESTION, 'NoSuchKey')) return undefined;
      if (!isBackupError(error, 'access-denied')) throw error;
      missing.push(right);
      return undefined;
    };
    const retention = await connection
      .call(what, { signal }, (client, sdk, send) =>
        client.send(new sdk.GetObjectRetentionCommand(target), send),
      )
      .catch(unless('s3:GetObjectRetention'));
    const hold = await connection
      .call(what, { signal }, (client, sdk, send) =>
        client.send(new sdk.GetObjectLegalHoldCommand(target), send),
      )
      .catch(unless('s3:GetObjectLegalHold'));
    if (missing.length > 0) return { missing };
    return { lock: lockFrom(retention?.Retention?.RetainUntilDate, hold?.LegalHold?.Status) };
  }

  /** `denied`: the key may not look at the object. */
  async function askHead(key: string, signal: AbortSignal): Promise<Told | 'denied' | 'absent'> {
    try {
      const answer = await connection.call(
        `look at the lock of ${named(key)}`,
        { signal },
        (client, sdk, send) => client.send(new sdk.HeadObjectCommand({ Bucket, Key: root + key }), send),
      );
      return { lock: lockFrom(answer.ObjectLockRetainUntilDate, answer.ObjectLockLegalHoldStatus) };
    } catch (error) {
      if (isFailure(error, 'NotFound', 'NoSuchKey')) return 'absent';
      if (isBackupError(error, 'access-denied')) return 'denied';
      throw error;
    }
  }

  async function lockOf(key: string, signal: AbortSignal): Promise<ObjectLock | undefined> {
    const locking = await ofBucket(signal);
    if (locking === 'off') return undefined;
    const head = await askHead(key, signal);
    if (head === 'absent') return undefined;
    const ask = async () => {
      const told = await askObject(key, signal);
      return 'missing' in told ? { unknown: unknownFor(told.missing) } : told.lock;
    };
    // a key that may not even ask about the bucket is believed: most buckets have no locks, and most keys few rights
    if (locking === 'unknown') return head === 'denied' ? { unseen: UNSEEN } : lockIn(head);
    if (head === 'denied') return ask();
    const lock = lockIn(head);
    // a retention that is over says nothing about a hold that the key may not see
    if (lock?.legalHold === true || !(lock?.until === undefined || lock.until.getTime() <= now()))
      return lock;
    const meant = await silence(signal, key);
    if (meant === 'none') return lock;
    return meant === 'nothing' ? ask() : { unknown: unknownFor(meant.missing) };
  }

  return { lockOf, hasLocks: async (signal) => (await ofBucket(signal)) !== 'off' };
}

function lockIn(told: Told): ObjectLock | undefined {
  return 'lock' in told ? told.lock : undefined;
}

function lockFrom(until: Date | undefined, status: string | undefined): ObjectLock | undefined {
  const legalHold = status === 'ON';
  if (until === undefined && !legalHold) return undefined;
  return { ...(until && { until }), ...(legalHold && { legalHold }) };
}

function unknownFor(rights: readonly string[]): string {
  return `whether the bucket has it locked is not known: this key lacks ${rights.join(' and ')}`;
}
