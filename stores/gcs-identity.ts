import type { AuthClient, JWTInput } from 'google-auth-library';
import { BackupError } from '../core/errors.ts';
import type { Secret } from '../core/secret.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { field, toBreakdown } from './gcs-errors.ts';
import type { Http } from './gcs-http.ts';
import { askMetadataDirectly } from './proxy.ts';
import { createServiceAccountIdentity, parseServiceAccount, SCOPE, unusable } from './gcs-service-account.ts';
import { silenceMetadataLookup } from './metadata-warning.ts';

/** Who asks. */
export interface Identity {
  /**
   * What a request needs to be answered, with a token that is still good for some minutes.
   *
   * @throws BackupError `access-denied` | `config-invalid` | `store-unavailable`; the signal's reason
   */
  headers(signal: AbortSignal): Promise<Readonly<Record<string, string>>>;
  /** The store refused the token: the next one is a new one. */
  forget(): void;
}

/** Nobody: for emulators, and buckets that are open to all. */
export const anonymous: Identity = { headers: () => Promise.resolve({}), forget: () => undefined };

/**
 * The identity of a JSON file of credentials. A service account signs in by ours; federated and impersonated identities
 * by Google's library, which runs programs only where GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES says so.
 *
 * @throws BackupError `config-invalid`, which quotes nothing of it
 */
export function createGivenIdentity(credentials: Secret, http: Http): Identity {
  let json: unknown;
  try {
    json = JSON.parse(credentials.reveal());
  } catch {
    throw unusable('they are no JSON');
  }
  const type = field(json, 'type');
  if (type === 'service_account') return createServiceAccountIdentity(parseServiceAccount(json), http);
  if (typeof json !== 'object' || json === null || typeof type !== 'string')
    throw unusable('type is missing');
  return createLibraryIdentity(json);
}

/**
 * The identity of this host, as Google's tools find it: the file of GOOGLE_APPLICATION_CREDENTIALS, that of gcloud, the
 * metadata server (also of GKE with workload identity; GCE_METADATA_HOST moves it).
 */
export function createAmbientIdentity(): Identity {
  return createLibraryIdentity();
}

function createLibraryIdentity(credentials?: JWTInput): Identity {
  let opening: Promise<AuthClient> | undefined;
  const open = async () => {
    // the library asks the metadata server through a proxy otherwise
    askMetadataDirectly(process.env);
    // loaded when it is needed: it costs time that a directory store should not have to pay
    const { GoogleAuth } = await import('google-auth-library');
    silenceMetadataLookup();
    const auth = new GoogleAuth({
      scopes: [SCOPE],
      // no call of ours needs one; without it the library would run gcloud to find it
      projectId: 'unused',
      ...(credentials === undefined ? {} : { credentials }),
    });
    return auth.getClient();
  };
  return {
    async headers(signal) {
      opening ??= open();
      try {
        const client = await unlessAborted(opening, signal);
        return Object.fromEntries(await unlessAborted(client.getRequestHeaders(), signal));
      } catch (error) {
        // the library keeps a failure; a token server that was away comes back
        opening = undefined;
        throw signal.aborted ? signal.reason : toSignInError(error);
      }
    },
    forget() {
      opening = undefined;
    },
  };
}

/** Whether the file that the environment names is not there, is no credentials, or holds a key that is none: trying again is no help. */
function isOfTheFile(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = field(error, 'code');
  const isKey = typeof code === 'string' && code.startsWith('ERR_OSSL');
  return (
    isKey || error.message.includes('specified by the GOOGLE_APPLICATION_CREDENTIALS environment variable')
  );
}

/** The library's errors quote requests with what signs them: only their code and status are kept. */
function toSignInError(error: unknown): BackupError {
  const what = 'sign in to Google';
  if (error instanceof Error && /Could not load the default credentials/i.test(error.message)) {
    return new BackupError('access-denied', `${what} failed: this host has no identity of its own`, {
      hint: 'give googleCredentials.applicationCredentials, set GOOGLE_APPLICATION_CREDENTIALS for the worker, or run it where a metadata server answers',
    });
  }
  if (isOfTheFile(error)) {
    // The library quotes the file: its words are left aside.
    return new BackupError('config-invalid', `${what} failed: the file of credentials can't be used`, {
      hint: 'GOOGLE_APPLICATION_CREDENTIALS names a JSON file as it was downloaded, with its private key, that this user may read',
    });
  }
  const status = Number(field(error, 'status') ?? field(field(error, 'response'), 'status'));
  if (status >= 400 && status < 500 && status !== 408 && status !== 429) {
    return new BackupError(
      'access-denied',
      `${what} failed: the token server refused it with status ${status}`,
      {
        hint: "give this host's service account the access scope of storage, or correct the credentials",
      },
    );
  }
  return toBreakdown(status > 0 ? undefined : error, what, 'the token server');
}
