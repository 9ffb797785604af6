import { existsSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { BackupError } from '../core/errors.ts';
import { describeOptions, parseCloudArguments, type CloudArguments } from './cloud-arguments.ts';
import { archiveExitCode, outcomeOfFailure, wantedExitCodes } from './cloud-exit-codes.ts';
import {
  ARCHIVE_OPTIONS,
  deadlineMsOf,
  requireNumbers,
  requireWalName,
  walStorageOf,
} from './cloud-options.ts';
import { walkeepVersion } from '../repository/walkeep-version.ts';
import { answerWhateverHappens, reportWalAlert, reportWalFailure } from './wal-context.ts';
import { inWordsOf } from './words-without-manifest.ts';

const COMMAND = 'walkeep-cloud-wal-archive';
const USAGE = `${COMMAND} [OPTIONS] DESTINATION_URL SERVER_NAME WAL_PATH`;
const SEE_HELP = `see ${COMMAND} --help`;

/**
 * The drop-in for barman-cloud-wal-archive: archives one file with its arguments and the credentials it would find, without
 * manifest, worker and Temporal.
 *
 * @returns 0 when the file is in the archive, durable and equal; else 1, or 2 for the command line, or barman's codes; it never throws
 */
export async function cloudWalArchiveMain(argv: readonly string[]): Promise<number> {
  const codes = wantedExitCodes(argv);
  answerWhateverHappens(() => archiveExitCode('failed', codes));
  let isTest = false;
  try {
    const args = parseCloudArguments(argv, ARCHIVE_OPTIONS, SEE_HELP);
    isTest = args.has('--test');
    if (codes === 'walkeep') requireNobodyWaits(args);
    if (args.has('--help')) process.stdout.write(help());
    else if (args.has('--version')) process.stdout.write(`${COMMAND} ${walkeepVersion()}\n`);
    else await archive(args);
    return archiveExitCode('done', codes);
  } catch (error) {
    reportWalFailure('cloud-wal-archive', inWordsOf('drop-in', error));
    return archiveExitCode(outcomeOfFailure(error, isTest), codes);
  }
}

async function archive(args: CloudArguments): Promise<void> {
  const path = args.operands[2] ?? hookFile(process.env);
  const isTest = args.has('--test');
  if (args.operands.length < 2 || args.operands.length > 3 || (path === undefined && !isTest)) {
    throw new BackupError(
      'usage',
      `expected a URL, a server name and one path, got ${args.operands.length} words`,
      {
        hint: `usage: ${USAGE}`,
      },
    );
  }
  requireNumbers(args);
  const deadlineMs = deadlineMsOf(args);
  const { findCloudPlace, openCloudPlace, testCloudPlace } = await import('./cloud-store.ts');
  const place = findCloudPlace(args.operands, args, process.env);
  const storage = walStorageOf(args, place.kind);
  if (isTest || path === undefined) {
    const { url } = await testCloudPlace(place, deadlineMs);
    return say(args, `${url} can be read`);
  }
  const name = requireWalName(basename(path));
  const pgWalDirectory = dirname(resolve(path));
  const { pushWal } = await import('../operations/archive-wal.ts');
  const { identityOfWalDirectory } = await import('./cloud-identity.ts');
  const repository = await openCloudPlace(place);
  const { outcome } = await pushWal(
    {
      ...storage,
      repository: () => Promise.resolve(repository),
      pgWalDirectory,
      identity: () => identityOfWalDirectory(pgWalDirectory, process.env['PGDATA']),
      alert: (message) => reportWalAlert('cloud-wal-archive', message),
      ...(deadlineMs === undefined ? {} : { deadlineMs }),
    },
    name,
    { signal: new AbortController().signal },
  );
  say(
    args,
    outcome === 'archived'
      ? `archived ${name} in ${repository.url}`
      : `${name} is in ${repository.url} already`,
  );
}

/** PostgreSQL takes 0 for "archived" and removes the file: what archives nothing must not answer a question of its. */
function requireNobodyWaits(args: CloudArguments): void {
  const path = args.operands[2];
  const archives = !['--help', '--version', '--test'].some((name) => args.has(name));
  if (archives || path === undefined) return;
  if (!existsSync(join(dirname(resolve(path)), 'archive_status', `${basename(path)}.ready`))) return;
  throw new BackupError(
    'usage',
    '--test, --help and --version archive nothing, and this file waits to be archived',
    {
      hint: 'take them out of archive_command; by hand, leave out the path',
    },
  );
}

/** A barman server runs the program as a hook before it archives, and tells the file by environment. */
function hookFile(environment: NodeJS.ProcessEnv): string | undefined {
  const isHook =
    environment['BARMAN_PHASE'] === 'pre' &&
    /^archive_(retry_)?script$/.test(environment['BARMAN_HOOK'] ?? '');
  return isHook ? environment['BARMAN_FILE'] : undefined;
}

function say(args: CloudArguments, text: string): void {
  if (args.has('--verbose')) process.stderr.write(`walkeep: cloud-wal-archive: ${text}\n`);
}

function help(): string {
  return `Usage: ${USAGE}

For archive_command, in the place of barman-cloud-wal-archive and with its arguments: stores one WAL file in a repository that
barman-cloud, CloudNativePG and walkeep read. Unlike barman-cloud it never replaces what is there: equal bytes under the same
name, with whatever compression, count as archived; other bytes are refused. WAL of another cluster is refused, too.

  DESTINATION_URL  s3://BUCKET/PREFIX, https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX, gs://BUCKET/PREFIX,
                   or file:///DIRECTORY
  SERVER_NAME      the folder below it
  WAL_PATH         %p

Options (the beginning of a long name does, where it is clear):
${describeOptions(ARCHIVE_OPTIONS)}

Credentials come from where barman-cloud looks, never from an argument:
  S3      AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, a profile, web identity, or the role of the host;
          AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_CA_BUNDLE
  Azure   AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_KEY, or the identity of the host; REQUESTS_CA_BUNDLE
  Google  GOOGLE_APPLICATION_CREDENTIALS, or the identity of the host; REQUESTS_CA_BUNDLE

Exit codes:
  0  the file is in the archive, durable, and equal
  1  it is not: PostgreSQL keeps it and asks again
  2  the command line is wrong: PostgreSQL keeps the file and asks again
With --exit-codes=barman: 0; 1 with -t, no such bucket; 2 with -t, no connection; 3 the command line; 4 everything else.
PostgreSQL treats all of them from 1 to 125 alike.
`;
}
