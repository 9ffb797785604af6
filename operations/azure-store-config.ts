import { BackupError } from '../core/errors.ts';
import type { Secret } from '../core/secret.ts';
import type { SecretKeySelector } from '../manifests/fields.ts';
import type { Destination, StoreRequest } from '../manifests/object-store-location.ts';
import type { AzureCredentials, AzureStoreConfig } from '../stores/store-config.ts';

type AzureDestination = Extract<Destination, { kind: 'azure' }>;
type ResolveText = (selector: SecretKeySelector) => Promise<Secret>;

/**
 * How to open a container of Azure: at `endpointURL` when one is given (a domain of one's own), else at the host of
 * `destinationPath`. A connection string may say another address, and is followed when the store is opened.
 *
 * @throws BackupError `secret-missing`; `config-invalid` when the secret names another account than the address
 */
export async function azureStoreConfig(
  { endpointUrl, secrets, managedIdentity, encryptionScope }: StoreRequest,
  destination: AzureDestination,
  text: ResolveText,
): Promise<AzureStoreConfig> {
  const { account, container, prefix, endpoint, url } = destination;
  const own = endpoint === undefined ? new URL(url).origin : `${endpoint}/${account}`;
  const credentials = await resolveCredentials(secrets, destination, text);
  return {
    kind: 'azure',
    serviceUrl: endpointUrl ?? own,
    container,
    prefix,
    ...(encryptionScope === undefined ? {} : { encryptionScope }),
    credentials: credentials ?? { way: managedIdentity === true ? 'managed-identity' : 'default' },
  };
}

async function resolveCredentials(
  secrets: StoreRequest['secrets'],
  destination: AzureDestination,
  text: ResolveText,
): Promise<AzureCredentials | undefined> {
  if (secrets.connectionString) {
    return { way: 'connection-string', connectionString: await text(secrets.connectionString) };
  }
  if (secrets.storageAccount) {
    // an account is kept in a Secret, but is none: it stands in every address
    requireSameAccount((await text(secrets.storageAccount)).reveal(), destination);
  }
  if (secrets.storageKey) {
    return { way: 'account-key', account: destination.account, key: await text(secrets.storageKey) };
  }
  return secrets.storageSasToken && { way: 'sas-token', token: await text(secrets.storageSasToken) };
}

function requireSameAccount(account: string, { account: ofAddress, url }: AzureDestination): void {
  if (account === ofAddress) return;
  // a key that was put there by mistake is not shown
  const given = /^[a-z0-9]{3,24}$/.test(account)
    ? `names the account "${account}"`
    : 'is no name of an account';
  throw new BackupError(
    'config-invalid',
    `the secret of storageAccount ${given}, but ${url} is of "${ofAddress}"`,
    {
      hint: 'correct one of them; for a domain of your own write destinationPath as https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX, and the domain as endpointURL',
    },
  );
}
