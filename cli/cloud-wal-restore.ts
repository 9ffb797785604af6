import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { BackupError } from '../core/errors.ts';
import { isSegmentName } from '../core/segment.ts';
import type { FetchedWal, FetchWalPorts } from '../operations/fetch-wal.ts';
import { describeOptions, parseCloudArguments, type CloudArguments } from './cloud-arguments.ts';
import { outcomeOfFailure, restoreExitCode, wantedExitCodes, type CloudOutcome } from './cloud-exit-codes.ts';
import { deadlineMsOf, requireNumbers, requireWalName, RESTORE_OPTIONS } from './cloud-options.ts';
import { walkeepVersion } from '../repository/walkeep-version.ts';
import { answerWhateverHappens, reportWalFailure } from './wal-context.ts';
import { inWordsOf } from './words-without-manifest.ts';

const COMMAND = 'walkeep-cloud-wal-restore';
const USAGE = `${COMMAND} [OPTIONS] SOURCE_URL SERVER_NAME WAL_NAME WAL_DEST`;
const SEE_HELP = `see ${COMMAND} --help`;
/** Added to the codes 1 to 4 on the way to `scripts/walkeep-cloud-wal-restore`: a Node that can't start exits 1 as well. */
const FOR_STARTER = 64;

/**
 * The drop-in for barman-cloud-wal-restore: fetches one file with its arguments and the credentials it would find, without
 * manifest, worker and Temporal (C3).
 *
 * @returns what `scripts/walkeep-cloud-wal-restore` makes the exit code of: 0 fetched, whole and verified; 65 proved absent; else
 *   200 or 202, on a standby 100 or 102; with barman's codes 64 more than those. It never throws
 */
export async function cloudWalRestoreMain(argv: readonly string[]): Promise<number> {
  const codes = wantedExitCodes(argv);
  // PostgreSQL runs restore_command in the data directory.
  const statusOf = (outcome: CloudOutcome): number => {
    const code = restoreExitCode(outcome, codes, existsSync('standby.signal'));
    return code > 0 && code <= 4 ? code + FOR_STARTER : code;
  };
  answerWhateverHappens(() => statusOf('failed'));
  let isTest = false;
  try {
    const args = parseCloudArguments(argv, RESTORE_OPTIONS, SEE_HELP);
    isTest = args.has('--test');
    return statusOf(await answer(args, codes === 'walkeep'));
  } catch (error) {
    reportWalFailure('cloud-wal-restore', inWordsOf('drop-in', error));
    return statusOf(outcomeOfFailure(error, isTest));
  }
}

async function answer(args: CloudArguments, isGuarded: boolean): Promise<CloudOutcome> {
  const fetches = !['--help', '--version', '--test'].some((name) => args.has(name));
  // PostgreSQL takes 0 without a file for the end of the WAL.
  if (!fetches && isGuarded && ['recovery.signal', 'standby.signal'].some((name) => existsSync(name))) {
    throw new BackupError(
      'usage',
      '--test, --help and --version fetch nothing, and a recovery waits here for a file',
      {
        hint: 'take them out of restore_command; by hand, run this from another directory',
      },
    );
  }
  if (args.has('--help')) process.stdout.write(help());
  else if (args.has('--version')) process.stdout.write(`${COMMAND} ${walkeepVersion()}\n`);
  else return restore(args, isGuarded);
  return 'done';
}

