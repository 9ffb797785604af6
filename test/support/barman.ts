import { join } from 'node:path';
import type { Postgres } from './postgres.ts';
import { type Outcome, runProcess } from './processes.ts';
import type { S3Server } from './s3.ts';
import { serverUser } from './server-user.ts';
import { toolPath } from './tools.ts';

/** The stock tools that read and write the same layout. */
export type BarmanCloudProgram =
  | 'barman-cloud-backup'
  | 'barman-cloud-backup-delete'
  | 'barman-cloud-backup-keep'
  | 'barman-cloud-backup-list'
  | 'barman-cloud-backup-show'
  | 'barman-cloud-check-wal-archive'
  | 'barman-cloud-restore'
  | 'barman-cloud-wal-archive'
  | 'barman-cloud-wal-restore';

/** Where barman-cloud is to look: an S3 server, and the PostgreSQL it backs up, if it does. */
export interface BarmanTarget {
  readonly s3: S3Server;
  readonly postgres?: Postgres;
}

/** The words that barman-cloud needs to find the S3 server, to come before the destination URL. */
export function s3Arguments(s3: S3Server): string[] {
  return ['--cloud-provider', 'aws-s3', '--endpoint-url', s3.endpointUrl, '--addressing-style', 'path'];
}

/** Runs a barman-cloud program to its end as the server's user, whatever the end is. */
export async function barmanCloud(
  program: BarmanCloudProgram,
  args: readonly string[],
  { s3, postgres }: BarmanTarget,
): Promise<Outcome> {
  const env = { PATH: process.env['PATH'], ...s3.environment, ...postgres?.environment };
  return runProcess(join(toolPath('barman'), program), args, { env, user: serverUser, timeoutMs: 300_000 });
}
