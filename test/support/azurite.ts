import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ContainerClient, StorageSharedKeyCredential } from '@azure/storage-blob';
import { Secret } from '../../core/secret.ts';
import { AZURE_TIMEOUTS, createAzureConnection } from '../../stores/azure-client.ts';
import { freePort, type Process, startProcess } from './processes.ts';
import { makeTempDir } from './temp.ts';
import { toolPath } from './tools.ts';
import { until } from './wait.ts';

/** A blob server in the form of Azure's emulator: the account is the first folder of every address. */
export interface Azurite {
  readonly account: string;
  readonly accountKey: string;
  /** `http://127.0.0.1:PORT/ACCOUNT`. */
  readonly serviceUrl: string;
  readonly connectionString: string;
  /** Made already. */
  readonly container: string;
  /** What an object's address is for people: `destinationPath` of a manifest, the URL for barman-cloud. */
  destination(prefix?: string): string;
  /** Not over https: it does not know the authority. */
  client(container?: string): ContainerClient;
  createContainer(name: string): Promise<void>;
  /** A signature for the container `container`, with these permissions (`racwdl`), from now for `forMs`. */
  sas(permissions: string, forMs?: number): string;
  stop(): Promise<void>;
  kill9(): Promise<void>;
  /** Again, on the same port and directory. */
  start(): Promise<void>;
}

const ACCOUNT = 'walkeeptest';
const ACCOUNT_KEY = Buffer.from('walkeep-test-account-key-0123456789').toString('base64');
const CONTAINER = 'backups';

/**
 * An Azurite of a test's own with an empty container, ended with the test file at the latest.
 *
 * @param tls files of a certificate for 127.0.0.1 that is its own authority: then https is spoken, and tokens are taken
 *   from whoever has one that looks right, without a look at its signature
 */
export async function startAzurite(tls?: { readonly cert: string; readonly key: string }): Promise<Azurite> {
  const directory = makeTempDir('azurite');
  const port = await freePort();
  const serviceUrl = `${tls ? 'https' : 'http'}://127.0.0.1:${port}/${ACCOUNT}`;
  const caPem = tls && readFileSync(tls.cert, 'utf8');
  let server: Process | undefined;

  const client = (container = CONTAINER) =>
    new ContainerClient(`${serviceUrl}/${container}`, new StorageSharedKeyCredential(ACCOUNT, ACCOUNT_KEY), {
      retryOptions: { maxTries: 1 },
    });
  const start = async (): Promise<void> => {
    // its own program is a script of the Node that is first on PATH
    const started = startProcess(
      process.execPath,
      [
        toolPath('azurite'),
        `--blobHost=127.0.0.1`,
        `--blobPort=${port}`,
        `--location=${directory}`,
        '--silent',
        '--disableTelemetry',
        // it refuses the version of the protocol that the SDK speaks otherwise
        '--skipApiVersionCheck',
        ...(tls ? ['--oauth=basic', `--cert=${tls.cert}`, `--key=${tls.key}`] : []),
      ],
      { env: { ...process.env, AZURITE_ACCOUNTS: `${ACCOUNT}:${ACCOUNT_KEY}` } },
    );
    server = started;
    // its own word for it: whoever answers at the port may be another, who took it meanwhile
    const listens = () => !started.isRunning() || started.output().includes('successfully listens');
    await until('azurite to listen', listens);
    if (!started.isRunning()) throw new Error(`azurite did not start:\n${started.output()}`);
  };
  const createContainer = async (container: string): Promise<void> => {
    const connection = createAzureConnection(
      {
        kind: 'azure',
        serviceUrl,
        container,
        prefix: '',
        ...(caPem === undefined ? {} : { caPem }),
        credentials: { way: 'account-key', account: ACCOUNT, key: new Secret(ACCOUNT_KEY) },
      },
      AZURE_TIMEOUTS,
    );
    const { signal } = new AbortController();
    await connection.call(`create ${container}`, { signal }, (made, options) => made.create(options));
    await connection.close();
  };

  await start();
  await createContainer(CONTAINER);
  return {
    account: ACCOUNT,
    accountKey: ACCOUNT_KEY,
    serviceUrl,
    connectionString: `DefaultEndpointsProtocol=http;AccountName=${ACCOUNT};AccountKey=${ACCOUNT_KEY};BlobEndpoint=${serviceUrl};`,
    container: CONTAINER,
    destination: (prefix) => `${serviceUrl}/${CONTAINER}${prefix === undefined ? '' : `/${prefix}`}`,
    client,
    createContainer,
    sas: (permissions, forMs = 3_600_000) => signContainer(permissions, forMs),
    start,
    async stop() {
      await server?.stop();
    },
    async kill9() {
      await server?.kill9();
    },
  };
}

const VERSION = '2022-11-02';
const PROTOCOLS = 'https,http';

/** A service SAS of the container, as the manual of Azure describes it. */
function signContainer(permissions: string, forMs: number): string {
  const time = (at: number) => `${new Date(at).toISOString().slice(0, 19)}Z`;
  const [begin, end] = [time(Date.now() - 300_000), time(Date.now() + forMs)];
  const resource = `/blob/${ACCOUNT}/${CONTAINER}`;
  // seven that are empty: the time of a snapshot, a scope, and the headers of answers
  const signed = [permissions, begin, end, resource, '', '', PROTOCOLS, VERSION, 'c']
    .concat(Array.from({ length: 7 }, () => ''))
    .join('\n');
  const signature = createHmac('sha256', Buffer.from(ACCOUNT_KEY, 'base64')).update(signed).digest('base64');
  return new URLSearchParams({
    sv: VERSION,
    sr: 'c',
    sp: permissions,
    st: begin,
    se: end,
    spr: PROTOCOLS,
    sig: signature,
  }).toString();
}
