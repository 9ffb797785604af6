/** Stores with planted secrets, one for each kind of credential, and what their servers and stand-ins know of them. */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { startSignIn } from '../stores/gcs-sign-in.ts';
import { startAzurite, type Azurite } from '../support/azurite.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { startFakeGcs } from '../support/fake-gcs.ts';
import { runSuccessfully } from '../support/processes.ts';
import { startS3 } from '../support/s3.ts';
import { makeTempDir } from '../support/temp.ts';

type Values = Readonly<Record<string, string>>;

export interface SecretPlace {
  /** As a Cluster has it; it names values of the Secret `planted`. */
  readonly barmanObjectStore: Readonly<Record<string, unknown>>;
  /** In its place where the store is to refuse. */
  readonly wrongObjectStore?: Readonly<Record<string, unknown>>;
  /** Values of the Secret, and others in their place that the store refuses. */
  readonly right: Values;
  readonly wrong?: Values;
  /** How the worker and the commands find the stand-ins. Holds no secret. */
  readonly environment: Values;
  /** What nobody may show, also what was given out meanwhile. */
  secrets(): readonly string[];
  /** From now on nobody gets a token. */
  refuse?(): void;
  allow?(): void;
  /** For the programs in the place of barman's: arguments, and the environment that is theirs alone. */
  readonly dropIn?: { readonly args: readonly string[]; readonly right: Values; readonly wrong: Values };
}

const reference = (key: string) => ({ name: 'planted', key });

/** Keys of S3; the wrong ones have a session token, which this server refuses. */
async function s3Keys(): Promise<SecretPlace> {
  const s3 = await startS3();
  const token = 'planted+session/token==0123456789';
  const wrong = 'planted-wrong/secret+0123456789';
  const right = { ID: s3.accessKeyId, KEY: s3.secretAccessKey, TOKEN: token, REGION: s3.region };
  const s3Credentials = {
    accessKeyId: reference('ID'),
    secretAccessKey: reference('KEY'),
    region: reference('REGION'),
  };
  const store = { destinationPath: `s3://${s3.bucket}/deep`, endpointURL: s3.endpointUrl };
  return {
    barmanObjectStore: { ...store, s3Credentials },
    wrongObjectStore: { ...store, s3Credentials: { ...s3Credentials, sessionToken: reference('TOKEN') } },
    right,
    wrong: { ...right, KEY: wrong },
    environment: {},
    secrets: () => [s3.secretAccessKey, token, wrong],
    dropIn: {
      args: ['--endpoint-url', s3.endpointUrl, `s3://${s3.bucket}/drop`],
      right: s3.environment,
      wrong: { ...s3.environment, AWS_SECRET_ACCESS_KEY: wrong, AWS_SESSION_TOKEN: token },
    },
  };
}

const WRONG_ACCOUNT_KEY = Buffer.from('planted-wrong-account-key').toString('base64');
/** A key is base64; what it stands for is no less a secret. */
const ofKey = (key: string) => [key, Buffer.from(key, 'base64').toString('latin1')];
const signatureOf = (sas: string) => new URLSearchParams(sas).get('sig') ?? '';

async function azure(
  credentials: (azurite: Azurite) => Pick<SecretPlace, 'right' | 'wrong' | 'dropIn'> & {
    readonly azureCredentials: object;
    readonly secrets: readonly string[];
  },
): Promise<SecretPlace> {
  const azurite = await startAzurite();
  const { azureCredentials, secrets, ...rest } = credentials(azurite);
  return {
    barmanObjectStore: { destinationPath: azurite.destination('deep'), azureCredentials },
    environment: {},
    secrets: () => [...secrets, ...ofKey(azurite.accountKey)],
    ...rest,
  };
}

const connectionString = () =>
  azure((azurite) => {
    const wrong = azurite.connectionString.replace(azurite.accountKey, WRONG_ACCOUNT_KEY);
    const destination = azurite.destination('drop');
    return {
      azureCredentials: { connectionString: reference('TEXT') },
      right: { TEXT: azurite.connectionString },
      wrong: { TEXT: wrong },
      secrets: [azurite.connectionString, ...ofKey(WRONG_ACCOUNT_KEY)],
      dropIn: {
        args: ['--cloud-provider', 'azure-blob-storage', destination],
        right: { AZURE_STORAGE_CONNECTION_STRING: azurite.connectionString },
        wrong: { AZURE_STORAGE_CONNECTION_STRING: wrong },
      },
    };
  });

const accountKey = () =>
  azure((azurite) => ({
    azureCredentials: { storageAccount: reference('ACCOUNT'), storageKey: reference('KEY') },
    right: { ACCOUNT: azurite.account, KEY: azurite.accountKey },
    wrong: { ACCOUNT: azurite.account, KEY: WRONG_ACCOUNT_KEY },
    secrets: ofKey(WRONG_ACCOUNT_KEY),
    dropIn: {
      args: ['--cloud-provider', 'azure-blob-storage', azurite.destination('drop')],
      right: { AZURE_STORAGE_KEY: azurite.accountKey },
      wrong: { AZURE_STORAGE_KEY: WRONG_ACCOUNT_KEY },
    },
  }));

