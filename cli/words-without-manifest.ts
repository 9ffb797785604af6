import { BackupError } from '../core/errors.ts';

/** Who named the repository without any manifest: barman's arguments, or `restore --repository`. */
export type Namer = 'drop-in' | 'restore';

type Word = readonly [said: RegExp, inDropIn: string, inRestore: string];

const AZURE_IDENTITY =
  'AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, a managed or workload identity of this host, or az login';
const GOOGLE_FILE = 'GOOGLE_APPLICATION_CREDENTIALS';

/** What stores and repositories say in the fields of a manifest; whole phrases first, then what is left of them. */
const WORDS: readonly Word[] = [
  // Amazon
  [/s3Credentials\.region in the manifest, or AWS_REGION/g, 'AWS_DEFAULT_REGION or AWS_REGION', 'AWS_REGION'],
  [
    /(knows no such access key id: )correct the secret that holds it/g,
    '$1correct AWS_ACCESS_KEY_ID, or the profile',
    '$1correct AWS_ACCESS_KEY_ID, or the profile',
  ],
  [
    /(the secret access key is not [^;]*: )correct the secret/g,
    '$1correct AWS_SECRET_ACCESS_KEY, or the profile',
    '$1correct AWS_SECRET_ACCESS_KEY, or the profile',
  ],
  [
    /s3Credentials\.inheritFromIAMRole, or no s3Credentials, wants an identity of this host: (.*); else give accessKeyId and secretAccessKey, without a manifest AWS_/g,
    'without keys an identity of this host is wanted: $1; else set AWS_',
    'without keys an identity of this host is wanted: $1; else set AWS_',
  ],
  [/s3Credentials(\.\w+)*/g, 'the AWS_ variables', 'the AWS_ variables'],
  // Google
  [
    /give googleCredentials\.applicationCredentials, set GOOGLE_APPLICATION_CREDENTIALS for the worker/g,
    `set ${GOOGLE_FILE}`,
    `set ${GOOGLE_FILE}`,
  ],
  [
    /store the JSON file of the service account as it was downloaded in the Secret that applicationCredentials names/g,
    `name the JSON file of the service account, as it was downloaded, in ${GOOGLE_FILE}`,
    `name the JSON file of the service account, as it was downloaded, in ${GOOGLE_FILE}`,
  ],
  [
    /is of another account \(correct the secret\)/g,
    `is of another account (correct ${GOOGLE_FILE})`,
    `is of another account (correct ${GOOGLE_FILE})`,
  ],
  [
    /write https:\/\/ in endpointURL; for an emulator leave googleCredentials out, or set STORAGE_EMULATOR_HOST/g,
    'for an emulator set STORAGE_EMULATOR_HOST, which is sent no token',
    'write https:// in --endpoint-url; for an emulator set STORAGE_EMULATOR_HOST',
  ],
  [
    /(is no Google Cloud Storage: )correct endpointURL/g,
    '$1correct STORAGE_EMULATOR_HOST',
    '$1correct --endpoint-url',
  ],
  [
    /(the Secret that )?(googleCredentials(\.\w+)*|applicationCredentials)( names)?/g,
    GOOGLE_FILE,
    GOOGLE_FILE,
  ],
  // Azure
  [
    /inheritFromAzureAD wants [^;]*; useDefaultAzureCredentials also takes .*az login/g,
    `set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_KEY; or give ${AZURE_IDENTITY}`,
    `set ${AZURE_IDENTITY}`,
  ],
  [
    /give storageKey or a connection string/g,
    'set AZURE_STORAGE_KEY or AZURE_STORAGE_CONNECTION_STRING',
    'give a manifest by -f with storageKey or a connection string',
  ],
  [/the secret of connectionString/g, 'AZURE_STORAGE_CONNECTION_STRING', 'the connection string'],
  [/the secret of storageKey/g, 'AZURE_STORAGE_KEY', 'the key'],
  [/the secret of storageSasToken/g, 'AZURE_STORAGE_SAS_TOKEN', 'the SAS token'],
  [/azureCredentials(\.\w+)*/g, 'the AZURE_ variables', 'the AZURE_ variables'],
  // where it is
  [
    /correct destinationPath or endpointURL/g,
    'correct the URL or the endpoint',
    'correct --repository or --endpoint-url',
  ],
  [
    /check endpointURL and endpointCA/g,
    'check the endpoint, and AWS_CA_BUNDLE',
    'check --endpoint-url; an authority of your own is named by NODE_EXTRA_CA_CERTS',
  ],
  [/destinationPath/g, 'the URL', '--repository'],
  [/endpointURL/g, '--endpoint-url', '--endpoint-url'],
  [/endpointCA/g, 'AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE', 'NODE_EXTRA_CA_CERTS'],
  [/serverName/g, 'SERVER_NAME', '--server-name'],
  [/correct the secret( that holds it)?/g, 'correct the credentials', 'correct the credentials'],
  // who works, and on what
  [
    /give the user of walkeep the directory/g,
    'give the user of PostgreSQL the directory',
    'give this user the directory',
  ],
  [/check --pgdata/g, 'check WAL_PATH, which is %p', 'check --pgdata'],
  [/ (for|of) the worker/g, ' of this user', ' of this user'],
];

/**
 * An error in the words of who reads it: stores advise in the fields of a manifest, and here is none. What it says is
 * otherwise left as it is; what is no BackupError, too.
 */
export function inWordsOf(namer: Namer, error: unknown): unknown {
  if (!(error instanceof BackupError)) return error;
  const message = reworded(namer, error.message);
  const hint = reworded(namer, error.hint);
  if (message === error.message && hint === error.hint) return error;
  return new BackupError(error.code, message, { cause: error, hint });
}

function reworded(namer: Namer, text: string): string {
  let words = text;
  for (const [said, inDropIn, inRestore] of WORDS)
    words = words.replaceAll(said, namer === 'drop-in' ? inDropIn : inRestore);
  return words;
}
