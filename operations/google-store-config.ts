import type { Secret } from '../core/secret.ts';
import type { SecretKeySelector } from '../manifests/fields.ts';
import type { Destination, StoreRequest } from '../manifests/object-store-location.ts';
import type { GcsStoreConfig } from '../stores/store-config.ts';

type BucketDestination = Extract<Destination, { kind: 's3' | 'gs' }>;
type ResolveText = (selector: SecretKeySelector) => Promise<Secret>;

/**
 * How to open a bucket of Google Cloud Storage. Without any credentials Google's own chain is used, but an endpoint
 * without TLS is asked as nobody then, as an emulator wants it.
 *
 * @throws BackupError `secret-missing`
 */
export async function googleStoreConfig(
  { endpointUrl, secrets, ambientGoogle, kmsKeyName }: StoreRequest,
  { bucket, prefix }: BucketDestination,
  text: ResolveText,
): Promise<GcsStoreConfig> {
  const given = secrets.applicationCredentials;
  return {
    kind: 'gs',
    bucket,
    prefix,
    ...(endpointUrl === undefined ? {} : { endpointUrl }),
    ...(kmsKeyName === undefined ? {} : { kmsKeyName }),
    ...(given ? { credentials: { way: 'json', json: await text(given) } } : {}),
    ...(ambientGoogle === true && !given ? { credentials: { way: 'ambient' } } : {}),
  };
}
