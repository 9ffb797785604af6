import { BackupError } from '../core/errors.ts';
import type { SecretKeySelector } from './fields.ts';
import { storeArguments, type StoreArguments } from './object-store-arguments.ts';
import type { BarmanObjectStore } from './object-store.ts';
import { show, type Fault } from './problem.ts';

/** Where a repository is, from `destinationPath`. `prefix` has no slash at either end and may be empty. */
export type Destination =
  | { readonly kind: 's3' | 'gs'; readonly bucket: string; readonly prefix: string; readonly url: string }
  | {
      readonly kind: 'azure';
      readonly account: string;
      readonly container: string;
      readonly prefix: string;
      /** Only of an emulator: `http://127.0.0.1:10000`. */
      readonly endpoint?: string;
      readonly url: string;
    }
  | { readonly kind: 'file'; readonly directory: string; readonly url: string };

const FORMS =
  's3://BUCKET/PREFIX, gs://BUCKET/PREFIX, https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX or file:///DIRECTORY';

/** Parses `destinationPath`, or says what is wrong with it. */
export function examineDestination(text: string): { destination: Destination } | { fault: Fault } {
  const fault = textFault(text);
  if (fault) return { fault };
  const [, scheme = '', rest = ''] = /^([A-Za-z][A-Za-z0-9+.-]*):\/\/(.*)$/.exec(text) ?? [];
  if (/^[^/]*@/.test(rest)) {
    // Not shown: what stands before the @ may be a password.
    return refuse(
      'holds a user name or password',
      'leave it out, and name a Secret under s3Credentials or azureCredentials',
    );
  }
  switch (scheme.toLowerCase()) {
    case 's3':
      return bucketDestination('s3', rest, text);
    case 'gs':
      return bucketDestination('gs', rest, text);
    case 'http':
    case 'https':
      return azureDestination(scheme.toLowerCase(), rest, text);
    case 'file':
      return fileDestination(rest, text);
    case '':
      return refuse(
        `${show(text)} is no address`,
        text.startsWith('/') ? `for a directory write file://${text}` : `write ${FORMS}`,
      );
    default:
      return refuse(`"${scheme}://" is no kind of store walkeep knows`, `write ${FORMS}`);
  }
}

/** @throws BackupError `manifest-invalid` */
export function parseDestination(destinationPath: string): Destination {
  const examined = examineDestination(destinationPath);
  if ('destination' in examined) return examined.destination;
  throw new BackupError('manifest-invalid', `destinationPath ${examined.fault.message}`, {
    hint: examined.fault.fix,
  });
}

function refuse(message: string, fix: string): { fault: Fault } {
  return { fault: { message, fix } };
}

