import { realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { BackupError } from '../core/errors.ts';
import { deadlineOf, parseWalArguments } from './wal-arguments.ts';
import { answerWhateverHappens, openWalContext, reportWalAlert, reportWalFailure } from './wal-context.ts';

const USAGE =
  'walkeep wal-push --cluster [NAMESPACE/]NAME --pgdata DIR [--state DIR] [--secrets DIR] [--deadline SECONDS] %p';
/** PostgreSQL counts 1 to 125 as a failure of the command; from 126 on it takes it for its own. */
const NOT_ARCHIVED = 1;

/**
 * The full client of `archive_command`: archives one file by itself, without worker and Temporal.
 *
 * @param argv behind `wal-push`
 * @returns 0 when the file is in the archive, else 1; it never throws
 */
export async function walPushMain(argv: readonly string[]): Promise<number> {
  answerWhateverHappens(() => NOT_ARCHIVED);
  try {
    await push(argv);
    return 0;
  } catch (error) {
    reportWalFailure('wal-push', error);
    return NOT_ARCHIVED;
  }
}

async function push(argv: readonly string[]): Promise<void> {
  const args = parseWalArguments(argv, ['cluster', 'pgdata', 'state', 'secrets', 'deadline'], USAGE);
  const [path, ...rest] = args.operands;
  const { cluster, pgdata } = args;
  if (path === undefined || rest.length > 0 || cluster === undefined || pgdata === undefined) {
    throw new BackupError('usage', 'expected a cluster, a data directory and one path', {
      hint: `usage: ${USAGE}`,
    });
  }
  const pgWalDirectory = join(resolve(pgdata), 'pg_wal');
  await requireInPgWal(path, pgWalDirectory);

  const deadlineMs = deadlineOf(args);
  const { pushWal } = await import('../operations/archive-wal.ts');
  const { readControlData } = await import('../postgres/control-data.ts');
  const target = await (await openWalContext(args)).openArchive(cluster);
  await pushWal(
    {
      ...target.storage,
      repository: () => Promise.resolve(target.repository),
      pgWalDirectory,
      identity: () => readControlData(pgdata),
      alert: (message) => reportWalAlert('wal-push', message),
      ...(deadlineMs === undefined ? {} : { deadlineMs }),
    },
    basename(path),
    { signal: new AbortController().signal },
  );
}

/** `%p` is relative to the data directory, where PostgreSQL runs the command; only files of its `pg_wal` are archived. */
async function requireInPgWal(path: string, pgWalDirectory: string): Promise<void> {
  const [given, expected] = await Promise.all([dirname(resolve(path)), pgWalDirectory].map(realDirectory));
  if (given === expected) return;
  throw new BackupError('config-invalid', `${path} is not a file of ${pgWalDirectory}`, {
    hint: 'archive_command runs in the data directory and passes %p; compare --pgdata with data_directory of the server',
  });
}

async function realDirectory(path: string): Promise<string> {
  return realpath(path).catch((error: unknown) => {
    throw new BackupError('config-invalid', `no directory ${path}`, {
      cause: error,
      hint: 'archive_command runs in the data directory and passes %p; compare --pgdata with data_directory of the server',
    });
  });
}
