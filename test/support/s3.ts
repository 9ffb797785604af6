import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { freePort, type Process, startProcess } from './processes.ts';
import { makeTempDir } from './temp.ts';
import { toolPath } from './tools.ts';
import { until } from './wait.ts';

export interface S3Server {
  readonly endpointUrl: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Made already. */
  readonly bucket: string;
  /** Where the server keeps buckets as folders and objects as files: to damage or remove one behind its back. */
  readonly directory: string;
  /** For whoever reads the AWS variables, such as barman-cloud. */
  readonly environment: Readonly<Record<string, string>>;
  client(): S3Client;
  createBucket(name: string): Promise<void>;
  stop(): Promise<void>;
  kill9(): Promise<void>;
  /** Again, on the same port and directory. */
  start(): Promise<void>;
}

const REGION = 'us-east-1';
const BUCKET = 'backups';

/** An S3 server (versitygw) of a test's own with an empty bucket, ended with the test file at the latest. */
export async function startS3({ versioning = false }: { versioning?: boolean } = {}): Promise<S3Server> {
  const home = makeTempDir('s3');
  const directory = join(home, 'data');
  const versions = join(home, 'versions');
  for (const folder of [directory, versions]) mkdirSync(folder);
  const port = await freePort();
  const endpointUrl = `http://127.0.0.1:${port}`;
  const keys = { accessKeyId: 'walkeep-test-key', secretAccessKey: 'walkeep-test-secret-0123456789' };
  let gateway: Process | undefined;

  const client = (): S3Client =>
    new S3Client({ endpoint: endpointUrl, region: REGION, forcePathStyle: true, credentials: keys });
  const start = async (): Promise<void> => {
    const args = [
      '--port',
      `127.0.0.1:${port}`,
      '--region',
      REGION,
      '--health',
      '/health',
      '--quiet',
      'posix',
    ];
    if (versioning) args.push('--versioning-dir', versions);
    // The keys of root travel by environment, not on the command line that everybody can read.
    const env = { ...process.env, ROOT_ACCESS_KEY: keys.accessKeyId, ROOT_SECRET_KEY: keys.secretAccessKey };
    const started = startProcess(toolPath('versitygw'), [...args, directory], { env });
    gateway = started;
    const healthy = async (): Promise<boolean> =>
      !started.isRunning() || (await fetch(`${endpointUrl}/health`)).ok;
    await until('versitygw to answer', healthy);
    if (!started.isRunning()) throw new Error(`versitygw did not start:\n${started.output()}`);
  };
  const createBucket = async (name: string): Promise<void> => {
    const s3 = client();
    await s3.send(new CreateBucketCommand({ Bucket: name }));
    s3.destroy();
  };

  await start();
  await createBucket(BUCKET);
  return {
    endpointUrl,
    region: REGION,
    ...keys,
    bucket: BUCKET,
    directory,
    environment: {
      AWS_ACCESS_KEY_ID: keys.accessKeyId,
      AWS_SECRET_ACCESS_KEY: keys.secretAccessKey,
      AWS_DEFAULT_REGION: REGION,
      AWS_EC2_METADATA_DISABLED: 'true',
    },
    client,
    createBucket,
    start,
    async stop() {
      await gateway?.stop();
    },
    async kill9() {
      await gateway?.kill9();
    },
  };
}