function textFault(text: string): Fault | undefined {
  if (text === '') return { message: 'is empty', fix: `write ${FORMS}` };
  if (text !== text.trim()) return { message: 'begins or ends with a space', fix: 'remove it' };
  if (/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(text)) {
    return { message: 'holds a control character', fix: 'write it again by hand' };
  }
  if (/[?#]/.test(text)) {
    return {
      message: 'holds ? or #, which an address gives another meaning',
      fix: 'choose a prefix without them',
    };
  }
  if (text.includes('\\')) return { message: 'holds a backslash', fix: 'separate folders with /' };
  return undefined;
}

/** What is wrong with the folders of a path (no slash at its beginning); one slash at the end is fine. */
function foldersFault(path: string): Fault | undefined {
  const folders = path.replace(/\/$/, '').split('/');
  if (path !== '' && path !== '/' && folders.includes('')) {
    return {
      message: 'holds //',
      fix: 'write single slashes: barman would look for a folder without a name',
    };
  }
  if (folders.includes('..') || folders.includes('.')) {
    return { message: 'holds a folder "." or ".."', fix: 'write the path it leads to' };
  }
  return undefined;
}

function bucketDestination(kind: 's3' | 'gs', rest: string, text: string) {
  const slash = rest.indexOf('/');
  const bucket = slash < 0 ? rest : rest.slice(0, slash);
  const path = slash < 0 ? '' : rest.slice(slash + 1);
  if (!/^[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?$/.test(bucket) || bucket.includes('..')) {
    return refuse(
      `${show(text)} names no bucket`,
      `write ${kind}://BUCKET/PREFIX, such as ${kind}://backups/postgres`,
    );
  }
  const fault = foldersFault(path);
  if (fault) return { fault };
  const prefix = path.replace(/\/$/, '');
  return { destination: { kind, bucket, prefix, url: joinUrl(`${kind}://${bucket}`, prefix) } };
}

const AZURE_HOST =
  /^([a-z0-9]{3,24})\.blob\.core\.(windows\.net|chinacloudapi\.cn|usgovcloudapi\.net|cloudapi\.de)$/;

/** Azure's rule; `$root` and its like are Azure's own. */
const CONTAINER = /^(?=.{3,63}$)(?:[a-z0-9]+(?:-[a-z0-9]+)*|\$(?:root|web|logs))$/;

function azureDestination(scheme: string, rest: string, text: string) {
  const [host = '', ...path] = rest.split('/');
  const fault = foldersFault(path.join('/'));
  if (fault) return { fault };
  const folders = path.filter((folder) => folder !== '');
  const azure = AZURE_HOST.exec(host.toLowerCase());
  if (!azure && /\.blob\.core\./i.test(host)) {
    return refuse(
      `${show(text)} names no Azure account: ${show(host)} is the address of none`,
      'correct the account (3 to 24 small letters and digits): https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX',
    );
  }
  // Any other host is an emulator, which has the account as first folder.
  const [account, container, ...rest2] = azure ? [azure[1], ...folders] : folders;
  if (account === undefined || container === undefined || !/^[A-Za-z0-9.-]+(:\d{1,5})?$/.test(host)) {
    return refuse(
      `${show(text)} names no Azure container`,
      'write https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX; an S3 server at this address is s3://BUCKET/PREFIX with endpointURL',
    );
  }
  if (!CONTAINER.test(container)) {
    return refuse(
      `${show(text)} names the Azure container ${show(container)}, and there can be none of that name`,
      'correct it: 3 to 63 small letters, digits and single hyphens, a letter or digit first and last',
    );
  }
  const endpoint = azure ? {} : { endpoint: `${scheme}://${host}` };
  const prefix = rest2.join('/');
  const root = azure ? `${scheme}://${host}/${container}` : `${scheme}://${host}/${account}/${container}`;
  return {
    destination: {
      kind: 'azure' as const,
      account,
      container,
      prefix,
      ...endpoint,
      url: joinUrl(root, prefix),
    },
  };
}

function fileDestination(rest: string, text: string) {
  if (!rest.startsWith('/')) {
    return refuse(`${show(text)} is no absolute directory`, 'write three slashes: file:///srv/backups');
  }
  if (/%[0-9A-Fa-f]{2}/.test(rest)) {
    return refuse('holds a percent escape, which file:// takes as it stands', 'write the character itself');
  }
  const fault = foldersFault(rest.slice(1));
  if (fault) return { fault };
  const directory = rest.replace(/\/$/, '');
  if (directory === '')
    return refuse('is the root directory', 'name a directory of its own: file:///srv/backups');
  return { destination: { kind: 'file' as const, directory, url: `file://${directory}` } };
}

function joinUrl(root: string, prefix: string): string {
  return prefix === '' ? root : `${root}/${prefix}`;
}

/** What is wrong with the name of the server folder below `destinationPath`; it may be a path, as barman has it. */
export function serverNameFault(text: string): Fault | undefined {
  const fix = 'write a folder name, such as the name of the cluster';
  const fault =
    textFault(text) ?? (text.endsWith('/') ? { message: 'ends with a slash' } : foldersFault(text));
  if (fault) return { message: text === '' ? 'is empty' : `${show(text)} ${fault.message}`, fix };
  if (text.startsWith('/')) return { message: `${show(text)} begins with a slash`, fix };
  if (new TextEncoder().encode(text).length > 255) return { message: 'is longer than 255 bytes', fix };
  return undefined;
}

/** What is wrong with `endpointURL`. */
export function endpointFault(text: string): Fault | undefined {
  const fix = 'write the address of the server alone, such as https://minio.example.com:9000';
  if (/^[^/]*\/\/[^/]*@/.test(text)) {
    return {
      message: 'holds a user name or password',
      fix: 'leave it out, and name a Secret under s3Credentials',
    };
  }
  if (!URL.canParse(text)) return { message: `${show(text)} is no address`, fix };
  const url = new URL(text);
  if (url.protocol !== 'https:' && url.protocol !== 'http:') {
    return { message: `${show(text)} does not begin with https:// or http://`, fix };
  }
  if (url.search !== '' || url.hash !== '') return { message: `${show(text)} holds ? or #`, fix };
  return undefined;
}

/** What to open, and where the secrets for it are; nothing here is secret. */
export interface StoreRequest extends StoreArguments {
  readonly destination: Destination;
  /** The folder below the destination. */
  readonly server: string;
  readonly endpointUrl?: string;
  readonly secrets: {
    readonly endpointCA?: SecretKeySelector;
    readonly accessKeyId?: SecretKeySelector;
    readonly secretAccessKey?: SecretKeySelector;
    readonly sessionToken?: SecretKeySelector;
    readonly region?: SecretKeySelector;
    readonly connectionString?: SecretKeySelector;
    readonly storageAccount?: SecretKeySelector;
    readonly storageKey?: SecretKeySelector;
    readonly storageSasToken?: SecretKeySelector;
    readonly applicationCredentials?: SecretKeySelector;
  };
  /** Of Azure: only the managed or workload identity of the host is asked, not the whole chain. */
  readonly managedIdentity?: boolean;
  /** Of Google: the identity of the host is asked for, at an endpoint without TLS too. */
  readonly ambientGoogle?: boolean;
}

/**
 * What has to be opened for `store`. With `inheritFromIAMRole` and its like, or without credentials, no key is asked for:
 * the provider's own chain is used.
 *
 * @param serverName the folder when the store names none: the cluster's, or the external cluster's, name
 * @throws BackupError `manifest-invalid`
 */
export function toStoreRequest(store: BarmanObjectStore, serverName: string): StoreRequest {
  const server = store.serverName ?? serverName;
  const fault = serverNameFault(server);
  if (fault) throw new BackupError('manifest-invalid', `serverName ${fault.message}`, { hint: fault.fix });
  const given = store.s3Credentials?.inheritFromIAMRole === true ? undefined : store.s3Credentials;
  const google = store.googleCredentials?.applicationCredentials;
  const destination = parseDestination(store.destinationPath);
  return {
    destination,
    server,
    ...(store.endpointURL === undefined ? {} : { endpointUrl: store.endpointURL }),
    ...(store.azureCredentials?.inheritFromAzureAD === true ? { managedIdentity: true } : {}),
    ...(store.googleCredentials?.gkeEnvironment === true ? { ambientGoogle: true } : {}),
    ...storeArguments(store, destination.kind),
    secrets: {
      ...(store.endpointCA ? { endpointCA: store.endpointCA } : {}),
      ...(given?.accessKeyId ? { accessKeyId: given.accessKeyId } : {}),
      ...(given?.secretAccessKey ? { secretAccessKey: given.secretAccessKey } : {}),
      ...(given?.sessionToken ? { sessionToken: given.sessionToken } : {}),
      ...(given?.region ? { region: given.region } : {}),
      ...azureSecrets(store),
      ...(google ? { applicationCredentials: google } : {}),
    },
  };
}

function azureSecrets({ azureCredentials: given }: BarmanObjectStore): StoreRequest['secrets'] {
  return {
    ...(given?.connectionString ? { connectionString: given.connectionString } : {}),
    ...(given?.storageAccount ? { storageAccount: given.storageAccount } : {}),
    ...(given?.storageKey ? { storageKey: given.storageKey } : {}),
    ...(given?.storageSasToken ? { storageSasToken: given.storageSasToken } : {}),
  };
}
