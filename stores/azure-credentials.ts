import { BackupError } from '../core/errors.ts';
import { Secret } from '../core/secret.ts';
import { createTokenSource } from './azure-tokens.ts';
import type { TokenSource } from './azure-tokens.ts';
import type { AzureStoreConfig } from './store-config.ts';

/** How requests prove who sends them. */
export type AzureSigning =
  | { readonly by: 'key'; readonly account: string; readonly key: Secret }
  | { readonly by: 'sas'; readonly query: Secret }
  | { readonly by: 'token'; readonly identity: AzureIdentity };

/** Who of this host asks for tokens. */
type AzureIdentity = 'managed' | 'cli' | 'default';

/** The address of the blob service without a slash at its end, and how requests to it are signed. */
export interface AzureAccess {
  readonly serviceUrl: string;
  readonly signing: AzureSigning;
}

/**
 * Where the store is asked, and how. A connection string names its own address, which wins, as with barman.
 *
 * @throws BackupError `config-invalid` when a secret is not what it should be; it is never quoted
 */
export function accessOf({ serviceUrl, credentials }: AzureStoreConfig): AzureAccess {
  const at = withoutSlash(serviceUrl);
  switch (credentials?.way) {
    case 'connection-string':
      return parseConnectionString(credentials.connectionString);
    case 'account-key':
      return { serviceUrl: at, signing: byKey(credentials.account, credentials.key.reveal()) };
    case 'sas-token':
      return { serviceUrl: at, signing: bySas(credentials.token.reveal()) };
    case 'managed-identity':
      return { serviceUrl: at, signing: byToken(at, 'managed') };
    case 'azure-cli':
      return { serviceUrl: at, signing: byToken(at, 'cli') };
    case 'default':
    case undefined:
      return { serviceUrl: at, signing: byToken(at, 'default') };
  }
}

/** Tokens of the host's identity. Loads the library for it, which takes a moment. */
export async function openTokens(identity: AzureIdentity): Promise<TokenSource> {
  const { AzureCliCredential, DefaultAzureCredential, ManagedIdentityCredential } =
    await import('@azure/identity');
  if (identity === 'cli') return createTokenSource(new AzureCliCredential());
  const clientId = process.env['AZURE_CLIENT_ID'];
  // the workload identity of Kubernetes is announced by these variables, and needs the id
  const isWorkload = process.env['AZURE_FEDERATED_TOKEN_FILE'] !== undefined;
  return createTokenSource(
    identity === 'default'
      ? new DefaultAzureCredential()
      : new ManagedIdentityCredential(isWorkload && clientId !== undefined ? { clientId } : {}),
  );
}

/** @throws BackupError `config-invalid` */
export function parseConnectionString(connectionString: Secret): AzureAccess {
  const fields = new Map<string, string>();
  for (const part of connectionString.reveal().split(';')) {
    const [, name, value] = /^\s*([A-Za-z]+)\s*=(.*)$/s.exec(part) ?? [];
    if (name !== undefined && value !== undefined) fields.set(name.toLowerCase(), value.trim());
    else if (part.trim() !== '') throw notOne('a part of it is not NAME=VALUE');
  }
  const account = fields.get('accountname');
  const suffix = fields.get('endpointsuffix') ?? 'core.windows.net';
  const protocol = fields.get('defaultendpointsprotocol') ?? 'https';
  const endpoint =
    fields.get('blobendpoint') ?? (account && `${protocol}://${account}.blob.${suffix}`) ?? undefined;
  if (!endpoint) throw notOne('it has neither AccountName nor BlobEndpoint');
  if (!/^https?:\/\/[^/?#@\s]+(\/[^?#\s]*)?$/.test(endpoint)) throw notOne('its BlobEndpoint is no address');
  const serviceUrl = withoutSlash(endpoint);
  const key = fields.get('accountkey');
  if (account && key) return { serviceUrl, signing: byKey(account, key) };
  const sas = fields.get('sharedaccesssignature');
  if (sas) return { serviceUrl, signing: bySas(sas) };
  throw notOne('it has neither AccountName with AccountKey nor SharedAccessSignature');
}

const notOne = (why: string) =>
  new BackupError('config-invalid', `the secret of connectionString is no connection string: ${why}`, {
    hint: 'copy it again from the page "Access keys" of the storage account: DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…',
  });

function byKey(account: string, key: string): AzureSigning {
  // bytes that are not base64 would be passed over, and the signature be another
  if (/^[A-Za-z0-9+/]+={0,2}$/.test(key)) return { by: 'key', account, key: new Secret(key) };
  throw new BackupError('config-invalid', `the secret of storageKey of account "${account}" is no base64`, {
    hint: 'copy key1 or key2 again from the page "Access keys" of the storage account',
  });
}

function bySas(token: string): AzureSigning {
  const query = token.trim().replace(/^\?/, '');
  if (/^[^\s?#]*\bsig=[^\s?#]+$/.test(query)) return { by: 'sas', query: new Secret(query) };
  throw new BackupError('config-invalid', 'the secret of storageSasToken is no shared access signature', {
    hint: 'it looks like sv=…&sp=racwdl&sig=…, and is the part of a SAS URL behind the question mark',
  });
}

function byToken(serviceUrl: string, identity: AzureIdentity): AzureSigning {
  if (serviceUrl.startsWith('https://')) return { by: 'token', identity };
  throw new BackupError(
    'config-invalid',
    `${serviceUrl} is not https, and a token is not sent in the clear`,
    {
      hint: 'write https://, or give storageKey or a connection string, which only sign',
    },
  );
}

const withoutSlash = (url: string) => url.replace(/\/+$/, '');
