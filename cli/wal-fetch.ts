import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { BackupError } from '../core/errors.ts';
import type { FetchSource } from '../operations/cluster-archive.ts';
import { deadlineOf, parseWalArguments, type WalArguments } from './wal-arguments.ts';
import { answerWhateverHappens, openWalContext, reportWalAlert, reportWalFailure } from './wal-context.ts';

const USAGE =
  'walkeep wal-fetch (--recovery FILE | --cluster [NAMESPACE/]NAME) [--state DIR] [--secrets DIR] [--deadline SECONDS] %f %p';
const FETCHED = 0;

/** PostgreSQL runs `restore_command` in the data directory. A standby asks again; a recovery must stop, not end. */
const failed = () => (existsSync('standby.signal') ? 100 : 200);
/** `deploy/walkeep-wal` wants another code: a Node that can't start exits 1 as well, and that is no absence. */
const absent = () => Number(process.env['WALKEEP_ABSENT_STATUS']) || 1;

/**
 * The full client of `restore_command`: fetches one file by itself, without worker and Temporal (C3).
 *
 * @param argv behind `wal-fetch`
 * @returns 0 fetched, whole and verified; 1 proved absent; else 200, or 100 on a standby; it never throws
 */
export async function walFetchMain(argv: readonly string[]): Promise<number> {
  answerWhateverHappens(failed);
  try {
    return await fetch(argv);
  } catch (error) {
    reportWalFailure('wal-fetch', error);
    return failed();
  }
}

async function fetch(argv: readonly string[]): Promise<number> {
  const args = parseWalArguments(
    argv,
    ['cluster', 'pgdata', 'state', 'secrets', 'recovery', 'deadline'],
    USAGE,
  );
  const [name, destination, ...rest] = args.operands;
  if (name === undefined || destination === undefined || rest.length > 0) {
    throw new BackupError('usage', 'expected the name of a file and one path', { hint: `usage: ${USAGE}` });
  }
  const deadlineMs = deadlineOf(args);
  const { fetchWal } = await import('../operations/fetch-wal.ts');
  const { repository, plan } = await openSource(args);
  const ports = {
    repository: () => Promise.resolve(repository),
    plan,
    asksAgain: existsSync('standby.signal'),
    alert: (message: string) => reportWalAlert('wal-fetch', message),
    ...(deadlineMs === undefined ? {} : { deadlineMs }),
  };
  const found = await fetchWal(ports, name, resolve(destination), { signal: new AbortController().signal });
  if (found.outcome === 'fetched') return FETCHED;
  if (found.outcome === 'absent') return absent();
  throw new BackupError('wal-hole', `${name} is not in ${repository.url}, but ${found.later} is`, {
    hint: 'recovery can not pass a hole; restore to a moment before it, or accept it as the end when you restore',
  });
}

async function openSource(args: WalArguments): Promise<FetchSource> {
  const context = await openWalContext(args);
  if (args.recovery !== undefined) return context.openRecoverySource(resolve(args.recovery));
  if (args.cluster !== undefined) return context.openStandbySource(args.cluster);
  throw new BackupError('usage', 'neither --recovery nor --cluster is given', { hint: `usage: ${USAGE}` });
}