/** A signature travels in every address; the wrong one has run out. */
const sharedSignature = () =>
  azure((azurite) => {
    const [right, expired] = [azurite.sas('racwdlt'), azurite.sas('racwdlt', -60_000)];
    return {
      azureCredentials: { storageAccount: reference('ACCOUNT'), storageSasToken: reference('SAS') },
      right: { ACCOUNT: azurite.account, SAS: right },
      wrong: { ACCOUNT: azurite.account, SAS: expired },
      secrets: [right, expired, signatureOf(right), signatureOf(expired)],
      dropIn: {
        args: ['--cloud-provider', 'azure-blob-storage', azurite.destination('drop')],
        right: { AZURE_STORAGE_SAS_TOKEN: right },
        wrong: { AZURE_STORAGE_SAS_TOKEN: expired },
      },
    };
  });

/** Azure's token service for machines, on loopback, with tokens as Azurite takes them: none is like the other. */
async function managedIdentity(): Promise<SecretPlace> {
  const cwd = makeTempDir('azurite-tls');
  const line =
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=azurite -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem';
  await runSuccessfully('openssl', line.split(' '), { cwd });
  const [cert, key] = [join(cwd, 'cert.pem'), join(cwd, 'key.pem')];
  const azurite = await startAzurite({ cert, key });
  const given: string[] = [];
  let refusing = false;
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const server = createServer((_, response) => {
    const now = Math.floor(Date.now() / 1000);
    const claims = { iat: now, nbf: now - 60, exp: now + 3600, jti: `planted-${given.length}` };
    const named = { iss: 'https://sts.windows.net/tenant/', aud: 'https://storage.azure.com' };
    const token = `${part({ alg: 'RS256', typ: 'JWT' })}.${part({ ...claims, ...named })}.c2ln`;
    response.setHeader('content-type', 'application/json');
    given.push(token);
    const expiry = { expires_in: '3600', expires_on: String(claims.exp) };
    // A careless service, that quotes what it should keep.
    if (refusing) response.writeHead(400).end(JSON.stringify({ error: 'denied', error_description: token }));
    else response.end(JSON.stringify({ access_token: token, token_type: 'Bearer', ...expiry }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onCleanUp(() => void server.close());
  return {
    barmanObjectStore: {
      destinationPath: azurite.destination('deep'),
      azureCredentials: { inheritFromAzureAD: true },
      endpointCA: reference('CA'),
    },
    right: { CA: readFileSync(cert, 'utf8') },
    environment: {
      AZURE_POD_IDENTITY_AUTHORITY_HOST: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    },
    secrets: () => given.flatMap((token) => [token, token.split('.')[1] ?? token]),
    refuse: () => (refusing = true),
    allow: () => (refusing = false),
  };
}

/** The file of a service account; the wrong one is of an account that the token server refuses. */
async function serviceAccount(): Promise<SecretPlace> {
  const [gcs, good, bad] = [await startFakeGcs(), await startSignIn(), await startSignIn()];
  onCleanUp(() => good.close());
  onCleanUp(() => bad.close());
  bad.refuse = (response) => {
    response.writeHead(400, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ error: 'invalid_grant', error_description: 'canary-token-quoted' }));
  };
  return {
    barmanObjectStore: {
      destinationPath: `gs://${gcs.bucket}/deep`,
      endpointURL: gcs.endpointUrl,
      googleCredentials: { applicationCredentials: reference('JSON') },
    },
    right: { JSON: good.serviceAccount.reveal() },
    wrong: { JSON: bad.serviceAccount.reveal() },
    environment: {},
    // Each token begins so; what signs a request for one is in three parts.
    secrets: () => [
      'canary-token-',
      ...good.keyLines,
      ...bad.keyLines,
      ...assertions(good),
      ...assertions(bad),
    ],
  };
}

const assertions = ({ seen }: Awaited<ReturnType<typeof startSignIn>>) =>
  seen
    .flatMap(({ form }) => form.get('assertion') ?? [])
    .map((text) => text.slice(text.lastIndexOf('.') + 1));

/** The metadata server of a machine, on loopback. */
async function metadataServer(): Promise<SecretPlace> {
  const [gcs, signIn] = [await startFakeGcs(), await startSignIn()];
  onCleanUp(() => signIn.close());
  return {
    barmanObjectStore: {
      destinationPath: `gs://${gcs.bucket}/deep`,
      endpointURL: gcs.endpointUrl,
      googleCredentials: { gkeEnvironment: true },
    },
    right: { UNUSED: 'x' },
    environment: { GCE_METADATA_HOST: signIn.host },
    secrets: () => ['canary-token-'],
    refuse() {
      signIn.refuse = (response) => response.writeHead(403).end('canary-token-quoted');
    },
    allow() {
      signIn.refuse = undefined;
    },
  };
}

export const SECRET_PLACES: Readonly<Record<string, () => Promise<SecretPlace>>> = {
  's3-keys': s3Keys,
  'azure-connection-string': connectionString,
  'azure-account-key': accountKey,
  'azure-sas': sharedSignature,
  'azure-identity': managedIdentity,
  'google-service-account': serviceAccount,
  'google-metadata': metadataServer,
};
