import { hostname } from 'node:os';
import type { S3ClientConfig } from '@aws-sdk/client-s3';
import { BackupError } from '../core/errors.ts';
import { unlessAborted } from '../streams/abortable.ts';
import { failureOf } from './s3-errors.ts';

type Credentials = Extract<NonNullable<S3ClientConfig['credentials']>, (...given: never[]) => unknown>;
type RequestHandler = NonNullable<S3ClientConfig['requestHandler']>;

/** With its own tries; whoever gives credentials is near. */
const GIVER_LIMIT_MS = 45_000;

/**
 * The credentials of this host, by the SDK's own chain: environment, profile, web identity (IRSA), the agent of a container
 * or pod, the role of the machine. It keeps them, and asks anew five minutes before they end; while nobody answers the old
 * ones are used to their end. Loads the chain, which takes a moment.
 *
 * @param requestHandler for the service that gives tokens (STS); the agents on the host itself are asked directly
 */
export async function hostCredentials(requestHandler: RequestHandler): Promise<Credentials> {
  const { defaultProvider } = await import('@aws-sdk/credential-provider-node');
  const give = defaultProvider({ clientConfig: { requestHandler } });
  return async (properties) => {
    const limit = AbortSignal.timeout(GIVER_LIMIT_MS);
    try {
      return await unlessAborted(give(properties), limit);
    } catch (error) {
      throw toSignInError(limit.aborted ? undefined : error, process.env);
    }
  };
}

/** By which way this host has an identity, as the chain finds it. */
function wayOf(environment: NodeJS.ProcessEnv): { readonly name: string; readonly look: string } {
  const isSet = (...names: readonly string[]) => names.every((name) => (environment[name] ?? '') !== '');
  if (isSet('AWS_WEB_IDENTITY_TOKEN_FILE', 'AWS_ROLE_ARN')) {
    return {
      name: 'web identity',
      look: 'the role of AWS_ROLE_ARN has to trust the token of AWS_WEB_IDENTITY_TOKEN_FILE, and STS has to be reached',
    };
  }
  for (const name of ['AWS_CONTAINER_CREDENTIALS_FULL_URI', 'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI']) {
    if (isSet(name))
      return {
        name: 'container',
        look: `the agent of ${name} has to answer, and the service account needs a role`,
      };
  }
  if (isSet('AWS_PROFILE'))
    return { name: 'profile', look: 'the profile of AWS_PROFILE has to be there, with keys or a role' };
  return {
    name: 'instance',
    look: 'give the machine an instance profile or the service account a role (IRSA, EKS pod identity)',
  };
}

/** The chain's texts may quote tokens and answers: they are left alone. */
function toSignInError(error: unknown, environment: NodeJS.ProcessEnv): BackupError {
  const { name, look } = wayOf(environment);
  const { code, status } = failureOf(error);
  const said =
    error === undefined ? 'no answer in time' : status === undefined ? code : `${code}, status ${status}`;
  const isDown =
    error === undefined ||
    (status !== undefined && (status >= 500 || status === 429)) ||
    /^(E(CONN|HOST|NET|PIPE|AI_|TIMEDOUT|NOTFOUND)|ERR_PROXY_TUNNEL$|TimeoutError$)/.test(code) ||
    // what is announced by the environment and gives nothing may be about to start
    (name === 'container' && code === 'CredentialsProviderError');
  return new BackupError(
    isDown ? 'store-unavailable' : 'access-denied',
    `AWS gave this host (${hostname()}) no credentials for the store: ${name}, ${said}`,
    {
      cause: { code: NO_CREDENTIALS, status },
      hint: `s3Credentials.inheritFromIAMRole, or no s3Credentials, wants an identity of this host: ${look}; else give accessKeyId and secretAccessKey, without a manifest AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY`,
    },
  );
}

/** The code in the cause of errors of this file. */
const NO_CREDENTIALS = 'NoCredentials';