async function restore(args: CloudArguments, isGuarded: boolean): Promise<CloudOutcome> {
  const [url, server, name, destination, ...rest] = args.operands;
  const isTest = args.has('--test');
  const isWhole = name !== undefined && destination !== undefined && destination !== '';
  if (server === undefined || (!isWhole && !isTest) || rest.length > 0) {
    throw new BackupError(
      'usage',
      `expected a URL, a server name, the name of a file and a path, got ${args.operands.length} words`,
      { hint: `usage: ${USAGE}` },
    );
  }
  requireNumbers(args);
  const deadlineMs = deadlineMsOf(args);
  if (name !== undefined) requireWalName(name);
  const { findCloudPlace, openCloudPlace, testCloudPlace } = await import('./cloud-store.ts');
  const place = findCloudPlace([url ?? '', server], args, process.env);
  if (isTest || !isWhole) {
    const tested = await testCloudPlace(place, deadlineMs);
    say(args, `${tested.url} can be read`);
    return 'done';
  }
  const repository = await openCloudPlace(place, deadlineMs);
  const ports = {
    repository: () => Promise.resolve(repository),
    asksAgain: existsSync('standby.signal'),
    // barman's codes are for callers that are no recovery, such as those that look at a cluster that has just begun
    mayBeEmpty: !isGuarded,
    alert: (message: string) => void process.stderr.write(`walkeep: cloud-wal-restore: ${message}\n`),
    ...(deadlineMs === undefined ? {} : { deadlineMs }),
  };
  const found = await fetch(ports, name, resolve(destination), !args.has('--no-partial'));
  if (found.outcome === 'hole') {
    throw new BackupError('wal-hole', `${name} is not in ${repository.url}, but ${found.later} is`, {
      hint: 'recovery can not pass a hole; restore to a moment before it',
    });
  }
  say(
    args,
    found.outcome === 'fetched'
      ? `fetched ${name} from ${repository.url}`
      : `${name} is not in ${repository.url}`,
  );
  return found.outcome === 'fetched' ? 'done' : 'absent';
}

/**
 * barman hands out `SEGMENT.partial` for a segment, even where the whole one is there. Here the exact name comes first: only
 * where the whole segment is proved absent, and nothing behind it is there, does the partial have the last WAL of its timeline.
 */
async function fetch(
  ports: FetchWalPorts,
  name: string,
  destination: string,
  withPartial: boolean,
): Promise<FetchedWal> {
  const { fetchWal } = await import('../operations/fetch-wal.ts');
  const options = { signal: new AbortController().signal };
  const found = await fetchWal(ports, name, destination, options);
  if (found.outcome !== 'absent' || !withPartial || !isSegmentName(name)) return found;
  return fetchWal(ports, `${name}.partial`, destination, options);
}

function say(args: CloudArguments, text: string): void {
  if (args.has('--verbose')) process.stderr.write(`walkeep: cloud-wal-restore: ${text}\n`);
}

function help(): string {
  return `Usage: ${USAGE}

For restore_command, in the place of barman-cloud-wal-restore and with its arguments: fetches one WAL file from a repository
that barman-cloud, CloudNativePG or walkeep wrote. WAL_DEST appears whole and checked, or not at all.

  SOURCE_URL   s3://BUCKET/PREFIX, https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX, gs://BUCKET/PREFIX,
               or file:///DIRECTORY
  SERVER_NAME  the folder below it
  WAL_NAME     %f
  WAL_DEST     %p

Options (the beginning of a long name does, where it is clear):
${describeOptions(RESTORE_OPTIONS)}

Credentials come from where barman-cloud looks, never from an argument: see walkeep-cloud-wal-archive --help.

Exit codes:
    0        the file is in its place, whole and verified
    1        the archive was asked without any error, and has neither the file nor anything behind it, but others
  200 (100)  everything else: the store can't be reached, the file is damaged, a hole, nothing at all lies there; with
             standby.signal in the working directory 100
  202 (102)  the command line is wrong; with standby.signal 102

PostgreSQL takes every code from 1 to 125 for "there is no more WAL": a recovery ends there, and the database is opened for
writing. Over 125 it stops, loses nothing, and goes on where it was when it is started again. barman-cloud-wal-restore answers
4 when the store can't be reached: PostgreSQL then promotes with data missing, and without an error. So its codes are used only
where they are asked for, by callers that look at them and are not PostgreSQL:

  --exit-codes=barman   0 fetched; 1 not in the archive, or with -t no such bucket; 2 with -t, no connection; 3 the command
                        line; 4 everything else. Never in a restore_command.
`;
}
