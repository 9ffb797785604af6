import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { answer, refuse, type S3Double, type Script, startS3Double } from '../stores/s3-double.ts';
import { runProcess } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';
import { makeSegment } from '../support/wal-bytes.ts';

const SEGMENT = '000000020000000000000003';
const KEY = 'arn:aws:kms:eu-west-1:123456789012:key/backup';

/** A bucket that keeps what it is given. */
function bucket(): Script {
  const objects = new Map<string, Buffer>();
  const list = (prefix: string): string => {
    const keys = [...objects.keys()].filter((key) => key.startsWith(prefix)).toSorted();
    const entries = keys.map(
      (key) =>
        `<Contents><Key>${key}</Key><Size>${objects.get(key)?.length}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>`,
    );
    return `<ListBucketResult><IsTruncated>false</IsTruncated>${entries.join('')}</ListBucketResult>`;
  };
  return ({ method, key, query, headers, body }, response) => {
    const found = objects.get(key);
    if (query.has('list-type')) return answer(response, 200, list(query.get('prefix') ?? ''));
    if (method === 'PUT') {
      if (found && headers['if-none-match'] === '*') return refuse(response, 412, 'PreconditionFailed');
      objects.set(key, body);
      return answer(response, 200);
    }
    if (found === undefined) return refuse(response, 404, 'NoSuchKey');
    response.writeHead(200, {
      etag: '"e"',
      'content-length': String(found.length),
      'last-modified': new Date(0).toUTCString(),
    });
    return response.end(method === 'HEAD' ? undefined : found);
  };
}

let double: S3Double;
let pgdata: string;
beforeEach(async () => {
  double = await startS3Double(bucket());
  pgdata = makeTempDir('data');
  mkdirSync(join(pgdata, 'pg_wal'));
  writeFileSync(join(pgdata, 'pg_wal', SEGMENT), makeSegment(SEGMENT, { seed: 1 }));
  writeFileSync(join(pgdata, 'pg_wal/00000002.history'), '1\t0/1000000\tno recovery target specified\n');
});
afterEach(() => double.close());

const push = (...options: string[]) =>
  runProcess(
    join(repositoryRoot, 'scripts/walkeep-cloud-wal-archive'),
    [
      ...options,
      '--endpoint-url',
      double.config.endpointUrl ?? '',
      's3://bucket/p',
      'srv',
      `pg_wal/${SEGMENT}`,
    ],
    {
      cwd: pgdata,
      env: {
        PATH: process.env['PATH'],
        AWS_ACCESS_KEY_ID: 'id',
        AWS_SECRET_ACCESS_KEY: 'canary',
        AWS_CONFIG_FILE: '/nowhere',
      },
    },
  );
const headersOf = (part: string) =>
  double.seen
    .filter(({ method, key }) => method === 'PUT' && key.includes(part))
    .map(({ headers }) => headers);

it('E5: WAL asks for its encryption, key and tags, and histories for theirs', async () => {
  const tags = ['--tag', 'team,a', '--tag', 'kind,wal', '--history-tag', 'team,b'];
  const outcome = await push('-e', 'aws:kms', '--sse-kms-key-id', KEY, ...tags);
  expect(outcome).toMatchObject({ code: 0, stderr: '' });
  const encryption = {
    'x-amz-server-side-encryption': 'aws:kms',
    'x-amz-server-side-encryption-aws-kms-key-id': KEY,
  };
  expect(headersOf(SEGMENT)).toMatchObject([{ ...encryption, 'x-amz-tagging': 'team=a&kind=wal' }]);
  expect(headersOf('.history')).toMatchObject([{ ...encryption, 'x-amz-tagging': 'team=b' }]);
});

it('E5: AES256 has no key, and no tags are sent where none are asked for', async () => {
  expect(await push('-e', 'AES256')).toMatchObject({ code: 0 });
  const [headers] = headersOf(SEGMENT);
  expect(headers).toMatchObject({ 'x-amz-server-side-encryption': 'AES256' });
  for (const name of ['x-amz-server-side-encryption-aws-kms-key-id', 'x-amz-tagging', 'x-amz-storage-class'])
    expect(headers).not.toHaveProperty(name);
});
