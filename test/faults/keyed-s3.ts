/** An S3 server with keys that come and go, and what a Cluster needs to use it. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { CreateBucketCommand, ListMultipartUploadsCommand, S3Client } from '@aws-sdk/client-s3';
import { freePort, runSuccessfully, startProcess } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { toolPath } from '../support/tools.ts';
import { until } from '../support/wait.ts';

const ROOT = { access: 'walkeep-root-key', secret: 'walkeep-root-secret-0123456789' };
const REGION = 'us-east-1';

export interface KeyedS3 {
  readonly endpointUrl: string;
  readonly bucket: string;
  readonly directory: string;
  /** A key that may do everything in the bucket. */
  createKey(access: string, secret: string): Promise<void>;
  /** From the next request on nobody knows it. */
  revokeKey(access: string): Promise<void>;
  /** Keys of uploads in parts that were begun and neither completed nor aborted. */
  unfinishedUploads(): Promise<string[]>;
}

export async function startKeyedS3(): Promise<KeyedS3> {
  const home = makeTempDir('keyed');
  const [directory, users] = [join(home, 'data'), join(home, 'iam')];
  for (const folder of [directory, users]) mkdirSync(folder);
  const port = await freePort();
  const endpointUrl = `http://127.0.0.1:${port}`;
  const env = { ...process.env, ROOT_ACCESS_KEY: ROOT.access, ROOT_SECRET_KEY: ROOT.secret };
  const program = toolPath('versitygw');
  const server = startProcess(
    program,
    `--port 127.0.0.1:${port} --region ${REGION} --health /health --quiet --iam-cache-disable --iam-dir`
      .split(' ')
      .concat(users, 'posix', directory),
    { env },
  );
  await until('versitygw to answer', async () => {
    if (!server.isRunning()) throw new Error(`versitygw did not start:\n${server.output()}`);
    return (await fetch(`${endpointUrl}/health`)).ok;
  });
  const admin = (command: string, ...args: string[]) =>
    runSuccessfully(program, ['admin', '--endpoint-url', endpointUrl, command, ...args], {
      env: { ...process.env, ADMIN_ACCESS_KEY_ID: ROOT.access, ADMIN_SECRET_ACCESS_KEY: ROOT.secret },
    });
  const client = new S3Client({
    endpoint: endpointUrl,
    region: REGION,
    forcePathStyle: true,
    credentials: { accessKeyId: ROOT.access, secretAccessKey: ROOT.secret },
  });
  const bucket = 'backups';
  await client.send(new CreateBucketCommand({ Bucket: bucket }));
  return {
    endpointUrl,
    bucket,
    directory,
    async createKey(access, secret) {
      await admin('create-user', '--access', access, '--secret', secret, '--role', 'admin');
    },
    async revokeKey(access) {
      await admin('delete-user', '--access', access);
    },
    async unfinishedUploads() {
      const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket: bucket }));
      return Uploads.map(({ Key = '?' }) => Key);
    },
  };
}
